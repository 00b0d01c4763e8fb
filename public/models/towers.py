"""Towers: the convolutions between a neck and the predictions of a head, the same for every level.

Papers: RetinaNet, arXiv 1708.02002, section 4, four 3x3 convolutions with ReLU; FCOS, arXiv 1904.01355, puts GroupNorm
(arXiv 1803.08494) between them.

Legend: B batch, C channels, H W height and width.
"""

from collections import OrderedDict

from torch import nn

INITIAL_STD = 0.01  # of the weights of towers and predictions; arXiv 1708.02002, section 4.1


class TowerLayer(nn.Sequential):
    """3x3 convolution, GroupNorm where there are groups, ReLU.  (B, in_channels, H, W) -> (B, out_channels, H, W)

    The convolution has its initial values.

    Args:
        groups: of GroupNorm; None: no normalisation.
        use_bias: whether the convolution has a bias.
    """

    def __init__(self, in_channels: int, out_channels: int, *, groups: int | None, use_bias: bool):
        conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=use_bias)
        initialise(conv)
        layers: OrderedDict[str, nn.Module] = OrderedDict(conv=conv)
        if groups is not None:
            layers["norm"] = nn.GroupNorm(groups, out_channels)
        layers["act"] = nn.ReLU()
        super().__init__(layers)


def tower(channels: int, *, num_layers: int, groups: int | None, use_bias: bool) -> nn.Sequential:
    """`num_layers` TowerLayers of `channels` in a row."""
    return nn.Sequential(*(TowerLayer(channels, channels, groups=groups, use_bias=use_bias) for _ in range(num_layers)))


def prediction(in_channels: int, out_channels: int) -> nn.Conv2d:
    """The 3x3 convolution that predicts `out_channels` numbers a cell, with initial values."""
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
    initialise(conv)
    return conv


def initialise(conv: nn.Conv2d) -> None:
    """Weights N(0, INITIAL_STD ** 2), bias 0."""
    nn.init.normal_(conv.weight, std=INITIAL_STD)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


def check_groups(channels: int, groups: int, *, channels_field: str, groups_field: str) -> None:
    """Refuses settings whose channels GroupNorm cannot divide.

    Raises:
        ValueError: naming both fields and their values.
    """
    if channels % groups:
        raise ValueError(
            f"{channels_field} = {channels} is no multiple of {groups_field} = {groups}, the groups of GroupNorm; change "
            "one of them"
        )
