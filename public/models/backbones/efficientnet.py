"""EfficientNet b0 to b3.

Paper: EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, arXiv 1905.11946: table 1 is b0; b1 to b3
multiply its widths and depths.
Weights: torchvision's and timm's efficientnet_b0 ... b3, by `public.weights.backbones.efficientnet.rename`.  Both have
BatchNorm's eps 1e-5 and momentum 0.1; weights ported from TensorFlow (timm's tf_efficientnet_*) have 1e-3, and pad on the
right and bottom only, which is another network.
Deviations:
- Stochastic depth is off unless `drop_path` says otherwise (the paper and torchvision: 0.2), so that a recipe states it.
- `activation` replaces SiLU between the convolutions; inside the squeeze and excitation SiLU stays.

Legend: B batch, C channels, H W height and width, F features.
"""

import math
from collections import OrderedDict
from typing import Any

from torch import nn

from public.models.backbone import GlobalAveragePool
from public.models.backbones.mobilenetv3 import BlockShape, build_backbone, group_by_stride, initialise, round_channels
from public.models.image_classifier import Classifier
from public.models.layers import ConvBNAct

STEM_CHANNELS = 32
LAST_EXPANSION = 4  # channels of the last 1x1 convolution, in multiples of the last block's
# of b0: expansion, kernel, stride of the first block, channels, blocks
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
NETWORKS = {
    "efficientnet_b0": {"width": 1.0, "depth": 1.0, "dropout": 0.2},
    "efficientnet_b1": {"width": 1.0, "depth": 1.1, "dropout": 0.2},
    "efficientnet_b2": {"width": 1.1, "depth": 1.2, "dropout": 0.3},
    "efficientnet_b3": {"width": 1.2, "depth": 1.4, "dropout": 0.3},
}


def paper_stages(name: str, activation: str = "silu") -> list[list[BlockShape]]:
    """The blocks of the network called `name`, in the paper's seven stages.

    The squeeze and excitation narrows to a quarter of the block's input, not of its expanded channels.
    """
    network = NETWORKS[name]
    in_channels = round_channels(STEM_CHANNELS * network["width"])
    stages = []
    for expansion, kernel_size, first_stride, channels, num_blocks in STAGES:
        out_channels = round_channels(channels * network["width"])
        stage = []
        for number in range(math.ceil(num_blocks * network["depth"])):
            stride = first_stride if number == 0 else 1
            expanded, squeezed = expansion * in_channels, in_channels // 4
            stage.append(BlockShape(in_channels, expanded, out_channels, kernel_size, stride, squeezed, activation))
            in_channels = out_channels
        stages.append(stage)
    return stages


def build(
    name: str,
    *,
    num_classes: int,
    in_chans: int = 3,
    dropout: float | None = None,
    drop_path: float = 0.0,
    zero_init: bool = False,
    activation: str = "silu",
    bn_eps: float = 1e-5,
    bn_momentum: float = 0.1,
) -> Classifier:
    """The network of NETWORKS called `name`, with maps of strides 2, 4, 8, 16 and 32.

    Initial values as in torchvision: convolutions N(0, 2 / fan-out), the last layer uniform within 1 / sqrt(num_classes),
    biases 0.

    Args:
        dropout: on the features; None: the paper's for this network.
        drop_path: of stochastic depth, in [0, 1), rising linearly with the depth.
        zero_init: the last BatchNorm of each block with a shortcut starts at 0.
        activation: between the convolutions, a name of `public.models.layers`.
        bn_eps, bn_momentum: of every BatchNorm.

    Raises:
        ValueError: a `drop_path` or `activation` that there is not.
    """
    bn: dict[str, Any] = {"bn_eps": bn_eps, "bn_momentum": bn_momentum}
    shapes = [shape for stage in paper_stages(name, activation) for shape in stage]
    backbone = build_backbone(
        ConvBNAct(in_chans, shapes[0].in_channels, 3, stride=2, activation=activation, **bn),
        *group_by_stride(shapes, stride=2),
        squeeze_activation=nn.SiLU,
        gate=nn.Sigmoid,
        drop_path=drop_path,
        **bn,
    )
    num_features = LAST_EXPANSION * shapes[-1].out_channels
    final = OrderedDict(
        conv=ConvBNAct(shapes[-1].out_channels, num_features, 1, activation=activation, **bn), pool=GlobalAveragePool()
    )
    model = Classifier(
        backbone=backbone,
        final=nn.Sequential(final),
        num_features=num_features,
        num_classes=num_classes,
        dropout=NETWORKS[name]["dropout"] if dropout is None else dropout,
    )
    initialise(model, zero_init=zero_init)
    bound = 1 / math.sqrt(num_classes)
    nn.init.uniform_(model.fc.weight, -bound, bound)
    nn.init.zeros_(model.fc.bias)
    return model
