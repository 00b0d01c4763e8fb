"""Draws a small data set in CIFAR-100's archive format, from a seed: `python -m public.datasets.drawn_cifar`.

Twelve classes, six shapes that are each plain or striped, in pictures of 32 x 32: a shape of random colour, size and place,
turned by up to 15 degrees, on a background of two other colours, with a line of no class in front of or behind it, and
noise.  Colour, place and size say nothing about the class.  The superclasses (CIFAR-100's coarse labels) are the shapes.

Picture i of a split depends on (seed, split, i) only, so a larger set begins with the smaller one; its class is i % 12.
"""

import argparse
import math
import os
from pathlib import Path

import numpy as np

from public.datasets.cifar import SIDE
from public.datasets.preparing.cifar_writer import write_cifar100_part, write_pickle
from public.datasets.preparing.drawn import make_drawn_set
from public.random_streams import stream
from public.text import let_everything_be_printed

SHAPES = ("circle", "cross", "ring", "square", "star", "triangle")
FILLINGS = ("plain", "striped")
DRAWN_CLASSES = tuple(f"{filling}_{shape}" for shape in SHAPES for filling in FILLINGS)

FINE = 4  # drawing resolution over picture resolution
SMALLEST, LARGEST = 0.55, 0.95  # diameter of a shape over the picture's side
LEAST_CONTRAST = 70.0  # Euclidean distance of two colours that lie side by side, in grey levels
LARGEST_TURN = math.pi / 12
NOISE = 6.0  # standard deviation, in grey levels
DESCRIPTION_FILE = "drawn.json"
DEFAULT_FOLDER = os.fspath(Path(__file__).resolve().parents[2] / "data" / "cifar-shapes-python")
VERSION = 1  # of the drawing; another one draws other pictures from the same seed


def draw_cifar(out: str | os.PathLike, *, num_train: int, num_test: int, seed: int) -> bool:
    """Writes the data set into the folder `out`; returns False if it was there already.

    The set is drawn beside `out` and renamed when complete, so an interrupted call leaves no half set.

    Raises:
        ValueError: `out` holds something else, or a set with other parameters.
    """
    out = os.path.abspath(os.fspath(out))
    parameters = {"num_train": num_train, "num_test": num_test, "seed": seed, "version": VERSION}

    def write(partial: str) -> None:
        for split, number in (("train", num_train), ("test", num_test)):
            _write_split(Path(partial) / split, split, number, seed)
        names = {"fine_label_names": list(DRAWN_CLASSES), "coarse_label_names": list(SHAPES)}
        write_pickle(Path(partial) / "meta", names)

    return make_drawn_set(out, parameters, write, what="pictures", description=DESCRIPTION_FILE)


def _write_split(path, split, number, seed):
    labels = np.arange(number) % len(DRAWN_CLASSES)
    images = np.stack([draw_picture(stream(seed, "drawn cifar", split, i), labels[i]) for i in range(number)])
    names = [f"{split}_{i:06d}.png" for i in range(number)]
    coarse = labels // len(FILLINGS)
    write_cifar100_part(path, images, labels, coarse_labels=coarse, names=names, title=f"drawn {split}ing pictures")


def draw_picture(rng: np.random.Generator, label: int) -> np.ndarray:
    """A picture (32, 32, 3) uint8 RGB of the class `label`, drawn from `rng`."""
    x, y = _grid()
    position = _along(rng, x, y)[:, :, None]  # -1..1
    colors = _colors(rng, 4)  # two of the background, the shape's, that of its stripes and of the line
    canvas = colors[0] * (1 - position) / 2 + colors[1] * (1 + position) / 2
    is_behind, cover = rng.random() < 0.5, _line(rng, x, y)
    if is_behind:
        canvas = _paint(canvas, cover, colors[3])
    shape, stripes = _shape(rng, x, y, label)
    canvas = _paint(canvas, shape, colors[2])
    canvas = _paint(canvas, shape & stripes, colors[3])
    if not is_behind:
        canvas = _paint(canvas, cover, colors[3])
    coarse = canvas.reshape(SIDE, FINE, SIDE, FINE, 3).mean((1, 3))
    return np.clip(np.rint(coarse + rng.normal(0, NOISE, coarse.shape)), 0, 255).astype(np.uint8)


def _grid():
    """x and y of every fine pixel, from -1 to 1."""
    axis = (np.arange(SIDE * FINE) + 0.5) / (SIDE * FINE) * 2 - 1
    return np.meshgrid(axis, axis)


def _along(rng, x, y):
    """How far each pixel is along a random direction, -1 to 1."""
    angle = rng.random() * 2 * math.pi
    return (x * math.cos(angle) + y * math.sin(angle)) / math.sqrt(2)


def _colors(rng, number):
    """(number, 3) colours; all but the first two differ clearly from each of those before them."""
    colors = [rng.uniform(20, 235, 3), rng.uniform(20, 235, 3)]
    while len(colors) < number:
        color = rng.uniform(0, 255, 3)
        if all(np.linalg.norm(color - other) >= LEAST_CONTRAST for other in colors):
            colors.append(color)
    return np.array(colors)


def _paint(canvas, is_covered, color):
    return np.where(is_covered[:, :, None], color, canvas)


def _line(rng, x, y):
    """bool: whether a pixel is on a thin line."""
    return np.abs(_along(rng, x, y) - rng.uniform(-0.6, 0.6)) < rng.uniform(0.02, 0.04)


def _shape(rng, x, y, label):
    """Whether a pixel is inside the shape of the class, and whether it is on a stripe (nowhere for plain ones)."""
    name, filling = SHAPES[label // len(FILLINGS)], FILLINGS[label % len(FILLINGS)]
    radius = rng.uniform(SMALLEST, LARGEST)  # half the diameter, the picture being 2 wide
    middle = rng.uniform(-1, 1, 2) * (1 - radius)
    turn = rng.uniform(-LARGEST_TURN, LARGEST_TURN)
    u, v = (x - middle[0]) / radius, (y - middle[1]) / radius
    u, v = u * math.cos(turn) - v * math.sin(turn), u * math.sin(turn) + v * math.cos(turn)
    waves, direction = rng.uniform(4.0, 6.0), rng.random() * 2 * math.pi  # about three pixels each
    wave = np.sin((x * math.cos(direction) + y * math.sin(direction)) * waves * math.pi)
    return _is_inside(name, u, v), (wave > 0) & (filling == "striped")


def _is_inside(name, u, v):
    """Whether (u, v) is inside the shape, which fits into the circle of radius 1."""
    distance, angle = np.hypot(u, v), np.arctan2(v, u)
    if name == "circle":
        return distance < 0.9
    if name == "ring":
        return (distance < 1) & (distance > 0.55)
    if name == "square":
        return np.maximum(abs(u), abs(v)) < 0.75
    if name == "cross":
        return (np.minimum(abs(u), abs(v)) < 0.24) & (np.maximum(abs(u), abs(v)) < 0.95)
    corners = {"triangle": 3, "star": 5}[name]
    to_corner = abs((angle % (2 * math.pi / corners)) * corners / math.pi - 1)  # 1 at a corner, 0 halfway between two
    if name == "triangle":
        return distance * np.cos((1 - to_corner) * math.pi / corners) < math.cos(math.pi / corners)
    return distance < 0.4 + 0.6 * to_corner**2


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Draws twelve classes of shapes in CIFAR-100's archive format.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--out", default=DEFAULT_FOLDER, help="folder to draw into")
    parser.add_argument("--train", type=int, default=4000, help="number of training pictures")
    parser.add_argument("--test", type=int, default=1000, help="number of test pictures")
    parser.add_argument("--seed", type=int, default=0, help="of the drawing")
    options = parser.parse_args()
    let_everything_be_printed()
    try:
        is_new = draw_cifar(options.out, num_train=options.train, num_test=options.test, seed=options.seed)
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    print(f"{options.out}: {'drawn' if is_new else 'was there already'}, {options.train} + {options.test} pictures")


if __name__ == "__main__":
    main()
