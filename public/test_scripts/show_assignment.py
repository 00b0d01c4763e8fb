"""Draws which points of a detector learn which object, level by level, as its loss decides it in training.

  python -m public.test_scripts.show_assignment detection_experiments/ppyoloe_xs_shapes --images 4

writes ./ppyoloe_xs_shapes_assignment.png: a row a picture with its numbered objects, the number of points that learn each,
and a panel a level: discs in the colour of their object, white rings where a point is ignored, faint dots on background.
The same numbers are printed as tables.  Pictures are the first training samples of an epoch, after all their transforms.

  --untrained      random initial weights; else those that are named, or best.pth of the newest run, or, where there is
                   none, the weights that training starts from
  --epoch 5        whose samples and whose rule are taken, as losses change with the epoch; with best.pth or named weights
                   the last epoch, else 0
  --split val      pictures as evaluation prepares them, with the objects that training would use
  --index 17 42    images 17 and 42 of the list

The network is run one picture at a time, with the outputs that it has in training, but by the stored statistics of its
BatchNorm and without dropout, so that what a picture shows does not depend on the others of its page.
"""

import argparse
import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from public import commands, drawing
from public.checkpoint_files import load_checkpoint
from public.config import ClassificationConfig, replace
from public.datasets.sample import Sample
from public.inference.places import find_weights
from public.inference.trained import build_trained
from public.loading.detection import collate
from public.losses.assigners.assignment import Matches
from public.parallel import processes
from public.precision import autocast, place
from public.protocols import Progress
from public.reports.assignments import SIGNS, count_points, draw_assignment, format_counts, spacings
from public.reports.titles import titled
from public.runs.experiment import Experiment, load_experiment
from public.runs.run_folder import newest_weights
from public.tasks import open_task
from public.tasks.detection import DetectionTask
from public.tasks.detection_samples import evaluation_samples, training_samples
from public.training.run import build_state


class ShownAssignment(NamedTuple):
    """One picture of the page: the sample as the network got it, and what its points learn (a batch of one)."""

    sample: Sample
    matches: Matches
    counts: np.ndarray  # of `count_points`


def main() -> None:
    parser = commands.make_parser("show_assignment", __doc__)
    parser.add_argument("weights", nargs="?", help="a checkpoint; without one, best.pth of the newest run, if any")
    parser.add_argument("--images", type=int, default=4, metavar="N", help="pictures of the page (%(default)s)")
    parser.add_argument("--untrained", action="store_true", help="take random initial weights")
    parser.add_argument("--epoch", type=int, metavar="E", help="epoch, from 0 (of trained weights the last)")
    parser.add_argument("--split", default="train", choices=("train", "val"), help="which data set (%(default)s)")
    parser.add_argument("--index", type=int, nargs="+", metavar="I", help="positions in the data set, from 0")
    parser.add_argument(
        "--side", type=int, default=400, metavar="PX", help="longer side of a panel, in pixels (%(default)s)"
    )
    commands.add_device(parser)
    commands.add_data_root(parser)
    commands.add_output(parser, "where to write, .png or .jpg (./<experiment>_assignment.png)")
    commands.call(show, parser.parse_args())


def show(arguments: argparse.Namespace) -> list[ShownAssignment]:
    """Writes the page and prints the tables; returns what they show."""
    for name in ("images", "side"):
        if getattr(arguments, name) < 1:
            raise ValueError(f"--{name} is {getattr(arguments, name)}, has to be at least 1")
    experiment, weights = _find(arguments)
    config = replace(experiment.config, detector=experiment.config.used_settings)  # of a student without its teacher
    if arguments.untrained:
        config = replace(config, starting_weights=None)
    experiment = dataclasses.replace(experiment, config=config)
    task = open_task(experiment, arguments.data_root, processes.choose_device(arguments.device))
    assert isinstance(task, DetectionTask), "_find refuses classifiers"
    if not hasattr(task.loss, "matches"):
        raise ValueError(
            f"{type(task.loss).__name__} of {arguments.experiment} does not say what its points learn: it has no matches()"
        )
    model, told = _network(task, weights)
    epoch = arguments.epoch if arguments.epoch is not None else task.config.epochs - 1 if weights else 0
    progress = _progress(task, epoch)
    task.on_epoch(model, epoch)
    shown = [_matched(sample, task, model, progress) for sample in _samples(task, arguments, epoch)]
    head = f"{experiment.name}, epoch {epoch}, {told}: {task.loss.assigner_name(progress)}"
    print(head)
    rows = []
    for item in shown:
        sample = item.sample
        columns = spacings(item.matches, sample.image.shape[:2])
        print(f"\n{sample.image_id}, {sample.image.shape[1]} x {sample.image.shape[0]}")
        print(format_counts(item.counts, sample.boxes, sample.labels, task.class_names, columns))
        given: Any = (sample.image, sample.boxes, sample.labels, task.class_names, item.matches, 0)
        rows.append(draw_assignment(*given, side=arguments.side, title=str(sample.image_id)))
    width = max(row.shape[1] for row in rows)
    page = drawing.contact_sheet([_widened(row, width) for row in rows], 1)
    output = arguments.output or Path(f"{experiment.name}_assignment.png")
    drawing.save_image(output, titled(page, [head, SIGNS], side=1, longest=max(page.shape[:2])))
    print(f"\ndrawn to {output.resolve()}")
    return shown


def _find(arguments: argparse.Namespace) -> tuple[Experiment, Path | None]:
    """The experiment, and its weights; None: those that training starts from."""
    if arguments.untrained and arguments.weights:
        raise ValueError(f"--untrained and the weights {arguments.weights} do not go together; leave one out")
    experiment = load_experiment(arguments.experiment)
    if isinstance(experiment.config, ClassificationConfig):
        raise ValueError(f"{arguments.experiment} classifies images: it has no points that learn objects")
    if arguments.untrained or (arguments.weights is None and newest_weights(experiment) is None):
        return experiment, None
    return find_weights(arguments.experiment, arguments.weights)


def _network(task: DetectionTask, weights: Path | None) -> tuple[nn.Module, str]:
    """The network, whose composed modules are in train mode and whose layers are not, and what it holds, in words."""
    if weights is None:
        model = build_state(task.config, task.device, task.class_names)[0].model
        told = f"starting weights {task.config.starting_weights}" if task.config.starting_weights else "untrained"
    else:
        built = build_trained(weights, load_checkpoint(weights), task.config.network_settings)
        model, told = place(built, task.device, channels_last=task.config.channels_last), weights.name
    model.train()
    for module in model.modules():
        if not any(True for _ in module.children()):
            module.eval()
    return model, told


def _progress(task: DetectionTask, epoch: int) -> Progress:
    epochs, steps = task.config.epochs, task.num_train_images // task.config.batch_size
    if not 0 <= epoch < epochs:
        raise ValueError(f"--epoch {epoch}: the training has epochs 0 to {epochs - 1}")
    return Progress(epoch, epoch * steps, 0, epochs, steps)


def _samples(task: DetectionTask, arguments: argparse.Namespace, epoch: int) -> list[Sample]:
    """The samples of the page, without objects that training leaves out."""
    if arguments.split == "train":
        count = 1 if arguments.index else arguments.images  # of an image named by its index: in this epoch alone
        return [item.sample for item in training_samples(task, epoch, count, arguments.index)]
    samples = [item.sample for item in evaluation_samples(task, arguments.images, arguments.index)]
    for sample in samples:
        is_trained = ~sample.crowd
        if not task.annotations("train").use_difficult:
            is_trained &= ~sample.difficult
        sample.boxes, sample.labels = sample.boxes[is_trained], sample.labels[is_trained]
    return samples


def _widened(row: np.ndarray, width: int) -> np.ndarray:
    """`row` with white on its right."""
    white = np.full((row.shape[0], width - row.shape[1], 3), drawing.BACKGROUND, dtype=np.uint8)
    return np.concatenate([row, white], axis=1)


@torch.no_grad()
def _matched(sample: Sample, task: DetectionTask, model: nn.Module, progress: Progress) -> ShownAssignment:
    batch = collate([sample], task.config.input).to(task.device)
    with autocast(task.config.precision, task.device):
        outputs = model(task.inputs(batch))
    matches = task.loss.matches(outputs, batch.targets, progress)
    sample.image = batch.images[0].cpu().numpy()
    return ShownAssignment(sample, matches, count_points(matches, 0, len(sample.boxes)))


if __name__ == "__main__":
    main()
