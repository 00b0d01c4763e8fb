"""One picture with its objects on the way through the transforms, and the key that asks for it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from public.datasets.annotations import Objects
from public.input import Geometry

COPY_SHIFT = 40  # repeated augmentation: copy c of picture i is the sample i + c * 2**40


class SampleKey(NamedTuple):
    """What a batch sampler hands to a data set; every random number of the sample follows from it and the seed.

    `batch` is the number of the global batch within the epoch.  Draws that a whole batch shares, such as its size, come
    from it, so that no worker has to be told about them.
    """

    epoch: int
    batch: int
    index: int  # type: ignore[assignment]  # a tuple's own `index` is hidden


class RepeatedKey(NamedTuple):
    """A `SampleKey` with the number of the copy, from 0, where a batch shows a picture several times."""

    epoch: int
    batch: int
    index: int  # type: ignore[assignment]  # a tuple's own `index` is hidden
    copy: int


def sample_number(key: SampleKey | RepeatedKey) -> int:
    """The number by which a sample's random numbers are found: the picture's index, and the copy above it."""
    return key.index + (getattr(key, "copy", 0) << COPY_SHIFT)


@dataclass(kw_only=True)
class Sample:
    """A picture and its N objects; `boxes` are x1 y1 x2 y2 in pixels of `image` as it is now.

    Transforms return new samples and never write into the arrays of an old one.
    """

    image: np.ndarray  # (H, W, 3) uint8, RGB
    boxes: np.ndarray  # (N, 4) float32
    labels: np.ndarray  # (N,) int64
    difficult: np.ndarray  # (N,) bool
    crowd: np.ndarray  # (N,) bool
    image_id: str | int
    index: int  # position in the annotations
    height: int  # of the original picture
    width: int
    geometry: Geometry | None = None  # how `prepare` placed the picture; None in training
    skipped: str | None = None  # why the picture that belongs here could not be used, and what is here instead

    @property
    def objects(self) -> Objects:
        return Objects(self.boxes, self.labels, self.difficult, self.crowd)


class Unread(NamedTuple):
    """A sample whose picture is read where somebody asks for it: what a transform that throws most pixels away is handed.

    `outline` is the sample by the annotations; its image has the shape of the one that will be read, and no memory.  What
    `read` gives may be another picture, where this one cannot be used (`on_bad_sample="skip"`): its objects then count.
    """

    outline: Sample
    read: Callable[[], Sample]


def blank(height: int, width: int) -> np.ndarray:
    """A black picture (height, width, 3) that takes no memory and cannot be written to."""
    return np.broadcast_to(np.uint8(0), (height, width, 3))


def as_unread(sample: Sample | Unread) -> Unread:
    """`sample`, or one that stands for it."""
    return sample if isinstance(sample, Unread) else Unread(outline=sample, read=lambda: sample)


def as_read(sample: Sample | Unread) -> Sample:
    """`sample` with its picture.

    Raises:
        ImageError: the picture cannot be used.
    """
    return sample.read() if isinstance(sample, Unread) else sample
