"""RegNetY, 200 MF to 6.4 GF.

Paper: Designing Network Design Spaces, arXiv 2003.13678: sections 3.3 and 4, the networks of figure 16 (RegNetY); the
squeeze and excitation after arXiv 1709.01507.
Weights: torchvision's regnet_y_{400mf,800mf,1_6gf,3_2gf} and timm's regnety_{002,004,006,008,016,032,040,064} and
regnety_008_tv, by `public.weights.backbones.regnet.rename`.  All have BatchNorm's eps 1e-5 and momentum 0.1.
Facts beyond the paper, from both: the excitation squeezes to a quarter of the block's *input* channels and stands before
the last 1x1 convolution; the group width divides the channels, it is not the number of groups.
Deviations:
- torchvision's regnet_y_800mf rounds a width half way between two multiples of the group width up; the paper's authors and
  timm round it to the even multiple.  Hence two networks called 800MF, 64 128 320 768 and 64 144 320 784 channels wide:
  `rounding="up"` builds torchvision's.
- Stochastic depth, which the paper has not, can be switched on; the last block gets the whole rate, as in timm.

Legend: B batch, C channels, H W height and width.
"""

import itertools
import math
from typing import Any

import torch
from torch import nn

from public.models.attention import SqueezeExcitation
from public.models.backbone import Backbone, GlobalAveragePool, check_drop_path
from public.models.image_classifier import Classifier
from public.models.layers import ConvBNAct, StochasticDepth, make_activation

STEM_CHANNELS = 32
STRIDES = (4, 8, 16, 32)  # of the stages, each of which halves the resolution
WIDTH_STEP = 8  # the widths are multiples of it before they become multiples of the group width
SQUEEZE_RATIO = 4  # block input channels to channels inside the squeeze and excitation

# width of block j before rounding: w_0 + w_a * j; w_m: ratio of the widths of neighbouring stages; depth: blocks
NETWORKS: dict[str, dict[str, Any]] = {
    "regnety_200mf": {"w_a": 36.44, "w_0": 24, "w_m": 2.49, "depth": 13, "group_width": 8},
    "regnety_400mf": {"w_a": 27.89, "w_0": 48, "w_m": 2.09, "depth": 16, "group_width": 8},
    "regnety_600mf": {"w_a": 32.54, "w_0": 48, "w_m": 2.32, "depth": 15, "group_width": 16},
    "regnety_800mf": {"w_a": 38.84, "w_0": 56, "w_m": 2.40, "depth": 14, "group_width": 16},
    "regnety_1_6gf": {"w_a": 20.71, "w_0": 48, "w_m": 2.65, "depth": 27, "group_width": 24},
    "regnety_3_2gf": {"w_a": 42.63, "w_0": 80, "w_m": 2.66, "depth": 21, "group_width": 24},
    "regnety_4_0gf": {"w_a": 31.41, "w_0": 96, "w_m": 2.24, "depth": 22, "group_width": 64},
    "regnety_6_4gf": {"w_a": 33.22, "w_0": 112, "w_m": 2.27, "depth": 25, "group_width": 72},
}


def stage_shapes(name: str, *, rounding: str = "even") -> tuple[list[int], list[int]]:
    """Widths (channels) and depths (blocks) of the stages of the network called `name`.

    The paper's equations 2 to 4: each block's width on the line is replaced by the nearest w_0 * w_m^k on a logarithmic
    scale, k a whole number; blocks of equal width form a stage.  Then the width becomes a multiple of the group width.

    Args:
        rounding: where a width lies half way between two multiples of the group width, "even" takes the even multiple
            (the paper's networks), "up" the larger one (torchvision's).

    Raises:
        ValueError: another `rounding`.
    """
    if rounding not in ("even", "up"):
        raise ValueError(f"rounding={rounding!r}: write 'even' for the paper's networks or 'up' for torchvision's")
    network = NETWORKS[name]
    first, group_width = network["w_0"], network["group_width"]
    widths = []
    for block in range(network["depth"]):
        step = round(math.log((first + network["w_a"] * block) / first, network["w_m"]))
        widths.append(WIDTH_STEP * round(first * network["w_m"] ** step / WIDTH_STEP))
    depths = [len(list(blocks)) for _, blocks in itertools.groupby(widths)]
    widths = [width / group_width for width, _ in itertools.groupby(widths)]
    groups = [round(width) if rounding == "even" else math.floor(width + 0.5) for width in widths]
    return [group_width * count for count in groups], depths


class YBlock(nn.Module):
    """act(shortcut + 1x1 (squeeze and excitation (grouped 3x3 (1x1 x)))), all of `out_channels`: no bottleneck.

    The shortcut is the input, or a 1x1 convolution with BatchNorm where the shape changes.
    (B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride))

    Args:
        drop_path: the probability that a sample skips everything but the shortcut, in training.
        bn_eps, bn_momentum: of every BatchNorm.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int,
        group_width: int,
        activation: str,
        drop_path: float,
        bn_eps: float,
        bn_momentum: float,
    ):
        super().__init__()
        bn: dict[str, Any] = {"bn_eps": bn_eps, "bn_momentum": bn_momentum}
        groups = out_channels // group_width
        self.conv1 = ConvBNAct(in_channels, out_channels, 1, activation=activation, **bn)
        self.conv2 = ConvBNAct(out_channels, out_channels, 3, stride=stride, groups=groups, activation=activation, **bn)
        self.se = SqueezeExcitation(out_channels, in_channels // SQUEEZE_RATIO)
        self.conv3 = ConvBNAct(out_channels, out_channels, 1, activation="none", **bn)
        self.drop_path = StochasticDepth(drop_path)
        self.shortcut = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = ConvBNAct(in_channels, out_channels, 1, stride=stride, activation="none", **bn)
        self.act = make_activation(activation, out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv3(self.se(self.conv2(self.conv1(x))))
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return self.act(shortcut + self.drop_path(y))


def build(
    name: str,
    *,
    num_classes: int,
    in_chans: int = 3,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    zero_init: bool = False,
    rounding: str = "even",
    activation: str = "relu",
    bn_eps: float = 1e-5,
    bn_momentum: float = 0.1,
) -> Classifier:
    """The network of NETWORKS called `name`, with maps of strides 4, 8, 16 and 32.

    Initial values as in the paper's code and torchvision: convolutions N(0, 2 / (out channels * kernel area)), whatever the
    groups; the biases of the squeeze and excitation torch's own; the last layer N(0, 0.01^2) with bias 0.

    Args:
        dropout: on the features.
        drop_path: of stochastic depth, in [0, 1): the last block's rate; the first has 0, those between lie on a line.
        zero_init: the last BatchNorm of each block starts at 0, so that the block starts as its shortcut.
        rounding: see `stage_shapes`; "up" for torchvision's regnet_y_800mf.
        activation: a name of `public.models.layers`; the squeeze and excitation keeps its ReLU.
        bn_eps, bn_momentum: of every BatchNorm.

    Raises:
        ValueError: a `drop_path`, `rounding` or `activation` that there is not.
    """
    check_drop_path(drop_path)
    widths, depths = stage_shapes(name, rounding=rounding)
    common: dict[str, Any] = {"activation": activation, "bn_eps": bn_eps, "bn_momentum": bn_momentum}
    backbone = Backbone(
        stem=ConvBNAct(in_chans, STEM_CHANNELS, 3, stride=2, **common),
        stages=_stages(widths, depths, drop_path, group_width=NETWORKS[name]["group_width"], **common),
        channels=widths,
        strides=STRIDES,
        input_layer="stem.conv",
    )
    model = Classifier(
        backbone=backbone,
        final=GlobalAveragePool(),
        num_features=widths[-1],
        num_classes=num_classes,
        dropout=dropout,
    )
    _initialise(model, zero_init=zero_init)
    return model


def _stages(widths: list[int], depths: list[int], drop_path: float, **options) -> list[nn.Sequential]:
    """Each stage's blocks in a row; `options` are those of every block."""
    last = sum(depths) - 1
    stages, in_channels, number = [], STEM_CHANNELS, 0
    for width, depth in zip(widths, depths, strict=True):
        blocks = []
        for position in range(depth):
            stride = 2 if position == 0 else 1
            blocks.append(YBlock(in_channels, width, stride=stride, drop_path=drop_path * number / last, **options))
            in_channels, number = width, number + 1
        stages.append(nn.Sequential(*blocks))
    return stages


def _initialise(model: Classifier, *, zero_init: bool) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if zero_init and isinstance(module, YBlock):
            nn.init.zeros_(module.conv3.bn.weight)
    nn.init.normal_(model.fc.weight, std=0.01)
    nn.init.zeros_(model.fc.bias)
