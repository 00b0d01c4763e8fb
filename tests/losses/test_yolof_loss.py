"""YOLOF's matching and loss: a slow second implementation, closed forms, batches without objects, extreme outputs."""

import math

import pytest
import torch
from torch.nn import functional as F
from torchvision.ops import box_iou, generalized_box_iou

from public.anchors import decode_boxes
from public.decoders import create_decoder
from public.losses import create_loss
from public.losses import yolof as loss_file
from public.losses.assigners.uniform import UniformAssigner, last_match, nearest
from public.models import create_model
from public.models.detectors.yolof import YOLOFOutputs, with_objectness
from public.protocols import Progress
from tests.helpers.numerics import assert_same_in_float64

K = 3
START = Progress(epoch=0, step=0, step_in_epoch=0, num_epochs=12, steps_per_epoch=1)
SIZES = ((3, 4),)  # of the map: images of 96 x 128
NUM_ANCHORS = 60
SOME = {
    "boxes": torch.tensor([[4.0, 6.0, 70.0, 80.0], [20.5, 8.0, 62.0, 50.0], [90.0, 10.0, 120.0, 44.0]]),
    "labels": torch.tensor([2, 0, 1]),
}
NONE = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}


def make_loss(**changes):
    return create_loss("yolof", num_classes=K, **changes)


def loss_off_the_grid(**changes):
    """With anchors moved a little at random: on a grid many L1 distances are equal, and rounding chooses among them."""
    loss = make_loss(**changes)
    loss.make_anchors = lambda sizes, device: moved_anchors()
    return loss


def moved_anchors() -> torch.Tensor:
    centre = torch.rand(NUM_ANCHORS, 2, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    return slow_anchors() + centre.repeat(1, 2)


def random_outputs(num_images: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> YOLOFOutputs:
    """Predictions near their anchors, those of 128 pixels also near the large object of `random_target`."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(num_images, NUM_ANCHORS, K, generator=generator, dtype=torch.float64).to(dtype)
    deltas = 0.25 * torch.randn(num_images, NUM_ANCHORS, 4, generator=generator, dtype=torch.float64)
    centres = (slow_anchors()[2::5, :2] + slow_anchors()[2::5, 2:]) / 2
    deltas[:, 2::5] = 0.1 * deltas[:, 2::5] + F.pad((torch.tensor([40.0, 30.0]) - centres) / 128, (0, 2))
    deltas = deltas.to(dtype)
    return YOLOFOutputs(logits.requires_grad_(), deltas.requires_grad_(), SIZES, (96, 128))


def random_target(seed: int, num_objects: int) -> dict[str, torch.Tensor]:
    """The first is large, with many predictions that overlap it well."""
    generator = torch.Generator().manual_seed(100 + seed)
    corners = torch.rand(num_objects, 2, generator=generator, dtype=torch.float64) * torch.tensor([90.0, 60.0])
    sides = 6 + torch.rand(num_objects, 2, generator=generator, dtype=torch.float64) ** 2 * 90
    boxes = torch.cat([corners, corners + sides], dim=1)
    boxes[0] = torch.tensor([-20.0, -30.0, 100.0, 90.0])
    return {
        "boxes": boxes,
        "labels": torch.randint(0, K, (num_objects,), generator=generator),
    }


# --- the second implementation ----------------------------------------------------------------------------------------


def slow_anchors() -> torch.Tensor:
    boxes = []
    for row in range(SIZES[0][0]):
        for column in range(SIZES[0][1]):
            for side in (32, 64, 128, 256, 512):
                x, y, half = column * 32, row * 32, side / 2
                boxes.append([x - half, y - half, x + half, y + half])
    return torch.tensor(boxes, dtype=torch.float64)


def distance(one: list[float], other: list[float]) -> float:
    """L1 of centre and sides."""
    centre = abs(one[0] + one[2] - other[0] - other[2]) / 2 + abs(one[1] + one[3] - other[1] - other[3]) / 2
    return centre + abs(one[2] - one[0] - other[2] + other[0]) + abs(one[3] - one[1] - other[3] + other[1])


def slow_terms(outputs: YOLOFOutputs, targets: list[dict], *, empty_image_counts: bool) -> tuple[dict, list]:
    """The two terms, and for each image anchor -> object, or -1 for an ignored one; by loops over pairs."""
    anchors = moved_anchors()
    class_sum, box_sum, count, owners = 0.0, 0.0, 0, []
    for logits, deltas, target in zip(outputs.class_logits, outputs.box_deltas, targets):
        boxes = slow_boxes(anchors, deltas)
        owner = {}
        if len(target["boxes"]):
            for anchor, best in enumerate(box_iou(boxes.detach(), target["boxes"]).amax(1).tolist()):
                if best > 0.7:
                    owner[anchor] = -1
            ranked = [
                [sorted(range(len(rows)), key=lambda i: distance(rows[i], box))[:4] for box in target["boxes"].tolist()]
                for rows in (boxes.tolist(), anchors.tolist())
            ]
            for rank in range(4):
                for source in ranked:
                    for g, order in enumerate(source):
                        anchor, box = order[rank], target["boxes"][g : g + 1]
                        counts = box_iou(anchors[anchor : anchor + 1], box).item() >= 0.15
                        owner[anchor] = g if counts else -1
                        if counts:
                            box_sum = box_sum + 1 - generalized_box_iou(boxes[anchor : anchor + 1], box).squeeze()
        for anchor, row in enumerate(logits):
            g = owner.get(anchor)
            if g == -1:
                continue
            truth = F.one_hot(target["labels"][g], K).double() if g is not None else torch.zeros(K).double()
            p = row.sigmoid()
            wrong = truth * (1 - p) + (1 - truth) * p
            weight = (truth * 0.25 + (1 - truth) * 0.75) * wrong**2
            class_sum = class_sum + (weight * F.binary_cross_entropy(p, truth, reduction="none")).sum()
        positives = sum(g >= 0 for g in owner.values())
        count += max(positives, 1) if empty_image_counts else positives
        owners.append(owner)
    return {"loss_cls": class_sum / max(count, 1), "loss_box": box_sum / max(count, 1)}, owners


def slow_boxes(anchors: torch.Tensor, deltas: torch.Tensor) -> torch.Tensor:
    centre, sides = (anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2:] - anchors[:, :2]
    centre = centre + (deltas[:, :2] * sides).clamp(-32, 32)
    sides = sides * deltas[:, 2:].clamp(max=math.log(1000 / 16)).exp()
    return torch.cat([centre - sides / 2, centre + sides / 2], dim=1)


@pytest.mark.numeric
@pytest.mark.parametrize("seed", range(6))
def test_terms_matches_and_gradients_equal_the_loops(seed):
    """Three images a seed: few objects, many, none; in float64."""
    outputs, loss = random_outputs(3, seed), loss_off_the_grid(empty_image_counts=seed % 2 == 0)
    targets = [random_target(seed, 2 + seed), random_target(seed + 50, 20), {**NONE, "boxes": NONE["boxes"].double()}]
    expected, owners = slow_terms(outputs, targets, empty_image_counts=seed % 2 == 0)
    for assignment, owner, target in zip(loss.assign(outputs, targets), owners, targets):
        labels = [target["labels"][owner[a]].item() if owner.get(a, -1) >= 0 else K for a in range(NUM_ANCHORS)]
        assert assignment.labels.tolist() == labels
        assert assignment.is_counted.tolist() == [owner.get(a, 0) >= 0 for a in range(NUM_ANCHORS)]
    found = loss(outputs, targets, START)
    inputs = (outputs.class_logits, outputs.box_deltas)
    for name, term in expected.items():
        assert_same_in_float64(found[name], term.detach(), what=name)
    for ours, theirs in zip(
        torch.autograd.grad(sum(found.values()), inputs), torch.autograd.grad(sum(expected.values()), inputs)
    ):
        assert_same_in_float64(ours, theirs)


def test_the_scenes_hold_what_the_comparison_is_about():
    """Anchors matched twice, matches that are ignored, and predictions that are too good for background."""
    loss, outputs, target = loss_off_the_grid(), random_outputs(1, 5), random_target(5, 7)
    (assignment,) = loss.assign(outputs, [target])
    assert len(set(assignment.anchors.tolist())) < len(assignment.anchors)
    assert 0 < assignment.is_positive.sum() < len(assignment.is_positive)
    matched = set(assignment.anchors.tolist())
    ignored = (~assignment.is_counted).nonzero().squeeze(1).tolist()
    assert set(ignored) & matched
    assert set(ignored) - matched


def test_anchors_lie_at_the_corners_of_the_cells():
    assert torch.equal(make_loss().make_anchors(SIZES, device=torch.device("cpu")).double(), slow_anchors())


def test_the_last_match_counts():
    place, is_matched = last_match(torch.tensor([4, 1, 4, 2, 1, 4]), 6)
    assert is_matched.tolist() == [False, True, True, False, True, False]
    assert place[is_matched].tolist() == [4, 3, 5]


def test_nearest_is_by_centre_and_sides():
    """The same centre with other sides may be farther than another centre."""
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    candidates = torch.tensor([[-10.0, -10.0, 20.0, 20.0], [3.0, 0.0, 13.0, 10.0], [0.0, 1.0, 10.0, 11.0], [50.0] * 4])
    assert nearest(candidates, boxes, 3).tolist() == [[2], [1], [0]]
    assert nearest(candidates[:2], boxes, 3).tolist() == [[1], [0]]


def test_fewer_anchors_than_matches():
    """A map of one cell with three anchors: all of them are matched, twice."""
    anchors = torch.tensor([[0.0, 0.0, 32.0, 32.0], [0.0, 0.0, 64.0, 64.0], [0.0, 0.0, 8.0, 8.0]])
    assigner = UniformAssigner(num_matches=4, min_positive_iou=0.15, max_negative_iou=0.7)
    given = {"boxes": torch.tensor([[0.0, 0.0, 32.0, 32.0]]), "labels": torch.tensor([1]), "num_classes": K}
    assignment = assigner(anchors=anchors, predicted_boxes=anchors, **given)
    assert assignment.labels.tolist() == [1, 1, K]  # 8 x 8 covers a sixteenth
    assert assignment.is_counted.tolist() == [True, True, False]
    assert len(assignment.anchors) == 6


# --- closed forms -----------------------------------------------------------------------------------------------------


def test_joint_logit_is_the_product_of_two_probabilities():
    generator = torch.Generator().manual_seed(0)
    one, other = 6 * torch.randn(2, 500, generator=generator, dtype=torch.float64)
    assert_same_in_float64(with_objectness(one, other).sigmoid(), one.sigmoid() * other.sigmoid())


def test_joint_logit_is_finite_for_any_logits():
    """The original's exponential overflows from 89 on, and its gradient is NaN; below, both are the same."""
    values = torch.tensor([-6e4, -100.0, -30.0, 0.0, 30.0, 80.0, 100.0, 6e4])
    one, other = torch.meshgrid(values, values, indexing="ij")
    one, other = one.clone().requires_grad_(), other.clone().requires_grad_()
    joint = with_objectness(one, other)
    joint.sum().backward()
    for value in (joint, one.grad, other.grad):
        assert value.isfinite().all()
    original = one + other - torch.log(1 + one.exp().clamp(max=1e8) + other.exp().clamp(max=1e8))
    torch.testing.assert_close(joint, original, rtol=1e-5, atol=1e-6)


def test_a_centre_moves_32_pixels_at_most():
    anchor = torch.tensor([[0.0, 0.0, 512.0, 64.0]])
    deltas = torch.tensor([[1.0, -1.0, 9.0, -9.0]])
    box = decode_boxes(anchor, deltas, std=(1.0,) * 4, max_shift=32.0)
    width, height = 512 * 1000 / 16, 64 * math.exp(-9)  # the log of a side ends above only
    expected = [288 - width / 2, 0 - height / 2, 288 + width / 2, height / 2]
    torch.testing.assert_close(box, torch.tensor([expected]))


def test_boxes_beyond_the_border_are_left_out():
    """Two anchors of the highest scores: one lies outside the image, the other reaches into it."""
    outputs = random_outputs(1, dtype=torch.float32)
    with torch.no_grad():
        outputs.class_logits.fill_(-9.0)
        outputs.box_deltas.zero_()
        outputs.class_logits[0, [0, 7], 1] = torch.tensor([3.0, 2.0])  # at (0, 0), 32 pixels; at (32, 0), 128
        outputs.box_deltas[0, 0, :2] = -1.0
    (found,) = create_decoder("yolof", num_classes=K)(outputs)
    assert found["anchors"].tolist() == [7]
    assert found["boxes"].tolist() == [[0.0, 0.0, 96.0, 64.0]]


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([SOME], "outputs of 2 images but 1 targets"),
        (
            [SOME, {**SOME, "labels": torch.tensor([0, 3, 1])}],
            "labels from 0 to 3, but the model has 3 classes, 0 to 2",
        ),
    ],
)
def test_wrong_targets_are_named(targets, message):
    with pytest.raises(ValueError, match=message):
        make_loss()(random_outputs(2), targets, START)


# --- finite and connected ---------------------------------------------------------------------------------------------


def small_model():
    """A YOLOF on a small backbone, without any normalisation at rest."""
    torch.manual_seed(0)
    return create_model("yolof", num_classes=K, backbone="shufflenetv2_x0_5", backbone_batchnorm="trained",
                        encoder_channels=32, encoder_block_channels=8)  # fmt: skip


@pytest.mark.parametrize("targets", [[SOME, NONE], [NONE, NONE]], ids=["one image empty", "all images empty"])
def test_every_parameter_gets_a_finite_gradient(targets):
    model = small_model().train()
    terms = make_loss()(model(torch.randn(2, 3, 96, 128)), targets, START)
    assert all(term.isfinite() and term.dtype == torch.float32 for term in terms.values())
    sum(terms.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("limit", [6e4, -6e4])
def test_outputs_at_the_limit_of_half_precision(limit):
    for fill in (lambda x: torch.full_like(x, limit), lambda x: (torch.rand(x.shape) - 0.5) * 12e4):
        plain = random_outputs(2)
        logits, deltas = fill(plain.class_logits).half(), fill(plain.box_deltas).half()
        outputs = YOLOFOutputs(logits.requires_grad_(), deltas.requires_grad_(), SIZES, (96, 128))
        terms = make_loss()(outputs, [SOME, SOME], START)
        assert all(term.isfinite() and term.dtype == torch.float32 for term in terms.values())
        sum(terms.values()).backward()
        assert logits.grad.isfinite().all()
        assert deltas.grad.isfinite().all()


def test_outputs_that_are_not_numbers_show_in_the_terms():
    outputs = random_outputs(2, dtype=torch.float32)
    with torch.no_grad():
        outputs.class_logits[1, 3, 0] = float("nan")
        outputs.box_deltas[1] = float("nan")
    terms = make_loss()(outputs, [SOME, SOME], START)
    assert terms["loss_cls"].isnan()
    assert terms["loss_box"].isnan()


def test_arithmetic_is_float32_under_autocast():
    outputs = random_outputs(2, dtype=torch.float32)
    expected = make_loss()(outputs, [SOME, NONE], START)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = make_loss()(outputs, [SOME, NONE], START)
        logits = small_model()(torch.randn(1, 3, 64, 64)).class_logits
    assert logits.dtype == torch.float32
    assert all(torch.equal(found[name], term) for name, term in expected.items())


@pytest.mark.parametrize("empty_image_counts", [False, True])
@pytest.mark.parametrize("targets", [[SOME, NONE, NONE, NONE], [NONE] * 4], ids=["one process empty", "all empty"])
def test_the_mean_of_two_processes_is_the_whole_batch(monkeypatch, targets, empty_image_counts):
    """Each process divides by its share of the global number of positives; here its sum is told to it."""
    loss, outputs = make_loss(empty_image_counts=empty_image_counts), random_outputs(4)
    whole = loss(outputs, targets, START)
    counts = []
    monkeypatch.setattr(loss_file, "share_of_sum", lambda count: counts.append(count) or count.clamp(min=1))
    halves = [YOLOFOutputs(*(x[part] for x in outputs[:2]), *outputs[2:]) for part in (slice(2), slice(2, 4))]
    for half, part in zip(halves, (slice(2), slice(2, 4))):
        loss(half, targets[part], START)
    share = sum(counts).clamp(min=1) / 2
    monkeypatch.setattr(loss_file, "share_of_sum", lambda count: share)
    parts = [loss(half, targets[part], START) for half, part in zip(halves, (slice(2), slice(2, 4)))]
    for name, term in whole.items():
        assert_same_in_float64((parts[0][name] + parts[1][name]).detach() / 2, term.detach())
