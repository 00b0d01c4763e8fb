"""Transforms of training pictures for classification: frozen values that are also the callables.

`transform(image, draws) -> image` takes uint8 (H, W, 3) and `transform.num_draws` numbers of [0, 1), which
`public.transforms.counter_stream` gives by the sample's name, so what is drawn never depends on the picture.  Images stay
uint8: each transform rounds and clips.  None writes into its input.

Transforms with a method `plan` can also be done in batches on a device (`public.transforms.on_device`), with the
same pixels: `plan(draws, height, width)` turns the numbers (B, num_draws) into whole pixels (B, P), here as there.

Sources: He et al. 1512.03385 (pad, crop, flip); Szegedy et al. 1409.4842 with torchvision's limits (random resized
crop); Zhong et al. 1708.04896 (random erasing).  RandAugment is in `public.transforms.rand_augment`, mixup and CutMix in
`public.transforms.mixing`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import cv2
import numpy as np

from public.datasets.sample import Sample
from public.resizing import INTERPOLATIONS, Interpolation
from public.settings import Color, Count

# The four changes of colour are those of detection's ColorDistort.
from public.transforms.colors import change_brightness, change_contrast, change_hue, change_saturation
from public.transforms.counter_stream import NUMBERS_A_SAMPLE, stream_key, uniforms
from public.transforms.fitting import REDUCTIONS
from public.transforms.rules import check, named


class UnreadPicture(NamedTuple):
    """A picture that has not been read.

    `sides()` are its (height, width); `read(by)` its pixels, of a JPEG at 1 / by of the sides (1, 2, 4 or 8), rounded up.
    """

    sides: Callable[[], tuple[int, int]]
    read: Callable[[int], np.ndarray]


def apply_transforms(
    image: np.ndarray | UnreadPicture, transforms: tuple, seed: int, epoch: int, sample: int
) -> np.ndarray:
    """`image` after all of `transforms`; each has numbers of its own, by (seed, epoch, name, sample).

    Args:
        image: pixels, or a picture that the first of them may read at a part of its sides.
        sample: the number of the sample, `sample_number(key)`.
    """
    for name, transform in named(transforms, epoch):
        draws = uniforms(stream_key(seed, epoch, name), np.array([sample]), transform.num_draws)[0]
        if isinstance(image, UnreadPicture) and getattr(transform, "use_reduced", False):
            image = transform.of_unread(image, draws)
        else:
            image = transform(image.read(1) if isinstance(image, UnreadPicture) else image, draws)
    return image.read(1) if isinstance(image, UnreadPicture) else image


@dataclass(frozen=True, kw_only=True)
class ReflectPadCrop:
    """Mirrors `padding` pixels out over each edge and cuts `size` (height, width) out at a random place."""

    padding: int
    size: tuple[Count, Count]

    num_draws = 2

    def __post_init__(self):
        check(self, padding=(0, math.inf))

    def plan(self, draws: np.ndarray, height: int, width: int) -> np.ndarray:
        """(B, 2): top and left of the cut in pixels of the padded picture.

        Raises:
            ValueError: the picture cannot be mirrored that far, or the cut does not fit.
        """
        if self.padding >= min(height, width):
            raise ValueError(
                f"a picture of {height} x {width} cannot be mirrored over {self.padding} pixels, only over fewer"
            )
        places = np.array([height, width]) + 2 * self.padding - np.array(self.size) + 1
        if places.min() < 1:
            raise ValueError(
                f"ReflectPadCrop.size {self.size} is larger than a picture of {height} x {width} padded by {self.padding}"
            )
        return (draws * places).astype(np.int64)

    def __call__(self, image: np.ndarray, draws: np.ndarray) -> np.ndarray:
        top, left = self.plan(draws[None], *image.shape[:2])[0]
        padded = cv2.copyMakeBorder(
            image, self.padding, self.padding, self.padding, self.padding, cv2.BORDER_REFLECT_101
        )
        return np.ascontiguousarray(padded[top : top + self.size[0], left : left + self.size[1]])


@dataclass(frozen=True, kw_only=True)
class RandomErasing:
    """Covers a rectangle with an even colour (Zhong et al., 1708.04896).

    Of `num_attempts` rectangles the first that fits is taken; if none fits, the picture stays.  The paper's best filling is
    noise; an even colour, its second, is the same everywhere.  In detection it takes a sample and its stream; objects that
    it covers stay, as in the paper.

    Fields:
        prob: chance of doing it.
        area: (lowest, highest) share of the picture, drawn evenly.
        aspect_ratio: (lowest, highest) height / width, drawn evenly in its logarithm, as torchvision does.
        fill: RGB.
    """

    prob: float
    area: tuple[float, float]
    aspect_ratio: tuple[float, float]
    fill: Color
    num_attempts: int

    def __post_init__(self):
        check(self, prob=(0, 1), area=(0, 1), aspect_ratio=(1e-6, math.inf), num_attempts=(1, _most_attempts(1)))

    @property
    def num_draws(self) -> int:
        return 1 + 4 * self.num_attempts

    def plan(self, draws: np.ndarray, height: int, width: int) -> np.ndarray:
        """(B, 4) x1 y1 x2 y2 of the rectangles; four zeros where nothing is covered."""
        heights, widths, fits, places = _random_rectangles(
            draws[:, 1:], self.area, self.aspect_ratio, height, width, may_be_whole=False
        )
        boxes = _first_fitting(heights, widths, fits, places, height, width)
        return boxes * ((draws[:, :1] < self.prob) & fits.any(axis=1, keepdims=True))

    def __call__(self, image: Any, draws: Any) -> Any:
        """A picture (H, W, 3) and its `num_draws` numbers of [0, 1), or a sample and its stream."""
        if isinstance(image, Sample):
            return replace(image, image=self(image.image, draws.random(self.num_draws)))
        x1, y1, x2, y2 = self.plan(draws[None], *image.shape[:2])[0]
        if x2 <= x1:
            return image
        image = image.copy()
        image[y1:y2, x1:x2] = self.fill
        return image


def _most_attempts(num_others):
    return (NUMBERS_A_SAMPLE - num_others) // 4


def _random_rectangles(draws, area, aspect_ratio, height, width, *, may_be_whole):
    """Heights and widths (B, T) of T rectangles a sample, whether they fit, and where they would lie (B, T, 2) in [0, 1).

    The area is drawn evenly, the aspect ratio (height / width) evenly in its logarithm.
    """
    areas, aspects, *places = np.moveaxis(draws.reshape(len(draws), -1, 4), 2, 0)  # (B, T) each
    areas = (area[0] + (area[1] - area[0]) * areas) * height * width
    low, high = np.log(aspect_ratio)
    roots = np.exp((low + (high - low) * aspects) / 2)
    heights = np.rint(np.sqrt(areas) * roots).astype(np.int64)
    widths = np.rint(np.sqrt(areas) / roots).astype(np.int64)
    highest, widest = (height, width) if may_be_whole else (height - 1, width - 1)
    fits = (heights > 0) & (widths > 0) & (heights <= highest) & (widths <= widest)
    return heights, widths, fits, np.stack(places, axis=2)


def _first_fitting(heights, widths, fits, places, height, width):
    """(B, 4) x1 y1 x2 y2 of the first rectangle of each sample that fits; of the first where none does."""
    rows, chosen = np.arange(len(fits)), fits.argmax(axis=1)
    tall, wide = heights[rows, chosen], widths[rows, chosen]
    places = places[rows, chosen]
    y1 = (places[:, 0] * (height - tall + 1)).astype(np.int64)
    x1 = (places[:, 1] * (width - wide + 1)).astype(np.int64)
    return np.stack([x1, y1, x1 + wide, y1 + tall], axis=1)


@dataclass(frozen=True, kw_only=True)
class RandomResizedCrop:
    """Cuts out a random part and stretches it to `size` (Szegedy et al., 1409.4842; the rule is torchvision's).

    Of `num_attempts` parts the first that fits is taken; if none fits, the largest middle part whose aspect ratio is allowed.
    A deviation: torchvision reduces with antialiasing; of ours only "area" averages all pixels.

    Fields:
        size: (height, width) in pixels.
        area: (lowest, highest) share of the picture, drawn evenly.
        aspect_ratio: (lowest, highest) width / height, drawn evenly in its logarithm.
        interpolation: of `INTERPOLATIONS`; "area" is done as "linear" where the part is enlarged.
        use_reduced: a JPEG of which the part has twice as many pixels a side as `size`, or more, is decoded at 1/2, 1/4 or
            1/8 of its sides, which takes less time.  The part's sides then lie at multiples of 2, 4 or 8 pixels, and the
            decoder's averages stand for the pixels.  Where it stands first on a page.
    """

    size: tuple[Count, Count]
    area: tuple[float, float]
    aspect_ratio: tuple[float, float]
    interpolation: Interpolation
    num_attempts: int
    use_reduced: bool = False

    def __post_init__(self):
        check(self, area=(0, 1), aspect_ratio=(1e-6, math.inf), num_attempts=(1, _most_attempts(0)))

    @property
    def num_draws(self) -> int:
        return 4 * self.num_attempts

    def part(self, draws: np.ndarray, height: int, width: int) -> np.ndarray:
        """x1 y1 x2 y2 of what is cut out, whole pixels."""
        tall_over_wide = (1 / self.aspect_ratio[1], 1 / self.aspect_ratio[0])
        rectangles = _random_rectangles(draws[None], self.area, tall_over_wide, height, width, may_be_whole=True)
        if rectangles[2].any():
            heights, widths, fits, places = rectangles
            return _first_fitting(heights, widths, fits, places, height, width)[0]
        ratio = min(max(width / height, self.aspect_ratio[0]), self.aspect_ratio[1])
        wide = min(width, max(round(height * ratio), 1))
        tall = min(height, max(round(width / ratio), 1))
        left, top = (width - wide) // 2, (height - tall) // 2
        return np.array([left, top, left + wide, top + tall])

    def reduction(self, draws: np.ndarray, height: int, width: int) -> int:
        """By how much the sides of a picture can be divided so that the part keeps as many pixels as `size`: 1, 2, 4 or 8."""
        x1, y1, x2, y2 = self.part(draws, height, width)
        return next((by for by in REDUCTIONS if y2 - y1 >= by * self.size[0] and x2 - x1 >= by * self.size[1]), 1)

    def __call__(self, image: np.ndarray, draws: np.ndarray) -> np.ndarray:
        return self._resized(image, self.part(draws, *image.shape[:2]))

    def of_unread(self, picture: UnreadPicture, draws: np.ndarray) -> np.ndarray:
        """As of its pixels, of which no more is decoded than is needed."""
        height, width = picture.sides()
        by = self.reduction(draws, height, width)
        image = picture.read(by)
        if image.shape[:2] == (height, width):  # it is no JPEG, or needed as it is
            return self(image, draws)
        return self._resized(image, np.rint(self.part(draws, height, width) / by).astype(np.int64))

    def _resized(self, image: np.ndarray, part: np.ndarray) -> np.ndarray:
        x1, y1, x2, y2 = part
        height, width = self.size
        name = self.interpolation
        if name == "area" and (x2 - x1 < width or y2 - y1 < height):
            name = "linear"
        return cv2.resize(image[y1:y2, x1:x2], (width, height), interpolation=INTERPOLATIONS[name])


@dataclass(frozen=True, kw_only=True)
class ColorJitter:
    """Changes brightness, contrast, saturation and hue, in random order (torchvision's ColorJitter).

    Fields:
        brightness, contrast, saturation: a factor is drawn evenly from [max(0, 1 - value), 1 + value].
        hue: a shift is drawn evenly from [-hue, hue], in turns of the circle of hues; it has 256 steps.
    """

    brightness: float
    contrast: float
    saturation: float
    hue: float

    num_draws = 8

    def __post_init__(self):
        factor = (0, math.inf)
        check(self, brightness=factor, contrast=factor, saturation=factor, hue=(0, 0.5))

    def __call__(self, image: np.ndarray, draws: np.ndarray) -> np.ndarray:
        changes = (change_brightness, change_contrast, change_saturation, change_hue)
        strengths = (self.brightness, self.contrast, self.saturation)
        lows = [max(0.0, 1 - strength) for strength in strengths] + [-256 * self.hue]
        highs = [1 + strength for strength in strengths] + [256 * self.hue]
        for i in np.argsort(draws[:4], kind="stable"):
            if highs[i] > lows[i]:
                image = changes[i](image, lows[i] + (highs[i] - lows[i]) * draws[4 + i])
        return image
