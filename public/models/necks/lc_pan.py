"""PicoDet's necks, light path aggregation networks: LC-PAN (2022) and CSP-PAN (2021, and the NPU model of 2022).

Paper: PP-PicoDet: A Better Real-Time Object Detector on Mobile Devices, arXiv 2111.00902, section 3.2; LC-PAN, in which
depthwise separable convolutions stand where CSP-PAN has CSP stages, is PaddleDetection's.
Weights: inside PaddleDetection's PicoDet, by `public.weights.detectors.picodet`.
Facts beyond the paper, from PaddleDetection: all kernels that are not 1x1 are 5x5; the level of stride 64 is the sum of two
strided convolutions, of the deepest map before and after the paths, so its sides are those of stride 32 halved and rounded
up.
Deviation: BatchNorm's running variance, as in `public.models.backbones.lcnet`.

Legend: B batch, C channels, H W height and width.
"""

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from public.models.backbones.lcnet import DepthwiseSeparable
from public.models.layers import ConvBNAct

KERNEL_SIZE = 5
NECKS = ("lc_pan", "csp_pan")


def separable(in_channels: int, out_channels: int, *, activation: str, stride: int = 1) -> DepthwiseSeparable:
    """A 5x5 depthwise convolution and a 1x1 one, each with BatchNorm and activation."""
    return DepthwiseSeparable(
        in_channels, out_channels, KERNEL_SIZE, stride=stride, use_squeeze=False, activation=activation
    )


class LightCSPStage(nn.Module):
    """Two branches of half the width, the first through blocks without shortcut, joined by a 1x1 convolution.

    A block is a 1x1 convolution and a depthwise separable one.  (B, in_channels, H, W) -> (B, out_channels, H, W)
    """

    def __init__(self, in_channels: int, out_channels: int, *, num_blocks: int, activation: str):
        super().__init__()
        half = out_channels // 2
        self.main = ConvBNAct(in_channels, half, 1, activation=activation)
        self.short = ConvBNAct(in_channels, half, 1, activation=activation)
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    ConvBNAct(half, half, 1, activation=activation), separable(half, half, activation=activation)
                )
                for _ in range(num_blocks)
            )
        )
        self.final = ConvBNAct(2 * half, out_channels, 1, activation=activation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.final(torch.cat([self.blocks(self.main(x)), self.short(x)], dim=1))


def _mixer(kind: str, channels: int, num_blocks: int, activation: str) -> Callable[[], nn.Module]:
    """What makes two levels side by side, (B, 2C, H, W), one (B, C, H, W), in the neck called `kind`."""
    if kind == "csp_pan":
        return lambda: LightCSPStage(2 * channels, channels, num_blocks=num_blocks, activation=activation)
    return lambda: nn.Sequential(
        separable(2 * channels, 2 * channels, activation=activation),
        *(separable(2 * channels, 2 * channels, activation=activation) for _ in range(num_blocks - 1)),
        separable(2 * channels, channels, activation=activation),
    )


class LightPAN(nn.Module):
    """Maps of a backbone, each half as large as the one before -> as many of `channels` channels, and a coarser one.

    Args:
        kind: "lc_pan" or "csp_pan": what mixes two levels.
        in_channels: of the backbone's maps, finest first.
        channels: C, of every level.
        num_blocks: of each mixer; 1 in all published models.
        activation: a name of `public.models.layers`.
    """

    def __init__(self, *, kind: str, in_channels: Sequence[int], channels: int, num_blocks: int, activation: str):
        super().__init__()
        if kind not in NECKS:
            raise ValueError(f"unknown neck {kind!r}; write {' or '.join(NECKS)}")
        mixer = _mixer(kind, channels, num_blocks, activation)
        steps = range(len(in_channels) - 1)  # between two levels
        self.reduce = nn.ModuleList(ConvBNAct(width, channels, 1, activation=activation) for width in in_channels)
        self.top_down = nn.ModuleList(mixer() for _ in steps)  # deepest first
        self.down = nn.ModuleList(separable(channels, channels, stride=2, activation=activation) for _ in steps)
        self.bottom_up = nn.ModuleList(mixer() for _ in steps)  # finest first
        self.extra_before = separable(channels, channels, stride=2, activation=activation)
        self.extra_after = separable(channels, channels, stride=2, activation=activation)
        self.out_channels = channels
        self._initialise()

    def _initialise(self) -> None:
        """As in PaddleDetection: uniform with the variance 2 / fan-in; LC-PAN's mixers normal with the same."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight)
        for mixer in (*self.top_down, *self.bottom_up):
            for module in mixer.modules() if isinstance(mixer, nn.Sequential) else ():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight)

    def forward(self, maps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        reduced = [conv(x) for conv, x in zip(self.reduce, maps)]
        paths = [reduced[-1]]  # deepest first
        for mixer, x in zip(self.top_down, reduced[-2::-1]):
            enlarged = F.interpolate(paths[-1], scale_factor=2.0, mode="nearest")
            paths.append(mixer(torch.cat([enlarged, x], dim=1)))  # (B, 2C, H, W) -> (B, C, H, W)
        levels = [paths.pop()]  # finest first
        for down, mixer in zip(self.down, self.bottom_up):
            levels.append(mixer(torch.cat([down(levels[-1]), paths.pop()], dim=1)))
        return [*levels, self.extra_before(reduced[-1]) + self.extra_after(levels[-1])]
