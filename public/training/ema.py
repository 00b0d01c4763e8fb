"""Exponential moving average of the weights (Polyak averaging), with the warm-up of PaddleDetection or of YOLOX.

`EMA`, PaddleDetection's: the decay of update t (from 0) is min(decay, (1 + t) / (10 + t)).  Paddle starts the average at
zero and divides it, when it is used, by 1 - d**t with the last decay d, which is not quite the sum of the weights given so
far: up to 1.5 % too much after two updates, 0.01 % too much in the long run.  Here the divisor is exact, 1 - product of all
decays (a stated deviation), and is folded into the update, so the average can be read at any moment.

`RampedEMA`, YOLOX's: the average starts as a copy of the weights, and the decay of update t (from 0) is
decay * (1 - exp(-(t + 1) / ramp_updates)).
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from public.parts import copy_without, lent_parts, modules_without
from public.settings import Fraction, Positive, check


@dataclass(frozen=True, kw_only=True)
class EMA:
    """The settings of the average."""

    decay: Fraction

    def __post_init__(self) -> None:
        check(self)

    def build(self, model: nn.Module) -> "ModelEMA":
        return ModelEMA(model=model, decay=self.decay)


@dataclass(frozen=True, kw_only=True)
class RampedEMA:
    """The settings of YOLOX's average."""

    decay: Fraction  # that the ramp approaches
    ramp_updates: Positive  # after so many updates it has gone 63 % of the way

    def __post_init__(self) -> None:
        check(self)

    def build(self, model: nn.Module) -> "ModelEMA":
        return ModelEMA(model=model, decay=self.decay, ramp_updates=self.ramp_updates)


class ModelEMA:
    """A copy of `model` in eval mode whose weights and BatchNorm statistics are averages over the updates, in float32.

    What is only lent to `model`, such as a teacher, is no part of the copy.

    Args:
        decay: in the long run.
        ramp_updates: of `RampedEMA`; None: the warm-up of `EMA`.
    """

    def __init__(self, *, model: nn.Module, decay: float, ramp_updates: float | None = None) -> None:
        self._lent = lent_parts(model)
        self.model = copy_without(model, self._lent).eval().requires_grad_(False)
        self.decay = decay
        self.ramp_updates = ramp_updates
        self.num_updates = 0
        self.decay_product = 1.0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Takes the present weights of `model` into the average."""
        share = self._next_share()
        old, new = _tensors(self.model, ()), _tensors(model, self._lent)
        averaged = [i for i, tensor in enumerate(old) if tensor.is_floating_point()]
        torch._foreach_lerp_([old[i] for i in averaged], [new[i] for i in averaged], share)
        counters = [i for i, tensor in enumerate(old) if not tensor.is_floating_point()]
        if counters:
            torch._foreach_copy_([old[i] for i in counters], [new[i] for i in counters])

    def _next_share(self) -> float:
        """The share that the present weights get in the average, counted as one more update."""
        if self.ramp_updates is not None:
            self.num_updates += 1
            decay = self.decay * (1 - math.exp(-self.num_updates / self.ramp_updates))
            self.decay_product *= decay
            return 1 - decay
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        self.num_updates += 1
        self.decay_product *= decay
        return (1 - decay) / (1 - self.decay_product)  # 1 at the first update

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "num_updates": self.num_updates,
            "decay_product": self.decay_product,
        }

    def load_state_dict(self, state: dict) -> None:
        """Raises KeyError, naming the part, where one is missing."""
        self.model.load_state_dict(state["model"])
        self.num_updates = state["num_updates"]
        self.decay_product = state["decay_product"]


def _tensors(model: nn.Module, left_out: tuple[str, ...]) -> list[torch.Tensor]:
    """Parameters, then buffers, each once, without those of the children `left_out`.

    As `named_parameters` and `named_buffers` give them, which spend milliseconds a step on names that nobody reads.
    """
    modules = list(modules_without(model, left_out))
    parts = [part for kind in ("_parameters", "_buffers") for module in modules for part in vars(module)[kind].values()]
    return list({id(part): part for part in parts if part is not None}.values())
