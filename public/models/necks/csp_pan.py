"""CSP-PAN, the neck of PPYOLOE: a top-down then a bottom-up path of CSP stages.

Paper: PP-YOLOE: An evolved version of YOLO, arXiv 2203.16250, section 2.2; paths after PANet (arXiv 1803.01534).
Weights: PaddleDetection's CustomCSPPAN inside its PPYOLOE checkpoints, by `public.weights.detectors.ppyoloe.rename_ppyoloe`.
Deviations: BatchNorm's running variance, as in `public.models.backbones.cspresnet`.

Legend: B batch, C channels, H W height and width.
"""

from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from public.models.backbones.cspresnet import RepBasicBlock
from public.models.layers import ConvBNAct

SPP_KERNEL_SIZES = (5, 9, 13)


class SPP(nn.Module):
    """The input beside its max pools of three sizes, mixed by a 1x1 convolution.  (B, C, H, W) -> the same."""

    def __init__(self, channels: int, *, activation: str):
        super().__init__()
        self.pools = nn.ModuleList(nn.MaxPool2d(size, stride=1, padding=size // 2) for size in SPP_KERNEL_SIZES)
        self.conv = ConvBNAct(channels * (1 + len(SPP_KERNEL_SIZES)), channels, 1, activation=activation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(torch.cat([x, *(pool(x) for pool in self.pools)], dim=1))


class CSPStage(nn.Module):
    """Two branches of half the width, the second through blocks without shortcut, joined by a 1x1 convolution.

    With `use_spp` the pooling pyramid stands after the middle block.  (B, in_channels, H, W) -> (B, out_channels, H, W)
    """

    def __init__(self, in_channels: int, out_channels: int, *, num_blocks: int, activation: str, use_spp: bool):
        super().__init__()
        half = out_channels // 2
        self.conv1 = ConvBNAct(in_channels, half, 1, activation=activation)
        self.conv2 = ConvBNAct(in_channels, half, 1, activation=activation)
        self.blocks = nn.Sequential()
        for i in range(num_blocks):
            # No checkpoint of the COCO models has an alpha in the neck.
            block = RepBasicBlock(half, activation=activation, use_shortcut=False, use_alpha=False)
            self.blocks.add_module(str(i), block)
            if use_spp and i == (num_blocks - 1) // 2:
                self.blocks.add_module("spp", SPP(half, activation=activation))
        self.conv3 = ConvBNAct(2 * half, out_channels, 1, activation=activation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv3(torch.cat([self.conv1(x), self.blocks(self.conv2(x))], dim=1))


class CSPPAN(nn.Module):
    """Features of strides 8, 16, 32 -> features of strides 32, 16, 8 (deepest first), of `out_channels` channels.

    Args:
        in_channels: of the backbone's features, shallowest first.
        out_channels: of the results, deepest first.
        num_blocks: in each CSP stage.
        activation: a name of `public.models.layers.ACTIVATIONS`.
    """

    def __init__(
        self, *, in_channels: tuple[int, ...], out_channels: tuple[int, ...], num_blocks: int, activation: str
    ):
        super().__init__()
        if len(in_channels) != len(out_channels):
            raise ValueError(
                f"CSPPAN: {len(in_channels)} levels in but {len(out_channels)} out; give one width a level"
            )
        self.fpn_stages = nn.ModuleList()
        self.fpn_routes = nn.ModuleList()  # 1x1 convolutions before upsampling, one between two levels
        self.pan_stages = nn.ModuleList()
        self.pan_routes = nn.ModuleList()  # strided 3x3 convolutions, one between two levels
        settings: dict[str, Any] = {"num_blocks": num_blocks, "activation": activation}
        route = 0
        for i, (inside, outside) in enumerate(zip(reversed(in_channels), out_channels)):
            self.fpn_stages.append(CSPStage(inside + route, outside, use_spp=i == 0, **settings))
            route = outside // 2
            if i < len(out_channels) - 1:
                self.fpn_routes.append(ConvBNAct(outside, route, 1, activation=activation))
        for deep, shallow in pairwise(out_channels):
            self.pan_routes.append(ConvBNAct(shallow, shallow, 3, stride=2, activation=activation))
            self.pan_stages.append(CSPStage(deep + shallow, deep, use_spp=False, **settings))
        self.out_channels = tuple(out_channels)

    def forward(self, features: list[torch.Tensor]) -> list[torch.Tensor]:
        top_down = []  # deepest first
        for i, feature in enumerate(reversed(features)):
            if i > 0:
                route = self.fpn_routes[i - 1](top_down[-1])
                route = F.interpolate(route, scale_factor=2.0, mode="nearest")  # (B, C, 2H, 2W)
                feature = torch.cat([route, feature], dim=1)
            top_down.append(self.fpn_stages[i](feature))

        results = [top_down[-1]]  # shallowest first
        for i in reversed(range(len(top_down) - 1)):
            route = self.pan_routes[i](results[-1])  # (B, C, H/2, W/2)
            results.append(self.pan_stages[i](torch.cat([route, top_down[i]], dim=1)))
        return results[::-1]
