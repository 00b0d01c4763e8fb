"""CenterNet, which finds objects as points: the centre of each is a peak of its class's heat map.

Paper: Objects as Points, arXiv 1904.07850; the neck of deformable and transposed convolutions is section 4's for ResNets.
Weights: MMDetection's centernet_r18 with and without deformable convolutions, by
`public.weights.detectors.centernet.rename`.
Deviations:
- The transposed convolutions start as bilinear enlargement from each channel to itself, beside torch's own values.  The
  original and MMDetection write the bilinear kernels of all channels into the first output channel.
- The head returns the heat map's logits in training and inference alike; peaks are found in `public.decoders.centernet`.

Legend: B batch, C channels, H W height and width of the map, A = H * W its cells, K classes.
"""

import copy
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from public.models.deformable import DeformableConv2d
from public.models.dense import as_points, set_prior
from public.models.detectors.one_stage import OneStageDetector
from public.models.layers import ConvBNAct, batch_norm_factors

PRIOR_PROBABILITY = 0.1  # of a centre at each cell before training; CenterNet's and MMDetection's
REGRESSION_STD = 0.001  # of the first weights of sizes and offsets


class CenterNetOutputs(NamedTuple):
    """Raw outputs of the head at the cells of one map, rows before columns.

    `class_logits` (B, A, K), the heat map before its sigmoid; `sizes_wh` (B, A, 2), width and height of the box, and
    `offsets_xy` (B, A, 2), from the cell's corner to the box's centre, both in cells; `level_sizes`, the one map's
    ((height, width),).
    """

    class_logits: torch.Tensor
    sizes_wh: torch.Tensor
    offsets_xy: torch.Tensor
    level_sizes: tuple[tuple[int, int], ...]


class DeformableConvBNAct(nn.Module):
    """3x3 deformable convolution, BatchNorm, ReLU.  (B, in_channels, H, W) -> (B, out_channels, H, W)"""

    def __init__(self, in_channels: int, out_channels: int, *, form: str):
        super().__init__()
        self.conv = DeformableConv2d(in_channels, out_channels, form=form)
        self.bn = nn.BatchNorm2d(out_channels)
        self.act = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.bn(self.conv(x)))

    def fused(self) -> nn.Sequential:
        """Deformable convolution with bias, then ReLU."""
        scale, shift = batch_norm_factors(self.bn)
        weight = self.conv.weight.detach()
        conv = DeformableConv2d(weight.shape[1], weight.shape[0], form=self.conv.form, bias=True).to(weight)
        conv.offset = copy.deepcopy(self.conv.offset)
        with torch.no_grad():
            conv.weight.copy_(weight.double() * scale[:, None, None, None])
            conv.bias.copy_(shift)  # type: ignore[union-attr]  # it was just made
        return nn.Sequential(OrderedDict(conv=conv, act=nn.ReLU()))


class Enlarge(nn.Module):
    """4x4 transposed convolution of stride 2, BatchNorm, ReLU.  (B, C, H, W) -> (B, C, 2H, 2W)"""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.act = nn.ReLU()
        sides = torch.tensor([0.25, 0.75, 0.75, 0.25])  # of bilinear enlargement by two
        with torch.no_grad():
            for channel in range(channels):
                self.conv.weight[channel, channel] = sides[:, None] * sides

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.bn(self.conv(x)))

    def fused(self) -> nn.Sequential:
        """Transposed convolution with bias, then ReLU."""
        scale, shift = batch_norm_factors(self.bn)
        weight = self.conv.weight.detach()  # (in, out, 4, 4)
        conv = nn.utils.skip_init(nn.ConvTranspose2d, *weight.shape[:2], 4, stride=2, padding=1).to(weight)
        with torch.no_grad():
            conv.weight.copy_(weight.double() * scale[:, None, None])
            conv.bias.copy_(shift)
        return nn.Sequential(OrderedDict(conv=conv, act=nn.ReLU()))


class CenterNetNeck(nn.Module):
    """The backbone's last map, enlarged by two for each entry of `channels`: [(B, C, H, W)] -> [(B, channels[-1], ...)].

    Args:
        deformable: "none", a plain 3x3 convolution before each enlargement, or a form of `public.models.deformable`.
    """

    def __init__(self, *, in_channels: int, channels: Sequence[int], deformable: str):
        super().__init__()
        self.blocks = nn.ModuleList()
        for out_channels in channels:
            conv: nn.Module
            if deformable == "none":
                conv = ConvBNAct(in_channels, out_channels, 3, activation="relu")
            else:
                conv = DeformableConvBNAct(in_channels, out_channels, form=deformable)
            self.blocks.append(nn.Sequential(OrderedDict(conv=conv, enlarge=Enlarge(out_channels))))
            in_channels = out_channels
        self.out_channels = in_channels

    def forward(self, maps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        x = maps[-1]
        for block in self.blocks:
            x = block(x)
        return [x]


class CenterNetHead(nn.Module):
    """Three branches of a 3x3 convolution, ReLU and a 1x1 convolution: heat map, sizes, offsets.

    Args:
        in_channels: of the neck's map.
        channels: between the two convolutions of a branch.
        num_classes: K.
        stride: of the map against the images.
    """

    def __init__(self, *, in_channels: int, channels: int, num_classes: int, stride: int):
        super().__init__()
        self.stride = stride
        self.heatmap = _branch(in_channels, channels, num_classes)
        self.size = _branch(in_channels, channels, 2)
        self.offset = _branch(in_channels, channels, 2)
        set_prior(self.heatmap.pred, PRIOR_PROBABILITY)
        for branch in (self.size, self.offset):
            for conv in (branch.conv, branch.pred):
                nn.init.normal_(conv.weight, std=REGRESSION_STD)
                nn.init.zeros_(conv.bias)

    def forward(self, maps: Sequence[torch.Tensor], image_size: tuple[int, int]) -> CenterNetOutputs:
        """
        Raises:
            ValueError: the sides of the images are no multiples of the backbone's stride.
        """
        (x,) = maps
        height, width = x.shape[2:]
        if (height * self.stride, width * self.stride) != tuple(image_size):
            raise ValueError(
                f"images of {image_size[0]} x {image_size[1]} pixels give a map of {height} x {width} cells of {self.stride} "
                "pixels: resize or pad both sides to multiples of the backbone's stride"
            )
        return CenterNetOutputs(
            as_points(self.heatmap(x)), as_points(self.size(x)), as_points(self.offset(x)), ((height, width),)
        )


def _branch(in_channels: int, channels: int, out_channels: int) -> Any:
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(in_channels, channels, 3, padding=1),
            act=nn.ReLU(),
            pred=nn.Conv2d(channels, out_channels, 1),
        )
    )


class CenterNetModel(OneStageDetector):
    """Normalised images (B, in_chans, H, W), H and W multiples of the backbone's stride -> CenterNetOutputs."""

    def __init__(
        self, *, backbone: Any, neck: CenterNetNeck, head: CenterNetHead, num_classes: int, backbone_batchnorm: str
    ):
        super().__init__(
            backbone=backbone,
            neck=neck,
            head=head,
            num_classes=num_classes,
            class_layers=("head.heatmap.pred.",),
            rows_per_class=1,
            backbone_batchnorm=backbone_batchnorm,
        )
