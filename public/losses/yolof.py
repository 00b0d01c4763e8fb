"""YOLOF's loss: focal on the classes of all anchors, GIoU on the boxes of the matched ones.

Paper: You Only Look One-level Feature, arXiv 2103.09460.  Follows MMDetection's YOLOFHead; the matching stands in
`assigners/uniform.py`.
Deviations: none beyond those of the assigner.

Legend: B batch, A anchors, K classes, P pairs of an anchor and an object.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from public.anchors import middles
from public.losses.assigners.assignment import PaddedObjects, assigned_in_parts, boxes_of, sums_of_images
from public.losses.assigners.uniform import UniformAssigner, UniformAssignment
from public.losses.box import giou
from public.losses.dense import DenseLoss, Targets
from public.losses.focal import focal_loss_of_labels
from public.parallel.collectives import share_of_sum
from public.precision import at_least_float32
from public.protocols import Progress

GIOU_EPS = 1e-9


class YOLOFLoss(DenseLoss):
    """Callable: `loss(outputs, targets, progress)` is a dict of weighted scalars whose sum is what is trained.

    Args:
        num_classes: K.
        make_anchors: (level_sizes, device=...) -> anchors (A, 4) in pixels.
        decode: (anchors, deltas) -> boxes, both (..., 4).
        assigner: a UniformAssigner.
        focal_alpha, focal_gamma: see `public.losses.focal.sigmoid_focal_loss`.
        weights: of the terms, `{"cls": ..., "box": ...}`.
        empty_image_counts: whether an image without a positive anchor counts as one in the normaliser, the number of
            positive anchors: MMDetection's way.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        make_anchors: Callable[..., torch.Tensor],
        decode: Callable[..., torch.Tensor],
        assigner: UniformAssigner,
        focal_alpha: float,
        focal_gamma: float,
        weights: dict[str, float],
        empty_image_counts: bool,
    ):
        super().__init__(num_classes=num_classes, weights=weights)
        self.make_anchors = make_anchors
        self.decode = decode
        self.assigner = assigner
        self.focal_alpha = focal_alpha
        self.focal_gamma = focal_gamma
        self.empty_image_counts = empty_image_counts

    def terms(self, outputs, targets: Targets, progress: Progress) -> dict[str, torch.Tensor]:
        """`cls` and `box` of YOLOFOutputs, over the number of positive anchors."""
        predicted_boxes = self._predicted_boxes(outputs)
        assigned = self._assign(outputs, predicted_boxes.detach(), targets)
        normaliser = share_of_sum(self._count(assigned))
        return {
            "cls": self._class_loss(at_least_float32(outputs.class_logits), assigned) / normaliser,
            "box": self._box_loss(predicted_boxes, assigned) / normaliser,
        }

    def assign(self, outputs, targets: list[dict[str, torch.Tensor]]) -> list[UniformAssignment]:
        """What the anchors of each image have to learn."""
        with torch.autocast(outputs.class_logits.device.type, enabled=False):
            parts = self._assign(outputs, self._predicted_boxes(outputs).detach(), targets)
        images = [UniformAssignment(*image) for part in parts for image in zip(*part.assignment)]
        of_pairs = ("anchors", "objects", "is_positive", "is_real")
        return [image._replace(**{name: getattr(image, name)[image.is_real] for name in of_pairs}) for image in images]

    def points(self, outputs: Any) -> torch.Tensor:
        """See `DenseLoss.points`."""
        return middles(self.make_anchors(outputs.level_sizes, device=outputs.box_deltas.device))

    def objects(self, outputs: Any, targets: Targets, progress: Progress) -> torch.Tensor:
        """See `DenseLoss.objects`."""
        return torch.stack([image.learnt for image in self.assign(outputs, targets)])

    def _predicted_boxes(self, outputs) -> torch.Tensor:
        """(B, A, 4) in pixels."""
        deltas = at_least_float32(outputs.box_deltas)
        return self.decode(self.make_anchors(outputs.level_sizes, device=deltas.device), deltas)

    @torch.no_grad()
    def _assign(
        self, outputs, predicted_boxes: torch.Tensor, targets: list[dict[str, torch.Tensor]]
    ) -> list["_Assigned"]:
        anchors = self.make_anchors(outputs.level_sizes, device=predicted_boxes.device).to(predicted_boxes)

        def assign(images: slice, given: PaddedObjects) -> _Assigned:
            boxes = given.boxes.to(predicted_boxes)
            predicted: dict[str, Any] = {"anchors": anchors, "predicted_boxes": predicted_boxes[images]}
            options: dict[str, Any] = {
                "labels": given.labels,
                "is_real": given.is_real,
                "num_classes": self.num_classes,
            }
            return _Assigned(images, boxes, self.assigner(boxes=boxes, **predicted, **options))

        return assigned_in_parts(assign, targets, len(anchors))

    def _count(self, assigned: list["_Assigned"]) -> torch.Tensor:
        """Positive anchors of all images."""
        counts = torch.cat([(part.assignment.labels != self.num_classes).sum(1) for part in assigned])  # (B,)
        return (counts.clamp(min=1) if self.empty_image_counts else counts).sum()

    def _class_loss(self, class_logits: torch.Tensor, assigned: list["_Assigned"]) -> torch.Tensor:
        """Sum over all classes of all anchors but the ignored ones."""
        labels = torch.cat([part.assignment.labels for part in assigned])  # (B, A)
        is_counted = torch.cat([part.assignment.is_counted for part in assigned])
        losses = focal_loss_of_labels(class_logits, labels, alpha=self.focal_alpha, gamma=self.focal_gamma)  # (B, A, K)
        return (losses * is_counted[..., None]).sum()

    def _box_loss(self, predicted_boxes: torch.Tensor, assigned: list["_Assigned"]) -> torch.Tensor:
        """Sum over all pairs that count; without any it is an empty sum: 0, and still connected to the predictions."""
        num_anchors = predicted_boxes.shape[1]
        sums = []
        for images, boxes, assignment in assigned:
            places = assignment.anchors + num_anchors * torch.arange(len(boxes), device=boxes.device)[:, None]  # (B, P)
            found = predicted_boxes[images].flatten(0, 1).index_select(0, places.flatten())
            true_boxes = boxes_of(assignment.objects, boxes)  # (B, P, 4)
            overlaps = giou(found.view_as(true_boxes), true_boxes, eps=GIOU_EPS)  # (B, P)
            sums.append(sums_of_images((1 - overlaps) * assignment.is_positive, assignment.is_real))
        return torch.cat(sums).sum()


class _Assigned(NamedTuple):
    """Images that were assigned together: which, their objects (B, G, 4), and what their anchors learn."""

    images: slice
    boxes: torch.Tensor
    assignment: UniformAssignment
