"""Draws a page of training samples with boxes or classes: exactly those that the training sees, after all its transforms.

  python -m public.test_scripts.show_data detection_experiments/ppyoloe_xs_bccd --data_root data

writes ./ppyoloe_xs_bccd_train_samples.jpg with the first samples of epoch 0, in the order of the training.  Seed, epoch and
index decide every random number, so the page is the same each time; of a run, its own settings are taken.

  --epoch 5                   the first samples of another epoch
  --index 17 --num_images 8   image 17 of the list as it looks in epochs 0 to 7; several images follow each other
  --split val                 pictures as evaluation prepares them, with all objects, also difficult ones and crowds
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch

from public import drawing
from public.datasets.loader import DetectionDataset, EvaluationDataset, TrainBatches, load_sample
from public.datasets.sample import Sample, SampleKey
from public.experiment import Experiment, find_data_root, load_experiment
from public.test_scripts import class_samples, cli
from public.training.classification import ClassificationTask
from public.training.detection import DetectionTask
from public.training.run_folder import RunFolder
from public.training.task import Task
from public.training.tasks import make_task


class Shown(NamedTuple):
    """One picture of the page."""

    key: SampleKey
    sample: Sample


def main() -> None:
    parser = cli.make_parser("show_data", __doc__)
    cli.add_data_root(parser)
    parser.add_argument("--split", default="train", choices=("train", "val"), help="which data set (%(default)s)")
    parser.add_argument("--epoch", type=int, default=0, metavar="E", help="epoch, from 0 (%(default)s)")
    parser.add_argument("--num_images", type=int, default=16, metavar="N", help="pictures of the page (%(default)s)")
    parser.add_argument(
        "--index",
        type=int,
        nargs="+",
        metavar="I",
        help="positions in the data set, from 0: each of these images in N epochs from E on (val: once)",
    )
    parser.add_argument("--originals", action="store_true", help="show the untouched picture beside each sample")
    parser.add_argument(
        "--columns", type=int, default=4, metavar="N", help="pictures, or pairs, in a row (%(default)s)"
    )
    parser.add_argument(
        "--side", type=int, default=400, metavar="PX", help="longer side of a picture on the page (%(default)s)"
    )
    cli.add_output(parser, "where to write, .jpg or .png (./<experiment>_<split>_samples.jpg)")
    cli.call(show, parser.parse_args())


def show(arguments: argparse.Namespace) -> list[Shown] | list[class_samples.ShownClass]:
    """Writes the page and prints a line for each sample; returns what it shows."""
    experiment = load_experiment(arguments.experiment)
    for name in ("num_images", "columns", "side"):
        if getattr(arguments, name) < 1:
            raise ValueError(f"--{name} is {getattr(arguments, name)}, has to be at least 1")
    task = open_task(experiment, arguments.data_root)
    if isinstance(task, ClassificationTask):
        shown, pictures = _class_page(task, arguments)
    else:
        shown, pictures = _page(task, arguments)
    output = arguments.output or Path(f"{experiment.name}_{arguments.split}_samples.jpg")
    drawing.save_image(output, drawing.contact_sheet(pictures, arguments.columns))
    print(f"drawn to {output.resolve()}")
    return shown


def _page(task: DetectionTask, arguments: argparse.Namespace) -> tuple[list[Shown], list[np.ndarray]]:
    """What is shown, each with a line about it, and the pictures."""
    if arguments.split == "train":
        shown = training_samples(task, arguments.epoch, arguments.num_images, arguments.index)
    else:
        shown = evaluation_samples(task, arguments.num_images, arguments.index)
    pictures = []
    for item in shown:
        print(describe(item, arguments.split))
        if item.sample.skipped:
            print(f"  {item.sample.skipped}")
        pictures.append(_picture(item, task, arguments))
    return shown, pictures


def _class_page(
    task: ClassificationTask, arguments: argparse.Namespace
) -> tuple[list[class_samples.ShownClass], list[np.ndarray]]:
    """The same of classification."""
    if arguments.split == "train":
        shown = class_samples.training_samples(task, arguments.epoch, arguments.num_images, arguments.index)
    else:
        shown = class_samples.evaluation_samples(task, arguments.num_images, arguments.index)
    for item in shown:
        print(class_samples.describe(item, task, arguments.split))
        if item.skipped:
            print(f"  {item.skipped}")
    return shown, [class_samples.picture(item, task, arguments) for item in shown]


def open_task(experiment: Experiment, data_root: str | None) -> Task:
    """The task that training would make of the experiment; a run's images are limited as they were."""
    limit = RunFolder(experiment.run).manifest["identity"]["limit_images"] if experiment.run else None
    return make_task(
        experiment.config,
        data_root=find_data_root(data_root),
        device=torch.device("cpu"),
        limit_images=limit,
    )


# ------------------------------------------------------------------------------------------------- samples


def training_samples(task: DetectionTask, epoch: int, num_images: int, indices: list[int] | None) -> list[Shown]:
    """The first `num_images` samples of an epoch; with `indices`, those images in `num_images` epochs from it on.

    An image that an epoch leaves out, because it does not fill a batch, is left out here.

    Raises:
        ValueError: the training has no such epoch, or the data set no such image.
    """
    if not 0 <= epoch < task.config.epochs:
        raise ValueError(f"--epoch {epoch}: the training has epochs 0 to {task.config.epochs - 1}")
    _check_indices(indices, task.num_train_images)
    epochs, dataset = range(epoch, task.config.epochs), _dataset(task)
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


def _dataset(task):
    """The data set as `DetectionTask.train_batches` makes it; a test holds them together."""
    config = task.config
    return DetectionDataset(
        task.annotations("train"),
        transforms=config.train_transforms,
        batch_transforms=config.batch_transforms,
        seed=config.seed,
        on_bad_sample=config.on_bad_sample,
    )


def _keys(task, epoch):
    """The keys of an epoch's samples in the order of training, of all processes together."""
    steps = task.num_train_images // task.config.batch_size
    batches = TrainBatches(
        num_images=task.num_train_images,
        batch_size=task.config.batch_size,
        seed=task.config.seed,
        first_step=epoch * steps,
        num_steps=(epoch + 1) * steps,
        rank=0,
        world_size=1,
    )
    return [key for batch in batches for key in batch]


def evaluation_samples(task: DetectionTask, num_images: int, indices: list[int] | None) -> list[Shown]:
    """Images of the validation set as the evaluation prepares them: the first, or those of `indices`."""
    annotations = task.annotations("val")
    _check_indices(indices, len(annotations))
    dataset = EvaluationDataset(annotations, spec=task.config.input, on_bad_sample=task.config.on_bad_sample)
    chosen = range(min(num_images, len(annotations))) if indices is None else dict.fromkeys(indices)
    keys = [SampleKey(0, index // task.config.evaluation_batch_size, index) for index in chosen]
    return [Shown(key, dataset[key]) for key in keys]


def _check_indices(indices, num_images):
    for index in indices or ():
        if not 0 <= index < num_images:
            raise ValueError(f"--index {index}: the data set has images 0 to {num_images - 1}")


# ------------------------------------------------------------------------------------------------ pictures


def describe(shown: Shown, split: str) -> str:
    """One line: which image, which batch, its size now and its objects."""
    sample, key = shown.sample, shown.key
    place = f"epoch {key.epoch}, batch {key.batch}, " if split == "train" else ""
    size = f"{sample.width} x {sample.height} -> {sample.image.shape[1]} x {sample.image.shape[0]}"
    return f"{place}index {key.index}, {sample.image_id}: {size}, {len(sample.boxes)} objects"


def _picture(shown, task, arguments):
    """The sample, drawn and named; with --originals beside what it was made of."""
    key, sample = shown
    place = f"epoch {key.epoch}, index {key.index}" if arguments.split == "train" else f"index {key.index}"
    picture = _drawn(sample, task.class_names, arguments.side)
    title = f"{place}: {sample.image.shape[1]} x {sample.image.shape[0]}"
    has_original = arguments.split == "train" or not sample.skipped  # what evaluation skips cannot be read
    if not (arguments.originals and has_original):
        return _titled(picture, (str(sample.image_id), title))
    original = load_sample(task.annotations(arguments.split), sample.index)
    left = _titled(_drawn(original, task.class_names, arguments.side), (str(sample.image_id), _size_text(original)))
    right = _titled(picture, ("", title))
    height = max(left.shape[0], right.shape[0])
    return np.concatenate([_padded(left, height), _padded(right, height)], axis=1)


def _size_text(sample):
    return f"original: {sample.width} x {sample.height}"


def _drawn(sample, class_names, side):
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


def _titled(picture, lines):
    """`picture` under lines of text, which shrink to its width."""
    width = picture.shape[1]
    scale, height = 0.5, 18
    longest = max(cv2.getTextSize(line, drawing.FONT, scale, 1)[0][0] for line in lines)
    scale *= min(1, (width - 4) / max(longest, 1))
    strip = np.full((height * len(lines) + 4, width, 3), drawing.BACKGROUND, dtype=np.uint8)
    for number, line in enumerate(lines, start=1):
        cv2.putText(strip, line, (2, number * height - 4), drawing.FONT, scale, drawing.INK, 1, cv2.LINE_AA)
    return np.concatenate([strip, picture])


def _padded(picture, height):
    """`picture` with white below it to `height`, and a white edge on its right."""
    return cv2.copyMakeBorder(
        picture, 0, height - picture.shape[0], 0, 4, cv2.BORDER_CONSTANT, value=drawing.BACKGROUND
    )


if __name__ == "__main__":
    main()
