"""Which parts of a network are its state, and which are only lent to it while it trains.

A network names in `training_only` the children that inference does without.  There are two kinds:

- Parts that are trained, such as PPYOLOE+ t's auxiliary head.  They are state: a run that goes on needs them.  `fuse`
  leaves them out.
- Parts none of whose parameters is trained, such as a teacher.  They come from outside and never change, so they are no
  state: neither state dict, average, checkpoint, digest, optimizer nor counts know them, and they stay in eval mode.

A network that only holds the one that is used, such as a student beside its teacher, names that child in `used`.
"""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


def lent_parts(model: nn.Module) -> tuple[str, ...]:
    """The names of the children of `model` that are no state: `training_only`, and without a trained parameter."""
    if "lent" in vars(model):  # decided when it was built, or a copy that was made without them
        return vars(model)["lent"]
    names = (name for name in getattr(model, "training_only", ()) if hasattr(model, name))
    return tuple(name for name in names if not any(p.requires_grad for p in getattr(model, name).parameters()))


def decide_lent(model: Any) -> None:
    """Keeps the answer of `lent_parts` as it is now: what a page freezes later is still state."""
    model.lent = lent_parts(model)


def train(model: nn.Module) -> None:
    """Puts `model` into train mode, and what is lent to it into eval mode."""
    lent = lent_parts(model)
    if not all(module.training for module in modules_without(model, lent)):  # setting it costs milliseconds a step
        model.train()
    for name in lent:
        getattr(model, name).eval()


def modules_without(model: nn.Module, names: tuple[str, ...]) -> Iterator[nn.Module]:
    """`model` and all modules in it, each once, in torch's order, without the children `names` and theirs."""
    waiting, seen = [model], {id(getattr(model, name)) for name in names if name in model._modules}
    while waiting:
        module = waiting.pop()
        if id(module) not in seen:
            seen.add(id(module))
            yield module
            waiting.extend(child for child in reversed(module._modules.values()) if child is not None)


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict of `model` without what is lent to it."""
    return {name: value for name, value in model.state_dict().items() if not _is_lent(name, lent_parts(model))}


def load_state(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Puts a state of `state_of` back; what is lent stays as it is.

    Raises:
        RuntimeError: naming what is of another kind of number; torch's, naming what is missing, unknown or of another shape.
    """
    if wrong := other_numbers(state_of(model), state):
        raise RuntimeError(wrong)
    lent = {name: value for name, value in model.state_dict().items() if _is_lent(name, lent_parts(model))}
    model.load_state_dict(state | lent)


def other_numbers(own: dict[str, torch.Tensor], state: dict[str, torch.Tensor], *, exact: bool = False) -> str:
    """The first of `state` whose numbers are of another kind than those of `own`, in words; empty: there is none.

    torch would cast them without a word, complex numbers to their real part.  Floating-point numbers may be wider or
    narrower, as of a file in half precision, unless `exact`; whole numbers too.
    """
    for name in (name for name in state if name in own):
        here, there = own[name].dtype, state[name].dtype
        if here != there if exact else _kind_of_number(here) != _kind_of_number(there):
            return f"{name} has numbers of {there}, the model's are of {here}"
    return ""


def _kind_of_number(dtype: torch.dtype) -> str:
    return "complex" if dtype.is_complex else "floating point" if dtype.is_floating_point else "whole"


def used_part(model: nn.Module) -> nn.Module:
    """The network that is used in the end: the child that `model` names in `used`, or `model` itself."""
    name = getattr(model, "used", None)
    return model if name is None else getattr(model, name)


def state_beside(model: nn.Module) -> dict[str, torch.Tensor]:
    """What `state_of(model)` holds beside the state of the used part, under the names that it has in `model`."""
    start = used_start(model)
    return {name: value for name, value in state_of(model).items() if start and not name.startswith(start)}


def joined_state(
    model: nn.Module, used: dict[str, torch.Tensor], beside: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """A state of `state_of(model)` from that of the used part and that of `state_beside`."""
    start = used_start(model)
    return {f"{start}{name}": value for name, value in used.items()} | beside


def used_start(model: nn.Module) -> str:
    """How the names of the used part begin in `model`."""
    name = getattr(model, "used", None)
    return "" if name is None else f"{name}."


def own_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The named parameters of `model` without those of what is lent to it."""
    return ((name, value) for name, value in model.named_parameters() if not _is_lent(name, lent_parts(model)))


def own_modules(model: nn.Module) -> Iterator[nn.Module]:
    """The modules of `model`, itself first, without those of what is lent to it."""
    return (module for name, module in model.named_modules() if not _is_lent(f"{name}.", lent_parts(model)))


def copy_without(model: nn.Module, names: tuple[str, ...]) -> nn.Module:
    """A copy of `model` without these children, which are not copied on the way."""
    memo = {id(getattr(model, name)): None for name in names}
    copied: Any = copy.deepcopy(model, memo)
    for name in names:
        if name in copied._modules:
            del copied._modules[name]
    copied.lent = ()
    copied.training_only = tuple(name for name in getattr(model, "training_only", ()) if name not in names)
    return copied


def _is_lent(name: str, lent: tuple[str, ...]) -> bool:
    return any(name.startswith(f"{part}.") for part in lent)
