"""PPYOLOE's loss: varifocal on the classes, GIoU and distribution focal loss on the boxes of positive points.

Paper: PP-YOLOE: An evolved version of YOLO, arXiv 2203.16250.  Follows PaddleDetection's PPYOLOEHead; the assigners
stand in `assigners/atss.py` and `assigners/task_aligned.py`.
Deviations: none beyond those of the assigners.

Legend: B batch, A anchor points of all levels, K classes, R = reg_max + 1 bins, P positive points of the batch.
"""

from typing import Any

import torch

from public.losses.assigners.assignment import Assignment, PaddedObjects, assigned_in_parts, joined
from public.losses.box import giou
from public.losses.dense import DenseLoss, Targets
from public.losses.distribution_focal import distribution_focal_loss
from public.losses.focal import varifocal_loss
from public.parallel.collectives import share_of_sum
from public.points import boxes_to_distances, cell_points, distances_to_boxes, expected_distances
from public.precision import at_least_float32
from public.protocols import Progress

GIOU_EPS = 1e-10


class PPYOLOELoss(DenseLoss):
    """Callable: `loss(outputs, targets, progress)` is a dict of weighted scalars whose sum is what is trained.

    A detector with other outputs derives from it and says how they become scores and distances.

    Args:
        strides: of the levels, in the order of the outputs.
        num_classes: K.
        reg_max: the largest distance, in strides, that a bin stands for.
        grid_cell_scale: side of the anchor cells of the static assigner, in strides.
        grid_cell_offset: place of a point in its cell.
        static_assigner_epochs: epochs before this one use `static_assigner`, the others `assigner`.
        static_assigner: an ATSSAssigner; assigner: a TaskAlignedAssigner.
        weights: of the terms, `{"cls": ..., "iou": ..., "dfl": ...}`.
        varifocal_alpha, varifocal_gamma: see `public.losses.focal.varifocal_loss`.
    """

    last_bin_margin = 0.01  # true distances end this far, in strides, before the last bin

    def __init__(
        self,
        *,
        strides: tuple[int, ...],
        num_classes: int,
        reg_max: int,
        grid_cell_scale: float,
        grid_cell_offset: float,
        static_assigner_epochs: int,
        static_assigner,
        assigner,
        weights: dict[str, float],
        varifocal_alpha: float,
        varifocal_gamma: float,
    ):
        super().__init__(num_classes=num_classes, weights=weights)
        self.strides = tuple(strides)
        self.reg_max = reg_max
        self.grid_cell_scale = grid_cell_scale
        self.grid_cell_offset = grid_cell_offset
        self.static_assigner_epochs = static_assigner_epochs
        self.static_assigner = static_assigner
        self.assigner = assigner
        self.varifocal_alpha = varifocal_alpha
        self.varifocal_gamma = varifocal_gamma

    def scores(self, outputs) -> torch.Tensor:
        """The predicted probability of each class at each point, (B, A, K), at least float32."""
        return at_least_float32(outputs.class_logits).sigmoid()

    def distances(self, outputs, box_logits: torch.Tensor) -> torch.Tensor:
        """The predicted distances (..., 4), in strides, of some of the points, of which `box_logits` (..., 4R) are given."""
        return expected_distances(at_least_float32(box_logits))

    def terms(self, outputs, targets: Targets, progress: Progress) -> dict[str, torch.Tensor]:
        """`cls`, `iou` and `dfl` of PPYOLOEOutputs, and `l1`, which is reported but never trained."""
        assignment = self.assign(outputs, targets, progress)
        return self._terms_of_head(outputs, assignment, share_of_sum(assignment.scores.sum()))

    @torch.no_grad()
    def assign(self, outputs, targets: list[dict[str, torch.Tensor]], progress: Progress) -> Assignment:
        """What each point has to learn: labels (B, A), boxes (B, A, 4) and scores (B, A), see `Assignment`."""
        with torch.autocast(outputs.class_logits.device.type, enabled=False):
            points, strides = self._points(outputs)
            probabilities = self.scores(outputs)  # (B, A, K)
            distances_ltrb = self.distances(outputs, outputs.box_logits) * strides  # (B, A, 4) pixels
            predicted_boxes = distances_to_boxes(points, distances_ltrb)
            cells = self.cells(outputs)

            def assign(images: slice, objects: PaddedObjects) -> Assignment:
                given: dict[str, Any] = objects._asdict() | {"predicted_boxes": predicted_boxes[images]}
                if progress.epoch < self.static_assigner_epochs:
                    where = {"cells": cells, "level_sizes": outputs.level_sizes}
                    return self.static_assigner(**given, **where, num_classes=self.num_classes)
                return self.assigner(**given, points=points, strides=strides, class_scores=probabilities[images])

            return joined(assigned_in_parts(assign, targets, len(points)))

    def assigner_name(self, progress: Progress) -> str:
        """See `DenseLoss.assigner_name`."""
        is_static = progress.epoch < self.static_assigner_epochs
        return type(self.static_assigner if is_static else self.assigner).__name__

    def points(self, outputs: Any) -> torch.Tensor:
        """See `DenseLoss.points`."""
        return self._points(outputs)[0]

    def objects(self, outputs: Any, targets: Targets, progress: Progress) -> torch.Tensor:
        """See `DenseLoss.objects`."""
        return self.assign(outputs, targets, progress).objects

    def _terms_of_head(self, outputs, assignment: Assignment, normaliser: torch.Tensor) -> dict[str, torch.Tensor]:
        """The unweighted terms of one head."""
        return {
            "cls": self._class_loss(self.scores(outputs), assignment) / normaliser,
            **self._box_losses(outputs, assignment, normaliser),
        }

    def _points(self, outputs) -> tuple[torch.Tensor, torch.Tensor]:
        """The points (A, 2) in pixels and their strides (A, 1)."""
        return cell_points(
            outputs.level_sizes, self.strides, offset=self.grid_cell_offset, device=outputs.class_logits.device
        )

    def points_in_strides(self, outputs) -> torch.Tensor:
        """The points (A, 2), each in strides of its own level."""
        points, strides = self._points(outputs)
        return points / strides

    def cells(self, outputs) -> torch.Tensor:
        """The cells (A, 4) of the static assigner around the points, in pixels."""
        points, strides = self._points(outputs)
        half_cells = strides * self.grid_cell_scale / 2
        return torch.cat([points - half_cells, points + half_cells], dim=1)

    def _class_loss(self, scores: torch.Tensor, assignment: Assignment) -> torch.Tensor:
        """Sum over all points and classes; the target is the score at the assigned class and 0 elsewhere."""
        classes = torch.arange(self.num_classes, device=scores.device)
        is_label = assignment.labels[..., None] == classes  # (B, A, K); background, K, equals none
        targets = torch.where(is_label, assignment.scores[..., None], 0.0)
        losses = varifocal_loss(
            scores,
            targets,
            self.is_positive(is_label, targets),
            alpha=self.varifocal_alpha,
            gamma=self.varifocal_gamma,
        )
        return losses.sum()

    def is_positive(self, is_label: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Where the class loss is weighed by its target, (B, A, K): at the labels, though their score may be 0."""
        return is_label

    def _box_losses(self, outputs, assignment: Assignment, normaliser: torch.Tensor) -> dict[str, torch.Tensor]:
        """GIoU and distribution focal loss of the positive points, weighted by their scores; all in strides.

        Without any positive point the terms are empty sums: 0, and still connected to `box_logits`.
        """
        points, strides = self._points(outputs)
        positives = (assignment.labels.flatten() != self.num_classes).nonzero().squeeze(1)  # (P,) of B * A
        box_logits = at_least_float32(outputs.box_logits.flatten(0, 1).index_select(0, positives))  # (P, 4R)
        scores = assignment.scores.flatten()[positives]  # (P,)
        places = positives % len(points)
        strides = strides[places]  # (P, 1)
        points = points[places] / strides
        true_boxes = assignment.boxes.flatten(0, 1)[positives] / strides

        boxes = distances_to_boxes(points, self.distances(outputs, box_logits))
        giou_losses = 1 - giou(boxes, true_boxes, eps=GIOU_EPS)  # (P,)
        distances_ltrb = boxes_to_distances(points, true_boxes).clamp(0, self.reg_max - self.last_bin_margin)
        dfl_losses = distribution_focal_loss(box_logits, distances_ltrb)  # (P,)
        return {
            "iou": (giou_losses * scores).sum() / normaliser,
            "dfl": (dfl_losses * scores).sum() / normaliser,
            "l1": (boxes - true_boxes).detach().abs().sum() / max(4 * len(positives), 1),
        }
