"""YOLOX's loss: IoU of the boxes, cross-entropy of object and classes, and in the last epochs L1 of the box codes.

Paper: YOLOX: Exceeding YOLO Series in 2021, arXiv 2107.08430.  Follows Megvii's YOLOXHead; the assigner stands in
`assigners/sim_ota.py`.
Deviation: the terms are divided by the positives of all processes together, the original's by those of each process.

Legend: B batch, A points of all levels, K classes, P positive points of the batch.
"""

from typing import Any

import torch
from torch.nn import functional as F

from public.losses.assigners.assignment import Assignment, PaddedObjects, assigned_in_parts, joined
from public.losses.box import iou
from public.losses.dense import DenseLoss, Targets
from public.parallel.collectives import share_of_sum
from public.points import boxes_to_codes, cell_points, codes_to_boxes
from public.precision import at_least_float32
from public.protocols import Progress

IOU_EPS = 1e-16  # square pixels
LOG_EPS = 1e-8  # strides


class YOLOXLoss(DenseLoss):
    """Callable: `loss(outputs, targets, progress)` is a dict of weighted scalars whose sum is what is trained.

    Args:
        strides: of the levels, in the order of the outputs.
        num_classes: K.
        assigner: a SimOTAAssigner.
        weights: of the terms, `{"iou": ..., "obj": ..., "cls": ..., "l1": ...}`.
        l1_from_epoch: epochs before this one, counted from 0, have an L1 term of 0.
    """

    def __init__(
        self, *, strides: tuple[int, ...], num_classes: int, assigner, weights: dict[str, float], l1_from_epoch: int
    ):
        super().__init__(num_classes=num_classes, weights=weights)
        self.strides = tuple(strides)
        self.assigner = assigner
        self.l1_from_epoch = l1_from_epoch

    @torch.no_grad()
    def assign(self, outputs, targets: list[dict[str, torch.Tensor]], progress: Progress) -> Assignment:
        """What each point has to learn: labels (B, A), boxes (B, A, 4) and scores (B, A), see `Assignment`."""
        with torch.autocast(outputs.class_logits.device.type, enabled=False):
            corners, strides = self._cells(outputs)
            objects = at_least_float32(outputs.object_logits).sigmoid()  # (B, A, 1)
            scores = (at_least_float32(outputs.class_logits).sigmoid() * objects).sqrt()  # (B, A, K)
            predicted_boxes = codes_to_boxes(at_least_float32(outputs.box_codes), corners, strides)
            places = {"points": self.points(outputs), "strides": strides}

            def assign(images: slice, given: PaddedObjects) -> Assignment:
                predicted = {"class_scores": scores[images], "predicted_boxes": predicted_boxes[images]}
                return self.assigner(**given._asdict(), **predicted, **places)

            return joined(assigned_in_parts(assign, targets, len(strides)))

    def points(self, outputs: Any) -> torch.Tensor:
        """See `DenseLoss.points`."""
        corners, strides = self._cells(outputs)
        return corners + strides / 2  # the middles of the cells

    def objects(self, outputs: Any, targets: Targets, progress: Progress) -> torch.Tensor:
        """See `DenseLoss.objects`."""
        return self.assign(outputs, targets, progress).objects

    def _cells(self, outputs) -> tuple[torch.Tensor, torch.Tensor]:
        """The upper left corners of the cells (A, 2) in pixels and their strides (A, 1)."""
        return cell_points(outputs.level_sizes, self.strides, offset=0.0, device=outputs.class_logits.device)

    def terms(self, outputs, targets: Targets, progress: Progress) -> dict[str, torch.Tensor]:
        """`iou`, `obj`, `cls` and `l1` of YOLOXOutputs; without any positive point all but `obj` are empty sums."""
        assignment = self.assign(outputs, targets, progress)
        is_positive = assignment.labels != self.num_classes  # (B, A)
        normaliser = share_of_sum(is_positive.sum().to(torch.float32))
        object_logits = at_least_float32(outputs.object_logits).squeeze(2)  # (B, A)
        object_losses = F.binary_cross_entropy_with_logits(
            object_logits, is_positive.to(object_logits.dtype), reduction="sum"
        )
        positives = is_positive.flatten().nonzero().squeeze(1)  # (P,) of B * A
        return {
            "obj": object_losses / normaliser,
            "cls": self._class_loss(outputs, assignment, positives) / normaliser,
            **self._box_terms(outputs, assignment, positives, normaliser, progress),
        }

    def _class_loss(self, outputs, assignment: Assignment, positives: torch.Tensor) -> torch.Tensor:
        """Sum over the positive points and all classes; the target is the IoU at the object's class, 0 elsewhere."""
        logits = at_least_float32(outputs.class_logits.flatten(0, 1).index_select(0, positives))  # (P, K)
        labels, scores = assignment.labels.flatten()[positives], assignment.scores.flatten()[positives]
        is_own = labels[:, None] == torch.arange(self.num_classes, device=labels.device)  # (P, K)
        wanted = torch.where(is_own, scores[:, None], 0.0).to(logits.dtype)
        return F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum")

    def _box_terms(
        self,
        outputs,
        assignment: Assignment,
        positives: torch.Tensor,
        normaliser: torch.Tensor,
        progress: Progress,
    ) -> dict[str, torch.Tensor]:
        """1 - IoU squared, in pixels, and once its epoch has come the L1 distance of the codes, in strides."""
        corners, strides = self._cells(outputs)
        places = positives % len(corners)
        corners, strides = corners[places], strides[places]
        codes = at_least_float32(outputs.box_codes.flatten(0, 1).index_select(0, positives))  # (P, 4)
        true_boxes = assignment.boxes.flatten(0, 1)[positives]
        ious = iou(codes_to_boxes(codes, corners, strides), true_boxes, eps=IOU_EPS)  # (P,)
        if progress.epoch >= self.l1_from_epoch:
            true_codes = boxes_to_codes(true_boxes, corners, strides, eps=LOG_EPS)
            l1 = (codes - true_codes).abs().sum() / normaliser
        else:
            l1 = torch.zeros_like(normaliser)
        return {"iou": (1 - ious.square()).sum() / normaliser, "l1": l1}
