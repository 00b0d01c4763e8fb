"""The classifier on top of any backbone: it turns the last feature map into logits.

Legend: B batch, C channels, H W height and width, F features, K classes.
"""

from numbers import Integral

import torch
from torch import nn

from public.models.backbone import Backbone


def check_num_classes(num_classes: int) -> int:
    """`num_classes`, if a classifier can have so many.

    Raises:
        ValueError: it is not a whole number, or less than 1.
    """
    if not isinstance(num_classes, Integral) or num_classes < 1:
        raise ValueError(
            f"num_classes = {num_classes!r}: a whole number, at least 1; for feature maps without a class layer write "
            "create_model(..., features_only=True)"
        )
    return num_classes


class Classifier(nn.Module):
    """Images (B, in_chans, H, W) -> logits (B, K).

    Args:
        backbone: a `Backbone`; its last map is classified.
        final: the last map (B, C, h, w) -> features (B, F); most families: GlobalAveragePool().
        num_features: F.
        num_classes: K.
        dropout: probability on the features, in training.

    Raises:
        ValueError: `num_classes` is less than 1, or `dropout` is not a probability.
    """

    class_layers = ("fc.",)  # what another number of classes changes, by the beginning of its names
    training_only = ()  # children that `fuse` leaves out

    def __init__(self, *, backbone: Backbone, final: nn.Module, num_features: int, num_classes: int, dropout: float):
        check_num_classes(num_classes)
        super().__init__()
        self.backbone = backbone
        self.input_layer = f"backbone.{backbone.input_layer}"  # the convolution that reads the images
        self.final = final
        self.dropout = nn.Dropout(dropout)
        self.num_features = num_features
        self.num_classes = num_classes
        self.fc = nn.Linear(num_features, num_classes)

    def reset_classifier(self, num_classes: int) -> None:
        """A new last layer for another number of classes, with torch's initial values, on the same device.

        Raises:
            ValueError: `num_classes` is less than 1.
        """
        self.num_classes = check_num_classes(num_classes)
        self.fc = nn.Linear(self.num_features, num_classes, device=self.fc.weight.device, dtype=self.fc.weight.dtype)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.dropout(self.final(self.backbone(images)[-1])))
