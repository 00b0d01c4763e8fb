"""Evaluates weights on a data set of their experiment: `./test.sh [weights]` in the experiment's folder.

Settings, batches, precision and threads are those of the run the weights come from, so the digits are those that
training printed.  Beside the weights it writes, of a detector,

    <weights>_<split>_detections.json       the detections, as a COCO results file
    <weights>_<split>_evaluation/           precision over recall, confusion matrix, a table of the classes, and the
                                            images in which most went wrong (public/reports/detection.py)

and of a classifier

    <weights>_<split>_evaluation/           every prediction, a table of the classes, and the images in which most went
                                            wrong (public/reports/classification.py)

The weights may be an exported file as well (python -m public.test_scripts.export): it runs in its own runtime on the CPU, on
pictures prepared as its card says.

Example: ./test.sh runs/20260101-120000/best.pth --split test
"""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from public import commands
from public.checkpoint_files import digest, load_checkpoint
from public.config import ClassificationConfig, TrainingConfig, replace
from public.evaluation.coco import write_coco_json
from public.export.card import Card
from public.inference import exported
from public.inference.places import find_weights
from public.inference.trained import build_trained
from public.parallel import collectives, processes
from public.precision import place
from public.reports.classification import write_class_report
from public.reports.detection import write_report
from public.runs.experiment import find_data_root
from public.runs.run_folder import RunFolder
from public.tasks import make_task
from public.tasks.base import BaseTask
from public.tasks.classification import ClassificationTask
from public.tasks.detection import DetectionTask


def main() -> None:
    parser = commands.make_parser("evaluate", __doc__)
    commands.add_weights(parser)
    parser.add_argument("--split", default="val", choices=("train", "val", "test"), help="which data set (val)")
    commands.add_device(parser)
    commands.add_data_root(parser)
    parser.add_argument("--limit_images", type=int, help="only the first N images; without it, as the run was made")
    commands.add_output(parser, "detections as COCO json; without it, beside the weights")
    parser.add_argument("--no_report", action="store_true", help="only the digits, and a detector's detections")
    parser.add_argument(
        "--report", type=Path, help="folder of curves, tables and pictures; without it, beside the weights"
    )
    parser.add_argument(
        "--score_threshold",
        type=float,
        help="of a detector's confusion matrix and worst images; without it, the one with the best F1 over all classes",
    )
    parser.add_argument("--num_worst", type=int, default=12, help="how many of the worst images are drawn (12)")
    commands.call(evaluate, parser.parse_args())


def evaluate(arguments: argparse.Namespace) -> dict:
    """Prints the report of an evaluation and writes its files; returns the metrics.

    Started by torchrun, the processes share the images; the digits stay the same.
    """
    if arguments.num_worst < 0:
        raise ValueError(f"--num_worst is {arguments.num_worst}; it must be at least 0")
    experiment, path = find_weights(arguments.experiment, arguments.weights)
    config, split = experiment.config, arguments.split
    _check_options(config, arguments)
    device = processes.choose_device("cpu" if exported.is_exported(path) else arguments.device)
    opened = _open(path, config, arguments.device)
    limit = arguments.limit_images
    if limit is None and experiment.run is not None:
        limit = RunFolder(experiment.run).manifest["identity"]["limit_images"]
    with processes.process_group(device):
        processes.apply_modes(config, device)
        task = make_task(
            config if opened.spec is None else replace(config, input=opened.spec),
            data_root=find_data_root(arguments.data_root),
            device=device,
            limit_images=limit,
            class_names=opened.class_names,
        )
        if opened.decoder is not None and isinstance(task, DetectionTask):
            task.decoder = opened.decoder
        metrics = task.evaluate(place(opened.model, device, channels_last=config.channels_last), split)
        if collectives.rank() == 0:
            print(f"weights {path}, {opened.digest}")
            print(f"{split}: {task.data(split).summary()}")
            print(task.report(metrics), flush=True)
            _write(task, split, path, arguments)
    return metrics


class Opened(NamedTuple):
    """Weights, or an exported file, that are to be evaluated."""

    model: nn.Module
    class_names: tuple[str, ...]
    digest: str  # of the weights, in words
    spec: Any  # by which a file prepares pictures; None: as the configuration says
    decoder: Any  # of a file that finds objects


def _open(path: Path, config: TrainingConfig, device: str) -> Opened:
    if exported.is_exported(path):
        found = exported.load(path, device)
        card: Card = found.model.card  # type: ignore[assignment]  # an ExportedNetwork
        if (card.kind == "classifier") != isinstance(config, ClassificationConfig):
            raise ValueError(f"{path} is the file of a {card.kind}, which the experiment does not train")
        made_of = f"an exported file ({card.format}) of weights with digest {card.source.get('digest', '?')[:16]}"
        return Opened(found.model, found.class_names, made_of, found.spec, getattr(found, "decoder", None))
    checkpoint = load_checkpoint(path)
    if "class_names" not in checkpoint:
        raise ValueError(f"{path} lacks class_names: those of a run have them, such as its best.pth")
    model = build_trained(path, checkpoint, config.used_settings)
    return Opened(model, tuple(checkpoint["class_names"]), f"digest {digest(checkpoint['model'])[:16]}", None, None)


def _check_options(config, arguments: argparse.Namespace) -> None:
    """Refuses what only a detector's evaluation knows."""
    if isinstance(config, ClassificationConfig):
        for name in ("output", "score_threshold"):
            if getattr(arguments, name) is not None:
                raise ValueError(f"--{name} belongs to detections; {arguments.experiment} classifies images")


def _write(task: BaseTask, split: str, weights: Path, arguments: argparse.Namespace) -> None:
    """The files of an evaluation, and where they are."""
    folder = arguments.report or weights.with_name(f"{_stem(weights)}_{split}_evaluation")
    if isinstance(task, DetectionTask):
        _write_detections(task, split, weights, folder, arguments)
    elif isinstance(task, ClassificationTask) and task.found is not None and not arguments.no_report:
        text = write_class_report(folder, task.data(split), task.found, num_worst=arguments.num_worst)
        print(f"\n{text}\npredictions, classes and worst images written to {folder}")


def _stem(weights: Path) -> str:
    """How the files of an evaluation begin; those of best.onnx are not those of best.pth."""
    return weights.name if exported.is_exported(weights) else weights.stem


def _write_detections(
    task: DetectionTask, split: str, weights: Path, folder: Path, arguments: argparse.Namespace
) -> None:
    annotations = task.annotations(split)
    output = arguments.output or weights.with_name(f"{_stem(weights)}_{split}_detections.json")
    write_coco_json(output, annotations, task.detections)
    print(f"detections written to {output}")
    if not any(len(image.scores) for image in task.detections):
        print(
            "nothing was found in any image: the file is an empty list, which COCO.loadRes of pycocotools cannot open"
        )
    if arguments.no_report:
        return
    text = write_report(
        folder,
        annotations,
        task.detections,
        score_threshold=arguments.score_threshold,
        num_worst=arguments.num_worst,
    )
    print(f"\n{text}\ncurves, confusion matrix, tables and worst images written to {folder}")


if __name__ == "__main__":
    main()
