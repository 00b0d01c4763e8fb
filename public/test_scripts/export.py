"""Writes trained weights as files for other runtimes, and proves of each that it gives what the weights give.

    python -m public.test_scripts.export detection_experiments/ppyoloe_s_voc --format onnx -o exported
    python -m public.test_scripts.export runs/<time> --format onnx openvino --outputs detections --evaluate -o exported
    python -m public.test_scripts.export pretrained/yolox_s_coco.pth --format torch --pictures photos/ -o exported

Outputs: "raw" are the network's own; "boxes" are decoded, all of them; "detections" are those after NMS.  A file takes uint8
RGB pictures at the network's size and normalises them itself, or, by --input normalised, what `public.input.normalise` makes.

Each file is opened by its runtime at once and run on pictures of the experiment's val set (of a folder, or drawn) and on
noise.  What differs by more than the bound of its precision is renamed .rejected, and the command ends with status 1.
--evaluate runs the whole val set through the file and through the weights, and prints both figures.  Beside each file lies
<file>.json: what it is, what it was made of, and what was measured.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from public import commands, random_streams
from public.config import ClassificationConfig, replace
from public.datasets.shapes import draw_picture
from public.export.formats import FORMATS, NOT_BUILT, files_of
from public.export.graph import INPUTS, OUTPUTS
from public.export.writing import Request, Written, fixed, reject, write
from public.inference.sources import find_images
from public.inference.subject import Subject, open_subject, source_of
from public.input import read_image
from public.parallel import processes
from public.runs.experiment import find_data_root
from public.tasks import make_task
from public.tasks.detection import DetectionTask

NUM_PICTURES = 8
DRAWN_SIDE = 320  # pixels of a drawn picture


def main() -> None:
    commands.call(export, make_parser().parse_args())


def make_parser() -> argparse.ArgumentParser:
    parser = commands.make_parser("export", __doc__, experiment=None)
    parser.add_argument("experiment", help="an experiment's folder, a run, a checkpoint, or the name of known weights")
    commands.add_weights(parser)
    parser.add_argument(
        "--format", nargs="+", required=True, choices=(*FORMATS, *NOT_BUILT), help=f"of {', '.join(FORMATS)}"
    )
    parser.add_argument("--outputs", choices=OUTPUTS, help="what the file gives (boxes; of a classifier raw)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write into")
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="input in pixels; without it, the experiment's"
    )
    parser.add_argument(
        "--dynamic_size",
        action="store_true",
        help="a file for inputs of any size in multiples of 32 pixels; onnx and openvino",
    )
    parser.add_argument(
        "--batch", default="dynamic", help="images of a call: a number, or dynamic (dynamic; of ncnn 1)"
    )
    parser.add_argument("--precision", default="float32", choices=("float32", "fp16"), help="of the weights (float32)")
    parser.add_argument("--input", choices=INPUTS, help="what the file takes (image; of ncnn normalised)")
    parser.add_argument("--pictures", type=Path, help="folder of pictures to compare on, in place of the val set's")
    parser.add_argument("--evaluate", action="store_true", help="run the val set through the file and the weights")
    parser.add_argument(
        "--max_ap_loss", type=float, default=0.1, help="points that the file's figure may be lower by (0.1)"
    )
    parser.add_argument("--limit_images", type=int, help="with --evaluate: only the first N images")
    commands.add_data_root(parser)
    return parser


def export(arguments: argparse.Namespace) -> list[Written]:
    """Writes and proves the files; returns those that passed.

    Raises:
        SystemExit: a file was rejected (status 1), after all were written.
    """
    subject = open_subject(arguments.experiment, arguments.weights)
    outputs = arguments.outputs or ("raw" if subject.decoder is None else "boxes")
    batch = _batch(arguments.batch)
    keeps = arguments.dynamic_size and not arguments.size  # pictures come out in the sizes of the experiment
    spec = subject.spec if keeps else fixed(subject.spec, tuple(arguments.size) if arguments.size else None)
    pictures, origin = _pictures(arguments, subject)
    source = source_of(subject)
    print(f"{subject.path}, digest {source['digest'][:16]}; {spec.size_text}; compared on {origin}")
    reference = _evaluate(arguments, subject, spec, None) if arguments.evaluate else None
    passed, failed = [], []
    for name in dict.fromkeys(arguments.format):
        request = Request(
            format=name,
            outputs=outputs,
            input_form=arguments.input,
            precision=arguments.precision,
            batch=batch,
            any_size=arguments.dynamic_size,
        )
        path = arguments.output / f"{subject.name}{FORMATS[name].suffix if name in FORMATS else ''}"
        try:
            written = write(
                request,
                path,
                model=subject.model,
                decoder=subject.decoder,
                spec=spec,
                class_names=subject.class_names,
                pictures=pictures,
                source=source,
            )
        except ValueError as error:
            failed.append(str(error))  # the other formats are written all the same
            continue
        problems = _report(written) + _compare(arguments, subject, spec, written, reference)
        if problems:
            failed.append(f"{reject(path)}: {'; '.join(problems)}")
        else:
            passed.append(written)
    if failed:
        raise SystemExit("error: " + "\nerror: ".join(failed))
    return passed


def _batch(text: str) -> int | None:
    if text == "dynamic":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"--batch is {text}; it must be a number from 1, or dynamic")
    return int(text)


def _pictures(arguments: argparse.Namespace, subject: Subject) -> tuple[list[np.ndarray], str]:
    """Pictures to compare on, uint8 RGB, and where they are from."""
    if arguments.pictures:
        paths = find_images(arguments.pictures, recursive=False, leave_out=Path("/nowhere"))[:NUM_PICTURES]
        return [read_image(path) for path in paths], f"{len(paths)} pictures of {arguments.pictures}"
    if subject.experiment is None:
        streams = (random_streams.stream(0, f"export {n}") for n in range(NUM_PICTURES))
        return [draw_picture(stream, DRAWN_SIDE).image for stream in streams], f"{NUM_PICTURES} drawn pictures"
    data = subject.experiment.config.val_data.read(find_data_root(arguments.data_root), None)
    places = np.linspace(0, len(data) - 1, min(len(data), NUM_PICTURES)).round().astype(int).tolist()
    read = getattr(data, "load_picture", lambda i: read_image(data.image_path(i)))
    return [read(i) for i in places], f"{len(places)} pictures of {data.description}"


def _report(written: Written) -> list[str]:
    """Prints how a file came out; what is wrong with it."""
    parity, size = written.parity, sum(file.stat().st_size for file in files_of(written.path))
    print(
        f"{written.path}: {size / 2**20:.1f} MiB, written in {written.measured['seconds_to_write']:.1f} s, "
        f"{written.measured['milliseconds']:.2f} ms an image\n  {parity.line()}"
    )
    for size, entries in written.measured.get("parity_at", {}).items():
        print(
            f"    at {size}: boxes {entries['boxes']}, scores {entries['scores']}, {entries['failures'] or 'within bounds'}"
        )
    if not parity.is_lively:
        print(
            f"  warning: the weights' scores vary by {parity.spread:.2g}, {parity.matched or 0} detections: with so little "
            "to find, equal outputs prove little"
        )
    return parity.failures


def _evaluate(arguments: argparse.Namespace, subject: Subject, spec: Any, written: Written | None) -> dict[str, Any]:
    """Metrics of the weights, on pictures as their experiment prepares them, or of a file, as its card does."""
    if subject.experiment is None:
        raise ValueError("--evaluate needs an experiment's folder or a run, whose val set it is to run on")
    config = subject.experiment.config
    processes.apply_modes(config, torch.device("cpu"))
    task = make_task(
        config if written is None else replace(config, input=spec),
        data_root=find_data_root(arguments.data_root),
        device=torch.device("cpu"),
        limit_images=arguments.limit_images,
        class_names=subject.class_names,
    )
    if written is not None and isinstance(task, DetectionTask):
        task.decoder = written.decoder
    metrics = task.evaluate(subject.model if written is None else written.network)
    who = "weights" if written is None else written.path.name
    print(f"  {who}: {task.summary(metrics)}", flush=True)
    return metrics | {"data": task.data("val").fingerprint(), "images": len(task.data("val"))}


def _compare(
    arguments: argparse.Namespace, subject: Subject, spec: Any, written: Written, reference: dict[str, Any] | None
) -> list[str]:
    """With --evaluate the file's figure beside the weights'; what is wrong with it."""
    if reference is None or subject.experiment is None:
        return []
    metrics = _evaluate(arguments, subject, spec, written)
    name = subject.experiment.config.best_metric
    points = 1 if isinstance(subject.experiment.config, ClassificationConfig) else 100  # accuracies are in percent
    ours, theirs = reference[name], metrics[name]
    written.save(
        evaluation={
            "metric": name,
            "weights": ours,
            "file": theirs,
            "images": metrics["images"],
            "data": metrics["data"],
        }
    )
    if ours is None or theirs is None:
        return [] if ours == theirs else [f"{name} is {theirs}, that of the weights {ours}"]
    loss = points * (ours - theirs)
    print(f"  {name} {points * theirs:.3f}, weights {points * ours:.3f}: {-loss:+.3f} points")
    if not loss <= arguments.max_ap_loss:
        return [f"{name} fell by {loss:.3f} points, --max_ap_loss allows {arguments.max_ap_loss}"]
    return []


if __name__ == "__main__":
    main()
