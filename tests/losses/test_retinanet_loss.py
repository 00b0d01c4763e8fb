"""RetinaNet's assigner and loss: second implementations, closed forms, and what is extreme.

What holds of every detector's loss (no object, several processes, ...) is in tests/promises/test_every_detector.py.
"""

import pytest
import torch
from torch.nn import functional as F

from public.anchors import AnchorCoding
from public.losses import create_loss
from public.losses.assigners import max_iou
from public.losses.assigners.assignment import BACKGROUND, IGNORED
from public.losses.assigners.max_iou import LOW_QUALITY, MaxIoUAssigner
from public.models.detectors.retinanet import RetinaNetOutputs
from public.parallel import collectives
from public.protocols import Progress
from tests.helpers.numerics import assert_same_in_float64

NUM_CLASSES = 3
START = Progress(epoch=0, step=0, step_in_epoch=0, num_epochs=12, steps_per_epoch=1)
LEVEL_SIZES = ((8, 12), (4, 6), (2, 3), (1, 2), (1, 1))  # 64 x 96 pixels
NUM_ANCHORS = 9 * 129
NAMES = ("retinanet", "retinanet_r50_torchvision", "retinanet_r50_torchvision_v2", "retinanet_r50_mmdet")
every_name = pytest.mark.parametrize("name", NAMES)

SOME = {"boxes": torch.tensor([[4.0, 6.0, 40.0, 50.0], [20.0, 8.0, 92.0, 30.0]]), "labels": torch.tensor([2, 0])}
NONE = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}


def random_outputs(num_images: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> RetinaNetOutputs:
    generator = torch.Generator().manual_seed(0)

    def randn(channels: int) -> torch.Tensor:
        values = torch.randn(num_images, NUM_ANCHORS, channels, generator=generator, dtype=torch.float64)
        return (values * scale).to(dtype).requires_grad_()

    return RetinaNetOutputs(randn(NUM_CLASSES), randn(4), LEVEL_SIZES, (64, 96))


def small_loss(name: str = "retinanet", **changes):
    return create_loss(name, num_classes=NUM_CLASSES, **changes)


# --- the assigner -----------------------------------------------------------------------------------------------------


def iou_of(one: list[float], other: list[float]) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    common = max(width, 0) * max(height, 0)
    return common / ((one[2] - one[0]) * (one[3] - one[1]) + (other[2] - other[0]) * (other[3] - other[1]) - common)


def slow_objects(anchors: list, boxes: list, positive: float, negative: float, low_quality: str) -> list[int]:
    """What each anchor learns, object by object, from the paper and the two originals."""
    ious = [[iou_of(box, anchor) for anchor in anchors] for box in boxes]
    chosen, own = [], []
    for place in range(len(anchors)):
        column = [row[place] for row in ious]
        best = max(column)
        own.append(column.index(best))
        chosen.append(own[-1] if best >= positive else BACKGROUND if best < negative else IGNORED)
    if low_quality != "off":
        for number, row in enumerate(ious):
            for place, value in enumerate(row):
                if value == max(row) > 0:
                    chosen[place] = own[place] if low_quality == "own_object" else number
    return chosen


def scene(seed: int, num_objects: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Anchors of 64 x 96 pixels and objects of whole pixels, which overlap many anchors alike, in float64."""
    generator = torch.Generator().manual_seed(seed)
    coding = small_loss(anchors_rounded=True).coding
    anchors = coding.anchors(random_outputs(1)).double()
    corners = torch.randint(0, 50, (num_objects, 2), generator=generator)
    sides = torch.randint(4, 46, (num_objects, 2), generator=generator)
    return anchors, torch.cat([corners, corners + sides], dim=1).double()


@pytest.mark.parametrize("low_quality", LOW_QUALITY)
@pytest.mark.parametrize("seed", range(4))
def test_the_assigner_equals_the_loop(monkeypatch, seed, low_quality):
    """All objects together, and some at a time: 3 and 1."""
    anchors, boxes = scene(seed, num_objects=1 + 4 * seed)
    assigner = MaxIoUAssigner(positive_iou=0.5, negative_iou=0.4, low_quality=low_quality)
    expected = slow_objects(anchors.tolist(), boxes.tolist(), 0.5, 0.4, low_quality)
    assert len(set(expected)) > 2 or low_quality == "off"
    for rows in (1000, 3, 1):
        monkeypatch.setattr(max_iou, "MOST_PAIRS", rows * len(anchors))
        assert assigner(anchors=anchors, boxes=boxes).tolist() == expected


def test_the_forms_of_low_quality_differ():
    """Two small objects below the threshold at one anchor, which overlaps the first more and is the best of the second."""
    anchors = torch.tensor([[0.0, 0, 10, 10], [40, 40, 50, 50]])
    boxes = torch.tensor([[0.0, 0, 10, 4], [0, 5, 10, 8], [100, 100, 108, 104]])  # the last overlaps nothing
    found = {}
    for low_quality in LOW_QUALITY:
        assigner = MaxIoUAssigner(positive_iou=0.5, negative_iou=0.35, low_quality=low_quality)
        found[low_quality] = assigner(anchors=anchors, boxes=boxes).tolist()
    assert found == {"off": [IGNORED, -1], "own_object": [0, -1], "that_object": [1, -1]}


def test_thresholds_belong_to_the_upper_side():
    """An IoU of exactly 0.5 is positive, one of exactly 0.4 is ignored."""
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10.001], [20, 0, 30, 10], [20, 0, 30, 10.001]])
    boxes = torch.tensor([[0.0, 0, 10, 5], [20, 0, 30, 4]])
    assigner = MaxIoUAssigner(positive_iou=0.5, negative_iou=0.4, low_quality="off")
    assert assigner(anchors=anchors, boxes=boxes).tolist() == [0, IGNORED, IGNORED, BACKGROUND]


@every_name
def test_objects_without_area_teach_nothing_but_background(name):
    """In both originals all anchors that they do not overlap are their best ones."""
    point = {"boxes": torch.tensor([[30.0, 30.0, 30.0, 60.0], [7.0, 7.0, 7.0, 7.0]]), "labels": torch.tensor([1, 2])}
    outputs = random_outputs(1)
    assert (small_loss(name).assign(outputs, [point]).objects == BACKGROUND).all()
    terms = small_loss(name)(outputs, [point], START)
    assert terms["loss_box"] == 0
    assert terms["loss_cls"].isfinite()


def test_anchors_that_stick_out_are_not_dropped():
    """An object in the corner is learnt by anchors of which a part lies outside."""
    loss, outputs = small_loss(), random_outputs(1)
    border = {"boxes": torch.tensor([[0.0, 0.0, 22.0, 22.0]]), "labels": torch.tensor([1])}
    anchors = loss.coding.anchors(outputs)[loss.assign(outputs, [border]).objects[0] == 0]
    assert (anchors[:, :2] < 0).any(1).sum() == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"negative_iou": 0.6}, r"negative_iou is 0\.6, above positive_iou, 0\.5"),
        ({"low_quality": "all"}, "low_quality.*one of off, own_object, that_object"),
        ({"normaliser": "none"}, "normaliser.*one of batch, batch_of_images, image"),
        ({"head_groups": 7}, r"RetinaNet\.neck_channels = 256 is no multiple of RetinaNet\.head_groups = 7"),
    ],
)
def test_wrong_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        small_loss(**changes)


# --- anchors ----------------------------------------------------------------------------------------------------------


def test_anchors_and_offsets_in_closed_form():
    coding = AnchorCoding(
        strides=(8,), scales=(4.0,), ratios=(0.25, 1.0), is_rounded=False, offset=0.5, steps="strides",
        std=(0.1, 0.1, 0.2, 0.2), min_log_size=None,
    )  # fmt: skip
    outputs = RetinaNetOutputs(torch.zeros(1, 4, 1), torch.zeros(1, 4, 4), ((1, 2),), (8, 16))
    anchors = coding.anchors(outputs)
    assert anchors.tolist() == [[-28, -4, 36, 12], [-12, -12, 20, 20], [-20, -4, 44, 12], [-4, -12, 28, 20]]
    box = torch.tensor([[4.0, 12.0, 20.0, 20.0]])  # centre (12, 16), 16 x 8
    deltas = coding.deltas(anchors[1:2], box)
    log = torch.tensor([0.5, 0.25]).log() / 0.2
    torch.testing.assert_close(deltas, torch.tensor([[8 / 32 / 0.1, 12 / 32 / 0.1, log[0], log[1]]]))
    torch.testing.assert_close(coding.boxes(anchors[1:2], deltas), box)


# --- terms ------------------------------------------------------------------------------------------------------------


def slow_terms(name: str, outputs: RetinaNetOutputs, targets: list[dict]) -> dict[str, torch.Tensor]:
    """The terms, anchor by anchor, from the paper and the two originals; the matches are ours."""
    loss = small_loss(name)
    assigned = loss.assign(outputs, targets)
    anchors = loss.coding.anchors(outputs).double()
    counts = (assigned.objects >= 0).sum(1).tolist()
    divisors = {
        "batch": [max(sum(counts), 1)] * len(counts),
        "batch_of_images": [sum(max(count, 1) for count in counts)] * len(counts),
        "image": [max(count, 1) * len(counts) for count in counts],
    }[loss.normaliser]
    classes, boxes = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for image, target in enumerate(targets):
        for place in range(len(anchors)):
            number = int(assigned.objects[image, place])
            if number == IGNORED:
                continue
            truth = torch.zeros(NUM_CLASSES, dtype=torch.float64)
            if number >= 0:
                truth[target["labels"][number]] = 1
                box_loss = slow_box_loss(
                    loss, anchors[place], outputs.box_deltas[image, place], target["boxes"][number]
                )
                boxes = boxes + box_loss / divisors[image]
            p = outputs.class_logits[image, place].sigmoid()
            entropy = F.binary_cross_entropy(p, truth, reduction="none")
            weight = torch.where(truth == 1, 0.25 * (1 - p) ** 2, 0.75 * p**2)
            classes = classes + (weight * entropy).sum() / divisors[image]
    return {"loss_cls": classes, "loss_box": boxes}


def slow_box_loss(loss, anchor: torch.Tensor, deltas: torch.Tensor, box: torch.Tensor) -> torch.Tensor:
    (x1, y1, x2, y2), (bx1, by1, bx2, by2) = anchor, box.double()
    width, height = x2 - x1, y2 - y1
    if loss.box_loss == "smooth_l1":
        expected = [(bx1 + bx2 - x1 - x2) / 2 / width, (by1 + by2 - y1 - y2) / 2 / height]
        expected += [((bx2 - bx1) / width).log(), ((by2 - by1) / height).log()]
        error, beta = (deltas - torch.stack(expected)).abs(), loss.smooth_l1_beta
        return torch.where(error < beta, error**2 / (2 * max(beta, 1e-9)), error - beta / 2).sum()
    x, y = (x1 + x2) / 2 + deltas[0] * width, (y1 + y2) / 2 + deltas[1] * height
    w, h = width * deltas[2].exp(), height * deltas[3].exp()
    common = (torch.minimum(x + w / 2, bx2) - torch.maximum(x - w / 2, bx1)).clamp(min=0)
    common = common * (torch.minimum(y + h / 2, by2) - torch.maximum(y - h / 2, by1)).clamp(min=0)
    union = w * h + (bx2 - bx1) * (by2 - by1) - common
    frame = torch.maximum(x + w / 2, bx2) - torch.minimum(x - w / 2, bx1)
    frame = frame * (torch.maximum(y + h / 2, by2) - torch.minimum(y - h / 2, by1))
    return 1 - common / union + (frame - union) / frame


@every_name
@pytest.mark.parametrize("targets", [[SOME, NONE], [NONE, NONE]], ids=["one image empty", "all images empty"])
def test_terms_equal_the_loop(name, targets):
    """The true offsets are float32 numbers; GIoU's quotients have an epsilon: 1e-6."""
    outputs = random_outputs(2, dtype=torch.float64)
    found, expected = small_loss(name)(outputs, targets, START), slow_terms(name, outputs, targets)
    assert found.keys() == expected.keys()
    for term, value in expected.items():
        assert found[term].item() == pytest.approx(value.item(), rel=1e-6), term
    assert (found["loss_box"] == 0) == (targets[0] is NONE)


def test_terms_are_weighted_once():
    outputs = random_outputs(2)
    plain = small_loss()(outputs, [SOME, NONE], START)
    weighted = small_loss(loss_weight_cls=2.0, loss_weight_box=0.25)(outputs, [SOME, NONE], START)
    assert weighted["loss_cls"].item() == pytest.approx(2 * plain["loss_cls"].item())
    assert weighted["loss_box"].item() == pytest.approx(plain["loss_box"].item() / 4)


@pytest.mark.parametrize("name", ["retinanet", "retinanet_r50_torchvision"])
def test_the_normaliser_knows_the_other_processes(monkeypatch, name):
    """That of the batch is their sum; images are divided by their own positives, whoever has them."""
    outputs = random_outputs(1, dtype=torch.float64)
    alone = small_loss(name)(outputs, [SOME], START)
    monkeypatch.setattr(collectives, "world_size", lambda: 2)
    monkeypatch.setattr(collectives, "sum_over_ranks", lambda value: 4 * value)
    together = small_loss(name)(outputs, [SOME], START)
    factor = 2 if name == "retinanet" else 1
    for term, value in alone.items():
        assert_same_in_float64(factor * together[term].detach(), value.detach())


# --- extremes ---------------------------------------------------------------------------------------------------------


@every_name
@pytest.mark.parametrize("limit", [6e4, -6e4, None])
def test_outputs_at_the_limit_of_half_precision(name, limit):
    """All outputs at one limit, and all at random between both; the loss and its gradient stay finite."""
    plain = random_outputs(2, scale=1.0 if limit else 6e4 / 6)
    change = (lambda x: torch.full_like(x, limit)) if limit else (lambda x: x)
    tensors = [change(x.detach()).half().requires_grad_() for x in plain[:2]]
    assert all(x.isfinite().all() for x in tensors)
    terms = small_loss(name)(RetinaNetOutputs(*tensors, *plain[2:]), [SOME, SOME], START)
    assert all(term.isfinite() and term.dtype == torch.float32 for term in terms.values())
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(sum(terms.values()), tensors))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.5])
def test_any_power_of_the_focal_loss_has_a_finite_gradient(gamma):
    """Also where a probability is rounded to 0 or 1, at which a root has an infinite slope."""
    plain = random_outputs(1, scale=1e3)
    terms = small_loss(focal_gamma=gamma)(plain, [SOME], START)
    gradient = torch.autograd.grad(terms["loss_cls"], plain.class_logits)[0]
    assert gradient.isfinite().all()
    assert gradient.any()


@every_name
def test_arithmetic_is_float32_under_autocast(name):
    outputs = random_outputs(2)
    expected = small_loss(name)(outputs, [SOME, NONE], START)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = small_loss(name)(outputs, [SOME, NONE], START)
    assert all(found[term].dtype == torch.float32 and torch.equal(found[term], expected[term]) for term in expected)


@every_name
def test_outputs_that_are_not_numbers_show_in_the_terms(name):
    """The loop reports such a term by name; an exception, or a CUDA assertion, would come before it could."""
    outputs = random_outputs(1)
    with torch.no_grad():
        outputs.class_logits[0, 5, 1] = float("nan")
        outputs.box_deltas[:] = float("nan")
    assert all(term.isnan() for term in small_loss(name)(outputs, [SOME], START).values())


@every_name
def test_deterministic_operations_only(name):
    """Two passes give the same bits, and torch knows none of the operations as one without a deterministic form."""
    outputs = random_outputs(2)
    torch.use_deterministic_algorithms(True)
    try:
        first, second = (
            torch.autograd.grad(sum(small_loss(name)(outputs, [SOME, NONE], START).values()), outputs[:2])
            for _ in range(2)
        )
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(one, other) for one, other in zip(first, second))
