"""YOLOF's dilated encoder: one map, seen through windows of several sizes.

Paper: You Only Look One-level Feature, arXiv 2103.09460, section 4.1.
Weights: inside MMDetection's YOLOF, by `public.weights.detectors.yolof`.
Facts beyond the paper, from MMDetection: the two convolutions of the projector have a bias and BatchNorm but no activation;
all three of a block have an activation, and nothing follows the sum.
Deviations: none.

Legend: B batch, C channels, H W height and width.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from public.models.layers import ConvBNAct
from public.models.towers import initialise


class DilatedBlock(nn.Module):
    """A residual bottleneck whose 3x3 convolution has holes: (B, channels, H, W) -> the same."""

    def __init__(self, channels: int, inner_channels: int, *, dilation: int, activation: str):
        super().__init__()
        self.conv1 = ConvBNAct(channels, inner_channels, 1, activation=activation)
        self.conv2 = ConvBNAct(inner_channels, inner_channels, 3, dilation=dilation, activation=activation)
        self.conv3 = ConvBNAct(inner_channels, channels, 1, activation=activation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv3(self.conv2(self.conv1(x)))


class DilatedEncoder(nn.Module):
    """A list of one map (B, in_channels, H, W) -> a list of one map (B, out_channels, H, W).

    Args:
        in_channels: of the backbone's map.
        block_channels: inside the residual blocks.
        dilations: of the blocks, one after the other.
        activation: a name of `public.models.layers`, in the blocks.
    """

    def __init__(
        self, *, in_channels: int, out_channels: int, block_channels: int, dilations: Sequence[int], activation: str
    ):
        super().__init__()
        self.lateral = ConvBNAct(in_channels, out_channels, 1, activation="none", bias=True)
        self.output = ConvBNAct(out_channels, out_channels, 3, activation="none", bias=True)
        self.blocks = nn.Sequential(
            *(
                DilatedBlock(out_channels, block_channels, dilation=dilation, activation=activation)
                for dilation in dilations
            )
        )
        self.out_channels = out_channels
        self._initialise()

    def _initialise(self) -> None:
        """MMDetection's: the projector by Xavier's bounds of the fan-in with biases 0, the blocks N(0, 0.01)."""
        for projection in (self.lateral, self.output):
            nn.init.kaiming_uniform_(projection.conv.weight, a=1)
            nn.init.zeros_(cast(torch.Tensor, projection.conv.bias))
        for module in self.blocks.modules():
            if isinstance(module, nn.Conv2d):
                initialise(module)

    def forward(self, maps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        (x,) = maps
        return [self.blocks(self.output(self.lateral(x)))]
