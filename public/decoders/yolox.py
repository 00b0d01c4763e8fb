"""YOLOX's raw outputs -> boxes and scores -> detections.

Paper: YOLOX: Exceeding YOLO Series in 2021, arXiv 2107.08430; follows Megvii's `decode_outputs` and `postprocess`.
Deviations:
- A candidate has to score strictly above the threshold, as everywhere here; the original also keeps what equals it.
- One NMS method on every device; the original's `batched_nms` changes its method with the number of boxes.

Legend: B batch, A points of all levels, K classes.
"""

from typing import Any

import torch

from public.decoders.dense import DenseDecoder, best_class_only
from public.points import cell_points, codes_to_boxes
from public.precision import at_least_float32


class YOLOXDecoder(DenseDecoder):
    """The decoder of YOLOXOutputs.

    Args:
        strides: of the levels, in the order of the outputs.
        one_class_a_box: see DenseDecoder; as in the original, or a box is a candidate for each of its classes.
        clips_to_picture: whether boxes are cut off at the borders of the original picture, which the original leaves out.
        thresholds: those of DenseDecoder.
    """

    def __init__(self, *, strides: tuple[int, ...], one_class_a_box: bool, clips_to_picture: bool, **thresholds):
        super().__init__(**thresholds)
        self.strides = tuple(strides)
        self.one_class_a_box = one_class_a_box
        self.clips_to_picture = clips_to_picture

    def decode(self, outputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Boxes (B, A, 4) in network pixels, not clipped, and scores (B, A, K) in [0, 1], both float32.

        A score is the probability of an object times that of the class, for every class.
        """
        with torch.autocast(outputs.class_logits.device.type, enabled=False):
            corners, strides = cell_points(
                outputs.level_sizes, self.strides, offset=0.0, device=outputs.box_codes.device
            )
            boxes = codes_to_boxes(at_least_float32(outputs.box_codes), corners, strides)
            return boxes, self._scores(outputs)

    def candidate_scores(self, outputs: Any) -> torch.Tensor | None:
        """With `one_class_a_box` the scores (B, A, K) of each box's best class."""
        if not self.one_class_a_box:
            return None
        with torch.autocast(outputs.class_logits.device.type, enabled=False):
            return best_class_only(self._scores(outputs))

    def _scores(self, outputs: Any) -> torch.Tensor:
        objects = at_least_float32(outputs.object_logits).sigmoid()  # (B, A, 1)
        return objects * at_least_float32(outputs.class_logits).sigmoid()
