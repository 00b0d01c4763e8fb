"""Repeat-factor sampling: the factors in closed form, and epochs that show pictures as often as these say."""

from dataclasses import replace

import numpy as np
import pytest

from public.datasets.balanced import Balanced, repeat_factors
from public.datasets.combine import Joined, Split
from public.datasets.sample import RepeatedKey, SampleKey, sample_number
from public.datasets.voc import Voc
from public.loading.detection import DetectionDataset
from public.loading.samplers import BalancedTrainBatches, TrainBatches
from public.transforms.flip import RandomFlip
from tests.helpers.flat_pictures import write_flat
from tests.helpers.tiny_data import TINY_CLASSES, write_voc

FACTORS = np.array([1.0, 1.0, 2.5, 1.0, 4.0, 1.5, 1.0, 1.0])


def sampler(factors=FACTORS, seed: int = 3, **options) -> BalancedTrainBatches:
    arguments = {"num_images": len(factors), "batch_size": 4, "seed": seed, "first_step": 0, "num_steps": 6}
    return BalancedTrainBatches(factors=factors, **(arguments | {"rank": 0, "world_size": 1} | options))


def test_factors_are_those_of_the_rarest_class_of_a_picture(tmp_path):
    """Of 8 pictures 3, 3 and 2 hold the classes a, b and c; with the threshold 1 / 2 these have sqrt(4 / 3) and sqrt(2)."""
    annotations = write_flat(tmp_path, sides=[(8, 8)] * 8)
    a, c = np.sqrt(0.5 / (3 / 8)), np.sqrt(0.5 / (2 / 8))
    assert repeat_factors(annotations, 0.5).tolist() == pytest.approx([a, a, c, a, a, c, a, a])
    assert (repeat_factors(annotations, 0.25) == 1).all()  # no class is rarer than a quarter
    annotations.crowd[[2, 3]] = True  # picture 2 has no object to train on, picture 3 was of class a
    a, c = np.sqrt(0.5 / (2 / 8)), np.sqrt(0.5 / (1 / 8))
    b = np.sqrt(0.5 / (3 / 8))
    assert repeat_factors(annotations, 0.5).tolist() == pytest.approx([a, b, 1, 1, b, c, a, b])


def test_a_picture_comes_as_often_as_its_factor_says_within_one_and_on_average():
    batches = sampler()
    expected = FACTORS * 8 / FACTORS.sum()
    counts = np.array([batches.counts(epoch) for epoch in range(4000)])
    assert (counts.sum(axis=1) == 8).all()
    assert (counts >= np.floor(expected)).all()
    assert (counts <= np.ceil(expected)).all()
    spread = 4 * np.sqrt(0.25 / 4000)  # four standard deviations of the mean of a draw between two neighbours
    assert np.abs(counts.mean(axis=0) - expected).max() < spread


def test_the_order_is_a_function_of_seed_and_epoch_and_each_copy_has_numbers_of_its_own():
    keys = [key for batch in sampler() for key in batch]
    for epoch in range(3):
        own = [key for key in keys if key.epoch == epoch]
        assert np.bincount([key.index for key in own], minlength=8).tolist() == sampler().counts(epoch).tolist()
        assert len({sample_number(key) for key in own}) == 8, "no two samples of an epoch draw the same numbers"
        for index in range(8):
            copies = sorted(key.copy for key in own if key.index == index)
            assert copies == list(range(len(copies)))
    assert [key for batch in sampler(first_step=3) for key in batch] == keys[12:], "a restart changes nothing"
    halves = [list(sampler(rank=rank, world_size=2)) for rank in (0, 1)]
    assert [key for pair in zip(*halves, strict=True) for half in pair for key in half] == keys
    assert [key for batch in sampler(seed=4) for key in batch] != keys
    assert all(isinstance(key, RepeatedKey) for key in keys)


def test_equal_factors_show_every_picture_once_as_plain_batches_do():
    plain = TrainBatches(num_images=8, batch_size=4, seed=3, first_step=0, num_steps=6, rank=0, world_size=1)
    found = [[key[:3] for key in batch] for batch in sampler(np.ones(8))]
    assert found == [[tuple(key) for key in batch] for batch in plain]


def test_copies_of_a_picture_are_transformed_each_in_its_own_way(tmp_path):
    annotations = write_flat(tmp_path, sides=[(8, 8)])
    annotations.boxes[:] = [[0, 0, 2, 8]]
    dataset = DetectionDataset(annotations, transforms=(RandomFlip(prob=0.5),), batch_transforms=(), seed=3)
    lefts = {dataset[RepeatedKey(0, 0, 0, copy)].boxes[0, 0] for copy in range(8)}
    assert lefts == {0.0, 6.0}
    first, plain = dataset[RepeatedKey(0, 0, 0, 0)], dataset[SampleKey(0, 0, 0)]
    assert np.array_equal(first.boxes, plain.boxes)


def test_a_balanced_set_stands_on_a_page_around_the_others(tmp_path):
    write_voc(tmp_path, folder="tiny", split="train", num_images=6, seed=1)
    voc = Voc(sources=("tiny/train",), classes=TINY_CLASSES, use_difficult=True, keep_empty_images=True)
    balanced = Balanced(data=voc, threshold=0.9)
    assert balanced.read(tmp_path).repeat_threshold == 0.9
    assert voc.read(tmp_path).repeat_threshold is None
    half = Split(data=voc, part="train", val_fraction=0.5, seed=0)
    assert replace(balanced, data=half).read(tmp_path).repeat_threshold == 0.9
    for wrong in (Joined(sets=(balanced,)), replace(half, data=balanced)):
        with pytest.raises(ValueError, match="goes around"):
            wrong.read(tmp_path)
    for threshold in (0.0, 1.5, "much"):
        with pytest.raises((TypeError, ValueError), match=r"Balanced\.threshold"):
            Balanced(data=voc, threshold=threshold)
