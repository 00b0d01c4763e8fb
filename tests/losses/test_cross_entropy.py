"""The classification loss: its formula, what it must not depend on, what it refuses."""

import math

import pytest
import torch

from public.loading.classification import ClassificationBatch
from public.losses.cross_entropy import CrossEntropyLoss
from public.protocols import Progress
from tests.helpers.numerics import EPS, assert_same_in_float64
from tests.helpers.processes import run_processes

PROGRESS = Progress(0, 0, 0, 1, 1)
B, K = 6, 4


def batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(B, K, generator=generator, dtype=torch.float64) * 3
    return logits, torch.randint(0, K, (B,), generator=generator)


def loss_of(logits, targets, smoothing: float = 0.0) -> torch.Tensor:
    terms = CrossEntropyLoss(num_classes=K, label_smoothing=smoothing)(logits, targets, PROGRESS)
    assert list(terms) == ["loss_cls"]
    return terms["loss_cls"]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_formula_for_labels_and_for_mixtures(smoothing):
    """Minus the sum over the classes of target times log-probability, written out image by image."""
    logits, labels = batch()
    shares = torch.softmax(batch(1)[0], 1)
    for targets in (labels, shares):
        expected = 0.0
        for row, target in zip(logits.tolist(), targets.tolist()):
            log_sum = math.log(sum(math.exp(x) for x in row))
            truth = [float(k == target) for k in range(K)] if isinstance(target, int) else target
            smooth = [(1 - smoothing) * share + smoothing / K for share in truth]
            expected -= sum(share * (x - log_sum) for share, x in zip(smooth, row)) / B
        assert loss_of(logits, targets, smoothing).item() == pytest.approx(expected, rel=1e-12)


def test_a_label_is_a_mixture_of_one():
    logits, labels = batch()
    shares = torch.nn.functional.one_hot(labels, K).double()
    for smoothing in (0.0, 0.2):
        assert_same_in_float64(loss_of(logits, labels, smoothing), loss_of(logits, shares, smoothing))


def test_a_batch_of_mixed_labels_is_its_soft_targets():
    """The form that batches have, against the probabilities that a batch makes of itself."""
    logits, labels = batch()
    target = {"labels": labels, "other_labels": labels.flip(0), "shares": torch.linspace(0, 1, B, dtype=torch.float64)}
    mixed = ClassificationBatch(images=None, targets=target, image_ids=[], indices=[], skipped=[])
    for smoothing in (0.0, 0.1):
        soft = mixed.soft_targets(K, label_smoothing=smoothing).double()
        expected = -(soft * logits.log_softmax(1)).sum(1).mean()
        assert_same_in_float64(loss_of(logits, mixed.targets, smoothing), expected, bound=EPS)  # of the float32 targets
    unmixed = target | {"shares": torch.ones(B)}
    assert loss_of(logits, unmixed, 0.1) == loss_of(logits, labels, 0.1)


def test_float32_whatever_the_autocast_and_float64_stays():
    logits, labels = batch()
    low = logits.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = loss_of(low, labels)
    assert under_autocast.dtype == torch.float32
    assert under_autocast == loss_of(low.float(), labels)
    assert loss_of(logits, torch.softmax(logits, 1)).dtype == torch.float64


def test_the_gradient_is_probability_minus_target_over_the_images():
    logits, labels = batch()
    logits.requires_grad_()
    loss_of(logits, labels, 0.1).backward()
    target = 0.9 * torch.nn.functional.one_hot(labels, K).double() + 0.1 / K
    assert_same_in_float64(logits.grad, (logits.detach().softmax(1) - target) / B)


def gradient_of_this_rank(parts) -> torch.Tensor:
    from public.parallel import collectives

    logits, labels = parts[collectives.rank()]
    logits = logits.clone().requires_grad_()
    loss_of(logits, labels, 0.1).backward()
    return logits.grad


def test_the_mean_gradient_of_the_processes_is_that_of_one():
    """Also where the processes have unequal parts: 1 and 5 images."""
    logits, labels = batch()
    whole = logits.clone().requires_grad_()
    loss_of(whole, labels, 0.1).backward()
    found = run_processes(gradient_of_this_rank, 2, [(logits[:1], labels[:1]), (logits[1:], labels[1:])])
    assert_same_in_float64(torch.cat(found) / 2, whole.grad)


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (torch.tensor([0, 1, 2, 3, 4, 0]), "labels from 0 to 4 for 4 classes"),
        (torch.tensor([0, -1, 2, 3, 1, 0]), "labels from -1 to 3 for 4 classes"),
        (torch.zeros(B, 3), r"class shares of shape \(6, 3\)"),
        (torch.zeros(B, 1, dtype=torch.int64), r"labels of shape \(6, 1\)"),
    ],
)
def test_targets_that_do_not_belong_are_refused(targets, words):
    with pytest.raises(ValueError, match=words):
        loss_of(batch()[0], targets)


def test_other_logits_and_smoothing_are_refused():
    logits, labels = batch()
    with pytest.raises(ValueError, match=r"\(6, 3\) are not \(images, 4 classes\)"):
        loss_of(logits[:, :3], labels)
    for smoothing in (-0.1, 1.0):
        with pytest.raises(ValueError, match=f"label_smoothing is {smoothing}"):
            CrossEntropyLoss(num_classes=K, label_smoothing=smoothing)
