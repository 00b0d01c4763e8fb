"""Files of weights: written whole or not at all, read without executing anything in them; and digests of weights.

A checkpoint is a .pth file of torch, or a .safetensors file, if the package of that name is installed: then all but the
weights stands as JSON in the file's own metadata, under CARD.
"""

import hashlib
import json
import pickle
import re
from pathlib import Path

import torch

from public.files import write_whole

SAFETENSORS = ".safetensors"
CARD = "encore"  # the entry of the metadata


def save_atomic(value: dict, path: Path) -> None:
    """Writes a checkpoint to `path`, whole or not at all; as safetensors where the name ends so.

    Raises:
        OSError: naming `path` and the reason; the checkpoint before it is kept.
        ValueError: safetensors is not installed, or cannot hold what the checkpoint has beside its weights.
    """
    if Path(path).suffix == SAFETENSORS:
        content = _as_safetensors(value, path)
        write_whole(path, lambda file: file.write(content))
    else:
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
    if path.suffix == SAFETENSORS:
        tensors, card = read_safetensors(path)
        if card is None:
            raise ValueError(
                f"{path} is not a checkpoint of this project: its metadata have no entry {CARD!r}. Weights of other projects "
                "are converted by python -m public.weights.convert"
            )
        return {"model": tensors, **card}
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


def read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict | None]:
    """(the tensors of a .safetensors file, on the CPU; what a checkpoint of ours says beside them, else None).

    Raises:
        ValueError: safetensors is not installed, or the file is damaged.
    """
    _need_safetensors(path)
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
            written = (file.metadata() or {}).get(CARD)
        card = None if written is None else json.loads(written)
    except (SafetensorError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged, or no .safetensors file: {error}") from error
    if card is not None and not isinstance(card, dict):
        raise ValueError(f"{path} is damaged: its entry {CARD!r} is no JSON object")
    return tensors, card


def _as_safetensors(value: dict, path: Path) -> bytes:
    _need_safetensors(path)
    from safetensors.torch import save

    card = {name: item for name, item in value.items() if name != "model"}
    try:
        written = json.dumps(card, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: safetensors holds weights and plain values, but the checkpoint has more ({error}); take best.pth of a "
            "run, not latest.pth, or write a .pth"
        ) from error
    return save({name: tensor.contiguous().clone() for name, tensor in value["model"].items()}, {CARD: written})


def _need_safetensors(path: Path) -> None:
    try:
        import safetensors.torch  # noqa: F401 (is it there?)
    except ImportError as error:
        raise ValueError(
            f"{path}: a .safetensors file needs the package safetensors, which is not installed: pip install safetensors"
        ) from error


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
