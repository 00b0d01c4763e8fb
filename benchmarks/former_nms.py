"""`public.decoders.nms.multiclass_nms` as it was until 2026-11-29: peer of `benchmarks.postprocess`, oracle of a test.

It sorts every candidate, and calls torchvision's `nms` once for each class.
"""

from collections.abc import Sequence

import torch


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
) -> dict[str, torch.Tensor]:
    """See `public.decoders.nms.multiclass_nms`."""
    chosen_by = scores if candidate_scores is None else candidate_scores
    labels, anchors = _candidates(chosen_by, score_threshold, top_k_per_class, top_k_per_level, level_lengths)
    if drop_empty:
        has_area = (boxes[anchors, 2:] > boxes[anchors, :2]).all(1)
        labels, anchors = labels[has_area], anchors[has_area]
    if candidate_scores is not None:
        by_class = (labels * len(boxes) + anchors).argsort()  # the order of ties
        labels, anchors = labels[by_class], anchors[by_class]
        order = scores[anchors, labels].sort(descending=True, stable=True).indices
        labels, anchors = labels[order], anchors[order]

    values = scores[anchors, labels]
    if iou_threshold is None:
        kept = torch.arange(len(values), device=values.device)[:keep_top_k]
    else:
        kept = _first_survivors(boxes[anchors], values, labels, iou_threshold, keep_top_k)
    anchors = anchors[kept]
    return {"boxes": boxes[anchors], "scores": values[kept], "labels": labels[kept], "anchors": anchors}


def _candidates(
    values: torch.Tensor,
    threshold: float,
    top_k_per_class: int | None,
    top_k_per_level: int | None,
    level_lengths: Sequence[int],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels (N,) and anchors (N,) of the `values` (A, K) above `threshold` that go on, by falling value."""
    labels, anchors = (values > threshold).T.nonzero(as_tuple=True)  # (N,), by class, then by anchor
    order = values[anchors, labels].sort(descending=True, stable=True).indices
    labels, anchors = labels[order], anchors[order]
    if top_k_per_level is not None:
        ends = torch.tensor(level_lengths, device=anchors.device).cumsum(0)
        levels = torch.bucketize(anchors, ends, right=True)
        best = _rank_in_group(levels, len(level_lengths)) < top_k_per_level
        labels, anchors = labels[best], anchors[best]
    if top_k_per_class is not None:
        best = _rank_in_group(labels, values.shape[1]) < top_k_per_class
        labels, anchors = labels[best], anchors[best]
    return labels, anchors


def _rank_in_group(groups: torch.Tensor, num_groups: int) -> torch.Tensor:
    """How many earlier entries of `groups` (N,), numbers from 0, equal each entry."""
    counts = torch.bincount(groups, minlength=num_groups)
    starts = counts.cumsum(0) - counts
    by_group = groups.argsort(stable=True)  # groups one after the other, in each the old order
    rank = torch.empty_like(groups)
    rank[by_group] = torch.arange(len(groups), device=groups.device) - starts[groups[by_group]]
    return rank


def _first_survivors(
    boxes: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor, iou_threshold: float, num_wanted: int | None
) -> torch.Tensor:
    """Indices of the first `num_wanted` candidates, already by falling score, that no better one of their class removes."""
    num_wanted = len(labels) if num_wanted is None else num_wanted
    num_heads = 4 * num_wanted
    while True:
        head = slice(num_heads)
        kept = _survivors(boxes[head].cpu(), scores[head].cpu(), labels[head].cpu(), iou_threshold)
        if len(kept) >= num_wanted or num_heads >= len(labels):
            return kept[:num_wanted].to(labels.device)
        num_heads *= 4


def _survivors(boxes: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Indices, ascending, of the candidates (by falling score) that outlive suppression inside their class."""
    from torchvision.ops import nms

    by_class = labels.argsort(stable=True)
    groups = by_class.split(torch.bincount(labels).tolist())
    # torchvision's nms sorts by score, stably, so it keeps the order of ties; its IoU has no +1.
    kept = [group[nms(boxes[group], scores[group], iou_threshold)] for group in groups if len(group) > 0]
    return torch.cat(kept).sort().values if kept else by_class
