"""Adaptive training sample selection: the points near an object whose cells overlap it more than usual.

Paper: Bridging the Gap Between Anchor-based and Anchor-free Detection via ATSS, arXiv 1912.02424, algorithm 1.
Follows PaddleDetection's ATSSAssigner as PPYOLOE sets it up; there is nothing trained in it.
Deviations:
- A level with fewer cells than `top_k` gives all of them; the original raises an error.
- Of equal distances the cell further left in its level comes first; the original leaves it to the sort.

Legend: A anchor cells of all levels, L levels, G ground truths of one image.
"""

import torch

from public.losses.assigners.assignment import (
    Assignment,
    all_background,
    assignment_of,
    boxes_of,
    one_object_each,
    points_inside,
    top_k_mask,
)
from public.losses.box import iou, pairwise_iou

CELL_IOU_EPS = 1e-10
PREDICTION_IOU_EPS = 1e-9
INSIDE_MARGIN = 1e-9  # pixels


class ATSSAssigner:
    """The static assigner: the choice of points does not depend on the predictions, only their scores do.

    Args:
        top_k: candidates an object gets from each level.
    """

    def __init__(self, *, top_k: int):
        self.top_k = top_k

    def __call__(
        self,
        *,
        cells: torch.Tensor,
        level_sizes: tuple[tuple[int, int], ...],
        predicted_boxes: torch.Tensor,
        boxes: torch.Tensor,
        labels: torch.Tensor,
        num_classes: int,
        is_real: torch.Tensor | None = None,
    ) -> Assignment:
        """Assigns the points of one image, or of several: `...` is nothing, or B.

        Args:
            cells: (A, 4), the square anchor cell around each point, in pixels.
            level_sizes: (height, width) of the L levels, whose cells follow each other in `cells`.
            predicted_boxes: (..., A, 4) in pixels, without gradient; the score of a point is their IoU with its object.
            boxes: (..., G, 4) in pixels, the objects; `labels`: (..., G) int64.
            num_classes: the label of background.
            is_real: (..., G), of `PaddedObjects`; None: all are.
        """
        if boxes.shape[-2] == 0:
            return all_background(len(cells), num_classes, predicted_boxes)
        points = (cells[:, :2] + cells[:, 2:]) / 2
        ious = pairwise_iou(boxes, cells, eps=CELL_IOU_EPS)  # (..., G, A)
        is_candidate = self._candidates(points, level_sizes, boxes)
        is_claimed = (
            is_candidate
            & (ious > _mean_plus_std(ious, is_candidate))
            & points_inside(points, boxes, margin=INSIDE_MARGIN)
        )
        if is_real is not None:
            is_claimed &= is_real[..., None]
        objects, is_positive = one_object_each(is_claimed, ious)
        scores = iou(boxes_of(objects, boxes), predicted_boxes, eps=PREDICTION_IOU_EPS)  # (..., A)
        return assignment_of(objects, is_positive, scores, boxes=boxes, labels=labels, num_classes=num_classes)

    def _candidates(
        self, points: torch.Tensor, level_sizes: tuple[tuple[int, int], ...], boxes: torch.Tensor
    ) -> torch.Tensor:
        """True at the `top_k` points of each level that lie nearest to the centre of each box, (..., G, A)."""
        centres = (boxes[..., :2] + boxes[..., 2:]) / 2
        dx = centres[..., :1] - points[:, 0]  # (..., G, A)
        dy = centres[..., 1:] - points[:, 1]
        nearness = -(dx.square() + dy.square())
        levels = nearness.split([height * width for height, width in level_sizes], dim=-1)
        return torch.cat([top_k_mask(level, self.top_k) for level in levels], dim=-1)


def _mean_plus_std(ious: torch.Tensor, is_candidate: torch.Tensor) -> torch.Tensor:
    """Mean plus unbiased standard deviation of the candidates' IoUs (..., G, A) of each object, (..., G, 1)."""
    count = is_candidate.sum(-1, keepdim=True)
    mean = (ious * is_candidate).sum(-1, keepdim=True) / count
    squares = ((ious - mean).square() * is_candidate).sum(-1, keepdim=True)
    return mean + (squares / (count - 1).clamp(min=1)).sqrt()
