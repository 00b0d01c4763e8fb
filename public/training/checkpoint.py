"""Checkpoints: written whole or not at all, read without executing anything in them, and digests of weights.

A run goes on from latest.pth.  The checkpoint before it stays as previous.pth: where a disk or a copy has damaged the newest,
not all is lost.
"""

import hashlib
import os
import pickle
import re
from pathlib import Path

import torch

from public.files import write_whole

LATEST, PREVIOUS, DAMAGED = "latest.pth", "previous.pth", "latest_damaged.pth"


def save_atomic(value: dict, path: Path) -> None:
    """Writes a checkpoint to `path`, whole or not at all.

    Raises:
        OSError: naming `path` and the reason; the checkpoint before it is kept.
    """
    write_whole(path, lambda file: torch.save(value, file))


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
    return checkpoint, [f"going on from the checkpoint before the last, since {reason}"]


def load_checkpoint(path: str | Path) -> dict:
    """Reads a checkpoint on the CPU; only tensors, numbers, strings and containers are accepted.

    Raises:
        FileNotFoundError: naming the file.
        ValueError: the file is damaged or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    try:
        value = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path} is not a checkpoint that can be read safely: {why_unreadable(error)}") from error
    if not isinstance(value, dict) or "model" not in value:
        raise ValueError(
            f"{path} is not a checkpoint of this project: it has no entry 'model'. Weights of other projects are converted "
            "by python -m public.weights.convert"
        )
    return value


def why_unreadable(error: Exception) -> str:
    """Why torch refuses a file, in a line; of a file that holds code not its advice to execute it all the same."""
    if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return (
            f"it holds code, {found[1]}; where it comes from, save the state dict: torch.save(model.state_dict(), FILE)"
        )
    if isinstance(error, pickle.UnpicklingError | EOFError):
        return "it is damaged, or torch.save has not written it"
    return str(error).splitlines()[0].split(". ")[0]


def digest(state: dict[str, torch.Tensor]) -> str:
    """sha256 over name, dtype, shape and bytes of every tensor of `state`, by name."""
    sha = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()
