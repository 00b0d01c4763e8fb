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

import numpy as np
import torch

from public import commands, drawing
from public.runs.experiment import Experiment, find_data_root, load_experiment
from public.runs.run_folder import RunFolder
from public.tasks import classification_samples, detection_samples, make_task
from public.tasks.base import BaseTask
from public.tasks.classification import ClassificationTask


def main() -> None:
    parser = commands.make_parser("show_data", __doc__)
    commands.add_data_root(parser)
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
    commands.add_output(parser, "where to write, .jpg or .png (./<experiment>_<split>_samples.jpg)")
    commands.call(show, parser.parse_args())


def show(arguments: argparse.Namespace) -> list[detection_samples.Shown] | list[classification_samples.ShownClass]:
    """Writes the page and prints a line for each sample; returns what it shows."""
    experiment = load_experiment(arguments.experiment)
    for name in ("num_images", "columns", "side"):
        if getattr(arguments, name) < 1:
            raise ValueError(f"--{name} is {getattr(arguments, name)}, has to be at least 1")
    task = open_task(experiment, arguments.data_root)
    shown, pictures = _page(task, arguments)
    output = arguments.output or Path(f"{experiment.name}_{arguments.split}_samples.jpg")
    drawing.save_image(output, drawing.contact_sheet(pictures, arguments.columns))
    print(f"drawn to {output.resolve()}")
    return shown


def _page(task: BaseTask, arguments: argparse.Namespace) -> tuple[list, list[np.ndarray]]:
    """What is shown, each with a line about it, and the pictures."""
    samples = classification_samples if isinstance(task, ClassificationTask) else detection_samples
    if arguments.split == "train":
        shown = samples.training_samples(task, arguments.epoch, arguments.num_images, arguments.index)
    else:
        shown = samples.evaluation_samples(task, arguments.num_images, arguments.index)
    for item in shown:
        print(samples.describe(item, task, arguments.split))
        if item.skipped:
            print(f"  {item.skipped}")
    return shown, [samples.picture(item, task, arguments) for item in shown]


def open_task(experiment: Experiment, data_root: str | None) -> BaseTask:
    """The task that training would make of the experiment; a run's images are limited as they were."""
    limit = RunFolder(experiment.run).manifest["identity"]["limit_images"] if experiment.run else None
    return make_task(
        experiment.config,
        data_root=find_data_root(data_root),
        device=torch.device("cpu"),
        limit_images=limit,
    )


if __name__ == "__main__":
    main()
