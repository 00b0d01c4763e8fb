"""YOLOFPN, the neck of YOLOv3 as YOLOX uses it: spatial pyramid pooling, then a top-down path of plain convolutions.

Papers: YOLOv3: An Incremental Improvement, arXiv 1804.02767, section 2.3; pooling after arXiv 1406.4729.
Weights: inside YOLOX's yolox_darknet, by `public.weights.detectors.yolox`.
Deviation: YOLOX counts the layers around the pooling among its backbone's; they stand here, behind the last residual block
of Darknet-53, so that the backbone is the classifier's.

Legend: B batch, C channels, H W height and width.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from public.models.backbones.csp_darknet import SPP
from public.models.layers import ConvBNAct


class YOLOFPN(nn.Module):
    """Maps of a backbone, finest first, each half the sides of the one before -> as many maps of half the channels.

    Args:
        in_channels: of the maps, finest first.
        options: of every ConvBNAct: activation, bn_eps, bn_momentum.

    Attributes:
        out_channels: of the results, finest first.
    """

    def __init__(self, *, in_channels: Sequence[int], **options):
        super().__init__()
        deepest = in_channels[-1]
        half = deepest // 2
        self.deepest = nn.Sequential(
            ConvBNAct(deepest, half, 1, **options),
            ConvBNAct(half, deepest, 3, **options),
            SPP(deepest, out_channels=half, **options),
            ConvBNAct(half, deepest, 3, **options),
            ConvBNAct(deepest, half, 1, **options),
        )
        self.routes = nn.ModuleList()  # deepest first, as the path goes
        self.stages = nn.ModuleList()
        for channels in reversed(in_channels[:-1]):
            self.routes.append(ConvBNAct(half, half // 2, 1, **options))
            self.stages.append(five_convs(half // 2 + channels, channels // 2, **options))
            half = channels // 2
        self.out_channels = tuple(channels // 2 for channels in in_channels)

    def forward(self, maps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        levels = [self.deepest(maps[-1])]
        for route, stage, feature in zip(self.routes, self.stages, reversed(maps[:-1])):
            upper = F.interpolate(route(levels[-1]), scale_factor=2.0, mode="nearest")  # (B, C, 2H, 2W)
            levels.append(stage(torch.cat([upper, feature], dim=1)))
        return levels[::-1]


def five_convs(in_channels: int, out_channels: int, **options) -> nn.Sequential:
    """1x1 to `out_channels` and 3x3 to twice as many in turn, beginning and ending with the 1x1."""
    wide = 2 * out_channels
    return nn.Sequential(
        ConvBNAct(in_channels, out_channels, 1, **options),
        ConvBNAct(out_channels, wide, 3, **options),
        ConvBNAct(wide, out_channels, 1, **options),
        ConvBNAct(out_channels, wide, 3, **options),
        ConvBNAct(wide, out_channels, 1, **options),
    )
