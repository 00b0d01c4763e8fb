"""Makes an int8 file of trained weights, and says whether it is worth having: AP, milliseconds and bytes beside float.

    python -m public.test_scripts.quantise detection_experiments/ppyoloe_xs_bccd best.pth --runtime openvino -o quantised
    python -m public.test_scripts.quantise runs/<time> --runtime onnxruntime --calibration 64 --max_ap_loss 0.5 -o quantised

Ranges come from pictures of the experiment's training set, drawn by a seeded stream and prepared as the network's input is;
the card in the file names them.  The same command gives the same scales, bit for bit.  The convolutions that the outputs
are made of, distances and decoding stay float; --int8_outputs quantises these convolutions too, for accelerators that
know nothing but int8.  Where the val set loses more than --max_ap_loss points of AP (of
classification: of the metric that chooses the best), the layers are ranked by the error that each causes alone, and the
worst go back to float, a group at a time, until it does not.  Pictures that decide this flatter: --judge_on val --split
test decides by one set and measures on another.

ONNX Runtime has int8 kernels only where what a convolution gives is quantised as well, by one range, and none with a
range for each channel of what comes in: depthwise convolutions stay float there.

The command ends with status 5 where int8 is not faster on this machine: keep float.
"""

import argparse
import time
from dataclasses import replace as with_changes
from pathlib import Path
from typing import Any

import torch

from public import commands
from public.config import ClassificationConfig, replace
from public.export import openvino_file
from public.export.calibration import Calibrated, draw_pictures
from public.export.card import write_beside
from public.export.formats import FORMATS, files_of, make_decoder, open_network
from public.export.packages import need
from public.export.post_training import (
    RUNTIMES,
    Bound,
    Returned,
    Variant,
    Writer,
    calibrated_layers,
    in_turns,
    sentence,
    table,
    within_bound,
)
from public.export.runners.network import ExportedNetwork
from public.export.writing import Request, fixed, write
from public.inference.subject import Subject, open_subject, source_of
from public.input import inputs_of, read_image
from public.parallel import processes
from public.runs.experiment import find_data_root
from public.tasks import make_task
from public.tasks.base import BaseTask
from public.tasks.detection import DetectionTask

NOT_FASTER = 5  # exit status
SPLITS = ("train", "val", "test")
ROUNDS = 50  # turns of the timing
NUM_COMPARED = 8  # calibration pictures on which layers are compared


def main() -> None:
    found: Any = commands.call(quantise, make_parser().parse_args())
    if not found[1]:
        raise SystemExit(NOT_FASTER)


def make_parser() -> argparse.ArgumentParser:
    parser = commands.make_parser("quantise", __doc__)
    commands.add_weights(parser)
    parser.add_argument("--runtime", required=True, choices=tuple(RUNTIMES), help="whose int8 kernels it is for")
    parser.add_argument("--calibration", type=int, default=64, help="pictures of the training set (64)")
    parser.add_argument("--seed", type=int, default=0, help="of the stream that draws them (0)")
    parser.add_argument(
        "--max_ap_loss", type=float, default=0.5, help="points that the file's figure may be lower by (0.5)"
    )
    parser.add_argument(
        "--float_layers", nargs="*", default=[], help="layers that stay float, by the beginning of names"
    )
    parser.add_argument(
        "--int8_outputs", action="store_true", help="the convolutions that the outputs are made of, in int8 too"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write into")
    parser.add_argument("--split", default="val", choices=SPLITS, help="the set of the table's figures (val)")
    parser.add_argument(
        "--judge_on", choices=SPLITS, help="the set that says when enough layers are float (as --split)"
    )
    parser.add_argument("--limit_images", type=int, help="evaluate on the first N images only")
    commands.add_data_root(parser)
    return parser


def quantise(arguments: argparse.Namespace) -> tuple[list[Variant], bool]:
    """Writes float and int8 file and prints the table; the two variants, and whether int8 is the faster one."""
    need(RUNTIMES[arguments.runtime].replace("onnx", "onnxruntime"), RUNTIMES[arguments.runtime])
    subject = open_subject(arguments.experiment, arguments.weights)
    if subject.experiment is None:
        raise ValueError("quantise needs an experiment's folder or a run, whose training and val set it uses")
    config = subject.experiment.config
    spec = fixed(subject.spec, None)
    processes.apply_modes(config, torch.device("cpu"))
    task = make_task(
        replace(config, input=spec),
        data_root=find_data_root(arguments.data_root),
        device=torch.device("cpu"),
        limit_images=None,
        class_names=subject.class_names,
    )
    pictures = draw_pictures(task.data("train"), arguments.calibration, arguments.seed, spec)
    print(f"{subject.path}, calibrated on {len(pictures.ids)} pictures, digest {pictures.digest[:16]}", flush=True)
    plain_path, onnx_path = _write_float(arguments, subject, spec, task)
    task.limit_images, task._sets = arguments.limit_images, {}
    return _compare(arguments, subject, task, pictures, plain_path, onnx_path)


def _write_float(arguments: argparse.Namespace, subject: Subject, spec: Any, task: BaseTask) -> tuple[Path, Path]:
    """The float file for the runtime, and the ONNX file that it and the int8 one are made from."""
    data: Any = task.data("val")
    read = getattr(data, "load_picture", None)
    request = Request(
        format="onnx",
        outputs="raw" if subject.decoder is None else "boxes",
        input_form="image",
        precision="float32",
        batch=None,
    )
    written = write(
        request,
        arguments.output / f"{subject.name}.onnx",
        model=subject.model,
        decoder=subject.decoder,
        spec=spec,
        class_names=subject.class_names,
        pictures=[read(0) if read else read_image(data.image_path(0))],
        source=source_of(subject),
    )
    if written.parity.failures:
        raise ValueError(f"{written.path} does not give what its weights give: {'; '.join(written.parity.failures)}")
    if arguments.runtime == "onnxruntime":
        return written.path, written.path
    path = written.path.with_suffix(".xml")
    card = with_changes(written.card, format="openvino")
    openvino_file.convert(written.path, path, card=card.text(), precision="float32")
    write_beside(path, card, files_of(path), {})
    return path, written.path


def _compare(
    arguments: argparse.Namespace, subject: Subject, task: BaseTask, pictures: Any, plain_path: Path, onnx_path: Path
) -> tuple[list[Variant], bool]:
    is_ort = arguments.runtime == "onnxruntime"
    plain = open_network(plain_path)
    start = time.perf_counter()
    calibrated = Calibrated(
        subject.model,
        pictures.images,
        float_layers=tuple(arguments.float_layers),
        float_last=not arguments.int8_outputs,
        with_outputs=is_ort,
        with_depthwise=not is_ort,
    )
    print(f"calibrated {len(calibrated.layers)} layers in {time.perf_counter() - start:.0f} s", flush=True)
    judge = arguments.judge_on or arguments.split
    unit = 1.0 if isinstance(task.config, ClassificationConfig) else 100.0
    metrics = _evaluate(task, plain, judge)
    metric = "AP" if "AP" in metrics else task.config.best_metric
    print(f"float, {judge}: {task.summary(metrics)}", flush=True)
    if metrics[metric] is None:
        raise ValueError(f"the {judge} set has nothing of which {metric} can be measured")
    bound = Bound(metric=metric, reference=metrics[metric], points=arguments.max_ap_loss, unit=unit)
    path = plain_path.with_name(f"{subject.name}_int8{FORMATS[RUNTIMES[arguments.runtime]].suffix}")
    options = {"seed": arguments.seed, "runtime": arguments.runtime}
    writer = Writer(onnx_path, path, card=plain.card, pictures=pictures, options=options, runtime=arguments.runtime)

    def write_and_evaluate(back: frozenset[str]) -> dict[str, Any]:
        found = _evaluate(task, writer.write(*calibrated_layers(calibrated, back)), judge)
        print(f"int8, {len(calibrated.layers) - len(back)} layers, {judge}: {task.summary(found)}", flush=True)
        return found

    judged, back, steps = within_bound(calibrated.errors(NUM_COMPARED), bound, write_and_evaluate)
    _report(steps)
    networks = [plain, open_network(path)]
    found = [metrics, judged] if judge == arguments.split else [_evaluate(task, n, arguments.split) for n in networks]
    counts = [0, len(calibrated.layers) - len(back)]
    inputs = inputs_of(plain, torch.zeros(1, *plain.card.size or (), 3, dtype=torch.uint8), plain.card.input, None)
    variants = [
        Variant(name=name, path=file, metrics=values, layers=count, milliseconds=speed)
        for name, file, values, count, speed in zip(
            ("float", "int8"), (plain_path, path), found, counts, in_turns(networks, inputs, ROUNDS)
        )
    ]
    is_faster = _tell(variants, metric, unit, arguments.split, len(calibrated.layers) + len(calibrated.kept))
    if bound.loss(judged) > bound.points:
        raise ValueError(
            f"all layers are float again, and {metric} on {judge} is still lower by {bound.loss(judged):.2f} points"
        )
    return variants, is_faster


def _tell(variants: list[Variant], metric: str, unit: float, split: str, num_layers: int) -> bool:
    """Prints the table and the sentence; whether int8 is the faster one."""
    wanted = (metric, "AP50", "voc_AP50", "top5_accuracy")
    names = [(name, unit) for name in dict.fromkeys(wanted) if name in variants[0].metrics]
    print(f"\non {split}:\n{table(variants, names, num_layers)}")
    told, is_faster = sentence(variants[0], variants[1], metric, unit)
    print(told, flush=True)
    return is_faster


def _evaluate(task: BaseTask, network: ExportedNetwork, split: str) -> dict[str, Any]:
    if isinstance(task, DetectionTask):
        task.decoder = make_decoder(network.card)
    return task.evaluate(network, split)


def _report(steps: list[Returned]) -> None:
    """The layers that went back, by the error that each caused."""
    for step in steps:
        for name, error in step.layers:
            print(f"  back to float: {name}, error {error:.4f}")
        print(f"  then {step.loss:.2f} points less than float")


if __name__ == "__main__":
    main()
