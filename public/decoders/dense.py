"""What the decoders of all dense detectors share: from dense boxes and scores to detections.

Legend: B batch, A anchors or points of all levels, K classes, N detections.
"""

from typing import Any

import torch

from public.decoders.nms import multiclass_nms


class DenseDecoder:
    """Callable: `decoder(outputs)` is a list of B dicts of detections, `decoder.decode(outputs)` the dense step before.

    A detector's decoder derives from it and gives `decode`.

    Args:
        score_threshold, nms_iou, nms_top_k, keep_top_k: see `public.decoders.nms.multiclass_nms`.
    """

    def __init__(self, *, score_threshold: float, nms_iou: float, nms_top_k: int, keep_top_k: int):
        self.score_threshold = score_threshold
        self.nms_iou = nms_iou
        self.nms_top_k = nms_top_k
        self.keep_top_k = keep_top_k

    def decode(self, outputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Boxes (B, A, 4) in network pixels, not clipped, and scores (B, A, K) in [0, 1], both float32."""
        raise NotImplementedError(f"{type(self).__name__} has to say how its outputs become boxes and scores")

    def __call__(self, outputs: Any) -> list[dict[str, torch.Tensor]]:
        """For each image `boxes` (N, 4) in network pixels, `scores` (N,), `labels` (N,) int64, by falling score.

        `anchors` (N,) int64 tells which point each box came from.

        Raises:
            ValueError: a box or a score is NaN or infinite.  A score that is NaN is above no threshold, so that a broken
                network would find nothing, without a word.
        """
        all_boxes, all_scores = self.decode(outputs)
        if not (all_boxes.isfinite().all() & all_scores.isfinite().all()):
            raise ValueError("the network's outputs are NaN or infinite, so its weights are broken; they find nothing")
        return [
            multiclass_nms(
                boxes,
                scores,
                score_threshold=self.score_threshold,
                iou_threshold=self.nms_iou,
                top_k_per_class=self.nms_top_k,
                keep_top_k=self.keep_top_k,
            )
            for boxes, scores in zip(all_boxes, all_scores)
        ]
