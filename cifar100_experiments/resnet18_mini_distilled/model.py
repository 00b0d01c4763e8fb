"""ResNet-18 with a quarter of the channels, for pictures of 32 pixels.

Paper: Deep Residual Learning for Image Recognition, arXiv 1512.03385, table 1.  The stem is a 3x3 convolution, without
pooling; everything behind it is that of ResNet-18.
"""

from torch import nn

from public.models.backbone import Backbone, GlobalAveragePool
from public.models.backbones.resnet import BLOCKS, ResidualBlock
from public.models.image_classifier import Classifier
from public.models.layers import ConvBNAct

COMMON = {"activation": "relu", "bn_eps": 1e-5, "bn_momentum": 0.1}


def mini_resnet18(*, num_classes: int, in_chans: int, width: int, stem_stride: int, dropout: float) -> Classifier:
    """Images (B, in_chans, H, W) -> logits (B, num_classes).

    Initial values: convolutions N(0, 2 / (out channels * kernel area)), the last layer torch's own.

    Args:
        width: channels of the stem and of the first stage; each further stage has twice as many.
        stem_stride: of the stem; the stages have stride 1, 2, 2, 2.
        dropout: on the features, in training.
    """
    channels = tuple(width * 2**stage for stage in range(4))
    backbone = Backbone(
        stem=ConvBNAct(in_chans, width, 3, stride=stem_stride, **COMMON),
        stages=[_stage(number, channels) for number in range(4)],
        channels=channels,
        strides=tuple(stem_stride * 2**stage for stage in range(4)),
        input_layer="stem.conv",
    )
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return Classifier(
        backbone=backbone,
        final=GlobalAveragePool(),
        num_features=channels[-1],
        num_classes=num_classes,
        dropout=dropout,
    )


def _stage(number: int, channels: tuple[int, ...]) -> nn.Sequential:
    """Blocks of two 3x3 convolutions; the first one halves the resolution, but in the first stage."""
    in_channels, stride = (channels[number - 1], 2) if number else (channels[0], 1)
    blocks = []
    for position in range(BLOCKS[18][number]):
        shape = (in_channels, channels[number]) if position == 0 else (channels[number], channels[number])
        own = {"is_bottleneck": False, "stride": stride if position == 0 else 1}
        blocks.append(ResidualBlock(*shape, **own, attention="none", drop_path=0.0, **COMMON))
    return nn.Sequential(*blocks)
