"""VoVNet with effective squeeze and excitation (VoVNetV2), 19 to 99 layers.

Papers: An Energy and GPU-Computation Efficient Backbone Network for Real-Time Object Detection, arXiv 1904.09730 (the
one-shot aggregation); CenterMask: Real-Time Anchor-Free Instance Segmentation, arXiv 1911.06667, section 3.3 (the residual
and the attention of VoVNetV2).
Weights: timm's ese_vovnet{19b_slim_dw,19b_slim,19b_dw,39b,57b,99b}, by `public.weights.backbones.vovnet.rename`; released
are those of ese_vovnet19b_dw, ese_vovnet39b and ese_vovnet57b.  BatchNorm's eps 1e-5 and momentum 0.1.
Facts beyond the papers, from timm: the attention stands in the last block of each stage only; the input is added after it,
and from a stage's second block on; the depthwise networks narrow a block's input by a 1x1 convolution first, but pass the
input itself on to the concatenation.
Deviations:
- `drop_path` acts where an input is added; timm also scales and drops the output of blocks without a shortcut.
- `zero_init` is refused: a block's last BatchNorm is followed by ReLU, so at 0 no gradient would ever reach it.

Legend: B batch, C channels, H W height and width.
"""

from typing import Any

import torch
from torch import nn

from public.models.backbone import Backbone, GlobalAveragePool, check_drop_path
from public.models.backbones.cspresnet import EffectiveSE
from public.models.image_classifier import Classifier
from public.models.layers import ConvBNAct, StochasticDepth, conv_and_activation, fold_batch_norm, make_activation

STRIDES = (4, 8, 16, 32)  # of the stages
STEM = (64, 64, 128)  # channels of the three convolutions; the depthwise networks keep 64
DEPTHWISE_STEM = (64, 64, 64)
SLIM = {"middle": (64, 80, 96, 112), "channels": (112, 256, 384, 512)}
FULL = {"middle": (128, 160, 192, 224), "channels": (256, 512, 768, 1024)}

# of each stage: middle, the channels of its 3x3 convolutions; channels, of its output; num_blocks.
# num_layers: 3x3 convolutions in a block; use_depthwise: each of them a depthwise and a 1x1 convolution.
NETWORKS: dict[str, dict[str, Any]] = {
    "vovnet19_slim_dw_se": {**SLIM, "num_layers": 3, "num_blocks": (1, 1, 1, 1), "use_depthwise": True},
    "vovnet19_slim_se": {**SLIM, "num_layers": 3, "num_blocks": (1, 1, 1, 1), "use_depthwise": False},
    "vovnet19_dw_se": {**FULL, "num_layers": 3, "num_blocks": (1, 1, 1, 1), "use_depthwise": True},
    "vovnet19_se": {**FULL, "num_layers": 3, "num_blocks": (1, 1, 1, 1), "use_depthwise": False},
    "vovnet39_se": {**FULL, "num_layers": 5, "num_blocks": (1, 1, 2, 2), "use_depthwise": False},
    "vovnet57_se": {**FULL, "num_layers": 5, "num_blocks": (1, 1, 4, 3), "use_depthwise": False},
    "vovnet99_se": {**FULL, "num_layers": 5, "num_blocks": (1, 3, 9, 3), "use_depthwise": False},
}


class SeparableConvBNAct(nn.Module):
    """3x3 depthwise convolution, 1x1 convolution, then one BatchNorm and the activation.

    (B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride))
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        activation: str,
        stride: int = 1,
        bn_eps: float = 1e-5,
        bn_momentum: float = 0.1,
    ):
        super().__init__()
        self.depthwise = nn.Conv2d(in_channels, in_channels, 3, stride, padding=1, groups=in_channels, bias=False)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=bn_eps, momentum=bn_momentum)
        self.act = make_activation(activation, out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.bn(self.pointwise(self.depthwise(x))))

    def fused(self) -> nn.Sequential:
        """The depthwise convolution, the 1x1 convolution with bias, the activation."""
        weight, bias = fold_batch_norm(self.pointwise, self.bn)
        return nn.Sequential(self.depthwise, *conv_and_activation(self.pointwise, weight, bias, self.act))


class OSABlock(nn.Module):
    """One-shot aggregation: a chain of 3x3 convolutions, whose outputs and the input a 1x1 convolution sums up at once.

    (B, in_channels, H, W) -> (B, out_channels, H, W)

    Args:
        middle: channels of the 3x3 convolutions.
        num_layers: how many there are.
        use_depthwise: make them separable, after a 1x1 convolution to `middle` channels where the input has others.
        use_attention: effective squeeze and excitation on the result.
        use_shortcut: add the input in the end, which needs as many channels.
        drop_path: the probability that a sample skips everything but the shortcut, in training.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        middle: int,
        num_layers: int,
        use_depthwise: bool,
        use_attention: bool,
        use_shortcut: bool,
        drop_path: float,
        **common,  # activation, bn_eps and bn_momentum
    ):
        super().__init__()
        self.reduce = None
        channels = in_channels
        if use_depthwise and in_channels != middle:
            self.reduce = ConvBNAct(in_channels, middle, 1, **common)
            channels = middle
        self.layers = nn.ModuleList()
        for _ in range(num_layers):
            self.layers.append(_conv_3x3(channels, middle, use_depthwise, **common))
            channels = middle
        self.concat = ConvBNAct(in_channels + num_layers * middle, out_channels, 1, **common)
        self.attn = EffectiveSE(out_channels) if use_attention else None
        self.use_shortcut = use_shortcut
        self.drop_path = StochasticDepth(drop_path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs = [x]
        y = x if self.reduce is None else self.reduce(x)
        for layer in self.layers:
            y = layer(y)
            outputs.append(y)
        y = self.concat(torch.cat(outputs, dim=1))
        if self.attn is not None:
            y = self.attn(y)
        return x + self.drop_path(y) if self.use_shortcut else y


def _conv_3x3(in_channels: int, out_channels: int, use_depthwise: bool, **options) -> nn.Module:
    if use_depthwise:
        return SeparableConvBNAct(in_channels, out_channels, **options)
    return ConvBNAct(in_channels, out_channels, 3, **options)


def build(
    name: str,
    *,
    num_classes: int,
    in_chans: int = 3,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    zero_init: bool = False,
    activation: str = "relu",
    bn_eps: float = 1e-5,
    bn_momentum: float = 0.1,
) -> Classifier:
    """The network of NETWORKS called `name`, with maps of strides 4, 8, 16 and 32.

    Initial values as in timm: convolutions N(0, 2 / (out channels * kernel area)), whatever the groups; biases of the
    attention and weights of the last layer torch's own, the last layer's bias 0.

    Args:
        dropout: on the features.
        drop_path: of stochastic depth, in [0, 1): the last block's rate; it grows on a line from 0 at the first block, and
            blocks without a shortcut ignore theirs.
        zero_init: must be False.
        activation: a name of `public.models.layers`.
        bn_eps, bn_momentum: of every BatchNorm.

    Raises:
        ValueError: a `drop_path` that is not a probability or for a network without shortcuts, `zero_init`, or an unknown
            `activation`.
    """
    network = NETWORKS[name]
    _check(name, drop_path, zero_init)
    common: dict[str, Any] = {"activation": activation, "bn_eps": bn_eps, "bn_momentum": bn_momentum}
    use_depthwise = network["use_depthwise"]
    first, second, third = DEPTHWISE_STEM if use_depthwise else STEM
    stem = nn.Sequential(
        ConvBNAct(in_chans, first, 3, stride=2, **common),
        _conv_3x3(first, second, use_depthwise, **common),
        _conv_3x3(second, third, use_depthwise, stride=2, **common),
    )
    model = Classifier(
        backbone=Backbone(
            stem=stem,
            stages=_stages(network, third, drop_path, **common),
            channels=network["channels"],
            strides=STRIDES,
            input_layer="stem.0.conv",
        ),
        final=GlobalAveragePool(),
        num_features=network["channels"][-1],
        num_classes=num_classes,
        dropout=dropout,
    )
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    nn.init.zeros_(model.fc.bias)
    return model


def _check(name: str, drop_path: float, zero_init: bool) -> None:
    check_drop_path(drop_path)
    if drop_path and max(NETWORKS[name]["num_blocks"]) == 1:
        raise ValueError(f"drop_path={drop_path}: {name} has no shortcut that stochastic depth could leave; write 0")
    if zero_init:
        raise ValueError(
            f"zero_init=True: the last BatchNorm of a block of {name} is followed by an activation, which would let no "
            "gradient through at 0; write False"
        )


def _stages(network: dict, in_channels: int, drop_path: float, **common) -> list[nn.Sequential]:
    """Each stage's blocks in a row, behind a max pool of stride 2 from the second stage on.

    The pool has no padding but rounds up: H -> floor(H / 2), and an H of 1 is an error.
    """
    last = sum(network["num_blocks"]) - 1
    stages, number = [], 0
    for middle, channels, num_blocks in zip(network["middle"], network["channels"], network["num_blocks"], strict=True):
        stage = nn.Sequential()
        if stages:
            stage.add_module("pool", nn.MaxPool2d(3, stride=2, ceil_mode=True))
        for position in range(num_blocks):
            block = OSABlock(
                in_channels,
                channels,
                middle=middle,
                num_layers=network["num_layers"],
                use_depthwise=network["use_depthwise"],
                use_attention=position == num_blocks - 1,
                use_shortcut=position > 0,
                drop_path=drop_path * number / last,
                **common,
            )
            stage.add_module(f"block{position + 1}", block)
            in_channels, number = channels, number + 1
        stages.append(stage)
    return stages
