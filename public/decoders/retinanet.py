"""RetinaNet's raw outputs -> boxes and scores -> detections.

Paper: Focal Loss for Dense Object Detection, arXiv 1708.02002, section 4.1.
Follows torchvision's and MMDetection's RetinaNet, which differ in anchors and in how small a box may become: see
`public.anchors.AnchorCoding`.
Deviations: equal scores have a fixed order (see `nms.py`).

Legend: B batch, A anchors of all levels, K classes.
"""

from typing import Any

import torch

from public.anchors import AnchorCoding
from public.decoders.dense import DenseDecoder
from public.precision import at_least_float32


class RetinaNetDecoder(DenseDecoder):
    """The decoder of RetinaNetOutputs.

    Args:
        coding: where the anchors lie, and how offsets from them become boxes.
        drops_empty: see DenseDecoder.
        thresholds: those of DenseDecoder.
    """

    candidates_of = "level"
    is_clipped = True

    def __init__(self, *, coding: AnchorCoding, drops_empty: bool, **thresholds):
        super().__init__(**thresholds)
        self.coding = coding
        self.drops_empty = drops_empty

    def level_lengths(self, outputs: Any) -> list[int]:
        return [self.coding.num_in_cell * length for length in super().level_lengths(outputs)]

    def decode(self, outputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Boxes (B, A, 4) in network pixels, not clipped, and scores (B, A, K) in [0, 1], both float32."""
        with torch.autocast(outputs.class_logits.device.type, enabled=False):
            boxes = self.coding.boxes(self.coding.anchors(outputs), at_least_float32(outputs.box_deltas))
            return boxes, at_least_float32(outputs.class_logits).sigmoid()
