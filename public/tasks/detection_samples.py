"""The pages of `show_data` for detection: samples with their boxes."""

import argparse
from typing import NamedTuple

import cv2
import numpy as np

from public import drawing
from public.datasets.pictures import load_sample
from public.datasets.sample import Sample, SampleKey
from public.lettering import fitting_height, write
from public.tasks.detection import DetectionTask

TEXT_HEIGHT, SMALLEST_TEXT, LINE_HEIGHT = 11, 5, 18  # pixels; the first two of a capital letter


class Shown(NamedTuple):
    """One picture of the page."""

    key: SampleKey
    sample: Sample

    @property
    def skipped(self) -> str | None:
        return self.sample.skipped


def training_samples(task: DetectionTask, epoch: int, num_images: int, indices: list[int] | None) -> list[Shown]:
    """The first `num_images` samples of an epoch; with `indices`, those images in `num_images` epochs from it on.

    An image that an epoch leaves out, because it does not fill a batch, is left out here.

    Raises:
        ValueError: the training has no such epoch, or the data set no such image.
    """
    if not 0 <= epoch < task.config.epochs:
        raise ValueError(f"--epoch {epoch}: the training has epochs 0 to {task.config.epochs - 1}")
    _check_indices(indices, task.num_train_images)
    epochs, dataset = range(epoch, task.config.epochs), task.train_dataset()
    if indices is None:
        shown = []
        for number in epochs:  # more than one only if the page wants more than an epoch holds
            shown += [Shown(key, dataset[key]) for key in _keys(task, number)[: num_images - len(shown)]]
            if len(shown) == num_images:
                break
        return shown
    found = {}
    for number in epochs[:num_images]:
        by_index = {key.index: key for key in _keys(task, number)}
        for index in indices:
            if index in by_index:
                found[index, number] = Shown(by_index[index], dataset[by_index[index]])
            else:
                print(f"image {index} is not shown in epoch {number}: it is among those that do not fill a batch")
    return [found[name] for index in dict.fromkeys(indices) for name in found if name[0] == index]


def _keys(task, epoch):
    """The keys of an epoch's samples in the order of training."""
    steps = task.num_train_images // task.config.batch_size
    batches = task.train_keys(first_step=epoch * steps, num_steps=(epoch + 1) * steps)
    return [key for batch in batches for key in batch]


def evaluation_samples(task: DetectionTask, num_images: int, indices: list[int] | None) -> list[Shown]:
    """Images of the validation set as the evaluation prepares them: the first, or those of `indices`."""
    annotations = task.annotations("val")
    _check_indices(indices, len(annotations))
    dataset = task.evaluation_dataset("val")
    chosen = range(min(num_images, len(annotations))) if indices is None else dict.fromkeys(indices)
    keys = [SampleKey(0, index // task.config.evaluation_batch_size, index) for index in chosen]
    return [Shown(key, dataset[key]) for key in keys]


def _check_indices(indices, num_images):
    for index in indices or ():
        if not 0 <= index < num_images:
            raise ValueError(f"--index {index}: the data set has images 0 to {num_images - 1}")


def describe(shown: Shown, task: DetectionTask, split: str) -> str:
    """One line: which image, which batch, its size now and its objects."""
    sample, key = shown.sample, shown.key
    place = f"epoch {key.epoch}, batch {key.batch}, " if split == "train" else ""
    size = f"{sample.width} x {sample.height} -> {sample.image.shape[1]} x {sample.image.shape[0]}"
    return f"{place}index {key.index}, {sample.image_id}: {size}, {len(sample.boxes)} objects"


def picture(shown: Shown, task: DetectionTask, arguments: argparse.Namespace) -> np.ndarray:
    """The sample, drawn and named; with --originals beside what it was made of."""
    key, sample = shown
    place = f"epoch {key.epoch}, index {key.index}" if arguments.split == "train" else f"index {key.index}"
    drawn = draw_sample(sample, task.class_names, arguments.side)
    title = f"{place}: {sample.image.shape[1]} x {sample.image.shape[0]}"
    has_original = arguments.split == "train" or not sample.skipped  # what evaluation skips cannot be read
    if not (arguments.originals and has_original):
        return with_title(drawn, (str(sample.image_id), title))
    original = load_sample(task.annotations(arguments.split), sample.index)
    left = with_title(
        draw_sample(original, task.class_names, arguments.side), (str(sample.image_id), _size_text(original))
    )
    right = with_title(drawn, ("", title))
    height = max(left.shape[0], right.shape[0])
    return np.concatenate([_padded(left, height), _padded(right, height)], axis=1)


def _size_text(sample):
    return f"original: {sample.width} x {sample.height}"


def draw_sample(sample, class_names, side):
    """The picture with its boxes, its longer side `side` pixels; difficult objects and crowds are named as such."""
    height, width = sample.image.shape[:2]
    scale = side / max(height, width)
    new_width, new_height = max(1, round(width * scale)), max(1, round(height * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST  # enlarged pixels stay what they are
    image = cv2.resize(sample.image, (new_width, new_height), interpolation=method)
    boxes = sample.boxes * np.array([new_width / width, new_height / height] * 2)
    kinds = np.where(sample.crowd, 2, np.where(sample.difficult, 1, 0))
    names = [f"{name}{kind}" for kind in ("", " (difficult)", " (crowd)") for name in class_names]
    return drawing.draw_detections(image, boxes, sample.labels + kinds * len(class_names), names)


def with_title(picture, lines):
    """`picture` under lines of text, which shrink to its width."""
    width = picture.shape[1]
    height = fitting_height(lines, width - 4, TEXT_HEIGHT, SMALLEST_TEXT, is_bold=False)
    strip = np.full((LINE_HEIGHT * len(lines) + 4, width, 3), drawing.BACKGROUND, dtype=np.uint8)
    for number, line in enumerate(lines, start=1):
        write(strip, line, (2, number * LINE_HEIGHT - 4), height, drawing.INK, is_bold=False)
    return np.concatenate([strip, picture])


def _padded(picture, height):
    """`picture` with white below it to `height`, and a white edge on its right."""
    return cv2.copyMakeBorder(
        picture, 0, height - picture.shape[0], 0, 4, cv2.BORDER_CONSTANT, value=drawing.BACKGROUND
    )
