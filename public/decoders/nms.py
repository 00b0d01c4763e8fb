"""Non-maximum suppression, one method on every device.

PaddleDetection's MultiClassNMS: a box may be kept once for each of its classes.  Ties have a fixed order: of equal
scores the lower class comes first, then the lower anchor.  `torchvision.ops.batched_nms` is not used: it changes its
method with the number of boxes and with the device.

Only the beginning of the list of candidates is sorted and freed of overlaps, as much of it as is needed; on the CPU, in
numpy, since an image has few candidates and each call of torch costs more than the work in it.

Legend: A anchors, K classes, N candidates (a candidate is a pair of an anchor and a class).
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

GROUP_OF_PAIRS = 64  # candidates of a class up to which all its pairs are compared at once; above, torchvision's loop


class Candidates(NamedTuple):
    """Candidates in their order: by falling value, of equal values by class, then by anchor."""

    labels: np.ndarray  # (N,) int64
    anchors: np.ndarray  # (N,) int64

    def at(self, chosen: np.ndarray | slice) -> "Candidates":
        return Candidates(self.labels[chosen], self.anchors[chosen])


def multiclass_nms(
    boxes: torch.Tensor,
    scores: torch.Tensor,
    *,
    score_threshold: float,
    iou_threshold: float | None,
    keep_top_k: int | None,
    top_k_per_class: int | None = None,
    top_k_per_level: int | None = None,
    level_lengths: Sequence[int] = (),
    candidate_scores: torch.Tensor | None = None,
    drop_empty: bool = False,
    one_class_a_box: bool = False,
    lowest_score: float = 0.0,
) -> dict[str, torch.Tensor]:
    """The best boxes of one image, class by class freed of overlaps.

    Candidates score strictly above `score_threshold`; each class goes on with its `top_k_per_class` best, each level
    with its `top_k_per_level` best of all classes together; None: with all.  By falling score, a candidate removes the
    later ones of its class whose IoU with it is strictly above `iou_threshold`; None: none at all.  Of all that remain, the
    `keep_top_k` best are returned; None: all.

    Args:
        boxes: (A, 4) x1 y1 x2 y2 in pixels.
        scores: (A, K).
        level_lengths: how many of the A anchors each level has, for `top_k_per_level`.
        candidate_scores: (A, K), by which candidates are chosen in place of their score, which may be below the threshold.
        drop_empty: whether candidates without width or height are left out.
        one_class_a_box: whether a box is a candidate for its best class only, of equal scores the first.
        lowest_score: detections with a lower score are left out, before any work is done for them.  What scores less
            removes nothing that scores more, so those that are left are the same as without it.

    Returns:
        `boxes` (N, 4), `scores` (N,), `labels` (N,) int64 and `anchors` (N,) int64, the rows of the input they came
        from, by falling score; N is 0 where nothing scores above the threshold.
    """
    chosen_by = scores if candidate_scores is None else candidate_scores
    lowest = lowest_score if candidate_scores is None else 0.0
    all_candidates = _Above(chosen_by.detach(), score_threshold, lowest)
    if one_class_a_box:
        all_candidates.leave_best_of_anchors()
    if top_k_per_level is not None:
        all_candidates.leave_best_of_levels(top_k_per_level, level_lengths)
    limits: dict[str, Any] = {"top_k_per_class": top_k_per_class, "top_k_per_level": top_k_per_level}
    limits["level_lengths"] = level_lengths

    def select(found: Candidates) -> Candidates:
        found = _best_of_groups(found, **limits)
        return found.at(_has_area(_rows(boxes, found.anchors))) if drop_empty else found

    heads: Iterator[Candidates]
    if candidate_scores is None:
        heads = (select(head) for head in all_candidates.heads(keep_top_k))
    else:
        found = select(all_candidates.best(None))
        found = found.at(np.flatnonzero(_score_of(found, scores) >= lowest_score))
        heads = iter([_by_score(found, scores, len(boxes))])
    kept = _first_survivors(heads, boxes, scores, iou_threshold, keep_top_k)
    labels, anchors = (torch.from_numpy(part).to(boxes.device) for part in kept)
    return {"boxes": boxes[anchors], "scores": scores[anchors, labels], "labels": labels, "anchors": anchors}


class _Above:
    """The candidates of `values` (A, K) above `threshold` and not below `lowest`, and as many of the best as are needed."""

    def __init__(self, values: torch.Tensor, threshold: float, lowest: float) -> None:
        self.num_anchors, self.num_classes = values.shape
        flat = values.reshape(-1)
        if flat.device.type == "cpu":
            everything = flat.numpy()
            # (N,) anchor * K + class, ascending
            self.places = np.flatnonzero(everything >= lowest if lowest > threshold else everything > threshold)
            self.values = everything[self.places]
        else:
            places = (flat >= lowest if lowest > threshold else flat > threshold).nonzero().squeeze(1)
            self.places, self.values = places.cpu().numpy(), flat[places].cpu().numpy()
        if lowest > threshold:
            self._leave(self.values > threshold)  # rounded to the type of the values, both may be the same number

    def leave_best_of_anchors(self) -> None:
        """Leaves of each anchor its best candidate, of equal ones the first."""
        if len(self.places) == 0:
            return
        starts, counts = _runs(self.places // self.num_classes)
        self._leave(self.values == np.repeat(np.maximum.reduceat(self.values, starts), counts))
        starts, _ = _runs(self.places // self.num_classes)
        self._leave(starts)

    def leave_best_of_levels(self, top_k: int, level_lengths: Sequence[int]) -> None:
        """Leaves out whatever is worse than the `top_k`-th of its level; what equals it stays."""
        ends = np.searchsorted(self.places, np.cumsum(level_lengths) * self.num_classes)
        is_left = np.ones(len(self.places), bool)
        for start, end in zip([0, *ends[:-1]], ends):
            if end - start > top_k:
                level = self.values[start:end]
                is_left[start:end] = level >= _highest(level, top_k)
        self._leave(is_left)

    def _leave(self, chosen: np.ndarray) -> None:
        self.places, self.values = self.places[chosen], self.values[chosen]

    def best(self, count: int | None) -> Candidates:
        """The `count` best and whatever equals the last of them, in their order; None: all."""
        places, values = self.places, self.values
        if count is not None and count < len(places):
            is_best = values >= _highest(values, count)
            places, values = places[is_best], values[is_best]
        anchors, labels = np.divmod(places, self.num_classes)
        order = _falling(values, labels * self.num_anchors + anchors)
        return Candidates(labels[order], anchors[order])

    def heads(self, num_wanted: int | None) -> Iterator[Candidates]:
        """Longer and longer beginnings of the list of candidates, the last of which is the whole list."""
        count = None if num_wanted is None else 4 * num_wanted
        while count is not None and count < len(self.places):
            yield self.best(count)
            count *= 4
        yield self.best(None)


def _runs(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of rising numbers, where each one begins and how often it is there."""
    starts = np.flatnonzero(np.diff(numbers, prepend=-1))
    return starts, np.diff(starts, append=len(numbers))


def _highest(values: np.ndarray, rank: int) -> np.ndarray:
    """The `rank`-th highest of more than `rank` values."""
    return np.partition(values, len(values) - rank)[len(values) - rank]


def _falling(values: np.ndarray, ties: np.ndarray) -> np.ndarray:
    """The order by falling `values`, of equal ones by rising `ties`."""
    by_ties = ties.argsort(kind="stable")
    return by_ties[(-values[by_ties]).argsort(kind="stable")]


def _by_score(found: Candidates, scores: torch.Tensor, num_anchors: int) -> Candidates:
    """`found`, which were chosen by something else, by falling score."""
    return found.at(_falling(_score_of(found, scores), found.labels * num_anchors + found.anchors))


def _has_area(boxes: np.ndarray) -> np.ndarray:
    """The places of the boxes (N, 4) that have width and height."""
    return np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(1))


def _rows(values: torch.Tensor, rows: np.ndarray) -> np.ndarray:
    """Some rows of `values`, wherever it lies."""
    if values.device.type == "cpu":
        return values.detach().numpy()[rows]
    return values.detach()[torch.from_numpy(rows).to(values.device)].cpu().numpy()


def _score_of(found: Candidates, scores: torch.Tensor) -> np.ndarray:
    """The scores (N,) of candidates; `scores` is (A, K)."""
    if scores.device.type == "cpu":
        return scores.detach().numpy()[found.anchors, found.labels]
    anchors, labels = (torch.from_numpy(part).to(scores.device) for part in (found.anchors, found.labels))
    return scores.detach()[anchors, labels].cpu().numpy()


def _best_of_groups(
    found: Candidates, *, top_k_per_class: int | None, top_k_per_level: int | None, level_lengths: Sequence[int]
) -> Candidates:
    """Of candidates in their order those that go on."""
    if top_k_per_level is not None and len(found.labels) > top_k_per_level:
        levels = np.searchsorted(np.cumsum(level_lengths), found.anchors, side="right")
        found = found.at(_rank_in_group(levels) < top_k_per_level)
    if top_k_per_class is not None and len(found.labels) > top_k_per_class:
        found = found.at(_rank_in_group(found.labels) < top_k_per_class)
    return found


def _rank_in_group(groups: np.ndarray) -> np.ndarray:
    """How many earlier entries of `groups` (N,), numbers from 0, equal each entry."""
    counts = np.bincount(groups)
    starts = counts.cumsum() - counts
    by_group = groups.argsort(kind="stable")  # groups one after the other, in each the old order
    rank = np.empty_like(groups)
    rank[by_group] = np.arange(len(groups)) - starts[groups[by_group]]
    return rank


def _first_survivors(
    heads: Iterator[Candidates],
    boxes: torch.Tensor,
    scores: torch.Tensor,
    iou_threshold: float | None,
    num_wanted: int | None,
) -> Candidates:
    """The first `num_wanted` candidates that no better one of their class removes; None wants all.

    A candidate is only ever removed by a better one, so a head of the list can be settled without its tail: the head grows
    until it holds enough survivors.  That keeps an untrained network, with every box of every class above the threshold,
    from costing seconds.
    """
    for head in heads:
        kept = head
        if iou_threshold is not None:
            values = _score_of(head, scores)
            kept = head.at(_survivors(_rows(boxes, head.anchors), values, head.labels, iou_threshold))
        if num_wanted is not None and len(kept.labels) >= num_wanted:
            break
    return kept.at(slice(num_wanted))


def _survivors(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, iou_threshold: float) -> np.ndarray:
    """Indices, ascending, of the candidates (by falling score) that outlive suppression inside their class."""
    counts = np.bincount(labels)
    by_class = labels.argsort(kind="stable")
    is_small = counts[labels[by_class]] <= GROUP_OF_PAIRS
    small = by_class[is_small]
    kept = [small[_outlive(boxes[small], counts[counts <= GROUP_OF_PAIRS], iou_threshold)]]
    for label in np.flatnonzero(counts > GROUP_OF_PAIRS):
        # Here, because it takes three seconds of CPU, which `train.py --help` does without.
        from torchvision.ops import nms

        group = by_class[labels[by_class] == label]
        # torchvision's nms sorts by score, stably, so it keeps the order of ties; its IoU has no +1.
        found = nms(torch.from_numpy(boxes[group]), torch.from_numpy(scores[group]), iou_threshold)
        kept.append(group[found.numpy()])
    return np.sort(np.concatenate(kept))


def _outlive(boxes: np.ndarray, counts: np.ndarray, iou_threshold: float) -> np.ndarray:
    """Which of the boxes (N, 4), in groups of `counts` one after the other, outlive suppression inside their group.

    (N,) bool.  The arithmetic is that of torchvision's `nms`, so that both find the same, bit for bit.
    """
    better, worse = _pairs(counts)
    x1, y1, x2, y2 = boxes.T
    areas = (x2 - x1) * (y2 - y1)
    width = np.maximum(0, np.minimum(x2[better], x2[worse]) - np.maximum(x1[better], x1[worse]))
    height = np.maximum(0, np.minimum(y2[better], y2[worse]) - np.maximum(y1[better], y1[worse]))
    common = width * height
    with np.errstate(divide="ignore", invalid="ignore"):  # of boxes without area: no number is above no threshold
        iou = common / (areas[better] + areas[worse] - common)
    is_above = iou.astype(np.float64) > iou_threshold
    better, worse = better[is_above], worse[is_above]

    is_left = np.ones(len(boxes), bool)
    while True:  # after n rounds the first n of each group are settled, and nothing changes once all are
        removed = worse[is_left[better]]
        settled = np.ones(len(boxes), bool)
        settled[removed] = False
        if np.array_equal(settled, is_left):
            return is_left
        is_left = settled


def _pairs(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of an earlier and a later member of the same group, of groups of `counts` one after the other."""
    ends = counts.cumsum()
    earlier = np.arange(counts.sum()) - np.repeat(ends - counts, counts)  # (N,) how many of its group come before each
    worse = np.repeat(np.arange(len(earlier)), earlier)
    first_pair = np.repeat(earlier.cumsum() - earlier, earlier)
    better = worse - np.repeat(earlier, earlier) + np.arange(len(worse)) - first_pair
    return better, worse
