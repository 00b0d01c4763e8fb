"""The drawn shapes: repeatable files, exact boxes, the promised sizes, and shapes that are what they are called."""

import functools
import json
import os

import cv2
import numpy as np
import pytest

from public.datasets import shapes
from public.datasets.shapes import SHAPE_CLASSES, draw_picture, draw_shapes
from public.datasets.voc import Voc
from public.input import read_image
from public.random_streams import stream
from tests.helpers.forked_commands import run_python


def files(folder):
    """Every file under a folder, with its content."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@functools.cache
def pictures():
    return [draw_picture(stream(0, "test", number), 128) for number in range(300)]


def test_the_same_seed_draws_the_same_bytes_and_another_one_does_not(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert draw_shapes(tmp_path / name, num_train=5, num_val=3, size=64, seed=seed)
    first, second, other = (files(tmp_path / name) for name in "abc")
    assert len(first) == 8 + 8 + 2 + 1
    assert first == second
    assert all(other[name] != content for name, content in first.items() if not name.startswith("ImageSets"))
    draw_shapes(tmp_path / "larger", num_train=7, num_val=4, size=64, seed=0)
    larger = files(tmp_path / "larger")
    assert all(larger[name] == first[name] for name in first if name.startswith(("JPEGImages", "Annotations")))


def test_a_second_call_does_nothing_and_other_parameters_are_refused(tmp_path):
    out = tmp_path / "data" / "shapes"
    assert draw_shapes(out, num_train=2, num_val=1, size=64, seed=0)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert not draw_shapes(out, num_train=2, num_val=1, size=64, seed=0)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    with pytest.raises(ValueError, match=r"'num_train': 2.*'num_train': 3"):
        draw_shapes(out, num_train=3, num_val=1, size=64, seed=0)
    assert os.listdir(tmp_path / "data") == ["shapes"]


def test_foreign_files_are_not_touched_and_an_empty_folder_is_used(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("words")
    with pytest.raises(ValueError, match=r"mine is not empty and holds no shapes\.json"):
        draw_shapes(tmp_path / "mine", num_train=2, num_val=1, size=64, seed=0)
    assert files(tmp_path / "mine") == {"thesis.txt": b"words"}
    assert draw_shapes(tmp_path / "empty", num_train=2, num_val=1, size=64, seed=0)


def test_an_interrupted_call_leaves_nothing(tmp_path, monkeypatch):
    calls = []

    def interrupted(rng, size):
        calls.append(size)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return draw_picture(rng, size)

    monkeypatch.setattr(shapes, "draw_picture", interrupted)
    with pytest.raises(KeyboardInterrupt):
        draw_shapes(tmp_path / "shapes", num_train=5, num_val=1, size=64, seed=0)
    assert os.listdir(tmp_path) == []
    monkeypatch.undo()
    assert draw_shapes(tmp_path / "shapes", num_train=5, num_val=1, size=64, seed=0)


def test_the_voc_reader_finds_what_was_drawn(tmp_path):
    draw_shapes(tmp_path / "shapes", num_train=6, num_val=2, size=96, seed=4)
    for split, count in (("train", 6), ("val", 2)):
        data = Voc(sources=(f"shapes/{split}",), classes=SHAPE_CLASSES, use_difficult=False, keep_empty_images=True)
        annotations = data.read(tmp_path)
        assert len(annotations) == count
        assert annotations.dropped == annotations.clipped == []
        for i in range(count):
            drawn = draw_picture(stream(4, "shapes", split, i), 96)
            objects = annotations.objects(i)
            assert objects.labels.tolist() == drawn.labels
            assert objects.boxes.tolist() == [[x1, y1, x2 + 1, y2 + 1] for x1, y1, x2, y2 in drawn.boxes]
            read = read_image(annotations.image_path(i)).astype(int)
            assert read.shape == drawn.image.shape
            blurred = [cv2.blur(image.astype(np.float32), (5, 5)) for image in (read, drawn.image)]
            assert np.abs(blurred[0] - blurred[1]).mean() < 2  # JPEG, which keeps half of the noise


def test_boxes_are_tight_around_what_can_be_seen():
    for picture in pictures()[:60]:
        assert set(np.unique(picture.owners)) <= set(range(-1, len(picture.labels)))
        for number, box in enumerate(picture.boxes):
            rows, columns = zip(*[(y, x) for y, x in np.argwhere(picture.owners == number)])
            assert box == (min(columns), min(rows), max(columns), max(rows))


def test_counts_sizes_and_cover_keep_their_promises():
    drawn = pictures()
    counts = [len(picture.labels) for picture in drawn]
    assert min(counts) == 1
    assert max(counts) == 8
    labels = np.bincount(np.concatenate([picture.labels for picture in drawn]), minlength=6)
    assert labels.min() > 0.7 * labels.mean()
    sides = []
    for picture in drawn:
        for number, (x1, y1, x2, y2) in enumerate(picture.boxes):
            seen = int((picture.owners == number).sum())
            assert seen >= 0.6 * picture.areas[number]
            if seen == picture.areas[number]:
                sides.append(max(x2 - x1, y2 - y1) + 1)
    assert min(sides) >= 0.08 * 128 - 1
    assert max(sides) <= 0.60 * 128 + 1
    assert np.mean(np.array(sides) < 20) > 0.01


def test_sides_follow_the_square_root_of_an_even_draw():
    """In pictures of one object, where nothing is covered and nothing was left out for want of room."""
    drawn = [draw_picture(stream(1, "test", number), 64) for number in range(1200)]
    boxes = [picture.boxes[0] for picture in drawn if len(picture.boxes) == 1]
    sides = np.array([max(x2 - x1, y2 - y1) + 1 for x1, y1, x2, y2 in boxes])
    shares = np.sort((sides / 64 - 0.08) / (0.60 - 0.08)) ** 2  # even from 0 for the smallest to 1 for the largest
    assert len(shares) > 100
    # Kolmogorov's bound at one in a thousand, and half a pixel of rounding, which the square can double
    assert np.abs(shares - np.linspace(0, 1, len(shares))).max() < 1.95 / len(shares) ** 0.5 + 1 / 33


def whole_objects(name, smallest_side):
    """Masks, cut to their boxes, of uncovered objects of a class."""
    for picture in pictures():
        for number, (x1, y1, x2, y2) in enumerate(picture.boxes):
            mask = picture.owners[y1 : y2 + 1, x1 : x2 + 1] == number
            is_whole = mask.sum() == picture.areas[number]
            if SHAPE_CLASSES[picture.labels[number]] == name and is_whole and min(mask.shape) >= smallest_side:
                yield mask


def test_shapes_fill_their_boxes_as_geometry_says():
    """Share of the box that is covered; for turned shapes between that of no turn and that of 15 degrees."""
    allowed = {
        "circle": (np.pi / 4, np.pi / 4),
        "ring": (np.pi / 4 * (1 - 0.65**2), np.pi / 4 * (1 - 0.50**2)),
        "square": (1 / (np.cos(np.pi / 12) + np.sin(np.pi / 12)) ** 2, 1.0),
        # an equilateral triangle on its side fills half of its box; turned by 15 degrees, whose box is a square, 0.464
        "triangle": (0.464, 0.5),
    }
    for name, (low, high) in allowed.items():
        shares = [mask.mean() for mask in whole_objects(name, 40)]
        assert len(shares) > 15, name
        assert low - 0.05 < min(shares), name  # whole pixels: up to a fortieth of each side
        assert max(shares) < high + 0.05, name
    for mask in whole_objects("ring", 40):
        assert not mask[mask.shape[0] // 2, mask.shape[1] // 2]
    for name in ("cross", "star", "circle"):
        assert all(mask[mask.shape[0] // 2, mask.shape[1] // 2] for mask in whole_objects(name, 40))


def test_the_command_line(tmp_path):
    command = ["-m", "public.datasets.shapes", "--out", str(tmp_path / "set"), "--train", "3"]
    command += ["--val", "2", "--size", "64", "--seed", "7"]
    said = [run_python(command).stdout for _ in range(2)]
    assert "drawn, 3 + 2 pictures" in said[0]
    assert "was there already" in said[1]
    parameters = json.loads((tmp_path / "set" / "shapes.json").read_text())
    assert parameters == {"num_train": 3, "num_val": 2, "size": 64, "seed": 7, "version": shapes.VERSION}
