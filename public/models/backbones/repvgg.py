"""RepVGG: plain 3x3 convolutions when it runs, three branches while it learns.

Paper: RepVGG: Making VGG-style ConvNets Great Again, arXiv 2101.03697, tables 2 and 3.
Weights: timm's repvgg_a0 ... repvgg_b3 (the authors' own, in their training form), by
`public.weights.backbones.repvgg.rename`; `public.models.fuse.fuse` makes one 3x3 convolution of each block.
Deviations:
- Initial values are torch's defaults, as in the authors' code; timm draws BatchNorm's weights from N(0.1, 0.1 squared).
- Stochastic depth, which the paper has not, can be switched on; as in timm it drops the two convolutions of a block.

Legend: B batch, C channels, H W height and width.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from public.models.backbone import Backbone, GlobalAveragePool, check_drop_path
from public.models.image_classifier import Classifier
from public.models.layers import (
    ConvBNAct,
    StochasticDepth,
    batch_norm_factors,
    conv_and_activation,
    fold_batch_norm,
    make_activation,
)

CHANNELS = (64, 128, 256, 512)  # of the four stages at width 1
STRIDES = (4, 8, 16, 32)  # of their maps
BLOCKS_A, BLOCKS_B = (2, 4, 14, 1), (4, 6, 16, 1)  # in the four stages
NETWORKS: dict[str, dict[str, Any]] = {  # width: of the first three stages; last_width: of the last one
    "repvgg_a0": {"num_blocks": BLOCKS_A, "width": 0.75, "last_width": 2.5},
    "repvgg_a1": {"num_blocks": BLOCKS_A, "width": 1.0, "last_width": 2.5},
    "repvgg_a2": {"num_blocks": BLOCKS_A, "width": 1.5, "last_width": 2.75},
    "repvgg_b0": {"num_blocks": BLOCKS_B, "width": 1.0, "last_width": 2.5},
    "repvgg_b1": {"num_blocks": BLOCKS_B, "width": 2.0, "last_width": 4.0},
    "repvgg_b2": {"num_blocks": BLOCKS_B, "width": 2.5, "last_width": 5.0},
    "repvgg_b3": {"num_blocks": BLOCKS_B, "width": 3.0, "last_width": 5.0},
}


class ThreeBranchBlock(nn.Module):
    """act(3x3 branch + 1x1 branch + identity branch), each ending with a BatchNorm, which the identity consists of.

    The identity is left out where input and output differ in shape.
    (B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride))

    Args:
        drop_path: the probability that a sample skips everything but the identity, in training.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int,
        activation: str,
        drop_path: float,
        bn_eps: float,
        bn_momentum: float,
    ):
        super().__init__()
        options: dict[str, Any] = {"stride": stride, "activation": "none", "bn_eps": bn_eps, "bn_momentum": bn_momentum}
        self.dense = ConvBNAct(in_channels, out_channels, 3, **options)
        self.pointwise = ConvBNAct(in_channels, out_channels, 1, **options)
        has_identity = stride == 1 and in_channels == out_channels
        self.identity = nn.BatchNorm2d(out_channels, eps=bn_eps, momentum=bn_momentum) if has_identity else None
        self.drop_path = StochasticDepth(drop_path)
        self.act = make_activation(activation, out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.dense(x) + self.pointwise(x)
        if self.identity is not None:
            y = self.drop_path(y) + self.identity(x)
        return self.act(y)

    def fused(self) -> nn.Sequential:
        """One 3x3 convolution with bias, then activation.

        A 1x1 kernel is a 3x3 kernel with a border of zeros; the identity is a 1x1 kernel that gives each channel to
        itself; kernels of branches that are added are added.
        """
        weight, bias = fold_batch_norm(self.dense.conv, self.dense.bn)
        weight_1x1, bias_1x1 = fold_batch_norm(self.pointwise.conv, self.pointwise.bn)
        weight, bias = weight + F.pad(weight_1x1, (1, 1, 1, 1)), bias + bias_1x1
        if self.identity is not None:
            scale, shift = batch_norm_factors(self.identity)
            weight[:, :, 1, 1] += scale.diag()
            bias = bias + shift
        return conv_and_activation(self.dense.conv, weight, bias, self.act)


def stage_channels(name: str) -> list[int]:
    """The channels of the four stages of the network called `name`."""
    network = NETWORKS[name]
    widths = [network["width"]] * 3 + [network["last_width"]]
    return [int(channels * width) for channels, width in zip(CHANNELS, widths, strict=True)]


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

    Args:
        dropout: on the features.
        drop_path: of stochastic depth in the last block, in [0, 1), rising linearly from 0 in the first.
        zero_init: in each block that has an identity, the BatchNorm weights of the two other branches start at 0: the
            block starts as its identity.
        activation: after each block, a name of `public.models.layers`.
        bn_eps, bn_momentum: of every BatchNorm.

    Raises:
        ValueError: a `drop_path` or `activation` that there is not.
    """
    check_drop_path(drop_path)
    options: dict[str, Any] = {"activation": activation, "bn_eps": bn_eps, "bn_momentum": bn_momentum}
    num_blocks, channels = NETWORKS[name]["num_blocks"], stage_channels(name)
    in_channels = min(CHANNELS[0], channels[0])
    stem = ThreeBranchBlock(in_chans, in_channels, stride=2, drop_path=0.0, **options)
    stages, number = [], 0
    for out_channels, count in zip(channels, num_blocks, strict=True):
        blocks = []
        for position in range(count):
            dropped = drop_path * number / (sum(num_blocks) - 1)
            stride = 2 if position == 0 else 1
            blocks.append(ThreeBranchBlock(in_channels, out_channels, stride=stride, drop_path=dropped, **options))
            in_channels, number = out_channels, number + 1
        stages.append(nn.Sequential(*blocks))
    model = Classifier(
        backbone=Backbone(stem=stem, stages=stages, channels=channels, strides=STRIDES, input_layer="stem.dense.conv"),
        final=GlobalAveragePool(),
        num_features=channels[-1],
        num_classes=num_classes,
        dropout=dropout,
    )
    if zero_init:
        _start_as_identity(model)
    return model


def _start_as_identity(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, ThreeBranchBlock) and module.identity is not None:
            nn.init.zeros_(module.dense.bn.weight)
            nn.init.zeros_(module.pointwise.bn.weight)
