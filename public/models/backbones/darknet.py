"""Darknet-19 and Darknet-53, and the residual block that the CSP Darknets share.

Papers: YOLO9000: Better, Faster, Stronger, arXiv 1612.08242, table 6 (Darknet-19); YOLOv3: An Incremental Improvement,
arXiv 1804.02767, table 1 (Darknet-53).
Weights: timm's darknet53, and the backbone inside YOLOX's yolox_darknet, by `public.weights.backbones.darknet.rename`.
Neither torchvision nor timm has weights of Darknet-19.
Deviations:
- The slope of the leaky ReLU is 0.1 in Darknet.  timm trained darknet53 with 0.01, torch's default, so that is our
  default for this name; `activation="leaky_relu_0.1"` gives Darknet's and YOLOX's network.
- YOLOX's backbone has BatchNorm's eps 1e-3 and momentum 0.03 instead of 1e-5 and 0.1: keywords.
- Darknet-19 ends with a 1x1 convolution to the classes, whose maps are then averaged.  Ours averages first and has a
  linear layer: the same function, for less work.

Legend: B batch, C channels, H W height and width.
"""

from collections import OrderedDict
from typing import Any

import torch
from torch import nn

from public.models.backbone import Backbone, GlobalAveragePool, check_drop_path
from public.models.image_classifier import Classifier
from public.models.layers import ConvBNAct, StochasticDepth

STEM_CHANNELS = 32
STRIDES = (2, 4, 8, 16, 32)
# channels: of each stage, or of each convolution in it.  num_blocks: residual blocks in each stage.
NETWORKS: dict[str, dict[str, Any]] = {
    "darknet19": {
        "channels": (
            (64,),
            (128, 64, 128),
            (256, 128, 256),
            (512, 256, 512, 256, 512),
            (1024, 512, 1024, 512, 1024),
        ),
        "activation": "leaky_relu_0.1",
    },
    "darknet53": {
        "channels": (64, 128, 256, 512, 1024),
        "num_blocks": (1, 2, 8, 8, 4),
        "activation": "leaky_relu_0.01",
    },
}
FLAT_AT_ZERO = ("relu", "relu6")  # activations without gradient at 0


class Bottleneck(nn.Module):
    """`conv1`, then `conv2`, plus the input.  (B, C, H, W) -> the same.

    Args:
        conv1: to the hidden channels.
        conv2: back to C, at the same resolution.
        use_shortcut: whether the input is added.
        drop_path: the probability that a sample skips both convolutions, in training; only with `use_shortcut`.
    """

    def __init__(self, *, conv1: nn.Module, conv2: nn.Module, use_shortcut: bool = True, drop_path: float = 0.0):
        super().__init__()
        self.conv1 = conv1
        self.conv2 = conv2
        self.use_shortcut = use_shortcut
        self.drop_path = StochasticDepth(drop_path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv2(self.conv1(x))
        return x + self.drop_path(y) if self.use_shortcut else y


def drop_path_rates(drop_path: float, num_blocks: int) -> list[float]:
    """The rate of each block: 0 for the first, rising evenly towards `drop_path`, that of a block after the last.

    Raises:
        ValueError: `drop_path` is not within [0, 1).
    """
    check_drop_path(drop_path)
    return [drop_path * number / num_blocks for number in range(num_blocks)]


def zero_last_batch_norms(module: nn.Module, activation: str) -> None:
    """The last BatchNorm of each Bottleneck with a shortcut starts at 0, so the block starts as its input alone.

    Raises:
        ValueError: `activation`, which follows that BatchNorm, has no gradient at 0: such a block would never learn.
    """
    if activation in FLAT_AT_ZERO:
        raise ValueError(f"zero_init needs an activation with a gradient at 0, which {activation!r} has not")
    for block in module.modules():
        if isinstance(block, Bottleneck) and block.use_shortcut:
            last = [part for part in block.conv2.modules() if isinstance(part, nn.BatchNorm2d)][-1]
            nn.init.zeros_(last.weight)


def plain_stages(channels: tuple[tuple[int, ...], ...], **options) -> list[nn.Sequential]:
    """Darknet-19's stages: a 2x2 maximum, then 3x3 and 1x1 convolutions in turn."""
    stages, in_channels = [], STEM_CHANNELS
    for stage_channels in channels:
        layers: list[nn.Module] = [nn.MaxPool2d(2)]
        for number, out_channels in enumerate(stage_channels):
            layers.append(ConvBNAct(in_channels, out_channels, 3 if number % 2 == 0 else 1, **options))
            in_channels = out_channels
        stages.append(nn.Sequential(*layers))
    return stages


def residual_stages(
    channels: tuple[int, ...], num_blocks: tuple[int, ...], *, drop_path: float, **options
) -> list[nn.Sequential]:
    """Darknet-53's stages: a 3x3 convolution of stride 2, then residual blocks: 1x1 to half the channels, 3x3."""
    rates = iter(drop_path_rates(drop_path, sum(num_blocks)))
    stages, in_channels = [], STEM_CHANNELS
    for out_channels, count in zip(channels, num_blocks, strict=True):
        blocks = [
            Bottleneck(
                conv1=ConvBNAct(out_channels, out_channels // 2, 1, **options),
                conv2=ConvBNAct(out_channels // 2, out_channels, 3, **options),
                drop_path=next(rates),
            )
            for _ in range(count)
        ]
        down = ConvBNAct(in_channels, out_channels, 3, stride=2, **options)
        stages.append(nn.Sequential(OrderedDict(down=down, blocks=nn.Sequential(*blocks))))
        in_channels = out_channels
    return stages


def build(
    name: str,
    *,
    num_classes: int,
    in_chans: int = 3,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    zero_init: bool = False,
    activation: str | None = None,
    bn_eps: float = 1e-5,
    bn_momentum: float = 0.1,
) -> Classifier:
    """The network of NETWORKS called `name`, with maps of strides 2, 4, 8, 16 and 32.

    Initial values: convolutions N(0, 2 / fan-out), as timm's and the recipes' networks; the last layer torch's own.

    Args:
        dropout: on the features; the papers have none.
        drop_path: of stochastic depth, in [0, 1), rising linearly with the depth.
        zero_init: the last BatchNorm of each residual block starts at 0.
        activation: a name of `public.models.layers`; None: that of NETWORKS.
        bn_eps, bn_momentum: of every BatchNorm.

    Raises:
        ValueError: `drop_path` or `zero_init` for darknet19, which has no residual blocks; a `drop_path` that is not
            within [0, 1); `zero_init` with an activation that has no gradient at 0.
    """
    network = NETWORKS[name]
    activation = network["activation"] if activation is None else activation
    options: dict[str, Any] = {"activation": activation, "bn_eps": bn_eps, "bn_momentum": bn_momentum}
    has_residuals = "num_blocks" in network
    if not has_residuals and (drop_path or zero_init):
        raise ValueError(
            f"{name} has no residual branches: leave out drop_path ({drop_path}) and zero_init ({zero_init})"
        )
    stem = ConvBNAct(in_chans, STEM_CHANNELS, 3, **options)
    if has_residuals:
        stages = residual_stages(network["channels"], network["num_blocks"], drop_path=drop_path, **options)
        channels = network["channels"]
    else:
        stages = plain_stages(network["channels"], **options)
        channels = tuple(stage[-1] for stage in network["channels"])
    backbone = Backbone(stem=stem, stages=stages, channels=channels, strides=STRIDES, input_layer="stem.conv")
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
    if zero_init:
        zero_last_batch_norms(backbone, activation)
    return Classifier(
        backbone=backbone,
        final=GlobalAveragePool(),
        num_features=channels[-1],
        num_classes=num_classes,
        dropout=dropout,
    )
