"""FCOS's assigner: a point learns the object that it lies in, on the level that is responsible for the object's size.

Papers: FCOS, arXiv 1904.01355, section 3.2, for the ranges; arXiv 2006.09214, section 3.1.1, for centre sampling.
Follows torchvision's FCOS and MMDetection's FCOSHead, which agree on everything that is no argument here.
Deviations:
- Of objects of equal area the first one wins, on every device.

Legend: A points of all levels, L levels, G ground truths of one image.
"""

import math

import torch

from public.losses.assigners.assignment import BACKGROUND, points_inside

RANGE_ENDS = ("open", "closed")  # a distance of exactly a limit is of neither level, or of both


class SizeRangeAssigner:
    """An object claims the points inside it, near its centre, whose farthest side is in the range of their level.

    Of several objects that claim a point the smallest one wins.

    Args:
        limits: between the ranges of one level and the next, in pixels, rising; the first range begins at 0, the last has
            no end.
        ends: one of RANGE_ENDS.
        centre_radius: in strides; an object claims points whose x and y are nearer than this to its centre's; None: all.
        area_rounding: square pixels to a multiple of which areas are rounded before they are compared; None: not at all.
    """

    def __init__(
        self, *, limits: tuple[float, ...], ends: str, centre_radius: float | None, area_rounding: float | None
    ):
        if ends not in RANGE_ENDS:
            raise ValueError(f"ends={ends!r}: write {' or '.join(RANGE_ENDS)}")
        self.lowest = (0.0, *limits)
        self.highest = (*limits, math.inf)
        self.ends = ends
        self.centre_radius = centre_radius
        self.area_rounding = area_rounding

    def __call__(
        self,
        *,
        points: torch.Tensor,
        strides: torch.Tensor,
        level_sizes: tuple[tuple[int, int], ...],
        boxes: torch.Tensor,
    ) -> torch.Tensor:
        """The number of the object that each point learns, (..., A) int64, BACKGROUND where there is none.

        Args:
            points: (A, 2) in pixels; `strides`: (A, 1).
            level_sizes: (height, width) of the L levels, whose points follow each other.
            boxes: (..., G, 4) in pixels, the objects of one image, or of several; one without area claims no point.

        Raises:
            ValueError: another number of levels than of ranges.
        """
        if len(level_sizes) != len(self.lowest):
            raise ValueError(f"{len(level_sizes)} levels, but ranges for {len(self.lowest)}: {self.lowest}")
        if boxes.shape[-2] == 0:
            return torch.full((*boxes.shape[:-2], len(points)), BACKGROUND, device=points.device)
        is_claimed = points_inside(points, boxes, margin=0.0) & self._is_in_range(points, level_sizes, boxes)
        if self.centre_radius is not None:
            centres = (boxes[..., :2] + boxes[..., 2:]) / 2
            for axis in (0, 1):
                offsets = (points[:, axis] - centres[..., axis, None]).abs_()  # (..., G, A)
                is_claimed &= offsets < self.centre_radius * strides[:, 0]
        areas = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
        if self.area_rounding is not None:
            areas = (areas / self.area_rounding).round() * self.area_rounding
        by_area = areas.argsort(dim=-1, stable=True)  # (..., G)
        in_order = is_claimed.gather(-2, by_area[..., None].expand(is_claimed.shape))
        first_claim = in_order.to(torch.uint8).argmax(-2)  # argmax returns the first of equal values
        return torch.where(is_claimed.any(-2), by_area.gather(-1, first_claim), BACKGROUND)

    def _is_in_range(
        self, points: torch.Tensor, level_sizes: tuple[tuple[int, int], ...], boxes: torch.Tensor
    ) -> torch.Tensor:
        """True where the farthest side of a box (..., G, 4) is in the range of the point's level, (..., G, A)."""
        x, y = points[:, 0], points[:, 1]
        left, top, right, bottom = boxes[..., None].unbind(-2)  # (..., G, 1) each
        farthest = x - left  # (..., G, A)
        for distances in (y - top, right - x, bottom - y):
            farthest = torch.maximum(farthest, distances)
        in_range = []
        lengths = [height * width for height, width in level_sizes]
        for level, low, high in zip(farthest.split(lengths, dim=-1), self.lowest, self.highest):
            is_closed = self.ends == "closed"
            in_range.append((level >= low) & (level <= high) if is_closed else (level > low) & (level < high))
        return torch.cat(in_range, dim=-1)
