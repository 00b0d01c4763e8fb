"""PPYOLOE's loss: closed forms of its terms, batches without objects, several processes, extreme outputs."""

import pytest
import torch
import torch.distributed as dist
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou

from public.losses import create_loss
from public.losses.box import giou, iou, pairwise_iou
from public.losses.distribution_focal import distribution_focal_loss
from public.losses.focal import varifocal_loss
from public.models import create_model
from public.models.detectors.ppyoloe import PPYOLOEOutputs
from public.points import cell_points
from public.protocols import Progress
from tests.helpers.numerics import SAME, assert_same_in_float64
from tests.helpers.processes import run_processes

NUM_CLASSES = 3
STATIC = Progress(epoch=0, step=0, step_in_epoch=0, num_epochs=300, steps_per_epoch=1)
ALIGNED = Progress(epoch=100, step=100, step_in_epoch=0, num_epochs=300, steps_per_epoch=1)
BOTH = pytest.mark.parametrize("progress", [STATIC, ALIGNED], ids=["static", "aligned"])
LEVEL_SIZES = ((2, 2), (4, 4), (8, 8))  # 64 pixels

SOME = {
    "boxes": torch.tensor([[4.0, 6.0, 40.0, 50.0], [20.0, 8.0, 62.0, 30.0]]),
    "labels": torch.tensor([2, 0]),
}
NONE = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}


def random_outputs(
    num_images: int, seed: int = 0, scale: float = 1.0, dtype: torch.dtype = torch.float32
) -> PPYOLOEOutputs:
    generator = torch.Generator().manual_seed(seed)
    class_logits = torch.randn(num_images, 84, NUM_CLASSES, generator=generator).to(dtype) * scale
    box_logits = torch.randn(num_images, 84, 68, generator=generator).to(dtype) * scale
    return PPYOLOEOutputs(class_logits.requires_grad_(), box_logits.requires_grad_(), LEVEL_SIZES)


def small_loss():
    return create_loss("ppyoloe_xs", num_classes=NUM_CLASSES)


def small_model():
    """A network with random values in its head too, so that no gradient is zero by construction."""
    torch.manual_seed(0)
    model = create_model("ppyoloe_xs", num_classes=NUM_CLASSES)
    for conv in (*model.head.pred_cls, *model.head.pred_reg):
        torch.nn.init.normal_(conv.weight, std=0.05)
    return model


def images(num_images: int) -> torch.Tensor:
    return torch.randn(num_images, 3, 64, 64, generator=torch.Generator().manual_seed(1))


# --- terms against closed forms ---------------------------------------------------------------------------------------


def test_varifocal_loss_and_gradient():
    """Torch's cross-entropy times the weight, and the derivative of the product worked out by hand."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 4, generator=generator, dtype=torch.float64).requires_grad_()
    is_positive = torch.rand(50, 4, generator=generator) < 0.3
    targets = torch.rand(50, 4, generator=generator, dtype=torch.float64) * is_positive
    p = logits.sigmoid()
    loss = varifocal_loss(p, targets, is_positive, alpha=0.75, gamma=2.0)
    entropy = F.binary_cross_entropy(p, targets, reduction="none")
    torch.testing.assert_close(loss, entropy * torch.where(is_positive, targets, 0.75 * p**2))
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    # d entropy / d logit = p - t;  d (0.75 p^2) / d logit = 1.5 p * p (1 - p)
    through_entropy = torch.where(is_positive, targets, 0.75 * p**2) * (p - targets)
    through_weight = torch.where(is_positive, 0, 1.5 * p**2 * (1 - p) * entropy)
    torch.testing.assert_close(gradient, (through_entropy + through_weight).detach())


def test_varifocal_loss_of_rounded_probabilities():
    """At exactly 0 and 1 the logarithm is -100, as in torch's cross-entropy, and the gradient is finite."""
    p = torch.tensor([0.0, 1.0, 1.0, 0.0], requires_grad=True)
    targets = torch.tensor([0.5, 0.5, 0.0, 0.0])
    is_positive = targets > 0
    loss = varifocal_loss(p, targets, is_positive, alpha=0.75, gamma=2.0)
    assert loss.tolist() == [25.0, 25.0, 75.0, 0.0]
    loss.sum().backward()
    assert p.grad.isfinite().all()


@pytest.mark.numeric
def test_distribution_focal_loss():
    """The two neighbouring bins' cross-entropies, weighed by nearness."""
    generator = torch.Generator().manual_seed(0)
    box_logits = torch.randn(40, 68, generator=generator, dtype=torch.float64)
    distances = torch.rand(40, 4, generator=generator, dtype=torch.float64) * 15.99
    distances[0] = torch.tensor([0.0, 1.0, 15.0, 15.99])
    left = distances.long()
    rows = box_logits.reshape(-1, 17)
    left_loss = F.cross_entropy(rows, left.reshape(-1), reduction="none").reshape(-1, 4)
    right_loss = F.cross_entropy(rows, left.reshape(-1) + 1, reduction="none").reshape(-1, 4)
    expected = (left_loss * (left + 1 - distances) + right_loss * (distances - left)).mean(1)
    assert_same_in_float64(distribution_focal_loss(box_logits, distances), expected)


@pytest.mark.numeric
def test_overlaps_equal_torchvision():
    generator = torch.Generator().manual_seed(0)
    corners, sides = torch.rand(2, 60, 2, generator=generator, dtype=torch.float64)
    boxes = torch.cat([corners * 50, corners * 50 + 1 + sides * 30], dim=1)
    expected = generalized_box_iou(boxes[:30], boxes[30:])
    assert_same_in_float64(giou(boxes[:30, None], boxes[None, 30:], eps=1e-10), expected)
    pairs = pairwise_iou(boxes[:30], boxes[30:], eps=1e-9)
    assert_same_in_float64(pairs.diagonal(), iou(boxes[:30], boxes[30:], eps=1e-9))
    assert pairs.count_nonzero() > 0


def test_overlap_of_boxes_without_area_is_zero():
    point = torch.tensor([[5.0, 5.0, 5.0, 5.0]])
    assert pairwise_iou(point, point, eps=1e-9).tolist() == [[0.0]]


def test_distances_beyond_the_last_bin_are_clipped():
    """The box terms of one huge object, point by point; some of its sides lie more than 16 strides away."""
    outputs, loss = random_outputs(1, dtype=torch.float64), small_loss()
    box = torch.tensor([[-300.0, -20.0, 364.0, 80.0]], dtype=torch.float64)
    targets = [{"boxes": box, "labels": torch.tensor([1])}]
    assignment = loss.assign(outputs, targets, ALIGNED)
    points, strides = cell_points(LEVEL_SIZES, (32, 16, 8), offset=0.5, device=torch.device("cpu"))
    expected, is_clipped = 0.0, []
    for i in (assignment.labels[0] != NUM_CLASSES).nonzero().squeeze(1).tolist():
        left_top, right_bottom = targets[0]["boxes"][0].split(2)
        distances = torch.cat([points[i] - left_top, right_bottom - points[i]]) / strides[i]
        is_clipped.append((distances > 16).any().item())
        sides = outputs.box_logits[0, i].reshape(4, 17).log_softmax(1)
        for side, distance in zip(sides, distances.clamp(max=15.99).tolist()):
            bin_below = int(distance)
            share = distance - bin_below
            entropy = -(1 - share) * side[bin_below] - share * side[bin_below + 1]
            expected += assignment.scores[0, i] * entropy / 4
    assert any(is_clipped)
    found = loss.unweighted(outputs, targets, ALIGNED)["loss_dfl"]
    assert_same_in_float64(found, expected / assignment.scores.sum().clamp(min=1))


@BOTH
def test_terms_are_weighted_once(progress):
    outputs, loss = random_outputs(2), small_loss()
    plain = loss.unweighted(outputs, [SOME, NONE], progress)
    terms = loss(outputs, [SOME, NONE], progress)
    assert list(terms) == ["loss_cls", "loss_iou", "loss_dfl"]
    for name, weight in (("cls", 1.0), ("iou", 2.5), ("dfl", 0.5)):
        assert terms[f"loss_{name}"].item() == pytest.approx(weight * plain[f"loss_{name}"].item())
        assert plain[f"loss_{name}"] > 0


def test_assigner_changes_at_the_stated_epoch():
    """The two assigners give random outputs different positives, so the change shows."""
    outputs, loss = random_outputs(1), small_loss()
    labels = [loss.assign(outputs, [SOME], STATIC._replace(epoch=epoch)).labels for epoch in (0, 99, 100, 250)]
    assert torch.equal(labels[0], labels[1])
    assert torch.equal(labels[2], labels[3])
    assert not torch.equal(labels[1], labels[2])


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([SOME], "outputs of 2 images but 1 targets"),
        ([SOME, {**SOME, "labels": torch.tensor([0, 3])}], "labels from 0 to 3, but the model has 3 classes, 0 to 2"),
        ([SOME, {**SOME, "labels": torch.tensor([-1, 0])}], "labels from -1 to 2"),
    ],
)
def test_wrong_targets_are_named(targets, message):
    with pytest.raises(ValueError, match=message):
        small_loss()(random_outputs(2), targets, STATIC)


def test_wrong_class_count_is_named():
    with pytest.raises(ValueError, match="the model predicts 3 classes, the loss was built for 20"):
        create_loss("ppyoloe_xs", num_classes=20)(random_outputs(1), [SOME], STATIC)


# --- finite and connected ---------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("targets", [[SOME, NONE], [NONE, NONE]], ids=["one image empty", "all images empty"])
def test_every_parameter_gets_a_finite_gradient(progress, targets):
    model = small_model().train()
    terms = small_loss()(model(images(2)), targets, progress)
    assert all(term.isfinite() for term in terms.values())
    sum(terms.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert model.backbone.stem.conv1.conv.weight.grad.count_nonzero() > 0


@BOTH
@pytest.mark.parametrize("limit", [6e4, -6e4])
def test_outputs_at_the_limit_of_half_precision(progress, limit):
    """All logits at one limit, and all at random between both; the loss and its gradient stay finite."""
    generator = torch.Generator().manual_seed(0)
    for fill in (
        lambda x: torch.full_like(x, limit),
        lambda x: (torch.rand(x.shape, generator=generator) - 0.5) * 12e4,
    ):
        plain = random_outputs(2)
        class_logits, box_logits = fill(plain.class_logits).half(), fill(plain.box_logits).half()
        assert class_logits.isfinite().all()
        outputs = PPYOLOEOutputs(class_logits.requires_grad_(), box_logits.requires_grad_(), LEVEL_SIZES)
        terms = small_loss()(outputs, [SOME, SOME], progress)
        assert all(term.isfinite() and term.dtype == torch.float32 for term in terms.values())
        sum(terms.values()).backward()
        assert outputs.class_logits.grad.isfinite().all()
        assert outputs.box_logits.grad.isfinite().all()


@BOTH
def test_outputs_that_are_not_numbers_show_in_the_terms(progress):
    """The loop reports such a term by name; an exception, or a CUDA assertion, would come before it could."""
    outputs = random_outputs(2)
    with torch.no_grad():
        outputs.class_logits[1, 3, 0] = float("nan")
        outputs.box_logits[1] = float("nan")
    terms = small_loss()(outputs, [SOME, SOME], progress)
    assert terms["loss_cls"].isnan()


@BOTH
def test_arithmetic_is_float32_under_autocast(progress):
    outputs = random_outputs(2)
    expected = small_loss()(outputs, [SOME, NONE], progress)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = small_loss()(outputs, [SOME, NONE], progress)
    for name, term in expected.items():
        assert found[name].dtype == torch.float32
        assert torch.equal(found[name], term), name


@BOTH
def test_deterministic_operations_only(progress):
    """Two passes give the same bits, and torch knows none of the operations as one without a deterministic form."""
    model = small_model().train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    gradients = []
    torch.use_deterministic_algorithms(True)
    try:
        for _ in range(2):
            model.load_state_dict(state)
            model.zero_grad()
            sum(small_loss()(model(images(2)), [SOME, NONE], progress).values()).backward()
            gradients.append([parameter.grad for parameter in model.parameters()])
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(first, second) for first, second in zip(*gradients))


# --- two processes ----------------------------------------------------------------------------------------------------

SPLITS = {"one process empty": [SOME, SOME, NONE, NONE], "all empty": [NONE, NONE, NONE, NONE]}


def gradients_of(model, inputs, targets, progress) -> list[torch.Tensor]:
    """With BatchNorm in eval mode: its batch statistics are another matter."""
    model.eval()
    model.zero_grad()
    terms = small_loss()(model(inputs), targets, progress)
    assert all(term.isfinite() for term in terms.values())
    sum(terms.values()).backward()
    return [parameter.grad for parameter in model.parameters()]


def half_a_batch() -> dict[tuple[str, int], list[torch.Tensor]]:
    """What each of two processes does: its half of the batch, then the mean of the gradients, by split and epoch."""
    rank, found = dist.get_rank(), {}
    model, mine = small_model().double(), slice(2 * rank, 2 * rank + 2)
    for split, targets in SPLITS.items():
        for progress in (STATIC, ALIGNED):
            gradients = gradients_of(model, images(4)[mine].double(), targets[mine], progress)
            for gradient in gradients:
                dist.all_reduce(gradient)
                gradient /= 2
            found[split, progress.epoch] = gradients
    return found


def test_two_processes_have_the_gradient_of_one():
    """Also when one of them, or both, hold no object: the normaliser is global.  In float64."""
    first, second = run_processes(half_a_batch, 2)
    model = small_model().double()
    for split, targets in SPLITS.items():
        for progress in (STATIC, ALIGNED):
            found = first[split, progress.epoch]
            assert all(map(torch.equal, found, second[split, progress.epoch]))
            expected = gradients_of(model, images(4).double(), targets, progress)
            total = torch.stack([gradient.norm() for gradient in expected]).norm()
            assert total > 0
            for one, two in zip(expected, found, strict=True):
                assert (one - two).norm() <= SAME * one.norm() + 1e-3 * SAME * total
