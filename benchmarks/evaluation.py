"""Times the metrics and the parts of a report on made detections, against pycocotools used in the ordinary way.

    python -m benchmarks.evaluation [--images 5000] [--detections 100] [--classes 80] [--rounds 1] [--short]

The ordinary way writes the results file, reads it and the annotation file, and evaluates.  The programs take turns (A B A B
...) in one process; medians of CPU time are printed, and the difference of the two APs, which must be 0.  `evaluate_coco` is
by hotcoco where that is installed, which uses several threads: RAYON_NUM_THREADS=1 gives it one.  First each program runs
in a forked process, which tells how far its memory grows.
"""

import argparse
import contextlib
import io
import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks.figures import figure
from public.datasets.annotations import Annotations
from public.evaluation.coco import evaluate_coco, write_coco_json
from public.evaluation.curves import compute_curves
from public.evaluation.detections import ImageDetections
from public.evaluation.engines import described
from public.evaluation.matching import confusion_matrix, match_images, worst_first
from public.evaluation.voc import evaluate_voc

SIDE = 640  # of every image, in pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=100, help="per image")
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--short", action="store_true", help="1,500 images")
    options = parser.parse_args()
    if options.short:
        options.images = min(options.images, 1500)  # with fewer what does not grow counts too much

    rng = np.random.default_rng(0)
    annotations = make_annotations(rng, options.images, options.classes)
    detections = make_detections(rng, annotations, options.detections)
    print(f"{options.images} images, {len(annotations.boxes)} objects, {options.classes} classes,", end=" ")
    print(f"{options.detections} detections an image; medians of {options.rounds} rounds in turns")
    print(f"COCO's numbers by {described()}")

    with tempfile.TemporaryDirectory() as folder:
        truth_path, results_path = Path(folder, "truth.json"), Path(folder, "results.json")
        write_truth(truth_path, annotations)
        programs = {
            "evaluate_coco": lambda: evaluate_coco(annotations, detections)["AP"],
            "pycocotools, from files": lambda: from_files(truth_path, results_path, annotations, detections),
            "evaluate_voc, area": lambda: evaluate_voc(annotations, detections, method="area")["AP"],
            "curves": lambda: compute_curves(annotations, detections).classes[0].ap,
            "matches and matrix": lambda: matched(annotations, detections),
        }
        grown = {name: memory_of(program) for name, program in programs.items()}  # before hotcoco has threads here
        seconds = {name: [] for name in programs}
        results = {}
        for _ in range(options.rounds):
            for name, program in programs.items():
                start = time.process_time()
                results[name] = program()
                seconds[name].append(time.process_time() - start)
    report({name: statistics.median(values) for name, values in seconds.items()}, grown, results, options.images)


def report(
    medians: dict[str, float], grown: dict[str, float], results: dict[str, float | None], num_images: int
) -> None:
    for name, median in medians.items():
        result = "undefined" if results[name] is None else f"{results[name]:.6f}"
        print(f"{name:<24} {median:8.2f} s   {grown[name]:6.0f} MiB more   {result}")
    ours, peer = "evaluate_coco", "pycocotools, from files"
    print(f"AP: {results[ours]}, {peer} {results[peer]}")
    figure("COCO's numbers, faster", medians[peer] / medians[ours], "times", peer=peer, least=40)
    figure("COCO's numbers, memory", max(grown[ours], 1) / grown[peer], "times", peer=peer, most=0.2)
    parts = ("evaluate_coco", "evaluate_voc, area", "curves", "matches and matrix")
    whole = sum(medians[name] for name in parts) / num_images * 5000
    figure("a report's numbers, for 5,000 images", whole, "s of CPU", most=5)


def matched(annotations: Annotations, detections: list[ImageDetections]) -> float:
    """The confusion matrix and the worst images; the share of objects that are called what they are."""
    matches = match_images(annotations, detections, score_threshold=0.3)
    matrix = confusion_matrix(matches, len(annotations.class_names))
    worst_first(matches)
    return float(np.trace(matrix) / matrix[:-1].sum())


def memory_of(program: Callable[[], object]) -> float:
    """MiB by which the memory of a forked process grows while it runs `program`."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        program()
        os.write(writer, str((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024).encode())
        os._exit(0)
    os.wait()
    os.close(writer)
    return float(os.read(reader, 100))


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
