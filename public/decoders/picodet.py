"""PicoDet's raw outputs -> boxes and scores -> detections.

Paper: PP-PicoDet: A Better Real-Time Object Detector on Mobile Devices, arXiv 2111.00902; box distribution of arXiv
2006.04388.  Follows PaddleDetection's PicoHeadV2 (PicoHead for the models of 2021) and MultiClassNMS; several classes may
keep the same box.
Deviations: detections come by falling score, not class by class; equal scores have a fixed order (see `nms.py`).

Legend: B batch, A points of all levels, K classes.
"""

from typing import Any

import torch

from public.decoders.dense import DenseDecoder
from public.points import cell_points, distances_to_boxes, expected_distances
from public.precision import at_least_float32


class PicoDetDecoder(DenseDecoder):
    """The decoder of PicoDetOutputs.

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
            distances_ltrb = expected_distances(at_least_float32(outputs.box_logits), outputs.bins) * strides
            return distances_to_boxes(points, distances_ltrb), outputs.scores()
