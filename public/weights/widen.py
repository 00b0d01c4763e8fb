"""Weights in narrower numbers -> float32, without loss."""

from pathlib import Path

import numpy as np
import torch


def widen_arrays(arrays: dict[str, np.ndarray], file: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """float16, and bfloat16 which Paddle gives numpy as uint16, as float32; and a line for each kind that was there.

    Raises:
        ValueError: numbers of another kind, naming the array.
    """
    widened: dict[str, list[str]] = {}
    converted = {}
    for name, array in arrays.items():
        if array.dtype == np.float32:
            converted[name] = array
            continue
        if array.dtype == np.uint16:  # no weight is a whole number: these are the upper halves of float32
            converted[name] = (array.astype(np.uint32) << 16).view(np.float32)
        elif array.dtype == np.float16:
            converted[name] = array.astype(np.float32)
        else:
            raise ValueError(f"{file}: {name} holds {array.dtype} numbers; weights are float32, float16 or bfloat16")
        widened.setdefault({"uint16": "bfloat16 (kept as uint16)"}.get(array.dtype.name, "float16"), []).append(name)
    return converted, _lines(widened)


def widen_tensors(tensors: dict[str, torch.Tensor], file: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The same for tensors, of which BatchNorm's counters stay whole numbers."""
    widened: dict[str, list[str]] = {}
    converted = {}
    for name, tensor in tensors.items():
        kind = str(tensor.dtype).removeprefix("torch.")
        if kind in ("float16", "bfloat16"):
            widened.setdefault(kind, []).append(name)
        elif kind not in ("float32", "int64"):
            raise ValueError(f"{file}: {name} holds {kind} numbers; weights are float32, float16 or bfloat16")
        converted[name] = tensor if kind == "int64" else tensor.float()
    return converted, _lines(widened)


def _lines(widened: dict[str, list[str]]) -> list[str]:
    return [f"{len(names)} arrays of {kind} widened to float32: {', '.join(names)}" for kind, names in widened.items()]
