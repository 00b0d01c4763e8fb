"""PPYOLOE's raw outputs -> boxes and scores -> detections.

Paper: PP-YOLOE: An evolved version of YOLO, arXiv 2203.16250; box distribution of arXiv 2006.04388.
Follows PaddleDetection's PPYOLOEHead and MultiClassNMS; several classes may keep the same box.
Deviations: detections come by falling score, not class by class; equal scores have a fixed order (see `nms.py`).

Legend: B batch, A anchor points of all levels, K classes, N detections.
"""

from typing import Any

import torch

from public.decoders.dense import DenseDecoder
from public.points import cell_points, distances_to_boxes, expected_distances
from public.precision import at_least_float32


class PPYOLOEDecoder(DenseDecoder):
    """The decoder of PPYOLOEOutputs.  A detector with other outputs derives from it and gives their scores and distances.

    Args:
        strides: of the levels, in the order of the outputs.
        grid_cell_offset: place of a point in its cell.
        thresholds: those of DenseDecoder.
    """

    def __init__(self, *, strides: tuple[int, ...], grid_cell_offset: float, **thresholds):
        super().__init__(**thresholds)
        self.strides = tuple(strides)
        self.grid_cell_offset = grid_cell_offset

    def decode(self, outputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Boxes (B, A, 4) in network pixels, not clipped, and scores (B, A, K) in [0, 1], both float32."""
        with torch.autocast(outputs.class_logits.device.type, enabled=False):
            points, strides = cell_points(
                outputs.level_sizes, self.strides, offset=self.grid_cell_offset, device=outputs.box_logits.device
            )
            return distances_to_boxes(points, self.distances(outputs) * strides), self.scores(outputs)

    def scores(self, outputs: Any) -> torch.Tensor:
        """The probability of each class at each point, (B, A, K), at least float32."""
        return at_least_float32(outputs.class_logits).sigmoid()

    def distances(self, outputs: Any) -> torch.Tensor:
        """The distances of each point to the sides of its box, (B, A, 4), in strides."""
        return expected_distances(at_least_float32(outputs.box_logits))
