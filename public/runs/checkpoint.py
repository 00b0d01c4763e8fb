"""The checkpoints of a run, and which of them it goes on from.

A run goes on from latest.pth.  The checkpoint before it stays as previous.pth: where a disk or a copy has damaged the newest,
not all is lost.
"""

import os
from pathlib import Path

import torch

from public.checkpoint_files import load_checkpoint
from public.files import write_whole

LATEST, PREVIOUS, DAMAGED = "latest.pth", "previous.pth", "latest_damaged.pth"
PARTS = (  # of a checkpoint's "training", whatever the settings; with an EMA, raw_model and ema come to them
    "optimizer", "scaler", "step", "phase", "best", "evaluations_without_best", "metrics", "chain",
)  # fmt: skip


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
    """Raises ValueError, naming the part, where `checkpoint` is none of a run, or lacks one of PARTS or of `more`."""
    if "training" not in checkpoint:
        raise ValueError(lacking("training"))
    for name in (*PARTS, *more):
        if name not in checkpoint["training"]:
            raise ValueError(lacking(name))


def lacking(name: str) -> str:
    """The message about a checkpoint that cannot be gone on with."""
    return f"the checkpoint lacks {name!r}, a part of the state; the run cannot resume"
