"""Resizing with kept aspect, shifts and crops: boxes and pixels by closed forms, draws by statistics."""

import dataclasses

import cv2
import numpy as np
import pytest

from public.datasets.sample import Sample
from public.random_streams import stream
from public.settings import SettingError
from public.transforms.geometric import (
    Letterbox,
    RandomCenterCropPad,
    RandomCropKeepingObjects,
    RandomShift,
    RandomTranslate,
    ResizeShorterSide,
)

FILL = (7, 8, 9)  # no pixel of a located picture has this colour
LETTERBOX = Letterbox(size=(67, 67), interpolation="linear", padding=114)
SHORTER = ResizeShorterSide(shorter_sides=(20, 30, 45), longer_side=90, rounding="nearest", interpolation="linear")
TRANSLATE = RandomTranslate(prob=1.0, fill=FILL)
CROP = RandomCropKeepingObjects(prob=1.0)
SHIFT = RandomShift(prob=1.0, max_shift_px=32, filter_thr_px=1, fill=FILL)
AROUND = RandomCenterCropPad(crop_size=(40, 60), ratios=(0.5, 1.0, 1.5), border=16, fill=FILL, num_attempts=20)
ALL = (LETTERBOX, SHORTER, TRANSLATE, CROP, SHIFT, AROUND)
WITH_PROB = (TRANSLATE, CROP, SHIFT)

BOXES = ((10, 12, 40, 30), (20.5, 15.25, 60, 41.75))
FREE_LEFT, FREE_TOP, FREE_RIGHT, FREE_BOTTOM = 10, 12, 20, 8  # 80 - 60; floor of 50 - 41.75


def located(height=50, width=80, boxes=BOXES):
    """A picture whose pixel (x, y) has the colour (x, y, 200)."""
    y, x = np.mgrid[:height, :width]
    boxes = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    return Sample(
        image=np.stack([x, y, np.full_like(x, 200)], axis=2).astype(np.uint8),
        boxes=boxes,
        labels=np.arange(len(boxes)) + 3,
        difficult=np.arange(len(boxes)) % 2 == 1,
        crowd=np.arange(len(boxes)) % 2 == 0,
        image_id="located",
        index=5,
        height=height,
        width=width,
    )


def drawn(transform, count=300, sample=None):
    sample = sample or located()
    return [transform(sample, stream(0, "sample", 0, number, "name")) for number in range(count)]


def corner(image):
    """Where the original's corner lies in a part of a located picture on FILL, (left, top); the rest is checked."""
    is_picture = image[:, :, 2] == 200
    rows, columns = np.flatnonzero(is_picture.any(axis=1)), np.flatnonzero(is_picture.any(axis=0))
    y1, y2, x1, x2 = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    x, y = (int(value) for value in image[y1, x1, :2])
    part = located().image[y : y + y2 - y1, x : x + x2 - x1]
    np.testing.assert_array_equal(image[y1:y2, x1:x2], part)
    assert (image[~is_picture] == FILL).all()
    assert is_picture.sum() == (y2 - y1) * (x2 - x1)
    return int(x1) - x, int(y1) - y


def assert_even(values, low, high):
    """Whole numbers low .. high, each about as often: chi-square, passed by chance in all but one of 10,000 seeds."""
    counts = np.bincount(np.array(values) - low, minlength=high - low + 1)
    assert len(counts) == high - low + 1, "none is outside"
    expected = len(values) / len(counts)
    assert expected >= 5
    freedom = len(counts) - 1
    limit = freedom * (1 - 2 / (9 * freedom) + 4 * (2 / (9 * freedom)) ** 0.5) ** 3
    assert ((counts - expected) ** 2 / expected).sum() < limit, counts


def assert_same(first, second):
    for field in dataclasses.fields(Sample):
        np.testing.assert_array_equal(getattr(first, field.name), getattr(second, field.name), err_msg=field.name)


# ------------------------------------------------------------------------------------------------ all of them

PICTURES = {
    "objects": located(),
    "no objects": located(boxes=()),
    "one that fills it": located(boxes=[(0, 0, 80, 50)]),
    "one pixel": located(1, 1, [(0, 0, 1, 1)]),
    "one pixel without objects": located(1, 1, ()),
    "a line": located(1, 200, [(3, 0, 9, 1)]),
    "a fraction of a pixel": located(boxes=[(10.25, 10.25, 10.5, 10.5)]),
}


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("transform", ALL, ids=lambda transform: type(transform).__name__)
def test_what_holds_of_every_transform(transform, name):
    """Types stay, what belongs to an object goes with it, boxes lie inside, nothing is written into the input."""
    original = PICTURES[name]
    before = dataclasses.replace(original, image=original.image.copy(), boxes=original.boxes.copy())
    for result in drawn(transform, 25, original):
        height, width = result.image.shape[:2]
        assert result.image.dtype == np.uint8
        assert result.image.shape == (height, width, 3)
        assert min(height, width) >= 1
        assert (result.boxes.dtype, result.labels.dtype) == (np.float32, np.int64)
        assert result.difficult.dtype == result.crowd.dtype == bool
        assert (result.boxes >= 0).all()
        assert (result.boxes <= [width, height, width, height]).all()
        assert (result.boxes[:, 2:] > result.boxes[:, :2]).all()
        assert set(result.labels) <= set(original.labels)
        assert (result.difficult == (result.labels % 2 == 0)).all()
        assert (result.crowd == (result.labels % 2 == 1)).all()
        assert (result.image_id, result.index, result.height) == ("located", 5, original.height)
        assert_same(original, before)
        if transform in (LETTERBOX, SHORTER, TRANSLATE, CROP):
            assert len(result.boxes) == len(original.boxes), "no object is lost"


@pytest.mark.parametrize("transform", ALL, ids=lambda transform: type(transform).__name__)
def test_the_draws_do_not_depend_on_the_picture(transform):
    generators = [np.random.default_rng(3) for _ in PICTURES]
    for picture, generator in zip(PICTURES.values(), generators):
        transform(picture, generator)
    assert len({int(generator.integers(2**62)) for generator in generators}) == 1


@pytest.mark.parametrize("transform", WITH_PROB, ids=lambda transform: type(transform).__name__)
def test_it_happens_as_often_as_it_says(transform):
    never = dataclasses.replace(transform, prob=0.0)
    for result in drawn(never, 50):
        assert_same(result, located())
    always, some = (
        np.mean([not np.array_equal(result.boxes, located().boxes) for result in drawn(changed, 2000)])
        for changed in (transform, dataclasses.replace(transform, prob=0.3))
    )
    assert always > 0.9, "few draws are of no shift at all"
    assert abs(some - 0.3 * always) < 4 * (0.3 * 0.7 / 2000) ** 0.5


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (lambda: dataclasses.replace(LETTERBOX, size=(0, 5)), "Letterbox.size"),
        (lambda: dataclasses.replace(LETTERBOX, padding=256), "Letterbox.padding"),
        (lambda: dataclasses.replace(LETTERBOX, padding=(0, 0, 0)), "Letterbox.padding"),
        (lambda: dataclasses.replace(LETTERBOX, interpolation="bilinear"), "Letterbox.interpolation"),
        (lambda: dataclasses.replace(SHORTER, shorter_sides=()), "ResizeShorterSide.shorter_sides"),
        (lambda: dataclasses.replace(SHORTER, shorter_sides=(20, 91)), "ResizeShorterSide.shorter_sides.* 90"),
        (lambda: dataclasses.replace(SHORTER, rounding="up"), "ResizeShorterSide.rounding"),
        (lambda: dataclasses.replace(TRANSLATE, prob=1.1), "RandomTranslate.prob"),
        (lambda: dataclasses.replace(TRANSLATE, fill=(0, 0, 256)), "RandomTranslate.fill"),
        (lambda: dataclasses.replace(CROP, prob=-0.1), "RandomCropKeepingObjects.prob"),
        (lambda: dataclasses.replace(SHIFT, max_shift_px=-1), "RandomShift.max_shift_px"),
        (lambda: dataclasses.replace(SHIFT, filter_thr_px=0.5), "RandomShift.filter_thr_px"),
        (lambda: dataclasses.replace(AROUND, ratios=()), "RandomCenterCropPad.ratios"),
        (lambda: dataclasses.replace(AROUND, ratios=(1.0, 0.0)), "RandomCenterCropPad.ratios"),
        (lambda: dataclasses.replace(AROUND, ratios=(0.02,)), r"RandomCenterCropPad.ratios .*crop_size \(40, 60\)"),
        (lambda: dataclasses.replace(AROUND, ratios=(1e4,)), "RandomCenterCropPad.ratios"),
        (lambda: dataclasses.replace(AROUND, border=-1), "RandomCenterCropPad.border"),
        (lambda: dataclasses.replace(AROUND, num_attempts=0), "RandomCenterCropPad.num_attempts"),
    ],
)
def test_impossible_settings_are_refused_by_name(change, names):
    with pytest.raises((SettingError, ValueError), match=names):
        change()


# ------------------------------------------------------------------------------------------------ resizing


@pytest.mark.parametrize(
    ("height", "width", "size", "inner"),
    [
        (480, 640, (667, 667), (500, 667)),  # 500.25
        (640, 480, (667, 667), (667, 500)),
        (427, 640, (1000, 1000), (667, 1000)),  # 667.19
        (500, 333, (667, 667), (667, 444)),  # 444.2
        (667, 667, (667, 667), (667, 667)),
        (1, 1, (9, 9), (9, 9)),
        (1, 300, (9, 9), (1, 9)),
        (50, 80, (60, 40), (25, 40)),
    ],
)
def test_letterbox_is_the_longest_side_at_the_top_left(height, width, size, inner):
    sample = located(height, width, [(0, 0, width, height), (0, 0, width / 2, height / 4)])
    result = Letterbox(size=size, interpolation="linear", padding=114)(sample, None)
    assert result.image.shape == (*size, 3)
    resized = cv2.resize(sample.image, (inner[1], inner[0]), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(result.image[: inner[0], : inner[1]], resized)
    assert (result.image[inner[0] :] == 114).all()
    assert (result.image[:, inner[1] :] == 114).all()
    expected = [[0, 0, inner[1], inner[0]], [0, 0, inner[1] / 2, inner[0] / 4]]
    np.testing.assert_allclose(result.boxes, expected, rtol=1e-6)


def test_the_shorter_side_is_drawn_evenly_and_the_longer_is_limited():
    sizes = [result.image.shape[:2] for result in drawn(SHORTER, 600)]
    each = {20: (20, 32), 30: (30, 48), 45: (45, 72)}
    assert set(sizes) == set(each.values())
    assert_even([list(each.values()).index(size) for size in sizes], 0, 2)
    long = located(40, 120, [(30, 10, 60, 20)])  # 45 / 40 and 30 / 40 would make 135 and 90 of 120
    results = drawn(SHORTER, 60, long)
    assert {result.image.shape[:2] for result in results} == {(20, 60), (30, 90)}
    for result in results:
        scale = result.image.shape[0] / 40
        np.testing.assert_allclose(result.boxes, [[30 * scale, 10 * scale, 60 * scale, 20 * scale]], rtol=1e-6)


def test_boxes_go_with_each_side_as_it_was_rounded():
    rounded = {"nearest": (20, 27), "down": (20, 26)}  # 40 * 20 / 30 is 26.67
    for rounding, (height, width) in rounded.items():
        resize = ResizeShorterSide(shorter_sides=(20,), longer_side=90, rounding=rounding, interpolation="linear")
        result = resize(located(30, 40, [(10, 6, 40, 30)]), np.random.default_rng(0))
        assert result.image.shape[:2] == (height, width)
        np.testing.assert_allclose(result.boxes, [[10 * width / 40, 4, width, 20]], rtol=1e-6)


# ------------------------------------------------------------------------------------------------ shifts


def test_a_translation_moves_pixels_and_boxes_alike_and_keeps_all_inside():
    moves = []
    for result in drawn(TRANSLATE, 1500):
        moves.append(corner(result.image))
        dx, dy = moves[-1]
        assert result.image.shape == (50, 80, 3)
        np.testing.assert_array_equal(result.boxes, located().boxes + np.array([dx, dy, dx, dy], dtype=np.float32))
    assert_even([dx for dx, _ in moves], -FREE_LEFT, FREE_RIGHT)
    assert_even([dy for _, dy in moves], -FREE_TOP, FREE_BOTTOM)
    assert abs(np.corrcoef(np.array(moves).T)[0, 1]) < 4 / 1500**0.5


@pytest.mark.parametrize("transform", [TRANSLATE, CROP])
@pytest.mark.parametrize("name", ["no objects", "one that fills it", "one pixel"])
def test_where_nothing_is_free_or_nothing_is_there_the_picture_stays(transform, name):
    for result in drawn(transform, 30, PICTURES[name]):
        assert_same(result, PICTURES[name])


def test_a_crop_cuts_at_all_four_sides_and_keeps_all_whole():
    cuts = []
    for result in drawn(CROP, 1500):
        left, top = (-place for place in corner(result.image))
        height, width = result.image.shape[:2]
        cuts.append((left, top, 80 - width - left, 50 - height - top))
        np.testing.assert_array_equal(result.boxes, located().boxes - np.array([left, top] * 2, dtype=np.float32))
    for values, most in zip(zip(*cuts), (FREE_LEFT, FREE_TOP, FREE_RIGHT, FREE_BOTTOM), strict=True):
        assert_even(values, 0, most)
    correlations = np.corrcoef(np.array(cuts).T)[np.triu_indices(4, 1)]
    assert np.abs(correlations).max() < 4 / 1500**0.5


def test_the_shift_of_yolof():
    """Every shift up to the limit, boxes cut at the edges, what is left of at most a pixel is dropped."""
    shift = dataclasses.replace(SHIFT, max_shift_px=12)
    sample = located(boxes=[(30, 20, 50, 40), (0, 20, 9, 40), (70, 0, 80, 8.5)])
    moves = []
    for result in drawn(shift, 1500, sample):
        dx, dy = corner(result.image)
        moves.append((dx, dy))
        assert result.image.shape == (50, 80, 3)
        expected = {3: [30 + dx, 20 + dy, 50 + dx, min(40 + dy, 50)]}
        if 9 + dx > 1:
            expected[4] = [max(dx, 0), 20 + dy, 9 + dx, min(40 + dy, 50)]
        if 80 - (70 + dx) > 1 and 8.5 + dy > 1:
            expected[5] = [70 + dx, max(dy, 0), min(80 + dx, 80), 8.5 + dy]
        assert result.labels.tolist() == list(expected)
        np.testing.assert_array_equal(result.boxes, np.array(list(expected.values()), dtype=np.float32))
    for axis in (0, 1):
        assert_even([move[axis] for move in moves], -12, 12)


@pytest.mark.parametrize(("left", "is_kept"), [(1.0, False), (1.5, True)])
def test_the_threshold_of_the_shift_itself_is_dropped(left, is_kept):
    """Of a box that a shift by -12 leaves `left` pixels of, beside one that stays."""
    shift = dataclasses.replace(SHIFT, max_shift_px=12)
    sample = located(boxes=[(40, 20, 60, 30), (0, 20, 12 + left, 30)])
    shifted = [result for result in drawn(shift, 1000, sample) if corner(result.image)[0] == -12]
    assert shifted
    assert {len(result.boxes) == 2 for result in shifted} == {is_kept}


def test_a_shift_that_leaves_no_object_is_not_done():
    sample = located(boxes=[(0, 0, 10, 10)])
    results = drawn(SHIFT, 500, sample)
    stayed = [result for result in results if result is sample]
    assert stayed
    assert len(stayed) < len(results)
    assert all(len(result.boxes) == 1 for result in results)
    assert all(result is PICTURES["no objects"] for result in drawn(SHIFT, 30, PICTURES["no objects"]))
    assert all(result is PICTURES["one pixel"] for result in drawn(SHIFT, 30, PICTURES["one pixel"]))


# ------------------------------------------------------------------------------------------------ CenterNet


def visible(result, height=50, width=80):
    """x1 y1 x2 y2 of the original that a canvas shows."""
    left, top = corner(result.image)
    canvas_height, canvas_width = result.image.shape[:2]
    return max(-left, 0), max(-top, 0), min(canvas_width - left, width), min(canvas_height - top, height)


def test_a_canvas_around_a_random_point():
    """The point is at least a border from the edges and lies in the middle; objects stay by their centre."""
    sample = located(boxes=[(30, 20, 50, 30), (2, 2, 20, 20), (66, 40, 78, 48)])
    numbers, points = [], []
    for result in drawn(AROUND, 2000, sample):
        canvas = result.image.shape[:2]
        numbers.append([(20, 30), (40, 60), (60, 90)].index(canvas))
        left, top = corner(result.image)
        point = (canvas[1] // 2 - left, canvas[0] // 2 - top)
        if numbers[-1] == 2:  # the largest holds a centre wherever its point lies
            points.append(point)
        assert 16 <= point[0] < 80 - 16
        assert 16 <= point[1] < 50 - 16
        x1, y1, x2, y2 = visible(result)
        centres = (sample.boxes[:, :2] + sample.boxes[:, 2:]) / 2
        is_kept = ((centres > [x1, y1]) & (centres < [x2, y2])).all(axis=1)
        assert is_kept.any()
        assert result.labels.tolist() == sample.labels[is_kept].tolist()
        expected = np.clip(sample.boxes[is_kept], [x1, y1] * 2, [x2, y2] * 2) + np.array([left, top] * 2)
        np.testing.assert_array_equal(result.boxes, expected.astype(np.float32))
    assert_even(numbers, 0, 2)
    assert_even([x for x, _ in points], 16, 63)
    assert_even([y for _, y in points], 16, 33)


def test_a_picture_without_objects_takes_the_first_point():
    sizes = [result.image.shape[:2] for result in drawn(AROUND, 600, PICTURES["no objects"])]
    assert_even([[(20, 30), (40, 60), (60, 90)].index(size) for size in sizes], 0, 2)


def test_where_no_canvas_holds_a_centre_the_picture_stays():
    corner_only = located(boxes=[(0, 0, 2, 2)])
    small = dataclasses.replace(AROUND, ratios=(0.5,))  # reaches 15 to the left of a point that is at 16 at least
    assert all(result is corner_only for result in drawn(small, 30, corner_only))
    wide = dataclasses.replace(AROUND, ratios=(0.5, 2.5))
    assert all(result.image.shape[:2] == (100, 150) for result in drawn(wide, 30, corner_only))


@pytest.mark.parametrize(
    ("side", "border"), [(300, 128), (257, 128), (256, 64), (129, 64), (128, 32), (50, 16), (1, 0)]
)
def test_the_border_of_a_small_picture_is_halved(side, border):
    """As in the original: 128 halved until the range of points is not empty."""
    around = RandomCenterCropPad(crop_size=(600, 600), ratios=(1.0,), border=128, fill=(0, 0, 0), num_attempts=1)
    white = dataclasses.replace(located(boxes=()), image=np.full((side, side, 3), 255, dtype=np.uint8))
    corners = [np.argwhere(result.image[:, :, 0])[0] for result in drawn(around, 60, white)]
    points = 300 - np.array(corners)
    assert points.min() >= border
    assert points.max() < side - border
    assert np.ptp(points) >= 0.8 * (side - 2 * border - 1), "all of the range is drawn from"
