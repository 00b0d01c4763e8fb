"""Files of weights: written whole or not at all, read without executing anything in them; and digests of weights.

A checkpoint is a .pth file of torch, or a .safetensors file, if the package of that name is installed: then all but the
weights stands as JSON in the file's own metadata, under CARD.
"""

import hashlib
import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from public.files import write_whole
from public.text import brief, shorten

SAFETENSORS = ".safetensors"
LONGEST_KEY = 1000  # letters of a name in a file of weights
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
        value = card | {"model": tensors}
        _check_entries(path, value)
        return value
    try:
        value = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path} is not a checkpoint that can be read safely: {why_unreadable(error)}") from error
    check_tensors(path, value)
    if not isinstance(value, dict) or "model" not in value:
        raise ValueError(
            f"{path} is not a checkpoint of this project: it has no entry 'model'. Weights of other projects are converted "
            "by python -m public.weights.convert"
        )
    _check_entries(path, value)
    return value


def check_tensors(path: Path, value: Any) -> None:
    """Raises ValueError, naming the file and the tensor, where one in what was read, however deep, is no plain array.

    Such are tensors without numbers (of the device "meta"), sparse or quantised ones, and those that say a number of the file
    many times, which would fill memory.
    """
    waiting, seen = [("", value)], set()
    while waiting:
        name, item = waiting.pop()
        if id(item) in seen:
            continue
        if isinstance(item, dict):
            seen.add(id(item))
            if longest := max(
                (key for key in item if isinstance(key, str) and len(key) > LONGEST_KEY), key=len, default=""
            ):
                raise ValueError(
                    f"{path} is damaged: a name in it has {len(longest)} letters: {shorten(repr(longest))}"
                )
            waiting += [(f"{name}.{key}" if name else str(key), part) for key, part in item.items()]
        elif isinstance(item, list | tuple | set):
            seen.add(id(item))
            waiting += [(f"{name}[{place}]", part) for place, part in enumerate(item)]
        elif torch.is_tensor(item) and (wrong := _what_is_wrong(item)):
            raise ValueError(f"{path} is damaged: its tensor {shorten(repr(name))} {wrong}")


def _what_is_wrong(tensor: torch.Tensor) -> str:
    if tensor.device.type != "cpu" or tensor.layout != torch.strided or tensor.is_quantized:
        return f"is no plain array of numbers ({tensor.device.type}, {tensor.layout}, {tensor.dtype})"
    held = tensor.untyped_storage().nbytes() // tensor.element_size()
    if tensor.numel() > held:
        return f"has {tensor.numel()} numbers ({shorten(str(tuple(tensor.shape)))}), of which the file holds {held}"
    return ""


def _check_entries(path: Path, checkpoint: dict) -> None:
    """Raises ValueError, naming file and entry, where one that this project knows is of another kind."""
    for name, (needed, is_right) in ENTRIES.items():
        if name in checkpoint and not is_right(checkpoint[name]):
            raise ValueError(f"{path} is damaged: its entry {name!r} has to be {needed}, not {brief(checkpoint[name])}")


def is_state(value: object) -> bool:
    """Whether it is a state dict: names with tensors."""
    return isinstance(value, dict) and all(isinstance(n, str) and torch.is_tensor(v) for n, v in value.items())


def is_count(value: object) -> bool:
    """Whether it is a whole number from 0, of at most 63 bits; True is none."""
    return type(value) is int and 0 <= value < 2**63


def _is_dict(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(name, str) for name in value)


def _are_names(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)


ENTRIES: dict[str, tuple[str, Callable[[Any], bool]]] = {  # of a checkpoint: in words, and whether a value is that
    "model": ("a dict of names and tensors", is_state),
    "model_name": ("a text", lambda value: isinstance(value, str)),
    "num_classes": ("a number from 1, or None", lambda value: value is None or (is_count(value) and bool(value))),
    "class_names": ("a list of names", _are_names),
    "part": ("a text", lambda value: isinstance(value, str)),
    "training": ("a dict", _is_dict),
    "step": ("a number from 0", is_count),
    **{name: ("a dict with names", _is_dict) for name in ("input", "detector", "classifier", "keywords", "metrics")},
}


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
        _check_names(card)
        written = json.dumps(card, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: safetensors holds weights and plain values, but the checkpoint has more ({error}); take best.pth of a "
            "run, not latest.pth, or write a .pth"
        ) from error
    return save({name: tensor.contiguous().clone() for name, tensor in value["model"].items()}, {CARD: written})


def _check_names(value: Any) -> None:
    """Raises TypeError where a dict has a key that is no text, of which JSON would silently make one."""
    if isinstance(value, dict):
        for name in value:
            if not isinstance(name, str):
                raise TypeError(f"the key {brief(name)} is no text")
    if isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            _check_names(item)


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
    return shorten((str(error).splitlines() or [type(error).__name__])[0].split(". ")[0], 300)


def digest(state: dict[str, torch.Tensor]) -> str:
    """sha256 over name, dtype, shape and bytes of every tensor of `state`, by name."""
    sha = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()
