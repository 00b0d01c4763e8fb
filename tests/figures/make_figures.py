"""Reduces the oracles of PPYOLOE and PicoDet to the few figures that lie in this folder.

    python -m tests.figures.make_figures ../shared/oracles/paddle/ppyoloe_crn_s    # and so on, one folder a model

The tests read either the whole oracle (`load_oracle`) or the reduced figures (`load_figures`); both give the same keys:
    entries      [name, shape] of each array of the checkpoint, `fixed` the values of those that are not filled
    gain         factor of the one-dimensional weights in the evaluation forward
    scores       [image, anchor, class] and the score there
    boxes        [image, anchor] and the box there
    kept         for each image the first detections by score, [label, anchor]
    predictions  static, aligned -> boxes (B, A, 4) and scores (B, A, K) of the training forward, which that assigner
                 reads: those of the head, or of the auxiliary head
    runs         case/assigner -> epoch, targets, positives, losses (unweighted), gradients: for each term and parameter
                 the norm and the dot product with `oracle_input("grad:<name>")`, or None; only those with finite losses:
                 PicoDet's are not, where no image holds an object
"""

import json
import math
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent


def load_oracle(folder: Path) -> dict:
    """The whole oracle, as PaddleDetection's outputs were stored."""
    state = json.loads((folder / "state.json").read_text())
    forward = np.load(folder / "forward_gain.npz")
    main = np.load(folder / "train_pred.npz")
    auxiliary = np.load(folder / "train_aux_pred.npz") if (folder / "train_aux_pred.npz").exists() else main
    return {
        "entries": [[entry["name"], entry["shape"]] for entry in state["entries"]],
        "fixed": {entry["name"]: entry["value"] for entry in state["entries"] if entry["role"] == "fixed"},
        "gain": state["variants"]["forward_gain"]["gain"],
        "scores": (np.argwhere(np.ones_like(forward["scores"])), forward["scores"].ravel()),
        "boxes": (np.argwhere(np.ones(forward["boxes"].shape[:2])), forward["boxes"].reshape(-1, 4)),
        "kept": _kept(forward),
        "predictions": {
            assigner: (head["pred_bboxes_px"], head["pred_scores"])
            for assigner, head in (("static", main), ("aligned", auxiliary))
        },
        "runs": _runs(folder),
    }


def _kept(forward) -> list[np.ndarray]:
    """Each image's detections by falling score; the oracle lists them class by class."""
    num_anchors = forward["boxes"].shape[1]
    ends = np.cumsum(forward["nms/num"])
    kept = []
    for image, (start, end) in enumerate(zip([0, *ends], ends)):
        pairs = np.stack([forward["nms/labels"], forward["nms/index"] - image * num_anchors], axis=1)[start:end]
        kept.append(pairs[np.argsort(-forward["nms/scores"][start:end], kind="stable")])
    return kept


def _runs(folder: Path) -> dict:
    train = json.loads((folder / "train.json").read_text())
    gradients = json.loads((folder / "train_grads.json").read_text())["grads"]
    runs = {}
    for name, run in train["runs"].items():
        if not math.isfinite(run["losses"]["loss"]):
            continue
        arrays = np.load(folder / f"train_{name.replace('/', '_')}.npz")
        images, anchors = np.nonzero(arrays["assigned_scores"].shape[2] != arrays["assigned_labels"])
        labels = arrays["assigned_labels"][images, anchors]
        runs[name] = {
            "epoch": run["epoch_id"],
            "targets": train["gt"][name.split("/")[0]],
            "positives": np.stack([images, anchors, labels], axis=1),
            "positive_boxes": arrays["assigned_bboxes"][images, anchors],
            "positive_scores": arrays["assigned_scores"][images, anchors, labels],
            "scores_sum": float(arrays["assigned_scores"].sum(dtype=np.float64)),
            "losses": run["losses"],
            "gradient_totals": run["grad_total_l2"],
            "gradients": gradients[name],
        }
    return runs


def load_figures(name: str) -> dict:
    """The reduced figures of the oracle called `name`."""
    figures = json.loads((HERE / f"{name}.json").read_text())
    for key in ("scores", "boxes"):
        index, values = figures[key]
        figures[key] = (np.array(index), np.array(values, dtype=np.float32))
    figures["kept"] = [np.array(pairs) for pairs in figures["kept"]]
    for run in figures["runs"].values():
        run["positives"] = np.array(run["positives"], dtype=np.int64).reshape(-1, 3)
        run["positive_boxes"] = np.array(run["positive_boxes"], dtype=np.float32).reshape(-1, 4)
        run["positive_scores"] = np.array(run["positive_scores"], dtype=np.float32)
    arrays = np.load(HERE / f"{name}.npz")
    scores = np.zeros((*arrays["aligned_boxes"].shape[:2], 80), dtype=np.float32)
    scores[..., arrays["classes"]] = arrays["scores"]  # the task-aligned assigner reads the objects' classes only
    figures["predictions"] = {
        "static": (arrays["static_boxes"], None),
        "aligned": (arrays["aligned_boxes"], scores),
    }
    return figures


def check_parts(few: dict, oracle: dict) -> None:
    """Holds that the reduced figures, as they are loaded, say what the whole oracle says, where they say something."""
    assert few.keys() == oracle.keys()
    for key in ("entries", "fixed", "gain"):
        assert few[key] == oracle[key], key
    for key in ("scores", "boxes"):
        places, values = oracle[key]
        shape = tuple(places.max(axis=0) + 1)
        there = values.reshape(*shape, *values.shape[1:])[tuple(few[key][0].T)]
        np.testing.assert_array_equal(there, few[key][1], err_msg=key)
    for kept, all_kept in zip(few["kept"], oracle["kept"], strict=True):
        np.testing.assert_array_equal(kept, all_kept[: len(kept)])
    for assigner, (boxes, _) in few["predictions"].items():
        np.testing.assert_array_equal(boxes, oracle["predictions"][assigner][0])
    assert few["runs"].keys() == oracle["runs"].keys()
    for name, run in few["runs"].items():
        theirs = oracle["runs"][name]
        for key in ("epoch", "targets", "scores_sum", "losses", "gradient_totals"):
            assert run[key] == theirs[key], key
        for key in ("positives", "positive_boxes", "positive_scores"):
            np.testing.assert_array_equal(run[key], theirs[key].reshape(run[key].shape), err_msg=key)
        for term, pairs in run["gradients"].items():
            assert pairs == {parameter: theirs["gradients"][term][parameter] for parameter in pairs}


def reduce(oracle: dict) -> dict:
    """The part of the oracle that goes into the json file."""
    rng = np.random.default_rng(0)
    figures = {key: oracle[key] for key in ("entries", "fixed", "gain")}
    for key, count in (("scores", 100), ("boxes", 40)):
        index, values = oracle[key]
        rows = rng.choice(len(index), count, replace=False)
        figures[key] = [index[rows].tolist(), _digits(values[rows])]
    figures["kept"] = [pairs[:40].tolist() for pairs in oracle["kept"]]
    figures["runs"] = {}
    for name, run in oracle["runs"].items():
        reduced = dict(run)
        reduced["positives"] = run["positives"].tolist()
        reduced["positive_boxes"] = _digits(run["positive_boxes"])
        reduced["positive_scores"] = _digits(run["positive_scores"])
        reduced["gradients"] = {term: dict(list(pairs.items())[::25]) for term, pairs in run["gradients"].items()}
        figures["runs"][name] = reduced
    return figures


def _digits(values: np.ndarray):
    """Nested lists that give the same float32 again."""
    return [_digits(value) if value.ndim else float(f"{value:.9g}") for value in np.asarray(values)]


def reduced(oracle: dict) -> tuple[str, dict[str, np.ndarray]]:
    """What the two files of an oracle hold: the text of the .json, the arrays of the .npz."""
    text = json.dumps(reduce(oracle), separators=(",", ":"))
    boxes, scores = oracle["predictions"]["aligned"]
    objects = [target for run in oracle["runs"].values() for image in run["targets"] for target in image]
    classes = np.unique([target["class"] for target in objects])
    arrays = {
        "static_boxes": oracle["predictions"]["static"][0],
        "aligned_boxes": boxes,
        "scores": scores[..., classes],
        "classes": classes,
    }
    return text.replace('],["', '],\n["') + "\n", arrays


def main(folder: Path) -> None:
    text, arrays = reduced(load_oracle(folder))
    (HERE / f"{folder.name}.json").write_text(text)
    np.savez_compressed(HERE / f"{folder.name}.npz", **arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
