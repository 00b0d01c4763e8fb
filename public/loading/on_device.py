"""A small data set on the device: its batches are gathered, transformed and mixed there, same pixels as by workers."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from public.datasets.sample import sample_number
from public.input import prepare_crop
from public.loading.classification import ClassificationBatch, TrainingPictures, make_targets
from public.loading.samplers import EvalBatches, TrainBatches
from public.transforms.mixing import NO_MIX, draw_mix, mix_images
from public.transforms.on_device import check_transforms, send, transform_batch


class DeviceLoader:
    """The batches that a loader of `dataset` and `batches` would give, bit for bit, made on the device that holds the data.

    Raises:
        ValueError: the pictures are files, or a transform cannot be done in batches.
    """

    def __init__(
        self,
        dataset: Any,  # TrainingPictures or EvaluationPictures
        batches: TrainBatches | EvalBatches,
        *,
        device: torch.device | str,
    ):
        pictures = dataset.pictures
        if pictures.images is None:
            raise ValueError(
                f"{pictures.description}: its pictures are files; only sets in memory can live on a device"
            )
        self.dataset: Any = dataset
        self.batches = batches
        self.device = torch.device(device)
        self.is_training = isinstance(dataset, TrainingPictures)
        images = pictures.images
        if self.is_training:
            check_transforms(self.dataset.transforms)
        else:
            images = np.stack([prepare_crop(image, self.dataset.spec)[0] for image in images])
        self.images = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)  # (N, H, W, 3)
        self.labels = torch.from_numpy(pictures.labels).to(self.device)  # (N,)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[ClassificationBatch]:
        for keys in self.batches:
            indices = [key.index for key in keys]
            places = send(torch.tensor(indices), self.device)
            images, labels, mix = self.images[places], self.labels[places], NO_MIX
            if self.is_training:
                images, mix = self._transform(images, keys)
            yield ClassificationBatch(
                images=images,
                targets=make_targets(labels, mix),
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
