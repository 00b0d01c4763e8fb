"""What a student learns from its teacher: closed forms and second implementations of every method, in float64."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from public.families import published
from public.families.distilled import CWD, FGD, LD, MGD, CrossKD, Distilled, PPYOLOELogits, SoftLabels
from public.losses import create_loss
from public.losses.assigners.assignment import BACKGROUND, Assignment
from public.losses.box import giou
from public.losses.cross_entropy import CrossEntropyLoss
from public.losses.distillation import CWDLoss, DistilledLoss, FGDLoss, MGDLoss, MutualLoss, PKDLoss, box_masks
from public.losses.distillation_classes import DKDLoss, KDLoss
from public.losses.distillation_heads import CrossKDLoss, LDLoss, PPYOLOELogitsLoss, SoftLabelsLoss, quality_focal_loss
from public.models.detectors.ppyoloe import PPYOLOEOutputs
from public.models.distilled import Aligned, DistilledModel, DistilledOutputs, Masked, Related, Relations, normalised
from public.parallel import collectives
from public.points import cell_points, distances_to_boxes, expected_distances
from public.protocols import Progress
from tests.helpers.numerics import assert_same_in_float64
from tests.helpers.processes import run_processes

K, A = 3, 84
SIZES = ((2, 2), (4, 4), (8, 8))  # 64 pixels
START = Progress(epoch=0, step=0, step_in_epoch=0, num_epochs=300, steps_per_epoch=1)
LATER = Progress(epoch=200, step=200, step_in_epoch=0, num_epochs=300, steps_per_epoch=1)
SOME = {"boxes": torch.tensor([[4.0, 6.0, 40.0, 50.0], [20.0, 8.0, 62.0, 30.0]]), "labels": torch.tensor([2, 0])}
NONE = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def maps(seed: int = 0, size=(4, 5)) -> tuple[torch.Tensor, torch.Tensor]:
    return noise(2, 3, *size, seed=seed), noise(2, 3, *size, seed=seed + 1)


def outputs_of(**fields) -> DistilledOutputs:
    empty = {"student": None, "teacher": None, "levels": (), "cross": None, "image_size": (64, 64)}
    return DistilledOutputs(**{**empty, "resting": torch.zeros((), dtype=torch.float64), **fields})


def heads(seed: int) -> PPYOLOEOutputs:
    return PPYOLOEOutputs(noise(2, A, K, seed=seed), noise(2, A, 68, seed=seed + 9), SIZES)


def number(value) -> torch.Tensor:
    return torch.tensor(float(value), dtype=torch.float64)


def kl(expected: np.ndarray, found: np.ndarray) -> float:
    """KL of two distributions, by its definition."""
    return float(sum(p * math.log(p / q) for p, q in zip(expected, found)))


def softmax(values) -> np.ndarray:
    powers = np.exp(np.asarray(values, dtype=np.float64) - np.max(values))
    return powers / powers.sum()


# ---------------------------------------------------------------------------------------------- maps


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_cwd_is_the_divergence_of_each_channels_places(temperature):
    student, teacher = maps()
    expected = [
        temperature**2 * kl(softmax(t.ravel() / temperature), softmax(s.ravel() / temperature))
        for s, t in zip(student.flatten(0, 1).numpy(), teacher.flatten(0, 1).numpy())
    ]
    found = CWDLoss(weight=1.0, temperature=temperature)(outputs_of(levels=((student, teacher),)), None, None)
    assert_same_in_float64(found, torch.tensor(np.mean(expected)))


def test_pkd_is_one_less_pearsons_correlation_of_each_channel():
    student, teacher = noise(2, 3, 40, 50), 7 * noise(2, 3, 40, 50, seed=1) - 2
    teacher = teacher + 5 * student
    pairs = zip(student.transpose(0, 1).flatten(1).numpy(), teacher.transpose(0, 1).flatten(1).numpy())
    expected = np.mean([1 - np.corrcoef(s, t)[0, 1] for s, t in pairs])
    levels = (Aligned(3, 3, normalise=True)(student, teacher),) * 2
    found = PKDLoss(weight=1.0)(outputs_of(levels=levels), None, None)
    assert_same_in_float64(
        found, torch.tensor(2 * expected), bound=1e-5, what="the loss, but for the normaliser's epsilon"
    )


def test_pkd_resizes_and_others_name_both_shapes():
    student, teacher = noise(1, 3, 2, 2).float(), noise(1, 5, 4, 4).float()
    own, _ = Aligned(3, 5, normalise=True, resize=True)(student, teacher)
    assert own.shape == (1, 5, 4, 4)
    with pytest.raises(ValueError, match=r"\(1, 3, 2, 2\), the teacher's \(1, 5, 4, 4\)"):
        Aligned(3, 5, normalise=True)(student, teacher)


def test_mgd_hides_places_of_all_channels_and_is_a_sum_of_squares():
    adapter = Masked(3, 3, share=0.65).double()
    for conv in (adapter.generate[0], adapter.generate[2]):  # the identity, so that the mask is seen
        nn.init.dirac_(conv.weight)
        nn.init.zeros_(conv.bias)
    student, teacher = noise(2, 3, 60, 70).abs() + 1, noise(2, 3, 60, 70, seed=1)
    torch.manual_seed(0)
    generated, _ = adapter(student, teacher)
    hidden = (generated == 0).all(1)
    assert torch.equal(hidden, (generated == 0).any(1)), "a place is hidden in every channel or in none"
    assert torch.equal(generated, student * ~hidden[:, None])
    assert abs(hidden.double().mean().item() - 0.65) < 0.02
    assert not torch.equal(hidden[0], hidden[1])
    expected = (student * ~hidden[:, None] - teacher).square().sum() / 2
    assert_same_in_float64(MGDLoss(weight=1.0)(outputs_of(levels=((generated, teacher),)), None, None), expected)


def looped_masks(boxes, size, image_size) -> tuple[np.ndarray, np.ndarray]:
    """Foreground and background as FGD's authors describe them, box by box and cell by cell."""
    inside, (height, width) = np.zeros(size), size
    for x1, y1, x2, y2 in boxes.tolist():
        left, right = math.floor(x1 / image_size[1] * width), math.ceil(x2 / image_size[1] * width)
        top, bottom = math.floor(y1 / image_size[0] * height), math.ceil(y2 / image_size[0] * height)
        share = 1 / (bottom + 1 - top) / (right + 1 - left)
        for y in range(top, min(bottom, height - 1) + 1):
            for x in range(left, min(right, width - 1) + 1):
                inside[y, x] = max(inside[y, x], share)
    outside = (inside == 0).astype(float)
    return inside, outside / max(outside.sum(), 1)


def looped_fgd(student, teacher, related, targets, t: float) -> dict[str, float]:
    """The four terms, image by image, channel by channel."""
    sums, count = {"foreground": 0.0, "background": 0.0, "attention": 0.0}, 0
    for s, x, target in zip(student.numpy(), teacher.numpy(), targets):
        if not len(target["boxes"]):
            continue
        count += 1
        attentions = []
        for y in (s, x):
            places = softmax(np.abs(y).mean(0).ravel() / t).reshape(y.shape[1:]) * y[0].size
            attentions.append((places, softmax(np.abs(y).mean((1, 2)) / t) * len(y)))
        (own_places, own_channels), (places, channels) = attentions
        masks = looped_masks(target["boxes"], s.shape[1:], (64, 64))
        for name, mask in zip(("foreground", "background"), masks):
            for channel in range(len(s)):
                sums[name] += ((s - x)[channel] ** 2 * places * channels[channel] * mask).sum()
        sums["attention"] += np.abs(own_places - places).sum() + np.abs(own_channels - channels).sum()
    relation = float((related[0] - related[1]).square().sum()) / len(student)
    return {name: value / max(count, 1) for name, value in sums.items()} | {"relation": relation}


@pytest.mark.parametrize("targets", [[SOME, SOME], [SOME, NONE], [NONE, NONE]], ids=["all", "some", "none"])
def test_fgd_is_its_definition(targets):
    student, teacher = maps(size=(8, 8))
    related = maps(seed=5, size=(8, 8))
    loss = FGDLoss(weight=1.0, foreground=2.0, background=3.0, attention=5.0, relation=7.0, temperature=0.5)
    found = loss.of_level(student, teacher, *related, targets=targets, image_size=(64, 64))
    expected = looped_fgd(student, teacher, related, targets, 0.5)
    for name, value in expected.items():
        assert_same_in_float64(found[name].double(), number(value), bound=1e-6, what=name)
    total = loss(outputs_of(levels=((student, teacher, *related),)), targets, None)
    weighted = sum(getattr(loss, name) * value for name, value in expected.items())
    assert_same_in_float64(total, number(weighted), bound=1e-6)


def test_fgd_masks_are_the_paper_s():
    boxes = torch.tensor([[4.0, 6.0, 40.0, 50.0], [20.0, 8.0, 62.0, 30.0], [30.0, 30.0, 31.0, 31.0]])
    for size in ((8, 8), (4, 4), (2, 2)):
        for ours, theirs in zip(box_masks(boxes, size, (64, 64)), looped_masks(boxes, size, (64, 64))):
            np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    assert not any(mask.any() for mask in box_masks(NONE["boxes"], (4, 4), (64, 64)))


def test_relations_start_as_the_map_and_follow_their_formula():
    x, block = noise(2, 4, 3, 3), Relations(4).double()
    assert torch.equal(block(x), x)
    nn.init.normal_(block.change[3].weight)
    weights = F.conv2d(x, block.attention.weight, block.attention.bias).flatten(2).softmax(-1)
    context = torch.stack([(x[b].flatten(1) * weights[b]).sum(1) for b in range(2)])
    hidden = context @ block.change[0].weight[:, :, 0, 0].T + block.change[0].bias
    hidden = F.layer_norm(hidden, (2,)).relu()  # its scale and shift start at 1 and 0
    expected = x + (hidden @ block.change[3].weight[:, :, 0, 0].T)[..., None, None]
    assert_same_in_float64(block(x), expected)


# ---------------------------------------------------------------------------------------------- classes


def test_kd_is_the_divergence_at_its_temperature_times_its_square():
    student, teacher = noise(5, 7), noise(5, 7, seed=1)
    expected = np.mean([16 * kl(softmax(t / 4), softmax(s / 4)) for s, t in zip(student.numpy(), teacher.numpy())])
    found = KDLoss(weight=1.0, temperature=4.0).of_logits(student, teacher, None, START)
    assert_same_in_float64(found, torch.tensor(expected))
    with pytest.raises(ValueError, match=r"\(5, 7\), the teacher's \(5, 6\)"):
        KDLoss(weight=1.0, temperature=4.0).of_logits(student, teacher[:, :6], None, START)


def test_dkd_is_kd_taken_apart():
    """Equation 6: KD = TCKD + (1 - the teacher's probability of the target) NCKD."""
    student, teacher, labels = noise(1, 7), noise(1, 7, seed=1), torch.tensor([3])
    others = 1 - (teacher / 2).softmax(1)[0, 3].item()
    dkd = DKDLoss(weight=1.0, target=1.0, others=others, temperature=2.0, warmup_epochs=0)
    kd = KDLoss(weight=1.0, temperature=2.0)
    assert_same_in_float64(dkd.of_logits(student, teacher, labels, START), kd.of_logits(student, teacher, None, START))


def test_dkd_s_parts_are_their_definitions_and_mixtures_and_its_warmup():
    student, teacher, labels = noise(4, 5), noise(4, 5, seed=1), torch.tensor([0, 4, 2, 2])

    def expected(label: int, s, t) -> float:
        p, q = softmax(t / 3), softmax(s / 3)
        rest = np.arange(5) != label
        binary = kl([p[label], p[rest].sum()], [q[label], q[rest].sum()])
        return 9 * (1.5 * binary + 8 * kl(p[rest] / p[rest].sum(), q[rest] / q[rest].sum()))

    loss = DKDLoss(weight=1.0, target=1.5, others=8.0, temperature=3.0, warmup_epochs=20)
    rows = [expected(int(label), s, t) for label, s, t in zip(labels, student.numpy(), teacher.numpy())]
    assert_same_in_float64(loss.of_logits(student, teacher, labels, LATER), torch.tensor(np.mean(rows)))
    early = loss.of_logits(student, teacher, labels, START._replace(epoch=5))
    assert_same_in_float64(early, torch.tensor(np.mean(rows) / 4))
    other, shares = torch.tensor([1, 4, 0, 3]), torch.tensor([0.25, 1.0, 0.5, 0.0])
    mixed = {"labels": labels, "other_labels": other, "shares": shares}
    others = [expected(int(label), s, t) for label, s, t in zip(other, student.numpy(), teacher.numpy())]
    found = loss.of_logits(student, teacher, mixed, LATER)
    assert_same_in_float64(
        found, torch.tensor(np.mean(shares.numpy() * rows + (1 - shares.numpy()) * np.array(others)))
    )


def test_mutual_learning_adds_both_and_teaches_each_with_the_other_held():
    one, other = noise(4, 5).requires_grad_(), noise(4, 5, seed=1).requires_grad_()
    labels = torch.tensor([0, 4, 2, 2])
    base = create_cross_entropy()
    loss = MutualLoss(base=base, method=KDLoss(weight=1.0, temperature=1.0), weight=2.0)
    terms = loss(SimpleNamespace(student=one, peer=other), labels, START)
    assert set(terms) == {"loss_cls", "loss_mutual", "loss_peer_cls", "loss_peer_mutual"}
    pairs = list(zip(one.detach().numpy(), other.detach().numpy()))
    assert_same_in_float64(
        terms["loss_mutual"], torch.tensor(2 * np.mean([kl(softmax(b), softmax(a)) for a, b in pairs]))
    )
    expected = torch.tensor(2 * np.mean([kl(softmax(a), softmax(b)) for a, b in pairs]))
    assert_same_in_float64(terms["loss_peer_mutual"], expected)
    assert torch.autograd.grad(terms["loss_mutual"], other, allow_unused=True, retain_graph=True) == (None,)
    assert torch.autograd.grad(terms["loss_peer_mutual"], one, allow_unused=True) == (None,)
    with pytest.raises(ValueError, match="eval mode"):
        loss(one, labels, START)


def create_cross_entropy() -> CrossEntropyLoss:
    return CrossEntropyLoss(num_classes=5, label_smoothing=0.0)


# ---------------------------------------------------------------------------------------------- heads


def assignment_of(scores: dict[tuple[int, int], tuple[int, float]]) -> Assignment:
    """`scores`: (image, point) -> (label, score); all others are background."""
    labels, values = torch.full((2, A), K), torch.zeros(2, A, dtype=torch.float64)
    for place, (label, score) in scores.items():
        labels[place], values[place] = label, score
    objects = torch.where(labels == K, BACKGROUND, 0)  # which of them it is, no term asks
    return Assignment(labels, torch.zeros(2, A, 4), values, objects)


SCORES = {(0, 5): (1, 0.8), (0, 70): (0, 0.9), (1, 3): (2, 0.3)}


def test_ld_is_the_divergence_of_the_sides_at_positive_points():
    student, teacher, base = heads(1), heads(2), create_loss("ppyoloe_xs", num_classes=K)
    total = 0.0
    for place, (_, score) in SCORES.items():
        own, taught = (x.box_logits[place].view(4, 17).numpy() / 10 for x in (student, teacher))
        total += score * np.mean([100 * kl(softmax(t), softmax(s)) for s, t in zip(own, taught)])
    context = {"base": base, "assignment": assignment_of(SCORES), "progress": START}
    found = LDLoss(weight=1.0, temperature=10.0, region=1.0)(
        outputs_of(student=student, teacher=teacher), [SOME, NONE], context
    )
    assert_same_in_float64(found, number(total / 2.0))
    nothing = context | {"assignment": assignment_of({})}
    loss = LDLoss(weight=1.0, temperature=10.0, region=0.25)
    assert loss(outputs_of(student=student, teacher=teacher), [NONE, NONE], nothing) == 0


def test_ld_s_valuable_region_lies_around_the_positive_points():
    """One object, the largest cells: of the 2 x 2 points of stride 32 one learns it, and its neighbours overlap with it."""
    base, outputs = create_loss("ppyoloe_xs", num_classes=K), heads(1)
    boxes = torch.tensor([[0.0, 0.0, 96.0, 96.0]])
    labels = torch.full((A,), K)
    labels[0] = 1
    cells = base.cells(outputs)
    common = (
        (torch.minimum(cells[:, 2:], boxes[:, 2:]) - torch.maximum(cells[:, :2], boxes[:, :2])).clamp(min=0).prod(1)
    )
    ious = common / ((cells[:, 2:] - cells[:, :2]).prod(1) + 96 * 96 - common)
    found = LDLoss(weight=1.0, temperature=10.0, region=0.5).valuable(base, outputs, boxes, labels)
    expected = (ious >= 0.5 * ious[0]) & (ious < ious[0])
    assert torch.equal(found, expected)
    assert 0 < found.sum() < A
    assert not found[0]
    region = LDLoss(weight=1.0, temperature=10.0, region=0.5)
    assert not region.valuable(base, outputs, boxes, torch.full((A,), K)).any(), "an object that nobody learns has none"


def test_ppyoloe_s_terms_are_their_definitions():
    student, teacher, base = heads(1), heads(2), create_loss("ppyoloe_xs", num_classes=K)
    loss = PPYOLOELogitsLoss(weight=4.0, cls=1.0, iou=2.5, dfl=0.5, kl=20000.0, beta=2.0, temperature=10.0)
    found = loss.terms(outputs_of(student=student, teacher=teacher), base, assignment_of(SCORES))
    points, strides = cell_points(SIZES, (32, 16, 8), offset=0.5, device=torch.device("cpu"))
    p, q = teacher.class_logits.sigmoid(), student.class_logits.sigmoid()
    sums = {"cls": float((F.binary_cross_entropy(q, p, reduction="none") * (p - q) ** 2).sum()) / 2.0}
    sums |= {"iou": 0.0, "dfl": 0.0, "kl": 0.0}
    for (image, point), (_, score) in SCORES.items():
        boxes, bins = [], []
        for x in (student, teacher):
            logits = x.box_logits[image, point]
            boxes.append(distances_to_boxes(points[point] / strides[point], expected_distances(logits)))
            bins.append([softmax(side) for side in logits.view(4, 17).numpy()])
        sums["iou"] += score * float(1 - giou(*boxes, eps=1e-10)) / 2.0
        entropy = [-(t * np.log(s)).sum() for s, t in zip(*bins)]
        sums["dfl"] += score * np.mean(entropy) / 2.0
        pair = (softmax(x[image, point].numpy() / 10) for x in (p, q))
        sums["kl"] += 100 * kl(*pair) / K / len(SCORES)
    for name, value in sums.items():
        assert_same_in_float64(found[name], number(value), what=name)
    context = {"base": base, "assignment": assignment_of(SCORES)}
    total = loss(outputs_of(student=student, teacher=teacher), None, context)
    expected = sum(loss.weights[name] * value for name, value in sums.items())
    assert_same_in_float64(total, number(expected))


@pytest.mark.parametrize("num_classes", [3, 20, 80])
def test_the_kl_of_scores_falls_with_the_square_of_the_classes(num_classes):
    """What its weight has to make up for: of a score that is wrong by d, d ** 2 / (2 K ** 2), to the temperature's tenths."""
    teacher = PPYOLOEOutputs(noise(2, A, num_classes, seed=2) - 4, noise(2, A, 68, seed=3), SIZES)
    logits = teacher.class_logits.clone()
    logits[..., 0] += 3
    student = teacher._replace(class_logits=logits)
    loss = PPYOLOELogitsLoss(weight=1.0, cls=1.0, iou=1.0, dfl=1.0, kl=1.0, beta=2.0, temperature=10.0)
    base = create_loss("ppyoloe_xs", num_classes=num_classes)
    assigned = assignment_of(SCORES)
    assigned = assigned._replace(labels=torch.where(assigned.labels == K, num_classes, assigned.labels))
    found = loss.terms(outputs_of(student=student, teacher=teacher), base, assigned)["kl"]
    wrong = (student.class_logits.sigmoid() - teacher.class_logits.sigmoid())[..., 0]
    expected = np.mean([float(wrong[place]) ** 2 for place in SCORES]) * (1 - 1 / num_classes) / (2 * num_classes**2)
    assert float(found) == pytest.approx(expected, rel=0.1)


def test_quality_focal_loss_is_0_at_its_target_and_follows_its_formula():
    p, y = (torch.tensor([first, 0.5, 1.0, 0.0], dtype=torch.float64) for first in (0.2, 0.9))
    expected = -(0.9 * math.log(0.2) + 0.1 * math.log(0.8)) * 0.7**2
    assert_same_in_float64(quality_focal_loss(p, y, beta=2.0), torch.tensor([expected, 0, 0, 0], dtype=torch.float64))


@pytest.mark.parametrize("family", ["retinanet", "fcos"])
def test_crosskd_goes_through_the_rest_of_the_teacher_s_head(family):
    """Student and teacher are one network: what crosses is what the teacher says itself, and nothing is left to learn."""
    changes = {"head_groups": 8} if family == "fcos" else {}
    settings = replace(published(family), backbone="resnet18", num_classes=K, neck_channels=32, **changes)
    torch.manual_seed(0)
    student, teacher = settings.build_model(), settings.build_model()
    nn.init.ones_(student.head.pred_reg.bias)  # FCOS's first boxes have no area, and GIoU cannot compare them
    teacher.load_state_dict(student.state_dict())
    model = DistilledModel(
        student=student, teacher=teacher, adapters=(), cross=2, needs_outputs=True, teacher_precision="float32"
    )
    model.train()
    student.eval()  # so that BatchNorm is the teacher's
    outputs = model(noise(1, 3, 128, 128).float())
    for crossed, own in zip(outputs.cross[:2], outputs.teacher[:2]):
        torch.testing.assert_close(crossed, own, rtol=1e-5, atol=1e-5)
    loss = CrossKDLoss(decode=settings.build_decoder().decode, weight=1.0, cls=1.0, box=1.0, beta=1.0)
    context = {"base": settings.build_loss()}
    before = loss(outputs, [SOME], context)
    assert before < 1e-4
    with torch.no_grad():
        student.head.cls_tower[1].conv.weight.mul_(1.5)
        student.head.reg_tower[1].conv.weight.mul_(1.5)
        student.head.cls_tower[3].conv.weight.mul_(1.5)  # beyond the crossing: no part of it
    outputs = model(noise(1, 3, 128, 128).float())
    total = loss(outputs, [SOME], context)
    total.backward()
    assert total > 10 * before.abs()
    assert student.head.cls_tower[1].conv.weight.grad.abs().sum() > 0
    assert student.head.reg_tower[1].conv.weight.grad.abs().sum() > 0
    assert student.head.cls_tower[3].conv.weight.grad is None
    assert all(p.grad is None for p in teacher.parameters())
    scores, own = (x.class_logits.detach().sigmoid() for x in (outputs.teacher, outputs.cross))
    boxes = [loss.decode(x)[0].detach() for x in (outputs.cross, outputs.teacher)]
    weights = scores.amax(-1)
    count = max(int((context["base"].assign(outputs.student, [SOME]).objects >= 0).sum()), 1)
    expected = (F.binary_cross_entropy(own, scores, reduction="none") * (scores - own).abs()).sum() / count
    expected += ((1 - giou(*boxes, eps=1e-10)) * weights).sum() / weights.sum().clamp(min=1)
    torch.testing.assert_close(total.detach(), expected, rtol=1e-4, atol=0)


def test_soft_labels_are_their_definition_point_by_point():
    student, teacher = heads(30), heads(31)
    decode = published("ppyoloe_s").build_decoder().decode
    loss = SoftLabelsLoss(decode=decode, weight=1.0, cls=0.7, box=1.3, beta=2.0)
    (own_boxes, own_scores), (boxes, scores) = (tuple(v.numpy() for v in decode(x)) for x in (student, teacher))
    classes = regression = total = 0.0
    for image, point in np.ndindex(2, A):
        weight = scores[image, point].max()
        total += weight
        for q, p in zip(scores[image, point], own_scores[image, point]):
            classes -= (q - p) ** 2 * (q * math.log(p) + (1 - q) * math.log(1 - p))
        (a, b, c, d), (e, f, g, h) = own_boxes[image, point], boxes[image, point]
        common = max(min(c, g) - max(a, e), 0) * max(min(d, h) - max(b, f), 0)
        union = (c - a) * (d - b) + (g - e) * (h - f) - common
        hull = (max(c, g) - min(a, e)) * (max(d, h) - min(b, f))
        regression += weight * (1 - common / union + (hull - union) / hull)
    found = loss(outputs_of(student=student, teacher=teacher), None, None)
    torch.testing.assert_close(found, number(0.7 * classes / total + 1.3 * regression / total), rtol=1e-6, atol=0)


@pytest.mark.parametrize("family", ["ppyoloe_s", "picodet_s", "yolox_s", "retinanet", "yolof"])
def test_soft_labels_pull_every_output_towards_the_teacher_s_and_rest_there(family):
    settings = replace(published(family), num_classes=K)
    decoder = settings.build_decoder()
    with torch.device("meta"):
        model = settings.build_model().eval()
    kind = model(torch.empty(1, 3, 128, 128, device="meta"))
    torch.manual_seed(0)
    fields = {
        name: torch.randn(value.shape, dtype=torch.float64) / 2
        for name, value in kind._asdict().items()
        if torch.is_tensor(value) and value.ndim == 3
    }
    bins = {name: torch.arange(len(value)).double() for name, value in kind._asdict().items() if name == "bins"}
    kind = kind._replace(**bins)
    teacher = kind._replace(**fields)
    loss = SoftLabelsLoss(decode=decoder.decode, weight=1.0, cls=1.0, box=1.0, beta=1.0)
    assert loss(outputs_of(student=teacher, teacher=teacher), None, None).abs() < 1e-5
    own = {name: (value + torch.randn_like(value) / 4).requires_grad_(True) for name, value in fields.items()}
    before = loss(outputs_of(student=kind._replace(**own), teacher=teacher), None, None)
    before.backward()
    assert all(value.grad.abs().sum() > 0 for value in own.values())
    with torch.no_grad():
        after = {name: value - 0.01 * value.grad / value.grad.abs().max() for name, value in own.items()}
    assert loss(outputs_of(student=kind._replace(**after), teacher=teacher), None, None) < before.detach()


# ---------------------------------------------------------------------------------------------- the whole loss


def test_without_the_student_s_own_loss_the_targets_are_not_looked_at():
    student, teacher = heads(32), heads(33)
    maps_of_level = maps(34)
    loss = SoftLabelsLoss(decode=published("ppyoloe_s").build_decoder().decode, weight=2.0, cls=1.0, box=1.0, beta=1.0)
    feature = CWDLoss(weight=3.0, temperature=1.0)
    whole = DistilledLoss(base=None, methods=(feature, loss), factor=0.5, stop_epoch=None, own=False)
    outputs = outputs_of(student=student, teacher=teacher, levels=(maps_of_level,))
    terms = whole(outputs, None, START)
    assert list(terms) == ["loss_feature", "loss_logits"]
    torch.testing.assert_close(terms["loss_feature"], 1.5 * feature.of_level(*maps_of_level), rtol=0, atol=0)
    torch.testing.assert_close(terms["loss_logits"], loss(outputs, None, None), rtol=0, atol=0)  # 0.5 * 2


@pytest.mark.parametrize(
    ("family", "change", "told"),
    [
        ("ppyoloe_s", {"logits": LD(weight=1.0, temperature=1.0, region=1.0)}, "logits=LD"),
        ("retinanet", {"logits": CrossKD(weight=1.0, cls=1.0, box=1.0, beta=1.0, layers=2)}, "logits=CrossKD"),
        (
            "ppyoloe_s",
            {
                "feature": FGD(
                    weight=1.0,
                    foreground=1.0,
                    background=1.0,
                    attention=1.0,
                    relation=1.0,
                    temperature=1.0,
                    normalise=True,
                )
            },
            "feature=FGD",
        ),
        ("ppyoloe_s", {"stop_epoch": 3}, "stop_epoch is 3"),
        ("fcos", {"logits": SoftLabels(weight=1.0, cls=1.0, box=1.0, beta=1.0)}, "SoftLabels compares"),
    ],
)
def test_a_page_without_labels_names_the_method_that_needs_them(family, change, told):
    settings = published(family)
    fields = {"feature": MGD(weight=1.0, masked=0.5), "logits": None, "stop_epoch": None, "own_loss": False} | change
    with pytest.raises(ValueError, match=told):
        Distilled(
            student=settings,
            teacher=settings,
            teacher_weights=None,
            teacher_precision="float32",
            factor=1.0,
            **fields,
        )
    Distilled(
        student=published("ppyoloe_s"),
        teacher=published("ppyoloe_s"),
        teacher_weights=None,
        teacher_precision="float32",
        factor=1.0,
        feature=CWD(weight=1.0, temperature=1.0, normalise=True),
        logits=SoftLabels(weight=1.0, cls=1.0, box=1.0, beta=1.0),
        stop_epoch=None,
        own_loss=False,
    )


@pytest.mark.parametrize(("epoch", "source"), [(0, "student"), (99, "student"), (100, "teacher")])
def test_the_teacher_assigns_once_the_task_aligned_assigner_is_active(epoch, source):
    """The student's own terms too; whose predictions the assigner is shown is noted on the way."""
    outputs, progress = outputs_of(student=heads(1), teacher=heads(2)), START._replace(epoch=epoch)
    settings = PPYOLOELogits(weight=4.0, cls=1.0, iou=2.5, dfl=0.5, kl=20000.0, beta=2.0, temperature=10.0)
    base, seen = create_loss("ppyoloe_xs", num_classes=K), []
    assign = base.assign
    base.assign = lambda shown, *others: (seen.append(shown), assign(shown, *others))[1]
    loss = DistilledLoss(
        base=base, methods=(settings.build_method(None),), factor=1.0, stop_epoch=None, assigned_by_teacher=True
    )
    terms = loss(outputs, [SOME, NONE], progress)
    assert len(seen) == 1, "assigned once, for both losses"
    assert seen[0] is getattr(outputs, source)
    assigned = assign(getattr(outputs, source), [SOME, NONE], progress)
    base.assign = lambda *_: assigned
    expected = base(outputs.student, [SOME, NONE], progress)
    assert all(torch.equal(terms[name], expected[name]) for name in expected)


def test_the_student_s_own_terms_are_those_it_has_alone_times_the_factor():
    student, base = heads(1), create_loss("ppyoloe_xs", num_classes=K)
    method = LD(weight=3.0, temperature=10.0, region=0.25).build_method(None)
    loss = DistilledLoss(base=base, methods=(method,), factor=0.125, stop_epoch=150)
    outputs = outputs_of(student=student, teacher=heads(2))
    alone = base(student, [SOME, NONE], START)
    terms = loss(outputs, [SOME, NONE], START)
    assert list(terms) == [*alone, "loss_logits"]
    assert all(torch.equal(terms[name], 0.125 * alone[name]) for name in alone)
    known = {"base": base, "progress": START, "assignment": base.assign(student, [SOME, NONE], START)}
    assert torch.equal(terms["loss_logits"], 0.125 * (3.0 * method(outputs, [SOME, NONE], known)))
    resting = outputs._replace(teacher=None)
    assert loss(resting, [SOME, NONE], LATER)["loss_logits"] == 0, "from stop_epoch on"
    with pytest.raises(ValueError, match="eval mode"):
        loss(student, [SOME, NONE], START)
    with pytest.raises(ValueError, match="CrossEntropyLoss has none"):
        DistilledLoss(base=create_cross_entropy(), methods=(method,), factor=1.0, stop_epoch=None)


# ---------------------------------------------------------------------------------------------- several processes


def gradients_of_share() -> list[torch.Tensor]:
    """The gradients of a student's map by each method, of this process's images."""
    count = 4
    share = count // collectives.world_size()
    own = slice(collectives.rank() * share, (collectives.rank() + 1) * share)
    student = noise(count, 4, 8, 8)[own].requires_grad_()
    teacher, targets = noise(count, 4, 8, 8, seed=1)[own], [SOME, NONE, SOME, SOME][own]
    torch.manual_seed(0)
    adapter = Related(4, 4, normalise=True).double()
    nn.init.normal_(adapter.student_relations.change[3].weight)
    fgd = FGD(
        weight=1.0, foreground=1.0, background=1.0, attention=1.0, relation=1.0, temperature=0.5, normalise=True
    ).build_method()
    logits = student.mean((2, 3))
    losses = [
        fgd(outputs_of(levels=(adapter(student, teacher),)), targets, None),
        CWDLoss(weight=1.0, temperature=1.0).of_level(normalised(student), normalised(teacher)),
        PKDLoss(weight=1.0).of_level(normalised(student), normalised(teacher)),
        KDLoss(weight=1.0, temperature=2.0).of_logits(logits, noise(count, 4, seed=3)[own], None, START),
    ]
    return [torch.autograd.grad(loss, student, retain_graph=True)[0] for loss in losses]


def test_two_processes_have_the_gradients_of_one():
    whole = gradients_of_share()
    ranks = run_processes(gradients_of_share, 2)
    for number, expected in enumerate(whole):
        joined = torch.cat([ranks[rank][number] for rank in range(2)]) / 2  # as gradients are averaged
        assert_same_in_float64(joined, expected, bound=1e-6, what=f"method {number}")
