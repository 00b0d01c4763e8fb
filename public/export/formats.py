"""The formats: what a file of each is called, what it can give, and how it is written and opened."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from public.export.card import Card, card_beside, read_card
from public.export.graph import INPUTS, OUTPUTS
from public.export.ncnn_file import SUFFIX, WEIGHTS, write_ncnn
from public.export.onnx_file import write_onnx
from public.export.openvino_file import write_openvino
from public.export.other_python import find_python, opener, versions_of, writer
from public.export.packages import need
from public.export.runners.ncnn import open_ncnn
from public.export.runners.network import DecodedDecoder, ExportedNetwork, FoundDecoder, Session
from public.export.runners.onnx import open_onnx
from public.export.runners.openvino import open_openvino
from public.export.runners.torch import open_torch
from public.export.torch_file import write_torch


@dataclass(frozen=True, kw_only=True)
class Format:
    """Fields:
    suffix: of a file's name.
    packages: that writing and reading need.
    write: (graph, path, batch=..., card=..., precision=...) writes the file.
    open: path -> (session, text of the card or None).
    outputs, inputs: of `graph.OUTPUTS` and `graph.INPUTS`, those that the runtime can give and take.
    most_images: of a call; None: any number.
    companions: endings of the files that belong to it, in place of the last ending of `suffix`.
    why_not: what a person is told who wants other outputs.
    why_one_size: what a person is told who wants a file for inputs of any size; "": it can be one.
    precisions: that a file may have.
    python, versions: of a format with an environment of its own, its Python (an error where there is none) and its packages.
    """

    suffix: str
    packages: tuple[str, ...]
    write: Callable[..., None]
    open: Callable[[Path], tuple[Session, str | None]]
    outputs: tuple[str, ...] = OUTPUTS
    inputs: tuple[str, ...] = INPUTS
    most_images: int | None = None
    companions: tuple[str, ...] = ()
    why_not: str = ""
    why_one_size: str = ""
    precisions: tuple[str, ...] = ("float32", "fp16")
    python: Callable[[], Any] | None = None
    versions: Callable[[], dict[str, str]] | None = None


def _elsewhere(kind: str, suffix: str) -> Format:
    """A format that another Python writes and runs."""
    return Format(
        suffix=suffix,
        packages=(),
        write=writer(kind),
        open=opener(kind),
        outputs=("raw", "boxes"),
        most_images=1,
        why_not="it has no NMS over classes; the nearest is --outputs boxes, whose NMS public.load does",
        why_one_size="its shapes are constants",
        precisions=("float32",),
        python=partial(find_python, kind),
        versions=partial(versions_of, kind),
    )


FORMATS: dict[str, Format] = {
    "torch": Format(
        suffix=".pt2",
        packages=("torch",),
        write=write_torch,
        open=open_torch,
        why_one_size="its sizes would be formulas, which opening the file would have to execute",
    ),
    "onnx": Format(suffix=".onnx", packages=("onnx", "onnxscript", "onnxruntime"), write=write_onnx, open=open_onnx),
    "openvino": Format(
        suffix=".xml",
        packages=("onnx", "onnxscript", "openvino"),
        write=write_openvino,
        open=open_openvino,
        companions=(".bin",),
    ),
    "ncnn": Format(
        suffix=SUFFIX,
        packages=("pnnx", "ncnn"),
        write=write_ncnn,
        open=open_ncnn,
        outputs=("raw", "boxes"),
        inputs=("normalised",),
        most_images=1,
        companions=(WEIGHTS,),
        why_not="it has no NMS over classes; the nearest is --outputs boxes, whose NMS public.load does",
        why_one_size="the points of its graph are constants",
    ),
    "executorch": _elsewhere("executorch", ".pte"),
    "litert": _elsewhere("litert", ".tflite"),
}
NOT_BUILT = {  # formats that one may ask for in vain
    "mnn": "mnn is left out, as its converter installs packages and sends telemetry on import; it takes the file of "
    "--format onnx",
}


def find_format(
    name: str,
    outputs: str,
    input_form: str | None = None,
    batch: int | None = None,
    any_size: bool = False,
    precision: str = "float32",
) -> Format:
    """The format called `name`, with its packages there, for a file that gives `outputs` and takes `input_form`.

    Raises:
        ValueError: there is no such format, it cannot give that, or a package is missing; the nearest choice is named.
    """
    if name not in FORMATS:
        raise ValueError(NOT_BUILT.get(name, f"there is no format {name!r}; there are {', '.join(FORMATS)}"))
    found = FORMATS[name]
    if outputs not in found.outputs:
        raise ValueError(f"--format {name} cannot give {outputs}: {found.why_not}")
    if input_form is not None and input_form not in found.inputs:
        raise ValueError(f"--format {name} takes no {input_form} images: the nearest is --input {found.inputs[0]}")
    if batch is not None and found.most_images is not None and batch > found.most_images:
        raise ValueError(f"--format {name} takes {found.most_images} image a call, not --batch {batch}")
    if any_size and found.why_one_size:
        raise ValueError(
            f"--format {name} --dynamic_size: a file has one size, since {found.why_one_size}; the nearest is --format onnx"
        )
    if precision not in found.precisions:
        raise ValueError(f"--format {name} takes no --precision {precision}; the nearest is {found.precisions[0]}")
    if found.python is not None:
        found.python()
    for package in found.packages:
        need(package, name)
    return found


def is_exported(path: str | Path) -> bool:
    """Whether the name of a file ends as those of an exported one do."""
    return any(str(path).endswith(form.suffix) for form in FORMATS.values())


def files_of(path: Path) -> list[Path]:
    """The exported file `path` and those that belong to it, without what `card.beside` names."""
    form = next(form for form in FORMATS.values() if path.name.endswith(form.suffix))
    return [path, *(path.with_suffix(ending) for ending in form.companions)]


def open_network(path: str | Path) -> ExportedNetwork:
    """The network in an exported file, its card as `card`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: its runtime is missing, or the file or its card is damaged.
    """
    path = Path(path).resolve()
    if not path.is_file():
        raise FileNotFoundError(f"there is no exported file {path}")
    form = next(form for form in FORMATS.values() if path.name.endswith(form.suffix))
    session, text = form.open(path)
    return ExportedNetwork(session, read_card(path, card_beside(path) if text is None else text), path.name)


def make_decoder(card: Card) -> DecodedDecoder | FoundDecoder | None:
    """What is left to do on the outputs of a file of "boxes" or "detections"; None for others."""
    if card.outputs == "boxes":
        return DecodedDecoder(card)
    return FoundDecoder(card) if card.outputs == "detections" else None
