"""Unstructured pruning while a network is trained, for any family: gradual magnitude pruning (GMP).

Papers: those of `public.models.pruned`, which holds what is computed.

    detector=Pruned(network=PicoDet(...), pruning=GMP(ratio=0.75, initial_ratio=0.15, ...))
"""

from dataclasses import dataclass
from typing import Annotated, Any

from torch import nn

from public.families.wrapped import Wrapped
from public.models.pruned import add_masks, apply_masks, prune
from public.protocols import Progress
from public.settings import Count, Fraction, GoesWithEpochs, Name, Natural, Offers, check


@dataclass(frozen=True, kw_only=True)
class GMP:
    """How much is pruned, and when: stable epochs, then pruning epochs, then the rest of the run for tuning."""

    ratio: Fraction  # of each pruned layer's weights that are zero in the end
    initial_ratio: Fraction  # at the first step of the pruning epochs
    stable_epochs: Annotated[Natural, GoesWithEpochs()]
    pruning_epochs: Annotated[Count, GoesWithEpochs()]
    steps: Count  # in which the ratio rises
    pointwise_only: bool  # only convolutions of 1 x 1
    spared: tuple[Name, ...]  # beginnings of names of layers that are not pruned

    def __post_init__(self) -> None:
        """
        Raises:
            ValueError: the ratio falls.
        """
        check(self)
        if self.initial_ratio > self.ratio:
            raise ValueError(f"GMP.initial_ratio {self.initial_ratio} is larger than ratio {self.ratio}")

    def ratio_at(self, step: int, steps_per_epoch: int) -> float | None:
        """The ratio that holds after optimizer step `step`, counted from 0; None in the stable phase.

        ratio + (initial - ratio) * (1 - t) ** 3, where t rises from 0 to 1 in `steps` equal steps.
        """
        start, length = self.stable_epochs * steps_per_epoch, self.pruning_epochs * steps_per_epoch
        if step < start:
            return None
        place = min(step - start, length) * self.steps // length / self.steps
        return self.ratio + (self.initial_ratio - self.ratio) * (1 - place) ** 3


@dataclass(frozen=True, kw_only=True)
class Pruned(Wrapped):
    """A network that loses weights while it is trained."""

    network: Annotated[Any, Offers("build_model", "PicoDet(...) or ImageClassifier(...)")]
    pruning: GMP

    def __post_init__(self) -> None:
        check(self)
        self.check_network()

    @property
    def ready_epoch(self) -> int:
        """As of `public.tasks.base.BaseTask`: the step after the pruning epochs sets the last masks."""
        return self.pruning.stable_epochs + self.pruning.pruning_epochs + 1

    def prepare(self, model: nn.Module) -> nn.Module:
        """
        Raises:
            ValueError: `spared` names no convolution, or nothing is left to prune.
        """
        add_masks(model, pointwise_only=self.pruning.pointwise_only, spared=self.pruning.spared)
        return model

    def after_step(self, model: nn.Module, average: nn.Module | None, progress: Progress) -> None:
        """Called after each optimizer step: chooses the masks where the ratio rises, and sets what they hide to zero."""
        now, before = (
            self.pruning.ratio_at(step, progress.steps_per_epoch) for step in (progress.step, progress.step - 1)
        )
        if now is not None and now != before:
            prune(model, now)
        apply_masks(model, average)
