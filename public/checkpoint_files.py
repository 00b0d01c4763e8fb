"""Files of weights: written whole or not at all, read without executing anything in them; and digests of weights."""

import hashlib
import pickle
import re
from pathlib import Path

import torch

from public.files import write_whole


def save_atomic(value: dict, path: Path) -> None:
    """Writes a checkpoint to `path`, whole or not at all.

    Raises:
        OSError: naming `path` and the reason; the checkpoint before it is kept.
    """
    write_whole(path, lambda file: torch.save(value, file))


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
