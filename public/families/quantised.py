"""Quantisation-aware training: a network that is trained with the rounding of int8, for any family.

Papers: those of `public.models.quantised`, which holds what is computed.

    detector=Quantised(
        network=PicoDet(...),
        quantisation=QAT(weight_bits=8, activation_bits=8, per_channel=True, observer=MovingRange(momentum=0.9), ...),
    )
"""

from dataclasses import dataclass
from typing import Annotated, Any

from torch import nn

from public.families.wrapped import Wrapped
from public.models.quantised import quantise_convs, quantised_layers
from public.settings import Fraction, GoesWithEpochs, Name, Natural, Offers, Within, check

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
class QAT:
    """When and how layers are quantised while they are trained."""

    weight_bits: Bits
    activation_bits: Bits
    per_channel: bool  # weights by filter, and what comes into depthwise convolutions by channel
    observer: Annotated[Any, Offers("share", "MovingRange(...) or LargestRange()")]
    start_epoch: Annotated[Natural, GoesWithEpochs()]  # until then the network is trained in float
    freeze_observers_epoch: Annotated[Natural | None, GoesWithEpochs()]  # from then on ranges stay; None: never
    freeze_batchnorm_epoch: Annotated[Natural | None, GoesWithEpochs()]  # from then on running statistics; None: never
    float_layers: tuple[Name, ...]  # beginnings of names, beside the layers that the outputs are made of

    def __post_init__(self) -> None:
        """
        Raises:
            ValueError: ranges are frozen before one was seen.
        """
        check(self)
        if self.freeze_observers_epoch is not None and self.freeze_observers_epoch <= self.start_epoch:
            raise ValueError(
                f"QAT.freeze_observers_epoch is {self.freeze_observers_epoch}, start_epoch {self.start_epoch}; no range "
                "would be seen in between"
            )


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
        return model

    def on_epoch(self, model: Any, epoch: int) -> None:
        """Called before each epoch, counted from 0, and when a run is resumed."""
        settings = self.quantisation
        end, still = settings.freeze_observers_epoch, settings.freeze_batchnorm_epoch
        for layer in quantised_layers(model):
            layer.is_observing = epoch >= settings.start_epoch and (end is None or epoch < end)
            layer.is_batchnorm_frozen = still is not None and epoch >= still
        self.network.on_epoch(model, epoch)
