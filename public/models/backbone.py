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

from public.models.recompute import recomputed


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
        recomputes: whether training keeps what lies between stem and stages only: see `public.models.recompute`.
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
        self.recomputes = False
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
        recomputes = self.recomputes and self.training and torch.is_grad_enabled()
        x = recomputed(self.stem, images) if recomputes else self.stem(images)
        maps = []
        for stage, stride in zip(self.stages, self.strides):
            x = recomputed(stage, x) if recomputes else stage(x)
            if stride in self.out_strides:
                maps.append(x)
        return maps


class GlobalAveragePool(nn.Module):
    """(B, C, H, W) -> (B, C): the mean over H and W, which has a deterministic backward on every device."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))
