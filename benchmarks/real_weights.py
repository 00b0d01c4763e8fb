"""Exports released weights, and says what each file finds in photographs: its AP, its distance from the originals' boxes.

    python -m benchmarks.real_weights [picodet_s_416_coco yolox_nano_coco] [--format torch onnx openvino ncnn]
        [--precision float32] [--limit_images 100] [--shared ../shared]

The weights and the 100 photographs are those of ../shared/weights and ../shared/data/coco_val100.  A row of the table, in
Markdown: AP of the weights and of the file (in points, by `export --evaluate`), and of the eight photographs whose detections
over 0.3 the original projects' code told, how many of these were found, the largest difference of boxes in pixels and of
scores.  Ends with status 1 where a float32 file is over 1 px, 0.005 or 0.05 points, or finds others.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import public
from public.export.formats import FORMATS
from public.export.parity import BOUNDS
from public.export.writing import Written
from public.files import REPOSITORY
from public.test_scripts import export
from public.weights.convert import convert

NETWORKS = {  # page: source of the converter, published name, file
    "picodet_s_416_coco": ("paddle", "picodet_s_416", "picodet_s_416_coco_lcnet.pdparams"),
    "yolox_nano_coco": ("yolox", "yolox_nano", "yolox_nano.pth"),
}
MOST_PIXELS, MOST_SCORE, MOST_POINTS = 1.0, 0.005, 0.05  # that a float32 file may be away
THRESHOLD = 0.3  # of the original's detections; none of theirs lies between 0.28 and 0.32


class Found(NamedTuple):
    """How the detections of a file are related to the original's."""

    expected: int
    matched: int  # of the same class, with an overlap that makes them one
    others: int  # that the original has not
    boxes: float  # the largest difference of a matched one, in pixels of the photograph
    scores: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(NETWORKS), help="experiments")
    parser.add_argument("--format", nargs="+", default=list(FORMATS), choices=tuple(FORMATS))
    parser.add_argument("--precision", default="float32", choices=tuple(BOUNDS))
    parser.add_argument("--limit_images", type=int, help="AP of the first N photographs alone")
    parser.add_argument("--shared", type=Path, default=REPOSITORY.parent / "shared")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows, problems = [], []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.names:
            place = Path(folder) / name
            place.mkdir()
            for written in exported(name, options, place):
                found = compare(written.path, name, options.shared)
                rows.append(row(name, written, found))
                problems += problems_of(written, found)
    print("\n| weights | format | AP of the weights | AP of the file | found | boxes | scores |\n" + "| --- " * 7 + "|")
    print("\n".join(rows))
    if problems and options.precision == "float32":
        raise SystemExit("\n".join(problems))


def exported(name: str, options: argparse.Namespace, place: Path) -> list[Written]:
    """The files of one network, with boxes out, each evaluated."""
    source, model_name, file = NETWORKS[name]
    weights = place / f"{name}.pth"
    convert(source=source, model_name=model_name, file=options.shared / "weights" / file, output=weights)
    data = place / "data/coco"
    data.mkdir(parents=True)
    photographs = (options.shared / "data/coco_val100").resolve()
    (data / "annotations").symlink_to(photographs / "annotations")
    (data / "val2017").symlink_to(photographs / "images/val2017")
    words = [str(REPOSITORY / "detection_experiments" / name), str(weights), "--data_root", str(data.parent)]
    words += ["--evaluate", "--max_ap_loss", "100", "--precision", options.precision, "-o", str(place / "exported")]
    words += ["--limit_images", str(options.limit_images)] if options.limit_images else []
    return export.export(export.make_parser().parse_args([*words, "--format", *options.format]))


def compare(path: Path, name: str, shared: Path) -> Found:
    """What the file `path` finds in the eight photographs, and what the original found there."""
    expected = json.loads((shared / "weights/expected.json").read_text())["models"][NETWORKS[name][2].split(".")[0]]
    detector: Any = public.load(path)
    count, matched, others, boxes, scores = 0, 0, 0, 0.0, 0.0
    for picture, theirs in expected["detections"].items():
        ours = detector(shared / "data/coco_val100/named" / picture, score_threshold=THRESHOLD)
        is_free = np.ones(len(ours["scores"]), bool)
        count += len(theirs["scores"])
        for box, score, label in zip(theirs["boxes"], theirs["scores"], theirs["labels"]):
            apart = np.abs(ours["boxes"] - np.array(box)).max(-1, initial=0.0)
            near = np.flatnonzero(is_free & (ours["labels"] == label) & (apart < 20))
            if not len(near):
                continue
            best = near[apart[near].argmin()]
            is_free[best] = False
            matched, boxes = matched + 1, max(boxes, float(apart[best]))
            scores = max(scores, abs(float(ours["scores"][best]) - score))
        others += int(is_free.sum())
    return Found(count, matched, others, boxes, scores)


def problems_of(written: Written, found: Found) -> list[str]:
    """What a float32 file may not do."""
    evaluation, name = written.measured["evaluation"], written.path.name
    problems = []
    if abs(evaluation["file"] - evaluation["weights"]) > MOST_POINTS / 100:
        problems.append(f"{name}: AP {evaluation['file']}, that of the weights {evaluation['weights']}")
    if found.matched != found.expected or found.others or found.boxes > MOST_PIXELS or found.scores > MOST_SCORE:
        problems.append(f"{name}: {found}")
    return problems


def row(name: str, written: Written, found: Found) -> str:
    """Of the table."""
    evaluation = written.measured["evaluation"]
    figures = [f"{100 * evaluation[who]:.3f}" for who in ("weights", "file")]
    figures.append(f"{found.matched} of {found.expected}" + (f", {found.others} others" if found.others else ""))
    figures += [f"{found.boxes:.2g} px", f"{found.scores:.1g}"]
    return f"| {name} | {written.card.format} | {' | '.join(figures)} |"


if __name__ == "__main__":
    main()
