"""Structured pruning, for any family: a network some of whose layers have fewer channels than its settings say.

Papers: those of `public.models.slimmed`, which holds what is computed, and of `public.models.channels`.

    detector=Slimmed(network=PPYOLOE(...), criterion="fpgm", widths=(("backbone.stem.conv1.conv", 6), ...))

`python -m public.test_scripts.prune` finds the widths.  Starting weights are those of the network before; of their channels
those are taken that the criterion chooses.  Resumed, evaluated or exported, the network is built with these widths, and the
weights are its own.
"""

from dataclasses import dataclass
from typing import Annotated, Any

from torch import nn

from public.families.wrapped import Wrapped
from public.models.slimmed import CRITERIA, slim
from public.settings import Count, Name, NotEmpty, Offers, OneOf, check


@dataclass(frozen=True, kw_only=True)
class Slimmed(Wrapped):
    """A network with widths of its own."""

    network: Annotated[Any, Offers("build_model", "PicoDet(...) or ImageClassifier(...)")]
    criterion: Annotated[str, OneOf(CRITERIA)]  # by which channels of starting weights are chosen
    # (layer, channels that it makes) wherever it is fewer than `network` has; what is tied to it follows
    widths: Annotated[tuple[tuple[Name, Count], ...], NotEmpty()]

    def __post_init__(self) -> None:
        """
        Raises:
            ValueError: a layer is named twice.
        """
        check(self)
        self.check_network()
        names = [name for name, _ in self.widths]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"Slimmed.widths names {twice[0]!r} twice")

    def prepare(self, model: nn.Module) -> nn.Module:
        """
        Raises:
            ValueError: `widths` does not fit the network; see `public.models.slimmed.slim`.
        """
        slim(model, dict(self.widths), criterion=self.criterion)
        return model
