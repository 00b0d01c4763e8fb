"""Optimizers as settings: frozen values that build torch's own optimizers.

Weight decay is chosen by the kind of a parameter, because the published recipes differ in it: PPYOLOE decays everything
but its normalisation layers, YOLOX and PicoDet spare every bias as well.

`lr_factors=(("backbone.", 0.1),)` multiplies the learning rate of the parameters whose names begin so; the first beginning
that fits counts.  Of a student beside its teacher these are the student's own names.  It alone has a default, none: pages
from before it was there mean just that.

A module can say that its own parameters are of a kind of their own, by the attribute `own_lr_factor`: their learning rate is
multiplied by it as well, they are never decayed, and they are a group for themselves.  Such are learnt ranges.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from public.parts import used_start
from public.settings import Fraction, Name, NonNegative, Positive, check

LRFactors = tuple[tuple[Name, NonNegative], ...]  # beginnings of parameters' names, and factors of the learning rate
NORMALISATION = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


@dataclass(frozen=True, kw_only=True)
class SGD:
    momentum: Fraction
    nesterov: bool
    weight_decay: NonNegative
    decay_normalisation: bool  # whether scale and shift of BatchNorm, GroupNorm, LayerNorm are decayed
    decay_bias: bool  # whether the other biases are
    lr_factors: LRFactors = ()

    def __post_init__(self) -> None:
        check(self)

    def build(self, model: nn.Module, lr: float) -> torch.optim.Optimizer:
        groups = parameter_groups(model, self.weight_decay, self.decay_normalisation, self.decay_bias, self.lr_factors)
        return torch.optim.SGD(groups, lr=lr, momentum=self.momentum, nesterov=self.nesterov, fused=True)


@dataclass(frozen=True, kw_only=True)
class AdamW:
    betas: tuple[Fraction, Fraction]
    eps: Positive
    weight_decay: NonNegative
    decay_normalisation: bool
    decay_bias: bool
    lr_factors: LRFactors = ()

    def __post_init__(self) -> None:
        check(self)

    def build(self, model: nn.Module, lr: float) -> torch.optim.Optimizer:
        groups = parameter_groups(model, self.weight_decay, self.decay_normalisation, self.decay_bias, self.lr_factors)
        return torch.optim.AdamW(groups, lr=lr, betas=self.betas, eps=self.eps, fused=True)


@dataclass(frozen=True, kw_only=True)
class Adam:
    betas: tuple[Fraction, Fraction]
    eps: Positive
    weight_decay: NonNegative  # added to the gradient (L2), not decoupled as in AdamW
    decay_normalisation: bool
    decay_bias: bool
    lr_factors: LRFactors = ()

    def __post_init__(self) -> None:
        check(self)

    def build(self, model: nn.Module, lr: float) -> torch.optim.Optimizer:
        groups = parameter_groups(model, self.weight_decay, self.decay_normalisation, self.decay_bias, self.lr_factors)
        return torch.optim.Adam(groups, lr=lr, betas=self.betas, eps=self.eps, fused=True)


def parameter_groups(
    model: nn.Module, weight_decay: float, decay_normalisation: bool, decay_bias: bool, lr_factors: LRFactors = ()
) -> list[dict[str, Any]]:
    """The trainable parameters of `model` in groups, in the model's order: by `lr_factor`, with and without weight decay.

    A parameter is a bias when it is called `bias`, outside normalisation layers.  One that several layers share counts
    once, with the first of them.  Groups of modules with an `own_lr_factor` come last.

    Args:
        lr_factors: beginnings of parameters' names and the factor of their learning rate; the first that fits counts.

    Raises:
        ValueError: when nothing is left to train, or a beginning fits no trainable parameter.
    """
    factors = dict.fromkeys((1.0, *(float(factor) for _, factor in lr_factors)))
    groups: dict[tuple[float, bool, bool], list[nn.Parameter]] = {  # factor, is decayed, is of a kind of its own
        (factor, is_decayed, False): [] for factor in factors for is_decayed in (True, False)
    }
    unused = {start for start, _ in lr_factors}
    seen: set[int] = set()
    own = used_start(model)
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            full_name = (f"{prefix}.{name}" if prefix else name).removeprefix(own)
            start, factor = _lr_factor(full_name, lr_factors)
            unused.discard(start)
            if (own_factor := getattr(module, "own_lr_factor", None)) is not None:
                groups.setdefault((factor * own_factor, False, True), []).append(parameter)
                continue
            is_norm = isinstance(module, NORMALISATION)
            is_spared = (is_norm and not decay_normalisation) or (not is_norm and name == "bias" and not decay_bias)
            groups[factor, not is_spared, False].append(parameter)
    if not seen:
        raise ValueError("every parameter is frozen: nothing is left to train")
    if unused:
        raise ValueError(f"lr_factors names {sorted(unused)}, but no trained parameter's name begins so")
    return [
        {"params": parameters, "weight_decay": weight_decay if is_decayed else 0.0, "lr_factor": factor}
        for (factor, is_decayed, _), parameters in groups.items()
        if parameters
    ]


def _lr_factor(name: str, lr_factors: LRFactors) -> tuple[str, float]:
    """The beginning in `lr_factors` that fits the parameter `name`, and its factor; ("", 1) where none does."""
    return next(((start, float(factor)) for start, factor in lr_factors if name.startswith(start)), ("", 1.0))
