"""What all backbones share: a chain of stages that gives feature maps, and the classifier on top of it.

A family's file in `public/models/backbones/` builds a stem and stages; `Backbone` runs them and hands out the maps that a
detector asks for, `Classifier` turns the last map into logits.  Their parameters are called `stem.*`, `stages.*` in the
backbone, and `backbone.*`, `final.*`, `fc.*` in the classifier, whatever the family, so a classifier's weights fit a
detector that has the same backbone.

Legend: B batch, C channels, H W height and width, F features, K classes.
"""

from collections.abc import Sequence
from numbers import Integral

import torch
from torch import nn


def check_num_classes(num_classes: int) -> int:
    """`num_classes`, if a classifier can have so many.

    Raises:
        ValueError: it is no whole number, or less than 1.
    """
    if not isinstance(num_classes, Integral) or num_classes < 1:
        raise ValueError(
            f"num_classes = {num_classes!r}: a whole number, at least 1; for feature maps without a class layer write "
            "create_model(..., features_only=True)"
        )
    return num_classes


def check_drop_path(drop_path: float) -> float:
    """`drop_path`, the rate of stochastic depth, if it is a probability and not a certainty.

    Raises:
        ValueError: it is not within [0, 1).
    """
    if not 0 <= drop_path < 1:
        raise ValueError(f"drop_path={drop_path}: a probability, at least 0 and below 1")
    return drop_path


class Backbone(nn.Module):
    """Images (B, in_chans, H, W) -> the feature maps of `out_strides`, finest first, as a list.

    Args:
        stem: images -> what the first stage takes.
        stages: one after the other; each gives a map.
        channels: of each stage's map.
        strides: of each stage's map against the images: 4, 8, 16, 32 for most families, rising.
        input_layer: the name, inside the backbone, of the convolution that reads the images.

    Attributes:
        out_channels, out_strides: of the maps that it returns, those of all stages at first.
    """

    def __init__(
        self,
        *,
        stem: nn.Module,
        stages: Sequence[nn.Module],
        channels: Sequence[int],
        strides: Sequence[int],
        input_layer: str,
    ):
        super().__init__()
        if not len(stages) == len(channels) == len(strides):
            raise ValueError(
                f"{len(stages)} stages, {len(channels)} channels and {len(strides)} strides do not belong together"
            )
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.channels, self.strides = tuple(channels), tuple(strides)
        self.input_layer = input_layer
        self.out_channels, self.out_strides = self.channels, self.strides

    def select(self, out_strides: Sequence[int]) -> "Backbone":
        """Leaves the maps of `out_strides` only, and takes out the stages behind the last of them; returns itself.

        Raises:
            ValueError: no stride at all, one twice, or one that no stage has, naming those that there are.
        """
        unknown = [stride for stride in out_strides if stride not in self.strides]
        if unknown:
            raise ValueError(f"no feature map of stride {unknown} can be had; this backbone has strides {self.strides}")
        if not out_strides or len(set(out_strides)) < len(out_strides):
            raise ValueError(
                f"out_strides={tuple(out_strides)}: name at least one stride, and each once; this backbone has strides "
                f"{self.strides}"
            )
        self.out_strides = tuple(sorted(out_strides))
        self.out_channels = tuple(self.channels[self.strides.index(stride)] for stride in self.out_strides)
        num_stages = self.strides.index(self.out_strides[-1]) + 1
        self.stages = self.stages[:num_stages]
        self.channels, self.strides = self.channels[:num_stages], self.strides[:num_stages]
        return self

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        x = self.stem(images)
        maps = []
        for stage, stride in zip(self.stages, self.strides):
            x = stage(x)
            if stride in self.out_strides:
                maps.append(x)
        return maps


class GlobalAveragePool(nn.Module):
    """(B, C, H, W) -> (B, C): the mean over H and W, which has a deterministic backward on every device."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


class Classifier(nn.Module):
    """Images (B, in_chans, H, W) -> logits (B, K).

    Args:
        backbone: a `Backbone`; its last map is classified.
        final: the last map (B, C, h, w) -> features (B, F); most families: GlobalAveragePool().
        num_features: F.
        num_classes: K.
        dropout: probability on the features, in training.

    Raises:
        ValueError: `num_classes` is less than 1, or `dropout` is no probability.
    """

    class_layers = ("fc.",)  # what another number of classes changes, by the beginning of its names
    training_only = ()  # children that `fuse` leaves out

    def __init__(self, *, backbone: Backbone, final: nn.Module, num_features: int, num_classes: int, dropout: float):
        check_num_classes(num_classes)
        super().__init__()
        self.backbone = backbone
        self.input_layer = f"backbone.{backbone.input_layer}"  # the convolution that reads the images
        self.final = final
        self.dropout = nn.Dropout(dropout)
        self.num_features = num_features
        self.num_classes = num_classes
        self.fc = nn.Linear(num_features, num_classes)

    def reset_classifier(self, num_classes: int) -> None:
        """A new last layer for another number of classes, with torch's initial values, on the same device.

        Raises:
            ValueError: `num_classes` is less than 1.
        """
        self.num_classes = check_num_classes(num_classes)
        self.fc = nn.Linear(self.num_features, num_classes, device=self.fc.weight.device, dtype=self.fc.weight.dtype)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.dropout(self.final(self.backbone(images)[-1])))
