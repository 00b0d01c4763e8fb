"""FCOS's assigner and loss: second implementations, closed forms, batches without objects, several processes, extremes."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from public.families import published
from public.losses import create_loss
from public.losses.assigners.size_ranges import SizeRangeAssigner
from public.losses.fcos import centreness_of
from public.models import create_model
from public.models.detectors.fcos import FCOSOutputs
from public.parallel import collectives
from public.points import MAX_LOG_DISTANCE, cell_points
from public.protocols import Progress
from tests.helpers.numerics import SAME, assert_same_in_float64

NUM_CLASSES = 3
START = Progress(epoch=0, step=0, step_in_epoch=0, num_epochs=12, steps_per_epoch=1)
STRIDES = (8, 16, 32, 64, 128)
LEVEL_SIZES = ((8, 12), (4, 6), (2, 3), (1, 2), (1, 1))  # 64 x 96 pixels
NUM_POINTS = 129
NAMES = pytest.mark.parametrize("name", ["fcos", "fcos_r50_torchvision", "fcos_r50_mmdet"])

SOME = {
    "boxes": torch.tensor([[4.0, 6.0, 40.0, 50.0], [20.0, 8.0, 92.0, 30.0]]),
    "labels": torch.tensor([2, 0]),
}
NONE = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}


def random_outputs(num_images: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> FCOSOutputs:
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(num_images, NUM_POINTS, *shape, generator=generator).to(dtype).requires_grad_()

    return FCOSOutputs(randn(NUM_CLASSES), randn(4), randn(), LEVEL_SIZES, (64, 96))


def small_loss(name: str = "fcos", **changes):
    return create_loss(name, num_classes=NUM_CLASSES, **changes)


def small_model():
    """A network of few channels with larger initial values in its head, so that no gradient vanishes in rounding."""
    torch.manual_seed(0)
    model = create_model(
        "fcos", num_classes=NUM_CLASSES, backbone="lcnet_035", neck_channels=16, head_convs=1, head_groups=4
    )
    for conv in (model.head.pred_cls, model.head.pred_reg, model.head.pred_centreness):
        torch.nn.init.normal_(conv.weight, std=0.1)
    return model


def images(num_images: int) -> torch.Tensor:
    return torch.randn(num_images, 3, 64, 96, generator=torch.Generator().manual_seed(1))


# --- the assigner -----------------------------------------------------------------------------------------------------


def slow_objects(points, strides, level_of, boxes, limits, ends, radius, rounding) -> list[int]:
    """What each point learns, point by point, from the papers."""
    lowest, highest = (0.0, *limits), (*limits, math.inf)
    chosen = []
    for (x, y), stride, level in zip(points, strides, level_of):
        best, best_area = -1, math.inf
        for number, (x1, y1, x2, y2) in enumerate(boxes):
            distances = (x - x1, y - y1, x2 - x, y2 - y)
            if min(distances) <= 0:
                continue
            low, high, farthest = lowest[level], highest[level], max(distances)
            if not (low <= farthest <= high if ends == "closed" else low < farthest < high):
                continue
            away = max(abs(x - (x1 + x2) / 2), abs(y - (y1 + y2) / 2))
            if radius is not None and away >= radius * stride:
                continue
            area = (x2 - x1) * (y2 - y1)
            if rounding is not None:
                area = round(area / rounding) * rounding
            if area < best_area:
                best, best_area = number, area
        chosen.append(best)
    return chosen


def crowded_boxes(seed: int, num_objects: int) -> torch.Tensor:
    """Boxes of whole pixels of a 256-pixel image, small and large, many of equal area and with sides on the limits."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.randint(-20, 220, (num_objects, 2), generator=generator)
    sides = torch.tensor([0, 8, 16, 32, 64, 100, 128, 200, 256])[
        torch.randint(0, 9, (num_objects, 2), generator=generator)
    ]
    return torch.cat([corners, corners + sides], dim=1).double()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ends", ["open", "closed"])
@pytest.mark.parametrize(("offset", "radius", "rounding"), [(0.5, None, None), (0.5, 1.5, 8.0), (0.0, 1.5, None)])
def test_the_assigner_equals_the_loop(seed, ends, offset, radius, rounding):
    level_sizes = tuple((256 // stride, 256 // stride) for stride in STRIDES)
    points, strides = cell_points(level_sizes, STRIDES, offset=offset, device=torch.device("cpu"))
    boxes = crowded_boxes(seed, 25)
    limits = (32.0, 64.0, 100.0, 128.0)
    assigner = SizeRangeAssigner(limits=limits, ends=ends, centre_radius=radius, area_rounding=rounding)
    found = assigner(points=points.double(), strides=strides, level_sizes=level_sizes, boxes=boxes)
    level_of = [level for level, (height, width) in enumerate(level_sizes) for _ in range(height * width)]
    expected = slow_objects(
        points.tolist(), strides[:, 0].tolist(), level_of, boxes.tolist(), limits, ends, radius, rounding
    )
    assert found.tolist() == expected
    assert {-1, *range(25)} - set(expected) != set(), "some objects have no point"
    assert len(set(expected)) > 5


def test_of_equal_areas_the_first_object_wins():
    """Whatever the order of the objects otherwise; and areas that rounding makes equal are equal."""
    points, strides = torch.tensor([[50.0, 50.0]]), torch.tensor([[8.0]])
    square, tall, smaller = [40.0, 40, 60, 60], [45.0, 30, 55, 70], [41.0, 40, 60, 60]
    for order in itertools.permutations([square, tall]):
        assigner = SizeRangeAssigner(limits=(), ends="open", centre_radius=None, area_rounding=None)
        boxes = torch.tensor([[0.0, 0, 100, 100], *order])
        assert assigner(points=points, strides=strides, level_sizes=((1, 1),), boxes=boxes).tolist() == [1]
    for rounding, winner in ((None, 1), (8.0, 1), (64.0, 0)):  # 400 and 380
        assigner = SizeRangeAssigner(limits=(), ends="open", centre_radius=None, area_rounding=rounding)
        boxes = torch.tensor([square, smaller])
        assert assigner(points=points, strides=strides, level_sizes=((1, 1),), boxes=boxes).tolist() == [winner]


def test_a_box_without_area_claims_nothing():
    loss = small_loss()
    flat = {"boxes": torch.tensor([[10.0, 4.0, 10.0, 40.0], [12.0, 12.0, 12.0, 12.0]]), "labels": torch.tensor([1, 1])}
    assert (loss.assign(random_outputs(1), [flat]).objects == -1).all()


def test_levels_without_ranges_are_an_error():
    with pytest.raises(ValueError, match="2 levels, but ranges for 1"):
        SizeRangeAssigner(limits=(), ends="open", centre_radius=None, area_rounding=None)(
            points=torch.zeros(2, 2), strides=torch.ones(2, 1), level_sizes=((1, 1), (1, 1)), boxes=torch.zeros(0, 4)
        )
    with pytest.raises(
        ValueError, match=r"range_limits are .* for 5 levels, but .* make 4, of strides \(8, 16, 32, 64\)"
    ):
        replace(published("fcos"), num_extra_levels=1)
    with pytest.raises(ValueError, match=r"FCOS\.neck_channels = 100 is no multiple of FCOS\.head_groups = 32"):
        replace(published("fcos"), neck_channels=100)


# --- terms against closed forms ---------------------------------------------------------------------------------------


def test_centreness_is_that_of_the_paper():
    distances = torch.tensor([[1.0, 2.0, 4.0, 2.0], [3.0, 3.0, 3.0, 3.0], [9.0, 1.0, 1.0, 9.0]])
    torch.testing.assert_close(centreness_of(distances), torch.tensor([0.5, 1.0, 1 / 9]))


def overlap_of(box: list[float], other: list[float]) -> tuple[float, float]:
    """IoU and GIoU."""
    width, height = (min(box[2 + i], other[2 + i]) - max(box[i], other[i]) for i in (0, 1))
    common = max(width, 0.0) * max(height, 0.0)
    union = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)) - common
    frame = math.prod(max(box[2 + i], other[2 + i]) - min(box[i], other[i]) for i in (0, 1))
    return common / union, common / union - (frame - union) / frame


@NAMES
def test_terms_equal_the_loop(name):
    """Point by point and class by class, in float64."""
    settings = replace(published(name), num_classes=NUM_CLASSES)
    outputs, loss = random_outputs(2, dtype=torch.float64), settings.build_loss()
    with torch.no_grad():
        outputs.raw_distances.add_(2.0)
    targets = [SOME, {"boxes": torch.tensor([[3.0, 3.0, 90.0, 61.0]]), "labels": torch.tensor([1])}]
    points, strides = loss.coding.points(outputs)
    objects = loss.assign(outputs, targets).objects
    cls = box = centreness = weights = 0.0
    for image, target in enumerate(targets):
        for point, number in enumerate(objects[image].tolist()):
            label = target["labels"][number].item() if number >= 0 else -1
            for k in range(NUM_CLASSES):
                p = outputs.class_logits[image, point, k].sigmoid().item()
                cls -= 0.25 * (1 - p) ** 2 * math.log(p) if k == label else 0.75 * p**2 * math.log(1 - p)
            if number < 0:
                continue
            (x, y), true = points[point].tolist(), target["boxes"][number].tolist()
            left, top, right, bottom = x - true[0], y - true[1], true[2] - x, true[3] - y
            ratio = min(left, right) / max(left, right) * min(top, bottom) / max(top, bottom)
            raw, stride = outputs.raw_distances[image, point].tolist(), strides[point].item()
            reach = [math.exp(d) if settings.raw_distances == "exp_pixels" else max(d, 0) * stride for d in raw]
            iou, giou = overlap_of([x - reach[0], y - reach[1], x + reach[2], y + reach[3]], true)
            one = 1 - giou if settings.box_loss == "giou" else -math.log(max(iou, 1e-6))
            box += one * (math.sqrt(ratio) if settings.box_weighted_by_centreness else 1)
            weights += math.sqrt(ratio) if settings.box_normaliser == "centreness" else 1
            p = outputs.centreness_logits[image, point].sigmoid().item()
            centreness -= math.sqrt(ratio) * math.log(p) + (1 - math.sqrt(ratio)) * math.log(1 - p)
    count = (objects >= 0).sum().item()
    assert count > 5
    found = loss(outputs, targets, START)
    assert list(found) == ["loss_cls", "loss_box", "loss_centreness"]
    expected = [cls / count, box / weights, centreness / count]
    # the true boxes and the points are float32, and the originals' epsilons move a quotient of areas by 1e-8
    torch.testing.assert_close(
        torch.stack([*found.values()]), torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=0
    )


@NAMES
def test_terms_are_weighted_once(name):
    outputs = random_outputs(2)
    plain = small_loss(name)(outputs, [SOME, NONE], START)
    weights = {"loss_weight_cls": 3.0, "loss_weight_box": 0.5, "loss_weight_centreness": 2.0}
    terms = small_loss(name, **weights)(outputs, [SOME, NONE], START)
    for term, weight in zip(plain, weights.values(), strict=True):
        assert terms[term].item() == pytest.approx(weight * plain[term].item())
        assert plain[term] > 0


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([SOME], "outputs of 2 images but 1 targets"),
        ([SOME, {**SOME, "labels": torch.tensor([0, 3])}], "labels from 0 to 3, but the model has 3 classes, 0 to 2"),
    ],
)
def test_wrong_targets_are_named(targets, message):
    with pytest.raises(ValueError, match=message):
        small_loss()(random_outputs(2), targets, START)


# --- finite and connected ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("targets", [[SOME, NONE], [NONE, NONE]], ids=["one image empty", "all images empty"])
def test_every_parameter_gets_a_finite_gradient(targets):
    model = small_model().train()
    terms = small_loss()(model(images(2)), targets, START)
    assert all(term.isfinite() for term in terms.values())
    sum(terms.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert model.get_submodule(model.input_layer).weight.grad.count_nonzero() > 0


@NAMES
@pytest.mark.parametrize("limit", [6e4, -6e4])
def test_outputs_at_the_limit_of_half_precision(name, limit):
    """All logits at one limit, and all at random between both; the loss and its gradient stay finite."""
    generator = torch.Generator().manual_seed(0)
    for fill in (
        lambda x: torch.full_like(x, limit),
        lambda x: (torch.rand(x.shape, generator=generator) - 0.5) * 12e4,
    ):
        outputs = random_outputs(2)
        halves = [fill(x.detach()).half().requires_grad_() for x in outputs[:3]]
        terms = small_loss(name)(FCOSOutputs(*halves, LEVEL_SIZES, (64, 96)), [SOME, SOME], START)
        assert all(term.isfinite() and term.dtype == torch.float32 for term in terms.values())
        sum(terms.values()).backward()
        assert all(x.grad.isfinite().all() for x in halves)


def test_the_scales_lift_half_precision_to_float32():
    """A raw distance near the limit times a factor above 1 is no infinity."""
    model = small_model()
    with torch.no_grad():
        model.head.scales[0].fill_(4.0)
        model.head.pred_reg.bias.fill_(3e4)
    outputs = model.head([torch.zeros(1, 16, 2, 2)], (16, 16))
    assert outputs.raw_distances.max() > 1e5
    with torch.autocast("cpu", dtype=torch.bfloat16):
        halves = model.head([torch.zeros(1, 16, 2, 2)], (16, 16))
    assert halves.raw_distances.dtype == torch.float32
    assert halves.class_logits.dtype == torch.bfloat16


def test_exponentials_end_before_areas_overflow():
    loss = small_loss("fcos_r50_mmdet")
    raw = torch.tensor([[MAX_LOG_DISTANCE] * 4, [1e30] * 4, [-1e30] * 4])
    boxes = loss.coding.boxes(torch.zeros(3, 2), torch.ones(3, 1), raw)
    assert torch.equal(boxes[0], boxes[1])
    assert boxes[0, 2] > 1e6
    assert torch.equal(boxes[2], torch.zeros(4))


@NAMES
def test_outputs_that_are_not_numbers_show_in_the_terms(name):
    """The loop reports such a term by name."""
    outputs = random_outputs(2)
    with torch.no_grad():
        for values in outputs[:3]:
            values[1] = float("nan")
    terms = small_loss(name)(outputs, [SOME, SOME], START)
    assert all(term.isnan() for term in terms.values())


@NAMES
def test_arithmetic_is_float32_under_autocast(name):
    outputs = random_outputs(2)
    expected = small_loss(name)(outputs, [SOME, NONE], START)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = small_loss(name)(outputs, [SOME, NONE], START)
    for term, value in expected.items():
        assert found[term].dtype == torch.float32
        assert torch.equal(found[term], value), term


def test_deterministic_operations_only():
    """Two passes give the same bits, and torch knows none of the operations as one without a deterministic form."""
    model = small_model().train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    gradients = []
    torch.use_deterministic_algorithms(True)
    try:
        for _ in range(2):
            model.load_state_dict(state)
            model.zero_grad()
            sum(small_loss()(model(images(2)), [SOME, NONE], START).values()).backward()
            gradients.append([parameter.grad for parameter in model.parameters()])
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(first, second) for first, second in zip(*gradients))


# --- two processes ----------------------------------------------------------------------------------------------------

SPLITS = {"one process empty": [SOME, SOME, NONE, NONE], "all empty": [NONE, NONE, NONE, NONE]}


def gradients_of(model, inputs, targets, name: str) -> list[torch.Tensor]:
    """With BatchNorm in eval mode: its batch statistics are another matter."""
    model.eval()
    model.zero_grad()
    terms = small_loss(name)(model(inputs), targets, START)
    assert all(term.isfinite() for term in terms.values())
    sum(terms.values()).backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize("name", ["fcos", "fcos_r50_torchvision"])
@pytest.mark.parametrize("split", SPLITS)
def test_two_processes_have_the_gradient_of_one(monkeypatch, name, split):
    """Also when one of them, or both, hold no object: the normalisers are global.  In float64, one process after the other.

    A first pass notes the sums that each hands in, a second gets their totals, as all-reduce would give them.
    """
    targets, model = SPLITS[split], small_model().double()
    expected = gradients_of(model, images(4).double(), targets, name)
    handed_in: list[list[torch.Tensor]] = []

    def note(value: torch.Tensor) -> torch.Tensor:
        handed_in[-1].append(value.detach().clone())
        return value

    halves = [slice(0, 2), slice(2, 4)]
    for half in halves:
        handed_in.append([])
        monkeypatch.setattr(collectives, "sum_over_ranks", note)
        gradients_of(model, images(4)[half].double(), targets[half], name)
    monkeypatch.setattr(collectives, "world_size", lambda: 2)
    found = []
    for half in halves:
        totals = iter([one + other for one, other in zip(*handed_in, strict=True)])
        monkeypatch.setattr(collectives, "sum_over_ranks", lambda value, totals=totals: next(totals))
        found.append(gradients_of(model, images(4)[half].double(), targets[half], name))
    total = torch.stack([gradient.norm() for gradient in expected]).norm()
    assert total > 0
    for whole, one, other in zip(expected, *found, strict=True):
        assert ((one + other) / 2 - whole).norm() <= SAME * whole.norm() + 1e-3 * SAME * total


def test_focal_loss_is_that_of_the_outputs():
    """The class term alone, of torch's cross-entropy and the definition of the weights."""
    outputs, loss = random_outputs(1, dtype=torch.float64), small_loss()
    labels = F.one_hot(loss.assign(outputs, [SOME]).labels, NUM_CLASSES + 1)[..., :NUM_CLASSES].double()
    p = outputs.class_logits.sigmoid()
    certainty = torch.where(labels == 1, p, 1 - p)
    entropy = F.binary_cross_entropy(p, labels, reduction="none")
    expected = (torch.where(labels == 1, 0.25, 0.75) * (1 - certainty) ** 2 * entropy).sum() / labels.sum()
    assert_same_in_float64(loss(outputs, [SOME], START)["loss_cls"].detach(), expected.detach())
