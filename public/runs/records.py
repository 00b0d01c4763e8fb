"""What a run wrote about itself, read without running any of its code; for the commands that look at several runs.

A run that is young, killed or damaged is read as far as it goes: what could not be read is said in `notes`.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from public.files import read_json
from public.runs.metrics import as_floats, metrics_to_choose, numbers, read_metrics

RUN_FILES = ("manifest.json", "config.json", "metrics.jsonl", "train.log")  # a folder with any of them is a run
_NOT_PLOTTED = ("kind", "step", "epoch")


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run. `settings` and `manifest` are empty where they could not be read.

    train, evals: the lines of metrics.jsonl, see `public.reports.curves`.
    notes: what is missing, damaged or unusual, in words.
    """

    path: Path
    manifest: dict[str, Any]
    settings: dict[str, Any]
    train: list[dict]
    evals: list[dict]
    notes: list[str]

    @property
    def experiment(self) -> str:
        return self.path.parent.parent.name if self.path.parent.name == "runs" else self.path.parent.name

    @property
    def finished(self) -> dict:
        """The manifest's entry about the end; empty while there was none."""
        return self.manifest.get("finished") or {}

    @property
    def state(self) -> str:
        """ "finished", or "unfinished": under way, stopped or killed."""
        return "finished" if self.finished else "unfinished"

    @property
    def step(self) -> int | None:
        """The last step that is known of."""
        steps = [line["step"] for line in [*self.train, *self.evals]] + [self.finished.get("step")]
        return max((step for step in steps if step is not None), default=None)

    @property
    def epochs_done(self) -> int | None:
        """Epochs that were evaluated; None before the first evaluation."""
        return self.evals[-1]["epoch"] if self.evals else None

    def best_evaluation(self) -> dict | None:
        """The first evaluation with the highest `best_metric`: the one whose weights are best.pth."""
        name = str(self.settings.get("best_metric"))
        values = numbers([_flat_metrics(metrics) for metrics in metrics_to_choose(self.evals)], name)
        return self.evals[int(np.nanargmax(values))] if np.isfinite(values).any() else None

    def metric(self, name: str) -> tuple[float | None, float | None]:
        """The metric `name` at the best evaluation, and at the last."""
        lines = (self.best_evaluation(), self.evals[-1] if self.evals else None)
        best, last = (_flat_metrics(line["metrics"]).get(name) if line else None for line in lines)
        return best, last

    @functools.cached_property
    def metric_names(self) -> list[str]:
        """The metrics of the evaluations, those of the classes as "class_AP.person"."""
        return list(dict.fromkeys(name for line in self.evals for name in _flat_metrics(line["metrics"])))

    @functools.cached_property
    def keys(self) -> list[str]:
        """Everything that can be drawn: scalars and loss terms of training, metrics and class APs of evaluations."""
        found: dict[str, None] = {}
        for line in self.train:
            found |= dict.fromkeys(k for k, v in line.items() if k not in _NOT_PLOTTED and _is_scalar(v))
            found |= dict.fromkeys(line["losses"])
        return list(found | dict.fromkeys(self.metric_names))

    def curve(self, key: str, x: str) -> tuple[np.ndarray, np.ndarray] | None:
        """`key` over "step" or "epoch": two float64 arrays, NaN where a line has no number; None without the key."""
        for lines in (
            [(line[x], line["losses"] | line) for line in self.train],
            [(line[x], _flat_metrics(line["metrics"])) for line in self.evals],
        ):
            points = [(at, values[key]) for at, values in lines if key in values]
            if points:
                xs, ys = zip(*points)
                return as_floats(list(xs)), as_floats(list(ys))
        return None

    def images_per_second(self) -> tuple[float | None, float | None]:
        """(median, mean) of the log's lines; the mean is all images over all seconds, without evaluations."""
        lines = [line for line in self.train if (line.get("images_per_second") or 0) > 0]
        if not lines:
            return None, None
        speeds, steps = numbers(lines, "images_per_second"), numbers(lines, "step")
        # A line speaks for the steps since the one before it.  After a resume that was not logged at once it may speak
        # for a few too many, all at its own speed.
        weights = np.diff(steps, prepend=0.0)
        return float(np.median(speeds)), float(weights.sum() / (weights / speeds).sum())

    def seconds_per_step(self) -> float | None:
        """The median, from the log and the batch size."""
        median, _ = self.images_per_second()
        batch_size = self.settings.get("batch_size")
        return batch_size / median if median and batch_size else None


def _is_scalar(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _flat_metrics(metrics: dict) -> dict[str, float | None]:
    """The metrics, those of the classes as "class_AP.person"."""
    flat = {}
    for name, value in metrics.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{part}": v for part, v in value.items() if _is_scalar(v)}
        elif _is_scalar(value):
            flat[name] = value
    return flat


def read_run(path: Path) -> RunRecord:
    """What is known of the run in folder `path`; never fails on what the folder holds."""
    notes: list[str] = []
    manifest = _read_json(path / "manifest.json", notes)
    frozen = _read_json(path / "config.json", notes)
    settings = next(iter(frozen.values()), {})
    train, evals = [], []
    try:
        train, evals = read_metrics(path / "metrics.jsonl")
        _check_lines(path / "metrics.jsonl", train, evals)
    except FileNotFoundError:
        notes.append("nothing logged yet")
    except (OSError, ValueError) as error:
        train, evals = [], []
        notes.append(str(error).removeprefix(f"{path}/"))
    record = RunRecord(
        path=path,
        manifest=manifest,
        settings=settings if isinstance(settings, dict) else {},
        train=train,
        evals=evals,
        notes=notes,
    )
    return _with_remarks(record)


def _with_remarks(record: RunRecord) -> RunRecord:
    """What is unusual about a run that could be read."""
    finished, extends = record.finished, record.manifest.get("extends")
    limits = record.manifest.get("identity", {})
    for name in ("limit_images", "max_steps"):
        if limits.get(name) is not None:
            record.notes.append(f"--{name} {limits[name]}")
    if extends:
        record.notes.append(f"extends {extends.get('run')} from step {extends.get('step')}; its log begins there")
    best, metric = record.best_evaluation(), record.settings.get("best_metric")
    known, logged = finished.get("best"), best["metrics"][metric] if best else None
    if known is not None and logged is not None and not math.isclose(known, logged, abs_tol=1e-12):
        record.notes.append(f"best.pth has {metric} {known:.4f}, which is not in this log")
    return record


def _read_json(path: Path, notes: list[str]) -> dict:
    try:
        value = read_json(path)
    except FileNotFoundError:
        notes.append(f"no {path.name}")
        return {}
    except (OSError, ValueError) as error:
        notes.append(f"{path.name} cannot be read: {str(error).removeprefix(f'{path} is damaged: ')}")
        return {}
    if not isinstance(value, dict):
        notes.append(f"{path.name} holds no object")
        return {}
    return value


def _check_lines(path: Path, train: list[dict], evals: list[dict]) -> None:
    """Raises ValueError where a line has not the form that the reporter writes."""
    for lines, part in ((train, "losses"), (evals, "metrics")):
        for line in lines:
            has_place = isinstance(line.get("step"), int) and isinstance(line.get("epoch"), (int, float))
            if not has_place or not isinstance(line.get(part), dict):
                raise ValueError(f"{path} has a line of kind {line['kind']!r} without step, epoch or {part}")
            values = [line.get(name) for name in ("loss", "lr", "images_per_second")] + [
                *line.get("losses", {}).values()
            ]
            if not all(map(_is_scalar, values)):
                raise ValueError(f"{path}, step {line['step']}: loss, lr or images_per_second is not a number")


# ---------------------------------------------------------------------------------------------- which runs


def find_runs(place: str | Path) -> list[Path] | None:
    """The run in folder `place`, or all runs of the experiment there, by name; None for an experiment without runs.

    Raises:
        FileNotFoundError: `place` is neither.
    """
    path = Path(place).resolve()
    if (path / "config.py").is_file():
        runs = sorted(folder for folder in (path / "runs").glob("*") if _is_run(folder))
        return runs or None
    if _is_run(path):
        return [path]
    raise FileNotFoundError(
        f"{path} is neither an experiment's folder (config.py) nor a run (manifest.json, config.json, metrics.jsonl)"
    )


def _is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in RUN_FILES)


def short_names(paths: Sequence[Path]) -> list[str]:
    """A short name for each run or experiment, all different.

    Runs of one experiment are named by their time; else a run that is the only one of its experiment has the
    experiment's name, and others have both.  Where that leaves two alike, the folders above the experiments are added.
    """
    owners = [path.parent.parent if path.parent.name == "runs" else path for path in paths]
    tails = [() if path == owner or owners.count(owner) == 1 else (path.name,) for path, owner in zip(paths, owners)]
    if len(paths) > 1 and len(set(owners)) == 1 and all(tails):
        return [path.name for path in paths]
    most = max((len(owner.parts) for owner in owners), default=0)
    for depth in range(1, most + 1):
        names = ["/".join((*owner.parts[-depth:], *tail)) for owner, tail in zip(owners, tails)]
        if len(set(names)) == len(set(paths)):
            break
    return names
