"""Overlap of boxes.

torchvision's functions are not used because the originals guard their quotients with an epsilon of their own, which
decides the value for boxes without area.

Boxes are x1 y1 x2 y2.  Legend: N, M numbers of boxes.
"""

import torch


def areas(boxes: torch.Tensor) -> torch.Tensor:
    """(..., 4) -> (...); 0 for a box whose sides are crossed."""
    left, top, right, bottom = boxes.unbind(-1)
    return (right - left).clamp(min=0) * (bottom - top).clamp(min=0)


def intersections(boxes: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Common area of boxes (..., 4) and (..., 4), shapes broadcast, -> (...)."""
    left, top, right, bottom = boxes.unbind(-1)
    other_left, other_top, other_right, other_bottom = others.unbind(-1)
    width = torch.minimum(right, other_right) - torch.maximum(left, other_left)
    height = torch.minimum(bottom, other_bottom) - torch.maximum(top, other_top)
    return width.clamp(min=0) * height.clamp(min=0)


def iou(boxes: torch.Tensor, others: torch.Tensor, *, eps: float) -> torch.Tensor:
    """Intersection over (union + eps) of boxes (..., 4) and (..., 4), shapes broadcast, -> (...) in [0, 1]."""
    common = intersections(boxes, others)
    return common / (areas(boxes) + areas(others) - common + eps)


def pairwise_iou(boxes: torch.Tensor, others: torch.Tensor, *, eps: float) -> torch.Tensor:
    """The IoU of each of `boxes` (..., N, 4) with each of `others` (..., M, 4), as (..., N, M)."""
    return iou(boxes[..., :, None, :], others[..., None, :, :], eps=eps)


def giou(boxes: torch.Tensor, others: torch.Tensor, *, eps: float) -> torch.Tensor:
    """Generalised IoU of boxes (..., 4) and (..., 4), shapes broadcast, -> (...) in (-1, 1].

    IoU less the share of the smallest common frame that neither box fills.  Source: arXiv 1902.09630.
    """
    common = intersections(boxes, others)
    union = areas(boxes) + areas(others) - common + eps
    left_top = torch.minimum(boxes[..., :2], others[..., :2])
    right_bottom = torch.maximum(boxes[..., 2:], others[..., 2:])
    frame_width, frame_height = (right_bottom - left_top).unbind(-1)
    frame = frame_width * frame_height + eps
    return common / union - (frame - union) / frame
