"""What dense detectors share: predictions at the points of several levels as one list of points, and the first scores.

Legend: B batch, C channels, H W height and width, L level, A points of all levels.
"""

import math
from collections.abc import Sequence

import torch
from torch import nn

PRIOR_PROBABILITY = 0.01  # of each class at each point before training; arXiv 1708.02002, section 4.1


def as_points(level: torch.Tensor) -> torch.Tensor:
    """One level's map (B, C, H, W) as points, rows before columns: (B, H * W, C)."""
    return level.permute(0, 2, 3, 1).flatten(1, 2)


def points_of_levels(levels: Sequence[torch.Tensor]) -> torch.Tensor:
    """The maps (B, C, H, W) of all levels as points, level after level: (B, A, C)."""
    return torch.cat([as_points(level) for level in levels], dim=1)


def sizes_of_levels(levels: Sequence[torch.Tensor]) -> tuple[tuple[int, int], ...]:
    """The (height, width) of each level's map."""
    return tuple((level.shape[2], level.shape[3]) for level in levels)


def prior_bias(probability: float = PRIOR_PROBABILITY) -> float:
    """The bias by which a sigmoid without input gives `probability`."""
    return -math.log((1 - probability) / probability)


def set_prior(conv: nn.Conv2d, probability: float = PRIOR_PROBABILITY) -> None:
    """Lets every class of the prediction `conv` start with `probability`, as far as its weights are near 0."""
    assert conv.bias is not None, "a prediction has a bias"
    nn.init.constant_(conv.bias, prior_bias(probability))


def check_multiple(images: torch.Tensor, multiple: int) -> None:
    """Refuses images that the strides of a network do not divide.

    Raises:
        ValueError: a side of `images` (B, C, H, W) is no multiple of `multiple`, the largest stride.
    """
    height, width = images.shape[2:]
    if height % multiple or width % multiple:
        raise ValueError(f"images of {height} x {width} pixels: resize or pad both sides to multiples of {multiple}")
