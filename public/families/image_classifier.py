"""Image classifiers: the settings of any network of `public/models/backbones`, and how network and loss are built."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from public.losses.cross_entropy import CrossEntropyLoss
from public.models.backbones import build
from public.models.image_classifier import Classifier
from public.settings import Count, Fraction, Name, Probability, check


@dataclass(frozen=True, kw_only=True)
class ImageClassifier:
    """Every number of a classifier that decides a result; what each network is stands in its family's file."""

    network: Name  # a name of `public.models.backbones.NETWORKS`, such as resnet18_cifar
    num_classes: Count
    in_chans: Count  # channels of the images, 3 for those of an InputSpec
    dropout: Probability  # on the features, in training
    drop_path: Fraction  # of stochastic depth: the rate of the last block; 0 where the family has none
    zero_init: bool  # the last BatchNorm of each residual branch starts at 0
    label_smoothing: Fraction
    options: tuple[tuple[Name, Any], ...]  # further keywords of the family's `build`, such as ("bn_eps", 1e-3)

    def __post_init__(self) -> None:
        check(self)

    def build_model(self) -> Classifier:
        """A new network in train mode; its initial values come from torch's global generator.

        Raises:
            ValueError: an unknown network, with the nearest names; a value that the family refuses.
            TypeError: an option that the family does not know.
        """
        return build(
            self.network,
            num_classes=self.num_classes,
            in_chans=self.in_chans,
            dropout=self.dropout,
            drop_path=self.drop_path,
            zero_init=self.zero_init,
            **dict(self.options),
        )

    def build_loss(self) -> CrossEntropyLoss:
        return CrossEntropyLoss(num_classes=self.num_classes, label_smoothing=self.label_smoothing)

    def on_epoch(self, model: nn.Module, epoch: int) -> None:
        """Called before each epoch; a classifier changes nothing in its network."""
