"""Quantisation-aware training: a network that is trained with the rounding of int8, for any family.

Papers: those of `public.models.quantised` and, of learnt ranges, `public.models.learned_ranges`, which hold what is computed.

    detector=Quantised(
        network=PicoDet(...),
        quantisation=QAT(weight_bits=8, activation_bits=8, per_channel=True, observer=MovingRange(momentum=0.9), ...),
    )
"""

from dataclasses import dataclass
from typing import Annotated, Any

from torch import nn

from public.families.wrapped import Wrapped
from public.models.learned_ranges import learn_ranges
from public.models.quantised import quantise_convs, quantised_layers
from public.settings import Count, Fraction, GoesWithEpochs, Name, Natural, Offers, Positive, Within, check

Bits = Annotated[int, Within(2, 8)]


@dataclass(frozen=True, kw_only=True)
class MovingRange:
    """A range moves towards that of each batch: PaddleSlim's moving_average_abs_max, with both ends."""

    momentum: Fraction  # share of the old range

    def __post_init__(self) -> None:
        check(self)

    def share(self) -> float | None:
        return self.momentum


@dataclass(frozen=True, kw_only=True)
class LargestRange:
    """A range widens to all that was seen."""

    def share(self) -> float | None:
        return None


@dataclass(frozen=True, kw_only=True)
class LearnedRange:
    """A range is observed as by MovingRange for some epochs, then both of its ends are learnt by gradient: LSQ+.

    Each end is multiplied by a factor whose logarithm is learnt, so that with Adam a step changes it by about a share of
    the learning rate, however wide it is.  They are never decayed, whatever the optimizer does with other parameters.
    """

    momentum: Fraction  # share of the old range, while it is observed
    observed_epochs: Annotated[Count, GoesWithEpochs()]  # from QAT.start_epoch on; then it is learnt
    lr_factor: Positive  # of the learning rate, for the logarithms

    def __post_init__(self) -> None:
        check(self)

    def share(self) -> float | None:
        return self.momentum


@dataclass(frozen=True, kw_only=True)
class QAT:
    """When and how layers are quantised while they are trained."""

    weight_bits: Bits
    activation_bits: Bits
    per_channel: bool  # weights by filter, and what comes into depthwise convolutions by channel
    observer: Annotated[Any, Offers("share", "MovingRange(...), LargestRange() or LearnedRange(...)")]
    start_epoch: Annotated[Natural, GoesWithEpochs()]  # until then the network is trained in float
    freeze_observers_epoch: Annotated[Natural | None, GoesWithEpochs()]  # from then on ranges stay; None: never
    freeze_batchnorm_epoch: Annotated[Natural | None, GoesWithEpochs()]  # from then on running statistics; None: never
    float_layers: tuple[Name, ...]  # beginnings of names, beside the layers that the outputs are made of

    def __post_init__(self) -> None:
        """
        Raises:
            ValueError: ranges are frozen before one was seen, or was learnt.
        """
        check(self)
        if self.freeze_observers_epoch is not None and self.freeze_observers_epoch <= self.start_epoch:
            raise ValueError(
                f"QAT.freeze_observers_epoch is {self.freeze_observers_epoch}, start_epoch {self.start_epoch}; no range "
                "would be seen in between"
            )
        learning = self.learning_epoch
        if learning is not None and self.freeze_observers_epoch is not None and self.freeze_observers_epoch <= learning:
            raise ValueError(
                f"QAT.freeze_observers_epoch is {self.freeze_observers_epoch}, start_epoch {self.start_epoch} and the "
                f"observer's observed_epochs {self.observer.observed_epochs}; no range would be learnt in between"
            )

    @property
    def learning_epoch(self) -> int | None:
        """The first epoch in which ranges are learnt, and no longer observed; None: never."""
        return self.start_epoch + self.observer.observed_epochs if isinstance(self.observer, LearnedRange) else None


@dataclass(frozen=True, kw_only=True)
class Quantised(Wrapped):
    """A network whose convolutions are trained as int8 computes them."""

    network: Annotated[Any, Offers("build_model", "PicoDet(...) or ImageClassifier(...)")]
    quantisation: QAT

    def __post_init__(self) -> None:
        check(self)
        self.check_network()

    @property
    def ready_epoch(self) -> int:
        """As of `public.tasks.base.BaseTask`: before, the network is one in float."""
        return self.quantisation.start_epoch + 1

    def prepare(self, model: nn.Module) -> nn.Module:
        """
        Raises:
            ValueError: `float_layers` names no convolution.
        """
        settings = self.quantisation
        quantise_convs(
            model,
            weight_bits=settings.weight_bits,
            activation_bits=settings.activation_bits,
            per_channel=settings.per_channel,
            momentum=settings.observer.share(),
            float_layers=settings.float_layers,
        )
        if isinstance(settings.observer, LearnedRange):
            learn_ranges(model, lr_factor=settings.observer.lr_factor)
        return model

    def on_epoch(self, model: Any, epoch: int) -> None:
        """Called before each epoch, counted from 0, and when a run is resumed."""
        settings = self.quantisation
        end, still = settings.freeze_observers_epoch, settings.freeze_batchnorm_epoch
        is_moving = epoch >= settings.start_epoch and (end is None or epoch < end)
        is_learning = is_moving and settings.learning_epoch is not None and epoch >= settings.learning_epoch
        for layer in quantised_layers(model):
            layer.is_observing = is_moving and not is_learning
            if layer.factors is not None:
                layer.factors.learn(is_learning)
            layer.is_batchnorm_frozen = still is not None and epoch >= still
        self.network.on_epoch(model, epoch)
