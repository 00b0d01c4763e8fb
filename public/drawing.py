"""Pictures of detections and ground truth: boxes with labels, two images side by side, sheets of many, saving.

Images are uint8 RGB (H, W, 3) throughout; boxes are x1 y1 x2 y2, the edges of their pixels.  No function changes its
arguments.  All sizes (lines, text, gaps) follow from the size of the picture, so a picture of 64 pixels and one of
6,000 look alike.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from public.files import write_whole
from public.lettering import text_width, write
from public.text import shown

MIN_TEXT_HEIGHT = 7  # height of a capital in pixels, below which letters run together
MAX_LABELLED = 1 / 3  # part of a picture that labels may cover; beyond it the least important boxes have none
MAX_ENLARGED = 4  # longer side of an enlarged picture, in shorter sides asked for
MIN_SIDE = 384  # an image with a shorter side is enlarged to be drawn on; frames of a video keep their size
BACKGROUND = (255, 255, 255)
INK = (32, 32, 32)


class Style(NamedTuple):
    """Sizes in pixels; `text_height` is that of a capital letter, `padding` the space around the text of a label."""

    line_width: int
    text_height: int
    padding: int


class Chip(NamedTuple):
    """A label: its text, its colour, and the rectangle x1 y1 x2 y2 it fills."""

    text: str
    color: tuple[int, int, int]
    box: tuple[int, int, int, int]


# Boxes and their labels


def draw_detections(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    scores: np.ndarray | None = None,
    *,
    min_side: int | None = None,
) -> np.ndarray:
    """A copy of `image` with its boxes, each in the colour of its class, named, and with its score where there is one.

    Boxes with higher scores, or smaller ones where there are no scores, lie on top.  Labels stay inside the image, keep
    clear of each other as far as there is room, and shrink where they would hide too much of the picture.  Letters that
    can shrink no more, as in pictures of 64 pixels, are left out where labels would cover over a third of the picture:
    every box is drawn, the least important ones without a label.

    Args:
        image: uint8 RGB (H, W, 3).
        boxes: (n, 4) x1 y1 x2 y2 in pixels of `image`; parts outside the image are not seen.
        labels: (n,) positions in `class_names`.
        scores: (n,), or None for ground truth.
        min_side: an image whose shorter side is smaller is enlarged to this many pixels, boxes included; a long strip
            only as far as its longer side has four times as many.

    Raises:
        ValueError: the arrays do not fit together, a box is not finite, or a label is not a class.
    """
    boxes, labels = np.asarray(boxes, dtype=np.float64).reshape(-1, 4), np.asarray(labels).reshape(-1)
    _check_image(image)
    _check_detections(boxes, labels, class_names, scores)
    image, scale = _enlarged(image, min_side)
    boxes = boxes * scale
    height, width = image.shape[:2]

    if scores is None:
        texts = [str(class_names[label]) for label in labels]
        importance = -np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    else:
        texts = [f"{class_names[label]} {score:.2f}" for label, score in zip(labels, scores)]
        importance = np.asarray(scores, dtype=np.float64)
    palette = class_colors(len(class_names)).tolist()
    colors = [tuple(palette[label]) for label in labels]
    style = _style_for(height, width, texts)
    corners = _visible_corners(boxes, height, width)
    order = np.argsort(importance, kind="stable")

    for number in order:
        _draw_box(image, corners[number], colors[number], style)
    chips: list[Chip] = []
    num_labels = _num_that_fit([texts[number] for number in order[::-1]], style, height, width)
    for number in order[::-1][:num_labels]:  # the most important label chooses its place first
        chips.append(_place_chip(texts[number], colors[number], corners[number], chips, style, (height, width)))
    for chip in reversed(chips):
        _draw_chip(image, chip, style)
    return image


def class_colors(num_classes: int) -> np.ndarray:
    """uint8 RGB (num_classes, 3): the colour of each class; class k has the same one however many classes there are.

    Each colour is the one farthest from all before it, by distance in the perceptual space OKLab (B. Ottosson, "A
    perceptual color space for image processing", 2020), among some 2,600 vivid colours; after those they repeat.
    """
    return _class_colors(num_classes).copy()


@lru_cache(maxsize=8)  # of 80 classes they take 15 ms, too much for each frame of a video
def _class_colors(num_classes: int) -> np.ndarray:
    candidates = _vivid_colors()
    lab = _oklab(candidates)  # (candidates, 3)
    chosen = [int(np.argmin(np.abs(candidates.astype(int) - (255, 64, 32)).sum(axis=1)))]  # a warm red to begin with
    distance = np.full(len(candidates), np.inf)
    for _ in range(min(num_classes, len(candidates)) - 1):
        distance = np.minimum(distance, np.linalg.norm(lab - lab[chosen[-1]], axis=1))
        chosen.append(int(np.argmax(distance)))
    return candidates[np.resize(chosen, num_classes)]


def text_color(color: Sequence[int]) -> tuple[int, int, int]:
    """Black or white, whichever stands out more on `color` (contrast ratio of WCAG 2; it is at least 4.58)."""
    luminance = float(_linear_light(np.asarray(color)) @ (0.2126, 0.7152, 0.0722))
    contrast_of_white, contrast_of_black = 1.05 / (luminance + 0.05), (luminance + 0.05) / 0.05
    return (255, 255, 255) if contrast_of_white > contrast_of_black else (0, 0, 0)


def _vivid_colors() -> np.ndarray:
    """uint8 RGB (n, 3): a grid of colours that are neither dark, nor pale, nor grey."""
    levels = np.arange(0, 256, 15)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3).astype(np.uint8)
    lightness, a, b = _oklab(grid).T
    chroma = np.hypot(a, b)
    return grid[(lightness > 0.52) & (lightness < 0.9) & (chroma > 0.12) & (chroma < 0.26)]


def _linear_light(colors: np.ndarray) -> np.ndarray:
    """sRGB values 0..255 to light intensities in [0, 1]."""
    values = np.asarray(colors) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _oklab(colors: np.ndarray) -> np.ndarray:
    """uint8 RGB (n, 3) to OKLab (n, 3): lightness, green to red, blue to yellow."""
    to_cones = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    )
    to_lab = np.array(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ]
    )
    return np.cbrt(_linear_light(colors) @ to_cones.T) @ to_lab.T


def _style_for(height: int, width: int, texts: Sequence[str]) -> Style:
    """Sizes that suit the picture; the text shrinks where labels would cover more than a tenth of it."""
    side = (height * width) ** 0.5
    line_width = round(1 + side / 400)
    text_height = max(MIN_TEXT_HEIGHT, round(5 + side / 75))
    while text_height > MIN_TEXT_HEIGHT:
        style = _style(line_width, text_height)
        if sum(np.prod(_chip_size(text, style)) for text in texts) <= height * width / 10:
            break
        text_height -= 1
    return _style(line_width, text_height)


def _num_that_fit(texts: Sequence[str], style: Style, height: int, width: int) -> int:
    """How many labels, from the first on, cover no more of the picture than they may."""
    areas = [np.prod(_chip_size(_shortened(text, style, width), style)) for text in texts]
    return int(np.searchsorted(np.cumsum(areas), MAX_LABELLED * height * width, side="right"))


def _style(line_width: int, text_height: int) -> Style:
    return Style(line_width=line_width, text_height=text_height, padding=max(2, round(text_height / 3)))


def _chip_size(text: str, style: Style) -> tuple[int, int]:
    """(width, height) of a label."""
    return text_width(text, style.text_height) + 2 * style.padding, style.text_height + 2 * style.padding


def _visible_corners(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """The first and the last pixel of the boxes along each axis, inside the image: int (n, 4)."""
    first = np.clip(np.rint(boxes[:, :2]), 0, [width - 1, height - 1])
    last = np.clip(np.rint(boxes[:, 2:]) - 1, first, [width - 1, height - 1])  # x2 is the right edge of the last pixel
    return np.concatenate([first, last], axis=1).astype(int)


def _draw_box(image: np.ndarray, corners: np.ndarray, color: tuple[int, int, int], style: Style) -> None:
    x1, y1, x2, y2 = corners.tolist()
    cv2.rectangle(image, (x1, y1), (x2, y2), color, style.line_width)


def _place_chip(
    text: str,
    color: tuple[int, int, int],
    corners: np.ndarray,
    chips: Sequence[Chip],
    style: Style,
    size: tuple[int, int],
) -> Chip:
    """The label of one box, at the corner of the box where it hides least of `chips`, the labels already placed."""
    height, width = size
    text = _shortened(text, style, width)
    chip_width, chip_height = _chip_size(text, style)
    x1, y1, x2, y2 = corners.tolist()
    half = style.line_width // 2
    left, right = x1 - half, x2 + half + 1 - chip_width
    above, below = y1 - half - chip_height, y2 + half + 1
    inside_top, inside_bottom = y1 + half + 1, y2 - half - chip_height
    places = [(left, above), (left, inside_top), (right, above), (right, inside_top)]
    places += [(left, below), (left, inside_bottom), (right, below), (right, inside_bottom)]
    places += [(x1 - half - chip_width, y1), (x2 + half + 1, y1)]

    best_box, best_cost = (0, 0, 0, 0), np.inf
    taken = np.array([chip.box for chip in chips]).reshape(-1, 4)
    taken = taken + np.array([-1, -1, 1, 1])  # a gap of a pixel between labels
    for preference, (x, y) in enumerate(places):
        inside_x = min(max(x, 0), width - chip_width)
        inside_y = min(max(y, 0), height - chip_height)
        moved = (abs(inside_x - x) / chip_width) + (abs(inside_y - y) / chip_height)
        box = (inside_x, inside_y, inside_x + chip_width, inside_y + chip_height)
        hidden = _overlap(box, taken).sum() / (chip_width * chip_height)
        cost = 4 * hidden + 0.5 * moved + 0.02 * preference
        if cost < best_cost:
            best_box, best_cost = box, cost
    return Chip(text, color, best_box)


def _shortened(text: str, style: Style, width: int) -> str:
    """`text`, or its beginning and two points where it is wider than the image."""
    if _chip_size(text, style)[0] <= width:
        return text
    for length in range(len(text) - 1, 0, -1):
        if _chip_size(text[:length] + "..", style)[0] <= width:
            return text[:length] + ".."
    return ""


def _overlap(box: tuple[int, int, int, int], others: np.ndarray) -> np.ndarray:
    """Pixels that `box` shares with each of `others` (n, 4): (n,)."""
    top_left = np.maximum(others[:, :2], box[:2])
    bottom_right = np.minimum(others[:, 2:], box[2:])
    return np.prod(np.clip(bottom_right - top_left, 0, None), axis=1)


def _draw_chip(image: np.ndarray, chip: Chip, style: Style) -> None:
    x1, y1, x2, y2 = chip.box
    image[max(y1, 0) : y2, max(x1, 0) : x2] = chip.color
    write(image, chip.text, (x1 + style.padding, y2 - style.padding), style.text_height, text_color(chip.color))


# Several images in one


def side_by_side(left: np.ndarray, right: np.ndarray, titles: tuple[str, str]) -> np.ndarray:
    """Two images next to each other, each under its title; the lower one is enlarged to the height of the other."""
    _check_image(left)
    _check_image(right)
    height = max(left.shape[0], right.shape[0])
    images = [_resized(image, height / image.shape[0]) for image in (left, right)]
    gap = max(2, round(height / 60))
    panels = [_with_title(image, title, height) for image, title in zip(images, titles)]
    strip = np.full((panels[0].shape[0], gap, 3), BACKGROUND, dtype=np.uint8)
    return np.concatenate([panels[0], strip, panels[1]], axis=1)


def contact_sheet(images: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """The images in rows of `columns`, each as large as its cell allows, in cells of the largest height and width.

    Raises:
        ValueError: there is no image, or no column.
    """
    if not len(images) or columns < 1:
        raise ValueError(
            f"A contact sheet of {len(images)} images in {columns} columns: it needs at least one of each."
        )
    for image in images:
        _check_image(image)
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    height = max(image.shape[0] for image in images)
    width = max(image.shape[1] for image in images)
    gap = max(2, round(min(height, width) / 60))
    sheet = np.empty((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), dtype=np.uint8)
    sheet[:] = BACKGROUND
    for number, image in enumerate(images):
        image = _resized(image, min(height / image.shape[0], width / image.shape[1]))
        top = gap + (number // columns) * (height + gap) + (height - image.shape[0]) // 2
        left = gap + (number % columns) * (width + gap) + (width - image.shape[1]) // 2
        sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    return sheet


def _with_title(image: np.ndarray, title: str, height: int) -> np.ndarray:
    """`image` under a strip with its title, which shrinks to the image's width, and ends in two points below that."""
    text_height = max(MIN_TEXT_HEIGHT, round(height / 30))
    strip_height = text_height * 3
    while text_height > MIN_TEXT_HEIGHT and _chip_size(title, _style(1, text_height))[0] > image.shape[1]:
        text_height -= 1
    style = _style(1, text_height)
    strip = np.full((strip_height, image.shape[1], 3), BACKGROUND, dtype=np.uint8)
    text = _shortened(title, style, image.shape[1])
    write(strip, text, (style.padding, (strip_height + text_height) // 2), text_height, INK)
    return np.concatenate([strip, image])


def _enlarged(image: np.ndarray, min_side: int | None) -> tuple[np.ndarray, np.ndarray]:
    """A copy of `image`, enlarged where its shorter side is below `min_side`, and the scale (4,) for its boxes."""
    height, width = image.shape[:2]
    if min_side is None or min(height, width) >= min_side:
        return image.copy(), np.ones(4)
    longest = max(height, width)
    enlarged = _resized(image, min(min_side / min(height, width), max(MAX_ENLARGED * min_side / longest, 1)))
    return enlarged, np.tile([enlarged.shape[1] / width, enlarged.shape[0] / height], 2)


def _resized(image: np.ndarray, scale: float) -> np.ndarray:
    """A copy of `image` with both sides times `scale`, rounded, at least one pixel."""
    if scale == 1:
        return image.copy()
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


# Saving


def save_image(path: str | Path, image: np.ndarray) -> None:
    """Writes an image in the format that the ending of `path` names (.png, .jpg, ...), completely or not at all.

    Raises:
        ValueError: `image` is no uint8 RGB image, or OpenCV cannot write this ending or this size.
        OSError: the file cannot be written; it is named.
    """
    _check_image(image)
    path = Path(path)
    try:
        is_done, encoded = cv2.imencode(shown(path.suffix), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    except cv2.error as error:
        raise ValueError(
            f"{path}: OpenCV knows no image format for the ending {path.suffix!r}; use .png or .jpg."
        ) from error
    if not is_done:
        height, width = image.shape[:2]
        raise ValueError(f"{path}: OpenCV cannot write {width} x {height} pixels in this format; .png has no limit.")
    write_whole(path, lambda file: file.write(encoded.tobytes()))


# Checks


def _check_image(image) -> None:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(f"An image must be a numpy array of uint8, RGB, (H, W, 3); this one is {found}.")
    if image.size == 0:
        raise ValueError(f"The image has no pixels: its shape is {image.shape}.")


def _check_detections(boxes, labels, class_names, scores) -> None:
    num_scores = len(boxes) if scores is None else len(scores)
    if not len(boxes) == len(labels) == num_scores:
        raise ValueError(f"{len(boxes)} boxes, {len(labels)} labels and {num_scores} scores do not belong together.")
    if not np.isfinite(boxes).all():
        bad = int(np.flatnonzero(~np.isfinite(boxes).all(axis=1))[0])
        raise ValueError(f"Box number {bad} is {boxes[bad].tolist()}: it cannot be drawn.")
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(class_names):
        raise ValueError(
            f"Labels run from {labels.min()} to {labels.max()}, but there are {len(class_names)} class names."
        )
