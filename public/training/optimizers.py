"""Optimizers as settings: frozen values that build torch's own optimizers.

Weight decay is chosen by the kind of a parameter, because the published recipes differ in it: PPYOLOE decays everything
but its normalisation layers, YOLOX and PicoDet spare every bias as well.
"""

from dataclasses import dataclass

import torch
from torch import nn

NORMALISATION = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


@dataclass(frozen=True, kw_only=True)
class SGD:
    momentum: float
    nesterov: bool
    weight_decay: float
    decay_normalisation: bool  # whether scale and shift of BatchNorm, GroupNorm, LayerNorm are decayed
    decay_bias: bool  # whether the other biases are

    def build(self, model: nn.Module, lr: float) -> torch.optim.Optimizer:
        groups = parameter_groups(model, self.weight_decay, self.decay_normalisation, self.decay_bias)
        return torch.optim.SGD(groups, lr=lr, momentum=self.momentum, nesterov=self.nesterov, fused=True)


@dataclass(frozen=True, kw_only=True)
class AdamW:
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    decay_normalisation: bool
    decay_bias: bool

    def build(self, model: nn.Module, lr: float) -> torch.optim.Optimizer:
        groups = parameter_groups(model, self.weight_decay, self.decay_normalisation, self.decay_bias)
        return torch.optim.AdamW(groups, lr=lr, betas=self.betas, eps=self.eps, fused=True)


@dataclass(frozen=True, kw_only=True)
class Adam:
    betas: tuple[float, float]
    eps: float
    weight_decay: float  # added to the gradient (L2), not decoupled as in AdamW
    decay_normalisation: bool
    decay_bias: bool

    def build(self, model: nn.Module, lr: float) -> torch.optim.Optimizer:
        groups = parameter_groups(model, self.weight_decay, self.decay_normalisation, self.decay_bias)
        return torch.optim.Adam(groups, lr=lr, betas=self.betas, eps=self.eps, fused=True)


def parameter_groups(
    model: nn.Module, weight_decay: float, decay_normalisation: bool, decay_bias: bool
) -> list[dict[str, object]]:
    """The trainable parameters of `model` in two groups, in the model's order: with and without weight decay.

    A parameter is a bias when it is called `bias`, outside normalisation layers.  One that several layers share counts
    once, with the first of them.

    Raises:
        ValueError: when nothing is left to train.
    """
    decayed, spared = [], []
    seen: set[int] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            is_norm = isinstance(module, NORMALISATION)
            is_spared = (is_norm and not decay_normalisation) or (not is_norm and name == "bias" and not decay_bias)
            (spared if is_spared else decayed).append(parameter)
    if not decayed and not spared:
        raise ValueError("every parameter is frozen: nothing is left to train")
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": spared, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
