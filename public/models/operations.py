"""Counting the parameters and the operations of a network, module by module, without computing anything.

One multiply-accumulate (MAC) is two floating-point operations.  Counted, by torch.utils.flop_counter, are convolutions and
matrix products.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from public.parts import lent_parts


class Row(NamedTuple):
    """One module: its dotted name ("" is the whole network), values in its parameters, MACs of one image."""

    name: str
    parameters: int
    macs: int


class Count(NamedTuple):
    """Parameters and MACs of a network, for one image."""

    rows: list[Row]  # every module, in the order of the network, itself first
    trainable: int
    uncounted: list[str]  # modules with weights of their own for which no operation was counted

    @property
    def parameters(self) -> int:
        return self.rows[0].parameters

    @property
    def macs(self) -> int:
        return self.rows[0].macs


def example_input(height: int, width: int, num_images: int = 1) -> torch.Tensor:
    """Images (B, 3, H, W) on the meta device: a shape without values."""
    return torch.empty(num_images, 3, height, width, device="meta")


def count_operations(model: nn.Module, images: torch.Tensor) -> Count:
    """Counts a forward pass of `model`, which is moved to the meta device, over `images` there.

    The MACs are those of all the images.  What is only lent to the model, such as a teacher, is taken out before.

    Raises:
        ValueError: the network refuses the shape of the images.
    """
    for name in lent_parts(model):
        delattr(model, name)
    model = model.to("meta")
    with torch.no_grad(), _without_batch_norms(model), FlopCounterMode(display=False) as counter:
        model(images)
    counts = counter.get_flop_counts()  # by the path of calls, which begins with the class of the network
    root = type(model).__name__
    called = {name.removeprefix(root).removeprefix("."): sum(ops.values()) // 2 for name, ops in counts.items()}
    modules = dict(model.named_modules())
    rows = [Row(name, _num_values(module), _macs(name, modules, called)) for name, module in modules.items()]
    uncounted = [row.name for row in rows if row.macs == 0 and _has_own_weight(modules[row.name])]
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return Count(rows, trainable, uncounted)


@contextmanager
def _without_batch_norms(model: nn.Module) -> Iterator[None]:
    """Within it BatchNorms give what they are given: no operation of theirs is counted, and they take half of the time."""
    layers = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for layer in layers:
        vars(layer)["forward"] = _as_it_is
    try:
        yield
    finally:
        for layer in layers:
            del vars(layer)["forward"]


def _as_it_is(x: torch.Tensor) -> torch.Tensor:
    return x


def _num_values(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _macs(name: str, modules: dict[str, nn.Module], called: dict[str, int]) -> int:
    """MACs inside the module `name`; a container that is never called itself has those of its parts."""
    if name in called:
        return called[name]
    start = f"{name}." if name else ""
    parts = [start + part for part, _ in modules[name].named_children() if start + part in modules]
    return sum(_macs(part, modules, called) for part in parts)


def _has_own_weight(module: nn.Module) -> bool:
    """Whether it holds a matrix or a kernel itself; the vectors of a normalisation are none."""
    return any(parameter.dim() >= 2 for parameter in module.parameters(recurse=False))
