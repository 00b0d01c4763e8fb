"""Times `evaluate_coco` on made detections against pycocotools used in the ordinary way, and `evaluate_voc` as well.

    python -m benchmarks.evaluation [--images 1000] [--detections 100] [--classes 20] [--rounds 3]

The ordinary way writes the results file, reads it and the annotation file, and evaluates; both ways run pycocotools'
own code, so the ratio says what the detour over files costs.  They take turns (A B A B ...) in one process; medians are
printed, and the difference of the two APs, which must be 0.
"""

import argparse
import contextlib
import io
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from public.datasets.annotations import Annotations
from public.evaluation.coco import evaluate_coco, write_coco_json
from public.evaluation.detections import ImageDetections
from public.evaluation.voc import evaluate_voc

SIDE = 640  # of every image, in pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--detections", type=int, default=100, help="per image")
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    rng = np.random.default_rng(0)
    annotations = make_annotations(rng, options.images, options.classes)
    detections = make_detections(rng, annotations, options.detections)
    print(f"{options.images} images, {len(annotations.boxes)} objects, {options.classes} classes,", end=" ")
    print(f"{options.detections} detections an image; medians of {options.rounds} rounds in turns")

    with tempfile.TemporaryDirectory() as folder:
        truth_path, results_path = Path(folder, "truth.json"), Path(folder, "results.json")
        write_truth(truth_path, annotations)
        programs = {
            "evaluate_coco": lambda: evaluate_coco(annotations, detections)["AP"],
            "pycocotools, from files": lambda: from_files(truth_path, results_path, annotations, detections),
            "evaluate_voc, area": lambda: evaluate_voc(annotations, detections, method="area")["AP"],
        }
        seconds = {name: [] for name in programs}
        results = {}
        for _ in range(options.rounds):
            for name, program in programs.items():
                start = time.perf_counter()
                results[name] = program()
                seconds[name].append(time.perf_counter() - start)

    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, median in medians.items():
        print(f"{name:<24} {median:8.2f} s   AP {results[name]:.6f}")
    ours, peer = "evaluate_coco", "pycocotools, from files"
    print(f"ratio {peer} / {ours}: {medians[peer] / medians[ours]:.2f}; AP differs by {results[peer] - results[ours]}")


def make_annotations(rng: np.random.Generator, num_images: int, num_classes: int) -> Annotations:
    """1 to 14 objects an image, of the sizes and the mixture of sizes that photographs have."""
    counts = rng.integers(1, 15, num_images)
    num_objects = int(counts.sum())
    sides = np.exp(rng.uniform(np.log(10), np.log(400), (num_objects, 2)))
    corners = rng.uniform(0, SIDE - sides)
    return Annotations(
        image_root="",
        image_names=[f"{i}.jpg" for i in range(num_images)],
        image_ids=np.arange(1, num_images + 1),
        heights=np.full(num_images, SIDE),
        widths=np.full(num_images, SIDE),
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        boxes=np.concatenate([corners, corners + sides], axis=1),
        labels=rng.integers(0, num_classes, num_objects),
        difficult=rng.random(num_objects) < 0.1,
        crowd=rng.random(num_objects) < 0.01,
        areas=sides.prod(axis=1) * 0.7,
        class_names=tuple(f"class {k}" for k in range(num_classes)),
        category_ids=tuple(range(1, num_classes + 1)),
        use_difficult=True,
        description="made data",
    )


def make_detections(rng: np.random.Generator, annotations: Annotations, count: int) -> list[ImageDetections]:
    """`count` detections an image: half of them near its objects, half anywhere, in classes that are often right."""
    detections = []
    for index in range(len(annotations)):
        objects = annotations.objects(index)
        chosen = rng.integers(0, len(objects.boxes), count)
        boxes = objects.boxes[chosen] * rng.normal(1, 0.05, (count, 4))
        labels = objects.labels[chosen]
        is_anywhere = rng.random(count) < 0.5
        boxes[is_anywhere] = rng.uniform(0, SIDE / 2, (count, 4))[is_anywhere]
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 4)
        labels[is_anywhere] = rng.integers(0, len(annotations.class_names), count)[is_anywhere]
        scores = rng.uniform(0, 0.6, count) + 0.4 * ~is_anywhere
        detections.append(ImageDetections(index, boxes.astype(np.float32), scores.astype(np.float32), labels))
    return detections


def write_truth(path: Path, annotations: Annotations) -> None:
    """`annotations` as a COCO annotation file."""
    image_of_object = np.repeat(annotations.image_ids, np.diff(annotations.offsets)).tolist()
    corners = annotations.boxes.astype(np.float64)
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).tolist()
    columns = (image_of_object, annotations.labels.tolist(), boxes, annotations.areas.tolist())
    rows = [
        {"id": i, "image_id": image, "category_id": label + 1, "bbox": box, "area": area, "iscrowd": int(crowd)}
        for i, (image, label, box, area, crowd) in enumerate(zip(*columns, annotations.crowd.tolist()), start=1)
    ]
    images = [{"id": image_id, "height": SIDE, "width": SIDE} for image_id in annotations.image_ids.tolist()]
    categories = [{"id": k, "name": name} for k, name in enumerate(annotations.class_names, start=1)]
    path.write_text(json.dumps({"images": images, "annotations": rows, "categories": categories}))


def from_files(truth_path: Path, results_path: Path, annotations: Annotations, detections) -> float:
    """AP by pycocotools with a results file in between, as its documentation shows."""
    write_coco_json(results_path, annotations, detections)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(truth_path)
        evaluation = COCOeval(truth, truth.loadRes(str(results_path)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


if __name__ == "__main__":
    main()
