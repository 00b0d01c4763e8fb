"""A network of an experiment's own: two stages of one convolution each, too small to learn anything hard."""

from public.models.backbone import Backbone, GlobalAveragePool
from public.models.image_classifier import Classifier
from public.models.layers import ConvBNAct


def tiny_classifier(*, num_classes: int, in_chans: int, width: int, dropout: float) -> Classifier:
    backbone = Backbone(
        stem=ConvBNAct(in_chans, width, 3, stride=2, activation="relu"),
        stages=[
            ConvBNAct(width, width, 3, activation="relu"),
            ConvBNAct(width, 2 * width, 3, stride=2, activation="relu"),
        ],
        channels=(width, 2 * width),
        strides=(2, 4),
        input_layer="stem.conv",
    )
    return Classifier(
        backbone=backbone,
        final=GlobalAveragePool(),
        num_features=2 * width,
        num_classes=num_classes,
        dropout=dropout,
    )
