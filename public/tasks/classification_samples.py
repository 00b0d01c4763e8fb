"""The pages of `show_data` for classification: samples under the names of their classes."""

import argparse
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np

from public.datasets.sample import SampleKey
from public.reports.titles import titled
from public.tasks.classification import ClassificationTask


class ShownClass(NamedTuple):
    """One picture of the page."""

    epoch: int
    batch: int
    index: int  # type: ignore[assignment]  # a tuple's own `index` is hidden
    image: np.ndarray  # (H, W, 3) uint8, as the network gets it before it is normalised
    text: str  # its class, or the two of a mixture
    skipped: str | None


def training_samples(
    task: ClassificationTask, epoch: int, num_images: int, indices: list[int] | None
) -> list[ShownClass]:
    """The first `num_images` samples of an epoch; with `indices`, those images in `num_images` epochs from it on.

    Whole batches are made, since a batch transform mixes the pictures of one batch.

    Raises:
        ValueError: the training has no such epoch, or the data set no such image.
    """
    if not 0 <= epoch < task.config.epochs:
        raise ValueError(f"--epoch {epoch}: the training has epochs 0 to {task.config.epochs - 1}")
    _check_indices(indices, task.num_train_images)
    epochs = range(epoch, task.config.epochs)
    if indices is None:
        shown = []
        for number in epochs:  # more than one only if the page wants more than an epoch holds
            for sample in _samples(task, number, None):
                shown.append(sample)
                if len(shown) == num_images:
                    return shown
        return shown
    found = {}
    for number in epochs[:num_images]:
        here = {}
        for sample in _samples(task, number, set(indices)):
            here.setdefault(sample.index, sample)  # of repeated copies the first
        for index in dict.fromkeys(indices):
            if index in here:
                found[index, number] = here[index]
            else:
                print(f"image {index} is not shown in epoch {number}: it is among those that do not fill a batch")
    return [found[name] for index in dict.fromkeys(indices) for name in found if name[0] == index]


def _samples(task: ClassificationTask, epoch: int, indices: set[int] | None) -> Iterator[ShownClass]:
    """The samples of an epoch in the order of training; with `indices`, only those of these images."""
    steps = task.num_train_images // task.config.batch_size
    keys_of_batches = task.train_keys(first_step=epoch * steps, num_steps=(epoch + 1) * steps)
    for number, keys in enumerate(keys_of_batches):
        wanted = [place for place, key in enumerate(keys) if indices is None or key.index in indices]
        if not wanted:
            continue
        step = epoch * steps + number
        (batch,) = task.train_batches(first_step=step, num_steps=step + 1)
        texts = task.target_texts(batch)
        for place in wanted:
            image = batch.images[place].cpu().numpy()
            yield ShownClass(epoch, number, keys[place].index, image, texts[place], batch.skipped[place])


def evaluation_samples(task: ClassificationTask, num_images: int, indices: list[int] | None) -> list[ShownClass]:
    """Images of the validation set as the evaluation prepares them: evenly from the set, or those of `indices`."""
    data = task.data("val")
    _check_indices(indices, len(data))
    dataset = task.evaluation_dataset("val")
    shown = []
    for index in data.evenly(num_images).tolist() if indices is None else dict.fromkeys(indices):
        sample = dataset[SampleKey(0, index // task.config.evaluation_batch_size, index)]
        shown.append(
            ShownClass(0, sample.key.batch, index, sample.image, task.class_names[sample.label], sample.skipped)
        )
    return shown


def _check_indices(indices, num_images):
    for index in indices or ():
        if not 0 <= index < num_images:
            raise ValueError(f"--index {index}: the data set has images 0 to {num_images - 1}")


def describe(shown: ShownClass, task: ClassificationTask, split: str) -> str:
    """One line: which image, which batch, its size now and its class."""
    place = f"epoch {shown.epoch}, batch {shown.batch}, " if split == "train" else ""
    size = f"{shown.image.shape[1]} x {shown.image.shape[0]}"
    return f"{place}index {shown.index}, {task.data(split).image_id(shown.index)}: {size}, {shown.text}"


def picture(shown: ShownClass, task: ClassificationTask, arguments: argparse.Namespace) -> np.ndarray:
    """The sample, named; with --originals beside what it was made of."""
    data = task.data(arguments.split)
    place = f"epoch {shown.epoch}, index {shown.index}" if arguments.split == "train" else f"index {shown.index}"
    drawn = titled(scaled(shown.image, arguments.side), [shown.text, place], side=1, longest=arguments.side)
    if not arguments.originals or shown.skipped:
        return drawn
    original = titled(
        scaled(data.load_picture(shown.index), arguments.side),
        [task.class_names[data.labels[shown.index]], data.image_id(shown.index)],
        side=1,
        longest=arguments.side,
    )
    height = max(original.shape[0], drawn.shape[0])
    white = (255, 255, 255)
    parts = [
        cv2.copyMakeBorder(part, 0, height - part.shape[0], 0, 4, cv2.BORDER_CONSTANT, value=white)
        for part in (original, drawn)
    ]
    return np.concatenate(parts, axis=1)


def scaled(image: np.ndarray, side: int) -> np.ndarray:
    """`image` with its longer side `side` pixels; enlarged pixels stay what they are."""
    scale = side / max(image.shape[:2])
    size = tuple(max(1, round(length * scale)) for length in image.shape[1::-1])
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)
