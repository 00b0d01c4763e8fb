"""The draws of the transforms over thousands of samples: how often, how evenly, and independent of each other.

Frequencies are held against chi-square, even draws against Kolmogorov and Smirnov; both limits are passed by chance in
fewer than one of 10,000 seeds, and the seeds are fixed.
"""

import dataclasses
import itertools
import json

import numpy as np
import pytest

from public.datasets.sample import Sample, SampleKey
from public.datasets.voc import Voc
from public.loading.detection import DetectionDataset, make_detection_loader
from public.loading.samplers import TrainBatches
from public.random_streams import stream
from public.runs.experiment import load_experiment
from public.transforms import detection as transforms
from public.transforms.detection import (
    BatchRandomResize,
    ColorDistort,
    RandomCrop,
    RandomExpand,
    Resize,
    apply_batch_transforms,
    apply_transforms,
)
from public.transforms.flip import RandomFlip
from tests.helpers.places import REPOSITORY
from tests.helpers.tiny_data import TINY_CLASSES, write_voc

# PPYOLOE's pipeline as PaddleDetection's readers state it: order, ranges, and the chance of doing nothing.
SKIPPED = 0.5
DISTORT = ColorDistort(
    brightness=(0.5, 1.5), contrast=(0.5, 1.5), saturation=(0.5, 1.5), hue=(-18.0, 18.0), apply_prob=1 - SKIPPED
)
EXPAND = RandomExpand(ratio=(1.0, 4.0), fill=(124, 116, 104), apply_prob=1 - SKIPPED)
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
IMAGENET = {"scale": 1 / 255, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
PLAIN = {"scale": 1 / 255, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
EXPERIMENTS = REPOSITORY / "detection_experiments"


def assert_frequencies(counts, shares=None):
    """The counts fit the shares (even ones if None): chi-square, limited by Wilson and Hilferty's approximation."""
    counts = np.asarray(counts, dtype=float).ravel()
    shares = np.full(len(counts), 1 / len(counts)) if shares is None else np.asarray(shares, dtype=float).ravel()
    assert abs(shares.sum() - 1) < 1e-9
    expected = counts.sum() * shares
    assert expected.min() >= 5  # below, the approximation does not hold
    freedom = len(counts) - 1
    limit = freedom * (1 - 2 / (9 * freedom) + 4 * (2 / (9 * freedom)) ** 0.5) ** 3
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert statistic < limit, f"chi-square {statistic:.1f}, limit {limit:.1f}"


def assert_uniform(values, low=0.0, high=1.0):
    """The values fill [low, high] evenly: the largest distance between their distribution and the straight line."""
    values = (np.sort(values) - low) / (high - low)
    steps = np.arange(len(values) + 1) / len(values)
    distance = max((steps[1:] - values).max(), (values - steps[:-1]).max())
    assert distance * len(values) ** 0.5 < 2.3, f"distance {distance:.4f} of {len(values)} values"


def located_sample(height, width, boxes):
    """A picture whose pixels tell where they are: x and y, with the high bits of both in the third channel."""
    y, x = np.mgrid[:height, :width]
    boxes = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    return Sample(
        image=np.stack([x % 256, y % 256, x // 256 + 16 * (y // 256)], axis=2).astype(np.uint8),
        boxes=boxes,
        labels=np.arange(len(boxes)),
        difficult=np.zeros(len(boxes), dtype=bool),
        crowd=np.zeros(len(boxes), dtype=bool),
        image_id="located",
        index=0,
        height=height,
        width=width,
    )


def location(image):
    """x1 y1 x2 y2 of a part of a located picture."""
    x, y, high = (int(value) for value in image[0, 0])
    x1, y1 = x + 256 * (high % 16), y + 256 * (high // 16)
    return x1, y1, x1 + image.shape[1], y1 + image.shape[0]


# ------------------------------------------------------------------------------------------------ one by one


@pytest.mark.parametrize("prob", [0.5, 0.1])
def test_flips_are_as_many_and_as_scattered_as_coin_tosses(prob):
    sample, flip = located_sample(4, 6, [(0, 0, 1, 1)]), RandomFlip(prob=prob)
    flipped = np.array([flip(sample, stream(0, "sample", 0, i, "flip")).boxes[0, 0] != 0 for i in range(6000)])
    shares = [1 - prob, prob]
    pairs = np.histogram2d(flipped[:-1], flipped[1:], bins=2)[0]  # one image and the next
    assert_frequencies(np.bincount(flipped, minlength=2), shares)
    assert_frequencies(pairs, np.outer(shares, shares))


@pytest.fixture
def changes(monkeypatch):
    """The colour changes that are called, (name, value) each, instead of changing anything."""
    calls = []

    def recorder(name):
        def change(image, value):
            calls.append((name, value))
            return image

        return change

    for name in ("brightness", "contrast", "saturation", "hue"):
        monkeypatch.setattr(transforms, f"change_{name}", recorder(name))
    return calls


def drawn_changes(changes, distort, count):
    """The calls of each of `count` samples."""
    sample, samples = located_sample(2, 2, []), []
    for number in range(count):
        distort(sample, stream(0, "sample", 0, number, "ColorDistort"))
        samples.append(tuple(changes))
        changes.clear()
    return samples


def test_all_24_orders_of_the_colours_are_even(changes):
    names = ("brightness", "contrast", "saturation", "hue")
    samples = drawn_changes(changes, dataclasses.replace(DISTORT, apply_prob=1.0), 6000)
    orders = [tuple(name for name, _ in sample) for sample in samples]
    assert_frequencies([orders.count(order) for order in itertools.permutations(names)])


@pytest.mark.parametrize("apply_prob", [0.5, 0.2])
def test_each_colour_is_changed_on_its_own_with_its_probability(changes, apply_prob):
    """All 16 subsets, as often as four independent tosses make them: `apply_prob` is the chance of doing it."""
    names = ("brightness", "contrast", "saturation", "hue")
    samples = drawn_changes(changes, dataclasses.replace(DISTORT, apply_prob=apply_prob), 6000)
    subsets = [frozenset(name for name, _ in sample) for sample in samples]
    counts, shares = [], []
    for chosen in itertools.product((False, True), repeat=4):
        subset = frozenset(itertools.compress(names, chosen))
        counts.append(subsets.count(subset))
        shares.append(apply_prob ** len(subset) * (1 - apply_prob) ** (4 - len(subset)))
    assert_frequencies(counts, shares)


def test_colour_factors_fill_their_ranges_evenly_and_apart(changes):
    distort = ColorDistort(
        brightness=(0.5, 1.5), contrast=(0.8, 0.9), saturation=(0.0, 3.0), hue=(-18.0, 6.0), apply_prob=1.0
    )
    samples = [dict(sample) for sample in drawn_changes(changes, distort, 4000)]
    values = {name: np.array([sample[name] for sample in samples]) for name in samples[0]}
    for name in values:
        assert_uniform(values[name], *getattr(distort, name))
    correlation = np.corrcoef(list(values.values())) - np.eye(4)
    assert np.abs(correlation).max() < 4 / 4000**0.5


def test_expansion_happens_with_its_probability_and_its_ratio_is_even():
    sample = located_sample(500, 500, [])  # large, so that rounding to pixels does not show
    tiny_fill = dataclasses.replace(EXPAND, apply_prob=0.3, ratio=(1.1, 1.4))
    sides = [tiny_fill(sample, stream(0, "sample", 0, i, "RandomExpand")).image.shape[:2] for i in range(1500)]
    assert all(height == width for height, width in sides)
    grown = np.array([side for side, _ in sides if side > 500])
    assert_frequencies([1500 - len(grown), len(grown)], [0.7, 0.3])
    assert_uniform((grown + 0.5) / 500, 1.1, 1.4)


def test_every_place_of_an_expanded_picture_is_as_likely():
    """Twice the size of 6 x 8 pixels has 7 x 9 places."""
    sample, expand = (
        located_sample(6, 8, [(1, 2, 5, 4)]),
        RandomExpand(ratio=(2.0, 2.0), fill=(0, 0, 9), apply_prob=1.0),
    )
    counts = np.zeros((7, 9))
    for number in range(6000):
        result = expand(sample, stream(0, "sample", 0, number, "RandomExpand"))
        assert result.image.shape == (12, 16, 3)
        left, top = (result.boxes[0, :2] - (1, 2)).astype(int)
        assert result.boxes[0].tolist() == [1 + left, 2 + top, 5 + left, 4 + top]
        counts[top, left] += 1
    assert_frequencies(counts)


# -------------------------------------------------------------------------------------------------- the crop


def plain_crop(crop, sample, rng):
    """The same crop, step by step as SSD describes it: (box of the crop, kept objects), or None for no crop."""
    choices = [*crop.thresholds, *(["none"] if crop.allow_no_crop else [])]
    order = rng.permutation(len(choices))
    draws = rng.random((len(choices), crop.num_attempts, 4))
    height, width = sample.image.shape[:2]
    for turn, number in enumerate(order):
        if choices[number] == "none" or not len(sample.boxes):
            return None
        for scale_draw, aspect_draw, x_draw, y_draw in draws[turn]:
            scale = crop.scale[0] + scale_draw * (crop.scale[1] - crop.scale[0])
            lowest, highest = max(crop.aspect_ratio[0], scale**2), min(crop.aspect_ratio[1], 1 / scale**2)
            aspect = lowest + aspect_draw * (highest - lowest)
            crop_width = min(max(int(width * scale * aspect**0.5), 1), width)
            crop_height = min(max(int(height * scale / aspect**0.5), 1), height)
            x1, y1 = int(x_draw * (width - crop_width + 1)), int(y_draw * (height - crop_height + 1))
            x2, y2 = x1 + crop_width, y1 + crop_height
            best, kept = 0.0, []
            for i, (a, b, c, d) in enumerate(sample.boxes.astype(float)):
                overlap = max(min(c, x2) - max(a, x1), 0) * max(min(d, y2) - max(b, y1), 0)
                best = max(best, overlap / (crop_width * crop_height + (c - a) * (d - b) - overlap))
                if x1 < (a + c) / 2 < x2 and y1 < (b + d) / 2 < y2:
                    kept.append(i)
            if kept and best >= choices[number]:
                return (x1, y1, x2, y2), kept
    return None


def test_the_crop_is_the_one_of_a_plain_implementation():
    """300 pictures with up to five random objects: the same place, the same objects, boxes by the closed form."""
    num_crops = 0
    for number in range(300):
        rng = np.random.default_rng(number)
        height, width = (int(side) for side in rng.integers(20, 400, 2))
        corners = np.sort(rng.random((int(rng.integers(0, 6)), 2, 2)), axis=1).reshape(-1, 4)
        sample = located_sample(height, width, corners * [width, height, width, height])
        result = CROP(sample, stream(0, "sample", 0, number, "RandomCrop"))
        expected = plain_crop(CROP, sample, stream(0, "sample", 0, number, "RandomCrop"))
        if expected is None:
            assert result is sample
            continue
        num_crops += 1
        (x1, y1, x2, y2), kept = expected
        assert location(result.image) == (x1, y1, x2, y2)
        assert result.labels.tolist() == kept
        for box, (a, b, c, d) in zip(result.boxes, sample.boxes[kept], strict=True):
            closed = [max(a - x1, 0), max(b - y1, 0), min(c, x2) - x1, min(d, y2) - y1]
            np.testing.assert_allclose(box, closed, atol=1e-4)
    assert num_crops > 100


def test_sides_and_place_of_a_crop_are_even():
    """Objects everywhere and no threshold, so that the first attempt is taken, whatever it is."""
    grid = [(x, y, x + 10, y + 10) for x in range(0, 600, 20) for y in range(0, 480, 20)]
    sample = located_sample(480, 600, grid)
    crop = dataclasses.replace(CROP, thresholds=(0.0,), num_attempts=1, allow_no_crop=False)
    results = [crop(sample, stream(0, "sample", 0, i, "RandomCrop")) for i in range(2000)]
    x1, y1, x2, y2 = np.array([location(result.image) for result in results]).T
    width, height = x2 - x1 + 0.5, y2 - y1 + 0.5  # sides are rounded down
    scale = np.sqrt(width * height / (600 * 480))
    assert_uniform(scale, 0.3, 1.0)
    # Relative width / height is even between the limits of its scale, where those leave room.
    aspect = width / height / (600 / 480)
    lowest, highest = np.maximum(0.5, scale**2), np.minimum(2.0, scale**-2)
    is_free = highest - lowest > 0.5
    assert_uniform(((aspect - lowest) / (highest - lowest))[is_free])
    for start, free in ((x1, 601 - (x2 - x1)), (y1, 481 - (y2 - y1))):
        is_free = free > 50
        assert_uniform(((start + 0.5) / free)[is_free])


@pytest.mark.parametrize(("num_reachable", "num_unreachable"), [(1, 0), (1, 3), (3, 2)])
def test_thresholds_and_no_crop_come_first_equally_often(num_reachable, num_unreachable):
    """A small object that no crop can match: thresholds of 0 are met at once, those of 1 never, "no crop" ends it."""
    sample = located_sample(40, 60, [(x, y, x + 2, y + 2) for x in range(0, 60, 4) for y in range(0, 40, 4)])
    crop = dataclasses.replace(CROP, thresholds=(0.0,) * num_reachable + (1.0,) * num_unreachable, num_attempts=3)
    kept = sum(crop(sample, stream(0, "sample", 0, i, "RandomCrop")) is sample for i in range(3000))
    share = 1 / (num_reachable + 1)
    assert_frequencies([kept, 3000 - kept], [share, 1 - share])


@pytest.mark.parametrize("threshold", CROP.thresholds)
def test_the_threshold_is_the_limit_of_the_overlap(threshold):
    """An object as large as the picture: the overlap is the crop's share of the area, which is 0.09 or more."""
    sample = located_sample(90, 120, [(0, 0, 120, 90)])
    crop = dataclasses.replace(CROP, thresholds=(threshold,), allow_no_crop=False)
    overlaps = []
    for number in range(200):
        result = crop(sample, stream(0, "sample", 0, number, "RandomCrop"))
        if result is not sample:
            overlaps.append(overlap(location(result.image), sample.boxes[0].tolist()))
    assert len(overlaps) > 150
    assert min(overlaps) >= threshold
    assert min(overlaps) < max(threshold, 0.09) + 0.03


def overlap(first, second):
    """Intersection over union."""
    width, height = (min(first[i + 2], second[i + 2]) - max(first[i], second[i]) for i in (0, 1))
    shared = max(width, 0) * max(height, 0)
    return shared / (sum((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (first, second)) - shared)


# ------------------------------------------------------------------------------------- batches and the recipe


def test_sizes_and_interpolations_are_even_and_independent():
    draws = [MULTI_SCALE.draw(stream(0, "batch", i // 500, i % 500, "BatchRandomResize")) for i in range(6000)]
    counts = np.zeros((len(MULTI_SCALE.sizes), len(MULTI_SCALE.interpolations)))
    for resize in draws:
        assert resize.size[0] == resize.size[1]
        counts[MULTI_SCALE.sizes.index(resize.size[0]), MULTI_SCALE.interpolations.index(resize.interpolation)] += 1
    assert_frequencies(counts)
    steps = np.array([MULTI_SCALE.sizes.index(resize.size[0]) for resize in draws]) // 5
    assert_frequencies(np.histogram2d(steps[:-1], steps[1:], bins=3)[0])  # a batch and the next


def test_one_size_for_a_global_batch_whatever_the_ranks_and_workers(tmp_path):
    """The pictures of a global batch of 8 are the same bits from one process, from two or four, with and without workers."""
    write_voc(tmp_path, num_images=16)
    source = Voc(sources=("VOCdevkit/VOC2007/train",), classes=TINY_CLASSES, use_difficult=True, keep_empty_images=True)
    resize = BatchRandomResize(sizes=(32, 48, 64, 80), interpolations=("linear", "nearest"))
    dataset = DetectionDataset(source.read(tmp_path), transforms=RECIPE, batch_transforms=(resize,), seed=3)

    def global_batches(world_size, num_workers):
        """For each of 6 steps over 3 epochs: index -> picture, over all ranks."""
        steps = [{} for _ in range(6)]
        for rank in range(world_size):
            batches = TrainBatches(
                num_images=16, batch_size=8, seed=3, first_step=0, num_steps=6, rank=rank, world_size=world_size
            )
            loader = make_detection_loader(
                dataset, batches, num_workers=num_workers, prefetch_factor=2, pin_memory=False
            )
            for step, batch in zip(steps, loader, strict=True):
                step |= {index: image.numpy() for index, image in zip(batch.indices, batch.images)}
        return steps

    expected = global_batches(1, 0)
    sizes = [{image.shape for image in step.values()} for step in expected]
    assert all(len(step) == 8 for step in expected)
    assert all(len(shapes) == 1 for shapes in sizes)
    assert len(set.union(*sizes)) > 1
    for world_size, num_workers in ((2, 0), (4, 0), (1, 2), (2, 1)):
        for step, other in zip(expected, global_batches(world_size, num_workers), strict=True):
            assert step.keys() == other.keys()
            assert all((step[index] == other[index]).all() for index in step)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Notes:
    """Not a transform: notes the first numbers of its stream, after `wasted` others."""

    seen: list
    wasted: int = 0

    def __call__(self, sample, rng):
        rng.random(self.wasted)
        self.seen.append(rng.random(3))
        return sample


def test_what_one_transform_draws_changes_no_other():
    """More draws, other settings or a transform less before it, and the notes behind stay the same."""
    sample = located_sample(40, 60, [(5, 5, 40, 30)])
    chains = (
        RECIPE,
        (dataclasses.replace(DISTORT, apply_prob=0.0), EXPAND, dataclasses.replace(CROP, num_attempts=3), RECIPE[3]),
        (RECIPE[3], CROP),
        (),
    )
    notes = []
    for chain in chains:
        seen = []
        for index in range(20):
            apply_transforms(sample, (*chain, Notes(seen=seen)), 7, SampleKey(1, 2, index))
        notes.append(np.array(seen))
    for other in notes[1:]:
        np.testing.assert_array_equal(notes[0], other)
    assert len(np.unique(notes[0])) == notes[0].size


def test_draws_are_even_over_images_epochs_and_transforms_and_unrelated():
    """First numbers of two transforms in two epochs for 2,000 images: even, and uncorrelated with each other and the next."""
    sample, count = located_sample(2, 2, []), 2000
    rows = []
    for epoch in (0, 1):
        first, second = [], []
        for index in range(count):
            key = SampleKey(epoch, 0, index)
            apply_transforms(sample, (Notes(seen=first), Notes(seen=second)), 7, key)
        rows += [np.array(first)[:, 0], np.array(second)[:, 0]]
    rows += [np.roll(row, 1) for row in rows]
    for row in rows:
        assert_uniform(row)
    correlation = np.corrcoef(rows) - np.eye(len(rows))
    assert np.abs(correlation).max() < 4.5 / count**0.5


def test_samples_follow_from_seed_epoch_and_index_alone():
    """Whatever was drawn before, in whatever order samples are asked for; and each of the three matters."""
    sample = located_sample(40, 60, [(5, 5, 40, 30), (20, 10, 50, 35)])
    keys = [(seed, SampleKey(epoch, 0, index)) for seed in (1, 2) for epoch in (0, 1) for index in range(6)]

    def result(seed, key):
        made = apply_transforms(sample, RECIPE, seed, key)
        made = apply_batch_transforms(made, (MULTI_SCALE,), seed, key)
        return made.image.tobytes() + made.boxes.tobytes()

    forwards = {key: result(*key) for key in keys}
    backwards = {key: result(*key) for key in reversed(keys)}
    assert forwards == backwards
    assert len(set(forwards.values())) == len(keys)


def test_boxes_stay_around_what_is_painted_through_the_whole_recipe():
    """One bright rectangle: after all transforms its box is that of the bright pixels, to the rounding of a resize."""
    geometry = (EXPAND, CROP, RandomFlip(prob=0.5))
    resize = Resize(size=(320, 320), interpolation="linear")
    num_kept = 0
    for index in range(150):
        rng = np.random.default_rng(index)
        x1, y1 = int(rng.integers(0, 60)), int(rng.integers(0, 40))
        x2, y2 = x1 + int(rng.integers(20, 60)), y1 + int(rng.integers(20, 50))
        sample = located_sample(90, 120, [(x1, y1, x2, y2)])
        sample.image[:] = 0
        sample.image[y1:y2, x1:x2] = 255
        dark = (dataclasses.replace(EXPAND, fill=(0, 0, 0)), *geometry[1:])
        before = apply_transforms(sample, dark, 5, SampleKey(0, 0, index))
        result = resize(before, None)
        pixel = max(320 / before.image.shape[0], 320 / before.image.shape[1], 1)
        num_kept += len(result.boxes)
        for box in result.boxes:
            is_bright = result.image[:, :, 0] > 127
            rows, columns = np.flatnonzero(is_bright.any(axis=1)), np.flatnonzero(is_bright.any(axis=0))
            seen = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            np.testing.assert_allclose(box, seen, atol=pixel / 2 + 1)
    assert num_kept > 120


PUBLISHED = sorted(
    folder.name
    for ending in ("coco", "voc", "objects365")
    for folder in EXPERIMENTS.glob(f"ppyoloe_*_{ending}")
    if (folder / "config.py").is_file()
)


@pytest.mark.parametrize("name", PUBLISHED)
def test_experiments_use_the_recipe_in_its_order(name):
    """Distortion, expansion, crop, flip; one of 15 sizes a batch; ImageNet's statistics, or /255 alone for PPYOLOE+."""
    config = load_experiment(EXPERIMENTS / name).config
    assert config.train_transforms == RECIPE
    assert config.batch_transforms == (MULTI_SCALE,)
    assert {field: getattr(config.input, field) for field in IMAGENET} == (PLAIN if "_plus_" in name else IMAGENET)
    assert (config.input.resize, config.input.interpolation, config.input.color_order) == ("stretch", "cubic", "rgb")
    json.dumps([dataclasses.asdict(transform) for transform in config.train_transforms])


# ------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("transform", "change", "message"),
    [
        (RandomFlip(prob=0.5), {"prob": 50}, "RandomFlip.prob is 50, has to be within 0 .. 1"),
        (RandomFlip(prob=0.5), {"prob": float("nan")}, "RandomFlip.prob is nan"),
        (DISTORT, {"brightness": (1.5, 0.5)}, r"ColorDistort.brightness is \(1.5, 0.5\), has to rise"),
        (DISTORT, {"hue": (-18.0, float("inf"))}, "ColorDistort.hue is"),
        (DISTORT, {"contrast": (-0.5, 0.5)}, r"ColorDistort.contrast is \(-0.5, 0.5\)"),
        (EXPAND, {"ratio": (0.5, 4.0)}, r"RandomExpand.ratio is \(0.5, 4.0\), has to rise within 1 .. inf"),
        (
            EXPAND,
            {"fill": (123.675, 116, 104)},
            r"RandomExpand.fill is .*; it must be \(int within 0 .. 255",
        ),
        (EXPAND, {"apply_prob": 1.5}, "RandomExpand.apply_prob is 1.5"),
        (CROP, {"scale": (0.0, 1.0)}, r"RandomCrop.scale is \(0.0, 1.0\)"),
        (CROP, {"aspect_ratio": (1.5, 2.0)}, "RandomCrop.aspect_ratio is .* include 1"),
        (CROP, {"thresholds": (0.5, 1.5)}, "RandomCrop.thresholds are .* within 0 .. 1"),
        (CROP, {"num_attempts": 0}, "RandomCrop.num_attempts is 0"),
        (MULTI_SCALE, {"sizes": ()}, r"BatchRandomResize.sizes is \(\); it must be not empty"),
        (
            MULTI_SCALE,
            {"sizes": (320, 352.5)},
            r"sizes is \(320, 352.5\); it must be a tuple of int at least 1",
        ),
        (MULTI_SCALE, {"interpolations": ()}, r"BatchRandomResize.interpolations is \(\); it must be not empty"),
        (
            Resize(size=(32, 32), interpolation="linear"),
            {"size": (0, 32)},
            r"size is \(0, 32\); it must be \(int at least 1",
        ),
    ],
)
def test_values_that_make_no_sense_are_refused_by_name(transform, change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(transform, **change)
