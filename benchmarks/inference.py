"""Times a detector as the runtimes compute it, in turns: eager, fused channels-last, and its exported files.

    python -m benchmarks.inference [ppyoloe_s yolox_s picodet_s_416] [--rounds 15] [--clock cpu] [--size 640]
        [--formats onnx openvino ncnn] [--folder FOLDER]

One image a call, one thread, float32.  Weights are random with outputs that vary (`public.export.lively`); the threshold lies
so that 300 scores are above it, as in a usual picture with many candidates.  Every round times every way once, in turns, so
that what else the machine does meets all of them; medians, and the median of each round's ratio to plain eager.

  prepare     a drawn picture of 640 x 480 to the network's size; the same for all
  forward     normalised image, of a file the pixels, to outputs; of a file with decoding and normalising in it
  nms         outputs to detections
  end to end  picture to detections in its pixels

The first call, with opening the file, is taken in a forked process of its own, and so is the memory: by how much the process
has grown at its peak (VmHWM, Linux), its runtime's libraries included, torch's not.  --clock cpu counts the time that a
processor worked for this process, which other processes disturb less than the clock on the wall.
"""

import argparse
import ctypes
import gc
import importlib
import os
import pickle
import platform
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from public import random_streams
from public.datasets.shapes import draw_picture
from public.export.formats import FORMATS, files_of, make_decoder, open_network
from public.export.lively import make_lively
from public.export.writing import Request, write
from public.families import published
from public.input import normalise, prepare
from public.models.fuse import fuse
from public.precision import place
from public.test_scripts.benchmark import PLAIN_INPUT, Subject, detect_all, parts_of

SIDES = {"picodet_s_416": 416}  # pixels; the others 640
CANDIDATES = 300
LIMITS = {"yolox_s": 0.70, "picodet_s_416": 0.50}  # of plain eager, end to end, by the best runtime
CLOCKS = {"cpu": time.process_time, "wall": time.perf_counter}
EAGER, FUSED = "eager", "fused, channels-last"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=["ppyoloe_s", "yolox_s", "picodet_s_416"], help="published names")
    parser.add_argument("--formats", nargs="*", default=["onnx", "openvino", "ncnn"], choices=tuple(FORMATS))
    parser.add_argument("--size", type=int, help="side of the input in pixels, in place of 640, of PicoDet 416")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--clock", default="cpu", choices=tuple(CLOCKS))
    parser.add_argument(
        "--folder", type=Path, help="where exported files are kept, and taken from where they lie there"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    importlib.import_module("torchvision.ops")  # whose import takes seconds, which the first NMS of a process would pay
    print(f"{cpu_name()}; torch {torch.__version__}, one thread, medians of {options.rounds} rounds in turns,", end=" ")
    print(f"{options.clock} time, with {os.getloadavg()[0]:.1f} processes at work on {os.cpu_count()} cores")
    print("\n| network | way | forward | nms | end to end | to eager | first call | MiB of file | MiB of memory |")
    print("| --- " * 9 + "|")
    for name in options.names:
        with tempfile.TemporaryDirectory() as folder:
            measure(name, options, options.folder or Path(folder))


def measure(name: str, options: argparse.Namespace, folder: Path) -> None:
    """Prints the rows of one network."""
    model, decoder, spec, picture = subject_of(name, options.size or SIDES.get(name, 640))
    openers: dict[str, tuple[Callable[[], Subject], list[Path]]] = {
        EAGER: (lambda: of_torch(model, decoder, spec, is_fused=False), []),
        FUSED: (lambda: of_torch(model, decoder, spec, is_fused=True), []),
    }
    for form in options.formats:
        path = folder / f"{name}_{spec.size[0]}{FORMATS[form].suffix}"
        request = Request(format=form, outputs="boxes", input_form=None, precision="float32", batch=1)
        if not path.is_file():
            run_aside(partial(export, request, path, model, decoder, spec, picture))
        openers[form] = (lambda p=path: of_file(p, spec), files_of(path))
    firsts = {
        way: run_aside(lambda o=opener: first_call(o, picture, options.clock)) for way, (opener, _) in openers.items()
    }
    subjects = {way: opener() for way, (opener, _) in openers.items()}
    parts = {way: parts_of(subject, [picture])[0] for way, subject in subjects.items()}
    seconds = in_turns(parts, options.rounds, CLOCKS[options.clock])
    whole = {way: seconds[way]["end to end"] for way in seconds}
    ratios = {way: statistics.median(a / b for a, b in zip(whole[way], whole[EAGER])) for way in whole}
    for way, times in seconds.items():
        cells = [f"{1000 * statistics.median(times[part]):.1f} ms" for part in ("forward", "nms", "end to end")]
        first, memory = firsts[way]
        size = sum(file.stat().st_size for file in openers[way][1]) / 2**20
        cells += [f"{ratios[way]:.2f}", f"{1000 * first:.0f} ms", f"{size:.1f}" if size else "", f"{memory:.0f}"]
        print(f"| {name} {spec.size[0]} | {way} | {' | '.join(cells)} |", flush=True)
    prepared = statistics.median(time for times in seconds.values() for time in times["prepare"])
    best = min(ratios[way] for way in options.formats or [FUSED])
    wanted = f", wanted at most {LIMITS[name]:.2f}" if name in LIMITS else ""
    print(f"{name}: prepare {1000 * prepared:.1f} ms; best runtime {best:.2f} of eager{wanted}\n", flush=True)


def export(request: Request, path: Path, model: Any, decoder: Any, spec: Any, picture: np.ndarray) -> None:
    names = tuple(str(label) for label in range(80))
    write(request, path, model=model, decoder=decoder, spec=spec, class_names=names, pictures=[picture], source={})


def subject_of(name: str, side: int) -> tuple[torch.nn.Module, Any, Any, np.ndarray]:
    """The network, its decoder with a threshold that CANDIDATES scores are above, its input, and a picture."""
    spec = replace(PLAIN_INPUT, size=(side, side))
    picture = draw_picture(random_streams.stream(0, "inference"), 640).image[:480]
    settings = published(name)
    random_streams.seed_torch(0, "model")
    model = make_lively(settings.build_model(), spec, [picture])
    images = normalise(torch.from_numpy(prepare(picture, spec)[0])[None], spec)
    decoder = settings.build_decoder()
    with torch.no_grad():
        scores = decoder.decode(model(images))[1].flatten()
    threshold = float(scores.sort(descending=True).values[CANDIDATES])
    return model, replace(settings, score_threshold=threshold).build_decoder(), spec, picture


def of_torch(model: torch.nn.Module, decoder: Any, spec: Any, *, is_fused: bool) -> Subject:
    device, layout = torch.device("cpu"), torch.channels_last if is_fused else torch.contiguous_format
    ready = place((fuse(model) if is_fused else model.eval()).requires_grad_(False), device, channels_last=is_fused)
    return Subject(ready, decoder, spec, device, False, layout)


def of_file(path: Path, spec: Any) -> Subject:
    network = open_network(path)
    return Subject(network, make_decoder(network.card), spec, torch.device("cpu"), False, torch.contiguous_format)


def in_turns(parts: dict[str, dict[str, Callable]], rounds: int, clock: Callable) -> dict[str, dict[str, list[float]]]:
    """Seconds of each part of each way: way -> part -> one a round, after a round that is not counted."""
    seconds: dict[str, dict[str, list[float]]] = {way: {part: [] for part in own} for way, own in parts.items()}
    for number in range(rounds + 1):
        for way, own in parts.items():
            for part, function in own.items():
                start = clock()
                function()
                if number:
                    seconds[way][part].append(clock() - start)
    return seconds


def first_call(opener: Callable[[], Subject], picture: np.ndarray, clock: str) -> tuple[float, float]:
    """Seconds from nothing to the first detections, and MiB by which the process had grown at its peak."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was free before is not to make room
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    before, start = memory("VmRSS"), CLOCKS[clock]()
    detect_all(opener(), [picture])
    return CLOCKS[clock]() - start, memory("VmHWM") - before


def memory(name: str) -> float:
    """MiB of this process: "VmRSS", now; "VmHWM", at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 2**10


def run_aside(function: Callable[[], Any]) -> Any:
    """What `function` returns in a forked process, which leaves nothing in this one."""
    reader, writer = os.pipe()
    if not (child := os.fork()):
        code = 1
        try:
            result = pickle.dumps(function())
            with os.fdopen(writer, "wb") as stream:
                stream.write(result)
            code = 0
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        content = stream.read()
    if os.waitpid(child, 0)[1]:
        raise SystemExit("error: a part of the measurement failed, see above")
    return pickle.loads(content)


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
