"""Draws a page of training samples with boxes or classes: exactly those that the training sees, after all its transforms.

  python -m public.test_scripts.show_data detection_experiments/ppyoloe_xs_bccd --data_root data

writes ./ppyoloe_xs_bccd_train_samples.jpg with the first samples of epoch 0, in the order of the training.  Seed, epoch and
index decide every random number, so the page is the same each time; of a run, its own settings are taken.

  --epoch 5                   the first samples of another epoch
  --index 17 --num_images 8   image 17 of the list as it looks in epochs 0 to 7; several images follow each other
  --split val                 pictures as evaluation prepares them, with all objects, also difficult ones and crowds

  python -m public.test_scripts.show_data mine/

shows a folder of data, before there is an experiment: pictures as they lie, evenly from the set, with what is annotated.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from public import commands, drawing
from public.datasets.layouts import KINDS
from public.runs.experiment import is_experiment, load_experiment, open_layout
from public.tasks import classification_samples, data_samples, detection_samples, open_task
from public.tasks.base import BaseTask
from public.tasks.classification import ClassificationTask


def main() -> None:
    parser = commands.make_parser("show_data", __doc__, experiment=None)
    parser.add_argument(
        "experiment", help="an experiment's folder, or a run; or a folder of data, a COCO json, or a data.yaml"
    )
    commands.add_data_root(parser)
    parser.add_argument("--split", default="train", choices=("train", "val"), help="which data set (%(default)s)")
    parser.add_argument("--layout", choices=KINDS, help="of a folder of data: which to take where it holds several")
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


def show(
    arguments: argparse.Namespace,
) -> list[detection_samples.Shown] | list[classification_samples.ShownClass] | list[data_samples.ShownPicture]:
    """Writes the page and prints a line for each sample; returns what it shows."""
    for name in ("num_images", "columns", "side"):
        if getattr(arguments, name) < 1:
            raise ValueError(f"--{name} is {getattr(arguments, name)}, has to be at least 1")
    place = Path(arguments.experiment)
    if place.exists() and not is_experiment(place):
        return _show_folder(place, arguments)
    experiment = load_experiment(place)
    task = open_task(experiment, arguments.data_root, torch.device("cpu"))
    shown, pictures = _page(task, arguments)
    output = arguments.output or Path(f"{experiment.name}_{arguments.split}_samples.jpg")
    drawing.save_image(output, drawing.contact_sheet(pictures, arguments.columns))
    print(f"drawn to {output.resolve()}")
    return shown


def _show_folder(place: Path, arguments: argparse.Namespace) -> list[data_samples.ShownPicture]:
    """Writes the page of a folder of data."""
    layout = open_layout(place, kind=arguments.layout)
    split = arguments.split if len(layout.sets) > 1 else next(iter(layout.sets))
    if split not in layout.sets:
        raise ValueError(f"{place}: there is no {split} part; found: {layout.found}")
    data = layout.sets[split].read(layout.data_root)
    print(f"found: {layout.found}")
    shown = data_samples.pictures_of(data, arguments.num_images, arguments.index, arguments.side)
    for item in shown:
        print(f"index {item.index}, {item.image_id}: {item.text}")
    output = arguments.output or Path(f"{place.resolve().stem}_{split}_samples.jpg")
    drawing.save_image(output, drawing.contact_sheet([item.drawing for item in shown], arguments.columns))
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


if __name__ == "__main__":
    main()
