"""Unstructured pruning: the weights of least magnitude of each layer become zero and stay so.

Paper: To prune, or not to prune: exploring the efficacy of pruning for model compression, arXiv 1710.01878 (the cubic
schedule); PaddleSlim's GMP adds a stable phase before, in which nothing is pruned, and a tuning phase behind.  Each layer
reaches the ratio by itself (PaddleSlim's local sparsity).

Legend: O output channels, C input channels of a group.
"""

from typing import Any

import torch
from torch import nn

from public.models.quantised import follow, is_part
from public.parts import own_modules

MASK = "mask"  # the buffer of a pruned convolution, bool, as its weight (O, C, h, w): True where a weight lives


def add_masks(model: nn.Module, *, pointwise_only: bool, spared: tuple[str, ...]) -> tuple[str, ...]:
    """Gives the convolutions that are to be pruned a mask of True, in place; their names.

    Depthwise convolutions, and what the outputs are made of, are never pruned.

    Args:
        pointwise_only: only those with kernels of 1 x 1.
        spared: beginnings of names of layers that are not pruned.

    Raises:
        ValueError: a name in `spared` is none, or nothing is left to prune.
    """
    links, modules = follow(model), dict(model.named_modules())
    for name in spared:
        if not any(is_part(layer, name) for layer in links):
            raise ValueError(f"spared names {name!r}, but no convolution is called so; there is {next(iter(links))!r}")
    names = []
    for layer, link in links.items():
        conv: Any = modules[layer]
        is_wide = pointwise_only and conv.kernel_size != (1, 1)
        if link.is_last or conv.groups > 1 or is_wide or any(is_part(layer, name) for name in spared):
            continue
        conv.register_buffer(MASK, torch.ones_like(conv.weight, dtype=torch.bool))
        names.append(layer)
    if not names:
        raise ValueError("nothing is left to prune: every convolution is spared, depthwise or the last one")
    return tuple(names)


def masked_layers(model: nn.Module) -> list[Any]:
    """The convolutions of `model` that have a mask, without those of what is lent to it."""
    return [module for module in own_modules(model) if MASK in module._buffers]


def mask_of(weight: torch.Tensor, ratio: float) -> torch.Tensor:
    """bool, as `weight`: False at the round(ratio * numel) weights of least magnitude; of equal ones the first."""
    count = round(ratio * weight.numel())
    order = weight.detach().abs().flatten().sort(stable=True).indices
    mask = torch.ones(weight.numel(), dtype=torch.bool, device=weight.device)
    mask[order[:count]] = False
    return mask.reshape(weight.shape)


@torch.no_grad()
def prune(model: nn.Module, ratio: float) -> None:
    """Chooses the masks of `model` anew, so that `ratio` of each layer's weights is zero.

    A weight that is zero already is among those of least magnitude, so that what is pruned stays pruned.
    """
    for layer in masked_layers(model):
        layer.mask.copy_(mask_of(layer.weight, ratio))


@torch.no_grad()
def apply_masks(model: nn.Module, average: nn.Module | None) -> None:
    """Sets the pruned weights of `model` to zero, and those of the average of its weights, which gets the same masks."""
    layers = masked_layers(model)
    for layer in layers:
        layer.weight.mul_(layer.mask)
    if average is not None:
        for layer, other in zip(layers, masked_layers(average), strict=True):
            other.mask.copy_(layer.mask)
            other.weight.mul_(layer.mask)


def sparsity(model: nn.Module) -> dict[str, float]:
    """name -> share of the weights of each convolution that are zero."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            found[name] = float((module.weight == 0).float().mean())
    return found
