"""Cutting, surrounding and mirroring a picture in one step at the end, by what several transforms in a row have decided.

A picture that is put on a canvas of fifteen times its area, of which a part is cut out and mirrored, would be copied three
times, most of it for nothing.  A `WindowedPicture` stands for the result, has its shape, and knows where its pixels are;
`pixels` makes them, the same as step by step.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np


@dataclass(frozen=True)
class WindowedPicture:
    """The window x1 .. x2 - 1, y1 .. y2 - 1 of `source`, beyond which all is `fill`, and mirrored after that."""

    source: np.ndarray  # (H, W, 3) uint8
    x1: int
    y1: int
    x2: int
    y2: int
    is_mirrored: bool = False
    fill: tuple[int, ...] = (0, 0, 0)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.y2 - self.y1, self.x2 - self.x1, self.source.shape[2]

    def pixels(self) -> np.ndarray:
        """(y2 - y1, x2 - x1, 3), contiguous; the source itself where it is the whole of it."""
        height, width = self.source.shape[:2]
        top, left = min(max(self.y1, 0), height), min(max(self.x1, 0), width)
        bottom, right = min(max(self.y2, top), height), min(max(self.x2, left), width)
        seen = self.source[top:bottom, left:right]
        if not seen.size:
            return np.full(self.shape, self.fill, dtype=self.source.dtype)
        if self.is_mirrored:
            seen = cv2.flip(seen, 1)
        above, below, before, behind = top - self.y1, self.y2 - bottom, left - self.x1, self.x2 - right
        if above == below == before == behind == 0:
            return np.ascontiguousarray(seen)
        if self.is_mirrored:
            before, behind = behind, before
        return cv2.copyMakeBorder(seen, above, below, before, behind, cv2.BORDER_CONSTANT, value=self.fill)


Picture = Any  # pixels (H, W, 3) uint8, or a WindowedPicture; which of them comes out is which went in


def windowed(image: Picture) -> WindowedPicture:
    """`image` as a window of itself."""
    return image if isinstance(image, WindowedPicture) else WindowedPicture(image, 0, 0, image.shape[1], image.shape[0])


def pixels_of(image: Picture) -> np.ndarray:
    return image.pixels() if isinstance(image, WindowedPicture) else image


def cut(image: Picture, x1: int, y1: int, x2: int, y2: int) -> Picture:
    """The part x1 .. x2 - 1, y1 .. y2 - 1 of `image`, within it; of pixels pixels, contiguous, of a window a window."""
    if not isinstance(image, WindowedPicture):
        return np.ascontiguousarray(image[y1:y2, x1:x2])
    start, end = (image.x2 - x2, image.x2 - x1) if image.is_mirrored else (image.x1 + x1, image.x1 + x2)
    return replace(image, x1=start, x2=end, y1=image.y1 + y1, y2=image.y1 + y2)


def surround(image: Picture, left: int, top: int, right: int, bottom: int, fill: Sequence[int]) -> Picture:
    """`image` with so many pixels of `fill` on each side; of pixels pixels, of a window a window."""
    fill = tuple(fill)
    if not isinstance(image, WindowedPicture):
        return cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=fill)
    height, width = image.source.shape[:2]
    is_whole = (image.x1, image.y1, image.x2, image.y2) == (0, 0, width, height)
    if not is_whole:  # what lies around the window would come into sight
        image = windowed(image.pixels())
    if image.is_mirrored:
        left, right = right, left
    return replace(image, x1=image.x1 - left, y1=image.y1 - top, x2=image.x2 + right, y2=image.y2 + bottom, fill=fill)


def mirrored(image: Picture) -> Picture:
    """`image` with left and right changed over; of pixels pixels, of a window a window."""
    if not isinstance(image, WindowedPicture):
        return cv2.flip(image, 1)
    return replace(image, is_mirrored=not image.is_mirrored)
