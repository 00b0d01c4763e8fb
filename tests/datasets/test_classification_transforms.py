"""The transforms of classification: against torchvision and Pillow, closed forms, and statistics of the draws."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import RandAugment as TorchvisionRandAugment
from torchvision.transforms import autoaugment
from torchvision.transforms import functional as tv

from public.config import freeze, thaw
from public.datasets.sample import SampleKey, sample_number
from public.loading.classification import Collate, TrainingPictures, make_targets
from public.loading.samplers import RepeatedTrainBatches, TrainBatches
from public.transforms.classification import (
    ColorJitter,
    RandomErasing,
    RandomResizedCrop,
    ReflectPadCrop,
    apply_transforms,
)
from public.transforms.counter_stream import outputs, stream_key, uniforms
from public.transforms.flip import RandomFlip
from public.transforms.mixing import WHOLE, CutMix, Mix, Mixup, MixupOrCutMix, draw_mix, mix_images
from public.transforms.rand_augment import CHANGES, RandAugment, change, strength
from public.transforms.rules import reflect
from tests.helpers.tiny_cifar import tiny_images, tiny_set

FLIP = RandomFlip(prob=0.5)
PAD_CROP = ReflectPadCrop(padding=4, size=(32, 32))
ERASE = RandomErasing(prob=0.5, area=(0.02, 0.33), aspect_ratio=(0.3, 3.3), fill=(124, 116, 104), num_attempts=10)
RESIZED_CROP = RandomResizedCrop(
    size=(24, 20), area=(0.08, 1.0), aspect_ratio=(3 / 4, 4 / 3), interpolation="linear", num_attempts=10
)
JITTER = ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
AUGMENT = RandAugment(num_changes=2, magnitude=9, fill=(128, 128, 128))
ALL = (FLIP, PAD_CROP, ERASE, RESIZED_CROP, JITTER, AUGMENT)
MIXES = (
    Mixup(alpha=0.2, prob=1.0),
    CutMix(alpha=1.0, prob=0.5),
    MixupOrCutMix(mixup_alpha=0.8, cutmix_alpha=1.0, mixup_prob=0.3, cutmix_prob=0.5),
)


def draws_of(transform, num, seed=0):
    """(num, D) numbers of as many samples."""
    return uniforms(stream_key(seed, 0, type(transform).__name__), np.arange(num), transform.num_draws)


# -------------------------------------------------------------------------------------------- the numbers


def test_the_numbers_are_splitmix64s():
    """The first five outputs for the seed 1234567, a published test of SplitMix64 (rosettacode.org)."""
    published = [
        6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821,
    ]  # fmt: skip
    assert outputs(1234567, np.arange(1, 6, dtype=np.uint64)).tolist() == published
    assert uniforms(1234567, np.array([0]), 2).tolist() == [[(bits >> 11) / 2**53 for bits in published[:2]]]


def test_a_sample_alone_has_the_numbers_that_it_has_in_a_batch():
    key = stream_key(7, 3, "RandomFlip")
    samples = np.array([0, 5, 5 + (1 << 40), 1_281_166])
    together = uniforms(key, samples, 9)
    for i in range(len(samples)):
        np.testing.assert_array_equal(uniforms(key, samples[i : i + 1], 9)[0], together[i])
        np.testing.assert_array_equal(uniforms(key, samples[i : i + 1], 4)[0], together[i, :4])
    assert len(np.unique(together)) == together.size
    with pytest.raises(ValueError, match="257 random numbers"):
        uniforms(key, samples, 257)


def test_the_numbers_are_even_and_independent():
    numbers = uniforms(stream_key(0, 0, "x"), np.arange(20_000), 4)
    counts = np.stack([np.histogram(column, 20, (0, 1))[0] for column in numbers.T])
    assert (((counts - 1000) ** 2 / 1000).sum(1) < 45).all()  # chi-square, 19 degrees of freedom: 45 is beyond 0.9993
    assert abs(np.corrcoef(numbers.T) - np.eye(4)).max() < 0.03  # of one picture
    assert abs(np.corrcoef(numbers[1:, 0], numbers[:-1, 0])[0, 1]) < 0.03  # a picture and the next one


def test_every_name_epoch_and_seed_has_its_own_numbers():
    keys = {stream_key(seed, epoch, name) for seed in (0, 1) for epoch in (0, 1) for name in ("a", "b")}
    assert len(keys) == 8


# -------------------------------------------------------------------------------------------- all transforms


@pytest.mark.parametrize("transform", ALL, ids=lambda t: type(t).__name__)
def test_no_transform_writes_into_its_input(transform):
    for i, draws in enumerate(draws_of(transform, 30)):
        image = tiny_images(1, height=33 + i, width=40)[0]
        before = image.copy()
        image.flags.writeable = False  # pictures in memory are views of the whole set
        result = transform(image, draws)
        np.testing.assert_array_equal(image, before)
        assert result.dtype == np.uint8
        assert result.flags.c_contiguous
        assert result.shape[2] == 3


@pytest.mark.parametrize("value", [*ALL, *MIXES], ids=lambda t: type(t).__name__)
def test_settings_survive_json(value):
    assert thaw(freeze(value), {type(value).__name__: type(value)}) == value


def test_a_second_transform_of_a_class_has_numbers_of_its_own():
    image = tiny_images(1)[0]
    for sample in range(40):
        once = apply_transforms(image, (FLIP,), 0, 0, sample)
        twice = apply_transforms(image, (FLIP, FLIP), 0, 0, sample)
        second = uniforms(stream_key(0, 0, "RandomFlip#2"), np.array([sample]), 1)[0, 0] < 0.5
        np.testing.assert_array_equal(twice, once[:, ::-1] if second else once)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomFlip(prob=1.5), "RandomFlip.prob is 1.5"),
        (lambda: ReflectPadCrop(padding=-1, size=(32, 32)), "ReflectPadCrop.padding"),
        (lambda: ReflectPadCrop(padding=4, size=32), "ReflectPadCrop.size is 32"),
        (lambda: PAD_CROP(tiny_images(1, height=4)[0], np.zeros(2)), "cannot be mirrored over 4 pixels"),
        (lambda: PAD_CROP(tiny_images(1, height=20)[0], np.zeros(2)), "larger than a picture of 20 x 32"),
        (lambda: RandomErasing(prob=1, area=(0.3, 0.1), aspect_ratio=(1, 1), fill=(0, 0, 0), num_attempts=1), "area"),
        (lambda: RandomErasing(prob=1, area=(0, 1), aspect_ratio=(1, 1), fill=(0, 0, 300), num_attempts=1), "fill"),
        (lambda: RandomErasing(prob=1, area=(0, 1), aspect_ratio=(1, 1), fill=(0, 0, 0), num_attempts=64), "attempts"),
        (lambda: ColorJitter(brightness=0, contrast=0, saturation=0, hue=0.6), "ColorJitter.hue"),
        (lambda: RandAugment(num_changes=2, magnitude=31, fill=(0, 0, 0)), "RandAugment.magnitude"),
        (lambda: Mixup(alpha=0.0, prob=1), "Mixup.alpha"),
        (lambda: MixupOrCutMix(mixup_alpha=1, cutmix_alpha=1, mixup_prob=0.6, cutmix_prob=0.6), "more than 1"),
        (lambda: draw_mix(MIXES[:2], 0, 0, 0, 8, 8), "one at most"),
    ],
)
def test_values_that_make_no_sense(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# -------------------------------------------------------------------------------------------- each transform


def test_flip():
    image = tiny_images(1)[0]
    np.testing.assert_array_equal(RandomFlip(prob=1.0)(image, np.array([0.999])), image[:, ::-1])
    np.testing.assert_array_equal(RandomFlip(prob=0.0)(image, np.array([0.0])), image)
    assert abs(FLIP.plan(draws_of(FLIP, 10_000), 8, 8).mean() - 0.5) < 0.02


def test_reflect():
    assert reflect(np.arange(-3, 8), 5).tolist() == [3, 2, 1, 0, 1, 2, 3, 4, 3, 2, 1]


@pytest.mark.parametrize(("height", "width"), [(32, 32), (30, 41)])
def test_pad_and_crop_is_numpys_reflection(height, width):
    image = tiny_images(1, height=height, width=width)[0]
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)), mode="reflect")
    draws = draws_of(PAD_CROP, 400)
    for top, left, numbers in zip(*PAD_CROP.plan(draws, height, width).T, draws):
        np.testing.assert_array_equal(PAD_CROP(image, numbers), padded[top : top + 32, left : left + 32])
    plan = PAD_CROP.plan(draws_of(PAD_CROP, 5000), height, width)
    for places, last in zip(plan.T, (height - 24, width - 24)):
        counts = np.bincount(places)
        assert len(counts) == last + 1
        assert abs(counts / 5000 * (last + 1) - 1).max() < 0.3  # every place, evenly: 5 standard deviations or more


def test_erasing_statistics():
    always = RandomErasing(prob=1.0, area=(0.02, 0.33), aspect_ratio=(0.3, 3.3), fill=(1, 2, 3), num_attempts=10)
    x1, y1, x2, y2 = always.plan(draws_of(always, 20_000), 224, 224).T
    share, aspect = (x2 - x1) * (y2 - y1) / 224**2, (y2 - y1) / (x2 - x1)
    assert (x1 >= 0).all()
    assert (y1 >= 0).all()
    assert (x2 <= 224).all()
    assert (y2 <= 224).all()
    assert share.min() > 0.019
    assert share.max() < 0.33 + 0.5 / 224 * 2  # sides are rounded by half a pixel at most
    assert abs(share.mean() - 0.175) < 0.005
    assert abs(np.log(aspect).mean() - (math.log(0.3) + math.log(3.3)) / 2) < 0.02
    assert abs(((x1 + x2) / 2).mean() - 112) < 2
    done = ERASE.plan(draws_of(ERASE, 20_000), 224, 224).any(axis=1)
    assert abs(done.mean() - 0.5) < 0.02


def test_erasing_covers_its_rectangle_and_nothing_else():
    always = RandomErasing(prob=1.0, area=(0.1, 0.3), aspect_ratio=(0.5, 2.0), fill=(1, 2, 3), num_attempts=10)
    image = np.full((40, 50, 3), 200, np.uint8)
    for draws in draws_of(always, 50):
        x1, y1, x2, y2 = always.plan(draws[None], 40, 50)[0]
        covered = (always(image, draws) == (1, 2, 3)).all(axis=2)
        assert covered.sum() == (x2 - x1) * (y2 - y1) > 0
        assert covered[y1:y2, x1:x2].all()
    too_large = RandomErasing(prob=1.0, area=(1.0, 1.0), aspect_ratio=(1.0, 1.0), fill=(0, 0, 0), num_attempts=3)
    square = image[:, :40]
    assert too_large(square, draws_of(too_large, 1)[0]) is square  # never the whole picture


def test_resized_crop_statistics_are_torchvisions():
    """The parts that ours and torchvision's rule cut out of one picture, 3000 of each."""
    from torchvision.transforms import RandomResizedCrop as Theirs

    height, width = 375, 500
    ours = np.array([RESIZED_CROP.part(draws, height, width) for draws in draws_of(RESIZED_CROP, 3000)])
    x1, y1, x2, y2 = ours.T
    picture = torch.empty(3, height, width)
    torch.manual_seed(0)
    theirs = np.array([Theirs.get_params(picture, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(3000)])
    top, left, tall, wide = theirs.T
    for mine, other in ((y1, top), (x1, left), (y2 - y1, tall), (x2 - x1, wide), (y2, top + tall), (x2, left + wide)):
        for quantile in (0.1, 0.5, 0.9):
            assert abs(np.quantile(mine, quantile) - np.quantile(other, quantile)) < 0.05 * width
        assert abs(mine.mean() - other.mean()) < 5 * math.sqrt((mine.var() + other.var()) / 3000)
    assert (x2 <= width).all()
    assert (y2 <= height).all()


def test_resized_crop_pixels():
    image = tiny_images(1, height=50, width=60)[0]
    for draws in draws_of(RESIZED_CROP, 20):
        x1, y1, x2, y2 = RESIZED_CROP.part(draws, 50, 60)
        part = torch.from_numpy(image[y1:y2, x1:x2].transpose(2, 0, 1).copy()).float()[None]
        expected = torch.nn.functional.interpolate(part, (24, 20), mode="bilinear", align_corners=False)[0]
        assert abs(RESIZED_CROP(image, draws) - expected.permute(1, 2, 0).numpy()).max() <= 1


@pytest.mark.parametrize("size", [(10, 200), (200, 10)])
def test_resized_crop_of_a_strip_is_its_middle(size):
    """No part of such a picture has an allowed aspect ratio and most of the area."""
    whole = RandomResizedCrop(
        size=(8, 8), area=(0.9, 1.0), aspect_ratio=(3 / 4, 4 / 3), interpolation="area", num_attempts=10
    )
    x1, y1, x2, y2 = whole.part(draws_of(whole, 1)[0], *size)
    long_side = max(x2 - x1, y2 - y1)
    assert min(x2 - x1, y2 - y1) == 10
    assert long_side == 13  # 10 * 4 / 3
    assert abs((x1 + x2) / 2 - size[1] / 2) <= 0.5
    assert abs((y1 + y2) / 2 - size[0] / 2) <= 0.5


def test_jitter_is_torchvisions():
    """One change at a time against torchvision's on tensors; they round in other places, so a level or two may differ."""
    image = tiny_images(1, height=20, width=20)[0] // 2 + 60
    tensor = torch.from_numpy(image.transpose(2, 0, 1).copy())
    functions = {"brightness": tv.adjust_brightness, "contrast": tv.adjust_contrast, "saturation": tv.adjust_saturation}
    for name, function in functions.items():
        settings = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0, name: 0.4}
        for i, draws in enumerate(draws_of(JITTER, 12)):
            factor = 0.6 + 0.8 * draws[4 + list(functions).index(name)]
            expected = function(tensor, factor).permute(1, 2, 0).numpy().astype(int)
            assert abs(ColorJitter(**settings)(image, draws) - expected).max() <= 2, (name, i)
    hue = ColorJitter(brightness=0.0, contrast=0.0, saturation=0.0, hue=0.5)
    for draws in draws_of(JITTER, 12):
        shift = draws[7] - 0.5
        expected = tv.adjust_hue(tensor, shift).permute(1, 2, 0).numpy().astype(int)
        assert abs(hue(image, draws) - expected).mean() < 4
    nothing = ColorJitter(brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)
    np.testing.assert_array_equal(nothing(image, draws), image)


def test_jitter_uses_every_order():
    orders = {tuple(np.argsort(draws[:4])) for draws in draws_of(JITTER, 600)}
    assert len(orders) == 24
    # brightness then contrast is not contrast then brightness
    image = tiny_images(1)[0]
    strong = ColorJitter(brightness=0.9, contrast=0.9, saturation=0.0, hue=0.0)
    first, second = np.array([0.1, 0.2, 0.3, 0.4, 0.9, 0.1, 0, 0]), np.array([0.2, 0.1, 0.3, 0.4, 0.9, 0.1, 0, 0])
    assert not np.array_equal(strong(image, first), strong(image, second))


THEIR_NAMES = {"color": "Color", "auto_contrast": "AutoContrast"}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("magnitude", [0, 9, 30])
def test_each_change_of_rand_augment_is_torchvisions(name, magnitude):
    theirs = "".join(word.capitalize() for word in name.split("_"))
    image = tiny_images(1, height=37, width=45)[0] // 2 + 30
    magnitudes, has_sign = TorchvisionRandAugment()._augmentation_space(31, (37, 45))[theirs]
    value = float(magnitudes[magnitude]) if magnitudes.ndim else 0.0
    for is_negative in (False, True):
        signed = -value if has_sign and is_negative else value
        expected = autoaugment._apply_op(
            Image.fromarray(image), theirs, signed, interpolation=tv.InterpolationMode.NEAREST, fill=[9, 8, 7]
        )
        ours = change(image, name, strength(name, magnitude, is_negative), (9, 8, 7))
        differing = (ours != np.asarray(expected)).any(axis=2).mean()
        assert differing <= (0.01 if name.startswith("shear") else 0), f"{differing:.3f} of the pixels"


def test_rand_augment_draws_every_change_and_both_signs():
    chosen = {
        (int(choice * len(CHANGES)), sign < 0.5) for draws in draws_of(AUGMENT, 400) for choice, sign in [draws[:2]]
    }
    assert len(chosen) == 2 * len(CHANGES)
    image = tiny_images(1)[0]
    invert = list(CHANGES).index("solarize") / len(CHANGES) + 1e-9
    twice = RandAugment(num_changes=2, magnitude=30, fill=(0, 0, 0))
    np.testing.assert_array_equal(twice(image, np.array([invert, 0, invert, 0])), image)
    once = RandAugment(num_changes=1, magnitude=30, fill=(0, 0, 0))
    np.testing.assert_array_equal(once(image, np.array([invert, 0])), 255 - image)


# ------------------------------------------------------------------------------------------------- mixing


def test_mixup_is_the_weighted_mean_with_the_neighbour():
    images = torch.from_numpy(tiny_images(6))
    mixed = mix_images(images, Mix("mixup", round(0.3 * WHOLE), (0, 0, 0, 0)))
    partners = images[[1, 0, 3, 2, 5, 4]]
    expected = 0.3 * images.double() + 0.7 * partners.double()
    assert abs(mixed - expected).max() <= 0.51
    assert torch.equal(mix_images(images, Mix("mixup", WHOLE, (0, 0, 0, 0))), images)
    assert torch.equal(mix_images(images, Mix("mixup", 0, (0, 0, 0, 0))), partners)


def test_cutmix_replaces_a_box_and_counts_its_pixels():
    images = torch.from_numpy(tiny_images(4, height=20, width=30))
    before = images.clone()
    transform = CutMix(alpha=1.0, prob=1.0)
    for seed in range(300):
        mix = transform.draw(np.random.default_rng(seed), 20, 30)
        x1, y1, x2, y2 = mix.box
        assert 0 <= x1 <= x2 <= 30
        assert 0 <= y1 <= y2 <= 20
        assert abs(mix.share / WHOLE - (1 - (x2 - x1) * (y2 - y1) / 600)) < 1e-4
        mixed = mix_images(images, mix)
        assert torch.equal(mixed[:, y1:y2, x1:x2], images[[1, 0, 3, 2]][:, y1:y2, x1:x2])
        mixed[:, y1:y2, x1:x2] = images[:, y1:y2, x1:x2]
        assert torch.equal(mixed, images)
    assert torch.equal(images, before)


def test_how_much_cutmix_covers():
    """With alpha 1 the side r of the box is sqrt(u), u even in 0 .. 1.  Around an even middle it covers r - r^2 / 4 of an
    axis on average, so (r - r^2 / 4)^2 of the picture: 1/2 - 1/5 + 1/48 over all u."""
    transform = CutMix(alpha=1.0, prob=1.0)
    shares = [transform.draw(np.random.default_rng(seed), 512, 512).share / WHOLE for seed in range(4000)]
    assert abs(1 - np.mean(shares) - (1 / 2 - 1 / 5 + 1 / 48)) < 0.015


def test_how_often_each_mix_is_drawn():
    kinds = [MIXES[2].draw(np.random.default_rng(seed), 32, 32).kind for seed in range(2000)]
    for kind, expected in (("mixup", 0.3), ("cutmix", 0.5), ("none", 0.2)):
        assert abs(kinds.count(kind) / 2000 - expected) < 0.05
    shares = [Mixup(alpha=0.2, prob=1.0).draw(np.random.default_rng(seed), 1, 1).share / WHOLE for seed in range(2000)]
    assert abs(np.mean(shares) - 0.5) < 0.05
    assert abs(np.var(shares) - 1 / (4 * (2 * 0.2 + 1))) < 0.02  # of Beta(a, a)


def test_every_batch_and_epoch_has_a_mix_of_its_own():
    keys = [(seed, epoch, batch) for seed in range(3) for epoch in range(3) for batch in range(3)]
    mixes = [draw_mix((Mixup(alpha=1.0, prob=1.0),), *key, 32, 32) for key in keys]
    assert len(set(mixes)) == len(keys)
    assert mixes == [draw_mix((Mixup(alpha=1.0, prob=1.0),), *key, 32, 32) for key in keys]


def test_soft_targets():
    samples = [TrainingPictures(tiny_set(), transforms=(), seed=0)[SampleKey(0, 0, i)] for i in range(4)]
    batch = Collate((), 0)(samples)
    np.testing.assert_array_equal(batch.soft_targets(4, 0.0), np.eye(4))
    smooth = torch.nn.functional.cross_entropy
    logits = torch.linspace(-1, 2, 16).view(4, 4)
    torch.testing.assert_close(
        smooth(logits, batch.soft_targets(4, 0.1)), smooth(logits, batch.labels, label_smoothing=0.1)
    )
    mixed = batch._replace(targets=make_targets(torch.tensor([0, 1, 2, 2]), Mix("mixup", WHOLE // 4, (0, 0, 0, 0))))
    expected = torch.tensor([[0.25, 0.75, 0, 0], [0.75, 0.25, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0]])
    torch.testing.assert_close(mixed.soft_targets(4, 0.0), expected)
    torch.testing.assert_close(mixed.soft_targets(4, 0.2), 0.8 * expected + 0.05)
    with pytest.raises(ValueError, match="label_smoothing is 1"):
        batch.soft_targets(4, 1.0)


# ------------------------------------------------------------------------------------ batches and processes


def keys_of(batches):
    return [list(batch) for batch in batches]


def make_batches(kind=TrainBatches, rank=0, world_size=1, **extra):
    return kind(
        num_images=24, batch_size=8, seed=1, first_step=0, num_steps=6, rank=rank, world_size=world_size, **extra
    )


@pytest.mark.parametrize("mix", MIXES, ids=lambda t: type(t).__name__)
def test_two_processes_make_the_batches_of_one(mix):
    pictures = TrainingPictures(tiny_set(), transforms=(PAD_CROP, FLIP, ERASE), batch_transforms=(mix,), seed=1)
    collate = Collate((mix,), 1)

    def made(rank, world_size):
        return [collate([pictures[key] for key in keys]) for keys in make_batches(rank=rank, world_size=world_size)]

    for whole, first, second in zip(made(0, 1), made(0, 2), made(1, 2), strict=True):
        assert torch.equal(whole.images, torch.cat([first.images, second.images]))
        for name, value in whole.targets.items():
            assert torch.equal(value, torch.cat([first.targets[name], second.targets[name]]))


def test_an_odd_share_cannot_be_mixed():
    pictures = TrainingPictures(tiny_set(), transforms=(), seed=1)
    with pytest.raises(ValueError, match="3 images cannot be mixed two by two"):
        Collate(MIXES[:1], 1)([pictures[SampleKey(0, 0, i)] for i in range(3)])


def test_images_of_different_sizes_are_named():
    samples = [TrainingPictures(tiny_set(4), transforms=(), seed=1)[SampleKey(0, 0, i)] for i in range(2)]
    samples[1].image = samples[1].image[:30]
    with pytest.raises(ValueError, match=r"picture_0 has \(32, 32\) and picture_1 has \(30, 32\)"):
        Collate((), 0)(samples)


def test_repeated_augmentation():
    keys = keys_of(make_batches(RepeatedTrainBatches, repeats=2))
    plain = keys_of(make_batches())
    assert len(keys) == len(plain) == 6
    for batch in keys:
        assert [key.copy for key in batch] == [0] * 4 + [1] * 4
        assert [key.index for key in batch[:4]] == [key.index for key in batch[4:]]
        assert len({key.index for key in batch}) == 4
    order = [key.index for batch in plain[:3] for key in batch]
    assert [key.index for batch in keys[:3] for key in batch[:4]] == order[:12]  # the first half of the epoch's order
    halves = [keys_of(make_batches(RepeatedTrainBatches, rank=rank, world_size=2, repeats=2)) for rank in (0, 1)]
    assert [a + b for a, b in zip(*halves)] == keys
    late = RepeatedTrainBatches(
        repeats=2, num_images=24, batch_size=8, seed=1, first_step=4, num_steps=6, rank=0, world_size=1
    )
    assert keys_of(late) == keys[4:]
    pictures = TrainingPictures(tiny_set(), transforms=(PAD_CROP, FLIP), seed=1)
    first, second = pictures[keys[0][0]], pictures[keys[0][4]]
    assert first.index == second.index
    assert not np.array_equal(first.image, second.image)
    assert sample_number(keys[0][0]) == sample_number(SampleKey(0, 0, keys[0][0].index))
    once = keys_of(make_batches(RepeatedTrainBatches, repeats=1))
    assert [[key[:3] for key in batch] for batch in once] == [[tuple(key) for key in batch] for batch in plain]
    with pytest.raises(ValueError, match="cannot be made of 3 copies"):
        make_batches(RepeatedTrainBatches, repeats=3)
