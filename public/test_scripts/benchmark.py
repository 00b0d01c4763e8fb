"""Measures how fast a network is: latency and images a second of each part, and from picture to boxes or classes.

    python -m public.test_scripts.benchmark detection_experiments/ppyoloe_s_voc best.pth --image photos/ --fuse --bf16
    python -m public.test_scripts.benchmark ppyoloe_s --shape 640 640 --batch_sizes 1 8 32 --device cuda
    python -m public.test_scripts.benchmark resnet50 --batch_sizes 1 32

Parts, each timed by itself:
  prepare     pictures in memory to the network's size, on the CPU
  forward     normalised images on the device to raw outputs, without NMS
  nms         raw outputs to boxes and scores, and non-maximum suppression; a classifier has none
  end to end  all of it: pictures in memory to boxes in their pixels, or to the five best classes, the copies to the
              device and normalising included

After --warmup calls, --repeats calls are timed one by one, and the GPU is waited for before each look at the clock.  Of
a call p10, median and p90 are printed in milliseconds; images a second are of the median.

NMS takes the longer the more there is to find.  Without weights the network finds nothing that means anything, and
with random pixels nothing that is there: then the time of NMS, and with it the end to end, says nothing about a trained
detector.  The command says so, and prints how many objects there were.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import nn

from public import commands, random_streams
from public.decoders.dense import clips_to_picture
from public.evaluation.topk import TOP, best_classes
from public.files import write_text
from public.inference.exported import is_exported
from public.inference.places import Network, find_network, open_any
from public.inference.sources import find_images
from public.input import (
    ClassificationInput,
    Geometry,
    InputSpec,
    inputs_of,
    prepare,
    prepare_crop,
    read_image,
    stack,
    to_image,
)
from public.models.fuse import fuse
from public.parallel.processes import choose_device
from public.precision import place
from public.runs.experiment import find_data_root

PLAIN_INPUT = InputSpec(  # of a published network without an experiment: which numbers scale the pixels costs no time
    size=(1, 1),
    resize="stretch",
    interpolation="linear",
    padding=0,
    color_order="rgb",
    scale=1 / 255,
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
)
PLAIN_CROP = ClassificationInput(  # the same of a published classifier
    size=(1, 1),
    shorter_side=1,
    interpolation="linear",
    color_order="rgb",
    scale=1 / 255,
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
)
FOR_NETWORKS = ("shape", "fuse", "bf16", "channels_last", "compile")  # flags that an exported file knows nothing of
MAX_IMAGES = 64  # read of a folder or data set


class Timing(NamedTuple):
    """One part with one batch size; milliseconds of a call, images a second of the median."""

    batch_size: int
    part: str
    p10: float
    median: float
    p90: float
    images_per_second: float


class Subject(NamedTuple):
    """What is timed, and what a line of the report says about it."""

    model: Callable[[torch.Tensor], Any]
    decoder: Any  # outputs -> detections; None: a classifier
    spec: InputSpec | ClassificationInput
    device: torch.device
    is_bf16: bool
    memory_format: torch.memory_format


def main() -> None:
    commands.call(benchmark, make_parser().parse_args())


def make_parser() -> argparse.ArgumentParser:
    parser = commands.make_parser("benchmark", __doc__, experiment=None)
    parser.add_argument(
        "network", help="an experiment's folder, a run, a checkpoint.pth, an exported file, or a published name"
    )
    parser.add_argument("weights", nargs="?", help="a checkpoint; without one, a network's weights are random")
    parser.add_argument("--image", type=Path, help="an image or a folder of them to measure on")
    commands.add_data_root(parser)
    parser.add_argument("--val_images", action="store_true", help="measure on the experiment's validation images")
    parser.add_argument(
        "--shape", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="input in pixels; without it, the experiment's"
    )
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 8], help="images at once (1 8)")
    parser.add_argument("--fuse", action="store_true", help="re-parameterise the network first")
    parser.add_argument("--bf16", action="store_true", help="compute the forward in bfloat16, by autocast")
    parser.add_argument("--channels_last", action="store_true", help="keep tensors in channels-last order")
    parser.add_argument("--compile", action="store_true", help="compile the network by torch.compile, in the warm-up")
    parser.add_argument("--threads", type=int, help="compute threads; without it, those of torch on this machine")
    parser.add_argument("--warmup", type=int, default=5, help="calls before the clock is looked at (5)")
    parser.add_argument("--repeats", type=int, default=30, help="timed calls of each part (30)")
    parser.add_argument("--json", type=Path, help="write the numbers here as well")
    commands.add_device(parser)
    return parser


def benchmark(arguments: argparse.Namespace) -> list[Timing]:
    """Prints the table; returns its rows."""
    _check(arguments)
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    subject, network, checkpoint = open_subject(arguments)
    pictures, origin = _pictures(arguments, network, subject.spec)
    conditions = describe(arguments, subject)
    print(f"{arguments.network}: {conditions}\nweights: {checkpoint or 'random'}; images: {origin}")
    timings = []
    print(f"{'batch':>5}  {'part':<10} {'p10 ms':>9} {'median ms':>9} {'p90 ms':>9} {'images/s':>9}")
    for batch_size in arguments.batch_sizes:
        batch = [pictures[i % len(pictures)] for i in range(batch_size)]
        parts, num_found = parts_of(subject, batch)
        for part, function in parts.items():
            seconds = time_calls(function, arguments.warmup, arguments.repeats, subject.device)
            timings.append(summarise(batch_size, part, seconds))
            print(_line(timings[-1]), flush=True)
        if subject.decoder:
            print(f"{'':>5}  {num_found / batch_size:.1f} objects an image come out of NMS")
    if subject.decoder and (checkpoint is None or not (arguments.image or arguments.val_images)):
        print(
            "without trained weights and real images the times of nms and end to end mean nothing for a real detector"
        )
    if arguments.json:
        _write_json(arguments.json, arguments.network, conditions, checkpoint, origin, timings)
        print(f"written to {arguments.json.resolve()}")
    return timings


def _check(arguments: argparse.Namespace) -> None:
    lowest = {"repeats": 1, "warmup": 0, "threads": 1}
    values = [(name, getattr(arguments, name), least) for name, least in lowest.items()]
    values += [("batch_sizes", size, 1) for size in arguments.batch_sizes]
    values += [("shape", side, 1) for side in arguments.shape or ()]
    for name, value, least in values:
        if value is not None and value < least:
            raise ValueError(f"--{name} is {value}; it must be at least {least}")
    if any(is_exported(name or "") for name in (arguments.network, arguments.weights)):
        given = [f"--{name}" for name in FOR_NETWORKS if getattr(arguments, name)]
        if given:
            raise ValueError(f"{', '.join(given)} belongs to networks of torch; an exported file is as it was written")
    if arguments.image and arguments.val_images:
        raise ValueError("--image and --val_images both name images to measure on; leave one out")


def open_subject(arguments: argparse.Namespace) -> tuple[Subject, Network | None, Path | None]:
    """The network as the options want it, where it comes from (None: a checkpoint alone), and its weights (None: random)."""
    device = choose_device(arguments.device)
    is_checkpoint = Path(arguments.network).is_file()
    network = None if is_checkpoint else find_network(arguments.network)
    if is_checkpoint or arguments.weights is not None:
        if network is not None and network.experiment is None:
            raise ValueError(
                f"weights of {network.name} are measured by naming the checkpoint in place of {network.name}"
            )
        found_by, checkpoint = open_any(arguments.network, arguments.weights, arguments.device)
        model, decoder, spec = found_by.model, getattr(found_by, "decoder", None), found_by.spec
    else:
        random_streams.seed_torch(0, "model")
        assert network is not None
        model, checkpoint = network.settings.build_model(), None
        decoder = None if network.is_classifier else network.settings.build_decoder()
        plain = _resized(PLAIN_CROP if network.is_classifier else PLAIN_INPUT, network.size(arguments.shape))
        spec = network.spec or plain
    spec = _resized(spec, tuple(arguments.shape)) if arguments.shape else spec
    memory_format = torch.channels_last if arguments.channels_last else torch.contiguous_format
    model = fuse(model) if arguments.fuse else model.eval()
    model = place(model.requires_grad_(False), device, channels_last=arguments.channels_last)
    if arguments.compile:
        model = cast(nn.Module, torch.compile(model))
    return (
        Subject(model, decoder, spec, device, arguments.bf16, memory_format),
        network,
        checkpoint,
    )


def _resized(spec: InputSpec | ClassificationInput, size: tuple[int, int]) -> InputSpec | ClassificationInput:
    """`spec` for inputs of another size; what a classifier cuts off keeps its share.

    A rule by which pictures come out in several sizes gives way to stretching.
    """
    if isinstance(spec, InputSpec):
        fixed = spec if spec.multiple is None else replace(spec, resize="stretch", padding=0)
        return replace(fixed, size=size)
    return replace(spec, size=size, shorter_side=max(*size, spec.shorter_side * max(size) // max(spec.size)))


def _pictures(
    arguments: argparse.Namespace, network: Network | None, spec: InputSpec | ClassificationInput
) -> tuple[list[np.ndarray], str]:
    """Pictures to measure on, uint8 RGB, and where they are from."""
    if arguments.image:
        paths = find_images(arguments.image, recursive=False, leave_out=Path("/nowhere"))[:MAX_IMAGES]
        return [read_image(path) for path in paths], f"{len(paths)} of {arguments.image}"
    if arguments.val_images:
        if network is None or network.experiment is None:
            raise ValueError(f"--val_images needs an experiment's folder or a run, which {arguments.network} is not")
        annotations = network.experiment.config.val_data.read(find_data_root(arguments.data_root), None)
        count = min(len(annotations), MAX_IMAGES)
        read = getattr(annotations, "load_picture", lambda i: read_image(annotations.image_path(i)))
        return [read(i) for i in range(count)], f"{count} of {annotations.description}"
    pixels = random_streams.stream(0, "benchmark").integers(0, 256, (*spec.size, 3), dtype=np.uint8)
    return [pixels], "random pixels of the network's size"


def parts_of(subject: Subject, pictures: list[np.ndarray]) -> tuple[dict[str, Callable[[], Any]], int]:
    """The parts as functions without arguments, and how many objects a detector finds in all pictures."""
    batch, geometries = _prepared(subject, pictures)
    images = _normalised(subject, batch, geometries)
    parts = {"prepare": lambda: _prepared(subject, pictures), "forward": lambda: _forward(subject, images)}
    if subject.decoder is None:
        return parts | {"end to end": lambda: classify_all(subject, pictures)}, 0
    outputs = _forward(subject, images)
    parts["nms"] = lambda: subject.decoder(outputs)
    parts["end to end"] = lambda: detect_all(subject, pictures)
    return parts, sum(len(found["scores"]) for found in detect_all(subject, pictures))


def detect_all(subject: Subject, pictures: list[np.ndarray]) -> list[dict]:
    """Detections in pixels of the pictures, on the CPU."""
    batch, geometries = _prepared(subject, pictures)
    outputs = _forward(subject, _normalised(subject, batch, geometries))
    found = subject.decoder(outputs, [geometry.region for geometry in geometries])
    detections = to_image(found, geometries, clip=clips_to_picture(subject.decoder))
    return [{key: found[key].cpu() for key in ("boxes", "scores", "labels")} for found in detections]


def classify_all(subject: Subject, pictures: list[np.ndarray]) -> torch.Tensor:
    """The best classes of each picture (B, 5), on the CPU."""
    return best_classes(_forward(subject, _normalised(subject, *_prepared(subject, pictures))).float(), TOP)[0].cpu()


def _prepared(subject: Subject, pictures: list[np.ndarray]) -> tuple[np.ndarray, list[Geometry]]:
    """One batch of all pictures, and their geometries; unequal ones are padded as in an evaluation."""
    if isinstance(subject.spec, InputSpec):
        prepared, geometries = zip(*(prepare(picture, subject.spec) for picture in pictures))
        return stack(prepared, subject.spec), list(geometries)
    prepared, geometries = zip(*(prepare_crop(picture, subject.spec) for picture in pictures))
    return np.stack(prepared), list(geometries)


def _normalised(subject: Subject, batch: np.ndarray, geometries: list[Geometry]) -> Any:
    regions = [geometry.region for geometry in geometries]
    images = inputs_of(subject.model, torch.from_numpy(batch).to(subject.device), subject.spec, regions)
    return images.contiguous(memory_format=subject.memory_format) if torch.is_tensor(images) else images


@torch.inference_mode()
def _forward(subject: Subject, images: Any) -> Any:
    with torch.autocast(subject.device.type, dtype=torch.bfloat16, enabled=subject.is_bf16):
        return subject.model(images)


def time_calls(function: Callable[[], Any], warmup: int, repeats: int, device: torch.device) -> list[float]:
    """Seconds of each of `repeats` calls, after `warmup` others; work on a GPU is waited for."""
    for _ in range(warmup):
        function()
    seconds = []
    for _ in range(repeats):
        _wait(device)
        start = time.perf_counter()
        function()
        _wait(device)
        seconds.append(time.perf_counter() - start)
    return seconds


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def summarise(batch_size: int, part: str, seconds: list[float]) -> Timing:
    p10, median, p90 = np.percentile(seconds, [10, 50, 90]).tolist()
    return Timing(batch_size, part, 1000 * p10, 1000 * median, 1000 * p90, batch_size / median)


def describe(arguments: argparse.Namespace, subject: Subject) -> str:
    """The conditions that decide the numbers."""
    is_gpu = subject.device.type == "cuda"
    where = torch.cuda.get_device_name(subject.device) if is_gpu else platform.processor() or platform.machine()
    parts = [
        subject.spec.size_text,
        f"{subject.device} ({where})",
        f"{torch.get_num_threads()} threads",
        "bf16" if subject.is_bf16 else "float32",
        *(name for name in ("fuse", "channels_last", "compile") if getattr(arguments, name)),
        f"torch {torch.__version__}",
        f"{arguments.repeats} calls after {arguments.warmup}",
    ]
    return ", ".join(parts)


def _line(timing: Timing) -> str:
    return (
        f"{timing.batch_size:>5}  {timing.part:<10} {timing.p10:>9.2f} {timing.median:>9.2f} {timing.p90:>9.2f} "
        f"{timing.images_per_second:>9.1f}"
    )


def _write_json(path: Path, name: str, conditions: str, checkpoint: Path | None, origin: str, timings: list) -> None:
    value = {
        "network": name,
        "conditions": conditions,
        "weights": str(checkpoint) if checkpoint else None,
        "images": origin,
        "timings": [timing._asdict() for timing in timings],
    }
    write_text(path, json.dumps(value, indent=1))


if __name__ == "__main__":
    main()
