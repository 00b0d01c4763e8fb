"""MobileNetV3, small and large; and the inverted residual block, which EfficientNet uses too.

Paper: Searching for MobileNetV3, arXiv 1905.02244, tables 1 and 2; the block after MobileNetV2 (arXiv 1801.04381), the
squeeze and excitation after arXiv 1709.01507.
Weights: torchvision's mobilenet_v3_small and _large, timm's mobilenetv3_small_100 and _large_100, by
`public.weights.backbones.mobilenetv3.rename`.
Deviations:
- BatchNorm's eps 1e-3 and momentum 0.01 (the paper's decay of 0.99) are torchvision's; timm has 1e-5 and 0.1: keywords.
- Stochastic depth, which the paper has not, can be switched on.

Legend: B batch, C channels, H W height and width, F features.
"""

from collections import OrderedDict
from typing import Any, NamedTuple

import torch
from torch import nn

from public.models.attention import SqueezeExcitation
from public.models.backbone import Backbone, GlobalAveragePool, check_drop_path
from public.models.image_classifier import Classifier
from public.models.layers import ConvBNAct, StochasticDepth

STEM_CHANNELS = 16
LAST_EXPANSION = 6  # channels of the last 1x1 convolution, in multiples of the last block's

# kernel, expanded channels, output channels, squeeze and excitation, activation, stride
LARGE = (
    (3, 16, 16, False, "relu", 1),
    (3, 64, 24, False, "relu", 2),
    (3, 72, 24, False, "relu", 1),
    (5, 72, 40, True, "relu", 2),
    (5, 120, 40, True, "relu", 1),
    (5, 120, 40, True, "relu", 1),
    (3, 240, 80, False, "hardswish", 2),
    (3, 200, 80, False, "hardswish", 1),
    (3, 184, 80, False, "hardswish", 1),
    (3, 184, 80, False, "hardswish", 1),
    (3, 480, 112, True, "hardswish", 1),
    (3, 672, 112, True, "hardswish", 1),
    (5, 672, 160, True, "hardswish", 2),
    (5, 960, 160, True, "hardswish", 1),
    (5, 960, 160, True, "hardswish", 1),
)
SMALL = (
    (3, 16, 16, True, "relu", 2),
    (3, 72, 24, False, "relu", 2),
    (3, 88, 24, False, "relu", 1),
    (5, 96, 40, True, "hardswish", 2),
    (5, 240, 40, True, "hardswish", 1),
    (5, 240, 40, True, "hardswish", 1),
    (5, 120, 48, True, "hardswish", 1),
    (5, 144, 48, True, "hardswish", 1),
    (5, 288, 96, True, "hardswish", 2),
    (5, 576, 96, True, "hardswish", 1),
    (5, 576, 96, True, "hardswish", 1),
)
NETWORKS: dict[str, dict[str, Any]] = {  # num_features: of the hidden layer before the logits
    "mobilenetv3_small": {"layers": SMALL, "num_features": 1024},
    "mobilenetv3_large": {"layers": LARGE, "num_features": 1280},
}


class BlockShape(NamedTuple):
    """The numbers of one inverted residual; `squeezed` is the width inside the squeeze and excitation, 0 for none."""

    in_channels: int
    expanded: int
    out_channels: int
    kernel_size: int
    stride: int
    squeezed: int
    activation: str

    @property
    def has_expansion(self) -> bool:
        """Whether the block begins with a 1x1 convolution."""
        return self.expanded != self.in_channels

    @property
    def has_shortcut(self) -> bool:
        """Whether the block's input is added to its output."""
        return self.stride == 1 and self.in_channels == self.out_channels


class InvertedResidual(nn.Module):
    """1x1 to more channels, depthwise, squeeze and excitation, 1x1 to few channels without activation, plus the input.

    The first step is left out where it would not change the number of channels, the third where `shape` says so, the
    last where input and output differ in shape.
    (B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride))

    Args:
        shape: the block's numbers.
        squeeze_activation, gate: classes of the two activations inside the squeeze and excitation.
        drop_path: the probability that a sample skips everything but the shortcut, in training.
    """

    def __init__(
        self,
        *,
        shape: BlockShape,
        squeeze_activation: type[nn.Module],
        gate: type[nn.Module],
        drop_path: float,
        bn_eps: float,
        bn_momentum: float,
    ):
        super().__init__()
        act = shape.activation
        bn: dict[str, Any] = {"bn_eps": bn_eps, "bn_momentum": bn_momentum}
        expanded = shape.expanded
        self.expand = ConvBNAct(shape.in_channels, expanded, 1, activation=act, **bn) if shape.has_expansion else None
        self.depthwise = ConvBNAct(
            expanded, expanded, shape.kernel_size, stride=shape.stride, groups=expanded, activation=act, **bn
        )
        self.squeeze = SqueezeExcitation(expanded, shape.squeezed, squeeze_activation, gate) if shape.squeezed else None
        self.project = ConvBNAct(expanded, shape.out_channels, 1, activation="none", **bn)
        self.drop_path = StochasticDepth(drop_path)
        self.has_shortcut = shape.has_shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x if self.expand is None else self.expand(x)
        y = self.depthwise(y)
        if self.squeeze is not None:
            y = self.squeeze(y)
        y = self.project(y)
        return x + self.drop_path(y) if self.has_shortcut else y


def round_channels(channels: float) -> int:
    """The nearest multiple of 8, at least 8, or the next one up where the nearest would lose more than a tenth.

    Source: the rule of the released MobileNets, which EfficientNet and PP-LCNet took over.
    """
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def group_by_stride(blocks: list[BlockShape], stride: int) -> tuple[list[list[BlockShape]], list[int]]:
    """The blocks in stages of one stride each, and those strides; `stride` is that of the first block's input."""
    stages: list[list[BlockShape]] = []
    strides: list[int] = []
    for block in blocks:
        stride *= block.stride
        if not strides or strides[-1] != stride:
            stages.append([])
            strides.append(stride)
        stages[-1].append(block)
    return stages, strides


def build_backbone(stem: nn.Module, stages: list[list[BlockShape]], strides: list[int], **options) -> Backbone:
    """The backbone of `stem`, a ConvBNAct of stride 2, and inverted residuals.

    Args:
        options: of every `InvertedResidual`; `drop_path` is that of a block behind the last, and falls linearly towards
            0 at the first.

    Raises:
        ValueError: `drop_path` is not within [0, 1).
    """
    drop_path = check_drop_path(options.pop("drop_path"))
    num_blocks = sum(len(stage) for stage in stages)
    built, number = [], 0
    for stage in stages:
        blocks = []
        for shape in stage:
            blocks.append(InvertedResidual(shape=shape, drop_path=drop_path * number / num_blocks, **options))
            number += 1
        built.append(nn.Sequential(*blocks))
    return Backbone(
        stem=stem,
        stages=built,
        channels=[stage[-1].out_channels for stage in stages],
        strides=strides,
        input_layer="stem.conv",
    )


def initialise(model: nn.Module, *, zero_init: bool) -> None:
    """torchvision's initial values for convolutions: weights N(0, 2 / fan-out), biases 0; BatchNorm keeps 1 and 0.

    With `zero_init` the last BatchNorm of each block that has a shortcut starts at 0: the block starts as its shortcut.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in model.modules():
        if zero_init and isinstance(module, InvertedResidual) and module.has_shortcut:
            nn.init.zeros_(module.project.bn.weight)


def block_shapes(name: str) -> list[BlockShape]:
    """The blocks of the network called `name`, in order."""
    shapes = []
    in_channels = STEM_CHANNELS
    for kernel_size, expanded, out_channels, use_squeeze, activation, stride in NETWORKS[name]["layers"]:
        squeezed = round_channels(expanded // 4) if use_squeeze else 0
        shapes.append(BlockShape(in_channels, expanded, out_channels, kernel_size, stride, squeezed, activation))
        in_channels = out_channels
    return shapes


def build(
    name: str,
    *,
    num_classes: int,
    in_chans: int = 3,
    dropout: float = 0.2,
    drop_path: float = 0.0,
    zero_init: bool = False,
    bn_eps: float = 1e-3,
    bn_momentum: float = 0.01,
) -> Classifier:
    """The network of NETWORKS called `name`; `large` has maps of strides 2, 4, 8, 16, 32, `small` of 4, 8, 16, 32.

    Initial values as in torchvision: convolutions see `initialise`, linear layers N(0, 0.01 squared) and biases 0.

    Args:
        dropout: on the features; torchvision's 0.2.
        drop_path: of stochastic depth, in [0, 1), rising linearly with the depth.
        zero_init: see `initialise`.
        bn_eps, bn_momentum: of every BatchNorm; torchvision's.

    Raises:
        ValueError: a `drop_path` that there is not.
    """
    bn: dict[str, Any] = {"bn_eps": bn_eps, "bn_momentum": bn_momentum}
    shapes = block_shapes(name)
    backbone = build_backbone(
        ConvBNAct(in_chans, STEM_CHANNELS, 3, stride=2, activation="hardswish", **bn),
        *group_by_stride(shapes, stride=2),
        squeeze_activation=nn.ReLU,
        gate=nn.Hardsigmoid,
        drop_path=drop_path,
        **bn,
    )
    last = LAST_EXPANSION * shapes[-1].out_channels
    num_features = NETWORKS[name]["num_features"]
    hidden = nn.Linear(last, num_features)
    final = OrderedDict(
        conv=ConvBNAct(shapes[-1].out_channels, last, 1, activation="hardswish", **bn),
        pool=GlobalAveragePool(),
        hidden=hidden,
        act=nn.Hardswish(),
    )
    model = Classifier(
        backbone=backbone,
        final=nn.Sequential(final),
        num_features=num_features,
        num_classes=num_classes,
        dropout=dropout,
    )
    initialise(model, zero_init=zero_init)
    for linear in (hidden, model.fc):
        nn.init.normal_(linear.weight, std=0.01)
        nn.init.zeros_(linear.bias)
    return model
