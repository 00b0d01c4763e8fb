"""Letters in pictures: one way for all that is drawn here, and for matplotlib's figures (`public.reports.figures`).

OpenCV 5 brings fonts with Latin, Greek, Cyrillic, Hebrew, Arabic, Chinese, Japanese and Korean letters.  A character that
they lack is written as its code, such as \\u0e41, so that two names never look the same; so is what no font can have: ends
of lines, and bytes of file names that are no UTF-8 (`public.text`).  Nothing in a text is taken for an instruction.

Heights are those of a capital letter, in pixels.
"""

import unicodedata
from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np

from public.text import escaped

FONT = cv2.FONT_HERSHEY_SIMPLEX
ENLARGED = 48  # pixels; smaller letters are drawn with about this height and shrunk: OpenCV places them on whole pixels
LONGEST = 2000  # characters of a text that are drawn
HAS_OUTLINES = int(cv2.__version__.split(".")[0]) >= 5  # OpenCV 5 knows two strokes, regular (1) and bold; OpenCV 4 any


def drawable(text: str) -> str:
    """`text` as it is drawn: what the fonts lack as codes, marks that only steer (such as joiners) left out."""
    return "".join(map(_drawable, text[:LONGEST]))


@lru_cache(maxsize=4096)
def _drawable(character: str) -> str:
    if " " <= character <= "~":
        return character
    category = unicodedata.category(character)
    if (
        category == "Cf" or 0xFE00 <= ord(character) <= 0xFE0F
    ):  # steer direction, joining, and the look of the one before
        return ""
    return character if category not in ("Cc", "Cs", "Zl", "Zp") and _is_in_the_fonts(character) else escaped(character)


def _is_in_the_fonts(character: str) -> bool:
    """OpenCV draws a question mark in place of a letter that it lacks."""
    one, other = (np.zeros((48, 96), dtype=np.uint8) for _ in range(2))
    cv2.putText(one, character, (24, 36), FONT, 1.0, 255, 1, cv2.LINE_AA)
    cv2.putText(other, "?", (24, 36), FONT, 1.0, 255, 1, cv2.LINE_AA)
    return not np.array_equal(one, other)


@lru_cache(maxsize=4096)  # a figure has the same numbers over and over
def text_width(text: str, height: float, *, is_bold: bool = True) -> int:
    """Width in pixels of `text` whose capitals are `height` pixels high."""
    enlargement, scale, stroke = _font(height, is_bold)
    return -(-cv2.getTextSize(drawable(text), FONT, scale, stroke)[0][0] // enlargement)


@lru_cache(maxsize=512)
def letters(text: str, height: float, *, is_bold: bool = True) -> tuple[np.ndarray, int]:
    """How much of each pixel `text` covers, uint8 (h, w), and the row of the line on which the letters stand.

    The array may be held elsewhere, too: it is not to be written into.

    There is room above the capitals for accents and below the line for descenders, `margin(height)` rows each.
    """
    enlargement, scale, stroke = _font(height, is_bold)
    capital, room = round(height), margin(height)
    rows, columns = capital + 2 * room, text_width(text, height, is_bold=is_bold) + room
    large: np.ndarray = np.zeros((rows * enlargement, columns * enlargement), dtype=np.uint8)
    place = (0, (capital + room) * enlargement)
    cv2.putText(large, drawable(text), place, FONT, scale, 255, stroke, cv2.LINE_AA)
    return cv2.resize(large, (columns, rows), interpolation=cv2.INTER_AREA), capital + room


def margin(height: float) -> int:
    """Rows above the capitals and below the line of `letters`."""
    return round(height)


def write(
    image: np.ndarray, text: str, baseline: tuple[int, int], height: int, color: Sequence[int], *, is_bold: bool = True
) -> None:
    """Writes `text` into `image`, its lower left corner at `baseline` (x, y) and its capitals `height` pixels high."""
    x, y = baseline
    cover, line = letters(text, height, is_bold=is_bold)
    top = y - line
    first_row, first_column = max(0, -top), max(0, -x)
    region = image[max(0, top) : y + margin(height), max(0, x) : x + cover.shape[1]]
    cover = cover[first_row : first_row + region.shape[0], first_column : first_column + region.shape[1], None] / 255
    region[:] = np.rint(region * (1 - cover) + np.array(color) * cover)


def fitting_height(texts: Sequence[str], width: int, highest: int, lowest: int, *, is_bold: bool = True) -> int:
    """The greatest height from `highest` down to `lowest` at which none of `texts` is wider than `width` pixels."""
    height = highest
    while height > lowest and max(text_width(text, height, is_bold=is_bold) for text in texts) > width:
        height -= 1
    return height


@lru_cache(maxsize=512)
def _font(height: float, is_bold: bool) -> tuple[int, float, int]:
    """How to draw letters of this height: enlargement, and OpenCV's font scale and stroke."""
    enlargement = max(1, round(ENLARGED / height))
    capital_height = cv2.getTextSize("H", FONT, 10.0, 1)[0][1] / 10  # at scale 1; it differs between OpenCV 4 and 5
    stroke = max(1, round(height * enlargement / 8))
    if not is_bold:
        stroke = 1 if HAS_OUTLINES else max(1, stroke // 2)
    return enlargement, height * enlargement / capital_height, stroke
