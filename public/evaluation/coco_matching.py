"""COCO's matching of detections with objects, of all images and classes at once: which are right, and which count.

Source: the evaluation code of https://cocodataset.org (pycocotools, `COCOeval.evaluateImg` and `bbIou`), whose answers these
are, one by one; `tests/evaluation/test_coco_matching.py` compares them.  In each image and class detections are taken by
falling score; each takes the object that it overlaps most of those that are left, the later of equal ones, and only where
there is none a crowd, which is never used up.  Here the first detection of every image and class is settled at once, then
every second one, and so on, of those that reach any object.

Legend: I IoU thresholds, D detections that are among the best of their image and class, M objects, P pairs of a detection
and an object of its image and class.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from public.evaluation.detections import ImageDetections
from public.evaluation.engines import boxes_xywh

LARGEST_AREA = 1e5**2  # square pixels; beyond it nothing counts


class Matched(NamedTuple):
    """The detections by class, then by image, then by falling score.

    labels int64 (D,), scores float64 (D,); is_right bool (I, D): has an object; counts bool (I, D): is not left out;
    num_objects int64 (K,): how many there are to find of each class.
    """

    labels: np.ndarray
    scores: np.ndarray
    is_right: np.ndarray
    counts: np.ndarray
    num_objects: np.ndarray


class _Pairs(NamedTuple):
    """Detections and objects that overlap, by detection; of each the best choice last."""

    detections: np.ndarray  # (P,)
    objects: np.ndarray  # (P,)
    ious: np.ndarray  # (P,)


def match_classes(
    annotations, detections: Sequence[ImageDetections], *, ious: Sequence[float], max_detections: int
) -> Matched:
    """Matches a detection set that is well formed.

    Args:
        annotations: an `Annotations`.
        ious: the IoU thresholds.
        max_detections: how many detections of a class count in an image.
    """
    num_images, num_classes = len(annotations), len(annotations.class_names)
    owners = np.repeat(np.arange(num_images), np.diff(annotations.offsets))
    object_boxes, is_crowd = boxes_xywh(annotations.boxes), annotations.crowd
    is_ignored = is_crowd | (annotations.areas < 0) | (annotations.areas > LARGEST_AREA)
    object_groups = annotations.labels * num_images + owners  # a class of an image

    groups, scores, boxes = _best_detections(detections, num_images, max_detections)
    pairs = _overlapping(groups, boxes, object_groups, object_boxes, is_crowd, is_ignored)
    areas = boxes[:, 2] * boxes[:, 3]
    is_outside = (areas < 0) | (areas > LARGEST_AREA)
    is_right, counts = np.zeros((2, len(ious), len(groups)), dtype=bool)
    for number, iou in enumerate(ious):
        match = _match(pairs, groups, is_crowd, min(iou, 1 - 1e-10))
        is_right[number] = match >= 0
        counts[number] = ~np.where(match >= 0, np.append(is_ignored, False)[match], is_outside)
    return Matched(
        labels=groups // max(num_images, 1),
        scores=scores,
        is_right=is_right,
        counts=counts,
        num_objects=np.bincount(annotations.labels[~is_ignored], minlength=num_classes),
    )


def _best_detections(
    detections: Sequence[ImageDetections], num_images: int, max_detections: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Groups (D,), scores (D,) and boxes (D, 4) x y width height of the best of each group, by group, then by score."""
    counts = [len(image.scores) for image in detections]
    images = np.repeat(np.array([image.index for image in detections], dtype=np.int64), counts)
    empty = np.zeros(0)
    labels = np.concatenate([empty, *(image.labels for image in detections)]).astype(np.int64)
    scores = np.concatenate([empty, *(image.scores for image in detections)]).astype(np.float64)
    boxes = boxes_xywh(np.concatenate([empty.reshape(0, 4), *(image.boxes for image in detections)]))
    groups = labels * num_images + images
    order = np.lexsort((-scores, groups))
    order = order[_rank_in_run(groups[order]) < max_detections]
    return groups[order], scores[order], boxes[order]


def _rank_in_run(values: np.ndarray) -> np.ndarray:
    """How many entries of `values`, equal ones one after the other, equal each entry and come before it."""
    is_first = np.diff(values, prepend=-1) != 0
    places = np.arange(len(values))
    return places - np.maximum.accumulate(np.where(is_first, places, 0))


def _overlapping(
    groups: np.ndarray,
    boxes: np.ndarray,
    object_groups: np.ndarray,
    object_boxes: np.ndarray,
    is_crowd: np.ndarray,
    is_ignored: np.ndarray,
) -> _Pairs:
    """All pairs that overlap; of each detection first the objects that are ignored, each part by rising IoU, then place."""
    by_group = object_groups.argsort(kind="stable")
    first = np.searchsorted(object_groups[by_group], groups, side="left")
    counts = np.searchsorted(object_groups[by_group], groups, side="right") - first
    found = np.repeat(np.arange(len(groups)), counts)  # (P,)
    steps = np.arange(len(found)) - np.repeat(counts.cumsum() - counts, counts)
    objects = by_group[np.repeat(first, counts) + steps]
    ious = _ious(boxes[found], object_boxes[objects], is_crowd[objects])
    overlaps = ious > 0
    found, objects, ious = found[overlaps], objects[overlaps], ious[overlaps]
    order = np.lexsort((objects, ious, ~is_ignored[objects], found))
    return _Pairs(found[order], objects[order], ious[order])


def _ious(boxes: np.ndarray, others: np.ndarray, is_crowd: np.ndarray) -> np.ndarray:
    """(P,) the IoU of boxes (P, 4) x y width height, of a crowd the share of the first; the arithmetic is pycocotools'."""
    width = np.minimum(boxes[:, 2] + boxes[:, 0], others[:, 2] + others[:, 0]) - np.maximum(boxes[:, 0], others[:, 0])
    height = np.minimum(boxes[:, 3] + boxes[:, 1], others[:, 3] + others[:, 1]) - np.maximum(boxes[:, 1], others[:, 1])
    common = width * height
    area = boxes[:, 2] * boxes[:, 3]
    union = np.where(is_crowd, area, area + others[:, 2] * others[:, 3] - common)
    return np.divide(common, union, out=np.zeros(len(common)), where=(width > 0) & (height > 0))


def _match(pairs: _Pairs, groups: np.ndarray, is_crowd: np.ndarray, iou: float) -> np.ndarray:
    """int64 (D,): the object of each detection, -1 for none."""
    reaches = pairs.ious >= iou
    found, objects = pairs.detections[reaches], pairs.objects[reaches]
    match = np.full(len(groups), -1)
    is_free = np.ones(len(is_crowd), dtype=bool)
    able = np.unique(found)
    turn = np.zeros(len(groups), dtype=np.int64)
    turn[able] = _rank_in_run(groups[able])
    by_turn = turn[found].argsort(kind="stable")
    found, objects = found[by_turn], objects[by_turn]
    ends = np.bincount(turn[found]).cumsum() if len(found) else np.zeros(0, dtype=np.int64)
    for start, end in zip([0, *ends[:-1]], ends):
        part = np.flatnonzero(is_free[objects[start:end]]) + start
        is_best = np.diff(found[part], append=-1) != 0  # the last one of its detection
        best = part[is_best]
        match[found[best]] = objects[best]
        is_free[objects[best]] = is_crowd[objects[best]]
    return match
