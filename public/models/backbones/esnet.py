"""ESNet, the backbone of PicoDet's models of 2021: ShuffleNetV2 with squeeze and excitation and ghost-like blocks.

Paper: PP-PicoDet: A Better Real-Time Object Detector on Mobile Devices, arXiv 2111.00902, section 3.1 and table 2: the
widths inside the blocks were found by a search.
Weights: PaddleDetection's ESNet_x0_75, x1_0 and x1_25, alone or inside a PicoDet, by `public.weights.backbones.esnet.rename`.
Deviations:
- BatchNorm's running variance takes the unbiased variance of a batch (torch's rule); Paddle takes the biased one.
- The classifier on top is a mean and one linear layer; PaddleClas has another convolution before it, which no detector
  takes.

Legend: B batch, C channels, H W height and width.
"""

from collections import OrderedDict
from typing import Any

import torch
from torch import nn

from public.models.attention import SqueezeExcitation
from public.models.backbone import Backbone, GlobalAveragePool
from public.models.backbones.mobilenetv3 import round_channels
from public.models.backbones.shufflenetv2 import shuffle_halves
from public.models.image_classifier import Classifier
from public.models.layers import ConvBNAct

STEM_CHANNELS = 24
NUM_BLOCKS = (3, 7, 3)  # of the stages of strides 8, 16, 32
STRIDES = (8, 16, 32)
# channels inside each block, as a share of those of its stage
SMALL = (0.875, 0.5, 0.5, 0.5, 0.625, 0.5, 0.625, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5)
LARGE = (0.875, 0.5, 1.0, 0.625, 0.5, 0.75, 0.625, 0.625, 0.5, 0.625, 1.0, 0.625, 0.75)
NETWORKS: dict[str, dict[str, Any]] = {  # channels of the three stages: 128, 256, 512 times the width
    "esnet_075": {"channels": (96, 192, 384), "ratios": SMALL},
    "esnet_100": {"channels": (128, 256, 512), "ratios": LARGE},
    "esnet_125": {"channels": (160, 320, 640), "ratios": LARGE},
}


def _squeeze(channels: int) -> SqueezeExcitation:
    return SqueezeExcitation(channels, channels // 4, nn.ReLU, nn.Hardsigmoid)


class ESUnit(nn.Module):
    """Half of the channels pass; of the other half, half of the features are made of the rest by a depthwise convolution.

    Then both halves are interleaved.  (B, C, H, W) -> the same; `middle`: channels inside.
    """

    def __init__(self, channels: int, middle: int, *, activation: str, **bn):
        super().__init__()
        half, inner = channels // 2, middle // 2
        self.expand = ConvBNAct(half, inner, 1, activation=activation, **bn)
        self.depthwise = ConvBNAct(inner, inner, 3, groups=inner, activation="none", **bn)
        self.squeeze = _squeeze(2 * inner)
        self.project = ConvBNAct(2 * inner, half, 1, activation=activation, **bn)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        passed, x = x.chunk(2, dim=1)
        x = self.expand(x)  # (B, inner, H, W)
        x = self.project(self.squeeze(torch.cat([x, self.depthwise(x)], dim=1)))
        return shuffle_halves(torch.cat([passed, x], dim=1))


class ESDownUnit(nn.Module):
    """Halves the resolution: both branches see all channels; a separable convolution mixes their outputs.

    (B, in_channels, H, W) -> (B, out_channels, ceil(H / 2), ceil(W / 2)); `middle`: twice the channels inside.
    """

    def __init__(self, in_channels: int, out_channels: int, middle: int, *, activation: str, **bn):
        super().__init__()
        half, inner = out_channels // 2, middle // 2
        self.left = nn.Sequential(
            ConvBNAct(in_channels, in_channels, 3, stride=2, groups=in_channels, activation="none", **bn),
            ConvBNAct(in_channels, half, 1, activation=activation, **bn),
        )
        self.right = nn.Sequential(
            ConvBNAct(in_channels, inner, 1, activation=activation, **bn),
            ConvBNAct(inner, inner, 3, stride=2, groups=inner, activation="none", **bn),
            _squeeze(inner),
            ConvBNAct(inner, half, 1, activation=activation, **bn),
        )
        self.mix = nn.Sequential(
            ConvBNAct(out_channels, out_channels, 3, groups=out_channels, activation="hardswish", **bn),
            ConvBNAct(out_channels, out_channels, 1, activation="hardswish", **bn),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mix(torch.cat([self.left(x), self.right(x)], dim=1))


def build(
    name: str,
    *,
    num_classes: int,
    in_chans: int = 3,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    zero_init: bool = False,
    activation: str = "hardswish",
    bn_eps: float = 1e-5,
    bn_momentum: float = 0.1,
) -> Classifier:
    """The network of NETWORKS called `name`, with maps of strides 8, 16 and 32.

    Initial values as in Paddle: convolutions N(0, 2 / fan-in), the last layer Xavier's uniform rule, biases 0.

    Args:
        dropout: on the features.
        activation: of the convolutions, a name of `public.models.layers`; inside the squeeze and excitation ReLU stays, and
            where two branches are mixed hard swish.
        bn_eps, bn_momentum: of every BatchNorm.

    Raises:
        ValueError: `drop_path` or `zero_init`; no block adds its input.
    """
    if drop_path or zero_init:
        raise ValueError(
            f"{name} has no residual branches: leave out drop_path ({drop_path}) and zero_init ({zero_init})"
        )
    network = NETWORKS[name]
    options: dict[str, Any] = {"activation": activation, "bn_eps": bn_eps, "bn_momentum": bn_momentum}
    stem = nn.Sequential(
        OrderedDict(
            conv=ConvBNAct(in_chans, STEM_CHANNELS, 3, stride=2, **options),
            pool=nn.MaxPool2d(3, stride=2, padding=1),
        )
    )
    ratios = iter(network["ratios"])
    stages, in_channels = [], STEM_CHANNELS
    for channels, num_blocks in zip(network["channels"], NUM_BLOCKS):
        middles = [round_channels(int(channels * next(ratios))) for _ in range(num_blocks)]
        units = [ESUnit(channels, middle, **options) for middle in middles[1:]]
        stages.append(nn.Sequential(ESDownUnit(in_channels, channels, middles[0], **options), *units))
        in_channels = channels
    backbone = Backbone(
        stem=stem, stages=stages, channels=network["channels"], strides=STRIDES, input_layer="stem.conv.conv"
    )
    model = Classifier(
        backbone=backbone,
        final=nn.Sequential(OrderedDict(pool=GlobalAveragePool())),
        num_features=in_channels,
        num_classes=num_classes,
        dropout=dropout,
    )
    _initialise(model)
    return model


def _initialise(model: Classifier) -> None:
    for module in model.backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)  # N(0, 2 / fan-in), the fan-in of a group alone
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.xavier_uniform_(model.fc.weight)
    nn.init.zeros_(model.fc.bias)
