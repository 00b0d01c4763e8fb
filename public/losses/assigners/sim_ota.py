"""SimOTA: an object takes as many points as its best predictions overlap it in sum, those of the lowest cost.

Papers: YOLOX: Exceeding YOLO Series in 2021, arXiv 2107.08430, section 2.1; after OTA: Optimal Transport Assignment for
Object Detection, arXiv 2103.14259.
Follows Megvii's current code: candidates are the points near an object's centre.  The paper's first release also took those
inside a box, with another radius and penalty; its results differ.
Deviations:
- Of equal costs the point of the lower index comes first; the original leaves it to the sort.
- Two boxes without area have an IoU of 0, in the original NaN.
- An image none of whose objects lies near a point learns background; the original stops.
- The class cost is one sum over all classes a point and a difference for the object's own, so that memory does not grow
  with A * G * K; it is the original's to rounding.

Legend: A points of all levels, G ground truths of one image, K classes.
"""

import torch

from public.losses.assigners.assignment import (
    Assignment,
    all_background,
    assignment_of,
    image_by_image,
    one_object_each,
    top_counts_mask,
)
from public.losses.box import pairwise_iou
from public.losses.focal import LOG_OF_ZERO

IOU_EPS = 1e-16  # square pixels, so that boxes without area have an IoU
LOG_EPS = 1e-8
FAR_COST = 1e6  # of a point that is near another object's centre only


class SimOTAAssigner:
    """The dynamic assigner of YOLOX.

    Args:
        centre_radius: half the side of the square around an object's centre, in strides of a point's level.
        top_k: how many of an object's best predictions are summed, and the most points that it can claim.
        iou_weight: of -log IoU in the cost; the class cost has weight 1.
    """

    def __init__(self, *, centre_radius: float, top_k: int, iou_weight: float):
        self.centre_radius = centre_radius
        self.top_k = top_k
        self.iou_weight = iou_weight

    def __call__(
        self,
        *,
        points: torch.Tensor,
        strides: torch.Tensor,
        class_scores: torch.Tensor,
        predicted_boxes: torch.Tensor,
        boxes: torch.Tensor,
        labels: torch.Tensor,
        is_real: torch.Tensor | None = None,
    ) -> Assignment:
        """Assigns the points of one image, or of several: `...` is nothing, or B.

        The label of background is K; a point's score is its IoU with its object.

        Args:
            points: (A, 2) in pixels, the centres of the cells; `strides`: (A, 1), pixels a cell of the level of each.
            class_scores: (..., A, K) in [0, 1], square root of object times class probability, and `predicted_boxes`:
                (..., A, 4) in pixels, without gradient.
            boxes: (..., G, 4) in pixels, the objects; `labels`: (..., G) int64.
            is_real: (..., G), of `PaddedObjects`; None: all are.
        """
        num_points, num_classes = class_scores.shape[-2:]
        if boxes.shape[-2] == 0:
            return all_background(num_points, num_classes, predicted_boxes)
        ious = pairwise_iou(boxes, predicted_boxes, eps=IOU_EPS)  # (..., G, A)
        is_near = self._near_centre(points, strides, boxes)
        may_claim = is_near if is_real is None else is_near & is_real[..., None]
        is_candidate = may_claim.any(-2, keepdim=True)  # (..., 1, A)
        costs = self._costs(class_scores, labels, ious, is_near, is_real)
        may_compete = is_candidate if is_real is None else is_candidate & is_real[..., None]
        costs = costs.masked_fill_(~may_compete, torch.inf)
        counts = self._counts(ious * is_candidate)
        is_claimed = top_counts_mask(-costs, counts, most=self.top_k) & may_compete
        objects, is_positive = one_object_each(is_claimed, -costs)
        scores = ious.gather(-2, objects[..., None, :]).squeeze(-2)  # (..., A)
        return assignment_of(objects, is_positive, scores, boxes=boxes, labels=labels, num_classes=num_classes)

    def _near_centre(self, points: torch.Tensor, strides: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        """True where a point lies inside the square around an object's centre, (..., G, A)."""
        centres = ((boxes[..., :2] + boxes[..., 2:]) / 2)[..., None, :]  # (..., G, 1, 2)
        radii = self.centre_radius * strides  # (A, 1)
        from_low, from_high = points - (centres - radii), (centres + radii) - points  # (..., G, A, 2)
        return (torch.minimum(from_low, from_high) > 0).all(-1)

    def _counts(self, ious: torch.Tensor) -> torch.Tensor:
        """How many points each object claims, (..., G, 1): the sum of its best IoUs (..., G, A), rounded down, at least 1."""
        most = min(self.top_k, ious.shape[-1])
        return ious.topk(most, dim=-1).values.sum(-1, keepdim=True).long().clamp(1, most)

    def _costs(
        self,
        class_scores: torch.Tensor,
        labels: torch.Tensor,
        ious: torch.Tensor,
        is_near: torch.Tensor,
        is_real: torch.Tensor | None,
    ) -> torch.Tensor:
        """(..., G, A): binary cross-entropy of all classes, weighted -log IoU, and FAR_COST where the point is far."""
        log_scores = image_by_image(torch.log, class_scores).clamp_(min=LOG_OF_ZERO)  # (..., A, K)
        log_rest = image_by_image(torch.log1p, -class_scores).clamp_(min=LOG_OF_ZERO)
        own_costs = (log_rest - log_scores).mT.gather(-2, labels[..., None].expand(ious.shape))  # (..., G, A)
        class_costs = own_costs - log_rest.sum(-1)[..., None, :]
        log_ious = image_by_image(torch.log, ious + LOG_EPS, is_real=is_real)
        return class_costs - self.iou_weight * log_ious + FAR_COST * ~is_near
