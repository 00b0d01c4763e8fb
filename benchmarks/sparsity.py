"""What zeros among the weights buy: a pruned network beside the dense one it came from, in each runtime, in turns.

    python -m benchmarks.sparsity DENSE PRUNED [--formats onnx openvino executorch] [--rounds 30] [--int8 DENSE PRUNED]

DENSE and PRUNED are runs, or files of weights, of the same network; --int8 names the two files that `quantise --runtime
openvino` made of them, float or not.  One picture a call, one thread, the network alone; medians, and the
median of each round's ratio.  "openvino, sparse" asks OpenVINO's CPU plugin to pack weights with many zeros
(CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE), which its documentation promises for matrix products alone.
"""

import argparse
import functools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.figures import figure
from public import random_streams
from public.datasets.shapes import draw_picture
from public.export.formats import FORMATS, open_network
from public.export.packages import openvino_core
from public.export.writing import Request, fixed, write
from public.inference.subject import Subject, open_subject
from public.input import inputs_of, normalise, prepare
from public.models.fuse import fuse

PACKING = "CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE"
RATE = 0.5  # share of zeros from which OpenVINO is asked to pack


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dense")
    parser.add_argument("pruned")
    parser.add_argument("--formats", nargs="*", default=["onnx", "openvino"], choices=tuple(FORMATS))
    parser.add_argument("--int8", nargs=2, type=Path, metavar=("DENSE", "PRUNED"), help="int8 files of OpenVINO")
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    subjects = [open_subject(place, None) for place in (arguments.dense, arguments.pruned)]
    zeros = [share_of_zeros(subject.model) for subject in subjects]
    print(
        f"weights of convolutions that are 0: {100 * zeros[0]:.1f} % of the dense, {100 * zeros[1]:.1f} % of the pruned"
    )
    with tempfile.TemporaryDirectory() as folder:
        for way, pair in ways(subjects, Path(folder), arguments).items():
            dense, pruned = in_turns(pair, arguments.rounds)
            print(
                f"{way}: dense {1e3 * statistics.median(dense):.2f} ms, pruned {1e3 * statistics.median(pruned):.2f} ms"
            )
            ratio = statistics.median(b / a for a, b in zip(dense, pruned))
            figure(f"a pruned network in {way}", ratio, "of the time", peer="the dense one")


def share_of_zeros(model: nn.Module) -> float:
    weights = [module.weight.detach().flatten() for module in model.modules() if isinstance(module, nn.Conv2d)]
    return float((torch.cat(weights) == 0).float().mean())


def ways(subjects: list[Subject], folder: Path, arguments: argparse.Namespace) -> dict[str, list[Callable[[], Any]]]:
    """Runtime -> a call of the dense network, and one of the pruned."""
    spec = fixed(subjects[0].spec, None)
    picture = draw_picture(random_streams.stream(0, "sparsity"), max(spec.size)).image
    batch = torch.from_numpy(prepare(picture, spec)[0])[None]
    calls: dict[str, list[Callable[[], Any]]] = {
        "torch": [functools.partial(fuse(subject.model), normalise(batch, spec)) for subject in subjects]
    }
    for form in arguments.formats:
        paths = [folder / f"{number}{FORMATS[form].suffix}" for number in range(2)]
        for path, subject in zip(paths, subjects):
            request = Request(format=form, outputs="boxes", input_form=None, precision="float32", batch=1)
            write(
                request, path, model=subject.model, decoder=subject.decoder, spec=spec,
                class_names=subject.class_names, pictures=[picture], source={},
            )  # fmt: skip
        calls[form] = [of_file(path, spec, batch) for path in paths]
        if form == "openvino":
            calls["openvino, sparse"] = [of_file(path, spec, batch, is_packed=True) for path in paths]
    if arguments.int8:
        calls["openvino, int8"] = [of_file(path, spec, batch) for path in arguments.int8]
        calls["openvino, int8, sparse"] = [of_file(path, spec, batch, is_packed=True) for path in arguments.int8]
    return calls


def of_file(path: Path, spec: Any, batch: torch.Tensor, *, is_packed: bool = False) -> Callable[[], Any]:
    """A call of the file; `is_packed`: by OpenVINO, with packed weights where its plugin has kernels for them."""
    network = open_network(path)
    if is_packed:
        options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, PACKING: RATE}
        compiled = openvino_core().compile_model(str(path), "CPU", options)
        network.session = lambda inputs: list(compiled(inputs).values())
    return functools.partial(network, inputs_of(network, batch, spec))


def in_turns(pair: list[Callable[[], Any]], rounds: int) -> list[list[float]]:
    """Seconds of each call, after three rounds that are not counted."""
    seconds: list[list[float]] = [[], []]
    with torch.inference_mode():
        for number in range(rounds + 3):
            for which in (0, 1) if number % 2 else (1, 0):
                start = time.perf_counter()
                pair[which]()
                if number >= 3:
                    seconds[which].append(time.perf_counter() - start)
    return seconds


if __name__ == "__main__":
    main()
