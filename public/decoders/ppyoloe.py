"""PPYOLOE's raw outputs -> boxes and scores -> detections.

Paper: PP-YOLOE: An evolved version of YOLO, arXiv 2203.16250; box distribution of arXiv 2006.04388.
Follows PaddleDetection's PPYOLOEHead and MultiClassNMS; several classes may keep the same box.
Deviations: detections come by falling score, not class by class; equal scores have a fixed order (see `nms.py`).

Legend: B batch, A anchor points of all levels, K classes, N detections.
"""

import torch

from public.decoders.nms import multiclass_nms
from public.points import cell_points, distances_to_boxes, expected_distances
from public.precision import at_least_float32


class PPYOLOEDecoder:
    """Callable: `decoder(outputs)` is a list of B dicts of detections, `decoder.decode(outputs)` the dense step before.

    Args:
        strides: of the levels, in the order of the outputs.
        grid_cell_offset: place of a point in its cell.
        score_threshold, nms_iou, nms_top_k, keep_top_k: see `public.decoders.nms.multiclass_nms`.
    """

    def __init__(
        self,
        *,
        strides: tuple[int, ...],
        grid_cell_offset: float,
        score_threshold: float,
        nms_iou: float,
        nms_top_k: int,
        keep_top_k: int,
    ):
        self.strides = tuple(strides)
        self.grid_cell_offset = grid_cell_offset
        self.score_threshold = score_threshold
        self.nms_iou = nms_iou
        self.nms_top_k = nms_top_k
        self.keep_top_k = keep_top_k

    def decode(self, outputs) -> tuple[torch.Tensor, torch.Tensor]:
        """Boxes (B, A, 4) in network pixels, not clipped, and scores (B, A, K) in [0, 1], both float32."""
        with torch.autocast(outputs.class_logits.device.type, enabled=False):
            points, strides = cell_points(
                outputs.level_sizes, self.strides, offset=self.grid_cell_offset, device=outputs.box_logits.device
            )
            distances_ltrb = expected_distances(at_least_float32(outputs.box_logits)) * strides  # (B, A, 4) pixels
            return distances_to_boxes(points, distances_ltrb), at_least_float32(outputs.class_logits).sigmoid()

    def __call__(self, outputs) -> list[dict[str, torch.Tensor]]:
        """For each image `boxes` (N, 4) in network pixels, `scores` (N,), `labels` (N,) int64, by falling score.

        `anchors` (N,) int64 tells which point each box came from.
        """
        return [
            multiclass_nms(
                boxes,
                scores,
                score_threshold=self.score_threshold,
                iou_threshold=self.nms_iou,
                top_k_per_class=self.nms_top_k,
                keep_top_k=self.keep_top_k,
            )
            for boxes, scores in zip(*self.decode(outputs))
        ]
