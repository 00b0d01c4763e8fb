"""Batches made on a device against those of the data loader's workers: the same bits, on the CPU and on a GPU."""

import numpy as np
import pytest
import torch

from public.datasets.image_folder import ImageFolder
from public.input import ClassificationInput
from public.loading.classification import EvaluationPictures, TrainingPictures, make_classification_loader
from public.loading.on_device import DeviceLoader
from public.loading.samplers import EvalBatches, RepeatedTrainBatches, TrainBatches
from public.loading.workers import forbid_global_random
from public.transforms.classification import ColorJitter, RandomErasing, ReflectPadCrop, apply_transforms
from public.transforms.flip import RandomFlip
from public.transforms.mixing import CutMix, MixupOrCutMix
from public.transforms.on_device import IN_BATCHES, transform_batch
from tests.helpers.tiny_cifar import tiny_images, tiny_set, write_class_folders

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]
RECIPE = (
    ReflectPadCrop(padding=4, size=(32, 32)),
    RandomFlip(prob=0.5),
    RandomErasing(prob=0.5, area=(0.02, 0.4), aspect_ratio=(0.3, 3.3), fill=(124, 116, 104), num_attempts=10),
)
SPEC = ClassificationInput(
    size=(24, 24),
    shorter_side=28,
    interpolation="area",
    color_order="rgb",
    scale=1 / 255,
    mean=(0.49, 0.48, 0.45),
    std=(0.25, 0.24, 0.26),
)
SETTINGS = {"num_workers": 0, "prefetch_factor": 2, "pin_memory": False}


def assert_equal_batches(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one.images.cpu(), other.images)
        assert one.images.dtype == torch.uint8
        for name, value in other.targets.items():
            assert torch.equal(one.targets[name].cpu(), value), name
        assert one[2:] == other[2:]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("height", "width"), [(32, 32), (25, 37)])
@pytest.mark.parametrize("transforms", [*[(transform,) for transform in RECIPE], RECIPE, RECIPE[::-1] + RECIPE[:2]])
def test_a_batch_has_the_pixels_of_its_pictures(transforms, height, width, device):
    images = tiny_images(60, height=height, width=width)
    samples = np.random.default_rng(0).permutation(1_000_000)[:60] + (np.arange(60) % 2 << 40)
    expected = [apply_transforms(image, transforms, 3, 5, number) for image, number in zip(images, samples.tolist())]
    batch = torch.from_numpy(images).to(device)
    before = batch.clone()
    result = transform_batch(batch, transforms, 3, 5, samples)
    np.testing.assert_array_equal(result.cpu().numpy(), np.stack(expected))
    assert torch.equal(batch, before)
    assert not np.array_equal(np.stack(expected)[:, :20, :20], images[:, :20, :20])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", [TrainBatches, RepeatedTrainBatches])
@pytest.mark.parametrize(
    "mix",
    [
        (),
        (CutMix(alpha=1.0, prob=1.0),),
        (MixupOrCutMix(mixup_alpha=0.8, cutmix_alpha=1.0, mixup_prob=0.4, cutmix_prob=0.4),),
    ],
)
def test_the_device_gives_the_loaders_batches(mix, kind, device):
    dataset = TrainingPictures(tiny_set(40), transforms=RECIPE, batch_transforms=mix, seed=2)
    extra = {"repeats": 2} if kind is RepeatedTrainBatches else {}
    batches = kind(num_images=40, batch_size=16, seed=2, first_step=1, num_steps=7, rank=1, world_size=2, **extra)
    with forbid_global_random():
        ours = list(DeviceLoader(dataset, batches, device=device))
        theirs = list(make_classification_loader(dataset, batches, **SETTINGS))
    assert len(ours) == 6
    assert ours[0].images.device.type == device
    assert_equal_batches(ours, theirs)


@pytest.mark.parametrize("device", DEVICES)
def test_evaluation_on_the_device(device):
    dataset = EvaluationPictures(tiny_set(21, height=30, width=40), spec=SPEC)
    batches = EvalBatches(num_images=21, batch_size=4, rank=1, world_size=2)
    loader = DeviceLoader(dataset, batches, device=device)
    assert len(loader) == 3
    assert_equal_batches(list(loader), list(make_classification_loader(dataset, batches, **SETTINGS)))


def test_the_set_itself_is_not_written_into():
    pictures = tiny_set(16)
    before = pictures.images.copy()
    dataset = TrainingPictures(pictures, transforms=RECIPE, batch_transforms=(CutMix(alpha=1.0, prob=1.0),), seed=2)
    batches = TrainBatches(num_images=16, batch_size=8, seed=2, first_step=0, num_steps=4, rank=0, world_size=1)
    for batch in DeviceLoader(dataset, batches, device="cpu"):
        batch.images.zero_()
    np.testing.assert_array_equal(pictures.images, before)
    EvaluationPictures(pictures, spec=SPEC)


def test_what_cannot_live_on_a_device_is_refused(tmp_path):
    batches = EvalBatches(num_images=6, batch_size=2, rank=0, world_size=1)
    jitter = ColorJitter(brightness=0.1, contrast=0.0, saturation=0.0, hue=0.0)
    with pytest.raises(ValueError, match=r"ColorJitter cannot be done in batches .* RandomFlip, ReflectPadCrop"):
        DeviceLoader(TrainingPictures(tiny_set(), transforms=(jitter,), seed=0), batches, device="cpu")
    write_class_folders(tmp_path / "train")
    files = ImageFolder(folder="train", classes=None, num_classes=3).read(tmp_path)
    with pytest.raises(ValueError, match="class folders train: its pictures are files"):
        DeviceLoader(EvaluationPictures(files, spec=SPEC), batches, device="cpu")


def test_every_transform_with_a_plan_can_be_done_in_batches():
    """Whoever gives a transform a `plan` has to give it a batched form as well."""
    from public.transforms import classification, flip

    values = [*vars(classification).values(), *vars(flip).values()]
    planned = {value for value in values if isinstance(value, type) and hasattr(value, "plan")}
    assert planned == set(IN_BATCHES)
