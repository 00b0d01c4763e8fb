"""Top-1 and top-5 errors of a classifier, in percent, as the papers print them.

An image counts as right in the top k if fewer than k classes come before its true one: those with a higher logit, and of
equal logits those with a smaller number.  So each image has one rank, whatever the device and the order of the images.

Each process of a run makes a `Classified` of its own images, and `merge` joins them; the metrics are computed from all
images in the order of the data set, so their digits do not depend on the number of processes.

Legend: N images, K classes, k best classes that are kept.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch

TOP = 5  # classes that are kept of an image, and the larger of the two k


class Classified(NamedTuple):
    """What was found in N images, as numpy arrays.

    indices: int64 (N,), positions in the data set.
    ranks:   int64 (N,), how many classes came before the true one: 0 is right.
    classes: int64 (N, k), the k = min(TOP, K) best classes, best first.
    scores:  float32 (N, k), their probabilities.
    losses:  float64 (N,), minus the logarithm of the true class's probability.
    """

    indices: np.ndarray
    ranks: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    losses: np.ndarray


@torch.no_grad()
def classify(logits: torch.Tensor, labels: torch.Tensor, indices: Sequence[int]) -> Classified:
    """The images of a batch, from logits (N, K) of any precision and labels int64 (N,) on the same device.

    Raises:
        ValueError: logits that are not finite, naming the first such image by its position in the data set.
    """
    logits = logits.double()
    is_finite = logits.isfinite().all(1)
    if not is_finite.all():
        first = int(indices[int((~is_finite).nonzero()[0])])
        raise ValueError(
            f"the network's outputs for image number {first} are NaN or infinite; metrics made from them would mean nothing"
        )
    classes, scores = best_classes(logits, TOP)
    true = logits.gather(1, labels[:, None])  # (N, 1)
    numbers = torch.arange(logits.shape[1], device=logits.device)
    is_before = (logits > true) | ((logits == true) & (numbers < labels[:, None]))
    losses = -logits.log_softmax(1).gather(1, labels[:, None])[:, 0]
    return Classified(
        indices=np.asarray(indices, dtype=np.int64),
        ranks=is_before.sum(1).cpu().numpy(),
        classes=classes.cpu().numpy(),
        scores=scores.float().cpu().numpy(),
        losses=losses.cpu().numpy(),
    )


def best_classes(logits: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `count` best classes of each row of logits (N, K), at most K, and their probabilities; best first.

    Of equal logits the class with the smaller number comes first.

    Raises:
        ValueError: logits that are not finite, of which any class would be the best.
    """
    if not logits.isfinite().all():
        raise ValueError("the network's outputs are NaN or infinite, so its weights are broken; they name no class")
    values, classes = logits.sort(dim=1, descending=True, stable=True)
    return classes[:, :count], values.softmax(1)[:, :count]


def merge(parts: Iterable[Classified], num_images: int) -> Classified:
    """What all processes found, by rising index.

    Raises:
        ValueError: the parts together do not hold the images 0 .. num_images - 1 once each.
    """
    joined = Classified(*(np.concatenate(arrays) for arrays in zip(*parts)))
    order = np.argsort(joined.indices, kind="stable")
    joined = Classified(*(array[order] for array in joined))
    counts = np.bincount(joined.indices, minlength=num_images)
    wrong = np.flatnonzero(counts != 1)
    if len(wrong):
        raise ValueError(
            f"image number {wrong[0]} was classified {counts[wrong[0]]} times instead of once; {len(wrong)} of {num_images} "
            "images are wrong in this way.  The sampler of the evaluation must neither repeat nor drop images."
        )
    return joined


def measure(found: Classified, num_classes: int) -> dict[str, float | None]:
    """Metrics over all images: errors and accuracies in percent, and the mean loss without label smoothing.

    The top-5 numbers are None for 5 classes or fewer, where every guess is among the first 5.
    """
    metrics: dict[str, float | None] = {}
    for k in (1, TOP):
        error = None
        if k < num_classes:
            error = 100.0 * int(np.count_nonzero(found.ranks >= k)) / len(found.ranks)
        metrics[f"top{k}_error"] = error
        metrics[f"top{k}_accuracy"] = None if error is None else 100.0 - error
    metrics["eval_loss"] = float(found.losses.mean())
    return metrics


def class_errors(found: Classified, labels: np.ndarray, num_classes: int) -> list[tuple[int, float | None]]:
    """For each class its number of images and the share of them, in percent, that are wrong in the top 1."""
    counts = np.bincount(labels, minlength=num_classes)
    wrong = np.bincount(labels[found.ranks > 0], minlength=num_classes)
    return [(int(n), 100.0 * int(w) / int(n) if n else None) for n, w in zip(counts, wrong)]
