"""CenterNet's loss: penalty-reduced focal loss on the heat map, L1 on sizes and offsets at the objects' centres.

Paper: Objects as Points, arXiv 1904.07850, section 3.  Follows the original and MMDetection's CenterNetHead, whose
differences are arguments.
Deviations:
- From logits, see `penalty_reduced_focal_loss`.
- A centre on the right or lower border of the image belongs to the last cell; the original reads beyond the map there.
- Any number of objects an image; the original stops at 128.

Legend: B batch, A = H * W cells of the map, G objects of an image, K classes, N objects of the batch.
"""

from typing import Any, NamedTuple

import numpy as np
import torch

from public.losses.assigners.assignment import BACKGROUND, joined, parts_of_batch
from public.losses.assigners.uniform import last_match
from public.losses.dense import DenseLoss, Targets
from public.losses.focal import penalty_reduced_focal_loss
from public.losses.heatmap import draw_heatmaps, gaussian_radii
from public.parallel.collectives import share_of_sum
from public.points import cell_points
from public.precision import at_least_float32
from public.protocols import Progress

SHARED_CELLS = ("each", "last")  # of several objects in one cell, which teach their size and offset: each, or the last
BOX_NORMALISERS = ("objects", "peaks")  # what the terms of the boxes are divided by: numbers of objects, or of peaks


class CenterNetTargets(NamedTuple):
    """What one image has to teach, or B images one after the other: `...` is nothing, or B.

    `heatmap` (..., K, H, W); of each object `cells` int64 (N,), the number of its cell, counted through all images;
    `sizes_wh` (N, 2) and `offsets_xy` (N, 2) in cells; `is_used` (N,), 1 where size and offset are learnt, else 0.
    """

    heatmap: torch.Tensor
    cells: torch.Tensor
    sizes_wh: torch.Tensor
    offsets_xy: torch.Tensor
    is_used: torch.Tensor


class CenterNetLoss(DenseLoss):
    """Callable: `loss(outputs, targets, progress)` is a dict of weighted scalars whose sum is what is trained.

    Args:
        stride: of the map against the images.
        num_classes: K.
        radius_overlap, radius_rule: of the Gaussians, see `public.losses.heatmap.gaussian_radii`.
        focal_alpha, focal_beta: see `public.losses.focal.penalty_reduced_focal_loss`.
        shared_cell: one of SHARED_CELLS.  The original has "each", MMDetection "last".
        box_normaliser: one of BOX_NORMALISERS, times the two numbers that each object has.  The original divides by objects,
            MMDetection by the peaks of the heat map, of which objects of one class in one cell share one.
        weights: of the terms, `{"heatmap": ..., "size": ..., "offset": ...}`.
    """

    def __init__(
        self,
        *,
        stride: int,
        num_classes: int,
        radius_overlap: float,
        radius_rule: str,
        focal_alpha: float,
        focal_beta: float,
        shared_cell: str,
        box_normaliser: str,
        weights: dict[str, float],
    ):
        super().__init__(num_classes=num_classes, weights=weights)
        self.stride = stride
        self.radius_overlap = radius_overlap
        self.radius_rule = radius_rule
        self.focal_alpha = focal_alpha
        self.focal_beta = focal_beta
        self.shared_cell = shared_cell
        self.box_normaliser = box_normaliser

    @torch.no_grad()
    def assign(self, target: dict[str, torch.Tensor], size: tuple[int, int]) -> CenterNetTargets:
        """What one image's objects, as `__call__` takes them, have to teach on a map of `size` (height, width)."""
        assigned = self._assign([target], size)
        return assigned._replace(heatmap=assigned.heatmap[0])

    @torch.no_grad()
    def _assign(self, targets: Targets, size: tuple[int, int]) -> CenterNetTargets:
        """What all images have to teach."""
        height, width = size
        counts = [len(target["labels"]) for target in targets]
        parts = []
        for images in parts_of_batch(counts, height * width):
            part = self._assign_together(targets[images], counts[images], size)
            parts.append(part._replace(cells=part.cells + images.start * height * width))
        return joined(parts)

    def _assign_together(self, targets: Targets, counts: list[int], size: tuple[int, int]) -> CenterNetTargets:
        height, width = size
        boxes = at_least_float32(torch.cat([target["boxes"] for target in targets])) / self.stride  # (N, 4) cells
        left, top, right, bottom = boxes.unbind(1)
        widths, heights = right - left, bottom - top
        x, y = (left + right) / 2, (top + bottom) / 2
        columns = x.floor().clamp(0, width - 1)
        rows = y.floor().clamp(0, height - 1)
        radii = gaussian_radii(widths, heights, overlap=self.radius_overlap, rule=self.radius_rule)
        labels = torch.cat([target["labels"] for target in targets])
        shape: dict[str, Any] = {"num_classes": self.num_classes, "size": size}
        heatmap = draw_heatmaps(columns.long(), rows.long(), radii, labels, counts=counts, **shape)
        images = torch.from_numpy(np.repeat(np.arange(len(counts)), counts)).to(labels.device, non_blocking=True)
        cells = (images * height + rows.long()) * width + columns.long()
        is_used = torch.ones_like(x)
        if self.shared_cell == "last" and len(cells):
            last, _ = last_match(cells, len(counts) * height * width)
            is_used = (last[cells] == torch.arange(len(cells), device=cells.device)).to(x.dtype)
        sizes, offsets = torch.stack([widths, heights], dim=1), torch.stack([x - columns, y - rows], dim=1)
        return CenterNetTargets(heatmap, cells, sizes, offsets, is_used)

    def terms(self, outputs, targets: Targets, progress: Progress) -> dict[str, torch.Tensor]:
        """`heatmap`, `size` and `offset` of CenterNetOutputs."""
        assigned = self._assign(targets, outputs.level_sizes[0])
        wanted = assigned.heatmap.flatten(2).transpose(1, 2)  # (B, A, K)
        logits = at_least_float32(outputs.class_logits)
        losses = penalty_reduced_focal_loss(logits, wanted, alpha=self.focal_alpha, beta=self.focal_beta)
        num_peaks = share_of_sum((assigned.heatmap == 1).sum().to(logits.dtype))
        num_boxes = num_peaks if self.box_normaliser == "peaks" else share_of_sum(assigned.is_used.sum())
        return {
            "heatmap": losses.sum() / num_peaks,
            "size": _distance(outputs.sizes_wh, assigned, assigned.sizes_wh) / (2 * num_boxes),
            "offset": _distance(outputs.offsets_xy, assigned, assigned.offsets_xy) / (2 * num_boxes),
        }

    def points(self, outputs: Any) -> torch.Tensor:
        """See `DenseLoss.points`."""
        return cell_points(outputs.level_sizes, (self.stride,), offset=0.5, device=outputs.class_logits.device)[0]

    def objects(self, outputs: Any, targets: Targets, progress: Progress) -> torch.Tensor:
        """See `DenseLoss.objects`: an object is learnt at the cell of its centre, of several in one cell the last is told."""
        num_cells = outputs.class_logits.shape[1]
        learnt = []
        for target in targets:
            cells = self.assign(target, outputs.level_sizes[0]).cells
            objects = torch.full((num_cells,), BACKGROUND, device=cells.device)
            if len(cells):
                last, is_centre = last_match(cells, num_cells)
                objects = torch.where(is_centre, last, objects)
            learnt.append(objects)
        return torch.stack(learnt)


def _distance(predicted: torch.Tensor, assigned: CenterNetTargets, true: torch.Tensor) -> torch.Tensor:
    """The sum over all objects of |predicted - true| of two numbers; predicted (B, A, 2), true (N, 2).

    Without any object an empty sum: 0, and still connected to `predicted`.
    """
    found = at_least_float32(predicted.flatten(0, 1).index_select(0, assigned.cells))  # (N, 2)
    return ((found - true).abs() * assigned.is_used[:, None]).sum()
