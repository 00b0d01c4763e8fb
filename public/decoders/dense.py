"""What the decoders of all dense detectors share: from dense boxes and scores to detections.

Legend: B batch, A anchors or points of all levels, K classes, N detections.
"""

import copy
import math
from collections.abc import Sequence
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
    is_clipped = False  # whether boxes are cut off at the borders of their picture before NMS
    one_class_a_box = False  # whether a box is a candidate for its best class only (of equal scores the first)
    lowest_score = 0.0  # detections that score less are left out: see `at_least`
    drops_empty = False  # whether candidates without width or height, once they are clipped, are left out

    def __init__(self, *, score_threshold: float, nms_iou: float | None, nms_top_k: int | None, keep_top_k: int | None):
        self.score_threshold = score_threshold
        self.nms_iou = nms_iou
        self.nms_top_k = nms_top_k
        self.keep_top_k = keep_top_k

    def at_least(self, score: float) -> "DenseDecoder":
        """The same decoder, which leaves out what scores less than `score`, and finds the rest bit for bit."""
        found = copy.copy(self)
        found.lowest_score = score
        return found

    def level_lengths(self, outputs: Any) -> list[int]:
        """Anchors of each level, for `candidates_of = "level"`: one a cell, unless a detector overrides it."""
        return [height * width for height, width in outputs.level_sizes]

    def candidate_scores(self, outputs: Any) -> torch.Tensor | None:
        """What makes a candidate, (B, A, K), where that is not the score itself."""
        return None

    def decode(self, outputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Boxes (B, A, 4) in network pixels, not clipped, and scores (B, A, K) in [0, 1], both float32."""
        raise NotImplementedError(f"{type(self).__name__} has to say how its outputs become boxes and scores")

    def __call__(
        self, outputs: Any, regions: Sequence[tuple[int, int, int, int]] | None = None
    ) -> list[dict[str, torch.Tensor]]:
        """For each image `boxes` (N, 4) in network pixels, `scores` (N,), `labels` (N,) int64, by falling score.

        `anchors` (N,) int64 tells which point each box came from.

        Args:
            regions: where each picture lies in its image, x1 y1 x2 y2 in pixels, around which is padding; None: pictures
                fill their images.  Only decoders that clip look at them.

        Raises:
            ValueError: a box or a score is NaN or infinite.  A score that is NaN is above no threshold, so that a broken
                network would find nothing, without a word.
        """
        all_boxes, all_scores = self.decode(outputs)
        if not _is_finite(all_boxes, all_scores):
            raise ValueError("the network's outputs are NaN or infinite, so its weights are broken; they find nothing")
        if self.is_clipped:
            height, width = outputs.image_size
            all_boxes = clip_boxes(all_boxes, [(0, 0, width, height)] * len(all_boxes) if regions is None else regions)
        limits: dict[str, Any] = {"top_k_per_class": self.nms_top_k}
        if self.candidates_of == "level":
            limits = {"top_k_per_level": self.nms_top_k, "level_lengths": self.level_lengths(outputs)}
        candidate_scores = None if self.one_class_a_box else self.candidate_scores(outputs)
        return [
            multiclass_nms(
                boxes,
                scores,
                score_threshold=self.score_threshold,
                iou_threshold=self.nms_iou,
                keep_top_k=self.keep_top_k,
                candidate_scores=None if candidate_scores is None else candidate_scores[image],
                drop_empty=self.drops_empty,
                one_class_a_box=self.one_class_a_box,
                lowest_score=self.lowest_score,
                **limits,
            )
            for image, (boxes, scores) in enumerate(zip(all_boxes, all_scores))
        ]


def _is_finite(*values: torch.Tensor) -> bool:
    """Whether all numbers are finite.  Their sum tells it in a fraction of the time, but where it overflows."""
    total = torch.stack([value.detach().sum() for value in values]).sum()
    return math.isfinite(total.item()) or all(bool(value.isfinite().all()) for value in values)


def best_class_only(scores: torch.Tensor) -> torch.Tensor:
    """The scores (B, A, K), all but each box's best 0, which is above no threshold; of equal ones the first is the best."""
    classes = torch.arange(scores.shape[-1], device=scores.device)
    return torch.where(classes == scores.argmax(-1, keepdim=True), scores, 0.0)


def clips_to_picture(decoder: Any) -> bool:
    """What `public.input.to_image` has to do with what `decoder` found; an experiment's own may say nothing of it."""
    return getattr(decoder, "clips_to_picture", DenseDecoder.clips_to_picture)


def clip_boxes(boxes: torch.Tensor, regions: Sequence[tuple[int, int, int, int]] | torch.Tensor) -> torch.Tensor:
    """Boxes (B, A, 4) in pixels, cut off at the borders of the region, x1 y1 x2 y2, of each of B images, or of the one."""
    sides = torch.as_tensor(regions, dtype=boxes.dtype).to(boxes.device, non_blocking=True)[:, None]  # (B, 1, 4)
    low, high = sides[..., :2].repeat(1, 1, 2), sides[..., 2:].repeat(1, 1, 2)
    return torch.minimum(torch.maximum(boxes, low), high)
