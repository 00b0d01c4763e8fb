"""ResNet 18 to 152, their halves, and their forms for images of 32 pixels.

Paper: Deep Residual Learning for Image Recognition, arXiv 1512.03385, table 1; section 4.2 for small images.
Weights: torchvision's and timm's resnet18, 34, 50, 101 and 152, by `public.weights.backbones.resnet.rename`.  Both name
the arrays alike and have BatchNorm's eps 1e-5 and momentum 0.1.  `_half` and `_cifar` have no released weights.
Facts beyond the paper, from both: a bottleneck strides in its 3x3 convolution, not in its first 1x1; the shortcut of a
block that changes the shape is a 1x1 convolution with BatchNorm.
Deviations:
- `resnet34_half` and `resnet50_half` have half the channels everywhere.
- `resnet*_cifar` are not the paper's networks of section 4.2 but those of table 1 with a 3x3 stem of stride 1 and without
  the pooling; their convolutions start with torch's own initial values.
- `attention="coordinate"` puts Coordinate Attention (arXiv 2103.02907) on each block's last convolution, before the sum.
- `style="caffe"` strides in a bottleneck's first 1x1 convolution, as the networks that MMDetection's caffe weights are of.
- timm starts the last BatchNorm of each block at 0 and torchvision at 1; here `zero_init` says which.

Legend: B batch, C channels, H W height and width.
"""

from collections import OrderedDict
from typing import Any, cast

import torch
from torch import nn

from public.models.attention import CoordinateAttention, check_attention
from public.models.backbone import Backbone, GlobalAveragePool, check_drop_path
from public.models.image_classifier import Classifier
from public.models.layers import ConvBNAct, StochasticDepth, make_activation

WIDTH = 64  # channels of the stem and of the first stage before expansion; each further stage has twice as many
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
EXPANSION = 4  # of a bottleneck: channels of its output to channels inside
STYLES = ("pytorch", "caffe")  # which convolution of a bottleneck strides: the 3x3, or the first 1x1
BASIC = (18, 34)  # the depths whose blocks are two 3x3 convolutions; the others' are bottlenecks
NETWORKS = {
    **{f"resnet{depth}": {"depth": depth, "width": WIDTH, "is_small": False} for depth in BLOCKS},
    **{f"resnet{depth}_half": {"depth": depth, "width": WIDTH // 2, "is_small": False} for depth in (34, 50)},
    **{f"resnet{depth}_cifar": {"depth": depth, "width": WIDTH, "is_small": True} for depth in BLOCKS},
}


class ResidualBlock(nn.Module):
    """act(shortcut + two or three convolutions), the last of them without activation.

    Basic: 3x3, 3x3.  Bottleneck: 1x1 to `channels`, 3x3, 1x1 to EXPANSION * `channels`.  The first 3x3 has the stride, or,
    in a bottleneck of the style "caffe", the first 1x1.  The shortcut is the input, or a 1x1 convolution with BatchNorm
    where the shape changes.
    (B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride))

    Args:
        channels: inside the block.
        attention: "none", or "coordinate" on the last convolution.
        drop_path: the probability that a sample skips everything but the shortcut, in training.
        bn_eps, bn_momentum: of every BatchNorm.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        is_bottleneck: bool,
        stride: int,
        style: str = "pytorch",
        activation: str,
        attention: str,
        drop_path: float,
        bn_eps: float,
        bn_momentum: float,
    ):
        super().__init__()
        bn: dict[str, Any] = {"bn_eps": bn_eps, "bn_momentum": bn_momentum}
        out_channels = EXPANSION * channels if is_bottleneck else channels
        if is_bottleneck:
            strides = (stride, 1) if style == "caffe" else (1, stride)
            layers = [
                ConvBNAct(in_channels, channels, 1, stride=strides[0], activation=activation, **bn),
                ConvBNAct(channels, channels, 3, stride=strides[1], activation=activation, **bn),
                ConvBNAct(channels, out_channels, 1, activation="none", **bn),
            ]
        else:
            layers = [
                ConvBNAct(in_channels, channels, 3, stride=stride, activation=activation, **bn),
                ConvBNAct(channels, channels, 3, activation="none", **bn),
            ]
        self.layers = nn.Sequential(OrderedDict((f"conv{i}", layer) for i, layer in enumerate(layers, start=1)))
        self.attention = CoordinateAttention(out_channels, **bn) if attention == "coordinate" else nn.Identity()
        self.drop_path = StochasticDepth(drop_path)
        self.shortcut = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = ConvBNAct(in_channels, out_channels, 1, stride=stride, activation="none", **bn)
        self.act = make_activation(activation, out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return self.act(shortcut + self.drop_path(self.attention(self.layers(x))))


def build(
    name: str,
    *,
    num_classes: int,
    in_chans: int = 3,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    zero_init: bool = False,
    activation: str = "relu",
    attention: str = "none",
    style: str = "pytorch",
    bn_eps: float = 1e-5,
    bn_momentum: float = 0.1,
) -> Classifier:
    """The network of NETWORKS called `name`, with maps of strides 4, 8, 16, 32, or 1, 2, 4, 8 for `_cifar`.

    Initial values as in torchvision: convolutions N(0, 2 / (out channels * kernel area)), the last layer torch's own; for
    `_cifar` torch's own everywhere.

    Args:
        dropout: on the features.
        drop_path: of stochastic depth, in [0, 1): the last block's rate; the first has 0, those between lie on a line.
        zero_init: the last BatchNorm of each block starts at 0, so that the block starts as its shortcut.
        activation: a name of `public.models.layers`.
        attention: "none" or "coordinate".
        style: one of STYLES; the depths without bottlenecks are the same in both.
        bn_eps, bn_momentum: of every BatchNorm.

    Raises:
        ValueError: a `drop_path`, `activation`, `attention` or `style` that there is not.
    """
    check_drop_path(drop_path)
    if style not in STYLES:
        raise ValueError(f"style={style!r}: a ResNet's bottlenecks are of the style {' or '.join(STYLES)}")
    network = NETWORKS[name]
    width, is_small = network["width"], bool(network["is_small"])
    common: dict[str, Any] = {"activation": activation, "bn_eps": bn_eps, "bn_momentum": bn_momentum}
    stages, channels = _stages(
        network["depth"], width, drop_path, attention=check_attention(attention), style=style, **common
    )
    backbone = Backbone(
        stem=_stem(in_chans, width, is_small=is_small, **common),
        stages=stages,
        channels=channels,
        strides=(1, 2, 4, 8) if is_small else (4, 8, 16, 32),
        input_layer="stem.conv.conv",
    )
    model = Classifier(
        backbone=backbone,
        final=GlobalAveragePool(),
        num_features=channels[-1],
        num_classes=num_classes,
        dropout=dropout,
    )
    _initialise(model, is_small=is_small, zero_init=zero_init)
    return model


def _stem(in_chans: int, width: int, *, is_small: bool, **options) -> nn.Sequential:
    """A 7x7 convolution and pooling, stride 4 together; or a 3x3 convolution of stride 1 for small images."""
    if is_small:
        return nn.Sequential(OrderedDict(conv=ConvBNAct(in_chans, width, 3, **options)))
    conv = ConvBNAct(in_chans, width, 7, stride=2, **options)
    return nn.Sequential(OrderedDict(conv=conv, pool=nn.MaxPool2d(3, stride=2, padding=1)))


def _stages(depth: int, width: int, drop_path: float, **options) -> tuple[list[nn.Sequential], list[int]]:
    """The four stages, each but the first of which halves the resolution, and the channels of their maps."""
    is_bottleneck = depth not in BASIC
    last = sum(BLOCKS[depth]) - 1
    stages, out_channels = [], []
    in_channels, number = width, 0
    for i, num_blocks in enumerate(BLOCKS[depth]):
        channels = width * 2**i
        blocks = []
        for position in range(num_blocks):
            stride = 2 if i > 0 and position == 0 else 1
            rate = drop_path * number / last
            blocks.append(
                ResidualBlock(
                    in_channels, channels, is_bottleneck=is_bottleneck, stride=stride, drop_path=rate, **options
                )
            )
            in_channels = EXPANSION * channels if is_bottleneck else channels
            number += 1
        stages.append(nn.Sequential(*blocks))
        out_channels.append(in_channels)
    return stages, out_channels


def _initialise(model: Classifier, *, is_small: bool, zero_init: bool) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and not is_small:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if zero_init and isinstance(module, ResidualBlock):
            nn.init.zeros_(cast(ConvBNAct, module.layers[-1]).bn.weight)  # what attention makes of zeros is zero
