"""Runs that are written by hand, for the commands that read what runs leave behind."""

import json
from pathlib import Path


def train_line(step, loss, *, steps_per_epoch=10, speed=8.0, lr=0.01, **terms):
    terms = terms or {"loss_cls": 0.75 * loss, "loss_iou": 0.25 * loss}
    return {
        "kind": "train", "step": step, "epoch": (step - 1) / steps_per_epoch, "lr": lr, "loss": loss, "losses": terms,
        "gradient_norm": None, "images_per_second": speed, "memory_gib": 1.5,
    }  # fmt: skip


def eval_line(epoch, ap, *, steps_per_epoch=10, **metrics):
    metrics = {"AP": ap, "AP50": None if ap is None else 1.5 * ap, "class_AP": {"cat": ap}} | metrics
    return {"kind": "eval", "step": epoch * steps_per_epoch, "epoch": epoch, "metrics": metrics}


def write_run(path: Path, lines, *, finished=None, settings=None, **manifest) -> Path:
    """A run folder with settings, manifest and metrics.jsonl; without the copy of its experiment."""
    path.mkdir(parents=True)
    settings = {"batch_size": 4, "best_metric": "AP", "epochs": 3, "seed": 7} | (settings or {})
    (path / "config.json").write_text(json.dumps({"DetectionConfig": settings}))
    entries = {"experiment": path.parent.parent.name, "git": None, "starts": [], "finished": finished}
    (path / "manifest.json").write_text(json.dumps(entries | {"identity": {}} | manifest))
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def write_experiment(folder: Path, card: str = "An experiment.") -> Path:
    folder.mkdir(parents=True)
    (folder / "config.py").write_text(f'"""{card}"""\n')
    return folder
