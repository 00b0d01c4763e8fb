"""From a float file to an int8 one that has lost no more than a bound: layers go back to float until it holds.

The float file is opened by the same runtime; both are evaluated by the same evaluator and timed in turns, one thread, one
picture a call.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from public.export import openvino_file
from public.export.calibration import Calibrated, Pictures, worst_first
from public.export.card import Card, write_beside
from public.export.formats import files_of, open_network
from public.export.onnx_file import CARD
from public.export.packages import need
from public.export.qdq import Layer, insert
from public.export.runners.network import ExportedNetwork
from public.files import write_whole

RUNTIMES = {"onnxruntime": "onnx", "openvino": "openvino"}  # runtime -> the format of its files
GROUPS = 12  # into so many groups the layers are parted that go back to float one after the other


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One row of the table.

    Fields:
        metrics: of the evaluation.
        layers: convolutions in int8.
        milliseconds: of one picture, the median; None: not measured yet.
    """

    name: str
    path: Path
    metrics: dict[str, Any]
    layers: int
    milliseconds: float | None = None

    @property
    def size(self) -> int:
        """Bytes of the file and what belongs to it."""
        return sum(file.stat().st_size for file in files_of(self.path))


@dataclass(frozen=True, kw_only=True)
class Returned:
    """Layers that went back to float together, each with its error, and what the file reached then."""

    layers: tuple[tuple[str, float], ...]
    value: float
    loss: float


@dataclass(frozen=True, kw_only=True)
class Bound:
    """How much an int8 file may lose: `points` of `metric`, of which the float file has `reference`; `unit` points are 1."""

    metric: str
    reference: float
    points: float
    unit: float

    def loss(self, metrics: dict[str, Any]) -> float:
        """In points; infinite where there is nothing to measure."""
        value = metrics[self.metric]
        return float("inf") if value is None else self.unit * (self.reference - value)


def groups_of(order: Sequence[str]) -> list[list[str]]:
    """The layers, the worst first, in about GROUPS parts."""
    size = -(-len(order) // GROUPS)
    return [list(order[start : start + size]) for start in range(0, len(order), size)]


def within_bound(
    errors: dict[str, float], bound: Bound, write_and_evaluate: Callable[[frozenset[str]], dict[str, Any]]
) -> tuple[dict[str, Any], frozenset[str], list[Returned]]:
    """Returns groups of layers to float, the worst first, until the loss is within `bound`.

    Args:
        errors: name -> error of each layer that can be int8.
        write_and_evaluate: makes the file in which these layers are float; its metrics.

    Returns:
        The metrics of the last file, the layers that are float in it, and what was returned at each step.
    """
    groups, back, steps = groups_of(worst_first(errors)), frozenset[str](), []
    metrics = write_and_evaluate(back)
    for group in groups:
        if bound.loss(metrics) <= bound.points:
            break
        back |= frozenset(group)
        metrics = write_and_evaluate(back)
        value = metrics[bound.metric]
        step = tuple((name, errors[name]) for name in group)
        steps.append(Returned(layers=step, value=float("nan") if value is None else value, loss=bound.loss(metrics)))
    return metrics, back, steps


class Writer:
    """Writes int8 files from the float ONNX file `source`, for one runtime.

    Args:
        source: as `public.export.writing.write` made it.
        path: of the int8 file.
        card: of the float file in the runtime's format.
        pictures: of the calibration, for the card.
        options: further entries of the card, such as the seed.
    """

    def __init__(
        self, source: Path, path: Path, *, card: Card, pictures: Pictures, options: dict[str, Any], runtime: str
    ) -> None:
        self.source, self.path, self.card, self.pictures = source, path, card, pictures
        self.options, self.runtime = options, runtime

    def write(self, layers: dict[str, Layer], kept: Sequence[str]) -> ExportedNetwork:
        """The file with `layers` in int8 and `kept` in float, opened."""
        onnx = need("onnx", "onnx")
        model = onnx.load(self.source)
        insert(model, layers, integer_bias=self.runtime == "onnxruntime")
        card = self._card(layers, kept)
        del model.metadata_props[:]
        entry = model.metadata_props.add()
        entry.key, entry.value = CARD, card.text()
        content = model.SerializeToString(deterministic=True)
        if self.runtime == "onnxruntime":
            write_whole(self.path, lambda file: file.write(content))
        else:
            between = self.path.with_suffix(".between.onnx")
            write_whole(between, lambda file: file.write(content))
            openvino_file.convert(between, self.path, card=card.text(), precision="float32")
            between.unlink()
        write_beside(self.path, card, files_of(self.path), {})
        return open_network(self.path)

    def _card(self, layers: dict[str, Layer], kept: Sequence[str]) -> Card:
        calibration = {"ids": list(self.pictures.ids), "digest": self.pictures.digest}
        entries = {"calibration": calibration | self.options, "int8": list(layers), "float": list(kept)}
        return replace(self.card, precision="int8", source=self.card.source | {"quantisation": entries})


def in_turns(networks: Sequence[ExportedNetwork], inputs: Any, rounds: int) -> list[float]:
    """Milliseconds of a call of each network, the median over `rounds` turns (A B A B), after one that is not counted."""
    seconds: list[list[float]] = [[] for _ in networks]
    for turn in range(rounds + 1):
        for network, found in zip(networks, seconds):
            start = time.perf_counter()
            network(inputs)
            if turn:
                found.append(time.perf_counter() - start)
    return [1000 * float(np.median(found)) for found in seconds]


def calibrated_layers(calibrated: Calibrated, back: frozenset[str]) -> tuple[dict[str, Layer], list[str]]:
    """The layers of a file in which `back` are float, and all that are float in it."""
    layers = {name: layer for name, layer in calibrated.files_layers().items() if name not in back}
    return layers, [*calibrated.kept, *(name for name in calibrated.layers if name in back)]


def table(variants: Sequence[Variant], metrics: Sequence[tuple[str, float]], num_layers: int) -> str:
    """The rows; `metrics` are (name, unit): AP is printed in points, 100 to one."""
    head = ["variant", *(name for name, _ in metrics), "ms", "KiB", "layers in int8"]
    rows = [head]
    for variant in variants:
        values = [_figure(variant.metrics[name], unit) for name, unit in metrics]
        speed = "-" if variant.milliseconds is None else f"{variant.milliseconds:.2f}"
        rows.append([variant.name, *values, speed, f"{variant.size / 1024:.0f}", f"{variant.layers} of {num_layers}"])
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    return "\n".join(lines)


def _figure(value: float | None, unit: float) -> str:
    return "-" if value is None else f"{unit * value:.2f}"


def sentence(plain: Variant, small: Variant, metric: str, unit: float) -> tuple[str, bool]:
    """What it came to, in one sentence, and whether int8 is faster."""
    assert plain.milliseconds is not None
    assert small.milliseconds is not None
    ratio = plain.milliseconds / small.milliseconds
    change = _figure((small.metrics[metric] or 0) - (plain.metrics[metric] or 0), unit)
    if ratio > 1 and small.layers:
        return f"int8 is faster by {ratio:.2f} at {change} points of {metric}", True
    return (
        f"int8 is not faster here: keep float ({small.milliseconds:.2f} ms, float {plain.milliseconds:.2f} ms, {change} "
        f"points of {metric})",
        False,
    )
