"""One export, whole: written, opened by its runtime, compared with its weights, and put aside where it gives other things."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from public.export import parity
from public.export.card import Card, beside, make_card, write_beside
from public.export.formats import files_of, find_format, make_decoder, open_network
from public.export.graph import LEAST, MULTIPLE, ExportGraph
from public.export.runners.network import ExportedNetwork
from public.input import ClassificationInput, InputSpec, inputs_of, prepare, prepare_crop

REJECTED = ".rejected"  # added to the name of a file that does not give what its weights give
NUM_TIMED = 10  # calls of a file, after one that is not counted


@dataclass(frozen=True, kw_only=True)
class Request:
    """What kind of file is wanted; see `public.export.card.Card`.  None of `input_form`: the first that the format takes."""

    format: str
    outputs: str
    input_form: str | None
    precision: str
    batch: int | None
    any_size: bool = False


@dataclass(kw_only=True)
class Written:
    """A file that was written and compared."""

    path: Path
    card: Card
    network: ExportedNetwork
    decoder: Any  # of what the file gives; None for a classifier
    parity: parity.Parity  # of a file for any size, at the size where it is nearest to its bound
    measured: dict[str, Any]

    def save(self, **more: Any) -> None:
        """Writes `<file>.json` with what was measured, and `more`."""
        self.measured |= more
        write_beside(self.path, self.card, files_of(self.path), self.measured)


def fixed(spec: InputSpec | ClassificationInput, size: tuple[int, int] | None) -> InputSpec | ClassificationInput:
    """`spec` for a file whose input has one size, (h, w): its own, or another that is asked for.

    Pictures that come out in several sizes are put on a canvas of that one, as large as fits, padded in grey levels.

    Raises:
        ValueError: pictures come out in several sizes, and none is asked for.
    """
    if isinstance(spec, ClassificationInput):
        if size is None:
            return spec
        return replace(spec, size=size, shorter_side=max(*size, spec.shorter_side * max(size) // max(spec.size)))
    if spec.multiple is None:
        return spec if size is None else replace(spec, size=size)
    if size is None:
        height, width = spec.usual_size
        raise ValueError(
            f"pictures come out in several sizes ({spec.size_text}), and a file has one: --size {height} {width} puts each "
            "on a canvas of it, as large as fits; --evaluate says what that costs"
        )
    grey = round(sum(spec.padding_color) / 3)
    return replace(spec, size=size, resize="letterbox", padding=grey)


def other_sizes(size: tuple[int, int]) -> list[tuple[int, int]]:
    """Sizes (h, w) at which a file for any size is compared beside its usual one: a smaller one, and another form."""
    least = LEAST * MULTIPLE
    height, width = size
    halves = (max(side // 2 // MULTIPLE * MULTIPLE, least) for side in size)
    return [tuple(halves), (height + 2 * MULTIPLE, max(width - MULTIPLE, least))]  # type: ignore[list-item]


def write(
    request: Request,
    path: Path,
    *,
    model: nn.Module,
    decoder: Any,
    spec: InputSpec | ClassificationInput,
    class_names: tuple[str, ...],
    pictures: Sequence[np.ndarray],
    source: dict[str, Any],
) -> Written:
    """Writes `path`, opens it and compares it with `model` on `pictures`.

    The file is there afterwards also where it failed, under another name: ask `parity.failures`, and call `reject`.

    Args:
        spec: for inputs of one size, see `fixed`; of a file for any size that of the experiment.
        source: for the card: the weights and where they come from.

    Raises:
        ValueError: the format cannot give what is asked for, or the network cannot be exported: nothing is written; or the
            runtime cannot open the file, which is renamed.
    """
    asked = (request.input_form, request.batch, request.any_size, request.precision)
    form = find_format(request.format, request.outputs, *asked)
    request = replace(request, input_form=request.input_form or form.inputs[0], batch=request.batch or form.most_images)
    graph = ExportGraph(
        model=model,
        decoder=decoder,
        spec=spec,
        input_form=request.input_form or form.inputs[0],
        outputs=request.outputs,
        size=spec.usual_size,
        any_size=request.any_size,
    ).eval()
    request = replace(request, precision=_precision(request, graph))
    source = source | ({} if form.versions is None else {"packages": form.versions()})
    own = {"format": request.format, "precision": request.precision, "batch": request.batch}
    card = make_card(graph, class_names=class_names, source=source, **own)  # type: ignore[arg-type]
    path.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    form.write(graph, path, batch=request.batch, card=card.text(), precision=request.precision)
    seconds = time.perf_counter() - start
    write_beside(path, card, files_of(path), {})
    network = _open(path)
    file_decoder = make_decoder(card) or decoder
    sizes = [graph.size, *(other_sizes(graph.size) if request.any_size else ())]
    parts = {"model": model, "decoder": decoder, "pictures": pictures}
    results = [parity.measure(network, file_decoder, spec=fixed(spec, size), **parts) for size in sizes]
    found = max(results, key=lambda one: one.nearness)
    measured = {
        "parity": found.entries(),
        "seconds_to_write": seconds,
        "milliseconds": _time(network, fixed(spec, graph.size), pictures[0]),
    } | ({"parity_at": _by_size(sizes, results)} if request.any_size else {})
    written = Written(path=path, card=card, network=network, decoder=file_decoder, parity=found, measured=measured)
    written.save()
    return written


def _by_size(sizes: list[tuple[int, int]], results: list[parity.Parity]) -> dict[str, Any]:
    return {f"{height} x {width}": one.entries() for (height, width), one in zip(sizes, results)}


def _precision(request: Request, graph: ExportGraph) -> str:
    """That of the file: the one that is asked for, but of a network that was trained to be quantised int8."""
    if graph.quantised and request.precision != "float32":
        raise ValueError(f"the network was trained to be int8: it has no --precision {request.precision}")
    return "int8" if graph.quantised else request.precision


def _open(path: Path) -> ExportedNetwork:
    """The network in the file that was just written; one that its runtime cannot open is rejected."""
    try:
        return open_network(path)
    except ValueError:
        reject(path)
        raise


def reject(path: Path) -> Path:
    """Renames the file and what belongs to it, so that nobody uses it by mistake; where it is now."""
    for one in (*files_of(path), beside(path)):
        if one.exists():
            one.replace(one.with_name(one.name + REJECTED))
    return path.with_name(path.name + REJECTED)


@torch.no_grad()
def _time(network: ExportedNetwork, spec: InputSpec | ClassificationInput, picture: np.ndarray) -> float:
    """Milliseconds of one image through the file: the median."""
    if isinstance(spec, InputSpec):
        pixels, geometry = prepare(picture, spec)
        regions = [geometry.region]
    else:
        pixels, regions = prepare_crop(picture, spec)[0], None
    inputs = inputs_of(network, torch.from_numpy(pixels[None]), spec, regions)
    seconds = []
    for _ in range(NUM_TIMED + 1):
        start = time.perf_counter()
        network(inputs)
        seconds.append(time.perf_counter() - start)
    return 1000 * float(np.median(seconds[1:]))
