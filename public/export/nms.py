"""Non-maximum suppression as a graph of tensors of fixed shapes, equal to `public.decoders.nms.multiclass_nms`.

Everything is operations that any runtime has but one, `encore::survivors`, the suppression inside a class: in ONNX that is
NonMaxSuppression.  What is no candidate, or is removed, has the score OUTSIDE in a dense (B, K, A) tensor; in it the order
of places is that of ties, the lower class first, then the lower anchor.

Legend: B batch, A anchors, K classes, N detections at most.
"""

from collections.abc import Sequence
from typing import Any

import torch

OUTSIDE = -1.0  # the score of what is out; scores lie in [0, 1]
NO_LABEL = -1


def best_detections(
    boxes: torch.Tensor,
    scores: torch.Tensor,
    candidates: torch.Tensor | None,
    *,
    score_threshold: float,
    iou_threshold: float | None,
    keep_top_k: int,
    top_k_per_class: int | None,
    top_k_per_level: int | None,
    level_lengths: Sequence[int],
    drop_empty: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Detections of each image; arguments as `multiclass_nms` has them, with a batch before each.

    Returns:
        counts (B,) int64, -1 where a box or a score is not finite; boxes (B, N, 4), scores (B, N) and labels (B, N) int64, by
        falling score, behind the last detection zeros and the label -1.  N is `keep_top_k`, or A * K where that is less.
    """
    is_finite = boxes.isfinite().flatten(1).all(1) & scores.isfinite().flatten(1).all(1)
    values = scores.transpose(1, 2)  # (B, K, A)
    chosen_by = values if candidates is None else candidates.transpose(1, 2)
    chosen = torch.where(chosen_by > score_threshold, chosen_by, OUTSIDE)
    if top_k_per_level is not None:
        parts = chosen.split(list(level_lengths), dim=2)
        chosen = torch.cat([_best_of_level(part, top_k_per_level) for part in parts], dim=2)
    if top_k_per_class is not None:
        chosen = _limited(chosen, top_k_per_class)
    is_candidate = chosen > OUTSIDE
    if drop_empty:
        is_candidate = is_candidate & (boxes[..., 2:] > boxes[..., :2]).all(2)[:, None]
    values = torch.where(is_candidate, values, OUTSIDE)
    if iou_threshold is not None:
        # of a class no more than `keep_top_k` can be among the best of all
        values = torch.ops.encore.survivors(boxes, values, float(iou_threshold), int(keep_top_k))
    return _best(boxes, values, is_finite, keep_top_k)


def _best(
    boxes: torch.Tensor, values: torch.Tensor, is_finite: torch.Tensor, keep_top_k: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The best of `values` (B, K, A), with their boxes of (B, A, 4)."""
    num_anchors: Any = boxes.shape[1]
    flat = values.flatten(1)  # (B, K * A)
    best, places = flat.topk(torch.sym_min(keep_top_k, flat.shape[1]), dim=1)  # (B, N)
    is_found = best > OUTSIDE
    if not isinstance(num_anchors, int):  # a symbol, which ONNX's exporter divides by as a tensor only
        num_anchors = torch.full_like(places, num_anchors)
    own = boxes.gather(1, (places % num_anchors)[..., None].expand(-1, -1, 4))
    counts = torch.where(is_finite, is_found.sum(1), -1)
    labels = torch.where(is_found, places // num_anchors, NO_LABEL)
    return counts, torch.where(is_found[..., None], own, 0.0), torch.where(is_found, best, 0.0), labels


def _best_of_level(values: torch.Tensor, top_k: int) -> torch.Tensor:
    """`values` (B, K, A) of one level, with OUTSIDE for all but the `top_k` best of all classes together."""
    return _limited(values.flatten(1), top_k).unflatten(1, values.shape[1:])


def _limited(values: torch.Tensor, top_k: int) -> torch.Tensor:
    """`values` (..., M), with OUTSIDE for all but the `top_k` best of each row; sorted only where a row has more."""

    def limit(rows: torch.Tensor) -> torch.Tensor:
        best, places = rows.topk(top_k, dim=-1)
        return torch.full_like(rows, OUTSIDE, memory_format=torch.contiguous_format).scatter(-1, places, best)

    def leave(rows: torch.Tensor) -> torch.Tensor:
        return rows.clone(memory_format=torch.contiguous_format)  # the branches have to agree

    if not isinstance(values.shape[-1], int):  # a symbol, in a graph for any size: always sorted
        best, places = values.topk(torch.sym_min(top_k, values.shape[-1]), dim=-1)
        return torch.full_like(values, OUTSIDE).scatter(-1, places, best)
    if values.shape[-1] <= top_k:
        return values
    is_over = (values > OUTSIDE).sum(-1).max() > top_k
    if torch.compiler.is_exporting():
        return torch.cond(is_over, limit, leave, (values,))
    return limit(values) if is_over else values


@torch.library.custom_op("encore::survivors", mutates_args=())
def survivors(boxes: torch.Tensor, values: torch.Tensor, iou_threshold: float, most: int) -> torch.Tensor:
    """`values` (B, K, A), with OUTSIDE where a better box of the same class overlaps by more than `iou_threshold`.

    Args:
        boxes: (B, A, 4).
        most: of a class, only so many survivors are wanted, the best.
    """
    from torchvision.ops import nms  # here, because it takes three seconds of CPU

    kept = torch.full_like(values, OUTSIDE)
    for image, label in (values > OUTSIDE).any(2).nonzero().tolist():
        row = values[image, label]
        anchors = (row > OUTSIDE).nonzero()[:, 0]
        anchors = anchors[nms(boxes[image, anchors], row[anchors], iou_threshold)[:most]]
        kept[image, label, anchors] = row[anchors]
    return kept


@survivors.register_fake
def _(boxes: torch.Tensor, values: torch.Tensor, iou_threshold: float, most: int) -> torch.Tensor:
    return torch.empty_like(values)
