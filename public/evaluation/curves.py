"""Precision over recall, and the score threshold with the best F1, for each class; by COCO's own matching.

The curves are COCO's `precision` array, precision at the 101 recall levels 0, 0.01, ..., 1, each the highest
precision at that recall or more; their mean is the class's AP at this IoU, as `evaluate_coco` gives it.  Crowds are left
out and Pascal VOC's difficult objects count, as in all of COCO's numbers (see `coco.py`).

Of a score threshold, detections with that score or more are kept; F1 = 2 right / (kept + objects).  The best threshold
is looked for among all scores, not among the 101 levels; of several with the same F1 it is the highest.

Legend: T IoU thresholds, R recall levels, K classes, D detections.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from public.evaluation.coco_matching import Matched, match_classes
from public.evaluation.detections import ImageDetections, check_detections
from public.evaluation.engines import CocoArrays, coco_arrays

CURVE_IOUS = (0.50, 0.75)  # the IoU thresholds whose curves are drawn
MAX_DETECTIONS = 100  # of a class in an image, as in `evaluate_coco`


class OperatingPoint(NamedTuple):
    """What is reached by keeping the detections with `threshold` or more."""

    threshold: float
    precision: float
    recall: float
    f1: float


class ClassCurve(NamedTuple):
    """One class; numbers for which there is no object to find are None, and so is a best point with nothing right."""

    name: str
    num_objects: int  # without crowds
    num_detections: int  # without those left out inside crowds, at an IoU threshold of 0.50
    precision: np.ndarray  # float64 (len(CURVE_IOUS), R), NaN without objects
    ap: float | None  # mean over the IoU thresholds 0.50 to 0.95
    ap_at: tuple[float | None, ...]  # at each of CURVE_IOUS
    max_recall: float | None  # at an IoU of 0.50, of all detections
    best: tuple[OperatingPoint | None, ...]  # at each of CURVE_IOUS


class Curves(NamedTuple):
    """All classes, and what holds for them together."""

    recall_levels: np.ndarray  # float64 (R,)
    classes: list[ClassCurve]
    best: tuple[OperatingPoint | None, ...]  # one threshold for all classes, at each of CURVE_IOUS

    def mean_precision(self) -> np.ndarray:
        """The mean over the classes that have objects: float64 (len(CURVE_IOUS), R), NaN if none has."""
        defined = [curve.precision for curve in self.classes if curve.num_objects]
        return np.mean(defined, axis=0) if defined else np.full((len(CURVE_IOUS), len(self.recall_levels)), np.nan)


def compute_curves(annotations, detections: Sequence[ImageDetections]) -> Curves:
    """The curves of a detection set.

    Args:
        annotations: an `Annotations`.
        detections: one entry for each image of `annotations`, in any order.

    Raises:
        ValueError: the detection set is malformed.
    """
    check_detections(annotations, detections)
    arrays = coco_arrays(annotations, detections, limits=(MAX_DETECTIONS,), all_areas_only=True)
    iou_indices = [int(np.flatnonzero(np.isclose(arrays.iou_thresholds, iou))[0]) for iou in CURVE_IOUS]
    ious = arrays.iou_thresholds[iou_indices].tolist()
    matched = match_classes(annotations, detections, ious=ious, max_detections=MAX_DETECTIONS)
    bounds = np.searchsorted(matched.labels, np.arange(len(annotations.class_names) + 1))
    classes = [
        _class_curve(arrays, name, position, iou_indices, _ranked(matched, label, slice(*bounds[label : label + 2])))
        for label, (name, position) in enumerate(zip(annotations.class_names, arrays.positions))
    ]
    best = []
    for is_right, counts in zip(matched.is_right, matched.counts):
        best.append(best_point(matched.scores[counts], is_right[counts], int(matched.num_objects.sum())))
    return Curves(arrays.recall_levels, classes, tuple(best))


def best_point(scores: np.ndarray, is_right: np.ndarray, num_objects: int) -> OperatingPoint | None:
    """The score threshold with the highest F1; None where no detection is right, or there is nothing to find.

    Args:
        scores: (D,) in any order.
        is_right: (D,) bool; each object makes at most one detection right.
        num_objects: how many there are to find.
    """
    order = np.argsort(-scores, kind="stable")
    num_right = np.cumsum(is_right[order])
    if num_objects == 0 or not len(order) or num_right[-1] == 0:
        return None
    # A threshold keeps all detections of one score or none: only the last of equal scores can be the last one kept.
    is_last = np.append(np.diff(scores[order]) != 0, True)
    num_kept = np.arange(1, len(order) + 1)
    f1 = np.where(is_last, 2 * num_right / (num_kept + num_objects), -1.0)
    best = int(np.argmax(f1))
    return OperatingPoint(
        threshold=float(scores[order[best]]),
        precision=float(num_right[best] / num_kept[best]),
        recall=float(num_right[best] / num_objects),
        f1=float(f1[best]),
    )


class _Ranked(NamedTuple):
    """The detections of one class that count: one entry for each of CURVE_IOUS."""

    scores: list[np.ndarray]  # (D,)
    is_right: list[np.ndarray]  # (D,) bool
    num_objects: int


def _ranked(matched: Matched, label: int, part: slice) -> _Ranked:
    """The class `label`, whose detections are a part of all."""
    rows = list(zip(matched.is_right[:, part], matched.counts[:, part]))
    return _Ranked(
        scores=[matched.scores[part][counts] for _, counts in rows],
        is_right=[is_right[counts] for is_right, counts in rows],
        num_objects=int(matched.num_objects[label]),
    )


def _class_curve(arrays: CocoArrays, name: str, position: int, iou_indices: list[int], ranked: _Ranked) -> ClassCurve:
    whole = arrays.precision[:, :, position, 0, 0]  # (T, R)
    has_objects = ranked.num_objects > 0
    return ClassCurve(
        name=name,
        num_objects=ranked.num_objects,
        num_detections=len(ranked.scores[0]),
        precision=whole[iou_indices] if has_objects else np.full((len(iou_indices), whole.shape[1]), np.nan),
        ap=float(np.mean(whole)) if has_objects else None,
        ap_at=tuple(float(np.mean(whole[i])) if has_objects else None for i in iou_indices),
        max_recall=float(arrays.recall[iou_indices[0], position, 0, 0]) if has_objects else None,
        best=tuple(best_point(s, r, ranked.num_objects) for s, r in zip(ranked.scores, ranked.is_right)),
    )
