"""The COCO detection metric, computed by pycocotools or by hotcoco, whose arrays are equal, and COCO's results file.

Source: Lin et al., "Microsoft COCO: Common Objects in Context", arXiv 1405.0312; the twelve numbers are defined by the
evaluation code of https://cocodataset.org, which pycocotools is.  Nothing of the metric is computed anew here: the
annotations and detections are handed to it in memory (`engines.py`), and its result arrays are averaged as it averages them.

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

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from public.evaluation.detections import ImageDetections, check_detections
from public.evaluation.engines import CocoArrays, coco_arrays, plain_list, result_rows
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
    check_detections(annotations, detections)
    arrays = coco_arrays(annotations, detections, limits=(1, 10, 100, max_detections))
    metrics: dict[str, Any] = {name: _mean_of(arrays, *selection) for name, selection in COCO_METRICS.items()}
    metrics["class_AP"] = _class_ap(arrays, annotations)
    metrics["max_detections"] = max_detections
    return metrics


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
    rows = result_rows(detections, plain_list(annotations.image_ids), plain_list(annotations.category_ids))
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


def _mean_of(arrays: CocoArrays, is_precision: bool, threshold, area: str, limit) -> float | None:
    """One of the twelve numbers; the arguments are a value of `COCO_METRICS`."""
    thresholds = slice(None) if threshold is None else np.isclose(arrays.iou_thresholds, threshold)
    area_index = arrays.areas.index(area)
    limit_index = -1 if limit is None else arrays.limits.index(limit)
    values = (arrays.precision if is_precision else arrays.recall)[thresholds, ..., area_index, limit_index]
    return _mean_of_defined(values)


def _class_ap(arrays: CocoArrays, annotations) -> dict[str, float | None]:
    """The AP of each class over all areas, by name in the order of the classes."""
    precision = arrays.precision[:, :, :, 0, -1]
    return {
        name: _mean_of_defined(precision[:, :, position])
        for name, position in zip(annotations.class_names, arrays.positions)
    }


def _mean_of_defined(values: np.ndarray) -> float | None:
    defined = values[values > -1]  # -1 stands for "no object of this class and area"
    return float(np.mean(defined)) if defined.size else None
