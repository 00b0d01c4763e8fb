"""CSPResNet, the backbone of PPYOLOE.

Paper: PP-YOLOE: An evolved version of YOLO, arXiv 2203.16250, section 2.2; stages after CSPNet (arXiv 1911.11929), the
channel attention after CenterMask (arXiv 1911.06667), re-parameterised blocks after RepVGG (arXiv 2101.03697).
Weights: PaddleDetection's CSPResNet, inside its PPYOLOE checkpoints or alone as trained on ImageNet (CSPResNetb_*), by
`public/weights/detectors/ppyoloe.py`.  Those files hold no classifier: here it is the mean of the last map and one linear
layer.
Deviations:
- BatchNorm's running variance takes the unbiased variance of a batch (torch's rule); Paddle takes the biased one.
- A learnt alpha of exactly 0 switches the 1x1 branch off; the original's test for truth makes it act as 1.

Legend: B batch, C channels, H W height and width.
"""

import itertools
from collections.abc import Sequence

import torch
from torch import nn

from public.models.backbone import Backbone, GlobalAveragePool, check_drop_path
from public.models.image_classifier import Classifier
from public.models.layers import ConvBNAct, RepVGGBlock, StochasticDepth, initialise_convs

CHANNELS = (64, 128, 256, 512, 1024)  # of the stem and the four stages at width 1
BLOCKS = (3, 6, 6, 3)  # of the four stages at depth 1
STRIDES = (4, 8, 16, 32)  # of the four stages
# factors of the block and channel counts: PPYOLOE's sizes; xs is miemiedetection's
NETWORKS = {
    "cspresnet_xs": {"depth": 0.16, "width": 0.25},
    "cspresnet_s": {"depth": 0.33, "width": 0.50},
    "cspresnet_m": {"depth": 0.67, "width": 0.75},
    "cspresnet_l": {"depth": 1.00, "width": 1.00},
    "cspresnet_x": {"depth": 1.33, "width": 1.25},
}


class RepBasicBlock(nn.Module):
    """3x3 convolution, then a RepVGG block, with or without the input added.  (B, C, H, W) -> the same.

    `drop_path` is the probability that a sample skips everything but the input, in training.
    """

    def __init__(self, channels: int, *, activation: str, use_shortcut: bool, use_alpha: bool, drop_path: float = 0.0):
        super().__init__()
        self.conv1 = ConvBNAct(channels, channels, 3, activation=activation)
        self.conv2 = RepVGGBlock(channels, channels, activation=activation, use_alpha=use_alpha)
        self.drop_path = StochasticDepth(drop_path)
        self.use_shortcut = use_shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv2(self.conv1(x))
        return x + self.drop_path(y) if self.use_shortcut else y


class EffectiveSE(nn.Module):
    """Channel attention: each channel times the hard sigmoid of one linear layer of all channel means.

    The mean is taken over (2, 3): AdaptiveAvgPool2d has no deterministic backward on CUDA.  (B, C, H, W) -> the same.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.fc = nn.Conv2d(channels, channels, 1)
        self.act = nn.Hardsigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.act(self.fc(x.mean((2, 3), keepdim=True)))  # (B, C, 1, 1) broadcast over H, W


class CSPResStage(nn.Module):
    """Halves the resolution; then two branches of half the width, the second through residual blocks, and attention.

    (B, in_channels, H, W) -> (B, out_channels, ceil(H / 2), ceil(W / 2)); `drop_paths` has one rate a residual block.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, drop_paths: Sequence[float], activation: str, use_alpha: bool
    ):
        super().__init__()
        middle = (in_channels + out_channels) // 2
        half = middle // 2
        self.conv_down = ConvBNAct(in_channels, middle, 3, stride=2, activation=activation)
        self.conv1 = ConvBNAct(middle, half, 1, activation=activation)
        self.conv2 = ConvBNAct(middle, half, 1, activation=activation)
        self.blocks = nn.Sequential(
            *(
                RepBasicBlock(half, activation=activation, use_shortcut=True, use_alpha=use_alpha, drop_path=rate)
                for rate in drop_paths
            )
        )
        self.attn = EffectiveSE(2 * half)
        self.conv3 = ConvBNAct(2 * half, out_channels, 1, activation=activation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv_down(x)  # (B, middle, H/2, W/2)
        x = torch.cat([self.conv1(x), self.blocks(self.conv2(x))], dim=1)
        return self.conv3(self.attn(x))


class CSPResNet(Backbone):
    """Images (B, in_chans, H, W) -> the maps of strides 4, 8, 16 and 32, or those that `select` left, as a list.

    Args:
        in_chans: channels of the images.
        channels: of the stem and of the four stages, five numbers.
        num_blocks: residual blocks in each of the four stages.
        use_alpha: a learnt factor on each block's 1x1 branch (PPYOLOE+).
        activation: a name of `public.models.layers.ACTIVATIONS`.
        drop_path: of stochastic depth: the last block's rate; the first has 0, those between lie on a line.
    """

    def __init__(
        self,
        *,
        in_chans: int,
        channels: tuple[int, ...],
        num_blocks: tuple[int, ...],
        use_alpha: bool,
        activation: str,
        drop_path: float = 0.0,
    ):
        if len(channels) != 5 or len(num_blocks) != 4:
            raise ValueError(
                f"CSPResNet takes 5 channel counts (stem and four stages) and 4 block counts, "
                f"not {len(channels)} and {len(num_blocks)}: channels={channels}, num_blocks={num_blocks}"
            )
        width = channels[0]
        stem = nn.Sequential()
        stem.add_module("conv1", ConvBNAct(in_chans, width // 2, 3, stride=2, activation=activation))
        stem.add_module("conv2", ConvBNAct(width // 2, width // 2, 3, activation=activation))
        stem.add_module("conv3", ConvBNAct(width // 2, width, 3, activation=activation))
        last = max(sum(num_blocks) - 1, 1)
        rates = iter([drop_path * number / last for number in range(sum(num_blocks))])
        stages = []
        for inside, outside, count in zip(channels[:-1], channels[1:], num_blocks):
            own = list(itertools.islice(rates, count))
            stages.append(CSPResStage(inside, outside, drop_paths=own, activation=activation, use_alpha=use_alpha))
        super().__init__(
            stem=stem, stages=stages, channels=channels[1:], strides=STRIDES, input_layer="stem.conv1.conv"
        )


def build(
    name: str,
    *,
    num_classes: int,
    in_chans: int = 3,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    zero_init: bool = False,
    use_alpha: bool = False,
    activation: str = "silu",
) -> Classifier:
    """The network of NETWORKS called `name`, with maps of strides 4, 8, 16 and 32.

    Initial values: those of PPYOLOE's convolutions, see `initialise_convs`; the last layer torch's own.

    Args:
        dropout: on the features.
        drop_path: of stochastic depth, in [0, 1), over the residual blocks; see `CSPResNet`.
        zero_init: has no form here, because a residual branch ends in an activation.
        use_alpha: a learnt factor on each block's 1x1 branch (PPYOLOE+).
        activation: a name of `public.models.layers.ACTIVATIONS`.

    Raises:
        ValueError: `zero_init` is set, or there is no such `drop_path` or activation.
    """
    check_drop_path(drop_path)
    if zero_init:
        raise ValueError(f"zero_init={zero_init}: the residual branches of {name} end in an activation; leave it out")
    network = NETWORKS[name]
    backbone = CSPResNet(
        in_chans=in_chans,
        channels=tuple(scaled(count, network["width"]) for count in CHANNELS),
        num_blocks=tuple(scaled(count, network["depth"]) for count in BLOCKS),
        use_alpha=use_alpha,
        activation=activation,
        drop_path=drop_path,
    )
    initialise_convs(backbone)
    return Classifier(
        backbone=backbone,
        final=GlobalAveragePool(),
        num_features=backbone.channels[-1],
        num_classes=num_classes,
        dropout=dropout,
    )


def scaled(count: int, factor: float) -> int:
    """A channel or block count times a factor of width or depth, at least 1."""
    return max(round(count * factor), 1)
