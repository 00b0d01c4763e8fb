"""CSPDarknet, the backbone of YOLOX, and its parts, which YOLOv5's backbone has too.

Papers: YOLOX: Exceeding YOLO Series in 2021, arXiv 2107.08430; cross-stage partial layers after CSPNet, arXiv
1911.11929; spatial pyramid pooling after arXiv 1406.4729.
Weights: the backbone inside YOLOX's nano, tiny, s, m, l and x, by `public.weights.backbones.csp_darknet.rename`.  They
were trained for detection, so the class layer keeps its initial values.
Deviations:
- YOLOX's Focus takes each 2x2 square of pixels apart into four channels and convolves them 3x3.  That is a 6x6
  convolution of stride 2 with the same weights at other places, which is what ours is: nothing to cut out, and a first
  layer that reads the images' own channels.
- YOLOX takes maxima over windows of 5, 9 and 13.  Ours takes three maxima over 5 in a row: the same numbers for less
  work.
- Stochastic depth, zero initial values and a class layer, which YOLOX has not.

Legend: B batch, C channels, H W height and width.
"""

from collections import OrderedDict
from typing import Any

import torch
from torch import nn

from public.models.backbone import Backbone, GlobalAveragePool
from public.models.backbones.darknet import Bottleneck, drop_path_rates, zero_last_batch_norms
from public.models.image_classifier import Classifier
from public.models.layers import ConvBNAct

STRIDES = (4, 8, 16, 32)
# at width 1 and depth 1
STEM_CHANNELS = 64
CHANNELS = (128, 256, 512, 1024)
NUM_BLOCKS = (3, 9, 9, 3)
NETWORKS = {
    "csp_darknet_nano": {"depth": 0.33, "width": 0.25, "use_depthwise": True},
    "csp_darknet_tiny": {"depth": 0.33, "width": 0.375, "use_depthwise": False},
    "csp_darknet_s": {"depth": 0.33, "width": 0.50, "use_depthwise": False},
    "csp_darknet_m": {"depth": 0.67, "width": 0.75, "use_depthwise": False},
    "csp_darknet_l": {"depth": 1.00, "width": 1.00, "use_depthwise": False},
    "csp_darknet_x": {"depth": 1.33, "width": 1.25, "use_depthwise": False},
}


class Focus(ConvBNAct):
    """6x6 convolution of stride 2, BatchNorm, activation.

    (B, in_channels, H, W) -> (B, out_channels, floor(H / 2), floor(W / 2))
    """

    def __init__(self, in_channels: int, out_channels: int, **options):
        super().__init__(in_channels, out_channels, 6, stride=2, **options)
        self.conv.padding = (2, 2)  # two pixels on each side: rows 2y - 2 to 2y + 3 for row y of the output


def conv_3x3(
    in_channels: int, out_channels: int, *, use_depthwise: bool = False, stride: int = 1, **options
) -> nn.Module:
    """A 3x3 convolution with BatchNorm and activation, or in its place a depthwise and a 1x1 one, each with both."""
    if not use_depthwise:
        return ConvBNAct(in_channels, out_channels, 3, stride=stride, **options)
    depthwise = ConvBNAct(in_channels, in_channels, 3, stride=stride, groups=in_channels, **options)
    return nn.Sequential(OrderedDict(depthwise=depthwise, pointwise=ConvBNAct(in_channels, out_channels, 1, **options)))


class CSPLayer(nn.Module):
    """Two 1x1 convolutions to half the channels, the first followed by bottlenecks; both joined by a third 1x1.

    (B, in_channels, H, W) -> (B, channels, H, W)

    Args:
        channels: of the result.
        in_channels: of the input; None: as many.
        drop_paths: the rate of each bottleneck, so their number too.
        use_shortcut: whether the bottlenecks add their input.
        use_depthwise: see `conv_3x3`.
        options: of every ConvBNAct.
    """

    def __init__(
        self,
        channels: int,
        *,
        in_channels: int | None = None,
        drop_paths: list[float],
        use_shortcut: bool,
        use_depthwise: bool = False,
        **options,
    ):
        super().__init__()
        half = channels // 2
        in_channels = channels if in_channels is None else in_channels
        self.conv1 = ConvBNAct(in_channels, half, 1, **options)
        self.conv2 = ConvBNAct(in_channels, half, 1, **options)
        self.conv3 = ConvBNAct(2 * half, channels, 1, **options)
        self.blocks = nn.Sequential(
            *(
                Bottleneck(
                    conv1=ConvBNAct(half, half, 1, **options),
                    conv2=conv_3x3(half, half, use_depthwise=use_depthwise, **options),
                    use_shortcut=use_shortcut,
                    drop_path=rate,
                )
                for rate in drop_paths
            )
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv3(torch.cat([self.blocks(self.conv1(x)), self.conv2(x)], dim=1))


class SPP(nn.Module):
    """1x1 to half the channels; these and their maxima over 5x5, 9x9 and 13x13 side by side; 1x1.

    A maximum over 5 of maxima over 5 is one over 9, and of those over 13; what lies outside the map never wins.
    (B, channels, H, W) -> (B, out_channels, H, W), by default as many.
    """

    def __init__(self, channels: int, *, out_channels: int | None = None, **options):
        super().__init__()
        half = channels // 2
        self.conv1 = ConvBNAct(channels, half, 1, **options)
        self.pool = nn.MaxPool2d(5, stride=1, padding=2)
        self.conv2 = ConvBNAct(4 * half, channels if out_channels is None else out_channels, 1, **options)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = [self.conv1(x)]
        for _ in range(3):
            maps.append(self.pool(maps[-1]))
        return self.conv2(torch.cat(maps, dim=1))  # (B, 4 * half, H, W) -> (B, out_channels, H, W)


def scaled_blocks(num_blocks: tuple[int, ...], depth: float) -> list[int]:
    """The bottlenecks of each stage at this depth: rounded, at least one."""
    return [max(round(count * depth), 1) for count in num_blocks]


def build_backbone(
    *,
    depth: float,
    width: float,
    use_depthwise: bool,
    in_chans: int = 3,
    use_focus: bool = True,
    drop_path: float = 0.0,
    activation: str = "silu",
    bn_eps: float = 1e-3,
    bn_momentum: float = 0.03,
) -> Backbone:
    """The backbone with maps of strides 4, 8, 16 and 32; YOLOX takes the last three.

    Initial values are torch's own for every layer, as in YOLOX.

    Args:
        depth, width: factors of NUM_BLOCKS and of the channels.
        use_depthwise: see `conv_3x3`; for all convolutions of stride 2 but the stem's, and in the bottlenecks.
        use_focus: False: a 3x3 convolution of stride 2 as the stem.
        drop_path, activation, bn_eps, bn_momentum: see `build`.
    """
    options: dict[str, Any] = {"activation": activation, "bn_eps": bn_eps, "bn_momentum": bn_momentum}
    in_channels = int(STEM_CHANNELS * width)
    channels = [int(count * width) for count in CHANNELS]
    num_blocks = scaled_blocks(NUM_BLOCKS, depth)
    stem: nn.Module
    if use_focus:
        stem = Focus(in_chans, in_channels, **options)
    else:
        stem = ConvBNAct(in_chans, in_channels, 3, stride=2, **options)
    rates = drop_path_rates(drop_path, sum(num_blocks[:-1])) + [0.0] * num_blocks[-1]  # no shortcuts in the last stage
    stages = []
    for number, (out_channels, count) in enumerate(zip(channels, num_blocks, strict=True)):
        is_last = number == len(channels) - 1
        first = sum(num_blocks[:number])
        parts = {"down": conv_3x3(in_channels, out_channels, stride=2, use_depthwise=use_depthwise, **options)}
        if is_last:
            parts["spp"] = SPP(out_channels, **options)
        parts["csp"] = CSPLayer(
            out_channels,
            drop_paths=rates[first : first + count],
            use_shortcut=not is_last,
            use_depthwise=use_depthwise,
            **options,
        )
        stages.append(nn.Sequential(OrderedDict(parts)))
        in_channels = out_channels
    return Backbone(stem=stem, stages=stages, channels=channels, strides=STRIDES, input_layer="stem.conv")


def build(
    name: str,
    *,
    num_classes: int,
    in_chans: int = 3,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    zero_init: bool = False,
    use_focus: bool = True,
    activation: str = "silu",
    bn_eps: float = 1e-3,
    bn_momentum: float = 0.03,
) -> Classifier:
    """The backbone called `name`, with maps of strides 4, 8, 16 and 32, and a class layer on the mean of the last map.

    Args:
        dropout: on the features.
        drop_path: of stochastic depth, in [0, 1), rising linearly over the bottlenecks that have a shortcut.
        zero_init: the last BatchNorm of each of these starts at 0.
        use_focus: see `build_backbone`.
        activation: a name of `public.models.layers`.
        bn_eps, bn_momentum: of every BatchNorm; YOLOX's.

    Raises:
        ValueError: a `drop_path` that there is not; `zero_init` with an activation that has no gradient at 0.
    """
    shape: dict[str, Any] = NETWORKS[name]
    backbone = build_backbone(
        **shape,
        in_chans=in_chans,
        use_focus=use_focus,
        drop_path=drop_path,
        activation=activation,
        bn_eps=bn_eps,
        bn_momentum=bn_momentum,
    )
    if zero_init:
        zero_last_batch_norms(backbone, activation)
    return Classifier(
        backbone=backbone,
        final=GlobalAveragePool(),
        num_features=backbone.channels[-1],
        num_classes=num_classes,
        dropout=dropout,
    )
