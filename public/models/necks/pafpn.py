"""PAFPN, the neck of YOLOX: a top-down and then a bottom-up path of CSP layers.

Papers: YOLOX: Exceeding YOLO Series in 2021, arXiv 2107.08430; paths after PANet, arXiv 1803.01534.
Weights: inside YOLOX's nano, tiny, s, m, l and x, by `public.weights.detectors.yolox`.
Facts beyond the papers, from YOLOX's code: on the way down what comes from the deeper level stands first where two maps are
joined, on the way up the halved one; the bottom-up path joins the reduced maps, not those behind the CSP layers; no
bottleneck of the neck adds its input.

Legend: B batch, C channels, H W height and width.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from public.models.backbones.csp_darknet import CSPLayer, conv_3x3
from public.models.layers import ConvBNAct


class PAFPN(nn.Module):
    """Maps of a backbone, finest first, each half the sides of the one before -> as many maps of the same channels.

    Args:
        in_channels: of the maps, finest first.
        num_blocks: bottlenecks in each CSP layer.
        use_depthwise: see `public.models.backbones.csp_darknet.conv_3x3`.
        options: of every ConvBNAct: activation, bn_eps, bn_momentum.

    Attributes:
        out_channels: of the results, finest first.
    """

    def __init__(self, *, in_channels: Sequence[int], num_blocks: int, use_depthwise: bool, **options):
        super().__init__()

        def csp(inside: int, outside: int) -> CSPLayer:
            drop_paths = [0.0] * num_blocks
            return CSPLayer(
                outside,
                in_channels=inside,
                drop_paths=drop_paths,
                use_shortcut=False,
                use_depthwise=use_depthwise,
                **options,
            )

        self.laterals = nn.ModuleList()  # deepest first, as the top-down path goes
        self.top_down = nn.ModuleList()
        for shallow, deep in reversed(list(pairwise(in_channels))):
            self.laterals.append(ConvBNAct(deep, shallow, 1, **options))
            self.top_down.append(csp(2 * shallow, shallow))
        self.downs = nn.ModuleList()  # finest first, as the bottom-up path goes
        self.bottom_up = nn.ModuleList()
        for shallow, deep in pairwise(in_channels):
            self.downs.append(conv_3x3(shallow, shallow, stride=2, use_depthwise=use_depthwise, **options))
            self.bottom_up.append(csp(2 * shallow, deep))
        self.out_channels = tuple(in_channels)

    def forward(self, maps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        x, reduced = maps[-1], []  # deepest first
        for lateral, stage, feature in zip(self.laterals, self.top_down, reversed(maps[:-1])):
            reduced.append(lateral(x))
            upper = F.interpolate(reduced[-1], scale_factor=2.0, mode="nearest")  # (B, C, 2H, 2W)
            x = stage(torch.cat([upper, feature], dim=1))
        levels = [x]  # finest first
        for down, stage, feature in zip(self.downs, self.bottom_up, reversed(reduced)):
            levels.append(stage(torch.cat([down(levels[-1]), feature], dim=1)))
        return levels
