"""What an exported file is: the card that stands in it, or beside it where the format has no room.

Inside stands what follows from the weights and the options alone, so that the same export twice gives the same bytes;
`<file>.json` beside it repeats it and adds what was measured: parity, AP, bytes, milliseconds, and the sha256 of the file.
"""

import hashlib
import importlib.metadata
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from public.config import freeze, thaw
from public.decoders.dense import DenseDecoder
from public.export.graph import INPUTS, MULTIPLE, OUTPUTS, ExportGraph
from public.files import read_json_object, write_text
from public.input import INPUT_CLASSES, ClassificationInput, InputSpec
from public.text import brief, shorten, shown

PACKAGES = {  # that a file's bytes follow from
    "torch": ("torch",),
    "onnx": ("torch", "onnx", "onnxscript"),
    "openvino": ("torch", "onnx", "onnxscript", "openvino"),
    "ncnn": ("torch", "pnnx"),
}
LIMITS = ("score_threshold", "nms_iou", "nms_top_k", "keep_top_k")  # of a DenseDecoder, and how it goes about it:
WAYS = ("candidates_of", "clips_to_picture", "is_clipped", "drops_empty", "one_class_a_box")


@dataclass(frozen=True, kw_only=True)
class Card:
    """Fields:
    kind: "detector" or "classifier".
    input: the InputSpec, or a classifier's ClassificationInput.
    input_form, outputs: of `graph.INPUTS` and `graph.OUTPUTS`.
    size: (h, w) of the network's input in pixels; None: of any size whose sides are multiples of `multiple`.
    batch: images of a call; None: any number.
    input_names, output_names: of the file's tensors, in their order.
    raw_class: the class of the network's own outputs.
    level_sizes, level_lengths: cells and anchors of each level, where the size is fixed.
    decoder: the thresholds and ways of the decoder, {} of a classifier.
    keep_top_k: the most detections that the file gives of an image; None where there is no NMS in it.
    source: weights, digest, run, commit and packages the file was made of.
    anchors_of_cell: of each level, where the size is not fixed; None of a classifier, too.
    """

    kind: str
    format: str
    precision: str
    input: InputSpec | ClassificationInput
    class_names: tuple[str, ...]
    input_form: str
    outputs: str
    size: tuple[int, int] | None
    batch: int | None
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    raw_class: str
    level_sizes: tuple[tuple[int, int], ...] | None
    level_lengths: tuple[int, ...] | None
    decoder: dict[str, Any]
    keep_top_k: int | None
    source: dict[str, Any]
    multiple: int | None = None
    anchors_of_cell: tuple[int, ...] | None = None

    def text(self) -> str:
        """As JSON, the same for the same card."""
        entries = asdict(self) | {"input": freeze(self.input)}
        return json.dumps(entries, sort_keys=True)


def make_card(
    graph: ExportGraph,
    *,
    format: str,
    precision: str,
    class_names: tuple[str, ...],
    batch: int | None,
    source: dict[str, Any],
) -> Card:
    """The card of `graph` as it is about to be written."""
    decoder = graph.decoder
    if decoder is not None and not isinstance(decoder, DenseDecoder):
        raise ValueError(
            f"{type(decoder).__name__} is no DenseDecoder, of which alone a file can say what is left to do"
        )
    ways = {} if decoder is None else {name: getattr(decoder, name) for name in (*LIMITS, *WAYS)}
    return Card(
        kind="classifier" if decoder is None else "detector",
        format=format,
        precision=precision,
        input=graph.spec,
        class_names=tuple(class_names),
        input_form=graph.input_form,
        outputs=graph.outputs,
        size=None if graph.any_size else graph.size,
        batch=batch,
        input_names=graph.input_names,
        output_names=graph.output_names,
        raw_class=graph.raw_class,
        level_sizes=None if graph.any_size else graph.level_sizes,
        level_lengths=None if decoder is None or graph.any_size else tuple(graph.level_lengths or ()),
        decoder=ways,
        keep_top_k=graph.keep_top_k if graph.outputs == "detections" else None,
        source=source | {"packages": source.get("packages") or _versions(format)},
        multiple=MULTIPLE if graph.any_size else None,
        anchors_of_cell=graph.anchors_of_cell if graph.any_size else None,
    )


def _versions(format: str) -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in PACKAGES[format]}


def read_card(path: Path, text: str | None) -> Card:
    """The card of the file `path` from its JSON.

    Raises:
        ValueError: there is none, or it is damaged; the file is named.
    """
    if text is None:
        raise ValueError(
            f"{path} has no card: it was not written by python -m public.test_scripts.export, so nothing says how a picture "
            "becomes its input"
        )
    try:
        entries = json.loads(text)
        later = {"multiple", "anchors_of_cell"} - entries.keys()  # that cards of before do not have
        entries = {field.name: _tuples(entries[field.name]) for field in fields(Card) if field.name not in later} | {
            "input": thaw(entries["input"], INPUT_CLASSES | {"ClassificationInput": ClassificationInput}),
            "decoder": entries["decoder"],
            "source": entries["source"],
        }
        card = Card(**entries)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: its card cannot be read: {shorten(shown(repr(error)), 300)}") from error
    _check(path, card)
    return card


def _check(path: Path, card: Card) -> None:
    named = {"outputs": (card.outputs, OUTPUTS), "input_form": (card.input_form, INPUTS)}
    named["kind"] = (card.kind, ("detector", "classifier"))
    for name, (value, known) in named.items():
        if value not in known:
            raise ValueError(f"{path} is damaged: its card's {name} is {brief(value)}, not one of {', '.join(known)}")
    if card.kind == "detector" and not {*LIMITS, *WAYS} <= card.decoder.keys():
        raise ValueError(f"{path} is damaged: its card lacks the decoder's {', '.join((*LIMITS, *WAYS))}")


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def beside(path: Path) -> Path:
    """Where the card of a file lies that has no room for it, and what was measured."""
    return path.with_name(f"{path.name}.json")


def write_beside(path: Path, card: Card, files: Sequence[Path], measured: dict[str, Any]) -> None:
    """Writes `<file>.json`: the card, what was `measured`, bytes and sha256 of the `files` that it is made of."""
    sizes = {}
    for file in files:
        content = file.read_bytes()
        sizes[file.name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    entries = {"card": json.loads(card.text()), "files": sizes, **measured}
    write_text(beside(path), json.dumps(entries, indent=1))


def card_beside(path: Path) -> str | None:
    """The card in `<file>.json`, as text; None where there is no such file."""
    if not beside(path).is_file():
        return None
    return json.dumps(read_json_object(beside(path)).get("card"))
