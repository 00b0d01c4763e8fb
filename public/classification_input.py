"""How a picture becomes a classifier's input in evaluation: the shorter side is resized, the middle is cut out.

`ClassificationInput` stands where detection has `InputSpec`; `public.input.normalise` takes either.  In training the
transforms take the place of `prepare_crop`.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from public.input import INTERPOLATIONS, Geometry, InputSpec


@dataclass(frozen=True, kw_only=True)
class ClassificationInput:
    """What the network expects.

    Fields:
        size: (height, width) in pixels.
        shorter_side: to which the picture is resized first, aspect kept; at least both sides of `size`.
        interpolation: "nearest", "linear", "cubic", "area" or "lanczos"; "area" is done as "linear" where it enlarges.
        color_order: "rgb" or "bgr", the channels as the network takes them.
        scale, mean, std: channel c of the input is (pixel * scale - mean[c]) / std[c], in `color_order`.

    Raises:
        ValueError: a value makes no sense; the message names the field.
    """

    size: tuple[int, int]
    shorter_side: int
    interpolation: str
    color_order: str
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self):
        InputSpec(  # checks what the two have in common
            size=self.size,
            resize="stretch",
            interpolation=self.interpolation,
            padding=0,
            color_order=self.color_order,
            scale=self.scale,
            mean=self.mean,
            std=self.std,
        )
        if not isinstance(self.shorter_side, int) or self.shorter_side < max(self.size):
            raise ValueError(
                f"ClassificationInput.shorter_side is {self.shorter_side!r}, has to be whole pixels, at least the sides of "
                f"size {self.size}"
            )


def prepare_crop(image: np.ndarray, spec: ClassificationInput) -> tuple[np.ndarray, Geometry]:
    """The picture (H, W, 3) uint8 RGB at the network's size: (h, w, 3) uint8 RGB, and its geometry.

    The longer side is rounded down to whole pixels, the cut's corner to the nearest (to the even one from the half), as
    torchvision's Resize and CenterCrop do.  The geometry's pads are negative: what was cut off at the left and the top.
    """
    height, width = image.shape[:2]
    shorter = min(height, width)
    new_height, new_width = (spec.shorter_side * side // shorter for side in (height, width))
    if (new_height, new_width) != (height, width):
        name = "linear" if spec.interpolation == "area" and spec.shorter_side > shorter else spec.interpolation
        image = cv2.resize(image, (new_width, new_height), interpolation=INTERPOLATIONS[name])
    top, left = round((new_height - spec.size[0]) / 2), round((new_width - spec.size[1]) / 2)
    cut = np.ascontiguousarray(image[top : top + spec.size[0], left : left + spec.size[1]])
    return cut, Geometry(new_width / width, new_height / height, -left, -top, width, height)
