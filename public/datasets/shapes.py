"""Draws a small detection data set of shapes, in Pascal VOC layout, from a seed: `python -m public.datasets.shapes`.

Six classes, circle and ring, square and cross, triangle and star, in vivid colours that say nothing about the class,
turned by up to 15 degrees.  A picture holds 1 to 8 of them; the larger side of a shape is 8 to 60 % of the picture,
more often large than small.  They lie on each other, smaller ones above, which cover at most 40 % of what is below.  The
background is a muted gradient with smooth texture and some lines that belong to no class.  Light falls off by up to 40 %
across the picture, and there is noise.

A box is the tight one around the pixels of the shape that can be seen.  Shapes are drawn at four times the resolution;
a pixel belongs to a shape that covers at least half of it.  Picture i of a split depends on (seed, split, i) and the
size only, so a larger set begins with the smaller one.
"""

import argparse
import math
import os
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from public.datasets.preparing.drawn import make_drawn_set
from public.random_streams import stream
from public.text import let_everything_be_printed

SHAPE_CLASSES = ("circle", "cross", "ring", "square", "star", "triangle")

MAX_SHAPES = 8
SMALLEST_SIDE, LARGEST_SIDE = 0.08, 0.60  # of the picture
LARGEST_COVER = 0.40  # part of a shape that later ones may cover
LIGHT_FALL = 0.40
FINE = 4  # drawing resolution over picture resolution
PLACING_ATTEMPTS = 20
LARGEST_TURN = math.pi / 12
LEAST_CONTRAST = 90.0  # Euclidean distance of a shape's colour from what it is drawn on, in grey levels
MAX_LINES = 2
DESCRIPTION_FILE = "shapes.json"
DEFAULT_FOLDER = os.fspath(Path(__file__).resolve().parents[2] / "data" / "shapes")
VERSION = 3  # of the drawing; another one draws other pictures from the same seed


class Picture(NamedTuple):
    """A drawn picture and its N objects."""

    image: np.ndarray  # (H, W, 3) uint8, RGB
    owners: np.ndarray  # (H, W) int64: number of the object that is seen at a pixel, -1 for background
    labels: list[int]  # N numbers into SHAPE_CLASSES
    boxes: list[tuple[int, int, int, int]]  # N, first and last column and row: x1 y1 x2 y2, pixels from 0, inclusive
    areas: list[int]  # N, pixels of each object before later ones covered some


def draw_shapes(out: str | os.PathLike, *, num_train: int, num_val: int, size: int, seed: int) -> bool:
    """Writes the data set into the folder `out`; returns False if it was there already.

    The sources for `Voc` are "<out>/train" and "<out>/val".  The set is drawn beside `out` and renamed when complete, so
    an interrupted call leaves no half set.

    Raises:
        ValueError: `out` holds something else, or a set with other parameters.
    """
    out = os.path.abspath(os.fspath(out))
    parameters = {"num_train": num_train, "num_val": num_val, "size": size, "seed": seed, "version": VERSION}

    def write(partial: str) -> None:
        for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
            os.makedirs(os.path.join(partial, folder))
        for split, num_pictures in (("train", num_train), ("val", num_val)):
            _write_split(partial, split, num_pictures, size, seed)

    return make_drawn_set(out, parameters, write, what="shapes", description=DESCRIPTION_FILE)


def _write_split(folder, split, num_pictures, size, seed):
    names = [f"{split}_{number:06d}" for number in range(num_pictures)]
    for number, name in enumerate(names):
        picture = draw_picture(stream(seed, "shapes", split, number), size)
        encoded = cv2.imencode(".jpg", picture.image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
        with open(os.path.join(folder, "JPEGImages", f"{name}.jpg"), "wb") as file:
            file.write(encoded.tobytes())
        _write_text(os.path.join(folder, "Annotations", f"{name}.xml"), _xml(name, picture, size))
    _write_text(os.path.join(folder, "ImageSets", "Main", f"{split}.txt"), "".join(f"{name}\n" for name in names))


def _write_text(path, text):
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)


def _xml(name, picture, size):
    lines = ["<annotation>", f"  <filename>{name}.jpg</filename>"]
    lines.append(f"  <size><width>{size}</width><height>{size}</height><depth>3</depth></size>")
    for label, box in zip(picture.labels, picture.boxes):
        corners = zip(("xmin", "ymin", "xmax", "ymax"), box)
        written = "".join(f"<{key}>{value + 1}</{key}>" for key, value in corners)  # VOC counts pixels from 1
        lines.append(f"  <object><name>{SHAPE_CLASSES[label]}</name><difficult>0</difficult>")
        lines.append(f"    <bndbox>{written}</bndbox></object>")
    return "\n".join([*lines, "</annotation>", ""])


# ---------------------------------------------------------------------------------------------------- a picture


def draw_picture(rng: np.random.Generator, size: int) -> Picture:
    """A square picture of `size` pixels with its objects, drawn from `rng`."""
    canvas = _background(rng, size)  # (H, W, 3) float32, grey levels
    owners = np.full((size, size), -1, dtype=np.int64)
    labels, areas = [], []
    num_shapes = int(rng.integers(1, MAX_SHAPES + 1))
    room = 0.5 if num_shapes == MAX_SHAPES else 1.0  # eight large ones find no place
    sides = SMALLEST_SIDE + room * (LARGEST_SIDE - SMALLEST_SIDE) * np.sqrt(rng.random(num_shapes))  # more large ones
    for side in size * np.sort(sides)[::-1]:
        label = int(rng.integers(len(SHAPE_CLASSES)))
        outlines = _outlines(SHAPE_CLASSES[label], rng)
        largest_cover = rng.uniform(0, LARGEST_COVER)
        for _ in range(PLACING_ATTEMPTS):
            cover = _place(rng, outlines, side, size)
            mask = cover >= 0.5
            if _leaves_enough(owners, mask, areas, largest_cover):
                _paint(rng, canvas, cover)
                owners[mask] = len(labels)
                labels.append(label)
                areas.append(int(mask.sum()))
                break  # otherwise there is no room for it, and it is left out
    boxes = [_tight_box(owners == number) for number in range(len(labels))]
    return Picture(_finish(rng, canvas), owners, labels, boxes, areas)


def _leaves_enough(owners, mask, areas, largest_cover):
    """Whether a shape at `mask` and those before it cover at most this part of each earlier one, of `areas` pixels."""
    seen = np.bincount(owners[~mask & (owners >= 0)], minlength=len(areas))
    return bool(mask.any()) and all(visible >= (1 - largest_cover) * area for visible, area in zip(seen, areas))


def _tight_box(mask):
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def _place(rng, outlines, side, size):
    """(H, W) float32: how much of each pixel a shape with this larger side covers at a random place inside the picture."""
    low, high = outlines[0].min(axis=0), outlines[0].max(axis=0)
    scale = side / (high - low).max()
    origin = rng.random(2) * (size - scale * (high - low)) - scale * low
    return _cover([outline * scale + origin for outline in outlines], size)


def _cover(outlines, size):
    """(H, W) float32 in [0, 1]: how much of each pixel lies within outlines (P, 2) in pixels; an inner one is a hole."""
    fine = np.zeros((size * FINE, size * FINE), dtype=np.uint8)
    points = [np.round(outline * FINE * 16 - 8).astype(np.int32) for outline in outlines]  # in sixteenths, of centres
    cv2.fillPoly(fine, points, 255, shift=4)
    return cv2.resize(fine, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def _outlines(name, rng):
    """The outline of a shape, (P, 2) points around the origin, and of its hole if it has one."""
    turn = rng.uniform(-LARGEST_TURN, LARGEST_TURN)
    if name == "circle":
        return [_polygon(np.ones(64), turn)]
    if name == "ring":
        return [_polygon(np.ones(64), turn), _polygon(np.full(64, rng.uniform(0.5, 0.65)), turn)]
    if name == "square":
        return [_polygon(np.ones(4), turn + math.pi / 4)]
    if name == "triangle":
        return [_polygon(np.ones(3), turn)]
    if name == "star":
        return [_polygon(np.tile([1.0, rng.uniform(0.38, 0.46)], 5), turn)]
    arm = rng.uniform(0.24, 0.32)  # cross: half the width of an arm of length 1
    quarter = np.array([[1, -arm], [1, arm], [arm, arm]])
    return [np.concatenate([quarter @ _rotation(turn + i * math.pi / 2) for i in range(4)])]


def _polygon(radii, turn):
    """(P, 2) points at even angles, the first one above the origin, and at the given distances from it."""
    angles = turn - math.pi / 2 + 2 * math.pi * np.arange(len(radii)) / len(radii)
    return radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _rotation(angle):
    return np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])


# --------------------------------------------------------------------------------------------- colour and light


def _background(rng, size):
    """(H, W, 3) float32: a gradient between two muted colours, smooth texture, and lines."""
    x, y = _grid(size)
    angle = rng.random() * 2 * math.pi
    position = (x * math.cos(angle) + y * math.sin(angle))[:, :, None] / math.sqrt(2)  # -1..1
    first, second = (rng.uniform(30, 110) + rng.uniform(-15, 15, 3) for _ in range(2))
    canvas = (first * (1 - position) + second * (1 + position)) / 2
    cells = int(rng.integers(3, 17))
    texture = rng.normal(0, rng.uniform(2, 8), (cells, cells, 3)).astype(np.float32)
    canvas = (canvas + cv2.resize(texture, (size, size), interpolation=cv2.INTER_CUBIC)).astype(np.float32)
    for _ in range(int(rng.integers(0, MAX_LINES + 1))):
        _paint(rng, canvas, _random_line(rng, size))
    return canvas


def _grid(size):
    """x and y of every pixel, (H, W) each, from -1 to 1."""
    axis = np.linspace(-1, 1, size)
    return np.meshgrid(axis, axis)


def _random_line(rng, size):
    """(H, W) float32: how much of each pixel a thin line covers, which may reach over the edge."""
    half_length, half_width = size * rng.uniform(0.15, 0.5), max(0.5, size * 0.005)
    outline = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [half_length, half_width]
    return _cover([outline @ _rotation(rng.random() * math.pi) + rng.random(2) * size], size)


def _paint(rng, canvas, cover):
    """Lays a vivid colour that differs from what is below over `canvas`, in place; one in four times it has stripes."""
    inside = cover >= 0.5
    below = canvas[inside].mean(axis=0) if inside.any() else canvas.mean(axis=(0, 1))
    for _ in range(PLACING_ATTEMPTS):
        color = rng.permutation([rng.uniform(190, 250), rng.uniform(20, 250), rng.uniform(20, 120)])
        if np.linalg.norm(color - below) >= LEAST_CONTRAST:
            break
    layer = np.broadcast_to(color, canvas.shape)
    if rng.random() < 0.25:
        x, y = _grid(len(canvas))
        angle, waves = rng.random() * 2 * math.pi, rng.uniform(4, 24)
        stripes = np.sin(waves * math.pi * (x * math.cos(angle) + y * math.sin(angle)))
        layer = layer + (stripes * rng.uniform(4, 12))[:, :, None]
    canvas += cover[:, :, None] * (layer - canvas).astype(np.float32)


def _finish(rng, canvas):
    """uint8 picture: light that falls off in one direction, then noise."""
    size = len(canvas)
    x, y = _grid(size)
    angle = rng.random() * 2 * math.pi
    position = (1 + (x * math.cos(angle) + y * math.sin(angle)) / math.sqrt(2)) / 2  # 0..1
    light = 1 - rng.uniform(0, LIGHT_FALL) * position
    noise = rng.normal(0, rng.uniform(2, 6), canvas.shape)
    return np.clip(np.rint(canvas * light[:, :, None] + noise), 0, 255).astype(np.uint8)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Draws the shapes data set in Pascal VOC layout.")
    parser.add_argument("--out", default=DEFAULT_FOLDER, help="folder to draw into (%(default)s)")
    parser.add_argument("--train", type=int, default=2000, help="number of training pictures (%(default)s)")
    parser.add_argument("--val", type=int, default=400, help="number of validation pictures (%(default)s)")
    parser.add_argument("--size", type=int, default=128, help="side of a picture in pixels (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    options = parser.parse_args()
    let_everything_be_printed()
    is_new = draw_shapes(
        options.out, num_train=options.train, num_val=options.val, size=options.size, seed=options.seed
    )
    print(f"{options.out}: {'drawn' if is_new else 'was there already'}, {options.train} + {options.val} pictures")


if __name__ == "__main__":
    main()
