"""Attention over channels, as backbones are built with it: squeeze and excitation, Coordinate Attention.

Papers: Squeeze-and-Excitation Networks, arXiv 1709.01507; Coordinate Attention for Efficient Mobile Network Design,
arXiv 2103.02907.  Facts beyond the second, from its authors' published code: all three convolutions have a bias, also the
one before BatchNorm; at least 8 channels in the middle; the activation is h-swish.
Deviation: means instead of adaptive average pooling, which has no deterministic backward on CUDA; the values are the same.

Legend: B batch, C channels, M channels in the middle, H W height and width.
"""

from collections.abc import Callable

import torch
from torch import nn

from public.models.layers import conv_and_activation, fold_batch_norm, make_activation

MIN_MIDDLE = 8  # channels that Coordinate Attention has in its middle at least


class BiasedConvBNAct(nn.Module):
    """1x1 convolution with bias, BatchNorm, activation: what attention blocks squeeze with.

    The bias is redundant before BatchNorm, but released weights have it.  (B, in_channels, H, W) -> (B, out_channels, H, W)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        activation: str,
        bn_eps: float = 1e-5,
        bn_momentum: float = 0.1,
    ):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1)
        self.bn = nn.BatchNorm2d(out_channels, eps=bn_eps, momentum=bn_momentum)
        self.act = make_activation(activation, out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.bn(self.conv(x)))

    def fused(self) -> nn.Sequential:
        """Convolution with bias, then activation."""
        weight, bias = fold_batch_norm(self.conv, self.bn)
        return conv_and_activation(self.conv, weight, bias, self.act)


class SqueezeExcitation(nn.Module):
    """Each channel times a gate, which two layers with biases compute from the means of all channels.

    (B, C, H, W) -> the same.

    Args:
        squeezed: channels of the middle.
        activation: makes the function after the first layer.
        gate: makes the function after the second, whose values are in 0 to 1.
    """

    def __init__(
        self,
        channels: int,
        squeezed: int,
        activation: Callable[[], nn.Module] = nn.ReLU,
        gate: Callable[[], nn.Module] = nn.Sigmoid,
    ):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.act = activation()
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.gate = gate()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        means = x.mean((2, 3), keepdim=True)  # (B, C, 1, 1)
        return x * self.gate(self.fc2(self.act(self.fc1(means))))


class CoordinateAttention(nn.Module):
    """Each value times a factor of its channel and row, and a factor of its channel and column, both in (0, 1).

    The means of all rows and of all columns go through one shared convolution to few channels, side by side, then apart
    through one convolution each back to all channels.  (B, C, H, W) -> the same.

    Args:
        channels: C.
        reduction: C / M, unless M would be less than MIN_MIDDLE.
    """

    def __init__(self, channels: int, *, reduction: int = 32, bn_eps: float = 1e-5, bn_momentum: float = 0.1):
        super().__init__()
        middle = max(MIN_MIDDLE, channels // reduction)
        self.shared = BiasedConvBNAct(channels, middle, activation="hardswish", bn_eps=bn_eps, bn_momentum=bn_momentum)
        self.rows = nn.Conv2d(middle, channels, 1)
        self.columns = nn.Conv2d(middle, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        of_rows = x.mean(3, keepdim=True)  # (B, C, H, 1)
        of_columns = x.mean(2, keepdim=True).transpose(2, 3)  # (B, C, W, 1)
        middle = self.shared(torch.cat([of_rows, of_columns], dim=2))  # (B, M, H + W, 1)
        rows, columns = middle.split([x.shape[2], x.shape[3]], dim=2)
        row_factors = self.rows(rows).sigmoid()  # (B, C, H, 1)
        column_factors = self.columns(columns.transpose(2, 3)).sigmoid()  # (B, C, 1, W)
        return x * row_factors * column_factors


def check_attention(name: str) -> str:
    """`name`, the keyword `attention` of a backbone, if it is "none" or "coordinate".

    Raises:
        ValueError: any other name.
    """
    if name not in ("none", "coordinate"):
        raise ValueError(f"unknown attention {name!r}; write 'none' (the published network) or 'coordinate'")
    return name
