"""ShuffleNetV2, x0.5 to x2.0.

Paper: ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design, arXiv 1807.11164, figure 3 (c, d) and
table 5.
Weights: torchvision's shufflenet_v2_x0_5 ... x2_0, by `public.weights.backbones.shufflenetv2.rename`.
Deviations: none.  Coordinate Attention (arXiv 2103.02907), an addition of TinyDet's plans, stands behind the depthwise
convolutions of the right branches.

Legend: B batch, C channels, H W height and width.
"""

from collections import OrderedDict
from typing import Any

import torch
from torch import nn

from public.models.attention import CoordinateAttention, check_attention
from public.models.backbone import Backbone, GlobalAveragePool
from public.models.image_classifier import Classifier
from public.models.layers import ConvBNAct

STEM_CHANNELS = 24
NUM_BLOCKS = (4, 8, 4)  # of the stages of strides 8, 16, 32
NETWORKS: dict[str, dict[str, Any]] = {  # channels of the three stages, and of the last 1x1 convolution
    "shufflenetv2_x0_5": {"channels": (48, 96, 192), "num_features": 1024},
    "shufflenetv2_x1_0": {"channels": (116, 232, 464), "num_features": 1024},
    "shufflenetv2_x1_5": {"channels": (176, 352, 704), "num_features": 1024},
    "shufflenetv2_x2_0": {"channels": (244, 488, 976), "num_features": 2048},
}


def shuffle_halves(x: torch.Tensor) -> torch.Tensor:
    """Channels a0 a1 ... b0 b1 ... -> a0 b0 a1 b1 ...: the two halves interleaved.  (B, C, H, W) -> the same, C even."""
    return x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)


def _right_branch(
    in_channels: int, channels: int, *, stride: int, activation: str, attention: str, **bn
) -> nn.Sequential:
    """1x1, depthwise 3x3 with attention or without, 1x1; the names of the convolutions are the same either way."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["0"] = ConvBNAct(in_channels, channels, 1, activation=activation, **bn)
    layers["1"] = ConvBNAct(channels, channels, 3, stride=stride, groups=channels, activation="none", **bn)
    if attention == "coordinate":
        layers["attention"] = CoordinateAttention(channels, **bn)
    layers["2"] = ConvBNAct(channels, channels, 1, activation=activation, **bn)
    return nn.Sequential(layers)


class ShuffleUnit(nn.Module):
    """Half of the channels pass, the other half is convolved; then both are interleaved.  (B, C, H, W) -> the same."""

    def __init__(self, channels: int, *, activation: str, attention: str, **bn):
        super().__init__()
        half = channels // 2
        self.right = _right_branch(half, half, stride=1, activation=activation, attention=attention, **bn)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = x.chunk(2, dim=1)
        return shuffle_halves(torch.cat([left, self.right(right)], dim=1))


class ShuffleDownUnit(nn.Module):
    """Halves the resolution: both branches see all channels, and each gives half of the output.

    (B, in_channels, H, W) -> (B, out_channels, ceil(H / 2), ceil(W / 2))
    """

    def __init__(self, in_channels: int, out_channels: int, *, activation: str, attention: str, **bn):
        super().__init__()
        half = out_channels // 2
        self.left = nn.Sequential(
            ConvBNAct(in_channels, in_channels, 3, stride=2, groups=in_channels, activation="none", **bn),
            ConvBNAct(in_channels, half, 1, activation=activation, **bn),
        )
        self.right = _right_branch(in_channels, half, stride=2, activation=activation, attention=attention, **bn)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return shuffle_halves(torch.cat([self.left(x), self.right(x)], dim=1))


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
    bn_eps: float = 1e-5,
    bn_momentum: float = 0.1,
) -> Classifier:
    """The network of NETWORKS called `name`, with maps of strides 8, 16 and 32.

    Initial values are torch's own for every layer, as in torchvision.

    Args:
        dropout: on the features; the paper has none.
        activation: a name of `public.models.layers`.
        attention: "none", or "coordinate": Coordinate Attention behind the depthwise convolutions of the right branches.
        bn_eps, bn_momentum: of every BatchNorm.

    Raises:
        ValueError: `drop_path` or `zero_init`, as no block adds its input; an `attention` that there is not.
    """
    if drop_path or zero_init:
        raise ValueError(
            f"{name} has no residual branches: leave out drop_path ({drop_path}) and zero_init ({zero_init})"
        )
    network = NETWORKS[name]
    options: dict[str, Any] = {"activation": activation, "bn_eps": bn_eps, "bn_momentum": bn_momentum}
    unit_options = options | {"attention": check_attention(attention)}
    stem = nn.Sequential(
        OrderedDict(
            conv=ConvBNAct(in_chans, STEM_CHANNELS, 3, stride=2, **options),
            pool=nn.MaxPool2d(3, stride=2, padding=1),
        )
    )
    stages, in_channels = [], STEM_CHANNELS
    for channels, num_blocks in zip(network["channels"], NUM_BLOCKS):
        units = [ShuffleUnit(channels, **unit_options) for _ in range(num_blocks - 1)]
        stages.append(nn.Sequential(ShuffleDownUnit(in_channels, channels, **unit_options), *units))
        in_channels = channels
    backbone = Backbone(
        stem=stem, stages=stages, channels=network["channels"], strides=(8, 16, 32), input_layer="stem.conv.conv"
    )
    final = OrderedDict(conv=ConvBNAct(in_channels, network["num_features"], 1, **options), pool=GlobalAveragePool())
    return Classifier(
        backbone=backbone,
        final=nn.Sequential(final),
        num_features=network["num_features"],
        num_classes=num_classes,
        dropout=dropout,
    )
