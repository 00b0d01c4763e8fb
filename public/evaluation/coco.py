"""The COCO detection metric, computed by pycocotools, and COCO's results file.

Source: Lin et al., "Microsoft COCO: Common Objects in Context", arXiv 1405.0312; the twelve numbers are defined by the
evaluation code of https://cocodataset.org, which pycocotools is.  Nothing of the metric is computed anew here: the
annotations and detections are handed to pycocotools in memory, and its result arrays are averaged as it averages them.

What that means in detail:

- Crowd regions are neither to be found nor wrong to be found: a detection that lies mostly inside one is left out.
- `areas` of the annotations, not the area of the box, decide whether an object is small (up to 32 x 32 pixels), medium
  or large (from 96 x 96); in COCO it is the area of the object's outline.
- The limit on detections, `max_detections`, holds for each class of each image.
- COCO knows no `difficult` objects.  Those of a Pascal VOC data set count like any other; `voc.py` leaves them out.
- Images and categories are handed over by their rank among the sorted ids, from 1: pycocotools sorts ids by numpy, which
  makes one float of several large numbers.  The order, and so every number, is that of the ids themselves.
- A number for which there is nothing to find, such as APs of a data set without small objects, is None (null in a JSON
  file), where pycocotools says -1: it is not mistaken for a result, and a mean over it fails.
"""

import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from public.evaluation.detections import ImageDetections, check_detections
from public.files import write_text

# name: (is it a precision?, IoU threshold or None for the mean over all ten, area range, limit on detections or None
# for `max_detections`).  The order is that of pycocotools.
COCO_METRICS = {
    "AP": (True, None, "all", None),
    "AP50": (True, 0.50, "all", None),
    "AP75": (True, 0.75, "all", None),
    "APs": (True, None, "small", None),
    "APm": (True, None, "medium", None),
    "APl": (True, None, "large", None),
    "AR1": (False, None, "all", 1),
    "AR10": (False, None, "all", 10),
    "AR100": (False, None, "all", 100),
    "ARs": (False, None, "small", None),
    "ARm": (False, None, "medium", None),
    "ARl": (False, None, "large", None),
}

AREA_RANGES = {  # square pixels, both ends included
    "all": (0, 1e5**2),
    "small": (0, 32**2),
    "medium": (32**2, 96**2),
    "large": (96**2, 1e5**2),
}


def evaluate_coco(annotations, detections: Sequence[ImageDetections], *, max_detections: int = 100) -> dict:
    """The COCO metric of a detection set.

    Args:
        annotations: an `Annotations`.
        detections: one entry for each image of `annotations`, in any order.
        max_detections: how many detections of a class count in an image; AR1, AR10 and AR100 state their own limits.

    Returns:
        A dict with
        AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl: float in [0, 1], or None where there is nothing
            to find; AP and AR are means over the IoU thresholds 0.50, 0.55, ..., 0.95;
        class_AP: {class name: float or None}, the AP of each class;
        max_detections: as given.

    Raises:
        ValueError: the detection set is malformed, or `max_detections` is below the 100 that AR100 needs.
    """
    if max_detections < 100:
        raise ValueError(f"max_detections is {max_detections}; AR100 needs at least 100, COCO's own value.")
    evaluation = accumulate(annotations, detections, limits=(1, 10, 100, max_detections))
    metrics: dict[str, Any] = {name: _mean_of(evaluation, *selection) for name, selection in COCO_METRICS.items()}
    metrics["class_AP"] = _class_ap(evaluation, annotations)
    metrics["max_detections"] = max_detections
    return metrics


def accumulate(
    annotations, detections: Sequence[ImageDetections], *, limits: Sequence[int], all_areas_only: bool = False
) -> COCOeval:
    """pycocotools' evaluation of a detection set, after its `evaluate` and `accumulate`.

    Args:
        annotations: an `Annotations`.
        detections: one entry for each image of `annotations`, in any order.
        limits: how many detections of a class count in an image; `eval` has an axis for them, by rising limit.
        all_areas_only: leaves out the small, medium and large objects' own numbers, which takes a quarter of the time.

    Raises:
        ValueError: the detection set is malformed.
    """
    check_detections(annotations, detections)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress by print
        evaluation = COCOeval(_ground_truth(annotations), _results(annotations, detections), iouType="bbox")
        evaluation.params.maxDets = sorted(set(limits))
        if all_areas_only:
            evaluation.params.areaRng, evaluation.params.areaRngLbl = evaluation.params.areaRng[:1], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def class_positions(evaluation: COCOeval, annotations) -> list[int]:
    """Where each class of `annotations`, in their order, stands on the axis of classes of pycocotools' arrays."""
    position = {number: k for k, number in enumerate(np.asarray(evaluation.params.catIds).tolist())}
    return [position[number] for number in _ranks(annotations.category_ids)]


def boxes_xywh(boxes: np.ndarray) -> np.ndarray:
    """x1 y1 x2 y2 (n, 4) to x1 y1 width height, float64 (n, 4)."""
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def write_coco_json(path: str | Path, annotations, detections: Sequence[ImageDetections]) -> None:
    """Writes detections as a COCO results file: a list of {image_id, category_id, bbox, score}.

    `image_id` and `category_id` are the data set's own (for Pascal VOC the image's name, a string); `bbox` is x y width
    height in pixels.  The numbers are the ones `evaluate_coco` reads, digit for digit.  The file appears complete or
    not at all.

    With no detection in any image the file holds an empty list.  That is the right results file, but pycocotools'
    `COCO.loadRes` looks at the first entry before it counts them and ends with an IndexError; every number of such a
    file is 0, and whoever reads results files in a program of their own has to ask for the empty list first.

    Raises:
        ValueError: the detection set is malformed.
        OSError: the file cannot be written; it is named.
    """
    check_detections(annotations, detections)
    detections = sorted(detections, key=lambda image: image.index)
    rows = _result_rows(detections, _plain_list(annotations.image_ids), _plain_list(annotations.category_ids))
    write_text(path, json.dumps(rows, allow_nan=False))


def format_coco(metrics: dict) -> str:
    """The twelve numbers in the lines that pycocotools prints; -1.000 for None, as there."""
    lines = []
    for name, (is_precision, threshold, area, limit) in COCO_METRICS.items():
        title = "Average Precision  (AP)" if is_precision else "Average Recall     (AR)"
        thresholds = "0.50:0.95" if threshold is None else f"{threshold:.2f}"
        limit = metrics["max_detections"] if limit is None else limit
        value = -1.0 if metrics[name] is None else metrics[name]
        lines.append(f" {title} @[ IoU={thresholds:<9} | area={area:>6} | maxDets={limit:>3} ] = {value:.3f}")
    return "\n".join(lines)


def _ground_truth(annotations) -> COCO:
    """`annotations` as pycocotools holds a COCO annotation file."""
    image_ids, category_ids = _ranks(annotations.image_ids), _ranks(annotations.category_ids)
    image_of_object = np.repeat(np.arange(len(annotations)), np.diff(annotations.offsets))
    objects = zip(
        image_of_object.tolist(),
        annotations.labels.tolist(),
        boxes_xywh(annotations.boxes).tolist(),
        annotations.areas.tolist(),
        annotations.crowd.tolist(),
    )
    rows = [
        # numbers from 1: pycocotools takes a match with the object of number 0 for no match
        {
            "id": number,
            "image_id": image_ids[image],
            "category_id": category_ids[label],
            "bbox": box,
            "area": area,
            "iscrowd": int(crowd),
        }
        for number, (image, label, box, area, crowd) in enumerate(objects, start=1)
    ]
    return _indexed(annotations, rows)


def _results(annotations, detections: Sequence[ImageDetections]) -> COCO:
    """`detections` as pycocotools holds them after `COCO.loadRes`, without the outlines that boxes do not need."""
    rows = _result_rows(detections, _ranks(annotations.image_ids), _ranks(annotations.category_ids))
    for number, row in enumerate(rows, start=1):
        row |= {"id": number, "area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0}
    return _indexed(annotations, rows)


def _indexed(annotations, rows: list[dict]) -> COCO:
    """A pycocotools data set of the images and classes of `annotations`, with `rows` as its objects."""
    coco = COCO()
    coco.dataset = {
        "images": [{"id": number} for number in _ranks(annotations.image_ids)],
        "categories": [
            {"id": number, "name": name}
            for number, name in zip(_ranks(annotations.category_ids), annotations.class_names)
        ],
        "annotations": rows,
    }
    coco.createIndex()
    return coco


def _result_rows(detections: Sequence[ImageDetections], image_ids: list, category_ids: list) -> list[dict]:
    """The rows of a COCO results file, image by image in the order of `detections`, with these ids."""
    return [
        {"image_id": image_ids[image.index], "category_id": category_ids[label], "bbox": box, "score": score}
        for image in detections
        for box, score, label in zip(boxes_xywh(image.boxes).tolist(), image.scores.tolist(), image.labels.tolist())
    ]


def _ranks(ids) -> list[int]:
    """The rank of each id among all of them, from 1."""
    rank = {plain: number for number, plain in enumerate(sorted(_plain_list(ids)), start=1)}
    return [rank[plain] for plain in _plain_list(ids)]


def _plain_list(ids) -> list:
    """Ids of an `Annotations` as a list of Python's own ints or strs, which JSON can hold, each as it is."""
    return ids.tolist() if isinstance(ids, np.ndarray) else list(ids)


def _mean_of(evaluation: COCOeval, is_precision: bool, threshold, area: str, limit) -> float | None:
    """One of the twelve numbers from pycocotools' arrays; the arguments are a value of `COCO_METRICS`."""
    params = evaluation.params
    thresholds = slice(None) if threshold is None else np.isclose(params.iouThrs, threshold)
    area_index = params.areaRngLbl.index(area)
    limit_index = -1 if limit is None else params.maxDets.index(limit)
    # precision: (IoU thresholds, recall levels, classes, areas, limits); recall: the same without the recall levels
    values = evaluation.eval["precision" if is_precision else "recall"][thresholds, ..., area_index, limit_index]
    return _mean_of_defined(values)


def _class_ap(evaluation: COCOeval, annotations) -> dict[str, float | None]:
    """The AP of each class over all areas, by name in the order of the classes."""
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    return {
        name: _mean_of_defined(precision[:, :, position])
        for name, position in zip(annotations.class_names, class_positions(evaluation, annotations))
    }


def _mean_of_defined(values: np.ndarray) -> float | None:
    defined = values[values > -1]  # -1 stands for "no object of this class and area"
    return float(np.mean(defined)) if defined.size else None
