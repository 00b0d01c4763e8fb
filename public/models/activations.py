"""Activations that learn, for each channel, how far to switch between a linear and a non-linear unit.

Paper: Activate or Not: Learning Customized Activation, arXiv 2009.04759.
Facts beyond the paper, from the authors' published code: p1 and p2 start as draws from N(0, 1), ACON-C's beta as 1;
Meta-ACON's two layers have no bias, no BatchNorm and no activation between them, and C // 16 channels in the middle.

Legend: B batch, C channels, H W height and width.
"""

import torch
from torch import nn


class AconC(nn.Module):
    """(p1 - p2) x * sigmoid(beta (p1 - p2) x) + p2 x, with p1, p2 and beta of each channel learnt.

    (B, C, H, W) -> the same.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.p1 = nn.Parameter(torch.randn(1, channels, 1, 1))
        self.p2 = nn.Parameter(torch.randn(1, channels, 1, 1))
        self.beta = nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return acon(x, self.p1, self.p2, self.beta)


class MetaAcon(nn.Module):
    """ACON whose beta follows from the picture: sigmoid of two linear layers of the channel means.

    (B, C, H, W) -> the same.

    Raises:
        ValueError: fewer channels than `reduction`, which would leave none in the middle.
    """

    def __init__(self, channels: int, *, reduction: int = 16):
        super().__init__()
        middle = channels // reduction
        if middle < 1:
            raise ValueError(f"Meta-ACON over {channels} channels has none in its middle (reduction {reduction})")
        self.p1 = nn.Parameter(torch.randn(1, channels, 1, 1))
        self.p2 = nn.Parameter(torch.randn(1, channels, 1, 1))
        self.fc1 = nn.Conv2d(channels, middle, 1, bias=False)
        self.fc2 = nn.Conv2d(middle, channels, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        beta = self.fc2(self.fc1(x.mean((2, 3), keepdim=True))).sigmoid()  # (B, C, 1, 1)
        return acon(x, self.p1, self.p2, beta)


def acon(x: torch.Tensor, p1: torch.Tensor, p2: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
    """(p1 - p2) x * sigmoid(beta (p1 - p2) x) + p2 x; all broadcast against x (B, C, H, W)."""
    difference = (p1 - p2) * x
    return difference * (beta * difference).sigmoid() + p2 * x
