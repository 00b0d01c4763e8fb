"""Cutting, surrounding and mirroring at the end has the pixels and the boxes of doing it step by step."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from public.datasets.sample import Sample, SampleKey
from public.random_streams import stream
from public.transforms.detection import ColorDistort, RandomCrop, RandomExpand, apply_transforms
from public.transforms.flip import RandomFlip
from public.transforms.windows import WindowedPicture, cut, mirrored, pixels_of, surround, windowed


def made(seed: int, height: int = 23, width: int = 31) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("seed", range(40))
def test_any_row_of_steps_has_the_pixels_of_one_after_the_other(seed):
    rng = np.random.default_rng(seed)
    eager, late = made(seed), windowed(made(seed))
    for _ in range(rng.integers(1, 8)):
        height, width = eager.shape[:2]
        kind = rng.integers(3)
        if kind == 0:
            x1, y1 = int(rng.integers(width)), int(rng.integers(height))
            part = x1, y1, int(rng.integers(x1 + 1, width + 1)), int(rng.integers(y1 + 1, height + 1))
            eager, late = cut(eager, *part), cut(late, *part)
        elif kind == 1:
            sides = [int(n) for n in rng.integers(0, 20, 4)]
            fill = tuple(int(n) for n in rng.integers(0, 256, 3))
            eager, late = surround(eager, *sides, fill), surround(late, *sides, fill)
        else:
            eager, late = mirrored(eager), mirrored(late)
        assert isinstance(late, WindowedPicture)
        assert late.shape == eager.shape
    found = pixels_of(late)
    assert found.flags["C_CONTIGUOUS"]
    assert np.array_equal(found, eager)


def test_nothing_done_copies_nothing():
    image = made(0)
    assert np.shares_memory(windowed(image).pixels(), image)


RECIPE = (
    ColorDistort(brightness=(0.5, 1.5), contrast=(0.5, 1.5), saturation=(0.5, 1.5), hue=(-18.0, 18.0), apply_prob=0.5),
    RandomExpand(ratio=(1.0, 4.0), fill=(124, 116, 104), apply_prob=0.5),
    RandomCrop(
        aspect_ratio=(0.5, 2.0), scale=(0.3, 1.0), thresholds=(0.0, 0.3, 0.9), num_attempts=50, allow_no_crop=True
    ),
    RandomFlip(prob=0.5),
)


def sample_of(seed: int) -> Sample:
    boxes = np.sort(np.random.default_rng(seed).uniform(0, 23, (4, 2, 2)), axis=1).reshape(4, 4).astype(np.float32)
    return Sample(
        image=made(seed), boxes=boxes, labels=np.arange(4), difficult=np.zeros(4, bool), crowd=np.zeros(4, bool),
        image_id=seed, index=seed, height=23, width=31,
    )  # fmt: skip


@pytest.mark.parametrize("transforms", [RECIPE, RECIPE[::-1], (*RECIPE[1:], *RECIPE[:1], *RECIPE[1:])])
def test_a_recipe_has_the_samples_of_its_transforms_called_alone(transforms):
    moved = 0
    for index in range(30):
        found = apply_transforms(sample_of(index), transforms, 7, SampleKey(0, 0, index))
        expected, seen = sample_of(index), {}
        for transform in transforms:
            name = type(transform).__name__
            seen[name] = seen.get(name, 0) + 1
            key = name if seen[name] == 1 else f"{name}#{seen[name]}"
            expected = transform(expected, stream(7, "sample", 0, index, key))
        assert isinstance(found.image, np.ndarray)
        assert np.array_equal(found.image, expected.image)
        assert np.array_equal(found.boxes, expected.boxes)
        assert found.labels.tolist() == expected.labels.tolist()
        moved += found.image.shape != (23, 31, 3)
    assert moved > 10


def test_a_transform_of_one_s_own_that_looks_at_pixels_gets_them():
    @dataclass(frozen=True, kw_only=True)
    class Inverting(RandomFlip):
        def __call__(self, sample, random):
            return replace(sample, image=255 - sample.image)

    found = apply_transforms(sample_of(1), (RandomFlip(prob=1.0), Inverting(prob=1.0)), 7, SampleKey(0, 0, 1))
    assert np.array_equal(found.image, 255 - sample_of(1).image[:, ::-1])
