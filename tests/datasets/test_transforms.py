"""The transforms: boxes by closed forms, draws by statistics, colours against Pillow."""

import dataclasses
import itertools

import cv2
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from public.datasets.sample import Sample, SampleKey
from public.random_streams import stream
from public.transforms.detection import (
    BatchRandomResize,
    BatchRandomResizeEvery,
    ColorDistort,
    RandomCrop,
    RandomExpand,
    Resize,
    apply_batch_transforms,
    apply_transforms,
)
from public.transforms.flip import RandomFlip

DISTORT = ColorDistort(
    brightness=(0.5, 1.5), contrast=(0.5, 1.5), saturation=(0.5, 1.5), hue=(-18.0, 18.0), apply_prob=0.5
)
EXPAND = RandomExpand(ratio=(1.0, 4.0), fill=(124, 116, 104), apply_prob=0.5)
CROP = RandomCrop(
    aspect_ratio=(0.5, 2.0),
    scale=(0.3, 1.0),
    thresholds=(0.0, 0.1, 0.3, 0.5, 0.7, 0.9),
    num_attempts=50,
    allow_no_crop=True,
)
RECIPE = (DISTORT, EXPAND, CROP, RandomFlip(prob=0.5))
MULTI_SCALE = BatchRandomResize(
    sizes=tuple(range(320, 769, 32)), interpolations=("nearest", "linear", "area", "cubic", "lanczos")
)


def make_sample(height=60, width=80, boxes=((10, 5, 30, 45), (40, 20, 75, 55), (0, 0, 80, 60)), seed=0):
    boxes = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    return Sample(
        image=np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8),
        boxes=boxes,
        labels=np.arange(len(boxes)),
        difficult=np.arange(len(boxes)) % 2 == 1,
        crowd=np.arange(len(boxes)) % 3 == 2,
        image_id="made",
        index=5,
        height=height,
        width=width,
    )


def painted(height, width, box):
    """A black picture with one white box, and that box."""
    sample = make_sample(height, width, [box])
    x1, y1, x2, y2 = box
    sample.image[:] = 0
    sample.image[y1:y2, x1:x2] = 255
    return sample


def seen_box(image):
    """The box around the white pixels."""
    columns, rows = (np.flatnonzero((image[:, :, 0] > 127).any(axis=axis)) for axis in (0, 1))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def assert_equal_samples(first, second):
    for field in dataclasses.fields(Sample):
        np.testing.assert_array_equal(getattr(first, field.name), getattr(second, field.name), err_msg=field.name)


@pytest.mark.parametrize("transform", [*RECIPE, Resize(size=(32, 48), interpolation="linear")])
def test_no_transform_writes_into_its_input_and_the_types_stay(transform):
    for seed in range(40):
        sample = make_sample()
        result = transform(sample, np.random.default_rng(seed))
        assert_equal_samples(sample, make_sample())
        assert result.image.dtype == np.uint8
        assert result.boxes.dtype == np.float32
        assert result.labels.dtype == np.int64
        assert result.difficult.dtype == result.crowd.dtype == bool
        assert len(result.boxes) == len(result.labels) == len(result.difficult) == len(result.crowd)
        assert (result.image_id, result.index, result.height, result.width) == ("made", 5, 60, 80)
        height, width = result.image.shape[:2]
        assert (result.boxes >= 0).all()
        assert (result.boxes <= [width, height, width, height]).all()
        assert (result.boxes[:, 2:] > result.boxes[:, :2]).all()


@pytest.mark.parametrize("transform", [*RECIPE, MULTI_SCALE.draw(np.random.default_rng(0))])
def test_a_picture_without_objects_passes(transform):
    for seed in range(20):
        result = transform(make_sample(boxes=()), np.random.default_rng(seed))
        assert result.boxes.shape == (0, 4)
        assert result.labels.shape == (0,)


@pytest.mark.parametrize("transform", RECIPE)
def test_the_draws_do_not_depend_on_the_picture(transform):
    for seed in range(20):
        generators = [np.random.default_rng(seed) for _ in range(3)]
        samples = [make_sample(), make_sample(200, 90, [(3, 4, 9, 9)], seed=1), make_sample(boxes=())]
        for sample, generator in zip(samples, generators):
            transform(sample, generator)
        assert len({generator.integers(2**62) for generator in generators}) == 1


# ------------------------------------------------------------------------------------------------- geometry


def test_flip():
    sample = make_sample()
    flipped = RandomFlip(prob=1.0)(sample, np.random.default_rng(0))
    np.testing.assert_array_equal(flipped.image, sample.image[:, ::-1])
    assert flipped.boxes.tolist() == [[50, 5, 70, 45], [5, 20, 40, 55], [0, 0, 80, 60]]
    assert_equal_samples(RandomFlip(prob=1.0)(flipped, np.random.default_rng(0)), sample)
    assert_equal_samples(RandomFlip(prob=0.0)(sample, np.random.default_rng(0)), sample)


def test_flip_happens_as_often_as_it_says():
    sample = make_sample(4, 6, [(0, 0, 1, 1)])
    rng = np.random.default_rng(0)
    count = sum(RandomFlip(prob=0.3)(sample, rng).boxes[0, 0] != 0 for _ in range(4000))
    assert abs(count / 4000 - 0.3) < 4 * (0.3 * 0.7 / 4000) ** 0.5


@pytest.mark.parametrize("interpolation", ["nearest", "linear", "area", "cubic", "lanczos"])
def test_resize_moves_boxes_as_it_moves_pixels(interpolation):
    sample = painted(60, 80, (20, 15, 60, 45))
    result = Resize(size=(120, 40), interpolation=interpolation)(sample, None)
    assert result.image.shape == (120, 40, 3)
    assert result.boxes.tolist() == [[10, 30, 30, 90]]
    assert seen_box(result.image) == [10, 30, 30, 90]
    flag = {"nearest": 0, "linear": 1, "cubic": 2, "area": 3, "lanczos": 4}[interpolation]
    np.testing.assert_array_equal(result.image, cv2.resize(sample.image, (40, 120), interpolation=flag))


def test_an_unknown_interpolation_is_refused():
    with pytest.raises(ValueError, match=r"Resize\.interpolation is 'bilinear'; it must be one of nearest"):
        Resize(size=(32, 32), interpolation="bilinear")
    with pytest.raises(
        ValueError,
        match=r"interpolations is \('linear', 'Linear'\); it must be a tuple of str one of",
    ):
        BatchRandomResize(sizes=(32,), interpolations=("linear", "Linear"))


def test_expand():
    """The picture stands somewhere on the canvas, the rest has the fill colour, and the box is still around the box."""
    always = dataclasses.replace(EXPAND, apply_prob=1.0)
    ratios, places = [], []
    rng = np.random.default_rng(0)
    for _ in range(3000):
        sample = painted(20, 30, (5, 4, 12, 18))
        result = always(sample, rng)
        height, width = result.image.shape[:2]
        left, top = (result.boxes[0] - sample.boxes[0])[:2].astype(int)
        inner = result.image[top : top + 20, left : left + 30]
        np.testing.assert_array_equal(inner, sample.image)
        filled = (result.image == (124, 116, 104)).all(axis=2).sum()
        assert filled == height * width - 20 * 30
        ratios.append(width / 30)
        if width > 60:
            places.append((left / (width - 30), top / (height - 20)))
    # Evenly distributed: the ratio over 1..4 (less half a pixel of rounding), the place over 0..1.
    assert abs(np.mean(ratios) + 0.5 / 30 - 2.5) < 4 * 3 / 12**0.5 / 3000**0.5
    assert 1 <= min(ratios) < 1.05
    assert 3.95 < max(ratios) <= 4
    np.testing.assert_allclose(np.mean(places, axis=0), 0.5, atol=4 / 12**0.5 / len(places) ** 0.5)
    assert np.min(places) == 0
    assert np.max(places) == 1


def test_expand_and_the_colours_happen_as_often_as_they_say():
    sample = make_sample(8, 8, [(1, 1, 4, 4)])
    rng = np.random.default_rng(0)
    grown = sum(dataclasses.replace(EXPAND, apply_prob=0.2)(sample, rng).image.shape != (8, 8, 3) for _ in range(4000))
    # a ratio below 9 / 8 leaves 8 pixels: one draw in 24
    assert abs(grown / 4000 - 0.2 * 23 / 24) < 4 * (0.2 * 0.8 / 4000) ** 0.5
    rng = np.random.default_rng(1)
    only_hue = ColorDistort(
        brightness=(1.0, 1.0), contrast=(1.0, 1.0), saturation=(1.0, 1.0), hue=(90.0, 90.0), apply_prob=0.2
    )
    sample.image[:] = (200, 30, 30)
    changed = sum((only_hue(sample, rng).image[0, 0] != (200, 30, 30)).any() for _ in range(4000))
    assert abs(changed / 4000 - 0.2) < 4 * (0.2 * 0.8 / 4000) ** 0.5


def plain_iou(first, second):
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    intersection = max(width, 0) * max(height, 0)
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (first, second)]
    return intersection / (sum(areas) - intersection)


def located_crop(sample, result):
    """Where the crop was taken: pictures of `located_sample` have their own coordinates as colours."""
    x1, y1 = result.image[0, 0, :2].astype(int)
    height, width = result.image.shape[:2]
    np.testing.assert_array_equal(result.image, sample.image[y1 : y1 + height, x1 : x1 + width])
    return x1, y1, x1 + width, y1 + height


def located_sample(boxes=((10, 5, 30, 45), (40, 20, 75, 55), (50, 2, 60, 12), (5, 3, 70, 50))):
    sample = make_sample(boxes=boxes)
    sample.image[:, :, 0] = np.arange(80)
    sample.image[:, :, 1] = np.arange(60)[:, None]
    return sample


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.3, 0.5, 0.7])
def test_crop_keeps_its_promises(threshold):
    crop = dataclasses.replace(CROP, thresholds=(threshold,), allow_no_crop=False)
    rng = np.random.default_rng(0)
    num_crops = 0
    for _ in range(400):
        sample = located_sample()
        result = crop(sample, rng)
        if result is sample:
            continue
        num_crops += 1
        x1, y1, x2, y2 = box = located_crop(sample, result)
        assert max(plain_iou(box, other) for other in sample.boxes) >= threshold
        expected = []
        for i, (a, b, c, d) in enumerate(sample.boxes):
            if x1 < (a + c) / 2 < x2 and y1 < (b + d) / 2 < y2:
                expected.append((i, [max(a - x1, 0), max(b - y1, 0), min(c, x2) - x1, min(d, y2) - y1]))
        assert expected
        assert result.labels.tolist() == [i for i, _ in expected]
        np.testing.assert_array_equal(result.boxes, [box for _, box in expected])
        scale = ((x2 - x1) * (y2 - y1) / (60 * 80)) ** 0.5
        aspect = (x2 - x1) / (y2 - y1) / (80 / 60)
        assert 0.3 - 0.03 < scale <= 1
        assert 0.5 * 0.93 < aspect < 2 * 1.07  # whole pixels
    assert num_crops > 100


def test_crop_tries_thresholds_and_no_crop_evenly():
    """One big object: every threshold can be met, so "no crop" comes first in one of seven draws."""
    sample = located_sample([(0, 0, 80, 60)])
    rng = np.random.default_rng(0)
    easy = dataclasses.replace(CROP, thresholds=(0.0, 0.05, 0.1, 0.11, 0.12, 0.13))
    share = np.mean([easy(sample, rng) is sample for _ in range(2100)])
    assert abs(share - 1 / 7) < 4 * (6 / 49 / 2100) ** 0.5


def test_crop_scale_and_place_are_even():
    """Without a threshold and with an object everywhere the first attempt is taken."""
    sample = located_sample([(0, 0, 80, 60)])
    crop = dataclasses.replace(CROP, thresholds=(0.0,), allow_no_crop=False, num_attempts=20)
    rng = np.random.default_rng(0)
    boxes = [located_crop(sample, crop(sample, rng)) for _ in range(2000)]
    # The object's centre has to be inside, which large crops always fulfil: look at those.
    large = np.array([box for box in boxes if box[2] - box[0] > 41 and box[3] - box[1] > 31])
    assert len(large) > 800
    free_x, free_y = 80 - (large[:, 2] - large[:, 0]), 60 - (large[:, 3] - large[:, 1])
    for start, free in ((large[:, 0], free_x), (large[:, 1], free_y)):
        position = start[free > 4] / free[free > 4]
        assert abs(position.mean() - 0.5) < 4 * position.std() / len(position) ** 0.5
        assert position.min() == 0
        assert position.max() == 1


def test_a_crop_that_cannot_be_found_leaves_the_picture():
    tiny = located_sample([(40, 30, 42, 32)])
    crop = dataclasses.replace(CROP, thresholds=(0.9,), allow_no_crop=False)
    assert crop(tiny, np.random.default_rng(0)) is tiny


# -------------------------------------------------------------------------------------------------- colour


def only(name, value):
    """A distortion that does one thing, always, by `value`."""
    neutral = {"brightness": (1.0, 1.0), "contrast": (1.0, 1.0), "saturation": (1.0, 1.0), "hue": (0.0, 0.0)}
    return ColorDistort(**(neutral | {name: (value, value)}), apply_prob=1.0)


def colourful():
    """A smooth picture with all colours, for Pillow and OpenCV to agree on."""
    noise = np.random.default_rng(3).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    sample = make_sample()
    sample.image = cv2.resize(noise, (80, 60), interpolation=cv2.INTER_LINEAR)
    return sample


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.0, 1.5])
@pytest.mark.parametrize(
    ("name", "enhancer"),
    [("brightness", ImageEnhance.Brightness), ("contrast", ImageEnhance.Contrast), ("saturation", ImageEnhance.Color)],
)
def test_colour_factors_are_those_of_pillow(name, enhancer, factor):
    """But for one grey level: Pillow truncates where we round."""
    sample = colourful()
    expected = np.asarray(enhancer(Image.fromarray(sample.image)).enhance(factor)).astype(int)
    result = only(name, factor)(sample, np.random.default_rng(0)).image.astype(int)
    assert np.abs(result - expected).max() <= 1
    assert (factor == 1.0) == (np.abs(expected - sample.image).mean() < 2)


@pytest.mark.parametrize("shift", [-18, 5, 18, 100])
def test_hue_is_turned_as_pillow_turns_it(shift):
    sample = colourful()
    hsv = np.array(Image.fromarray(sample.image).convert("HSV"))
    hsv[:, :, 0] = (hsv[:, :, 0].astype(int) + shift) % 256
    expected = np.asarray(Image.fromarray(hsv, "HSV").convert("RGB")).astype(int)
    result = only("hue", float(shift))(sample, np.random.default_rng(0)).image.astype(int)
    # One of 256 hues is 6 grey levels of a pure colour; Pillow truncates to 255, OpenCV rounds to 256.
    assert np.abs(result - expected).max() <= 12
    assert np.abs(result - expected).mean() < 1.5


def test_colour_leaves_boxes_alone_and_the_order_varies():
    sample = colourful()
    strong = ColorDistort(
        brightness=(1.5, 1.5), contrast=(0.5, 0.5), saturation=(1.5, 1.5), hue=(18.0, 18.0), apply_prob=1.0
    )
    rng = np.random.default_rng(0)
    results = [strong(sample, rng) for _ in range(300)]
    assert_equal_samples(dataclasses.replace(results[0], image=sample.image), sample)
    # Clipping in between makes the orders differ: at most 4! = 24 pictures, and far more than one.
    pictures = {result.image.tobytes() for result in results}
    assert 8 <= len(pictures) <= len(list(itertools.permutations(range(4))))


# --------------------------------------------------------------------------------------- streams and batches


def test_each_transform_has_its_own_stream():
    """Adding a transform, or another of the same class behind, does not change what the others draw."""
    key = SampleKey(epoch=3, batch=7, index=11)
    flip = RandomFlip(prob=0.5)
    sample = make_sample()
    for index in range(30):
        key = key._replace(index=index)
        alone = apply_transforms(sample, (EXPAND,), 1, key)
        behind_colours = apply_transforms(sample, (only("hue", 0.0), EXPAND, flip), 1, key)
        assert alone.image.shape == behind_colours.image.shape
        expected = EXPAND(sample, stream(1, "sample", 3, index, "RandomExpand"))
        assert_equal_samples(alone, expected)
        twice = apply_transforms(sample, (flip, flip), 1, key)
        first = flip(sample, stream(1, "sample", 3, index, "RandomFlip"))
        assert_equal_samples(twice, flip(first, stream(1, "sample", 3, index, "RandomFlip#2")))


def test_samples_differ_by_seed_epoch_and_index():
    sample = make_sample()
    keys = [(1, SampleKey(0, 0, 0)), (2, SampleKey(0, 0, 0)), (1, SampleKey(1, 0, 0)), (1, SampleKey(0, 0, 1))]
    pictures = [apply_transforms(sample, (DISTORT, CROP) * 3, seed, key).image.tobytes() for seed, key in keys]
    assert len(set(pictures)) == 4
    same = apply_transforms(sample, (DISTORT, CROP) * 3, 1, SampleKey(0, 99, 0)).image.tobytes()
    assert same == pictures[0]  # the place in the batch does not matter


def test_a_batch_shares_its_size():
    shapes = []
    for batch in range(60):
        keys = [SampleKey(2, batch, index) for index in (4, 9)]
        results = [apply_batch_transforms(make_sample(seed=i), (MULTI_SCALE,), 5, key) for i, key in enumerate(keys)]
        assert results[0].image.shape == results[1].image.shape
        drawn = MULTI_SCALE.draw(stream(5, "batch", 2, batch, "BatchRandomResize"))
        assert results[0].image.shape[:2] == drawn.size
        shapes.append(drawn.size[0])
    assert len(set(shapes)) > 8


def test_a_size_may_be_kept_for_several_batches():
    """The size of batch b is the one drawn for b // 10, and another epoch draws others."""
    kept = BatchRandomResizeEvery(sizes=MULTI_SCALE.sizes, interpolations=("linear",), every=10)

    def size(epoch, batch):
        return apply_batch_transforms(make_sample(seed=0), (kept,), 5, SampleKey(epoch, batch, 4)).image.shape[0]

    sizes = [[size(epoch, batch) for batch in range(0, 80, 3)] for epoch in range(2)]
    for epoch, found in enumerate(sizes):
        drawn = [kept.draw(stream(5, "batch", epoch, number, "BatchRandomResizeEvery")).size[0] for number in range(8)]
        assert found == [drawn[batch // 10] for batch in range(0, 80, 3)]
        assert len(set(drawn)) > 3
    assert sizes[0] != sizes[1]


def test_batch_sizes_and_interpolations_are_drawn_evenly():
    draws = [MULTI_SCALE.draw(stream(0, "batch", 0, batch, "BatchRandomResize")) for batch in range(6000)]
    for values, options in (
        ([draw.size[0] for draw in draws], MULTI_SCALE.sizes),
        ([draw.interpolation for draw in draws], MULTI_SCALE.interpolations),
    ):
        counts = np.array([values.count(option) for option in options])
        assert counts.sum() == 6000
        expected = 6000 / len(options)
        assert np.abs(counts - expected).max() < 5 * expected**0.5
    assert all(draw.size[0] == draw.size[1] for draw in draws)
