"""PPYOLOE, an anchor-free one-stage detector.

Paper: PP-YOLOE: An evolved version of YOLO, arXiv 2203.16250.
Weights: PaddleDetection's ppyoloe_crn_{s,m,l,x} and ppyoloe_plus_crn_{s,m,l,x}, by
`public.weights.detectors.ppyoloe.rename_ppyoloe`.  The tiny model with its auxiliary head stands in `ppyoloe_aux.py`.
Deviations:
- The head returns raw outputs in training and inference alike; decoding stands in `public.decoders.ppyoloe`.  So the
  original's fixed projection `proj_conv` (the numbers 0..reg_max) is no part of the model.
- BatchNorm's running variance, as in `public.models.backbones.cspresnet`.

Legend: B batch, C channels, H W height and width, A anchor points of all levels, K classes, R = reg_max + 1 bins.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from public.models.dense import check_multiple, points_of_levels, set_prior, sizes_of_levels
from public.models.layers import ConvBNAct, RepVGGBlock, initialise_convs


class PPYOLOEOutputs(NamedTuple):
    """Raw outputs of the head; points level by level from the largest stride on, rows before columns.

    `class_logits` (B, A, K); `box_logits` (B, A, 4 * R), sides left, top, right, bottom, the bins of a side beside each
    other; `level_sizes`, the (height, width) of each level.
    """

    class_logits: torch.Tensor
    box_logits: torch.Tensor
    level_sizes: tuple[tuple[int, int], ...]


class ESEAttention(nn.Module):
    """Feature times the sigmoid of one linear layer of its channel means, then a convolution.

    The convolution is 1x1 ("conv"), or a RepVGG block ("repvgg", in the tiny model).
    feature (B, C, H, W), mean (B, C, 1, 1) -> (B, C, H, W)
    """

    def __init__(self, channels: int, *, activation: str, kind: str):
        super().__init__()
        self.fc = nn.Conv2d(channels, channels, 1)
        self.conv: nn.Module
        if kind == "conv":
            self.conv = ConvBNAct(channels, channels, 1, activation=activation)
        elif kind == "repvgg":
            self.conv = RepVGGBlock(channels, channels, activation=activation, use_alpha=False)
        else:
            raise ValueError(f"unknown convolution {kind!r} of the head's attention; write conv or repvgg")

    def forward(self, feature: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        return self.conv(feature * self.fc(mean).sigmoid())


class PPYOLOEHead(nn.Module):
    """Two branches a level, one for the classes and one for the distribution of the four distances.

    Args:
        in_channels: of the neck's features, deepest first.
        num_classes: K.
        reg_max: the largest distance, in strides, that a bin stands for.
        activation: a name of `public.models.layers.ACTIVATIONS`.
        attention: the convolution of each ESEAttention, "conv" or "repvgg".
    """

    def __init__(
        self, *, in_channels: tuple[int, ...], num_classes: int, reg_max: int, activation: str, attention: str
    ):
        super().__init__()
        settings: dict[str, Any] = {"activation": activation, "kind": attention}
        self.stem_cls = nn.ModuleList(ESEAttention(channels, **settings) for channels in in_channels)
        self.stem_reg = nn.ModuleList(ESEAttention(channels, **settings) for channels in in_channels)
        self.pred_cls = nn.ModuleList(nn.Conv2d(channels, num_classes, 3, padding=1) for channels in in_channels)
        self.pred_reg = nn.ModuleList(nn.Conv2d(channels, 4 * (reg_max + 1), 3, padding=1) for channels in in_channels)

    def initialise(self) -> None:
        """Every class starts with the prior probability, every distribution flat."""
        for attention in (*self.stem_cls, *self.stem_reg):
            nn.init.normal_(attention.fc.weight, std=0.001)
        for conv in cast(Iterable[nn.Conv2d], self.pred_cls):
            nn.init.zeros_(conv.weight)
            set_prior(conv)
        for conv in cast(Iterable[nn.Conv2d], self.pred_reg):
            nn.init.zeros_(conv.weight)
            nn.init.ones_(cast(torch.Tensor, conv.bias))

    def forward(self, features: list[torch.Tensor]) -> PPYOLOEOutputs:
        class_maps, box_maps = [], []
        for i, feature in enumerate(features):
            mean = feature.mean((2, 3), keepdim=True)  # (B, C, 1, 1)
            class_maps.append(self.pred_cls[i](self.stem_cls[i](feature, mean) + feature))
            box_maps.append(self.pred_reg[i](self.stem_reg[i](feature, mean)))
        return PPYOLOEOutputs(points_of_levels(class_maps), points_of_levels(box_maps), sizes_of_levels(features))


class PPYOLOEModel(nn.Module):
    """Normalised images (B, in_chans, H, W), H and W multiples of the largest stride -> PPYOLOEOutputs.

    `class_layers` and `input_layer` say what another number of classes or of channels changes; `training_only` names
    the parts that inference does without.
    The initial values are those of the original: see `initialise_convs` and `PPYOLOEHead.initialise`; without
    `initialise_backbone` the backbone keeps the values that it has.
    """

    def __init__(
        self,
        *,
        backbone: nn.Module,
        neck: nn.Module,
        head: PPYOLOEHead,
        strides: tuple[int, ...],
        num_classes: int,
        initialise_backbone: bool,
    ):
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.head = head
        self.strides = tuple(strides)
        self.num_classes = num_classes
        # what another number of classes changes, by the beginning of its names
        self.class_layers: tuple[str, ...] = ("head.pred_cls.",)
        self.input_layer = f"backbone.{backbone.input_layer}"  # the convolution that reads the images
        self.training_only: tuple[str, ...] = ()  # children that `fuse` leaves out
        for part in (backbone, neck, head) if initialise_backbone else (neck, head):
            initialise_convs(part)
        self.head.initialise()

    def forward(self, images: torch.Tensor) -> Any:
        check_multiple(images, max(self.strides))
        return self.head(self.neck(self.backbone(images)))
