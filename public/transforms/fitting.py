"""Reading pictures at the size at which they are needed: YOLOX's data set does it before any of its transforms."""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from public.datasets.annotations import Annotations
from public.datasets.pictures import load_reduced_picture
from public.datasets.sample import Sample
from public.resizing import INTERPOLATIONS, Interpolation, letterbox_by_ratio
from public.settings import Side
from public.settings import check as check_settings
from public.transforms.objects import with_objects

REDUCTIONS = (8, 4, 2)  # that a JPEG can be decoded at


@dataclass(frozen=True, kw_only=True)
class FitWhenRead:
    """Every picture, also one that is mixed in, is read at the largest size that fits into `size`; stands first on a page.

    The rule is `letterbox_by_ratio`, YOLOX's, without the canvas: both sides times min(height / its, width / its), rounded
    down, and boxes by that factor.  A picture that is smaller grows.

    Fields:
        size: (height, width) that is fitted into.
        use_reduced: a JPEG that is twice as large or more is decoded at 1/2, 1/4 or 1/8, and resized from there.  The pixels
            are not the original's, which resizes linearly from the full picture and leaves out most of what it averages;
            those of a picture that is less than twice as large are.
    """

    size: tuple[Side, Side]
    interpolation: Interpolation
    use_reduced: bool

    def __post_init__(self) -> None:
        check_settings(self)

    def sides(self, height: int, width: int) -> tuple[int, int, float]:
        """Height and width of a picture of these sides as it is read, and the factor of its boxes."""
        placed = letterbox_by_ratio(height, width, self.size)
        assert placed.scale is not None, "the rule has a factor of its own"
        return placed.height, placed.width, placed.scale

    def picture(self, annotations: Annotations, index: int) -> np.ndarray:
        """The picture `index`, (h, w, 3) uint8 RGB.

        Raises:
            ImageError: as `load_picture`.
        """
        sides = int(annotations.heights[index]), int(annotations.widths[index])
        height, width, scale = self.sides(*sides)
        reduction = next((by for by in REDUCTIONS if self.use_reduced and scale * by <= 1), 1)
        return self._resized(load_reduced_picture(annotations, index, reduction), height, width)

    def _resized(self, image, height, width):
        if image.shape[:2] == (height, width):
            return image
        return cv2.resize(image, (width, height), interpolation=INTERPOLATIONS[self.interpolation])

    def __call__(self, sample: Sample, rng: np.random.Generator | None) -> Sample:
        """`sample`, whose picture has been read at its own size; a DetectionDataset reads it so at once."""
        height, width, scale = self.sides(*sample.image.shape[:2])
        return with_objects(sample, self._resized(sample.image, height, width), sample.boxes * scale)


def fitted(sample: Sample, fit: FitWhenRead, annotations: Annotations) -> Sample:
    """`sample` of a picture that `fit` has read, with its boxes moved; its sides stay those of the original."""
    sides = int(annotations.heights[sample.index]), int(annotations.widths[sample.index])
    boxes = (sample.boxes * fit.sides(*sides)[2]).astype(np.float32)
    return replace(sample, boxes=boxes, height=sides[0], width=sides[1])
