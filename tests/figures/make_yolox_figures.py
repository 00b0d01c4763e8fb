"""Reduces the oracle of YOLOX-s to the few figures that lie in this folder: yolox_s.json and yolox_s.npz.

    python -m tests.figures.make_yolox_figures ../shared/oracles/yolox

The tests read either the whole oracle (`load_oracle`) or the reduced figures (`load_figures`); both give the same keys:
    entries      [name, shape] of each array of the checkpoint
    statistics   name -> the running statistics, which are not filled by name
    raw          [image, point, channel] and the raw output there: 4 of the box, 1 of the object, 80 classes
    boxes        [image, point] and the box there: centre and sides in pixels
    kept         for each image the detections above 0.3 after NMS at 0.45, by score: x1 y1 x2 y2, object, class, label
    targets      case -> for each image the objects: class, centre and sides in pixels
    assignments  case -> for each image point, label and IoU of the positive points
    claims       case -> for each image the points that each object claims
    losses       run -> the original's terms
    gradients    run -> parameter -> norm and sum of the gradient
    after_step   run -> name -> norm of the running statistics and parameters after one step
A run is a case with or without the L1 term, such as a_l10 and a_l11.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
CASES = ("a", "b", "c")
RUNS = tuple(f"{case}_l1{number}" for case in CASES for number in (0, 1))


def load_oracle(folder: Path) -> dict[str, Any]:
    """The whole oracle, `folder` being that of all YOLOX oracles."""
    outputs = dict(np.load(folder / "yolox_s/out.npz"))
    train, meta = np.load(folder / "yolox_s_train/out.npz"), _json(folder / "yolox_s_train/meta.json")
    levels = [outputs[f"cal/raw.{level}"] for level in range(3)]
    raw = np.concatenate([level.reshape(2, 85, -1).transpose(0, 2, 1) for level in levels], axis=1)
    boxes = outputs["cal/decoded_boxes"]
    return {
        "entries": [[entry["name"], entry["shape"]] for entry in _json(folder / "yolox_s/state.json")],
        "statistics": dict(np.load(folder / "yolox_s/calib.npz")),
        "raw": (np.argwhere(np.ones_like(raw)), raw.ravel()),
        "boxes": (np.argwhere(np.ones(boxes.shape[:2])), boxes.reshape(-1, 4)),
        "kept": [outputs[f"cal/post_c30n45.{image}"] for image in range(2)],
        "targets": {case: [[row for row in image if any(row)] for image in meta["gts"][case]] for case in CASES},
        "assignments": {case: [_assignment(train, case, image) for image in range(2)] for case in CASES},
        "claims": {case: [_claims(train, case, image) for image in range(2)] for case in CASES},
        "losses": meta["losses"],
        "gradients": {
            run: {
                name: [float(norm), float(total)]
                for name, norm, total in zip(meta["param_order"], train[f"{run}/grad_norm"], train[f"{run}/grad_sum"])
            }
            for run in RUNS
        },
        "after_step": {run: _after_step(train, meta, run) for run in ("a_l10", "a_l11")},
    }


def _json(path: Path) -> Any:
    return json.loads(path.read_text())


def _assignment(train, case: str, image: int) -> list[list]:
    key = f"{case}/img{image}"
    if f"{key}/fg_index" not in train:
        return []
    columns = (train[f"{key}/{name}"].tolist() for name in ("fg_index", "matched_cls", "matched_iou"))
    return [list(row) for row in zip(*columns)]


def _claims(train, case: str, image: int) -> list[int]:
    key = f"{case}/img{image}/dynamic_k"
    return train[key].tolist() if key in train else []


def _after_step(train, meta: dict, run: str) -> dict[str, float]:
    statistics = zip(meta["running_order"], train[f"{run}/running_norm_after"].tolist())
    return {**dict(statistics), **dict(zip(meta["param_order"], train[f"{run}/param_norm_after_step"].tolist()))}


def load_figures() -> dict[str, Any]:
    """The reduced figures."""
    figures = _json(HERE / "yolox_s.json")
    arrays = np.load(HERE / "yolox_s.npz")
    for key in ("raw", "boxes"):
        figures[key] = (arrays[f"{key}_index"], arrays[f"{key}_values"])
    figures["kept"] = [arrays[f"kept_{image}"] for image in range(2)]
    shapes = dict(figures["entries"])
    names = [name for name in shapes if name.endswith(("running_mean", "running_var"))]
    ends = np.cumsum([shapes[name][0] for name in names])
    figures["statistics"] = dict(zip(names, np.split(arrays["statistics"], ends[:-1])))
    return figures


def main(folder: Path) -> None:
    oracle = load_oracle(folder)
    rng = np.random.default_rng(0)
    arrays = {f"kept_{image}": kept[:40] for image, kept in enumerate(oracle["kept"])}
    for key, count in (("raw", 400), ("boxes", 100)):
        index, values = oracle[key]
        rows = rng.choice(len(index), count, replace=False)
        arrays |= {f"{key}_index": index[rows].astype(np.int16), f"{key}_values": values[rows]}
    statistics = [name for name, _ in oracle["entries"] if name.endswith(("running_mean", "running_var"))]
    arrays["statistics"] = np.concatenate([oracle["statistics"][name] for name in statistics])
    np.savez_compressed(HERE / "yolox_s.npz", **arrays)
    kept = ("entries", "targets", "assignments", "claims", "losses")
    figures = {key: oracle[key] for key in kept}
    for key, step in (("gradients", 12), ("after_step", 24)):
        figures[key] = {run: dict(list(values.items())[::step]) for run, values in oracle[key].items()}
    text = json.dumps(figures, separators=(",", ":"))
    (HERE / "yolox_s.json").write_text(text.replace('],["', '],\n["') + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
