"""FCOS's raw outputs -> boxes and scores -> detections.

Papers: FCOS, arXiv 1904.01355, section 3.3; arXiv 2006.09214 for the square root.
Follows torchvision's FCOS and MMDetection's FCOSHead, which differ in the score and in what makes a candidate: both are
arguments.
Deviations: equal scores have a fixed order (see `nms.py`).

Legend: B batch, A points of all levels, K classes.
"""

from typing import Any

import torch

from public.decoders.dense import DenseDecoder
from public.points import PointCoding
from public.precision import at_least_float32

SCORES = ("product", "sqrt")  # of class probability and centre-ness, or its square root
CANDIDATES_BY = ("score", "class")  # what the threshold and the choice of each level look at


class FCOSDecoder(DenseDecoder):
    """The decoder of FCOSOutputs.

    Args:
        coding: where the points lie, and how raw distances become boxes.
        score: one of SCORES.
        candidates_by: one of CANDIDATES_BY; by "class" a detection's score may be below the threshold.
        drops_empty: see DenseDecoder.
        thresholds: those of DenseDecoder.
    """

    candidates_of = "level"
    is_clipped = True

    def __init__(self, *, coding: PointCoding, score: str, candidates_by: str, drops_empty: bool, **thresholds):
        super().__init__(**thresholds)
        self.coding = coding
        self.score = score
        self.candidates_by = candidates_by
        self.drops_empty = drops_empty

    def decode(self, outputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Boxes (B, A, 4) in network pixels, not clipped, and scores (B, A, K) in [0, 1], both float32."""
        with torch.autocast(outputs.class_logits.device.type, enabled=False):
            points, strides = self.coding.points(outputs)
            boxes = self.coding.boxes(points, strides, at_least_float32(outputs.raw_distances))
            centreness = at_least_float32(outputs.centreness_logits).sigmoid()
            scores = at_least_float32(outputs.class_logits).sigmoid() * centreness[..., None]
            return boxes, scores.sqrt() if self.score == "sqrt" else scores

    def candidate_scores(self, outputs: Any) -> torch.Tensor | None:
        return at_least_float32(outputs.class_logits).sigmoid() if self.candidates_by == "class" else None
