"""The oracles of torchvision's, MMDetection's and Megvii's detectors: checkpoints as files, inputs and results.

A checkpoint is written with the original's names, converted by our command's function and loaded strictly, so that a test
goes the way of a user.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from public.checkpoint_files import load_checkpoint
from public.models import create_model
from public.models.loading import load_weights
from public.weights.convert import convert
from tests.figures.fill_rule import fill, oracle_input
from tests.helpers.places import SHARED


@dataclass(frozen=True)
class Oracle:
    """One folder of `../shared/oracles`: its `meta.json`, its results (of out.npz) and the limit of each."""

    source: str  # torchvision, mmdet or yolox
    folder: Path
    meta: dict
    results: dict[str, np.ndarray]
    tolerances: dict

    @classmethod
    def read(cls, source: str, name: str) -> "Oracle":
        """Skips the test where ../shared is absent."""
        family = {"torchvision": "tvdet", "mmdet": "mmdet", "yolox": "yolox"}[source]
        folder = SHARED / "oracles" / family / name
        if not folder.exists():
            pytest.skip(f"the oracle is not at {folder}")
        tolerances = json.loads((SHARED / "oracles/tolerances.json").read_text()).get(f"{family}/{name}", {})
        meta = json.loads((folder / "meta.json").read_text())
        return cls(source, folder, meta, dict(np.load(folder / "out.npz")), tolerances)

    def state(self) -> dict[str, torch.Tensor]:
        """The original's state dict: filled by name, times the gain that its meta.json states, statistics calibrated."""
        statistics = np.load(self.folder / "calib.npz")
        state = {}
        for entry in json.loads((self.folder / "state.json").read_text()):
            name, shape = entry["name"], tuple(entry["shape"])
            if name.endswith("num_batches_tracked"):
                state[name] = torch.tensor(0)
                continue
            value = statistics[name].astype(np.float32) if name in statistics else fill(name, shape)
            for part, factor in self.meta.get("gain", {}).items():
                if part in name:
                    value = value * np.float32(factor)
            state[name] = torch.from_numpy(np.ascontiguousarray(value.reshape(shape)))
        return state

    def images(self) -> torch.Tensor:
        spec = self.meta["input"]
        return torch.from_numpy(oracle_input(spec["tag"], tuple(spec["shape"])))

    def targets(self, case: str) -> list[dict[str, torch.Tensor]]:
        """Of the two images; in case b the second is empty."""
        given = self.meta["targets"]
        targets = [
            {
                "boxes": torch.tensor(given[f"boxes{image}"]).reshape(-1, 4),
                "labels": torch.tensor(given[f"labels{image}"], dtype=torch.int64),
            }
            for image in range(2)
        ]
        if case == "b":
            targets[1] = {name: value[:0] for name, value in targets[1].items()}
        return targets

    def write_checkpoint(self, path: Path) -> Path:
        """The original's file: a bare state dict from torchvision, one with entries beside it from the others."""
        state = self.state()
        contents = {
            "torchvision": state,
            "mmdet": {"meta": {"epoch": 12}, "state_dict": state},
            "yolox": {"start_epoch": 300, "model": state, "optimizer": {"state": {}, "param_groups": []}},
        }
        torch.save(contents[self.source], path)
        return path

    def gradient_norms(self, case: str) -> dict[str, float]:
        """The original's parameter names -> norm of the gradient, without those that it does not train (-1)."""
        norms = self.results[f"{case}/grad_norm"]
        return {name: float(norm) for name, norm in zip(self.meta["param_order"], norms) if norm >= 0}


def converted(oracle: Oracle, model_name: str, folder: Path) -> tuple[nn.Module, dict]:
    """The oracle's checkpoint, written, converted for `model_name` and loaded; and what the converted file holds."""
    file = oracle.write_checkpoint(folder / "original.pth")
    convert(source=oracle.source, model_name=model_name, file=file, output=folder / "ours.pth")
    checkpoint = load_checkpoint(folder / "ours.pth")
    model = create_model(model_name, num_classes=checkpoint["num_classes"])
    load_weights(model, checkpoint, folder / "ours.pth")
    return model, checkpoint
