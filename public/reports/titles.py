"""Pictures of a classifier's work: images under lines of text."""

from collections.abc import Sequence

import cv2
import numpy as np

from public import drawing

SIDE = 192  # shorter side of a picture on a sheet, at least, in pixels
LONGEST = 480  # its longer side, at most
TEXT_SCALE, SMALLEST_SCALE, LINE_HEIGHT, MARGIN = 0.45, 0.2, 16, 3


def titled(image: np.ndarray, lines: Sequence[str], side: int = SIDE, longest: int = LONGEST) -> np.ndarray:
    """`image` under lines of text, which shrink to its width.

    Args:
        image: uint8 RGB (H, W, 3).  Small ones are enlarged by whole factors, so that their pixels stay squares, to at least
            `side` pixels, as far as `longest` allows; larger ones are reduced to it.
    """
    reduction = longest / max(image.shape[:2])
    if reduction < 1:
        image = cv2.resize(image, None, fx=reduction, fy=reduction, interpolation=cv2.INTER_AREA)
    factor = max(min(-(-side // min(image.shape[:2])), longest // max(image.shape[:2])), 1)
    image = np.repeat(np.repeat(image, factor, axis=0), factor, axis=1)
    width = image.shape[1]
    strip = np.full((LINE_HEIGHT * len(lines) + MARGIN, width, 3), drawing.BACKGROUND, dtype=np.uint8)
    for number, line in enumerate(lines, start=1):
        scale = _fitting_scale(line, width - 2 * MARGIN)
        place = (MARGIN, number * LINE_HEIGHT - MARGIN)
        cv2.putText(strip, line, place, drawing.FONT, scale, drawing.INK, 1, cv2.LINE_AA)
    return np.concatenate([strip, image])


def _fitting_scale(text: str, width: int) -> float:
    """The size of letters at which `text` is no wider than `width` pixels, or the smallest that can be read."""
    scale = TEXT_SCALE
    while scale > SMALLEST_SCALE and cv2.getTextSize(text, drawing.FONT, scale, 1)[0][0] > width:
        scale -= 0.02
    return scale
