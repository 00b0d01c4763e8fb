"""Anchor boxes and offsets from them: what the decoders and the losses of anchor-based detectors both need.

Papers: Faster R-CNN, arXiv 1506.01497, section 3.1.2, for the coding; RetinaNet, arXiv 1708.02002, section 4, for the boxes
of a cell.

Legend: L levels, N boxes of a cell, A anchors of all levels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

MAX_LOG_SIZE = math.log(1000 / 16)  # of a decoded side against its anchor's, so that no exponential runs away
ANCHOR_STEPS = ("strides", "whole")  # between cells: the strides; image size by level size, rounded down (torchvision)


def cell_anchors(sizes: Sequence[float], ratios: Sequence[float], *, is_rounded: bool) -> torch.Tensor:
    """The boxes (N, 4) of a cell around (0, 0), in pixels: for each ratio, each size.

    Args:
        sizes: the square root of a box's area, in pixels.
        ratios: height to width.
        is_rounded: whether corners are rounded to whole pixels, halves to even.
    """
    heights = torch.tensor(ratios, dtype=torch.float32).sqrt()  # (ratios,)
    widths = 1 / heights
    scales = torch.tensor(sizes, dtype=torch.float32)  # (sizes,)
    half_width = (widths[:, None] * scales).flatten() / 2  # (N,)
    half_height = (heights[:, None] * scales).flatten() / 2
    boxes = torch.stack([-half_width, -half_height, half_width, half_height], dim=1)
    return boxes.round() if is_rounded else boxes


def anchors_of_levels(
    level_sizes: Sequence[tuple[int, int]],
    steps: Sequence[tuple[float, float]],
    cells: Sequence[torch.Tensor],
    *,
    offset: float,
    device: torch.device,
) -> torch.Tensor:
    """The anchors (A, 4) of all levels in pixels: level after level, rows before columns, the boxes of a cell together.

    Args:
        level_sizes: (height, width) of each level, in cells.
        steps: pixels from a cell to the next, down and to the right, of each level.
        cells: `cell_anchors` of each level.
        offset: place of an anchor's centre in its cell: 0 its upper left corner, 0.5 its centre.
    """
    if not len(level_sizes) == len(steps) == len(cells):
        raise ValueError(f"{len(level_sizes)} levels, {len(steps)} steps and {len(cells)} sets of anchors do not fit")
    anchors = []
    for (height, width), (down, right), boxes in zip(level_sizes, steps, cells):
        y = (torch.arange(height, device=device, dtype=torch.float32) + offset) * down
        x = (torch.arange(width, device=device, dtype=torch.float32) + offset) * right
        grid = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1).flatten(0, 1)  # (HW, 2)
        anchors.append((grid.repeat(1, 2)[:, None] + boxes.to(device)).flatten(0, 1))  # (HW * N, 4)
    return torch.cat(anchors)


def middles(boxes: torch.Tensor) -> torch.Tensor:
    """The middles (..., 2), x y, of boxes (..., 4)."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def nominal_steps(strides: Sequence[int]) -> tuple[tuple[float, float], ...]:
    """The strides of the network as the steps of each level."""
    return tuple((float(stride), float(stride)) for stride in strides)


def whole_steps(image_size: tuple[int, int], level_sizes: Sequence[tuple[int, int]]) -> tuple[tuple[float, float], ...]:
    """Image size divided by level size, rounded down: torchvision's steps, smaller than the strides where sides are odd."""
    return tuple((float(image_size[0] // height), float(image_size[1] // width)) for height, width in level_sizes)


def encode_boxes(anchors: torch.Tensor, boxes: torch.Tensor, *, std: Sequence[float]) -> torch.Tensor:
    """Boxes (..., 4) as offsets from anchors (..., 4): shift of the centre in anchor sides, log of the sides, over `std`.

    A box without width or height has a log of minus infinity: leave such boxes out.
    """
    left, top, right, bottom = anchors.unbind(-1)
    width, height = right - left, bottom - top
    box_left, box_top, box_right, box_bottom = boxes.unbind(-1)
    box_width, box_height = box_right - box_left, box_bottom - box_top
    dx = (box_left + box_right - left - right) / 2 / width
    dy = (box_top + box_bottom - top - bottom) / 2 / height
    deltas = (dx, dy, (box_width / width).log(), (box_height / height).log())
    return torch.stack([delta / one for delta, one in zip(deltas, std)], dim=-1)


def decode_boxes(
    anchors: torch.Tensor,
    deltas: torch.Tensor,
    *,
    std: Sequence[float],
    max_shift: float | None = None,
    min_log_size: float | None = None,
) -> torch.Tensor:
    """The inverse of `encode_boxes`: offsets (..., 4) from anchors (..., 4) -> boxes (..., 4), in pixels, not clipped.

    The log of a side ends at MAX_LOG_SIZE.

    Args:
        max_shift: the largest shift of the centre along each axis, in pixels; None: any (YOLOF has 32).
        min_log_size: where the log of a side ends below; None: nowhere (MMDetection's RetinaNet has -MAX_LOG_SIZE).
    """
    left, top, right, bottom = anchors.unbind(-1)
    width, height = right - left, bottom - top
    dx, dy, log_width, log_height = (delta * one for delta, one in zip(deltas.unbind(-1), std))
    shift_x, shift_y = dx * width, dy * height
    if max_shift is not None:
        shift_x, shift_y = shift_x.clamp(-max_shift, max_shift), shift_y.clamp(-max_shift, max_shift)
    x, y = (left + right) / 2 + shift_x, (top + bottom) / 2 + shift_y
    half_width = log_width.clamp(min_log_size, MAX_LOG_SIZE).exp() * width / 2
    half_height = log_height.clamp(min_log_size, MAX_LOG_SIZE).exp() * height / 2
    return torch.stack([x - half_width, y - half_height, x + half_width, y + half_height], dim=-1)


@dataclass(frozen=True, kw_only=True)
class AnchorCoding:
    """Where the anchors of a detector lie, and how offsets from them become boxes; loss and decoder share one.

    Fields:
        strides: of the levels, in the order of the outputs.
        scales: square roots of the areas of a cell's boxes, in strides of their level.
        ratios: height to width, each with every scale.
        is_rounded: the square roots are rounded down to whole pixels and then the corners to the nearest, as torchvision's.
        offset: place of the boxes' centre in their cell; 0 is the upper left corner, 0.5 the centre.
        steps: one of ANCHOR_STEPS.
        std: of the four offsets, see `encode_boxes`.
        min_log_size: see `decode_boxes`.
    """

    strides: tuple[int, ...]
    scales: tuple[float, ...]
    ratios: tuple[float, ...]
    is_rounded: bool
    offset: float
    steps: str
    std: tuple[float, float, float, float]
    min_log_size: float | None

    @property
    def num_in_cell(self) -> int:
        return len(self.scales) * len(self.ratios)

    def anchors(self, outputs: Any) -> torch.Tensor:
        """The anchors (A, 4) in pixels, float32, of outputs that have `box_deltas`, `level_sizes` and `image_size`."""
        cells = []
        for stride in self.strides:
            sizes = [scale * stride for scale in self.scales]
            sizes = [float(int(size)) for size in sizes] if self.is_rounded else sizes
            cells.append(cell_anchors(sizes, self.ratios, is_rounded=self.is_rounded))
        is_whole = self.steps == "whole"
        steps = whole_steps(outputs.image_size, outputs.level_sizes) if is_whole else nominal_steps(self.strides)
        return anchors_of_levels(
            outputs.level_sizes, steps, cells, offset=self.offset, device=outputs.box_deltas.device
        )

    def deltas(self, anchors: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        """Boxes (..., 4) as offsets from anchors (..., 4)."""
        return encode_boxes(anchors, boxes, std=self.std)

    def boxes(self, anchors: torch.Tensor, deltas: torch.Tensor) -> torch.Tensor:
        """Offsets (..., 4) from anchors (..., 4) as boxes (..., 4) in pixels, not clipped."""
        return decode_boxes(anchors, deltas, std=self.std, min_log_size=self.min_log_size)
