"""Reduces the oracles of torchvision's and MMDetection's detectors to the few figures that lie in this folder.

    python -m tests.figures.make_detector_figures torchvision retinanet_resnet50_fpn    # or mmdet retinanet_r50, ...

Of a result with more than MOST numbers the reduced figures hold `<key>:at`, the places of some of them, and `<key>:values`;
of all others everything.  `tests.helpers.detector_oracles.Oracle` reads both.
"""

import json
import sys
from pathlib import Path

import numpy as np

from tests.helpers.places import FIGURES, SHARED

FAMILIES = {"torchvision": "tvdet", "mmdet": "mmdet", "yolox": "yolox"}  # source -> folder of its oracles
MOST = 3000
FEWER = 400  # numbers that are left of a larger result


def whole_folder(source: str, name: str) -> Path:
    return SHARED / "oracles" / FAMILIES[source] / name


def reduced_folder(source: str, name: str) -> Path:
    return FIGURES / "detectors" / f"{source}_{name}"


def reduced(results: dict[str, np.ndarray], seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    found = {}
    for key, values in results.items():
        if values.size <= MOST or values.dtype.kind != "f":
            found[key] = values
            continue
        found[f"{key}:at"] = np.sort(rng.choice(values.size, FEWER, replace=False)).astype(np.int32)
        found[f"{key}:values"] = values.ravel()[found[f"{key}:at"]]
    return found


def main(source: str, name: str) -> None:
    whole, folder = whole_folder(source, name), reduced_folder(source, name)
    folder.mkdir(parents=True, exist_ok=True)
    results = {key: value for key, value in np.load(whole / "out.npz").items() if not key.startswith("full/batch_sub")}
    np.savez_compressed(folder / "out.npz", **reduced(results))
    np.savez_compressed(folder / "calib.npz", **np.load(whole / "calib.npz"))
    for file in ("meta.json", "state.json", "alias.json"):
        if (whole / file).exists():
            content = json.loads((whole / file).read_text())
            (folder / file).write_text(json.dumps(content, separators=(",", ":")) + "\n")
    bounds = json.loads((SHARED / "oracles/tolerances.json").read_text()).get(f"{FAMILIES[source]}/{name}", {})
    (folder / "tolerances.json").write_text(json.dumps(bounds, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
