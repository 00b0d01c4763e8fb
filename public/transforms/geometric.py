"""Transforms that resize with kept aspect, shift and crop a training sample; what they share with the others: `detection`.

The source repository's RetinaNet and FCOS recipe is RandomFlip, RandomCropKeepingObjects, RandomTranslate, Letterbox;
MMDetection's YOLOF recipe ResizeShorterSide, RandomFlip, RandomShift; its CenterNet recipe RandomCenterCropPad, Resize,
RandomFlip.

Shifts and cuts are whole pixels, so that pixels stay what they are, and boxes move with them exactly.
"""

from dataclasses import dataclass
from typing import Annotated

import cv2
import numpy as np

from public.datasets.sample import Sample
from public.resizing import INTERPOLATIONS, Interpolation, Rounding, letterbox, shorter_side
from public.settings import Color, Count, Level, Natural, NotEmpty, Positive, Probability, Side
from public.settings import check as check_settings
from public.transforms.canvas import filled, paste
from public.transforms.objects import with_objects


@dataclass(frozen=True, kw_only=True)
class Letterbox:
    """Resizes to as large as fits into `size` with kept aspect, at the top left of a canvas of `size`; draws nothing.

    The "yolov3 resize" with a square `size`: both sides times S / max(height, width), rounded down.  The same as
    `InputSpec(resize="letterbox")` in evaluation, which has these three fields as well.

    Fields:
        size: (height, width) of the canvas; any, such as (667, 667).
        padding: grey value of the rest of the canvas.
    """

    size: tuple[Side, Side]
    interpolation: Interpolation
    padding: Level

    def __post_init__(self) -> None:
        check_settings(self)

    def __call__(self, sample: Sample, rng: np.random.Generator | None) -> Sample:
        height, width = sample.image.shape[:2]
        if (height, width) == self.size:
            return sample
        placed = letterbox(height, width, self.size)
        resized = _resized(sample, placed.height, placed.width, self.interpolation)
        image = _pasted(resized.image, self.size, 0, 0, (self.padding,) * 3)
        return with_objects(resized, image, resized.boxes)


@dataclass(frozen=True, kw_only=True)
class ResizeShorterSide:
    """Resizes the shorter side to a number of pixels, but the longer to `longer_side` at most; the aspect is kept.

    torchvision's RandomShortestSize, and MMDetection's Resize or RandomChoiceResize with keep_ratio.  The pictures of a
    batch come out unequal: the page's input has to have the rule `ShorterSide`, by which they are padded.

    Fields:
        shorter_sides: from which one is drawn evenly for each sample; (800,) is always 800.
        longer_side: at least all of them.
        rounding: "nearest" or "down", see `public.resizing.ShorterSide`.
    """

    shorter_sides: Annotated[tuple[Side, ...], NotEmpty()]
    longer_side: Side
    rounding: Rounding
    interpolation: Interpolation

    def __post_init__(self) -> None:
        check_settings(self)
        if max(self.shorter_sides) > self.longer_side:
            raise ValueError(
                f"ResizeShorterSide.shorter_sides are {self.shorter_sides!r}, which cannot be above longer_side "
                f"{self.longer_side}"
            )

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        shorter = self.shorter_sides[rng.integers(len(self.shorter_sides))]
        height, width = sample.image.shape[:2]
        sides = shorter_side(height, width, shorter, self.longer_side, self.rounding)
        return _resized(sample, *sides, self.interpolation)


@dataclass(frozen=True, kw_only=True)
class RandomTranslate:
    """With probability `prob`, shifts the picture so far that all objects stay inside it, each shift as likely as another.

    With the box around all objects x1 .. x2, the shift in x is a whole number of -floor(x1) .. floor(width - x2), and so in
    y.  A picture without objects stays.  The source draws from one pixel less at either end and in fractions, which
    blurs the picture by interpolation.

    Fields:
        fill: RGB of what comes in from outside; the source's is black.
    """

    prob: Probability
    fill: Color

    def __post_init__(self) -> None:
        check_settings(self)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        is_applied, draws = rng.random() < self.prob, rng.random(2)
        if not is_applied or len(sample.boxes) == 0:
            return sample
        before, behind = _free_pixels(sample)
        dx, dy = (_whole(draw, -low, high) for draw, low, high in zip(draws, before, behind))
        return _shifted(sample, dx, dy, self.fill)


@dataclass(frozen=True, kw_only=True)
class RandomCropKeepingObjects:
    """With probability `prob`, cuts at all four sides so far that all objects stay whole, each cut as likely as another.

    albumentations calls it BBoxSafeRandomCrop.  With the box around all objects x1 .. x2, a whole number of 0 .. floor(x1)
    pixels is cut at the left and of 0 .. floor(width - x2) at the right, and so above and below.  A picture without objects
    stays.  The source repository's RandomCrop never cuts at the right and below (a maximum where a minimum belongs).
    """

    prob: Probability

    def __post_init__(self) -> None:
        check_settings(self)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        is_applied, draws = rng.random() < self.prob, rng.random(4)
        if not is_applied or len(sample.boxes) == 0:
            return sample
        before, behind = _free_pixels(sample)
        left, top, right, bottom = (_whole(draw, 0, most) for draw, most in zip(draws, (*before, *behind)))
        height, width = sample.image.shape[:2]
        image = np.ascontiguousarray(sample.image[top : height - bottom, left : width - right])
        return with_objects(sample, image, sample.boxes - np.array([left, top, left, top]))


@dataclass(frozen=True, kw_only=True)
class RandomShift:
    """With probability `prob`, shifts the picture by up to `max_shift_px` pixels in x and in y (YOLOF, 2103.09460).

    MMDetection's RandomShift.  Boxes are cut at the picture's edges; an object of which `filter_thr_px` pixels or less are
    left in width or height is dropped.  Where no object is left, or none was there, the sample stays as it is.  A deviation
    of one pixel: the largest shift to the right and downwards is drawn as well.

    Fields:
        max_shift_px: each of -max_shift_px .. max_shift_px is as likely.
        fill: RGB of what comes in from outside; the original's is black.
    """

    prob: Probability
    max_shift_px: Natural
    filter_thr_px: Natural
    fill: Color

    def __post_init__(self) -> None:
        check_settings(self)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        is_applied, draws = rng.random() < self.prob, rng.random(2)
        if not is_applied:
            return sample
        dx, dy = (_whole(draw, -self.max_shift_px, self.max_shift_px) for draw in draws)
        height, width = sample.image.shape[:2]
        boxes = np.clip(sample.boxes + np.array([dx, dy, dx, dy]), 0, np.array([width, height, width, height]))
        is_kept = (boxes[:, 2:] - boxes[:, :2] > self.filter_thr_px).all(axis=1)
        return _shifted(sample, dx, dy, self.fill, is_kept) if is_kept.any() else sample


@dataclass(frozen=True, kw_only=True)
class RandomCenterCropPad:
    """A canvas of random size around a random point of the picture, which is cut or padded to it (CenterNet, 1904.07850).

    MMDetection's RandomCenterCropPad.  A ratio and a point are drawn, the canvas is int(crop_size * ratio), and the point
    comes to lie in its middle, at side // 2.  Objects whose centre is strictly inside the visible part of the picture
    stay, cut to it.  Where there is none, up to `num_attempts` points are tried, then the next ratio; where all ratios
    fail, the sample stays as it is (the original tries on for ever).  A picture without objects takes the first point.
    The transform is followed by `Resize(size=crop_size, ...)`.  A deviation of one pixel: of a canvas with an odd side the
    original leaves the last column and row empty.

    Fields:
        crop_size: (height, width) at ratio 1.
        ratios: tried in random order; CenterNet's are 0.6, 0.7, ... 1.3.
        border: pixels from the picture's edge within which the point does not lie, halved until twice of it is less than
            the picture's side.
        fill: RGB around the picture.  The original's is the mean that its own settings name: black in its CenterNet recipes,
            whose pictures are normalised afterwards, the mean colour of ImageNet in its CornerNet recipes.
    """

    crop_size: tuple[Side, Side]
    ratios: Annotated[tuple[Positive, ...], NotEmpty()]
    border: Natural
    fill: Color
    num_attempts: Count

    def __post_init__(self) -> None:
        check_settings(self)
        smallest, largest = min(self.crop_size) * min(self.ratios), max(self.crop_size) * max(self.ratios)
        if smallest < 1 or largest > 2**15:
            raise ValueError(
                f"RandomCenterCropPad.ratios {self.ratios!r} make of crop_size {self.crop_size} sides of {smallest:g} to "
                f"{largest:g} pixels; they must be 1 .. {2**15}"
            )

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        order = rng.permutation(len(self.ratios))
        draws = rng.random((len(self.ratios), self.num_attempts, 2))
        centres = (sample.boxes[:, :2] + sample.boxes[:, 2:]) / 2  # (N, 2)
        sides = np.array(sample.image.shape[1::-1])  # width, height
        borders = np.array([_border(self.border, side) for side in sides])
        for number, attempts in zip(order, draws):
            canvas = np.array([int(side * self.ratios[number]) for side in self.crop_size[::-1]])
            points = borders + (attempts * (sides - 2 * borders)).astype(np.int64)  # (T, 2)
            corners = canvas // 2 - points  # (T, 2), of the picture on the canvas
            low, high = np.maximum(-corners, 0), np.minimum(canvas - corners, sides)  # (T, 2) each, the visible part
            is_inside = ((low[:, None] < centres) & (centres < high[:, None])).all(axis=2)  # (T, N)
            is_good = is_inside.any(axis=1) if len(centres) else np.ones(len(points), dtype=bool)
            if is_good.any():
                chosen = int(is_good.argmax())
                left, top = (int(place) for place in corners[chosen])
                image = _pasted(sample.image, (int(canvas[1]), int(canvas[0])), left, top, self.fill)
                return with_objects(sample, image, sample.boxes + np.array([left, top] * 2), is_inside[chosen])
        return sample


def _border(border: int, side: int) -> int:
    while 2 * border >= side:
        border //= 2
    return border


def _whole(draw: float, low: int, high: int) -> int:
    """A whole number of low .. high, each as likely, from `draw` in [0, 1)."""
    return low + int(draw * (high - low + 1))


def _free_pixels(sample: Sample) -> tuple[list[int], list[int]]:
    """Whole pixels between the picture's edges and the box around all objects: left and above, right and below."""
    sides = np.array(sample.image.shape[1::-1])
    before, behind = sample.boxes[:, :2].min(axis=0), sides - sample.boxes[:, 2:].max(axis=0)
    return [int(side) for side in np.floor(before)], [int(side) for side in np.floor(behind)]


def _resized(sample: Sample, height: int, width: int, interpolation: str) -> Sample:
    """`sample` stretched to these sides."""
    old_height, old_width = sample.image.shape[:2]
    if (old_height, old_width) == (height, width):
        return sample
    image = cv2.resize(sample.image, (width, height), interpolation=INTERPOLATIONS[interpolation])
    return with_objects(sample, image, sample.boxes * np.array([width / old_width, height / old_height] * 2))


def _shifted(sample: Sample, dx: int, dy: int, fill: Color, is_kept: np.ndarray | None = None) -> Sample:
    """`sample` moved to the right and downwards on a canvas of the picture's size."""
    height, width = sample.image.shape[:2]
    image = _pasted(sample.image, (height, width), dx, dy, fill)
    return with_objects(sample, image, sample.boxes + np.array([dx, dy, dx, dy]), is_kept)


def _pasted(image: np.ndarray, size: tuple[int, int], left: int, top: int, fill: Color) -> np.ndarray:
    """A canvas of `size` (height, width) with the picture's corner at (left, top), which may be negative; else `fill`."""
    canvas = filled(size, fill)
    paste(image, canvas, left, top)
    return canvas
