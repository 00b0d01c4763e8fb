"""Top-1 and top-5 errors: against sorting by hand, whatever the batches and the processes."""

import numpy as np
import pytest
import torch

from public.evaluation.topk import TOP, best_classes, class_errors, classify, measure, merge

N, K = 60, 9


def outputs(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(-3, 4, (N, K), generator=generator).float()  # many are equal
    return logits, torch.randint(0, K, (N,), generator=generator)


def by_hand(logits, labels) -> list[int]:
    """The place of each true class, sorted by falling logit, then by rising number."""
    places = []
    for row, label in zip(logits.tolist(), labels.tolist()):
        order = sorted(range(K), key=lambda k: (-row[k], k))
        places.append(order.index(label))
    return places


def test_ranks_and_errors_are_those_of_sorting_by_hand():
    logits, labels = outputs()
    found = classify(logits, labels, range(N))
    places = by_hand(logits, labels)
    assert found.ranks.tolist() == places
    metrics = measure(found, K)
    assert metrics["top1_error"] == pytest.approx(100 * sum(p > 0 for p in places) / N)
    assert metrics["top5_error"] == pytest.approx(100 * sum(p > 4 for p in places) / N)
    assert 0 < metrics["top5_error"] < metrics["top1_error"] < 100
    assert metrics["top1_accuracy"] + metrics["top1_error"] == 100
    loss = torch.nn.functional.cross_entropy(logits.double(), labels)
    assert metrics["eval_loss"] == pytest.approx(loss.item(), rel=1e-12)


def test_of_equal_logits_the_first_class_wins_and_all_ways_agree():
    logits, labels = torch.zeros(3, K), torch.tensor([0, 4, 5])
    found = classify(logits, labels, range(3))
    assert found.ranks.tolist() == [0, 4, 5]
    assert measure(found, K)["top5_error"] == pytest.approx(100 / 3)
    logits, labels = outputs()
    found = classify(logits, labels, range(N))
    for place, (classes, rank) in enumerate(zip(found.classes, found.ranks)):
        assert (labels[place].item() in classes) == (rank < TOP)


def test_the_best_classes_and_their_probabilities():
    classes, scores = best_classes(torch.tensor([[1.0, 3.0, 2.0, 3.0]]), 3)
    assert classes.tolist() == [[1, 3, 2]]
    torch.testing.assert_close(scores, torch.tensor([[3.0, 3.0, 2.0, 1.0]]).softmax(1)[:, :3])


def test_metrics_do_not_depend_on_batches_and_processes():
    logits, labels = outputs()
    whole = merge([classify(logits, labels, range(N))], N)
    pieces = [slice(40, 60), slice(0, 7), slice(7, 40)]
    parts = [classify(logits[p], labels[p], range(N)[p]) for p in pieces]
    joined = merge(parts, N)
    assert measure(joined, K) == measure(whole, K)
    assert all(np.array_equal(a, b) for a, b in zip(joined, whole))


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        ([slice(0, 30), slice(31, 60)], "image number 30 was classified 0 times"),
        ([slice(0, 30), slice(29, 60)], "image number 29 was classified 2 times"),
        ([slice(0, 59)], "image number 59 was classified 0 times"),
    ],
)
def test_each_image_counts_once(pieces, words):
    logits, labels = outputs()
    with pytest.raises(ValueError, match=words):
        merge([classify(logits[p], labels[p], range(N)[p]) for p in pieces], N)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_outputs_are_no_hits(value):
    logits, labels = outputs()
    logits[7] = value
    with pytest.raises(ValueError, match="image number 107"):
        classify(logits, labels, range(100, 100 + N))


def test_the_top_5_of_five_classes_says_nothing():
    logits, labels = outputs()
    metrics = measure(classify(logits[:, :5], labels.clamp(max=4), range(N)), 5)
    assert metrics["top5_error"] is None
    assert metrics["top5_accuracy"] is None
    assert metrics["top1_error"] > 0


def test_errors_of_the_classes():
    logits = torch.tensor([[2.0, 1.0, 0.0], [2.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    found = classify(logits, torch.tensor([0, 1, 1]), range(3))
    assert class_errors(found, np.array([0, 1, 1]), 3) == [(1, 0.0), (2, 50.0), (0, None)]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_class_is_the_best_of_broken_outputs(value):
    """Of one picture too, where no evaluation looks at the logits."""
    with pytest.raises(ValueError, match="they name no class"):
        best_classes(torch.tensor([[1.0, value, 2.0]], dtype=torch.float64), 2)
