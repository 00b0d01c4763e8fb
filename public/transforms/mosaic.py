"""Mosaic, random affine and mixup of training samples, as YOLOX (2107.08430) has them; mosaic is YOLOv4's (2004.10934).

    FitWhenRead(size=(640, 640), interpolation="linear", use_reduced=True),
    Until(epoch=284, transforms=(Mosaic(size=(640, 640), ..., affine=RandomAffine(...)), BlendPartner(...))),

Follows Megvii's MosaicDetection (commit 6ddff48) on pictures that `FitWhenRead` has read, to the same pixels.  Nothing is
done for pixels that are thrown away: the canvas is made as far as the warp reaches into it, and the picture of a tile that
lies beyond is not even read.

Deviations: a picture that rounding has left a pixel short of the canvas is not resized a second time (FitWhenRead); boxes
without size are dropped at once, not at the end; a partner without objects is passed over `CANDIDATES` times, the original
draws on for ever.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import cv2
import numpy as np

from public.datasets.annotations import Objects
from public.datasets.sample import Sample, Unread
from public.settings import Color, IsA, NonNegative, Positive, Probability, Rising, Side
from public.settings import check as check_settings
from public.transforms.canvas import filled, paste
from public.transforms.objects import joined, with_all_objects, with_objects

CANDIDATES = 8  # pictures that are drawn as the partner of a mixup; the first with an object is taken
MARGIN = 2  # pixels around the visible part of a canvas, which the interpolation may touch


@dataclass(frozen=True, kw_only=True)
class RandomAffine:
    """Turns, scales, shears and shifts a picture about its upper left corner, on a canvas of the same size.

    With R the rotation by the angle a times the scale s, in OpenCV's sense, the rows of the map are R0 + tan(shear y) R1 and
    R1 + tan(shear x) R0; the shift is in pixels of the result.  A box becomes the upright box around its four corners, cut
    at the canvas.

    Fields:
        rotation: degrees; the angle is drawn evenly from -rotation .. rotation.
        scale: (lowest, highest), drawn evenly.
        shear: degrees, drawn evenly from -shear .. shear, in x and in y.
        translate: part of a side, drawn evenly from -translate .. translate, in x and in y.
        fill: RGB of what comes in from outside.
    """

    rotation: NonNegative
    scale: Annotated[tuple[Positive, Positive], Rising()]
    shear: NonNegative
    translate: NonNegative
    fill: Color

    def __post_init__(self) -> None:
        check_settings(self)
        if self.shear >= 45:
            raise ValueError(f"RandomAffine.shear is {self.shear!r}, has to be below 45 degrees")

    def draw(self, rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
        """(2, 3) map of one sample onto a canvas of `size` (height, width)."""
        angle, scale, shear_x, shear_y, right, down = rng.random(6)
        low, high = self.scale
        return affine_map(
            angle=self.rotation * (2 * angle - 1),
            scale=low + (high - low) * scale,
            shear=(self.shear * (2 * shear_x - 1), self.shear * (2 * shear_y - 1)),
            shift=(self.translate * (2 * right - 1) * size[1], self.translate * (2 * down - 1) * size[0]),
        )

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        height, width = sample.image.shape[:2]
        matrix = self.draw(rng, (height, width))
        return with_objects(sample, self.warp(sample.image, matrix, (height, width)), mapped(sample.boxes, matrix))

    def warp(self, image: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """`image`, of three channels or four (public/transforms/canvas.py), mapped by `matrix` onto a canvas of `size`.

        Nothing is computed to the right of what the picture reaches, and below it.
        """
        if image.shape[2] == 3:
            image = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)
        reached = visible(cv2.invertAffineTransform(matrix), image.shape[:2], size)
        fill = (*self.fill, 0)
        part = cv2.warpAffine(image, matrix, reached[::-1], flags=cv2.INTER_LINEAR, borderValue=fill)
        if reached == size:
            return cv2.cvtColor(part, cv2.COLOR_RGBA2RGB)
        canvas = filled(size, self.fill)
        cv2.cvtColor(part, cv2.COLOR_RGBA2RGB, dst=canvas[: reached[0], : reached[1]])
        return canvas


def affine_map(*, angle: float, scale: float, shear: tuple[float, float], shift: tuple[float, float]) -> np.ndarray:
    """(2, 3) float64 map of `RandomAffine`; angle and shear (x, y) in degrees, shift (x, y) in pixels."""
    turn = cv2.getRotationMatrix2D((0, 0), angle, scale)[:, :2]
    shear_x, shear_y = (math.tan(math.radians(degrees)) for degrees in shear)
    rows = np.stack([turn[0] + shear_y * turn[1], turn[1] + shear_x * turn[0]])
    return np.hstack([rows, np.array(shift)[:, None]])


def mapped(boxes: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """(N, 4) the upright boxes around the mapped corners of boxes (N, 4)."""
    corners = boxes.reshape(-1, 4)[:, [[0, 1], [2, 1], [0, 3], [2, 3]]] @ matrix[:, :2].T + matrix[:, 2]  # (N, 4, 2)
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


def visible(matrix: np.ndarray, shown: Sequence[int], size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of the part of a canvas of `size`, from its upper left corner, that `matrix` shows on one of `shown`.

    At least a pixel.
    """
    height, width = shown
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]]) - matrix[:, 2]
    right, low = np.linalg.solve(matrix[:, :2], corners.T).max(axis=1)
    return tuple(int(min(max(math.ceil(end) + MARGIN, 1), side)) for end, side in zip((low, right), size))  # type: ignore[return-value]  # two of them


@dataclass(frozen=True, kw_only=True)
class Mosaic:
    """With probability `prob`, four pictures around a point of a canvas of twice `size`, warped onto one of `size`.

    The sample's own picture lies above and to the left of the point, three others of the set to the right, below, and
    diagonally, each with a corner in it; what reaches beyond the canvas is cut off.  A picture has the size at which it was
    read, by `FitWhenRead` of the same size.

    Fields:
        size: (height, width) of the result.
        center: (lowest, highest) place of the point in x and in y, in parts of `size`, drawn evenly and rounded down.
        affine: the warp; its `fill` is the colour of the canvas, too.
    """

    size: tuple[Side, Side]
    prob: Probability
    center: Annotated[tuple[NonNegative, NonNegative], Rising()]
    affine: Annotated[Any, IsA("RandomAffine")]

    reads_late = True  # it is handed samples that are not read yet

    def __post_init__(self) -> None:
        check_settings(self)
        if self.center[1] > 2:
            raise ValueError(f"Mosaic.center is {self.center!r}, has to be within 0 .. 2, the canvas")

    def partners(self, rng: np.random.Generator, num_images: int) -> list[int]:
        """Three pictures of the set, any of them."""
        return rng.integers(num_images, size=3).tolist()

    def __call__(self, sample: Unread, rng: np.random.Generator, partners: Iterable[Unread]) -> Sample:
        is_applied, down, right = rng.random() < self.prob, *rng.random(2)
        matrix = self.affine.draw(rng, self.size)
        if not is_applied:
            return sample.read()
        low, high = self.center
        middle_y, middle_x = (int(side * (low + (high - low) * draw)) for side, draw in zip(self.size, (down, right)))
        whole = (2 * self.size[0], 2 * self.size[1])
        canvas = filled(visible(matrix, self.size, whole), (*self.affine.fill, 0))
        tiles = [self._put(part, place, (middle_y, middle_x), canvas) for place, part in enumerate([sample, *partners])]
        objects = joined(tiles)
        objects = objects._replace(boxes=mapped(objects.boxes, matrix))
        return with_all_objects(sample.outline, self.affine.warp(canvas, matrix, self.size), objects)

    def _put(self, part: Unread, place: int, point: tuple[int, int], canvas: np.ndarray) -> Objects:
        """The objects of `part` on the whole canvas; its picture is put on what there is of the canvas, `canvas`."""
        seen = part.outline
        left, top = _corner(place, point, seen.image)
        x2, y2 = min(left + seen.image.shape[1], canvas.shape[1]), min(top + seen.image.shape[0], canvas.shape[0])
        if x2 > max(left, 0) and y2 > max(top, 0):
            seen = part.read()
            left, top = _corner(place, point, seen.image)
            paste(seen.image, canvas, left, top)
        limits = np.array([2 * self.size[1], 2 * self.size[0]] * 2)
        return seen.objects._replace(boxes=np.clip(seen.boxes + np.array([left, top] * 2), 0, limits))


def _corner(place: int, point: tuple[int, int], image: np.ndarray) -> tuple[int, int]:
    """Left and top of the picture that lies above left (0), above right (1), below left (2) or below right of the point."""
    height, width = image.shape[:2]
    return point[1] - (width if place in (0, 2) else 0), point[0] - (height if place in (0, 1) else 0)


@dataclass(frozen=True, kw_only=True)
class BlendPartner:
    """With probability `prob`, the mean of the sample and one other picture of the set, with the objects of both.

    YOLOX's mixup.  The other picture is read at its size, as by `FitWhenRead` of the sample's size, put at the upper left
    of a canvas of the sample's size, resized by a factor, mirrored, and cut at a random place to the sample's size, or
    padded with black at the right and below.  Values are averaged and rounded down.  A sample without objects stays as it is.

    Fields:
        scale: (lowest, highest) factor, drawn evenly; sides are rounded down.
        flip_prob: chance that the other picture is mirrored.
        fill: RGB of its canvas.
    """

    prob: Probability
    scale: Annotated[tuple[Positive, Positive], Rising()]
    flip_prob: Probability
    fill: Color

    reads_late = True  # it is handed samples that are not read yet

    def __post_init__(self) -> None:
        check_settings(self)

    def partners(self, rng: np.random.Generator, num_images: int) -> list[int]:
        """CANDIDATES pictures of the set, any of them, of which the first with an object is mixed in."""
        return rng.integers(num_images, size=CANDIDATES).tolist()

    def __call__(self, sample: Unread, rng: np.random.Generator, partners: Iterable[Unread]) -> Sample:
        is_applied, is_flipped = rng.random() < self.prob, rng.random() < self.flip_prob
        low, high = self.scale
        scale, down, right = low + (high - low) * rng.random(), *rng.random(2)
        own = sample.read()
        other = next((partner for partner in partners if len(partner.outline.boxes)), None)
        if not is_applied or len(own.boxes) == 0 or other is None:
            return own
        size = own.image.shape[:2]
        image, boxes, objects = self._resized(other.read(), size, scale)
        sides = image.shape[:2]
        top, left = (int(draw * max(side - part, 0)) for draw, side, part in zip((down, right), sides, size))
        if is_flipped:  # the part that will be seen, alone
            boxes = np.stack([sides[1] - boxes[:, 2], boxes[:, 1], sides[1] - boxes[:, 0], boxes[:, 3]], axis=1)
            right_end = sides[1] - left
            part = cv2.flip(image[top : top + size[0], max(right_end - size[1], 0) : right_end], 1)
        else:
            part = image[top : top + size[0], left : left + size[1]]
        below, beside = size[0] - part.shape[0], size[1] - part.shape[1]
        if below or beside:
            part = cv2.copyMakeBorder(part, 0, below, 0, beside, cv2.BORDER_CONSTANT, value=(0, 0, 0))
        mean = cv2.addWeighted(own.image, 0.5, part, 0.5, -0.25)  # a quarter less is rounded to the mean rounded down
        moved = objects._replace(boxes=boxes - np.array([left, top] * 2))
        return with_all_objects(own, mean, joined([own.objects, moved]))

    def _resized(self, sample: Sample, size: tuple[int, int], scale: float) -> tuple[np.ndarray, np.ndarray, Objects]:
        """The other picture on its canvas, resized; its boxes there, cut at the canvas; its objects."""
        height, width = (max(int(side * scale), 1) for side in size)
        canvas: Any = filled(size, self.fill)
        paste(sample.image, canvas, 0, 0)
        canvas = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_LINEAR)
        return canvas, np.clip(sample.boxes * scale, 0, np.array([width, height] * 2)), sample.objects
