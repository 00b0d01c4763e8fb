"""What a detector's head learns from its teacher's.

Papers: LD, Localization Distillation for Dense Object Detection, arXiv 2102.12252; CrossKD: Cross-Head Knowledge Distillation
for Object Detection, arXiv 2306.11369; quality focal loss of Generalized Focal Loss, arXiv 2006.04388, equation 2.
`PPYOLOELogitsLoss` follows PaddleDetection's distillation of PPYOLOE+ (commit 666f597).
Deviations:
- LD: the valuable region of an object is drawn around the points that learn it, whatever the assigner: see `LDLoss`.
- CrossKD: the divisor of the class term, the number of positive points, is that over all processes.

Legend: B batch, A anchors or points of all levels, K classes, R regression bins, P positive points of the batch, G ground
truths of one image.
"""

from typing import Any

import torch
from torch.nn import functional as F

from public.losses.assigners.assignment import BACKGROUND, Assignment
from public.losses.box import giou, pairwise_iou
from public.losses.dense import Targets
from public.losses.distillation_classes import divergence
from public.losses.focal import finite_log
from public.parallel.collectives import share_of_sum
from public.points import distances_to_boxes
from public.precision import at_least_float32

GIOU_EPS = 1e-10
IOU_EPS = 1e-9


def quality_focal_loss(probabilities: torch.Tensor, expected: torch.Tensor, *, beta: float) -> torch.Tensor:
    """Binary cross-entropy with a soft target, times their distance to the power of `beta`; both in [0, 1], any shape.

    Source: arXiv 2006.04388, equation 2.
    """
    likelihood = expected * finite_log(probabilities) + (1 - expected) * finite_log(1 - probabilities)
    return -(expected - probabilities).abs().pow(beta) * likelihood


def mean_giou_loss(
    boxes: torch.Tensor, taught: torch.Tensor, weights: torch.Tensor, divisor: torch.Tensor
) -> torch.Tensor:
    """1 - GIoU of boxes and the teacher's (..., 4), weighed by `weights` (...), summed and divided."""
    return ((1 - giou(boxes, taught, eps=GIOU_EPS)) * weights).sum() / divisor


def positives_of(assignment: Assignment, num_classes: int) -> torch.Tensor:
    """The places (P,) of the points, of B * A, that learn an object."""
    return (assignment.labels.flatten() != num_classes).nonzero().squeeze(1)


def taken(values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """The rows of `values` (B, A, X) at `places` (P,) of B * A: (P, X)."""
    return at_least_float32(values.flatten(0, 1).index_select(0, places))


class LDLoss:
    """KL of the teacher's distributions of the distances from the student's, at a temperature T, times T ** 2.

    Source: arXiv 2102.12252, sections 3.2 and 3.3.  On the points that learn an object, and on the valuable region around
    them: there the intersection of a point's cell with the object, over their union, is below that of every point that
    learns the object, and at least `region` times it.  The mean over the four sides, weighed by the assigned score, or in
    the region by the teacher's largest score, each divided by the sum of its weights, at least 1.

    Args:
        weight: of the term; temperature: T.
        region: gamma of the paper; 1: no such region.
    """

    name = "logits"
    needs_assignment = True

    def __init__(self, *, weight: float, temperature: float, region: float):
        self.weight = weight
        self.temperature = temperature
        self.region = region

    def __call__(self, outputs: Any, targets: Targets, context: Any) -> torch.Tensor:
        base, assignment = context["base"], context["assignment"]
        places = positives_of(assignment, base.num_classes)
        total = self._of_places(outputs, places, assignment.scores.flatten()[places])
        if self.region < 1:
            valuable = torch.stack(
                [
                    self.valuable(base, outputs.student, target["boxes"], labels)
                    for target, labels in zip(targets, assignment.labels, strict=True)
                ]
            )  # (B, A)
            places = valuable.flatten().nonzero().squeeze(1)
            scores = base.scores(outputs.teacher).amax(-1).flatten()[places]
            total = total + self._of_places(outputs, places, scores)
        return total

    def _of_places(self, outputs: Any, places: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        own, taught = (
            F.log_softmax(taken(x.box_logits, places).unflatten(-1, (4, -1)) / self.temperature, -1)
            for x in (outputs.student, outputs.teacher)
        )  # (P, 4, R)
        losses = self.temperature**2 * divergence(taught, own).mean(-1)
        return (losses * weights).sum() / share_of_sum(weights.sum())

    def valuable(self, base: Any, outputs: Any, boxes: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Whether each point of an image (A,) is in the valuable region of one of its objects (G, 4), and learns none."""
        is_positive = labels != base.num_classes  # (A,)
        if not len(boxes):
            return torch.zeros_like(is_positive)
        ious = pairwise_iou(at_least_float32(boxes), base.cells(outputs), eps=IOU_EPS)  # (G, A)
        is_own = is_positive & (ious.argmax(0) == torch.arange(len(ious), device=ious.device)[:, None])  # (G, A)
        least = ious.masked_fill(~is_own, torch.inf).amin(
            1, keepdim=True
        )  # (G, 1); infinite: nothing learns the object
        is_near = (ious >= self.region * least) & (ious < least) & least.isfinite()
        return is_near.any(0) & ~is_positive


class PPYOLOELogitsLoss:
    """PaddleDetection's terms on the outputs of PPYOLOE+: classes, boxes, distributions, and its KL of class scores.

    - cls: quality focal loss of the student's scores against the teacher's, at all points and classes;
    - iou: GIoU of the student's and the teacher's boxes; dfl: cross-entropy of the student's bins with the teacher's
      distribution, mean over the four sides; both at the points that learn an object, weighed by the assigned scores;
    - kl: at these points KL of softmax(teacher's scores / T) from softmax(student's scores / T), times T ** 2, mean over the
      classes.  The scores are probabilities, as there, and not logits: so the term is small and its weight large.
    The first three are divided by the sum of the assigned scores, kl by the number of points, all at least 1.

    Args:
        weight: of the whole; cls, iou, dfl, kl: weights of its parts.
        beta: of the quality focal loss; temperature: T.
    """

    name = "logits"
    needs_assignment = True

    def __init__(
        self, *, weight: float, cls: float, iou: float, dfl: float, kl: float, beta: float, temperature: float
    ):
        self.weight = weight
        self.weights = {"cls": cls, "iou": iou, "dfl": dfl, "kl": kl}
        self.beta = beta
        self.temperature = temperature

    def __call__(self, outputs: Any, targets: Targets, context: Any) -> torch.Tensor:
        terms = self.terms(outputs, context["base"], context["assignment"])
        return sum((self.weights[name] * term for name, term in terms.items()), start=outputs.resting)

    def terms(self, outputs: Any, base: Any, assignment: Assignment) -> dict[str, torch.Tensor]:
        """The parts before their weights."""
        own, taught = outputs.student, outputs.teacher
        normaliser = share_of_sum(assignment.scores.sum())
        own_scores, scores = base.scores(own), base.scores(taught)  # (B, A, K)
        places = positives_of(assignment, base.num_classes)
        weights = assignment.scores.flatten()[places]  # (P,)
        logits, taught_logits = taken(own.box_logits, places), taken(taught.box_logits, places)  # (P, 4R)
        points = base.points_in_strides(own)[places % own.class_logits.shape[1]]  # (P, 2)
        boxes = distances_to_boxes(points, base.distances(own, logits))
        taught_boxes = distances_to_boxes(points, base.distances(taught, taught_logits))
        log_bins = F.log_softmax(logits.unflatten(-1, (4, -1)), -1)  # (P, 4, R)
        bins = taught_logits.unflatten(-1, (4, -1)).softmax(-1)
        pair = (F.log_softmax(taken(x, places) / self.temperature, -1) for x in (scores, own_scores))  # (P, K)
        divergences = self.temperature**2 * divergence(*pair) / base.num_classes  # (P,)
        count = share_of_sum(weights.new_full((), len(places)))
        return {
            "cls": quality_focal_loss(own_scores, scores, beta=self.beta).sum() / normaliser,
            "iou": mean_giou_loss(boxes, taught_boxes, weights, normaliser),
            "dfl": (-(bins * log_bins).sum(-1).mean(-1) * weights).sum() / normaliser,
            "kl": divergences.sum() / count,
        }


class CrossKDLoss:
    """What the teacher's head makes of the student's own middle is to be what it makes of the teacher's.

    Source: arXiv 2306.11369, section 3.2: quality focal loss on the classes of all anchors, divided by the number of those
    that learn an object; GIoU of the boxes, weighed by the teacher's largest score, divided by the sum of these weights.

    Args:
        decode: outputs -> boxes (B, A, 4) in pixels, and scores: the teacher's decoder's.
        weight: of the whole; cls, box: weights of its parts; beta: of the quality focal loss.
    """

    name = "logits"

    def __init__(self, *, decode: Any, weight: float, cls: float, box: float, beta: float):
        self.decode = decode
        self.weight = weight
        self.cls, self.box, self.beta = cls, box, beta

    def __call__(self, outputs: Any, targets: Targets, context: Any) -> torch.Tensor:
        crossed, taught = outputs.cross, outputs.teacher
        if crossed.class_logits.shape != taught.class_logits.shape:
            raise ValueError(
                f"the student's points and classes have the shape {tuple(crossed.class_logits.shape)}, the teacher's "
                f"{tuple(taught.class_logits.shape)}"
            )
        own_scores, scores = (at_least_float32(x.class_logits).sigmoid() for x in (crossed, taught))  # (B, A, K)
        objects = context["base"].assign(outputs.student, targets).objects
        count = share_of_sum((objects > BACKGROUND).sum().to(scores.dtype))
        classes = quality_focal_loss(own_scores, scores, beta=self.beta).sum() / count
        weights = scores.amax(-1)  # (B, A)
        boxes = mean_giou_loss(self.decode(crossed)[0], self.decode(taught)[0], weights, share_of_sum(weights.sum()))
        return self.cls * classes + self.box * boxes


class SoftLabelsLoss:
    """The teacher's scores and boxes are the labels, at all points; the data's own are not looked at.

    The terms are CrossKD's (arXiv 2306.11369) on the student's own outputs: quality focal loss of the scores; GIoU of the
    boxes, weighed by the teacher's largest score of the point.  Both are divided by the sum of these scores, at least 1, as
    no assigner tells how many points learn an object.

    Args:
        decode: outputs -> boxes (B, A, 4) in pixels, and scores (B, A, K) in [0, 1]: the decoder's.
        weight: of the whole; cls, box: weights of its parts; beta: of the quality focal loss.
    """

    name = "logits"

    def __init__(self, *, decode: Any, weight: float, cls: float, box: float, beta: float):
        self.decode = decode
        self.weight = weight
        self.cls, self.box, self.beta = cls, box, beta

    def __call__(self, outputs: Any, targets: Targets, context: Any) -> torch.Tensor:
        (own_boxes, own_scores), (boxes, scores) = (self.decode(x) for x in (outputs.student, outputs.teacher))
        if own_scores.shape != scores.shape:
            raise ValueError(
                f"the student's points and classes have the shape {tuple(own_scores.shape)}, the teacher's "
                f"{tuple(scores.shape)}"
            )
        weights = scores.amax(-1)  # (B, A)
        total = share_of_sum(weights.sum())
        classes = quality_focal_loss(own_scores, scores, beta=self.beta).sum() / total
        return self.cls * classes + self.box * mean_giou_loss(own_boxes, boxes, weights, total)
