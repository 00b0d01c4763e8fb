"""The loss of PicoDet's models of 2021: varifocal on the classes, GIoU and distribution focal loss on the boxes.

Paper: PP-PicoDet: A Better Real-Time Object Detector on Mobile Devices, arXiv 2111.00902.  Follows PaddleDetection's
OTAVFLHead; the assigner stands in `assigners/sim_ota_quality.py`.  From the loss of 2022 it differs in its assigner, in the
target of a class, the present IoU, and in what the terms are weighed and divided by: boxes by the best score of their
point, classes by the number of positive points.
Deviations: the class loss is divided by the number of positive points of the batch, at least 1; the original counts an image
without any as 1.  Images without objects, with which the original stops, learn background.

Legend: B batch, A points of all levels, K classes, R = reg_max + 1 bins, P positive points of the batch.
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
LAST_BIN_MARGIN = 0.1  # true distances end this far, in strides, before the last bin


class PicoDetLegacyLoss(DenseLoss):
    """Callable: `loss(outputs, targets, progress)` is a dict of weighted scalars whose sum is what is trained.

    Args:
        strides: of the levels, in the order of the outputs.
        num_classes: K.
        reg_max: the largest distance, in strides, that a bin stands for.
        grid_cell_offset: place of a point in its cell.
        assigner: a QualitySimOTAAssigner.
        weights: of the terms, `{"cls": ..., "iou": ..., "dfl": ...}`.
        varifocal_alpha, varifocal_gamma: see `public.losses.focal.varifocal_loss`.
    """

    def __init__(
        self,
        *,
        strides: tuple[int, ...],
        num_classes: int,
        reg_max: int,
        grid_cell_offset: float,
        assigner,
        weights: dict[str, float],
        varifocal_alpha: float,
        varifocal_gamma: float,
    ):
        super().__init__(num_classes=num_classes, weights=weights)
        self.strides = tuple(strides)
        self.reg_max = reg_max
        self.grid_cell_offset = grid_cell_offset
        self.assigner = assigner
        self.varifocal = {"alpha": varifocal_alpha, "gamma": varifocal_gamma}

    @torch.no_grad()
    def assign(self, outputs: Any, targets: list[dict[str, torch.Tensor]], progress: Progress) -> Assignment:
        """What each point has to learn: labels (B, A), boxes (B, A, 4) and scores (B, A), see `Assignment`."""
        return self._assign(outputs, outputs.scores(), *self._points(outputs), targets)

    def points(self, outputs: Any) -> torch.Tensor:
        """See `DenseLoss.points`."""
        return self._points(outputs)[0]

    def objects(self, outputs: Any, targets: Targets, progress: Progress) -> torch.Tensor:
        """See `DenseLoss.objects`."""
        return self.assign(outputs, targets, progress).objects

    def _points(self, outputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """The points (A, 2) in pixels and their strides (A, 1)."""
        return cell_points(
            outputs.level_sizes, self.strides, offset=self.grid_cell_offset, device=outputs.class_logits.device
        )

    @torch.no_grad()
    def _assign(
        self,
        outputs: Any,
        scores: torch.Tensor,
        points: torch.Tensor,
        strides: torch.Tensor,
        targets: list[dict[str, torch.Tensor]],
    ) -> Assignment:
        distances_ltrb = expected_distances(at_least_float32(outputs.box_logits), outputs.bins) * strides
        predicted_boxes = distances_to_boxes(points, distances_ltrb)  # (B, A, 4) pixels
        places = {"points": points, "strides": strides}

        def assign(images: slice, given: PaddedObjects) -> Assignment:
            predicted = {"class_scores": scores[images], "predicted_boxes": predicted_boxes[images]}
            return self.assigner(**given._asdict(), **predicted, **places)

        return joined(assigned_in_parts(assign, targets, len(points)))

    def terms(self, outputs: Any, targets: Targets, progress: Progress) -> dict[str, torch.Tensor]:
        """`cls`, `iou` and `dfl` of PicoDetOutputs; without any positive point those of the boxes are empty sums: 0."""
        points, strides = self._points(outputs)
        scores = outputs.scores()  # (B, A, K)
        assignment = self._assign(outputs, scores, points, strides, targets)
        positives = (assignment.labels.flatten() != self.num_classes).nonzero().squeeze(1)  # (P,)
        box_logits = at_least_float32(outputs.box_logits.flatten(0, 1).index_select(0, positives))  # (P, 4R)
        places = positives % len(points)
        own_strides = strides[places]  # (P, 1)
        own_points = points[places] / own_strides
        true_boxes = assignment.boxes.flatten(0, 1)[positives] / own_strides
        boxes = distances_to_boxes(own_points, expected_distances(box_logits, outputs.bins))

        classes = torch.arange(self.num_classes, device=scores.device)
        is_label = assignment.labels[..., None] == classes  # (B, A, K); background, K, equals none
        wanted = torch.where(is_label, assignment.scores[..., None], 0.0)
        class_losses = varifocal_loss(scores, wanted, wanted > 0, **self.varifocal)
        num_positives = share_of_sum((assignment.labels != self.num_classes).to(scores.dtype).sum())

        best = scores.detach().flatten(0, 1).amax(1)[positives]  # (P,)
        total = share_of_sum(best.sum())
        giou_losses = 1 - giou(boxes, true_boxes, eps=GIOU_EPS)
        distances_ltrb = boxes_to_distances(own_points, true_boxes).clamp(0, self.reg_max - LAST_BIN_MARGIN)
        dfl_losses = distribution_focal_loss(box_logits, distances_ltrb)
        return {
            "cls": class_losses.sum() / num_positives,
            "iou": (giou_losses * best).sum() / total,
            "dfl": (dfl_losses * best).sum() / total,
        }
