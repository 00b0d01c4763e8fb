"""The checkpoints of a run, and which of them it goes on from.

A run goes on from latest.pth.  The checkpoint before it stays as previous.pth: where a disk or a copy has damaged the newest,
not all is lost.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from public.checkpoint_files import is_count, is_state, load_checkpoint
from public.files import write_whole
from public.text import brief

LATEST, PREVIOUS, DAMAGED = "latest.pth", "previous.pth", "latest_damaged.pth"
PARTS = (  # of a checkpoint's "training", whatever the settings; with an EMA, raw_model and ema come to them
    "optimizer", "scaler", "step", "phase", "best", "evaluations_without_best", "metrics", "chain",
)  # fmt: skip


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 2**1023


KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {  # what the parts have to be: in words, and whether one is that
    "optimizer": ("a dict", lambda value: isinstance(value, dict)),
    "num_optimizer_states": ("a number from 0", is_count),  # older checkpoints lack it
    "scaler": ("a dict", lambda value: isinstance(value, dict)),
    "step": ("a number from 0", is_count),
    "phase": ("training or evaluating", lambda value: value in ("training", "evaluating")),
    "best": ("a number, or None", lambda value: value is None or _is_number(value)),
    "evaluations_without_best": ("a number from 0", is_count),
    "metrics": ("a dict", lambda value: isinstance(value, dict)),
    "chain": ("a text", lambda value: isinstance(value, str)),
    "raw_model": ("a dict of names and tensors", is_state),
    "beside": ("a dict of names and tensors", is_state),
    "ema": (
        "a dict with a number of updates and a product within 0 .. 1",
        lambda value: (
            isinstance(value, dict)
            and is_count(value.get("num_updates", 0))
            and _is_number(value.get("decay_product", 0))
            and 0 <= value.get("decay_product", 0) <= 1
        ),
    ),
    "log_sizes": (
        "the sizes of the logs",
        lambda value: isinstance(value, dict) and all(isinstance(n, str) and is_count(v) for n, v in value.items()),
    ),
}


def save_latest(value: dict, folder: Path) -> None:
    """Writes latest.pth of the run in `folder`; the one before it becomes previous.pth.  Raises as `save_atomic`."""
    write_whole(folder / LATEST, lambda file: torch.save(value, file), keep=PREVIOUS)


def has_checkpoint(folder: Path) -> bool:
    """Whether the run in `folder` has a state to go on from."""
    return (folder / LATEST).is_file() or (folder / PREVIOUS).is_file()


def load_latest(folder: Path) -> tuple[dict, list[str]]:
    """The newest checkpoint of a run that can be read, and a line for the log where that is not latest.pth.

    Then the damaged file is put aside, and previous.pth takes its place.

    Raises:
        ValueError: neither can be read, naming both and the reasons.
    """
    latest, previous = folder / LATEST, folder / PREVIOUS
    try:
        return load_checkpoint(latest), []
    except (ValueError, FileNotFoundError) as error:
        if not previous.is_file():
            raise ValueError(f"{error}, and there is no {PREVIOUS} beside it; --resume none starts anew") from error
        reason = error
    try:
        checkpoint = load_checkpoint(previous)
    except ValueError as error:
        raise ValueError(f"{reason}; and {error}; --resume none starts anew") from error
    if latest.is_file():
        os.replace(latest, folder / DAMAGED)
    os.replace(previous, latest)
    return checkpoint, [f"resuming from the checkpoint before the last, since {reason}"]


def check_parts(checkpoint: dict, *more: str) -> None:
    """Raises ValueError, naming the part, where `checkpoint` is none of a run, lacks one of PARTS or of `more`, or a part is
    not of its kind.
    """
    if "training" not in checkpoint:
        raise ValueError(lacking("training"))
    training = checkpoint["training"]
    for name in (*PARTS, *more):
        if name not in training:
            raise ValueError(lacking(name))
    for name, (needed, is_right) in KINDS.items():
        if name in training and not is_right(training[name]):
            found = brief(training[name])
            raise ValueError(
                f"the checkpoint is damaged: {name!r}, a part of the state, has to be {needed}, not {found}"
            )


def lacking(name: str) -> str:
    """The message about a checkpoint that cannot be gone on with."""
    return f"the checkpoint lacks {name!r}, a part of the state; the run cannot resume"
