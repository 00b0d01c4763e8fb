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
        score_threshold, nms_iou, keep_top_k: see `public.decoders.nms.multiclass_nms`.
        nms_top_k: candidates that go on: of each class, or of each level, by `candidates_of`; None: all.
    """

    candidates_of = "class"  # or "level"
    clips_to_picture = True  # whether boxes in pixels of the original picture are cut off at its borders, after NMS
    is_clipped = False  # whether boxes are cut off at the borders of the network's image before NMS

    def __init__(self, *, score_threshold: float, nms_iou: float, nms_top_k: int | None, keep_top_k: int | None):
        self.score_threshold = score_threshold
        self.nms_iou = nms_iou
        self.nms_top_k = nms_top_k
        self.keep_top_k = keep_top_k

    def level_lengths(self, outputs: Any) -> list[int]:
        """Anchors of each level, for `candidates_of = "level"`: one a cell, unless a detector overrides it."""
        return [height * width for height, width in outputs.level_sizes]

    def decode(self, outputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Boxes (B, A, 4) in network pixels, not clipped, and scores (B, A, K) in [0, 1], both float32."""
        raise NotImplementedError(f"{type(self).__name__} has to say how its outputs become boxes and scores")

    def candidate_scores(self, scores: torch.Tensor) -> torch.Tensor:
        """The scores (B, A, K) that NMS chooses its candidates by: those of `decode`, unless a detector overrides it."""
        return scores

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
        if self.is_clipped:
            all_boxes = clip_boxes(all_boxes, outputs.image_size)
        limits: dict[str, Any] = {"top_k_per_class": self.nms_top_k}
        if self.candidates_of == "level":
            limits = {"top_k_per_level": self.nms_top_k, "level_lengths": self.level_lengths(outputs)}
        return [
            multiclass_nms(
                boxes,
                scores,
                score_threshold=self.score_threshold,
                iou_threshold=self.nms_iou,
                keep_top_k=self.keep_top_k,
                **limits,
            )
            for boxes, scores in zip(all_boxes, self.candidate_scores(all_scores))
        ]


def clips_to_picture(decoder: Any) -> bool:
    """What `public.input.to_image` has to do with what `decoder` found; an experiment's own may say nothing of it."""
    return getattr(decoder, "clips_to_picture", DenseDecoder.clips_to_picture)


def clip_boxes(boxes: torch.Tensor, image_size: tuple[int, int]) -> torch.Tensor:
    """Boxes (..., 4) in pixels, cut off at the borders of an image of `image_size` (height, width)."""
    height, width = image_size
    left, top, right, bottom = boxes.unbind(-1)
    return torch.stack(
        [left.clamp(0, width), top.clamp(0, height), right.clamp(0, width), bottom.clamp(0, height)], dim=-1
    )
