"""Activation checkpointing: parts of a network whose inner activations are computed again in the backward pass.

Training Deep Nets with Sublinear Memory Cost, arXiv 1604.06174; by `torch.utils.checkpoint`, which puts random numbers and
autocast back as they were.  It is exact: the second time BatchNorm takes the statistics of the batch as it did the first
time, and its running statistics stay as they are, so that no bit of losses, gradients or buffers differs.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint


def recompute_backbones(model: nn.Module, is_wanted: bool) -> int:
    """Tells every backbone in `model` whether to compute the inside of its stem and stages again; how many there are."""
    found = [module for module in model.modules() if hasattr(module, "recomputes")]
    for module in found:
        module.recomputes = is_wanted  # type: ignore[assignment]  # a bool, no module
    return len(found)


def recomputed(part: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """`part(x)`, of which only `x` is kept for the backward pass."""

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        return nullcontext(), _without_running_statistics(part)

    return checkpoint(part, x, use_reentrant=False, context_fn=contexts)


@contextmanager
def _without_running_statistics(part: nn.Module) -> Iterator[None]:
    """Within it, normalisation in train mode changes copies of its running statistics: it would count a batch twice."""
    layers = [m for m in part.modules() if isinstance(m, _NormBase) and m.training and m.track_running_stats]
    kept = [dict(layer._buffers) for layer in layers]
    for layer, buffers in zip(layers, kept):
        layer._buffers.update({name: None if b is None else b.clone() for name, b in buffers.items()})
    try:
        yield
    finally:
        for layer, buffers in zip(layers, kept):
            layer._buffers.update(buffers)
