"""FCOS's loss: focal loss on the classes, IoU or GIoU on the boxes and cross-entropy on the centre-ness of positive points.

Papers: FCOS, arXiv 1904.01355, sections 3.1 and 3.3; arXiv 2006.09214, section 3, for GIoU and the weights of boxes.
Follows torchvision's FCOS and MMDetection's FCOSHead; the assigner stands in `assigners/size_ranges.py`.
The originals differ in the box loss, in its weights and in what it is divided by: all are arguments.
Deviations:
- A box loss that is divided by the number of positives is never divided by less than 1, over all processes together.

Legend: B batch, A points of all levels, K classes, G ground truths of one image, P positive points of the batch.
"""

from typing import Any

import torch
from torch.nn import functional as F

from public.losses.assigners.assignment import (
    BACKGROUND,
    ObjectTargets,
    PaddedObjects,
    assigned_in_parts,
    joined,
    targets_of_objects,
)
from public.losses.box import giou, iou
from public.losses.dense import DenseLoss, Targets
from public.losses.focal import focal_loss_of_labels
from public.parallel.collectives import share_of_sum
from public.points import PointCoding, boxes_to_distances
from public.precision import at_least_float32
from public.protocols import Progress

BOX_LOSSES = ("iou_log", "giou")  # -log(IoU); 1 - GIoU
BOX_NORMALISERS = ("positives", "centreness")  # of the box loss: number of positive points, or sum of their centre-ness
GIOU_EPS = 1e-7
IOU_EPS = 1e-6  # MMDetection's: also the smallest IoU whose logarithm is taken
SMALLEST_SUM = 1e-6  # of centre-ness that the box loss is divided by


class FCOSLoss(DenseLoss):
    """Callable: `loss(outputs, targets, progress)` is a dict of weighted scalars whose sum is what is trained.

    Args:
        coding: where the points lie, and how raw distances become boxes.
        num_classes: K.
        assigner: a SizeRangeAssigner.
        focal_alpha, focal_gamma: see `public.losses.focal.sigmoid_focal_loss`.
        box_loss: one of BOX_LOSSES.
        is_weighted_by_centreness: whether a point's box loss counts as much as its true centre-ness.
        box_normaliser: one of BOX_NORMALISERS; the other terms are divided by the number of positive points.
        weights: of the terms, `{"cls": ..., "box": ..., "centreness": ...}`.
    """

    def __init__(
        self,
        *,
        coding: PointCoding,
        num_classes: int,
        assigner,
        focal_alpha: float,
        focal_gamma: float,
        box_loss: str,
        is_weighted_by_centreness: bool,
        box_normaliser: str,
        weights: dict[str, float],
    ):
        super().__init__(num_classes=num_classes, weights=weights)
        self.coding = coding
        self.assigner = assigner
        self.focal_alpha = focal_alpha
        self.focal_gamma = focal_gamma
        self.box_loss = box_loss
        self.is_weighted_by_centreness = is_weighted_by_centreness
        self.box_normaliser = box_normaliser

    @torch.no_grad()
    def assign(self, outputs, targets: Targets) -> ObjectTargets:
        """What each point of each image has to learn; the predictions have no say in it."""
        points, strides = self.coding.points(outputs)
        places = {"points": points, "strides": strides, "level_sizes": outputs.level_sizes}

        def assign(images: slice, given: PaddedObjects) -> ObjectTargets:
            return targets_of_objects(self.assigner(boxes=given.boxes, **places), given, self.num_classes)

        return joined(assigned_in_parts(assign, targets, len(points)))

    def points(self, outputs: Any) -> torch.Tensor:
        """See `DenseLoss.points`."""
        return self.coding.points(outputs)[0]

    def objects(self, outputs: Any, targets: Targets, progress: Progress) -> torch.Tensor:
        """See `DenseLoss.objects`."""
        return self.assign(outputs, targets).objects

    def terms(self, outputs, targets: Targets, progress: Progress) -> dict[str, torch.Tensor]:
        """`cls`, `box` and `centreness` of FCOSOutputs; without any positive point the last two are empty sums: 0."""
        assigned = self.assign(outputs, targets)
        class_losses = focal_loss_of_labels(
            at_least_float32(outputs.class_logits), assigned.labels, alpha=self.focal_alpha, gamma=self.focal_gamma
        )  # (B, A, K)
        positives = (assigned.objects.flatten() != BACKGROUND).nonzero().squeeze(1)  # (P,) of B * A
        all_points, all_strides = self.coding.points(outputs)
        places = positives % len(all_points)
        points, strides = all_points[places], all_strides[places]  # (P, 2), (P, 1)
        true_boxes = assigned.boxes.flatten(0, 1)[positives]  # (P, 4)
        true_centreness = centreness_of(boxes_to_distances(points, true_boxes))  # (P,)

        raw = at_least_float32(outputs.raw_distances.flatten(0, 1).index_select(0, positives))  # (P, 4)
        box_losses = self._box_losses(self.coding.boxes(points, strides, raw), true_boxes)  # (P,)
        if self.is_weighted_by_centreness:
            box_losses = box_losses * true_centreness
        logits = at_least_float32(outputs.centreness_logits.flatten().index_select(0, positives))  # (P,)
        centreness_loss = F.binary_cross_entropy_with_logits(logits, true_centreness.to(logits.dtype), reduction="sum")

        count = share_of_sum((assigned.objects != BACKGROUND).sum().float())
        box_normaliser = count
        if self.box_normaliser == "centreness":
            box_normaliser = share_of_sum(true_centreness.sum(), at_least=SMALLEST_SUM)
        return {
            "cls": class_losses.sum() / count,
            "box": box_losses.sum() / box_normaliser,
            "centreness": centreness_loss / count,
        }

    def _box_losses(self, boxes: torch.Tensor, true_boxes: torch.Tensor) -> torch.Tensor:
        """The loss of each of the boxes (P, 4), (P,)."""
        if self.box_loss == "giou":
            return 1 - giou(boxes, true_boxes, eps=GIOU_EPS)
        return -iou(boxes, true_boxes, eps=IOU_EPS).clamp(min=IOU_EPS).log()


def centreness_of(distances_ltrb: torch.Tensor) -> torch.Tensor:
    """How near the middle of its object a point lies, from its distances (..., 4), all above 0, -> (...) in (0, 1].

    Source: FCOS, arXiv 1904.01355, equation 3.
    """
    left, top, right, bottom = distances_ltrb.unbind(-1)
    across = torch.minimum(left, right) / torch.maximum(left, right)
    down = torch.minimum(top, bottom) / torch.maximum(top, bottom)
    return (across * down).sqrt()
