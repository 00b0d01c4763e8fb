"""ReXNet 1.0, 1.3, 1.5 and 2.0: inverted residuals whose width grows by the same amount from block to block.

Paper: Rethinking Channel Dimensions for Efficient Model Design, arXiv 2007.00992, section 4.
Weights: timm's rexnet_100, rexnet_130, rexnet_150 and rexnet_200 (the authors' own), by
`public.weights.backbones.rexnet.rename`.
Facts beyond the paper, from those networks: the shortcut is added to the first channels only where a block widens; a
BatchNorm stands inside the squeeze and excitation, so in training a batch must hold more than one image.
Deviations: none; `activation`, `depthwise_activation` and `attention` build other networks.

Legend: B batch, C channels, H W height and width.
"""

import math
from collections import OrderedDict
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from public.models.attention import BiasedConvBNAct, CoordinateAttention, check_attention
from public.models.backbone import Backbone, GlobalAveragePool, check_drop_path
from public.models.image_classifier import Classifier
from public.models.layers import ConvBNAct, StochasticDepth, make_activation

STEM_CHANNELS = 32
FIRST_CHANNELS = 16  # of the first block, at width 1
ADDED_CHANNELS = 180  # by the 16 blocks together, at width 1
NUM_FEATURES = 1280  # at width 1
EXPANSION = 6  # of every block but the first
SQUEEZE = 12  # channels of a block over those inside its squeeze and excitation
NUM_BLOCKS_WITHOUT_SQUEEZE = 3  # the first ones
STAGE_STRIDES = (2, 4, 8, 16, 32)
NUM_BLOCKS = (1, 2, 2, 6, 5)  # at each of these strides
NETWORKS = {
    "rexnet_100": {"width": 1.0},
    "rexnet_130": {"width": 1.3},
    "rexnet_150": {"width": 1.5},
    "rexnet_200": {"width": 2.0},
}


class BlockShape(NamedTuple):
    """The numbers of one block; `squeezed` is the width inside its attention's middle, 0 for a block without one."""

    in_channels: int
    expanded: int
    out_channels: int
    stride: int
    squeezed: int

    @property
    def has_expansion(self) -> bool:
        """Whether the block begins with a 1x1 convolution."""
        return self.expanded != self.in_channels

    @property
    def has_shortcut(self) -> bool:
        """Whether the block's input is added to the first of its output channels."""
        return self.stride == 1 and self.in_channels <= self.out_channels


class SqueezeExcitation(nn.Module):
    """Each channel times the sigmoid of two layers of all channel means, a BatchNorm between them.

    The mean is taken over (2, 3): AdaptiveAvgPool2d has no deterministic backward on CUDA.  (B, C, H, W) -> the same.
    """

    def __init__(self, channels: int, squeezed: int, *, bn_eps: float, bn_momentum: float):
        super().__init__()
        self.reduce = BiasedConvBNAct(channels, squeezed, activation="relu", bn_eps=bn_eps, bn_momentum=bn_momentum)
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.expand(self.reduce(x.mean((2, 3), keepdim=True))).sigmoid()  # (B, C, 1, 1) over H, W


class LinearBottleneck(nn.Module):
    """1x1 to more channels, depthwise 3x3, attention, activation, 1x1 without activation, plus the input.

    The input is added to the first `in_channels` channels of the output, where `shape` has a shortcut.
    (B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride))

    Args:
        shape: the block's numbers.
        activation, depthwise_activation: after the first and before the last convolution.
        attention: "none": squeeze and excitation, as published; "coordinate": Coordinate Attention in its place.
        drop_path: the probability that a sample skips everything but the shortcut, in training.
    """

    def __init__(
        self,
        *,
        shape: BlockShape,
        activation: str,
        depthwise_activation: str,
        attention: str,
        drop_path: float,
        bn_eps: float,
        bn_momentum: float,
    ):
        super().__init__()
        bn: dict[str, Any] = {"bn_eps": bn_eps, "bn_momentum": bn_momentum}
        expanded = shape.expanded
        self.expand = (
            ConvBNAct(shape.in_channels, expanded, 1, activation=activation, **bn) if shape.has_expansion else None
        )
        self.depthwise = ConvBNAct(expanded, expanded, 3, stride=shape.stride, groups=expanded, activation="none", **bn)
        self.attention: nn.Module = nn.Identity()
        if shape.squeezed and attention == "coordinate":
            self.attention = CoordinateAttention(expanded, **bn)
        elif shape.squeezed:
            self.attention = SqueezeExcitation(expanded, shape.squeezed, **bn)
        self.act = make_activation(depthwise_activation, expanded)
        self.project = ConvBNAct(expanded, shape.out_channels, 1, activation="none", **bn)
        self.drop_path = StochasticDepth(drop_path)
        self.has_shortcut = shape.has_shortcut
        self.num_added = shape.out_channels - shape.in_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x if self.expand is None else self.expand(x)
        y = self.project(self.act(self.attention(self.depthwise(y))))
        if not self.has_shortcut:
            return y
        return self.drop_path(y) + F.pad(x, (0, 0, 0, 0, 0, self.num_added))  # zeros for the channels that are new


def block_shapes(name: str) -> list[list[BlockShape]]:
    """The blocks of the network called `name`, those of each stride in a list."""
    width, total = NETWORKS[name]["width"], sum(NUM_BLOCKS)
    in_channels, number = round(STEM_CHANNELS * width), 0
    stages = []
    for stride, count in zip(STAGE_STRIDES, NUM_BLOCKS, strict=True):
        stage = []
        for position in range(count):
            # round() takes the even one of two equally near numbers, as the released networks have it: 38.5 -> 38
            out_channels = round((FIRST_CHANNELS + ADDED_CHANNELS * number / total) * width)
            expanded = in_channels * (1 if number == 0 else EXPANSION)
            squeezed = expanded // SQUEEZE if number >= NUM_BLOCKS_WITHOUT_SQUEEZE else 0
            step = 2 if position == 0 and stride > STAGE_STRIDES[0] else 1
            stage.append(BlockShape(in_channels, expanded, out_channels, step, squeezed))
            in_channels, number = out_channels, number + 1
        stages.append(stage)
    return stages


def build(
    name: str,
    *,
    num_classes: int,
    in_chans: int = 3,
    dropout: float = 0.2,
    drop_path: float = 0.0,
    zero_init: bool = False,
    activation: str = "silu",
    depthwise_activation: str = "relu6",
    attention: str = "none",
    bn_eps: float = 1e-5,
    bn_momentum: float = 0.1,
) -> Classifier:
    """The network of NETWORKS called `name`, with maps of strides 2, 4, 8, 16 and 32.

    Args:
        dropout: on the features.
        drop_path: of stochastic depth in the last block, in [0, 1), rising linearly from 0 in the first.
        zero_init: the last BatchNorm weight of each block with a shortcut starts at 0: the block starts as its input,
            with zeros for the channels that are new.
        activation: after the stem, each expansion and the last convolution, a name of `public.models.layers`.
        depthwise_activation: after each depthwise convolution and its attention, likewise.
        attention: "none": squeeze and excitation, as published; "coordinate": Coordinate Attention in its place.
        bn_eps, bn_momentum: of every BatchNorm.

    Raises:
        ValueError: an unknown activation or attention, or a `drop_path` that there is not.
    """
    check_drop_path(drop_path)
    bn: dict[str, Any] = {"bn_eps": bn_eps, "bn_momentum": bn_momentum}
    options = {
        "activation": activation,
        "depthwise_activation": depthwise_activation,
        "attention": check_attention(attention),
        **bn,
    }
    shapes = block_shapes(name)
    backbone = Backbone(
        stem=ConvBNAct(in_chans, shapes[0][0].in_channels, 3, stride=2, activation=activation, **bn),
        stages=_stages(shapes, drop_path=drop_path, **options),
        channels=[stage[-1].out_channels for stage in shapes],
        strides=STAGE_STRIDES,
        input_layer="stem.conv",
    )
    num_features = round(NUM_FEATURES * NETWORKS[name]["width"])
    final = OrderedDict(
        conv=ConvBNAct(shapes[-1][-1].out_channels, num_features, 1, activation=activation, **bn),
        pool=GlobalAveragePool(),
    )
    model = Classifier(
        backbone=backbone,
        final=nn.Sequential(final),
        num_features=num_features,
        num_classes=num_classes,
        dropout=dropout,
    )
    _initialise(model, zero_init=zero_init)
    return model


def _stages(shapes: list[list[BlockShape]], *, drop_path: float, **options) -> list[nn.Sequential]:
    stages, number = [], 0
    for stage in shapes:
        blocks = []
        for shape in stage:
            dropped = drop_path * number / (sum(NUM_BLOCKS) - 1)
            blocks.append(LinearBottleneck(shape=shape, drop_path=dropped, **options))
            number += 1
        stages.append(nn.Sequential(*blocks))
    return stages


def _initialise(model: Classifier, *, zero_init: bool) -> None:
    """timm's initial values: convolutions N(0, 2 / fan-out of one group), last layer U(+-1 / sqrt(K)), biases 0."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif zero_init and isinstance(module, LinearBottleneck) and module.has_shortcut:
            nn.init.zeros_(module.project.bn.weight)
    bound = 1 / math.sqrt(model.num_classes)
    nn.init.uniform_(model.fc.weight, -bound, bound)
    nn.init.zeros_(model.fc.bias)
