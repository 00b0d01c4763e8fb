"""Taking the weights of a checkpoint over into a network."""

from pathlib import Path

import torch
from torch import nn

from public.parts import other_numbers, own_parameters, state_of

BACKBONE = "backbone."  # how the names of a detector's backbone begin
ALPHA = ".alpha"  # how the names of RepVGG's learnt factors end; 1 is the same as none


def load_weights(
    model: nn.Module, checkpoint: dict, path: Path, *, backbone_only: bool = False
) -> tuple[list[str], bool]:
    """Takes the weights of `checkpoint` over into `model`, with nothing skipped in silence.

    Every parameter of the file has its place in the model and the other way round, with two exceptions, which are
    reported: class layers (`model.class_layers`, beginnings of names), where the numbers of classes differ, keep the
    model's initial values; learnt factors that the file lacks are 1, as if they were not there.

    Args:
        checkpoint: what `load_checkpoint` read from `path`.
        backbone_only: take the parameters `backbone.*` alone, from a detector or a backbone, and leave the rest of the
            model as it is.

    Returns:
        A line for whatever was not simply taken over; whether all of the model's parameters, class layers included, are
        now those of the file.

    Raises:
        ValueError: naming a parameter and the two shapes or kinds of numbers that disagree, or the names that one side
            lacks; the model is as it was.
    """
    state, own = checkpoint["model"], state_of(model)
    if backbone_only:
        state, own = _backbone(state), _backbone(own)
        if not state or not own:
            raise ValueError(
                f"backbone_only takes the parameters {BACKBONE}*: {path} has {len(state)}, the model has {len(own)}"
            )
    elif checkpoint.get("part") == "backbone":
        raise ValueError(
            f"{path} holds a backbone alone, without neck and head; set backbone_only=True in the configuration "
            "(--backbone_only true), or name the weights of a whole detector"
        )
    factors = [name for name in own if name not in state and name.endswith(ALPHA)]
    _check_names(path, own.keys() - state.keys() - set(factors), state.keys() - own.keys())
    if wrong := other_numbers(own, state):
        raise ValueError(f"{path}: {wrong}")
    left_out = _left_out(path, checkpoint, own, state, model)
    taken = {name: value for name, value in state.items() if name not in left_out}
    model.load_state_dict(taken | {name: torch.ones_like(own[name]) for name in factors}, strict=False)
    lines = [f"{name}: {reason}" for name, reason in left_out.items()]
    if factors:
        lines.append(f"{len(factors)} learnt factors that the file lacks are 1: {', '.join(factors)}")
    if backbone_only:
        lines.insert(0, _backbone_line(model, checkpoint["model"], taken))
    return lines, not (backbone_only or left_out)


def _backbone(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in state.items() if name.startswith(BACKBONE)}


def _check_names(path: Path, missing: set[str], unknown: set[str]) -> None:
    if missing or unknown:
        raise ValueError(
            f"{path} does not fit the model: it lacks {sorted(missing)[:5]}, the model does not know "
            f"{sorted(unknown)[:5]} ({len(missing)} and {len(unknown)} in all)"
        )


def _left_out(path: Path, checkpoint: dict, own: dict, state: dict, model: nn.Module) -> dict[str, str]:
    """The class layers that keep their initial values, and why."""
    left_out = {}
    for name, value in state.items():
        if value.shape == own[name].shape:
            continue
        other_classes = checkpoint.get("num_classes") != model.num_classes
        if not other_classes or not name.startswith(model.class_layers):
            raise ValueError(f"{path}: {name} has shape {tuple(value.shape)}, the model's has {tuple(own[name].shape)}")
        left_out[name] = f"{tuple(value.shape)} in the file, {tuple(own[name].shape)} here; initial values kept"
    return left_out


def _backbone_line(model: nn.Module, content: dict, taken: dict) -> str:
    count = sum(value.numel() for name, value in model.named_parameters() if name in taken)
    total = sum(value.numel() for _, value in own_parameters(model))
    unused = len(content) - len(taken)
    return (
        f"the backbone alone: {len(taken)} arrays, {count:,} of the model's {total:,} parameters; the others keep their "
        f"initial values, and {unused} arrays of the file are not used"
    )
