"""RandAugment (Cubuk et al., 1909.13719): a few changes of a picture, drawn evenly from fourteen, all of one strength.

The changes and what a strength means are torchvision's: 31 magnitudes from 0 to 30, and translations by a share of the
side.  Pillow does them, as in torchvision for Pillow's pictures.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from public.settings import Color
from public.transforms.counter_stream import NUMBERS_A_SAMPLE
from public.transforms.rules import check

HIGHEST = 30  # magnitude

# name: (value at magnitude 0, value at magnitude 30, whether its sign is drawn); None where there is no strength
CHANGES = {
    "identity": None,
    "shear_x": (0.0, 0.3, True),  # pixels to the side a pixel down
    "shear_y": (0.0, 0.3, True),
    "translate_x": (0.0, 150 / 331, True),  # shares of the side
    "translate_y": (0.0, 150 / 331, True),
    "rotate": (0.0, 30.0, True),  # degrees against the clock
    "brightness": (0.0, 0.9, True),  # the factor is 1 + value
    "color": (0.0, 0.9, True),
    "contrast": (0.0, 0.9, True),
    "sharpness": (0.0, 0.9, True),
    "posterize": (8, 4, False),  # bits that stay
    "solarize": (255.0, 0.0, False),  # levels from here on are inverted
    "auto_contrast": None,
    "equalize": None,
}


@dataclass(frozen=True, kw_only=True)
class RandAugment:
    """`num_changes` changes one after the other, each drawn evenly from `CHANGES`, its sign too.

    Fields:
        num_changes: N of the paper.
        magnitude: M of the paper, 0 to 30.
        fill: RGB of what comes into the picture from outside.
    """

    num_changes: int
    magnitude: int
    fill: Color

    def __post_init__(self):
        check(self, num_changes=(0, NUMBERS_A_SAMPLE // 2), magnitude=(0, HIGHEST))

    @property
    def num_draws(self) -> int:
        return 2 * self.num_changes

    def __call__(self, image: np.ndarray, draws: np.ndarray) -> np.ndarray:
        for choice, sign in draws.reshape(-1, 2):
            name = tuple(CHANGES)[int(choice * len(CHANGES))]
            image = change(image, name, strength(name, self.magnitude, sign < 0.5), self.fill)
        return image


def strength(name: str, magnitude: int, is_negative: bool) -> float | None:
    """The value of a change at a magnitude, with its sign; None where it has none."""
    limits = CHANGES[name]
    if limits is None:
        return None
    low, high, has_sign = limits
    value = low + (high - low) * magnitude / HIGHEST
    return -value if has_sign and is_negative else value


def change(image: np.ndarray, name: str, value: Any, fill: tuple[int, int, int]) -> np.ndarray:
    """The picture (H, W, 3) uint8 after one change of `CHANGES` by `value`."""
    height, width = image.shape[:2]
    picture = Image.fromarray(image)
    match name:
        case "identity":
            return image
        case "shear_x":  # around the top left corner, as in the paper's code
            picture = _affine(picture, (1, value, 0, 0, 1, 0), fill)
        case "shear_y":
            picture = _affine(picture, (1, 0, 0, value, 1, 0), fill)
        case "translate_x":
            picture = _affine(picture, (1, 0, -int(value * width), 0, 1, 0), fill)
        case "translate_y":
            picture = _affine(picture, (1, 0, 0, 0, 1, -int(value * height)), fill)
        case "rotate":
            picture = picture.rotate(value, Image.Resampling.NEAREST, fillcolor=fill)
        case "posterize":
            picture = ImageOps.posterize(picture, round(value))
        case "solarize":
            picture = ImageOps.solarize(picture, value)
        case "auto_contrast":
            picture = ImageOps.autocontrast(picture)
        case "equalize":
            picture = ImageOps.equalize(picture)
        case "brightness" | "color" | "contrast" | "sharpness":
            picture = getattr(ImageEnhance, name.capitalize())(picture).enhance(1 + value)
    return np.asarray(picture).copy()


def _affine(picture, matrix, fill):
    """Pixel (x, y) of the result is that at (a x + b y + c, d x + e y + f), for matrix a b c d e f."""
    return picture.transform(picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST, fillcolor=fill)
