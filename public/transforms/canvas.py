"""Canvases of one colour, and pictures put on them.

A canvas of four channels, of which the last is 0 and means nothing, holds a picture for OpenCV's warp: of four channels it
takes less than half the time that it takes of three, and gives the same values.
"""

import cv2
import numpy as np

from public.settings import Color


def filled(size: tuple[int, int], color: Color | tuple[int, int, int, int]) -> np.ndarray:
    """A new (height, width, 3 or 4) uint8 canvas; by whole rows, which is ten times as fast as pixel by pixel."""
    canvas = np.empty((*size, len(color)), dtype=np.uint8)
    canvas[:1] = color
    rows = canvas.reshape(size[0], -1)
    rows[1:] = rows[:1]
    return canvas


def paste(image: np.ndarray, canvas: np.ndarray, left: int, top: int) -> None:
    """Puts that part of `image` on `canvas` that lies on it, its corner at (left, top), which may be negative.

    The image has three channels, the canvas three or four.
    """
    x1, y1 = max(left, 0), max(top, 0)
    x2, y2 = min(left + image.shape[1], canvas.shape[1]), min(top + image.shape[0], canvas.shape[0])
    if x1 < x2 and y1 < y2:
        part = image[y1 - top : y2 - top, x1 - left : x2 - left]
        if canvas.shape[2] == 3:
            canvas[y1:y2, x1:x2] = part
        else:
            cv2.cvtColor(part, cv2.COLOR_RGB2RGBA, dst=canvas[y1:y2, x1:x2])
