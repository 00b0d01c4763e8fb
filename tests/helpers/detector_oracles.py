"""The oracles of torchvision's, MMDetection's and Megvii's detectors: checkpoints as files, inputs and results.

Where ../shared is absent, the reduced figures of `tests/figures/detectors` take their place.

A checkpoint is written with the original's names, converted by our command's function and loaded strictly, so that a test
goes the way of a user.
"""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from public.checkpoint_files import load_checkpoint
from public.input import Geometry, InputSpec
from public.models import create_model
from public.models.loading import load_weights
from public.weights.convert import convert
from tests.figures.fill_rule import fill, oracle_input
from tests.figures.make_detector_figures import FAMILIES, reduced_folder, whole_folder
from tests.helpers.places import SHARED


@dataclass(frozen=True)
class Oracle:
    """One folder of `../shared/oracles`, or its reduced figures: `meta.json`, results (of out.npz) and the limit of each."""

    source: str  # torchvision, mmdet or yolox
    folder: Path
    meta: dict
    results: dict[str, np.ndarray]
    tolerances: dict

    @classmethod
    def read(cls, source: str, name: str) -> "Oracle":
        """Skips the test where neither ../shared nor a reduced oracle is."""
        folder, reduced = whole_folder(source, name), reduced_folder(source, name)
        if folder.exists():
            tolerances = json.loads((SHARED / "oracles/tolerances.json").read_text())
            return cls.of(source, folder, tolerances.get(f"{FAMILIES[source]}/{name}", {}))
        if not reduced.exists():
            pytest.skip(f"the oracle is not at {folder}")
        return cls.of(source, reduced, json.loads((reduced / "tolerances.json").read_text()))

    @classmethod
    def of(cls, source: str, folder: Path, tolerances: dict) -> "Oracle":
        meta = json.loads((folder / "meta.json").read_text())
        return cls(source, folder, meta, dict(np.load(folder / "out.npz")), tolerances)

    def difference(self, key: str, found: torch.Tensor) -> float:
        """The largest absolute difference between `found` and the result called `key`, or what is left of it."""
        found = found.detach().double().numpy()
        if key in self.results:
            assert found.shape == self.results[key].shape, f"{key}: {found.shape}, {self.results[key].shape}"
            return float(np.abs(found - self.results[key]).max())
        return float(np.abs(found.ravel()[self.results[f"{key}:at"]] - self.results[f"{key}:values"]).max())

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
            state[name] = torch.from_numpy(np.ascontiguousarray(value)).reshape(shape)  # numpy's has no 0-d
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


def unequal_pictures(oracle: Oracle, spec: InputSpec) -> tuple[torch.Tensor, list[Geometry]]:
    """The two pictures of a torchvision oracle's `full` results as a normalised batch, and where they lie in it.

    Placed by our rule, `spec`, and compared with torchvision's batch; resized as torchvision does, in floating point: ours
    resizes whole grey values.
    """
    mean, std = torch.tensor(spec.mean)[:, None, None], torch.tensor(spec.std)[:, None, None]
    tag, shapes = oracle.meta["input"]["tag"], {"img0": (3, 50, 80), "img1": (3, 64, 60)}
    pictures = [torch.from_numpy(oracle_input(f"{tag}:{name}", shape)).sigmoid() for name, shape in shapes.items()]
    placed = [spec.resize.place(*picture.shape[1:], spec.size) for picture in pictures]
    assert [[p.height, p.width] for p in placed] == oracle.results["full/image_sizes"].tolist()
    canvas = max(p.canvas_height for p in placed), max(p.canvas_width for p in placed)
    batch, geometries = torch.zeros(len(pictures), 3, *canvas), []
    for image, (picture, p) in enumerate(zip(pictures, placed)):
        resized = F.interpolate(((picture - mean) / std)[None], size=(p.height, p.width), mode="bilinear")[0]
        batch[image, :, : p.height, : p.width] = resized
        height, width = picture.shape[1:]
        geometries.append(Geometry(p.width / width, p.height / height, 0, 0, width, height))
    assert list(batch.shape) == oracle.results["full/batch_shape"].tolist()
    if "full/batch_sub4" in oracle.results:  # reduced figures have none
        np.testing.assert_allclose(batch[:, :, ::4, ::4], oracle.results["full/batch_sub4"], rtol=0, atol=2e-5)
    return batch, geometries


def converted(oracle: Oracle, model_name: str) -> tuple[nn.Module, dict]:
    """The oracle's checkpoint, written, converted for `model_name` and loaded; and what the converted file holds."""
    with tempfile.TemporaryDirectory() as folder:
        file, output = oracle.write_checkpoint(Path(folder, "original.pth")), Path(folder, "ours.pth")
        convert(source=oracle.source, model_name=model_name, file=file, output=output)
        checkpoint = load_checkpoint(output)
    model = create_model(model_name, num_classes=checkpoint["num_classes"])
    load_weights(model, checkpoint, output)
    return model, checkpoint
