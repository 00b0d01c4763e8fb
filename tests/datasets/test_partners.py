"""Transforms that mix samples, and transforms that end with an epoch: what they see follows from the key alone."""

import dataclasses
import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from public.config import freeze, thaw
from public.datasets.pictures import load_sample
from public.datasets.sample import Sample, SampleKey
from public.datasets.voc import Voc
from public.loading.detection import DetectionDataset, make_detection_loader
from public.loading.samplers import TrainBatches
from public.random_streams import stream
from public.transforms.detection import Resize, apply_transforms
from public.transforms.flip import RandomFlip
from public.transforms.mixing import CutMix, Mixup, draw_mix
from public.transforms.rules import Until, all_of, named
from tests.helpers.tiny_data import TINY_CLASSES, write_voc

SEED = 3


@dataclass(frozen=True, kw_only=True)
class Blend:
    """The mean of a picture and another one of the set, with the objects of both: the simplest that mixes samples."""

    def partners(self, rng: np.random.Generator, num_images: int) -> list[int]:
        return [int(rng.integers(num_images))]

    def __call__(self, sample: Sample, rng: np.random.Generator, partners: list[Sample]) -> Sample:
        (other,) = partners
        image = ((sample.image.astype(np.uint16) + other.image) // 2 + int(rng.integers(2))).astype(np.uint8)
        joined = {
            name: np.concatenate([getattr(sample, name), getattr(other, name)])
            for name in ("boxes", "labels", "difficult", "crowd")
        }
        return dataclasses.replace(sample, image=image, **joined)


TRANSFORMS = (Until(epoch=1, transforms=(Blend(), RandomFlip(prob=0.5))), RandomFlip(prob=0.5),
              Resize(size=(32, 32), interpolation="linear"))  # fmt: skip


@pytest.fixture(scope="module")
def annotations(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_voc(root, folder="tiny", split="train", num_images=8, seed=1)
    data = Voc(sources=("tiny/train",), classes=TINY_CLASSES, use_difficult=False, keep_empty_images=True)
    return data.read(root, None)


def dataset(annotations, transforms=TRANSFORMS, **changes) -> DetectionDataset:
    return DetectionDataset(annotations, transforms=transforms, batch_transforms=(), seed=SEED, **changes)


def test_the_partner_is_drawn_from_the_samples_own_stream_and_comes_untouched(annotations):
    key = SampleKey(0, 0, 5)
    found = dataset(annotations, (Blend(),))[key]
    rng = stream(SEED, "sample", 0, 5, "Blend")
    partner = int(rng.integers(8))
    own, other = load_sample(annotations, 5), load_sample(annotations, partner)
    expected = (own.image.astype(int) + other.image) // 2 + rng.integers(2)
    assert np.array_equal(found.image, expected)
    kept = [~sample.difficult for sample in (own, other)]  # difficult objects are not trained on, the partner's neither
    assert np.array_equal(found.boxes, np.concatenate([own.boxes[kept[0]], other.boxes[kept[1]]]))
    assert not found.difficult.any()


def test_without_a_data_set_there_are_no_partners(annotations):
    with pytest.raises(ValueError, match="Blend mixes samples"):
        apply_transforms(load_sample(annotations, 0), (Blend(),), SEED, SampleKey(0, 0, 0))


def batches(annotations, *, num_workers: int, first_step: int = 0) -> list:
    keys = TrainBatches(num_images=8, batch_size=4, seed=SEED, first_step=first_step, num_steps=6, rank=0, world_size=1)
    loader = make_detection_loader(
        dataset(annotations), keys, num_workers=num_workers, prefetch_factor=4, pin_memory=False
    )
    return list(loader)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_that_read_ahead_and_a_restart_change_no_bit(annotations, num_workers):
    """Three epochs, the first with the mixing: persistent workers are told nothing of the end."""
    plain = batches(annotations, num_workers=0)
    ahead = batches(annotations, num_workers=num_workers)
    again = batches(annotations, num_workers=num_workers, first_step=1)  # within the epoch that mixes
    for one, other in [*zip(plain, ahead, strict=True), *zip(plain[1:], again, strict=True)]:
        assert torch.equal(one.images, other.images)
        assert all(torch.equal(a["boxes"], b["boxes"]) for a, b in zip(one.targets, other.targets))


def test_until_ends_with_its_epoch(annotations):
    """In epoch 0 all act, from epoch 1 on those behind it alone, which draw the same numbers as ever."""
    assert [name for name, _ in named(TRANSFORMS, 0)] == ["Blend", "RandomFlip", "RandomFlip#2", "Resize"]
    assert [name for name, _ in named(TRANSFORMS, 1)] == ["RandomFlip#2", "Resize"]
    late = dataset(annotations)[SampleKey(1, 0, 5)]
    alone = dataset(annotations, (RandomFlip(prob=0.0), *TRANSFORMS[1:]))[SampleKey(1, 0, 5)]
    assert np.array_equal(late.image, alone.image)
    assert not np.array_equal(dataset(annotations)[SampleKey(0, 0, 5)].image, late.image)


def test_until_inside_until_ends_with_the_earlier():
    inner = Until(epoch=5, transforms=(RandomFlip(prob=1.0),))
    nested = (Until(epoch=2, transforms=(inner, Blend())),)
    assert [len(named(nested, epoch)) for epoch in (0, 1, 2, 5)] == [2, 2, 0, 0]
    assert [type(transform).__name__ for transform in all_of(nested)] == ["RandomFlip", "Blend"]


def test_until_is_a_setting_like_others():
    """It goes to JSON and comes back, and nonsense is refused by name."""
    classes = {"Until": Until, "RandomFlip": RandomFlip}
    value = Until(epoch=285, transforms=(RandomFlip(prob=0.5),))
    assert thaw(json.loads(json.dumps(freeze(value))), classes) == value
    for epoch in (-1, 1.5, True, "3"):
        with pytest.raises((TypeError, ValueError), match=r"Until\.epoch"):
            Until(epoch=epoch, transforms=(RandomFlip(prob=0.5),))
    for transforms in ((), [RandomFlip(prob=0.5)]):
        with pytest.raises((TypeError, ValueError), match=r"Until\.transforms"):
            Until(epoch=1, transforms=transforms)


def test_mixing_of_classification_ends_too():
    ending = (Until(epoch=2, transforms=(Mixup(alpha=1.0, prob=1.0),)),)
    assert draw_mix(ending, SEED, 1, 0, 32, 32) == draw_mix((Mixup(alpha=1.0, prob=1.0),), SEED, 1, 0, 32, 32)
    assert draw_mix(ending, SEED, 2, 0, 32, 32).kind == "none"
    with pytest.raises(ValueError, match="one at most"):
        draw_mix((*ending, CutMix(alpha=1.0, prob=1.0)), SEED, 1, 0, 32, 32)
    assert draw_mix((*ending, CutMix(alpha=1.0, prob=1.0)), SEED, 2, 0, 32, 32).kind == "cutmix"


def test_a_partner_that_cannot_be_read_is_named(tmp_path):
    """Its line comes with the sample that wanted it; with "error" it stops the run."""
    write_voc(tmp_path, folder="tiny", split="train", num_images=4, seed=1, extension=".jpg")
    (tmp_path / "tiny/JPEGImages/train_0002.jpg").write_bytes(b"no picture")
    data = Voc(sources=("tiny/train",), classes=TINY_CLASSES, use_difficult=False, keep_empty_images=True)
    broken = data.read(tmp_path, None)
    partners = {index: int(stream(SEED, "sample", 0, index, "Blend").integers(4)) for index in (0, 1, 3)}
    wanting = [index for index, partner in partners.items() if partner == 2]
    assert wanting, "choose another seed"
    found = dataset(broken, (Blend(),), on_bad_sample="skip")
    for index in partners:
        skipped = found[SampleKey(0, 0, index)].skipped
        assert ("train_0002" in (skipped or "")) == (index in wanting)
    with pytest.raises(ValueError, match="train_0002"):
        dataset(broken, (Blend(),))[SampleKey(0, 0, wanting[0])]
