"""PicoDet's losses: where they differ from PPYOLOE's, and that of 2021 with its assigner, against loops and closed forms."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from public.losses import create_loss
from public.losses.assigners.sim_ota_quality import QualitySimOTAAssigner
from public.losses.box import giou, iou
from public.models.detectors.picodet import PicoDetOutputs
from public.points import cell_points
from public.protocols import Progress
from tests.helpers.numerics import assert_same_in_float64

NUM_CLASSES = 3
STRIDES, LEVEL_SIZES = (8, 16, 32, 64), ((12, 16), (6, 8), (3, 4), (2, 2))  # 96 x 128 pixels
NUM_POINTS = sum(height * width for height, width in LEVEL_SIZES)
FIRST = Progress(epoch=0, step=0, step_in_epoch=0, num_epochs=300, steps_per_epoch=1)
LAST = FIRST._replace(epoch=299)
SOME = {"boxes": torch.tensor([[4.0, 6.0, 60.0, 70.0], [30.0, 8.0, 120.0, 50.0]]), "labels": torch.tensor([2, 0])}
NONE = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}


def random_outputs(num_images: int, *, is_aligned: bool, seed: int = 0, bins: torch.Tensor | None = None):
    generator = torch.Generator().manual_seed(seed)

    def draw(channels: int) -> torch.Tensor:
        return torch.randn(num_images, NUM_POINTS, channels, generator=generator, dtype=torch.float64).requires_grad_()

    return PicoDetOutputs(
        class_logits=draw(NUM_CLASSES),
        align_logits=draw(1) if is_aligned else None,
        box_logits=draw(32),
        bins=torch.arange(8, dtype=torch.float64) if bins is None else bins,
        level_sizes=LEVEL_SIZES,
    )


# ---------------------------------------------------------------------------------------------- 2022


def test_a_positive_point_with_score_0_is_background_to_the_class_loss():
    """PPYOLOE gives it no weight; here it is weighed as every background: a prediction far away has an IoU of 0."""
    loss = create_loss("picodet_s", num_classes=NUM_CLASSES)
    scores = torch.tensor([[[0.5, 0.2, 0.1]]], dtype=torch.float64)
    is_label = torch.tensor([[[True, False, False]]])
    targets = torch.zeros(1, 1, 3, dtype=torch.float64)
    assert not loss.is_positive(is_label, targets).any()
    assert create_loss("ppyoloe_s", num_classes=NUM_CLASSES).is_positive(is_label, targets).any()
    assert loss.is_positive(is_label, targets + 0.3 * is_label).tolist() == is_label.tolist()
    assert scores.shape == targets.shape


@pytest.mark.parametrize("progress", [FIRST, LAST], ids=["static", "aligned"])
def test_bins_of_the_outputs_are_learnt_from(progress):
    """Other bins are other boxes: the scores to be learnt and the overlaps change."""
    loss = create_loss("picodet_s", num_classes=NUM_CLASSES)
    plain = random_outputs(1, is_aligned=True)
    other = plain._replace(bins=torch.tensor([0, 1, 2, 3.5, 4, 5.5, 6, 7], dtype=torch.float64))
    one, two = (loss(outputs, [SOME], progress) for outputs in (plain, other))
    assert one["loss_iou"] != two["loss_iou"]
    assert one["loss_cls"] != two["loss_cls"]


@pytest.mark.parametrize("name", ["picodet_s", "picodet_s_esnet"])
def test_logits_at_the_limit_of_half_precision(name):
    """Scores of exactly 0 and 1: losses and gradients stay finite."""
    loss = create_loss(name, num_classes=NUM_CLASSES)
    for limit in (6e4, -6e4):
        plain = random_outputs(2, is_aligned=name == "picodet_s")
        full = [
            torch.full_like(part, limit, dtype=torch.float16).requires_grad_() if part is not None else None
            for part in plain[:3]
        ]
        outputs = PicoDetOutputs(*full, plain.bins, LEVEL_SIZES)
        for progress in (FIRST, LAST):
            terms = loss(outputs, [SOME, NONE], progress)
            assert all(term.isfinite() and term.dtype == torch.float32 for term in terms.values())
            gradients = torch.autograd.grad(sum(terms.values()), [part for part in full if part is not None])
            assert all(gradient.isfinite().all() for gradient in gradients)


# ---------------------------------------------------------------------------------------------- 2021


def varifocal_cost(scores: np.ndarray, label: int, target: float) -> float:
    """Of one point, summed over its classes, as PaddleDetection's varifocal_loss computes it."""
    total = 0.0
    for k, p in enumerate(scores):
        t = target if k == label else 0.0
        weight = t if t > 0 else 0.75 * p**2
        total += weight * F.binary_cross_entropy(torch.tensor(p), torch.tensor(t, dtype=torch.float64)).item()
    return total


def slow_sim_ota(points, strides, class_scores, predicted, boxes, labels) -> dict[int, int]:
    """Positive point -> its object, point by point and object by object."""
    num_points, num_objects = len(points), len(boxes)
    inside = np.zeros((num_objects, num_points), dtype=bool)
    near = np.zeros_like(inside)
    for g, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        cx, cy = (x1 + x2) / 2, (y1 + y2) / 2
        for a, (x, y) in enumerate(points.tolist()):
            radius = 2.5 * strides[a].item()
            inside[g, a] = min(x - x1, y - y1, x2 - x, y2 - y) > 0
            near[g, a] = min(x - cx + radius, y - cy + radius, cx + radius - x, cy + radius - y) > 0
    candidates = [a for a in range(num_points) if (inside[:, a] | near[:, a]).any()]
    cost, overlap = {}, {}
    for g in range(num_objects):
        for a in candidates:
            overlap[g, a] = iou(predicted[a], boxes[g], eps=1e-9).item()
            one = varifocal_cost(class_scores[a].numpy(), int(labels[g]), overlap[g, a])
            one += 6 * (1 - giou(predicted[a], boxes[g], eps=1e-9).item())
            cost[g, a] = one + (0 if inside[g, a] and near[g, a] else 1e8)
    claims: dict[int, list[int]] = {}
    for g in range(num_objects):
        best = sorted((overlap[g, a] for a in candidates), reverse=True)[:10]
        count = max(int(sum(best)), 1)
        for a in sorted(candidates, key=lambda a: cost[g, a])[:count]:
            claims.setdefault(a, []).append(g)
    return {
        a: owners[0] if len(owners) == 1 else min(range(num_objects), key=lambda g: cost[g, a])
        for a, owners in claims.items()
    }


@pytest.mark.parametrize("seed", range(6))
def test_sim_ota_of_quality_equals_a_loop(seed):
    rng = np.random.default_rng(seed)
    points, strides = (x.double() for x in cell_points(LEVEL_SIZES, STRIDES, offset=0.5, device=torch.device("cpu")))
    corners = rng.uniform(-10, 90, (6, 2))
    boxes = torch.from_numpy(np.concatenate([corners, corners + rng.uniform(8, 70, (6, 2))], axis=1))
    labels = torch.from_numpy(rng.integers(0, NUM_CLASSES, 6))
    owner = rng.integers(0, 6, NUM_POINTS)
    predicted = boxes[owner] + torch.from_numpy(rng.normal(0, 6, (NUM_POINTS, 4)))
    class_scores = torch.from_numpy(rng.uniform(0.01, 0.9, (NUM_POINTS, NUM_CLASSES)))
    assigner = QualitySimOTAAssigner(
        centre_radius=2.5, top_k=10, iou_weight=6.0, varifocal_alpha=0.75, varifocal_gamma=2.0
    )
    found = assigner(
        points=points, strides=strides, class_scores=class_scores, predicted_boxes=predicted, boxes=boxes, labels=labels
    )
    expected = slow_sim_ota(points, strides, class_scores, predicted, boxes, labels)
    positives = (found.labels != NUM_CLASSES).nonzero().squeeze(1).tolist()
    assert positives == sorted(expected)
    assert len(positives) > 6
    for a, g in expected.items():
        assert found.labels[a] == labels[g]
        assert torch.equal(found.boxes[a], boxes[g])
        assert found.scores[a].item() == pytest.approx(iou(predicted[a], boxes[g], eps=1e-9).item())


def test_terms_of_2021_written_out():
    """Classes by the number of positive points, boxes by the best score of each: point by point."""
    loss = create_loss("picodet_s_esnet", num_classes=NUM_CLASSES)
    outputs = random_outputs(2, is_aligned=False, seed=3)
    targets = [SOME, {"boxes": SOME["boxes"][:1], "labels": SOME["labels"][:1]}]
    targets = [{**target, "boxes": target["boxes"].double()} for target in targets]
    assignment = loss.assign(outputs, targets, FIRST)
    points, strides = cell_points(LEVEL_SIZES, STRIDES, offset=0.5, device=torch.device("cpu"))
    scores = outputs.class_logits.sigmoid()
    class_sum = iou_sum = dfl_sum = total = count = 0.0
    for image in range(2):
        for a in range(NUM_POINTS):
            label = int(assignment.labels[image, a])
            target = float(assignment.scores[image, a]) if label < NUM_CLASSES else 0.0
            class_sum += varifocal_cost(scores[image, a].detach().numpy(), label, target)
            if label == NUM_CLASSES:
                continue
            count += 1
            weight = scores[image, a].max().item()
            total += weight
            sides = outputs.box_logits[image, a].reshape(4, 8)
            distances = (sides.softmax(1) @ outputs.bins) * strides[a]
            box = torch.cat([points[a] - distances[:2], points[a] + distances[2:]])
            true = assignment.boxes[image, a]
            iou_sum += weight * (1 - giou(box, true, eps=1e-10).item())
            wanted = torch.cat([points[a] - true[:2], true[2:] - points[a]]) / strides[a]
            for side, distance in zip(sides.log_softmax(1), wanted.clamp(0, 6.9).tolist()):
                below = int(distance)
                share = distance - below
                dfl_sum -= weight * ((1 - share) * side[below] + share * side[below + 1]).item() / 4
    terms = loss(outputs, targets, FIRST)
    assert count >= 3
    assert_same_in_float64(terms["loss_cls"], torch.tensor(class_sum / count, dtype=torch.float64), bound=1e-7)
    for name, weight, expected in (("loss_iou", 2.0, iou_sum), ("loss_dfl", 0.25, dfl_sum)):
        assert terms[name].item() == pytest.approx(weight * expected / max(total, 1.0), rel=1e-7)
