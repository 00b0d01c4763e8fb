"""The numbers that a run logged: its metrics.jsonl.

A line of that file is a JSON object.  Two kinds are read, others are passed over:

    {"kind": "train", "step": .., "epoch": 0.25, "lr": .., "loss": .., "losses": {"loss_cls": .., ...}, ...}
    {"kind": "eval", "step": .., "epoch": 1, "metrics": {"AP": .., "AP50": .., ...}}

"ready": false in the second says that these weights cannot be the best: the network was not yet what it becomes.
`epoch` counts finished epochs; NaN, Infinity and null stand for "no number".
"""

import json
from pathlib import Path

import numpy as np


def read_metrics(path: str | Path) -> tuple[list[dict], list[dict]]:
    """The lines of kind "train" and those of kind "eval" of a metrics.jsonl, in its order.

    A last line that a killed process left unfinished is passed over.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is broken, naming file and line.
    """
    lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    by_kind: dict[str, list[dict]] = {"train": [], "eval": []}
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines) and not line.endswith("\n"):
                break  # the process that was writing it is gone, or still writing
            raise ValueError(f"{path}, line {number} is not JSON: {error}") from error
        if not isinstance(entry, dict) or "kind" not in entry:
            raise ValueError(f"{path}, line {number} is not an entry of a run: an object with a kind is expected")
        by_kind.setdefault(entry["kind"], []).append(entry)
    return by_kind["train"], by_kind["eval"]


def metrics_to_choose(evals: list[dict]) -> list[dict]:
    """The metrics of each evaluation; of those whose weights cannot be the best, none."""
    return [line["metrics"] if line.get("ready", True) else {} for line in evals]


def numbers(entries: list[dict], name: str) -> np.ndarray:
    """The value `name` of each entry, float64 (n,); NaN where it is absent or null."""
    return as_floats([entry.get(name) for entry in entries])


def as_floats(values: list) -> np.ndarray:
    """Numbers of JSON as float64 (n,): NaN for null, infinite where a whole number is larger than any float."""
    return np.array([np.nan if value is None else _as_float(value) for value in values], dtype=np.float64)


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return np.inf if value > 0 else -np.inf
