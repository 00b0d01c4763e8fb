"""Evaluates weights on a data set of their experiment: `./test.sh [weights]` in the experiment's folder.

Settings, batches, precision and threads are those of the run the weights come from, so the digits are those that
training printed.
"""

import argparse
from pathlib import Path

from public import collectives
from public.evaluation.coco import write_coco_json
from public.experiment import find_data_root
from public.test_scripts.weights import find_weights
from public.training import processes
from public.training.checkpoint import digest, load_checkpoint
from public.training.compute import place
from public.training.detection import DetectionTask
from public.training.run_folder import RunFolder


def main() -> None:
    parser = argparse.ArgumentParser(prog="test.sh", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("experiment", help="an experiment's folder, or a run")
    parser.add_argument("weights", nargs="?", help="a checkpoint; without one, best.pth of the (newest) run")
    parser.add_argument("--split", default="val", choices=("train", "val", "test"), help="which data set (val)")
    parser.add_argument("--device", default="auto", help="auto (a GPU where there is one), cpu, cuda, cuda:1")
    parser.add_argument("--data_root", help="folder of the data sets; else $ENCORE_DATA_ROOT, else <repository>/data")
    parser.add_argument("--limit_images", type=int, help="only the first N images; without it, as the run was made")
    parser.add_argument("--output", type=Path, help="detections as COCO json; without it, beside the weights")
    arguments = parser.parse_args()
    try:
        evaluate(arguments)
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error


def evaluate(arguments: argparse.Namespace) -> dict:
    """Prints the report of an evaluation and writes its detections; returns the metrics.

    Started by torchrun, the processes share the images; the digits stay the same.
    """
    experiment, path = find_weights(arguments.experiment, arguments.weights)
    config, split = experiment.config, arguments.split
    device = processes.choose_device(arguments.device)
    checkpoint = load_checkpoint(path)
    limit = arguments.limit_images
    if limit is None and experiment.run is not None:
        limit = RunFolder(experiment.run).manifest["identity"]["limit_images"]
    with processes.process_group(device):
        processes.apply_modes(config, device)
        task = DetectionTask(
            config=config,
            data_root=find_data_root(arguments.data_root),
            device=device,
            limit_images=limit,
            class_names=tuple(checkpoint["class_names"]),
        )
        model = config.detector.build_model()
        model.load_state_dict(checkpoint["model"])
        metrics = task.evaluate(place(model, config, device), split)
        if collectives.rank() == 0:
            print(f"weights {path}, digest {digest(checkpoint['model'])[:16]}")
            print(f"{split}: {task.annotations(split).summary()}")
            print(task.report(metrics))
            output = arguments.output or path.with_name(f"{path.stem}_{split}_detections.json")
            write_coco_json(output, task.annotations(split), task.detections)
            print(f"detections written to {output}")
    return metrics


if __name__ == "__main__":
    main()
