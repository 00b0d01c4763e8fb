"""Transforms of training samples: frozen values that are also the callables.

`transform(sample, rng) -> Sample` takes every random number from `rng`, in an order that does not depend on the picture,
and never writes into its input.  Images stay uint8: each transform rounds and clips.  Boxes are clipped to the picture,
and an object whose box has no size left is dropped.

A transform that mixes samples, such as mosaic, has a method `partners(rng, num_images)` as well: the indices of the
pictures that it needs, drawn from the same stream.  It is called as `transform(sample, rng, partners)` with their samples,
which are those of the data set before any transform.  Which pictures come together thus follows from the key, whatever a
worker has read before.  One that has `reads_late` is handed `Unread` samples instead, its own and an iterator of the others,
and reads those of which it shows something.

One that has `moves_only` cuts, surrounds or mirrors by `public.transforms.windows`: its samples may have a WindowedPicture as
their image, and several in a row copy no pixel but those that are left in the end.

A batch transform draws once for a global batch: `batch_transform.draw(rng)` is the transform for each of its samples.

The parameters, and the order in which PPYOLOE and PicoDet use them, are those of PaddleDetection's readers.  Its
operators keep float32 images between the transforms; ours round to uint8 after each (a deviation, for speed).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any

import cv2
import numpy as np

from public.datasets.sample import RepeatedKey, Sample, SampleKey, Unread, as_read, as_unread, sample_number
from public.random_streams import stream
from public.resizing import INTERPOLATIONS, Interpolation
from public.settings import Color, Count, Counts, Level, Natural, NonNegative, NotEmpty, Probability
from public.settings import check as check_settings
from public.transforms.colors import change_brightness, change_contrast, change_hue, change_saturation, shift_hsv
from public.transforms.objects import with_objects
from public.transforms.rules import check, named
from public.transforms.windows import cut, pixels_of, surround, windowed


def apply_transforms(
    sample: Sample | Unread,
    transforms: tuple,
    seed: int,
    key: SampleKey | RepeatedKey,
    *,
    load: Callable[[int], Sample | Unread] | None = None,
    num_images: int = 0,
) -> Sample:
    """`sample` after all of `transforms`; each draws from its own stream (seed, "sample", epoch, number, name).

    The number is the picture's index; of a copy, where an epoch shows a picture several times, see `sample_number`.

    Args:
        load: gives the sample of another picture by its index, as it is before the transforms, for those that mix samples.
        num_images: of the set; indices are below it.

    Raises:
        ValueError: a transform mixes samples, and there is no `load` to get them by.
    """
    for name, transform in named(transforms, key.epoch):
        rng = stream(seed, "sample", key.epoch, sample_number(key), name)
        if hasattr(transform, "partners"):
            if load is None:
                raise ValueError(f"{type(transform).__name__} mixes samples: it acts in a DetectionDataset only")
            indices = transform.partners(rng, num_images)
            sample = sample if isinstance(sample, Unread) else with_pixels(sample)
            if getattr(transform, "reads_late", False):
                sample = transform(as_unread(sample), rng, (as_unread(load(index)) for index in indices))
            else:
                sample = transform(as_read(sample), rng, [as_read(load(index)) for index in indices])
        elif vars(type(transform)).get("moves_only"):  # not inherited: a subclass may look at pixels
            sample = as_read(sample)
            window: Any = windowed(sample.image)
            sample = transform(replace(sample, image=window), rng)
        else:
            sample = transform(with_pixels(as_read(sample)), rng)
    return with_pixels(as_read(sample))


def with_pixels(sample: Sample) -> Sample:
    image = pixels_of(sample.image)
    return sample if image is sample.image else replace(sample, image=image)


def apply_batch_transforms(sample: Sample, batch_transforms: tuple, seed: int, key: SampleKey) -> Sample:
    """`sample` after what each batch transform draws for its global batch, from (seed, "batch", epoch, batch, name).

    A transform that is drawn for `every` so many batches of an epoch has the stream of batch // every.
    """
    for name, batch_transform in named(batch_transforms, key.epoch):
        batch = key.batch // getattr(batch_transform, "every", 1)
        transform = batch_transform.draw(stream(seed, "batch", key.epoch, batch, name))
        sample = transform(sample, None)
    return sample


@dataclass(frozen=True, kw_only=True)
class Resize:
    """Stretches to `size` (height, width) pixels; draws nothing."""

    size: tuple[Count, Count]
    interpolation: Interpolation

    def __post_init__(self) -> None:
        check_settings(self)

    def __call__(self, sample: Sample, rng: np.random.Generator | None) -> Sample:
        height, width = sample.image.shape[:2]
        new_height, new_width = self.size
        image = cv2.resize(sample.image, (new_width, new_height), interpolation=INTERPOLATIONS[self.interpolation])
        scale_x, scale_y = new_width / width, new_height / height
        return with_objects(sample, image, sample.boxes * np.array([scale_x, scale_y, scale_x, scale_y]))


@dataclass(frozen=True, kw_only=True)
class BatchRandomResize:
    """One square size and one interpolation for all pictures of a global batch, each drawn evenly from its list."""

    sizes: Counts
    interpolations: Annotated[tuple[Interpolation, ...], NotEmpty()]

    def __post_init__(self) -> None:
        check_settings(self)

    def draw(self, rng: np.random.Generator) -> Resize:
        """The resize of one batch."""
        size = self.sizes[rng.integers(len(self.sizes))]
        return Resize(size=(size, size), interpolation=self.interpolations[rng.integers(len(self.interpolations))])


@dataclass(frozen=True, kw_only=True)
class BatchRandomResizeEvery(BatchRandomResize):
    """BatchRandomResize that keeps its size and interpolation for `every` batches of an epoch.

    YOLOX's multi-scale training, with `every` 10.  Deviations: the original counts its steps through all epochs, and has
    the size of the input for the first ten; ours begins anew with each epoch, and draws at once.
    """

    every: Count


@dataclass(frozen=True, kw_only=True)
class ColorDistort:
    """Changes brightness, contrast, saturation and hue in random order, each with probability `apply_prob`.

    PaddleDetection's RandomDistort; its `prob` is the chance that a change is left out, so `apply_prob` is 1 - prob.

    Fields:
        brightness, contrast, saturation: (lowest, highest) factor, drawn evenly: how far a pixel is from black, from the
            mean grey of the picture, and from its own grey.
        hue: (lowest, highest) shift on the circle of 256 hues, rounded to a whole number.
        apply_prob: chance of each of the four changes.
    """

    brightness: tuple[float, float]
    contrast: tuple[float, float]
    saturation: tuple[float, float]
    hue: tuple[float, float]
    apply_prob: float

    def __post_init__(self):
        factor = (0, math.inf)
        check(self, brightness=factor, contrast=factor, saturation=factor, hue=(-256, 256), apply_prob=(0, 1))

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        changes = (
            (change_brightness, self.brightness),
            (change_contrast, self.contrast),
            (change_saturation, self.saturation),
            (change_hue, self.hue),
        )
        order = rng.permutation(len(changes))
        is_applied = rng.random(len(changes)) < self.apply_prob
        positions = rng.random(len(changes))
        image = sample.image
        for i in order:
            change, (low, high) = changes[i]
            if is_applied[i]:
                image = change(image, low + (high - low) * positions[i])
        return replace(sample, image=image)


@dataclass(frozen=True, kw_only=True)
class HSVJitter:
    """Shifts hue, saturation and value by whole numbers, each with probability `apply_prob`: YOLOX's colours, to the pixel.

    Fields:
        hue: largest shift either way, of OpenCV's 180 hues.
        saturation, value: largest shift either way, of 255.
        apply_prob: chance of each of the three shifts; they are drawn evenly and rounded towards 0.
    """

    hue: Natural
    saturation: Level
    value: Level
    apply_prob: Probability

    def __post_init__(self) -> None:
        check_settings(self)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        most = np.array([self.hue, self.saturation, self.value])
        shifts = (2 * rng.random(3) - 1) * most * (rng.random(3) < self.apply_prob)
        return replace(sample, image=shift_hsv(sample.image, *(int(shift) for shift in shifts)))


@dataclass(frozen=True, kw_only=True)
class DropThin:
    """Drops objects whose box is `min_side` pixels wide or high, or less; where none is left, all stay.

    YOLOX's last step, with 1 pixel.  A deviation: there, a sample of which no object is left gets its picture without the
    changes of colour and the flip before.
    """

    min_side: NonNegative

    def __post_init__(self) -> None:
        check_settings(self)

    def __call__(self, sample: Sample, rng: np.random.Generator | None) -> Sample:
        is_kept = (sample.boxes[:, 2:] - sample.boxes[:, :2]).min(axis=1, initial=math.inf) > self.min_side
        return with_objects(sample, sample.image, sample.boxes, is_kept) if is_kept.any() else sample


@dataclass(frozen=True, kw_only=True)
class RandomExpand:
    """Puts the picture at a random place of a larger one of even colour, which makes its objects smaller.

    PaddleDetection's RandomExpand; its `prob` is the chance that nothing is done, so `apply_prob` is 1 - prob.  A
    deviation of one pixel: the picture may also touch the right or lower edge.

    Fields:
        ratio: (lowest, highest) growth of both sides, drawn evenly.
        fill: the colour around the picture, RGB 0..255.
        apply_prob: chance of doing it.
    """

    ratio: tuple[float, float]
    fill: Color
    apply_prob: float

    moves_only = True

    def __post_init__(self):
        check(self, ratio=(1, math.inf), apply_prob=(0, 1))

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        is_applied = rng.random() < self.apply_prob
        low, high = self.ratio
        ratio = low + (high - low) * rng.random()
        position_x, position_y = rng.random(2)
        if not is_applied:
            return sample
        height, width = sample.image.shape[:2]
        free_x, free_y = int(width * ratio) - width, int(height * ratio) - height
        left, top = int(position_x * (free_x + 1)), int(position_y * (free_y + 1))
        image = surround(sample.image, left, top, free_x - left, free_y - top, self.fill)
        return with_objects(sample, image, sample.boxes + np.array([left, top, left, top]))


@dataclass(frozen=True, kw_only=True)
class RandomCrop:
    """Cuts out a part that holds an object and overlaps at least one by a random amount (Liu et al., SSD, 1512.02325).

    The thresholds, and "no crop" if it is allowed, are tried in random order.  For each, up to `num_attempts` crops are
    drawn; the first with a centre of an object inside, and an IoU of at least the threshold with some object, is taken.
    Objects whose centre is inside stay, cut to the crop.  "No crop", no crop found, and a picture without objects leave
    the sample as it is.

    PaddleDetection's RandomCrop.  A deviation of one pixel: a crop may also end exactly at the right or lower edge.

    Fields:
        aspect_ratio: (lowest, highest) width / height relative to the picture's, further limited to [s², 1 / s²] for
            scale s, so that the crop fits.
        scale: (lowest, highest) square root of the crop's share of the picture's area.
        thresholds: IoU of the crop with the object that it overlaps most.
    """

    aspect_ratio: tuple[float, float]
    scale: tuple[float, float]
    thresholds: tuple[float, ...]
    num_attempts: int
    allow_no_crop: bool

    moves_only = True

    def __post_init__(self):
        check(self, aspect_ratio=(1e-6, math.inf), scale=(1e-6, 1), num_attempts=(1, math.inf))
        if not all(0 <= threshold <= 1 for threshold in self.thresholds):
            raise ValueError(f"RandomCrop.thresholds are {self.thresholds!r}, have to be IoUs within 0 .. 1")
        if not self.aspect_ratio[0] <= 1 <= self.aspect_ratio[1]:
            raise ValueError(
                f"RandomCrop.aspect_ratio is {self.aspect_ratio!r}, has to include 1: a crop with all of the picture's "
                "area has no other"
            )

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        num_choices = len(self.thresholds) + self.allow_no_crop
        order = rng.permutation(num_choices)  # the number after the last threshold is "no crop"
        draws = rng.random((num_choices, self.num_attempts, 4))
        for choice, attempts in zip(order, draws):
            if choice == len(self.thresholds) or len(sample.boxes) == 0:
                return sample
            crops = self._crops(attempts, *sample.image.shape[:2])
            is_good = _holds_centre(crops, sample.boxes).any(axis=1)
            is_good &= _iou(crops, sample.boxes).max(axis=1) >= self.thresholds[choice]
            if is_good.any():
                return _crop(sample, crops[is_good.argmax()])
        return sample

    def _crops(self, draws, height, width):
        """(T, 4) crops x1 y1 x2 y2 in whole pixels, from (T, 4) numbers in [0, 1)."""
        scale_draw, aspect_draw, x_draw, y_draw = draws.T
        scale = self.scale[0] + (self.scale[1] - self.scale[0]) * scale_draw
        lowest = np.maximum(self.aspect_ratio[0], scale**2)
        highest = np.minimum(self.aspect_ratio[1], scale**-2)
        root = np.sqrt(lowest + (highest - lowest) * aspect_draw)
        crop_width = np.clip((width * scale * root).astype(np.int64), 1, width)
        crop_height = np.clip((height * scale / root).astype(np.int64), 1, height)
        x1 = (x_draw * (width - crop_width + 1)).astype(np.int64)
        y1 = (y_draw * (height - crop_height + 1)).astype(np.int64)
        return np.stack([x1, y1, x1 + crop_width, y1 + crop_height], axis=1)


def _holds_centre(crops, boxes):
    """(T, N) whether the centre of each box lies strictly inside each crop."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2  # (N, 2)
    return ((crops[:, None, :2] < centres) & (centres < crops[:, None, 2:])).all(axis=2)


def _iou(crops, boxes):
    """(T, N) intersection over union of each crop with each box."""
    top_left = np.maximum(crops[:, None, :2], boxes[:, :2])
    bottom_right = np.minimum(crops[:, None, 2:], boxes[:, 2:])
    intersection = (bottom_right - top_left).clip(min=0).prod(axis=2)
    crop_areas = (crops[:, 2:] - crops[:, :2]).prod(axis=1)
    box_areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return intersection / (crop_areas[:, None] + box_areas - intersection)


def _crop(sample, crop):
    image = cut(sample.image, *crop.tolist())
    is_kept = _holds_centre(crop[None], sample.boxes)[0]
    return with_objects(sample, image, sample.boxes - np.tile(crop[:2], 2), is_kept)
