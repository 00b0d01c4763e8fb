"""What one-stage detectors on any backbone share: backbone, neck and head in a row, and a backbone whose BatchNorm rests."""

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from torch import nn

from public.settings import OneOf

# What training does with the BatchNorm of a backbone: everything; nothing but scale and shift; nothing.
BATCHNORM_MODES = ("trained", "fixed_statistics", "frozen")
BatchNormMode = Annotated[str, OneOf(BATCHNORM_MODES)]


class OneStageDetector(nn.Module):
    """Normalised images (B, in_chans, H, W) -> the raw outputs of `head(neck(backbone(images)), image_size)`.

    Args:
        backbone: its maps are the neck's.
        neck: list of maps -> list of maps.
        head: (list of maps, (H, W) of the images) -> a NamedTuple of raw outputs.
        num_classes: K.
        class_layers: the parameters that another number of classes changes, by the beginning of their names.
        rows_per_class: rows that each class has in these, such as the anchors of a cell.
        backbone_batchnorm: one of BATCHNORM_MODES: "trained"; "fixed_statistics", normalised by the running statistics,
            which stay as they are, with scale and shift trained; "frozen", scale and shift fixed too.

    Attributes:
        input_layer: the convolution that reads the images.
        training_only: parts that inference does without: none.
    """

    def __init__(
        self,
        *,
        backbone: Any,
        neck: nn.Module,
        head: nn.Module,
        num_classes: int,
        class_layers: Sequence[str],
        rows_per_class: int,
        backbone_batchnorm: str,
    ):
        super().__init__()
        if backbone_batchnorm not in BATCHNORM_MODES:
            raise ValueError(f"backbone_batchnorm={backbone_batchnorm!r}: write one of {', '.join(BATCHNORM_MODES)}")
        self.backbone = backbone
        self.neck = neck
        self.head = head
        self.num_classes = num_classes
        self.class_layers = tuple(class_layers)
        self.rows_per_class = rows_per_class
        self.backbone_batchnorm = backbone_batchnorm
        self.input_layer = f"backbone.{backbone.input_layer}"
        self.training_only: tuple[str, ...] = ()
        if backbone_batchnorm == "frozen":
            for layer in self._batchnorm():
                layer.requires_grad_(False)
        self.train()

    def _batchnorm(self) -> list[nn.Module]:
        return [module for module in self.backbone.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]

    def train(self, mode: bool = True) -> "OneStageDetector":
        """As for any module; but BatchNorm whose statistics are fixed stays in eval mode."""
        super().train(mode)
        if mode and self.backbone_batchnorm != "trained":
            for layer in self._batchnorm():
                layer.eval()
        return self

    def forward(self, images: torch.Tensor) -> Any:
        return self.head(self.neck(self.backbone(images)), (images.shape[2], images.shape[3]))
