"""SimOTA by quality: PicoDet's of 2021, whose costs are its own losses, varifocal and generalised IoU.

Papers: PP-PicoDet: A Better Real-Time Object Detector on Mobile Devices, arXiv 2111.00902, section 3.3; after YOLOX, arXiv
2107.08430, and OTA, arXiv 2103.14259.
Follows PaddleDetection's SimOTAAssigner.  From YOLOX's (`assigners/sim_ota.py`) it differs in its costs, and in its
candidates: points inside an object or near its centre, where those that are not both to the object itself are costly.
Deviations:
- Of equal costs the point of the lower index comes first; the original leaves it to the sort.
- An image without objects, or none of whose objects has a candidate, learns background; the original stops.
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
    points_inside,
    top_counts_mask,
)
from public.losses.box import giou, pairwise_iou
from public.losses.focal import varifocal_loss

IOU_EPS = 1e-9  # square pixels
FAR_COST = 1e8  # of a point that is not both inside the object and near its centre


class QualitySimOTAAssigner:
    """The dynamic assigner of PicoDet of 2021.

    Args:
        centre_radius: half the side of the square around an object's centre, in strides of a point's level.
        top_k: how many of an object's best predictions are summed, and the most points that it can claim.
        iou_weight: of 1 - GIoU in the cost; the varifocal loss has weight 1.
        varifocal_alpha, varifocal_gamma: see `public.losses.focal.varifocal_loss`.
    """

    def __init__(
        self, *, centre_radius: float, top_k: int, iou_weight: float, varifocal_alpha: float, varifocal_gamma: float
    ):
        self.centre_radius = centre_radius
        self.top_k = top_k
        self.iou_weight = iou_weight
        self.varifocal = {"alpha": varifocal_alpha, "gamma": varifocal_gamma}

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
            points: (A, 2) in pixels; `strides`: (A, 1), pixels a cell of the level of each.
            class_scores: (..., A, K) in [0, 1], and `predicted_boxes`: (..., A, 4) in pixels, without gradient.
            boxes: (..., G, 4) in pixels, the objects; `labels`: (..., G) int64.
            is_real: (..., G), of `PaddedObjects`; None: all are.
        """
        num_points, num_classes = class_scores.shape[-2:]
        if boxes.shape[-2] == 0:
            return all_background(num_points, num_classes, predicted_boxes)
        ious = pairwise_iou(boxes, predicted_boxes, eps=IOU_EPS)  # (..., G, A)
        is_inside = points_inside(points, boxes, margin=0.0)
        is_near = self._near_centre(points, strides, boxes)
        may_compete = is_inside | is_near
        if is_real is not None:
            may_compete &= is_real[..., None]
        is_candidate = may_compete.any(-2, keepdim=True)  # (..., 1, A)
        may_compete = is_candidate if is_real is None else is_candidate & is_real[..., None]
        costs = self._class_costs(class_scores, labels, ious, is_real)
        costs += self.iou_weight * (1 - giou(boxes[..., None, :], predicted_boxes[..., None, :, :], eps=IOU_EPS))
        costs += FAR_COST * ~(is_inside & is_near)
        costs = costs.masked_fill_(~may_compete, torch.inf)
        is_claimed = top_counts_mask(-costs, self._counts(ious * is_candidate), most=self.top_k) & may_compete
        objects, is_positive = one_object_each(is_claimed, -costs)
        scores = ious.gather(-2, objects[..., None, :]).squeeze(-2)  # (..., A)
        return assignment_of(objects, is_positive, scores, boxes=boxes, labels=labels, num_classes=num_classes)

    def _near_centre(self, points: torch.Tensor, strides: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        """True where a point lies inside the square around an object's centre, (..., G, A)."""
        centres = (boxes[..., :2] + boxes[..., 2:]) / 2  # (..., G, 2)
        radii = self.centre_radius * strides.squeeze(1)  # (A,)
        is_near = [(centres[..., axis, None] - points[:, axis]).abs() < radii for axis in (0, 1)]
        return is_near[0] & is_near[1]

    def _counts(self, ious: torch.Tensor) -> torch.Tensor:
        """How many points each object claims, (..., G, 1): the sum of its best IoUs (..., G, A), rounded down, at least 1."""
        most = min(self.top_k, ious.shape[-1])
        return ious.topk(most, dim=-1).values.sum(-1, keepdim=True).long().clamp(1, most)

    def _class_costs(
        self, class_scores: torch.Tensor, labels: torch.Tensor, ious: torch.Tensor, is_real: torch.Tensor | None
    ) -> torch.Tensor:
        """The varifocal loss of a point's classes, if it learnt an object with its IoU as the target: (..., G, A)."""

        def loss(scores: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
            return varifocal_loss(scores, wanted, wanted > 0, **self.varifocal)

        background = image_by_image(loss, class_scores, torch.zeros_like(class_scores))  # (..., A, K)
        own = labels[..., None].expand(ious.shape)  # (..., G, A)
        of_label = image_by_image(loss, class_scores.mT.gather(-2, own), ious, is_real=is_real)
        return of_label - background.mT.gather(-2, own) + background.sum(-1)[..., None, :]
