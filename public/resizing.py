"""To which size a picture is resized, and where it lies on which canvas: the arithmetic of `public.input` and the transforms.

Sides are whole pixels, height before width.
"""

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import cv2

from public.settings import OneOf, Side, check

INTERPOLATIONS = {
    "nearest": cv2.INTER_NEAREST,
    "linear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
    "lanczos": cv2.INTER_LANCZOS4,
}

Interpolation = Annotated[str, OneOf(tuple(INTERPOLATIONS))]
Rounding = Literal["nearest", "down"]


class Placement(NamedTuple):
    """The sides of a resized picture, those of its canvas, and where the picture's upper left corner lies on it.

    `scale`: pixels of the canvas a pixel of the picture, by which boxes go; None: by the sides, each as it was rounded.
    """

    height: int
    width: int
    canvas_height: int
    canvas_width: int
    left: int = 0
    top: int = 0
    scale: float | None = None


@dataclass(frozen=True, kw_only=True)
class ShorterSide:
    """The rule of Faster R-CNN and its successors: the shorter side gets min(size) pixels, the longer at most max(size).

    The aspect is kept: both sides are multiplied by min(min(size) / shorter side, max(size) / longer side).  The picture
    lies at the top left of a canvas whose sides are the next multiples of `multiple`; in a batch, the canvas of all is as
    high as the highest and as wide as the widest.

    Fields:
        rounding: of a side times the factor to whole pixels: "nearest", the half upwards, as MMDetection does, or "down", as
            torchvision does.  The product is a float64, there and here: 97 times 800 / 97 is 799.99..., down to 799.
        multiple: of the canvas's sides; 32 in both.
    """

    rounding: Rounding
    multiple: Side

    def __post_init__(self) -> None:
        check(self)

    def place(self, height: int, width: int, size: tuple[int, int]) -> Placement:
        """A picture of these sides, alone on its canvas."""
        sides = shorter_side(height, width, min(size), max(size), self.rounding)
        return Placement(*sides, *(round_up(side, self.multiple) for side in sides))


@dataclass(frozen=True, kw_only=True)
class KeepSize:
    """CenterNet's rule for evaluation: no picture is resized.

    It lies in the middle of a canvas whose sides are the smallest multiples of `multiple` above its own, (side | 31) + 1 for
    32, its corner at canvas side // 2 - side // 2; in a batch, the canvas of all is as high as the highest and as wide as
    the widest, and what is added lies at the right and the bottom.
    """

    multiple: Side

    def __post_init__(self) -> None:
        check(self)

    def place(self, height: int, width: int, size: tuple[int, int]) -> Placement:
        """A picture of these sides, alone on its canvas; `size` decides nothing."""
        canvas_height, canvas_width = (round_up(side + 1, self.multiple) for side in (height, width))
        left, top = canvas_width // 2 - width // 2, canvas_height // 2 - height // 2
        return Placement(height, width, canvas_height, canvas_width, left, top)


def stretch(height: int, width: int, size: tuple[int, int]) -> Placement:
    """A picture that fills its canvas of `size`, whatever its aspect."""
    return Placement(*size, *size)


def letterbox(height: int, width: int, size: tuple[int, int]) -> Placement:
    """A picture of kept aspect at the top left of its canvas of `size`: as large as fits, sides rounded down, at least 1.

    On a square of side S both sides are multiplied by S / max(height, width).
    """
    canvas_height, canvas_width = size
    if canvas_height * width <= canvas_width * height:  # the height is what limits it
        return Placement(canvas_height, max(width * canvas_height // height, 1), *size)
    return Placement(max(height * canvas_width // width, 1), canvas_width, *size)


def letterbox_by_ratio(height: int, width: int, size: tuple[int, int]) -> Placement:
    """YOLOX's rule: as `letterbox`, but boxes go by the one factor, of which the rounded sides fall short.

    Both sides are multiplied by min(canvas height / height, canvas width / width), a float64, and rounded down; where a
    product comes out just below a whole number, the longer side misses a pixel of the canvas, too.  A box at the right or
    lower end of a picture is up to a pixel of the canvas off from where `letterbox` has it, which is where it is seen.
    """
    scale = min(size[0] / height, size[1] / width)
    return Placement(max(int(height * scale), 1), max(int(width * scale), 1), *size, scale=scale)


def shorter_side(height: int, width: int, shorter: int, longest: int, rounding: Rounding) -> tuple[int, int]:
    """(height, width) of a picture of kept aspect by the rule of `ShorterSide`, at least a pixel."""
    scale = min(shorter / min(height, width), longest / max(height, width))
    half = 0.5 if rounding == "nearest" else 0.0
    return max(int(height * scale + half), 1), max(int(width * scale + half), 1)


def round_up(side: int, multiple: int) -> int:
    """The smallest multiple that is at least `side`."""
    return -(-side // multiple) * multiple
