"""Task-aligned assignment: the points that already predict an object best, in class and box together.

Paper: TOOD: Task-aligned One-stage Object Detection, arXiv 2108.07755, section 3.2.
Follows PaddleDetection's TaskAlignedAssigner as PPYOLOE sets it up, with its `is_close_gt` as `centre_radius`; there is
nothing trained in it.
Deviation: of equal metrics the point of the lower index comes first; the original leaves it to the sort.

Legend: A anchor points of all levels, G ground truths of one image, K classes.
"""

import torch

from public.losses.assigners.assignment import (
    Assignment,
    all_background,
    assignment_of,
    image_by_image,
    one_object_each,
    points_inside,
    points_near_centre,
    top_k_mask,
)
from public.losses.box import pairwise_iou

EPS = 1e-9  # of the IoU, of the quotient of metrics, and in pixels of the inside test


class TaskAlignedAssigner:
    """The dynamic assigner: an object takes the `top_k` points inside it of the highest score ** alpha * IoU ** beta.

    With a `centre_radius` it takes them from the points near its centre, inside it or not.

    Args:
        top_k: points an object claims.
        alpha, beta: exponents of the predicted score and of the IoU of the predicted box.
        centre_radius: in strides of a point's level; None: the points inside the object.
    """

    def __init__(self, *, top_k: int, alpha: float, beta: float, centre_radius: float | None):
        self.top_k = top_k
        self.alpha = alpha
        self.beta = beta
        self.centre_radius = centre_radius

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
        """Assigns the points of one image, or of several: `...` is nothing, or B.  The label of background is K.

        Args:
            points: (A, 2) in pixels; `strides`: (A, 1), pixels a cell of the level of each.
            class_scores: (..., A, K) in [0, 1], and `predicted_boxes`: (..., A, 4) in pixels, without gradient.
            boxes: (..., G, 4) in pixels, the objects; `labels`: (..., G) int64.
            is_real: (..., G), of `PaddedObjects`; None: all are.
        """
        num_points, num_classes = class_scores.shape[-2:]
        if boxes.shape[-2] == 0:
            return all_background(num_points, num_classes, predicted_boxes)
        ious = pairwise_iou(boxes, predicted_boxes, eps=EPS)  # (..., G, A)
        own_scores = class_scores.mT.gather(-2, labels[..., None].expand(ious.shape))
        scores_to_alpha = image_by_image(lambda own: own.pow(self.alpha), own_scores, is_real=is_real)
        metrics = scores_to_alpha * image_by_image(lambda own: own.pow(self.beta), ious, is_real=is_real)
        is_eligible = self._eligible(points, strides, boxes)
        if is_real is not None:
            is_eligible &= is_real[..., None]
        is_claimed = top_k_mask(metrics * is_eligible, self.top_k) & is_eligible
        objects, is_positive = one_object_each(is_claimed, ious)
        scores = _normalised_metrics(metrics, ious, objects, is_positive)
        return assignment_of(objects, is_positive, scores, boxes=boxes, labels=labels, num_classes=num_classes)

    def _eligible(self, points: torch.Tensor, strides: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        """True where an object may claim a point, (..., G, A)."""
        if self.centre_radius is None:
            return points_inside(points, boxes, margin=EPS)
        return points_near_centre(points, boxes, radii=self.centre_radius * strides.squeeze(1))


def _normalised_metrics(
    metrics: torch.Tensor, ious: torch.Tensor, objects: torch.Tensor, is_positive: torch.Tensor
) -> torch.Tensor:
    """The metric of each point with its object, scaled so that an object's best point gets the object's best IoU.

    metrics, ious (..., G, A), objects, is_positive (..., A) -> (..., A), arbitrary where not positive.
    """
    rows = torch.arange(metrics.shape[-2], device=metrics.device)[:, None]
    is_pair = (objects[..., None, :] == rows) & is_positive[..., None, :]  # (..., G, A)
    best_metric = (metrics * is_pair).amax(-1)  # (..., G)
    best_iou = (ious * is_pair).amax(-1)
    own_metric = metrics.gather(-2, objects[..., None, :]).squeeze(-2)  # (..., A)
    return own_metric / (best_metric.gather(-1, objects) + EPS) * best_iou.gather(-1, objects)
