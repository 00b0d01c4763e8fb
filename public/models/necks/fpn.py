"""FPN: the maps of a backbone, enriched from the top down, and one or two coarser ones on top.

Paper: Feature Pyramid Networks for Object Detection, arXiv 1612.03144; the extra levels are those of RetinaNet
(arXiv 1708.02002, section 4) and FCOS (arXiv 1904.01355, section 3.2).
Weights: inside torchvision's and MMDetection's RetinaNet and FCOS, by `public.weights.detectors.fpn_names`.
Facts beyond the papers, from both: every convolution has a bias and no normalisation; maps are enlarged to the exact size of
the finer one by the nearest cell, so images of any size pass.
The originals differ in what the first extra level is made of and in a ReLU before the second: both are arguments.

Legend: B batch, C channels, H W height and width.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

EXTRA_FROM = ("backbone", "neck")  # P6 is made of C5, or of P5


class FPN(nn.Module):
    """The maps of a backbone, finest first -> as many maps of `out_channels` channels, and `num_extra` coarser ones.

    Each extra level halves the sides of the one before (rounded up).

    Args:
        in_channels: of the backbone's maps, finest first.
        num_extra: coarser levels beyond the backbone's.
        extra_from: the first of them is made of the backbone's last map ("backbone") or of the neck's ("neck").
        relu_before_extra: whether a ReLU stands between one extra level and the next.
    """

    def __init__(
        self,
        *,
        in_channels: Sequence[int],
        out_channels: int,
        num_extra: int,
        extra_from: str,
        relu_before_extra: bool,
    ):
        super().__init__()
        if extra_from not in EXTRA_FROM:
            raise ValueError(f"extra_from={extra_from!r}: write {' or '.join(EXTRA_FROM)}")
        self.lateral = nn.ModuleList(nn.Conv2d(channels, out_channels, 1) for channels in in_channels)
        self.output = nn.ModuleList(nn.Conv2d(out_channels, out_channels, 3, padding=1) for _ in in_channels)
        self.extra = nn.ModuleList()
        for number in range(num_extra):
            first = number == 0 and extra_from == "backbone"
            channels = in_channels[-1] if first else out_channels
            self.extra.append(nn.Conv2d(channels, out_channels, 3, stride=2, padding=1))
        self.extra_from = extra_from
        self.relu_before_extra = relu_before_extra
        self.out_channels = out_channels
        for conv in (*self.lateral, *self.output, *self.extra):
            nn.init.kaiming_uniform_(conv.weight, a=1)  # Xavier's bounds by the fan-in, as torchvision's
            nn.init.zeros_(conv.bias)

    def forward(self, maps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        merged = [conv(x) for conv, x in zip(self.lateral, maps)]
        for i in range(len(merged) - 1, 0, -1):
            merged[i - 1] = merged[i - 1] + F.interpolate(merged[i], size=merged[i - 1].shape[2:], mode="nearest")
        levels = [conv(x) for conv, x in zip(self.output, merged)]
        x = maps[-1] if self.extra_from == "backbone" else levels[-1]
        for number, conv in enumerate(self.extra):
            x = conv(F.relu(x) if number > 0 and self.relu_before_extra else x)
            levels.append(x)
        return levels
