"""Points, distances and boxes: what the decoders and the losses of anchor-free detectors both need.

Legend: B batch, A anchor points of all levels, R = reg_max + 1 regression bins.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from public.anchors import whole_steps

POINT_STEPS = ("strides", "whole")  # between points: the strides; image size by level size, rounded down (torchvision)
RAW_DISTANCES = ("exp_pixels", "relu_strides")  # how a raw distance becomes one
MAX_LOG_DISTANCE = 16.0  # of an exponential: 9 million pixels, so that areas stay finite in float32


def cell_points(
    level_sizes: tuple[tuple[int, int], ...],
    strides: tuple[int, ...],
    *,
    offset: float,
    device: torch.device,
    steps: Sequence[tuple[float, float]] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One point a cell of each level, level after level, rows before columns.

    Args:
        level_sizes: (height, width) of each level, in cells.
        strides: pixels a cell of each level, in the same order.
        offset: place of the point in its cell; 0.5 is the centre.
        device: of the results.
        steps: pixels from a point to the next, down and to the right, of each level; None: the strides.

    Returns:
        points (A, 2), x y in network pixels, and the stride of each, (A, 1), both float32.
    """
    if len(level_sizes) != len(strides):
        raise ValueError(f"{len(level_sizes)} levels of sizes {level_sizes} but {len(strides)} strides {strides}")
    points, point_strides = [], []
    for (height, width), stride, (down, right) in zip(level_sizes, strides, steps or [(s, s) for s in strides]):
        y = (torch.arange(height, device=device, dtype=torch.float32) + offset) * down
        x = (torch.arange(width, device=device, dtype=torch.float32) + offset) * right
        grid = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1)  # (H, W, 2)
        points.append(grid.flatten(0, 1))
        point_strides.append(torch.full((height * width, 1), float(stride), device=device))
    return torch.cat(points), torch.cat(point_strides)


def expected_distances(box_logits: torch.Tensor, bins: torch.Tensor | None = None) -> torch.Tensor:
    """The mean of each side's distribution over its bins: (..., 4 * R) -> (..., 4), in strides.

    Source: Generalized Focal Loss, arXiv 2006.04388, equation 5.  Written as a sum, not as a matrix product: that one
    loses digits where TF32 is on.

    Args:
        bins: (R,), the distance that each bin stands for; None: 0, 1, ..., reg_max.
    """
    probabilities = box_logits.unflatten(-1, (4, -1)).softmax(-1)  # (..., 4, R)
    if bins is None:
        bins = torch.arange(probabilities.shape[-1], device=box_logits.device, dtype=box_logits.dtype)
    return (probabilities * bins.to(box_logits.dtype)).sum(-1)


def distances_to_boxes(points: torch.Tensor, distances_ltrb: torch.Tensor) -> torch.Tensor:
    """Boxes (..., 4) around `points` (..., 2) from the distances (..., 4) to their left, top, right and bottom side."""
    left_top, right_bottom = distances_ltrb.chunk(2, dim=-1)
    return torch.cat([points - left_top, points + right_bottom], dim=-1)


def boxes_to_distances(points: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """The inverse of `distances_to_boxes`; a side on the other side of its point has a negative distance."""
    return torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], dim=-1)


def codes_to_boxes(codes: torch.Tensor, corners: torch.Tensor, strides: torch.Tensor) -> torch.Tensor:
    """YOLOX's boxes: centres from the corners of their cells, sides as logarithms, both in strides.

    Args:
        codes: (..., A, 4): x and y from the corner to the centre, log of the width, log of the height.
        corners: (A, 2) in pixels, the points of `cell_points` with offset 0; `strides`: (A, 1).

    Returns:
        boxes (..., A, 4) in pixels.
    """
    centres = corners + codes[..., :2] * strides
    half_sides = codes[..., 2:].exp() * strides / 2
    return torch.cat([centres - half_sides, centres + half_sides], dim=-1)


def boxes_to_codes(boxes: torch.Tensor, corners: torch.Tensor, strides: torch.Tensor, *, eps: float) -> torch.Tensor:
    """The inverse of `codes_to_boxes`, for boxes (A, 4); `eps`, in strides, keeps the log of a side of 0 finite."""
    left_top, right_bottom = boxes.chunk(2, dim=-1)
    centres = ((left_top + right_bottom) / 2 - corners) / strides
    return torch.cat([centres, ((right_bottom - left_top) / strides + eps).log()], dim=-1)


@dataclass(frozen=True, kw_only=True)
class PointCoding:
    """Where the points of a detector lie, and how its raw distances become boxes; loss and decoder share one.

    Fields:
        strides: of the levels, in the order of the outputs.
        offset: place of a point in its cell; 0 is the upper left corner, 0.5 the centre.
        steps: one of POINT_STEPS.
        raw: one of RAW_DISTANCES: the exponential, in pixels; or ReLU, in strides.
    """

    strides: tuple[int, ...]
    offset: float
    steps: str
    raw: str

    def points(self, outputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """The points (A, 2) in pixels and their strides (A, 1), float32, of outputs with level and image sizes."""
        return cell_points(
            outputs.level_sizes,
            self.strides,
            offset=self.offset,
            device=outputs.raw_distances.device,
            steps=whole_steps(outputs.image_size, outputs.level_sizes) if self.steps == "whole" else None,
        )

    def boxes(self, points: torch.Tensor, strides: torch.Tensor, raw: torch.Tensor) -> torch.Tensor:
        """Boxes (..., 4) in pixels around points (..., 2) of `strides` (..., 1), from raw distances (..., 4)."""
        if self.raw == "exp_pixels":
            return distances_to_boxes(points, raw.clamp(max=MAX_LOG_DISTANCE).exp())
        return distances_to_boxes(points, raw.relu() * strides)
