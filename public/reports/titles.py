"""Pictures of a classifier's work: images under lines of text."""

from collections.abc import Sequence

import cv2
import numpy as np

from public import drawing
from public.lettering import fitting_height, write

SIDE = 192  # shorter side of a picture on a sheet, at least, in pixels
LONGEST = 480  # its longer side, at most
TEXT_HEIGHT, SMALLEST_TEXT, LINE_HEIGHT, MARGIN = 10, 6, 16, 3  # pixels; the first two of a capital letter


def titled(image: np.ndarray, lines: Sequence[str], side: int = SIDE, longest: int = LONGEST) -> np.ndarray:
    """`image` under lines of text, which shrink to its width.

    Args:
        image: uint8 RGB (H, W, 3).  Small ones are enlarged by whole factors, so that their pixels stay squares, to at least
            `side` pixels, as far as `longest` allows; larger ones are reduced to it.
    """
    reduction = longest / max(image.shape[:2])
    if reduction < 1:
        size = tuple(max(1, round(side * reduction)) for side in image.shape[1::-1])
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    factor = max(min(-(-side // min(image.shape[:2])), longest // max(image.shape[:2])), 1)
    image = np.repeat(np.repeat(image, factor, axis=0), factor, axis=1)
    width = image.shape[1]
    strip = np.full((LINE_HEIGHT * len(lines) + MARGIN, width, 3), drawing.BACKGROUND, dtype=np.uint8)
    for number, line in enumerate(lines, start=1):
        height = fitting_height([line], width - 2 * MARGIN, TEXT_HEIGHT, SMALLEST_TEXT, is_bold=False)
        write(strip, line, (MARGIN, number * LINE_HEIGHT - MARGIN), height, drawing.INK, is_bold=False)
    return np.concatenate([strip, image])
