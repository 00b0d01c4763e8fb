"""Mirroring, of detection's samples and of classification's pictures alike."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from public.transforms.objects import with_objects
from public.transforms.rules import check
from public.transforms.windows import mirrored


@dataclass(frozen=True, kw_only=True)
class RandomFlip:
    """Mirrors left and right with probability `prob`: x becomes width - x."""

    prob: float

    num_draws = 1
    moves_only = True

    def __post_init__(self):
        check(self, prob=(0, 1))

    def plan(self, draws: np.ndarray, height: int, width: int) -> np.ndarray:
        """(B, 1) from numbers (B, 1) of [0, 1): 1 where the picture is mirrored."""
        return (draws < self.prob).astype(np.int64)

    def __call__(self, sample: Any, random: Any) -> Any:
        """A sample and its stream, or a picture (H, W, 3) and its `num_draws` numbers of [0, 1)."""
        if isinstance(sample, np.ndarray):
            return cv2.flip(sample, 1) if self.plan(random, *sample.shape[:2])[0] else sample
        if random.random() >= self.prob:
            return sample
        width = sample.image.shape[1]
        x1, y1, x2, y2 = sample.boxes.T
        boxes = np.stack([width - x2, y1, width - x1, y2], axis=1)
        return with_objects(sample, mirrored(sample.image), boxes)
