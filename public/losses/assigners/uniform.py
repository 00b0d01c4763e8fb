"""Uniform matching: every object gets as many anchors as any other, however small it is.

Paper: You Only Look One-level Feature, arXiv 2103.09460, section 4.2.
Follows MMDetection's UniformAssigner; there is nothing trained in it.
Facts beyond the paper, from there: half of an object's anchors are the nearest by their predicted boxes, half by
themselves; an anchor may be matched several times, then the last match decides its class (nearer ranks come first, of a
rank the predictions, then the anchors, objects in their order), while every match counts for the boxes.
Which of equal distances counts as nearer is left to torch.topk, as in the original; on a grid with whole pixels they are
common.  The answer is always the same on one device, but the CPU's, which the original asks for even in a training on a
GPU, and a GPU's may differ; asking the CPU would let every step wait for the device.
Deviation: a map with fewer anchors than `num_matches` gives all of them; the original raises an error.

Legend: A anchors, G ground truths of one image, P = 2 * num_matches * G pairs of an anchor and an object.
"""

from typing import NamedTuple

import torch

from public.losses.assigners.assignment import BACKGROUND, IGNORED, boxes_of
from public.losses.box import iou, pairwise_iou

IOU_EPS = 1e-9


class UniformAssignment(NamedTuple):
    """What the anchors of one image, or of several, have to learn: `...` is nothing, or B.

    `labels` (..., A) int64, the number of classes for background; `is_counted` (..., A) bool, False where an anchor is
    ignored by the class loss; `learnt` (..., A) int64, the number of the object that decides an anchor's class, BACKGROUND or
    IGNORED.  `anchors` (..., P) and `objects` (..., P) int64 are the pairs whose boxes are compared, `is_positive` (..., P)
    bool whether a pair counts there; `is_real` (..., P) bool, False at pairs that stand where other images have more objects.
    """

    labels: torch.Tensor
    is_counted: torch.Tensor
    learnt: torch.Tensor
    anchors: torch.Tensor
    objects: torch.Tensor
    is_positive: torch.Tensor
    is_real: torch.Tensor


class UniformAssigner:
    """The nearest anchors of each object, by the L1 distance of centre and sides.

    Args:
        num_matches: anchors that an object gets by their predicted boxes, and as many by themselves.
        min_positive_iou: matched anchors whose own IoU with the object is below it are ignored.
        max_negative_iou: unmatched anchors whose predicted box has a higher IoU with any object are ignored.
    """

    def __init__(self, *, num_matches: int, min_positive_iou: float, max_negative_iou: float):
        self.num_matches = num_matches
        self.min_positive_iou = min_positive_iou
        self.max_negative_iou = max_negative_iou

    def __call__(
        self,
        *,
        anchors: torch.Tensor,
        predicted_boxes: torch.Tensor,
        boxes: torch.Tensor,
        labels: torch.Tensor,
        num_classes: int,
        is_real: torch.Tensor | None = None,
    ) -> UniformAssignment:
        """Assigns the anchors of one image, or of several.

        Args:
            anchors: (A, 4) and predicted_boxes: (..., A, 4) in pixels, without gradient.
            boxes: (..., G, 4) in pixels, the objects; `labels`: (..., G) int64.
            num_classes: the label of background.
            is_real: (..., G), of `PaddedObjects`; None: all are.
        """
        num_anchors, num_objects = len(anchors), boxes.shape[-2]
        if num_objects == 0:
            background = torch.full((*boxes.shape[:-2], num_anchors), num_classes, device=anchors.device)
            none = background[..., :0]
            no_object = torch.full_like(background, BACKGROUND)
            return UniformAssignment(background, background == num_classes, no_object, none, none, *[none.bool()] * 2)
        by_prediction = nearest(predicted_boxes, boxes, self.num_matches)  # (..., num_matches, G)
        by_anchor = nearest(anchors, boxes, self.num_matches)
        pairs = torch.cat([by_prediction, by_anchor], dim=-1)  # (..., num_matches, 2 G)
        num_ranks = pairs.shape[-2]
        matched = pairs.flatten(-2)  # (..., P)
        objects = torch.arange(num_objects, device=matched.device).repeat(2 * num_ranks).expand(matched.shape)
        is_real_pair = torch.ones_like(matched, dtype=torch.bool) if is_real is None else is_real.gather(-1, objects)
        is_positive = iou(anchors[matched], boxes_of(objects, boxes), eps=IOU_EPS) >= self.min_positive_iou
        is_positive &= is_real_pair
        is_too_good = pairwise_iou(boxes, predicted_boxes, eps=IOU_EPS).amax(-2) > self.max_negative_iou  # (..., A)

        last, is_matched = last_match(torch.where(is_real_pair, matched, num_anchors), num_anchors)
        is_object = is_matched & is_positive.gather(-1, last)
        is_counted = torch.where(is_matched, is_object, ~is_too_good)
        learnt = objects.gather(-1, last)  # (..., A)
        return UniformAssignment(
            labels=torch.where(is_object, labels.gather(-1, learnt), num_classes),
            is_counted=is_counted,
            learnt=torch.where(is_object, learnt, torch.where(is_counted, BACKGROUND, IGNORED)),
            anchors=matched,
            objects=objects,
            is_positive=is_positive,
            is_real=is_real_pair,
        )


def nearest(candidates: torch.Tensor, boxes: torch.Tensor, count: int) -> torch.Tensor:
    """Which of the `candidates` (..., A, 4) are nearest to each of `boxes` (..., G, 4): (..., count, G), the nearest first.

    There are fewer rows where there are fewer candidates.
    """
    distances = torch.cdist(_cxcywh(boxes), _cxcywh(candidates), p=1)  # (..., G, A)
    return distances.topk(min(count, candidates.shape[-2]), dim=-1, largest=False).indices.mT


def last_match(matched: torch.Tensor, num_anchors: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The place in `matched` (..., P), P > 0, at which each anchor stands last, and whether it stands there: both (..., A).

    What is no anchor's number matches none.  Found by sorting, because writing to one place several times has no fixed order
    on a GPU.
    """
    ordered, places = matched.sort(dim=-1, stable=True)
    anchors = torch.arange(num_anchors, device=matched.device).expand(*matched.shape[:-1], num_anchors)
    last = (torch.searchsorted(ordered, anchors.contiguous(), right=True) - 1).clamp(min=0)
    return places.gather(-1, last), ordered.gather(-1, last) == anchors


def _cxcywh(boxes: torch.Tensor) -> torch.Tensor:
    left, top, right, bottom = boxes.unbind(-1)
    return torch.stack([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top], dim=-1)
