"""Which detection means which object, regardless of class: the confusion matrix, and what is wrong in each image.

Average precision compares detections with objects of their own class only, so it cannot tell a cat that was called a
dog from a dog out of nowhere.  Here the classes are compared after the match.  The rule, in each image:

1. Detections with a score of at least the threshold are taken by falling score (equal ones in their order).
2. Each is matched with the object that it overlaps most of those that no earlier one was matched with, whatever their
   classes, if the IoU is at least 0.5.  Of several with the same IoU it is the first.
3. Crowds and difficult objects are not among these objects.  A detection without a match that overlaps a difficult
   object with an IoU of at least 0.5, or lies with at least half of its area in a crowd, is left out.
4. What is left is a false positive, and an object without a match is missed.

Legend: N objects of an image, n of its detections that reach the threshold, K classes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from pycocotools import mask

from public.evaluation.detections import ImageDetections, check_detections
from public.evaluation.engines import boxes_xywh

MATCH_IOU = 0.5


class ImageMatches(NamedTuple):
    """The detections and objects of one image, matched.

    index:         position of the image in the `Annotations`
    kept:          int64 (n,), positions in the image's detections, by falling score
    found_labels:  int64 (n,), what the detections are called
    match:         int64 (n,), the number of the matched object, or -1
    is_left_out:   bool (n,), neither right nor wrong
    object_labels: int64 (N,)
    is_counted:    bool (N,), neither crowd nor difficult
    """

    index: int  # type: ignore[assignment]  # a tuple's own `index` is hidden
    kept: np.ndarray
    found_labels: np.ndarray
    match: np.ndarray
    is_left_out: np.ndarray
    object_labels: np.ndarray
    is_counted: np.ndarray

    @property
    def is_right(self) -> np.ndarray:
        """bool (n,): matched with an object of the same class."""
        labels = np.append(self.object_labels, -1)  # entry -1 stands for "no object"
        return labels[self.match] == self.found_labels

    @property
    def is_wrong_class(self) -> np.ndarray:
        """bool (n,): matched with an object of another class."""
        return (self.match >= 0) & ~self.is_right

    @property
    def is_false_positive(self) -> np.ndarray:
        """bool (n,): matched with nothing, and not left out."""
        return (self.match < 0) & ~self.is_left_out

    @property
    def is_missed(self) -> np.ndarray:
        """bool (N,): counted, and matched with nothing."""
        is_missed = self.is_counted.copy()
        is_missed[self.match[self.match >= 0]] = False
        return is_missed

    @property
    def called(self) -> np.ndarray:
        """int64 (N,): the class that each object was matched with, -1 for none."""
        called = np.full(len(self.object_labels), -1)
        called[self.match[self.match >= 0]] = self.found_labels[self.match >= 0]
        return called

    @property
    def num_errors(self) -> int:
        """Wrong classes, false positives and missed objects together."""
        return int(self.is_wrong_class.sum() + self.is_false_positive.sum() + self.is_missed.sum())

    @property
    def f1(self) -> float:
        """2 right / (detections + objects), of those that count; 1 where there is neither.  A wrong class is in both."""
        total = int((~self.is_left_out).sum() + self.is_counted.sum())
        return 2 * int(self.is_right.sum()) / total if total else 1.0


def match_images(annotations, detections: Sequence[ImageDetections], *, score_threshold: float) -> list[ImageMatches]:
    """The matches of every image, by rising index.

    Args:
        annotations: an `Annotations`.
        detections: one entry for each image of `annotations`, in any order.
        score_threshold: detections below it are not there.

    Raises:
        ValueError: the detection set is malformed.
    """
    check_detections(annotations, detections)
    return [
        _match_image(annotations.objects(found.index), found, score_threshold)
        for found in sorted(detections, key=lambda image: image.index)
    ]


def confusion_matrix(matches: Sequence[ImageMatches], num_classes: int) -> np.ndarray:
    """int64 (K + 1, K + 1): how many objects of class [row] were called class [column].

    The last column counts missed objects, so a row's sum is the number of objects of its class; the last row counts
    false positives, so a column's sum is the number of detections of its class that count.
    """
    matrix = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
    for image in matches:
        is_matched = image.match >= 0
        np.add.at(matrix, (image.object_labels[image.match[is_matched]], image.found_labels[is_matched]), 1)
        np.add.at(matrix[:, -1], image.object_labels[image.is_missed], 1)
        np.add.at(matrix[-1], image.found_labels[image.is_false_positive], 1)
    return matrix


def worst_first(matches: Sequence[ImageMatches]) -> list[ImageMatches]:
    """The images with an error: by rising F1, then by falling number of errors, then by index."""
    wrong = [image for image in matches if image.num_errors]
    return sorted(wrong, key=lambda image: (image.f1, -image.num_errors, image.index))


def _match_image(objects, found: ImageDetections, score_threshold: float) -> ImageMatches:
    order = np.argsort(-found.scores, kind="stable")
    kept = order[found.scores[order] >= score_threshold]
    is_counted = ~(objects.difficult | objects.crowd)
    overlaps = _overlaps(found.boxes[kept], objects.boxes, objects.crowd)  # (n, N)

    reaches = overlaps >= MATCH_IOU
    match = np.full(len(kept), -1)
    is_free = is_counted.copy()
    for number in np.flatnonzero((reaches & is_counted).any(axis=1)):  # the others have nothing to choose from
        if (reaches[number] & is_free).any():
            match[number] = np.argmax(np.where(is_free, overlaps[number], -1.0))
            is_free[match[number]] = False
    is_left_out = (match < 0) & (reaches & ~is_counted).any(axis=1)
    return ImageMatches(
        index=found.index,
        kept=kept,
        found_labels=found.labels[kept],
        match=match,
        is_left_out=is_left_out,
        object_labels=objects.labels,
        is_counted=is_counted,
    )


def _overlaps(boxes: np.ndarray, object_boxes: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """float64 (n, N): the IoU; for a crowd the share of the detection's area that lies in it."""
    if not (len(boxes) and len(object_boxes)):
        return np.zeros((len(boxes), len(object_boxes)))
    return np.asarray(mask.iou(boxes_xywh(boxes), boxes_xywh(object_boxes), crowd.astype(np.uint8).tolist()))
