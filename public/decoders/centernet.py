"""CenterNet's raw outputs -> the peaks of its heat map -> detections.

Paper: Objects as Points, arXiv 1904.07850, section 4.  Follows MMDetection's CenterNetHead: the best peaks of all classes
together, without NMS.
Deviations: equal scores have a fixed order (see `nms.py`); a cell that is no peak is no detection, also where there are fewer
peaks than wanted.

Legend: B batch, A = H * W cells of the map, K classes.
"""

from typing import Any

import torch
from torch.nn import functional as F

from public.decoders.dense import DenseDecoder
from public.points import cell_points
from public.precision import at_least_float32

WINDOW = 3  # side of the square, in cells, in which a peak is the highest


class CenterNetDecoder(DenseDecoder):
    """The decoder of CenterNetOutputs.

    Args:
        stride: of the map against the images.
        score_threshold, nms_iou, keep_top_k: those of DenseDecoder; nms_iou None: no NMS.
    """

    def __init__(self, *, stride: int, score_threshold: float, nms_iou: float | None, keep_top_k: int):
        super().__init__(score_threshold=score_threshold, nms_iou=nms_iou, nms_top_k=keep_top_k, keep_top_k=keep_top_k)
        self.stride = stride

    def decode(self, outputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Boxes (B, A, 4) in network pixels, not clipped, and scores (B, A, K) in [0, 1], 0 at no peak, both float32."""
        with torch.autocast(outputs.class_logits.device.type, enabled=False):
            corners, _ = cell_points(
                outputs.level_sizes, (self.stride,), offset=0.0, device=outputs.class_logits.device
            )  # (A, 2) pixels
            centres = corners + at_least_float32(outputs.offsets_xy) * self.stride  # (B, A, 2)
            halves = at_least_float32(outputs.sizes_wh) * self.stride / 2
            scores = at_least_float32(outputs.class_logits).sigmoid()
            return torch.cat([centres - halves, centres + halves], dim=-1), peaks(scores, outputs.level_sizes[0])


def peaks(scores: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Scores (B, A, K) of a map of `size` (height, width), and 0 where one of the eight cells around has a higher one."""
    maps = scores.transpose(1, 2).unflatten(2, size)  # (B, K, H, W)
    highest = F.max_pool2d(maps, WINDOW, stride=1, padding=WINDOW // 2)
    return torch.where(maps < highest, 0, maps).flatten(2).transpose(1, 2)  # what is no number stays none
