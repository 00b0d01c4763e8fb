"""RetinaNet's loss: focal loss on the classes of all anchors, and a box loss on the offsets of the positive ones.

Paper: Focal Loss for Dense Object Detection, arXiv 1708.02002, sections 3 and 4.
Follows torchvision's and MMDetection's RetinaNet; the assigner stands in `assigners/max_iou.py`.
The originals differ in the box loss and in what the terms are divided by: both are arguments.
Deviations: none beyond those of the assigner.

Legend: B batch, A anchors of all levels, K classes, G ground truths of one image, P positive anchors of the batch.
"""

from typing import Any

import torch
from torch.nn import functional as F

from public.anchors import AnchorCoding, middles
from public.losses.assigners.assignment import (
    BACKGROUND,
    IGNORED,
    ObjectTargets,
    PaddedObjects,
    assigned_in_parts,
    joined,
    targets_of_objects,
)
from public.losses.box import giou
from public.losses.dense import DenseLoss, Targets
from public.losses.focal import focal_loss_of_labels
from public.parallel.collectives import share_of_sum
from public.precision import at_least_float32
from public.protocols import Progress

BOX_LOSSES = ("smooth_l1", "giou")  # on the offsets from the anchors, summed over the four; on the boxes
GIOU_EPS = 1e-7

# What the terms are divided by: the positives of the whole batch (over all processes); the same, but an image without any
# counts as one (MMDetection); those of each image, and the images' mean is taken (torchvision).  At least 1 in any case.
NORMALISERS = ("batch", "batch_of_images", "image")


class RetinaNetLoss(DenseLoss):
    """Callable: `loss(outputs, targets, progress)` is a dict of weighted scalars whose sum is what is trained.

    Args:
        coding: where the anchors lie, and how offsets from them become boxes.
        num_classes: K.
        assigner: a MaxIoUAssigner.
        focal_alpha, focal_gamma: see `public.losses.focal.sigmoid_focal_loss`.
        box_loss: one of BOX_LOSSES.
        smooth_l1_beta: offset at which the squared part of smooth L1 ends; 0: L1.
        normaliser: one of NORMALISERS.
        weights: of the terms, `{"cls": ..., "box": ...}`.
    """

    def __init__(
        self,
        *,
        coding: AnchorCoding,
        num_classes: int,
        assigner,
        focal_alpha: float,
        focal_gamma: float,
        box_loss: str,
        smooth_l1_beta: float,
        normaliser: str,
        weights: dict[str, float],
    ):
        super().__init__(num_classes=num_classes, weights=weights)
        self.coding = coding
        self.assigner = assigner
        self.focal_alpha = focal_alpha
        self.focal_gamma = focal_gamma
        self.box_loss = box_loss
        self.smooth_l1_beta = smooth_l1_beta
        self.normaliser = normaliser

    @torch.no_grad()
    def assign(self, outputs, targets: Targets) -> ObjectTargets:
        """What each anchor of each image has to learn; the predictions have no say in it."""
        anchors = self.coding.anchors(outputs)

        def assign(images: slice, given: PaddedObjects) -> ObjectTargets:
            objects = self.assigner(anchors=anchors, boxes=given.boxes)
            return targets_of_objects(objects, given, self.num_classes)

        return joined(assigned_in_parts(assign, targets, len(anchors)))

    def points(self, outputs: Any) -> torch.Tensor:
        """See `DenseLoss.points`."""
        return middles(self.coding.anchors(outputs))

    def objects(self, outputs: Any, targets: Targets, progress: Progress) -> torch.Tensor:
        """See `DenseLoss.objects`."""
        return self.assign(outputs, targets).objects

    def terms(self, outputs, targets: Targets, progress: Progress) -> dict[str, torch.Tensor]:
        """`cls` and `box` of RetinaNetOutputs; without any positive anchor that of the boxes is an empty sum: 0."""
        assigned = self.assign(outputs, targets)
        divisors = self._divisors(assigned)  # (B,)
        class_losses = focal_loss_of_labels(
            at_least_float32(outputs.class_logits), assigned.labels, alpha=self.focal_alpha, gamma=self.focal_gamma
        )  # (B, A, K)
        counts = (assigned.objects != IGNORED)[..., None]
        class_sums = (class_losses * counts).sum((1, 2))  # (B,)

        positives = (assigned.objects.flatten() > BACKGROUND).nonzero().squeeze(1)  # (P,) of B * A
        anchors = self.coding.anchors(outputs)
        num_anchors = len(anchors)
        box_losses = self._box_losses(
            anchors[positives % num_anchors],
            at_least_float32(outputs.box_deltas.flatten(0, 1).index_select(0, positives)),
            assigned.boxes.flatten(0, 1)[positives],
        )  # (P,)
        return {
            "cls": (class_sums / divisors).sum(),
            "box": (box_losses / divisors[positives // num_anchors]).sum(),
        }

    def _divisors(self, assigned: ObjectTargets) -> torch.Tensor:
        """What the sums of each image are divided by, (B,)."""
        counts = (assigned.objects > BACKGROUND).sum(1).float()  # (B,)
        if self.normaliser == "image":
            return counts.clamp(min=1) * len(counts)
        total = counts.clamp(min=1).sum() if self.normaliser == "batch_of_images" else counts.sum()
        return share_of_sum(total).expand(len(counts))

    def _box_losses(self, anchors: torch.Tensor, deltas: torch.Tensor, true_boxes: torch.Tensor) -> torch.Tensor:
        """The loss of each of the offsets (P, 4) from anchors (P, 4), (P,)."""
        if self.box_loss == "giou":
            return 1 - giou(self.coding.boxes(anchors, deltas), true_boxes, eps=GIOU_EPS)
        expected = self.coding.deltas(anchors, true_boxes).to(deltas.dtype)
        return F.smooth_l1_loss(deltas, expected, reduction="none", beta=self.smooth_l1_beta).sum(1)
