"""What all backbones share: a chain of stages that gives feature maps, and the classifier on top of it.

A family's file in `public/models/backbones/` builds a stem and stages; `Backbone` runs them and hands out the maps that a
detector asks for, `Classifier` turns the last map into logits.  Their parameters are called `stem.*`, `stages.*` in the
backbone, and `backbone.*`, `final.*`, `fc.*` in the classifier, whatever the family, so a classifier's weights fit a
detector that has the same backbone.

Legend: B batch, C channels, H W height and width, F features, K classes.
"""

from collections.abc import Sequence

import torch
from torch import nn


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
            ValueError: a stride that no stage has, naming those that there are.
        """
        unknown = [stride for stride in out_strides if stride not in self.strides]
        if unknown or not out_strides:
            raise ValueError(f"no feature map of stride {unknown} can be had; this backbone has strides {self.strides}")
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
    """

    class_layers = ("fc.",)  # what another number of classes changes, by the beginning of its names
    training_only = ()  # children that `fuse` leaves out

    def __init__(self, *, backbone: Backbone, final: nn.Module, num_features: int, num_classes: int, dropout: float):
        super().__init__()
        self.backbone = backbone
        self.input_layer = f"backbone.{backbone.input_layer}"  # the convolution that reads the images
        self.final = final
        self.dropout = nn.Dropout(dropout)
        self.num_features = num_features
        self.num_classes = num_classes
        self.fc = nn.Linear(num_features, num_classes)

    def reset_classifier(self, num_classes: int) -> None:
        """A new last layer for another number of classes, with torch's initial values, on the same device."""
        self.num_classes = num_classes
        self.fc = nn.Linear(self.num_features, num_classes, device=self.fc.weight.device, dtype=self.fc.weight.dtype)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.dropout(self.final(self.backbone(images)[-1])))
