"""PP-LCNet, the backbone of PicoDet.

Paper: PP-LCNet: A Lightweight CPU Convolutional Neural Network, arXiv 2109.15099, table 1.
Weights: PaddleClas's PPLCNet_x0_35 ... x2_5, the backbone inside PaddleDetection's PicoDet, and timm's lcnet_075 and
lcnet_100, by `public.weights.backbones.lcnet.rename`.
Deviations:
- BatchNorm's running variance takes the unbiased variance of a batch (torch's rule); Paddle takes the biased one.
- Paddle's network drops features without scaling the rest in training, and scales by 1 - p afterwards.  Ours scales in
  training, as torch does; `rename` multiplies the last layer's weights by 1 - p, which makes both the same.
- The last 1x1 convolution acts on one cell, so it is a linear layer here.  It has no bias in Paddle's network, and one in
  timm's: `head_bias`.

Legend: B batch, C channels, H W height and width, F features.
"""

from collections import OrderedDict
from typing import Any

import torch
from torch import nn

from public.models.attention import SqueezeExcitation
from public.models.backbone import Backbone, GlobalAveragePool
from public.models.backbones.mobilenetv3 import round_channels
from public.models.image_classifier import Classifier
from public.models.layers import ConvBNAct

STEM_CHANNELS = 16
NUM_FEATURES = 1280
DROPOUT = 0.2
# of x1.0, one tuple a block: kernel, channels, squeeze and excitation.  All stages but the first start with stride 2.
STAGES = (
    ((3, 32, False),),
    ((3, 64, False),) * 2,
    ((3, 128, False),) * 2,
    ((3, 256, False), *((5, 256, False),) * 5),
    ((5, 512, True),) * 2,
)
STRIDES = (2, 4, 8, 16, 32)
NETWORKS = {
    "lcnet_035": {"width": 0.35},
    "lcnet_075": {"width": 0.75},
    "lcnet_100": {"width": 1.0},
    "lcnet_150": {"width": 1.5},
    "lcnet_200": {"width": 2.0},
    "lcnet_250": {"width": 2.5},
}


class DepthwiseSeparable(nn.Module):
    """Depthwise convolution, squeeze and excitation where asked for, 1x1 convolution; no shortcut.

    (B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride))
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int,
        use_squeeze: bool,
        activation: str,
        **bn,
    ):
        super().__init__()
        self.depthwise = ConvBNAct(
            in_channels, in_channels, kernel_size, stride=stride, groups=in_channels, activation=activation, **bn
        )
        self.squeeze = (
            SqueezeExcitation(in_channels, in_channels // 4, nn.ReLU, nn.Hardsigmoid) if use_squeeze else None
        )
        self.pointwise = ConvBNAct(in_channels, out_channels, 1, activation=activation, **bn)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.depthwise(x)
        if self.squeeze is not None:
            x = self.squeeze(x)
        return self.pointwise(x)


def build_backbone(
    name: str, *, in_chans: int, activation: str = "hardswish", bn_eps: float = 1e-5, bn_momentum: float = 0.1
) -> Backbone:
    """The backbone of the network called `name`, with maps of strides 2, 4, 8, 16, 32; PicoDet takes the last three.

    Initial values as in Paddle: convolutions N(0, 2 / fan-in), biases 0.
    """
    width = NETWORKS[name]["width"]
    options: dict[str, Any] = {"activation": activation, "bn_eps": bn_eps, "bn_momentum": bn_momentum}
    in_channels = round_channels(STEM_CHANNELS * width)
    stem = ConvBNAct(in_chans, in_channels, 3, stride=2, **options)
    stages, stage_channels = [], []
    for number, stage in enumerate(STAGES):
        blocks = []
        for position, (kernel_size, channels, use_squeeze) in enumerate(stage):
            out_channels = round_channels(channels * width)
            stride = 2 if number > 0 and position == 0 else 1
            blocks.append(
                DepthwiseSeparable(
                    in_channels, out_channels, kernel_size, stride=stride, use_squeeze=use_squeeze, **options
                )
            )
            in_channels = out_channels
        stages.append(nn.Sequential(*blocks))
        stage_channels.append(in_channels)
    backbone = Backbone(stem=stem, stages=stages, channels=stage_channels, strides=STRIDES, input_layer="stem.conv")
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)  # N(0, 2 / fan-in), the fan-in of a group alone
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return backbone


def build(
    name: str,
    *,
    num_classes: int,
    in_chans: int = 3,
    dropout: float = DROPOUT,
    drop_path: float = 0.0,
    zero_init: bool = False,
    head_bias: bool = False,
    activation: str = "hardswish",
    bn_eps: float = 1e-5,
    bn_momentum: float = 0.1,
) -> Classifier:
    """The network of NETWORKS called `name`, with maps of strides 2, 4, 8, 16 and 32.

    Initial values as in Paddle: convolutions and the linear layer in their place N(0, 2 / fan-in), the last layer
    Xavier's uniform rule, biases 0.

    Args:
        dropout: on the features; the published 0.2.
        head_bias: whether the linear layer before the last one has a bias: timm's has, Paddle's has not.
        activation: of the convolutions, a name of `public.models.layers`; inside the squeeze and excitation ReLU stays, and
            before the last layer hard swish.
        bn_eps, bn_momentum: of every BatchNorm.

    Raises:
        ValueError: `drop_path` or `zero_init`; no block adds its input.
    """
    if drop_path or zero_init:
        raise ValueError(
            f"{name} has no residual branches: leave out drop_path ({drop_path}) and zero_init ({zero_init})"
        )
    backbone = build_backbone(name, in_chans=in_chans, activation=activation, bn_eps=bn_eps, bn_momentum=bn_momentum)
    hidden = nn.Linear(backbone.channels[-1], NUM_FEATURES, bias=head_bias)
    final = OrderedDict(
        pool=GlobalAveragePool(),
        hidden=hidden,
        act=nn.Hardswish(),
    )
    model = Classifier(
        backbone=backbone,
        final=nn.Sequential(final),
        num_features=NUM_FEATURES,
        num_classes=num_classes,
        dropout=dropout,
    )
    nn.init.kaiming_normal_(hidden.weight)  # N(0, 2 / fan-in)
    nn.init.xavier_uniform_(model.fc.weight)
    for bias in (hidden.bias, model.fc.bias):
        if bias is not None:
            nn.init.zeros_(bias)
    return model
