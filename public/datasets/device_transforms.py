"""A small data set on the device: gathered, flipped, cropped, erased and mixed there in batches, same pixels as by workers.

The random numbers of a batch are drawn and turned into whole pixels on the CPU, by the `plan` of each transform, as they
are for a single picture; the device only moves pixels.  All of it is indexing, which is exact and repeatable anywhere.

B images of a batch, P whole numbers that plan a transform.
"""

from collections.abc import Iterator

import numpy as np
import torch

from public.classification_input import prepare_crop
from public.datasets.classification_loader import (
    ClassificationBatch,
    EvaluationPictures,
    TrainingPictures,
    make_targets,
    sample_number,
)
from public.datasets.classification_transforms import RandomErasing, RandomFlip, ReflectPadCrop, named, reflect
from public.datasets.counter_stream import stream_key, uniforms
from public.datasets.loader import EvalBatches, TrainBatches
from public.datasets.mixing import NO_MIX, draw_mix, mix_images


def flip_batch(images: torch.Tensor, plan: torch.Tensor, transform: RandomFlip) -> torch.Tensor:
    """The batch with some of its pictures mirrored."""
    return torch.where(plan[:, :, None, None].bool(), images.flip(2), images)


def crop_batch(images: torch.Tensor, plan: torch.Tensor, transform: ReflectPadCrop) -> torch.Tensor:
    """A cut of each picture, mirrored over its edges; by indexing, no padded batch is made."""
    height, width = images.shape[1:3]
    rows = torch.arange(transform.size[0], device=images.device) - transform.padding + plan[:, :1]  # (B, h)
    columns = torch.arange(transform.size[1], device=images.device) - transform.padding + plan[:, 1:]  # (B, w)
    pictures = torch.arange(len(images), device=images.device)[:, None, None]
    return images[pictures, reflect(rows, height)[:, :, None], reflect(columns, width)[:, None, :]]


def erase_batch(images: torch.Tensor, plan: torch.Tensor, transform: RandomErasing) -> torch.Tensor:
    """The batch with a rectangle of each picture in an even colour; an empty one changes nothing."""
    x1, y1, x2, y2 = plan.unbind(1)
    height, width = images.shape[1:3]
    is_row = _is_between(height, y1, y2)[:, :, None, None]
    is_column = _is_between(width, x1, x2)[:, None, :, None]
    fill = torch.tensor(transform.fill, dtype=torch.uint8).to(images.device, non_blocking=True)
    return torch.where(is_row & is_column, fill, images)


def _is_between(length, first, end):
    """(B, length) whether a position is one from `first` to `end` - 1, both (B,)."""
    positions = torch.arange(length, device=first.device)
    return (positions >= first[:, None]) & (positions < end[:, None])


IN_BATCHES = {RandomFlip: flip_batch, ReflectPadCrop: crop_batch, RandomErasing: erase_batch}


def check_transforms(transforms: tuple) -> None:
    """Refuses a transform that cannot be done in batches.

    Raises:
        ValueError: naming it and those that can.
    """
    for transform in transforms:
        if type(transform) not in IN_BATCHES:
            raise ValueError(
                f"{type(transform).__name__} cannot be done in batches on a device, only "
                f"{', '.join(kind.__name__ for kind in IN_BATCHES)}; leave the data on the CPU"
            )


def transform_batch(
    images: torch.Tensor, transforms: tuple, seed: int, epoch: int, samples: np.ndarray
) -> torch.Tensor:
    """uint8 (B, H, W, 3) after all of `transforms`; picture i is what `apply_transforms` makes of it for samples[i].

    Args:
        samples: (B,) int64, `sample_number` of each.

    Raises:
        ValueError: a transform cannot be done in batches.
    """
    check_transforms(transforms)
    for name, transform in named(transforms):
        draws = uniforms(stream_key(seed, epoch, name), samples, transform.num_draws)  # (B, D)
        plan = torch.from_numpy(transform.plan(draws, *images.shape[1:3]))  # (B, P)
        images = IN_BATCHES[type(transform)](images, _send(plan, images.device), transform)
    return images


def _send(tensor, device):
    """`tensor` on the device, without waiting for what the device does."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


class DeviceLoader:
    """The batches that a loader of `dataset` and `batches` would give, bit for bit, made on the device that holds the data.

    Raises:
        ValueError: the pictures are files, or a transform cannot be done in batches.
    """

    def __init__(
        self,
        dataset: TrainingPictures | EvaluationPictures,
        batches: TrainBatches | EvalBatches,
        *,
        device: torch.device | str,
    ):
        pictures = dataset.pictures
        if pictures.images is None:
            raise ValueError(
                f"{pictures.description}: its pictures are files; only sets in memory can live on a device"
            )
        self.dataset = dataset
        self.batches = batches
        self.device = torch.device(device)
        self.is_training = isinstance(dataset, TrainingPictures)
        images = pictures.images
        if self.is_training:
            check_transforms(dataset.transforms)
        else:
            images = np.stack([prepare_crop(image, dataset.spec)[0] for image in images])
        self.images = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)  # (N, H, W, 3)
        self.labels = torch.from_numpy(pictures.labels).to(self.device)  # (N,)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[ClassificationBatch]:
        for keys in self.batches:
            indices = [key.index for key in keys]
            places = _send(torch.tensor(indices), self.device)
            images, labels, mix = self.images[places], self.labels[places], NO_MIX
            if self.is_training:
                images, mix = self._transform(images, keys)
            yield ClassificationBatch(
                images=images,
                targets=[make_targets(labels, mix)],
                image_ids=[self.dataset.pictures.image_id(index) for index in indices],
                indices=indices,
                skipped=[None] * len(indices),
            )

    def _transform(self, images, keys):
        """(the transformed and mixed pictures, the mix)"""
        dataset, (epoch, batch) = self.dataset, keys[0][:2]
        samples = np.array([sample_number(key) for key in keys])
        images = transform_batch(images, dataset.transforms, dataset.seed, epoch, samples)
        mix = draw_mix(dataset.batch_transforms, dataset.seed, epoch, batch, *images.shape[1:3])
        return mix_images(images, mix), mix
