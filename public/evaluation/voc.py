"""The Pascal VOC detection metric.

Source: Everingham et al., "The Pascal Visual Object Classes (VOC) Challenge", IJCV 88 (2010), section 4.2, and the
challenge's development kit.  Up to VOC2009 the average precision was the mean of the precision at eleven recall levels
("11point", the number usually reported for VOC2007); since VOC2010 it is the area under the curve ("area").

Detections of a class are taken by falling score.  Each is compared with the object of its image and class that it
overlaps most.  It is

    right      if the IoU is greater than the threshold and no earlier detection was right about this object,
    left out   if the IoU is greater than the threshold and the object is difficult, or a crowd,
    wrong      otherwise.

IoU is the development kit's, which counts pixels: there a box names its first and its last pixel, so that one from 5 to
7 is 3 pixels wide, and one is added to every difference.  Our boxes are the edges of those pixels, 4 and 7
(`public/datasets/voc.py`), and x2 - x1 is that width already.  The plain IoU of our boxes is VOC's.

Legend: D detections of a class, G objects of that class, P pairs of a detection and an object of the same image.
"""

from collections.abc import Sequence

import numpy as np

from public.evaluation.detections import ImageDetections, check_detections

METHODS = ("area", "11point")

# Detections that are matched at once.  It bounds the memory that pairs take in data sets of crowded images; the result
# does not depend on it.
_BLOCK = 50_000


def evaluate_voc(
    annotations, detections: Sequence[ImageDetections], *, iou_threshold: float = 0.5, method: str
) -> dict:
    """The Pascal VOC metric of a detection set.

    Args:
        annotations: an `Annotations`.
        detections: one entry for each image of `annotations`, in any order.
        iou_threshold: a detection must overlap its object by more than this.
        method: "area" or "11point".

    Returns:
        A dict with
        AP: the mean over the classes that have objects to find, in [0, 1], or None where no class has any;
        class_AP: {class name: float, or None for a class without objects to find}.

    Raises:
        ValueError: the detection set is malformed, or the method unknown.
    """
    if method not in METHODS:
        raise ValueError(f"The method is {method!r}; the Pascal VOC metric knows {' and '.join(map(repr, METHODS))}.")
    check_detections(annotations, detections)
    found = _flatten(sorted(detections, key=lambda image: image.index))
    objects = {
        "images": np.repeat(np.arange(len(annotations)), np.diff(annotations.offsets)),
        "boxes": annotations.boxes.astype(np.float64),
        "labels": annotations.labels,
        "is_left_out": annotations.difficult | annotations.crowd,
    }
    class_ap = {
        name: _class_ap(_of_class(objects, label), _of_class(found, label), iou_threshold, method)
        for label, name in enumerate(annotations.class_names)
    }
    defined = [value for value in class_ap.values() if value is not None]
    return {"AP": float(np.mean(defined)) if defined else None, "class_AP": class_ap}


def _flatten(detections: list[ImageDetections]) -> dict[str, np.ndarray]:
    """All detections in a few flat arrays, by falling score; equal scores keep the order of images and detections."""
    if not detections:
        return {"images": np.zeros(0, int), "boxes": np.zeros((0, 4)), "labels": np.zeros(0, int)}
    scores = np.concatenate([image.scores for image in detections])
    order = np.argsort(-scores, kind="stable")
    return {
        "images": np.repeat([image.index for image in detections], [len(image.scores) for image in detections])[order],
        "boxes": np.concatenate([image.boxes for image in detections]).astype(np.float64)[order],
        "labels": np.concatenate([image.labels for image in detections])[order],
    }


def _of_class(arrays: dict[str, np.ndarray], label: int) -> dict[str, np.ndarray]:
    selected = np.flatnonzero(arrays["labels"] == label)
    return {name: values[selected] for name, values in arrays.items()}


def _class_ap(objects: dict, found: dict, iou_threshold: float, method: str) -> float | None:
    """The AP of one class; None if it has no object to find."""
    num_to_find = np.count_nonzero(~objects["is_left_out"])
    if num_to_find == 0:
        return None
    best_iou, best_object = _best_objects(objects, found)  # (D,), (D,)
    is_match = best_iou > iou_threshold
    is_left_out = np.zeros(len(best_iou), dtype=bool)
    is_left_out[is_match] = objects["is_left_out"][best_object[is_match]]

    # The first match of each object, by falling score, is right; np.unique returns the first position of each value.
    candidates = np.flatnonzero(is_match & ~is_left_out)
    _, first = np.unique(best_object[candidates], return_index=True)
    is_right = np.zeros(len(best_iou), dtype=bool)
    is_right[candidates[first]] = True

    num_right = np.cumsum(is_right[~is_left_out])
    num_counted = np.arange(1, len(num_right) + 1)
    return average_precision(num_right / num_to_find, num_right / num_counted, method)


def _best_objects(objects: dict, found: dict) -> tuple[np.ndarray, np.ndarray]:
    """For each detection the IoU with, and the number of, the object of its image that it overlaps most.

    Returns float64 (D,) and int64 (D,); -1 and -1 for a detection in an image without objects of this class.
    """
    num_found = len(found["images"])
    best_iou = np.full(num_found, -1.0)
    best_object = np.full(num_found, -1)
    # Objects are sorted by image: those of image i are numbers first[i] to last[i] - 1.
    first = np.searchsorted(objects["images"], found["images"], side="left")
    last = np.searchsorted(objects["images"], found["images"], side="right")
    for start in range(0, num_found, _BLOCK):
        block = slice(start, start + _BLOCK)
        num_pairs = last[block] - first[block]
        detection = np.repeat(np.arange(start, start + len(num_pairs)), num_pairs)  # (P,)
        step = np.arange(len(detection)) - np.repeat(np.cumsum(num_pairs) - num_pairs, num_pairs)  # 0, 1, .. each
        pair_object = first[detection] + step  # (P,)
        iou = _iou(found["boxes"][detection], objects["boxes"][pair_object])  # (P,)
        np.maximum.at(best_iou, detection, iou)
        is_best = iou == best_iou[detection]
        # Of several objects with the same IoU the first one: written last.
        best_object[detection[is_best][::-1]] = pair_object[is_best][::-1]
    return best_iou, best_object


def _iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU of `boxes` (P, 4) with `others` (P, 4), pair by pair: (P,).

    A box that ends before it begins, as an untrained network may give, has no area and overlaps nothing.
    """
    top_left = np.maximum(boxes[:, :2], others[:, :2])
    bottom_right = np.minimum(boxes[:, 2:], others[:, 2:])
    intersection = _area(top_left, bottom_right)
    union = _area(boxes[:, :2], boxes[:, 2:]) + _area(others[:, :2], others[:, 2:]) - intersection
    return np.divide(intersection, union, out=np.zeros(len(union)), where=union > 0)


def _area(top_left: np.ndarray, bottom_right: np.ndarray) -> np.ndarray:
    return np.prod(np.clip(bottom_right - top_left, 0, None), axis=1)


def average_precision(recall: np.ndarray, precision: np.ndarray, method: str) -> float:
    """The average precision of a curve: `recall` and `precision` (D,) after 1, 2, ..., D detections; `recall` rises.

    "11point": the mean over the recall levels 0, 0.1, ..., 1 of the highest precision at that recall or more, 0 where
    the level is not reached.  "area": the area under the curve after each precision is raised to the highest precision
    at the same or a higher recall.
    """
    # Entry i: the highest precision from i on; the 0 at the end stands for recalls that are not reached.
    envelope = np.maximum.accumulate(np.append(precision, 0.0)[::-1])[::-1]
    if method == "11point":
        levels = np.arange(11) / 10  # correctly rounded, unlike multiples of 0.1: 3 of 10 objects reach level 0.3
        return float(np.mean(envelope[np.searchsorted(recall, levels, side="left")]))
    width = np.diff(recall, prepend=0.0)
    return float(np.sum(width * envelope[:-1]))
