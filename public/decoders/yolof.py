"""YOLOF's raw outputs -> boxes and scores -> detections.

Paper: You Only Look One-level Feature, arXiv 2103.09460.
Follows MMDetection's YOLOFHead: one image's best candidates of all classes together go into NMS, cut off at the borders of
the network's image; what lies beyond them is left out.
Deviation: equal scores have a fixed order (see `nms.py`).

Legend: B batch, A anchors, K classes.
"""

from collections.abc import Callable
from typing import Any

import torch

from public.decoders.dense import DenseDecoder
from public.precision import at_least_float32


class YOLOFDecoder(DenseDecoder):
    """The decoder of YOLOFOutputs.

    Args:
        make_anchors: (level_sizes, device=...) -> anchors (A, 4) in pixels.
        decode_boxes: (anchors, deltas) -> boxes, both (..., 4).
        thresholds: those of DenseDecoder.
    """

    candidates_of = "level"
    is_clipped = True
    drops_empty = True

    def __init__(
        self, *, make_anchors: Callable[..., torch.Tensor], decode_boxes: Callable[..., torch.Tensor], **thresholds
    ):
        super().__init__(**thresholds)
        self.make_anchors = make_anchors
        self.decode_boxes = decode_boxes

    def level_lengths(self, outputs: Any) -> list[int]:
        """There is one level."""
        return [outputs.class_logits.shape[1]]

    def decode(self, outputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Boxes (B, A, 4) in network pixels, not clipped, and scores (B, A, K) in [0, 1], both float32."""
        with torch.autocast(outputs.class_logits.device.type, enabled=False):
            deltas = at_least_float32(outputs.box_deltas)
            anchors = self.make_anchors(outputs.level_sizes, device=deltas.device)
            return self.decode_boxes(anchors, deltas), at_least_float32(outputs.class_logits).sigmoid()
