"""Other projects' weights -> a checkpoint of this project, with an account of every array.

    python -m public.weights.convert paddle ppyoloe_s ppyoloe_crn_s_300e_coco.pdparams -o pretrained/ppyoloe_s_coco.pth
    python -m public.weights.convert torchvision resnet50 resnet50-0676ba61.pth -o pretrained/resnet50_imagenet.pth

OUT is a .pth, or a .safetensors if that package is installed; OUT.json beside it is its card: origin, licence, sums, input.
Nothing in the file is executed.  Each array is used once or named with the reason why it is not; what the file lacks, or
has in another shape, is an error.  Two things are added, and reported: the counters of torch's BatchNorm, and RepVGG's
learnt factors, as 1, for a file from before they were there.  `public.weights.classifiers` does it for backbones.
"""

import argparse
import functools
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch

from public.checkpoint_files import digest, save_atomic
from public.commands import call
from public.config import freeze
from public.families import PUBLISHED, published
from public.models import list_models
from public.models.backbones import NETWORKS
from public.models.loading import ALPHA, BACKBONE
from public.parts import other_numbers
from public.random_streams import seed_torch
from public.weights.cards import refuse_other, write_card
from public.weights.class_names import class_names
from public.weights.classifiers import convert_classifier
from public.weights.detectors import RELEASED, released
from public.weights.detectors.released import Released
from public.weights.known import by_original, check_sha256
from public.weights.pdparams import read_pdparams
from public.weights.torch_files import read_torch_file
from public.weights.widen import widen_arrays, widen_tensors

SOURCES = ("mmdet", "paddle", "timm", "torchvision", "yolox", "yolox_legacy")
COUNTER = "num_batches_tracked"  # of torch's BatchNorm; no other project's files have it


@dataclass
class Conversion:
    """A checkpoint in the making, and what is to be said about it."""

    model_name: str
    settings: Any  # of the network; with the file's number of classes once that is known
    released: Released  # whose weights they are, and what is known of them
    source: str  # whose file it is
    file: Path
    backbone_only: bool
    sha256: str = ""  # of the file
    state: dict[str, torch.Tensor] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)  # our name -> the file's
    added: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)  # the file's name -> reason
    notes: list[str] = field(default_factory=list)


def convert(
    *,
    source: str,
    model_name: str,
    file: Path,
    output: Path,
    num_classes: int | None = None,
    names_file: Path | None = None,
    backbone_only: bool = False,
) -> list[str]:
    """Writes the checkpoint `output` for the published network `model_name`; returns the lines of the report.

    Args:
        source: whose file it is, one of SOURCES.
        num_classes: of the checkpoint; None: the file's own.  With another number the class layers get the network's
            initial values, from a fixed seed.
        names_file: a text file with the names of the classes, one a line.
        backbone_only: only the arrays of the backbone, from a backbone's or a detector's file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: naming the file and what does not fit; nothing is written then.
    """
    _check_arguments(file, output, num_classes, names_file, backbone_only)
    if model_name in NETWORKS:
        return convert_classifier(
            source=source,
            model_name=model_name,
            file=file,
            output=output,
            num_classes=num_classes,
            names_file=names_file,
            backbone_only=backbone_only,
        )
    if model_name not in PUBLISHED:
        nearest = get_close_matches(model_name, list_models(), n=3) or list_models()
        raise ValueError(f"no published network is called {model_name!r}; did you mean {', '.join(nearest)}?")
    known = released(model_name, source)
    result = Conversion(
        model_name=model_name,
        settings=published(model_name),
        released=known,
        source=source,
        file=file,
        backbone_only=backbone_only,
    )
    _use_input_of_file(result)
    arrays = (_read_paddle if source == "paddle" else _read_torch)(result)
    _rename(_backbone_arrays(arrays, result) if backbone_only else arrays, result)
    _complete(result)
    card = _card(result, num_classes, names_file)
    origin = {"project": source, "file": file.name, "sha256": result.sha256}
    save_atomic({"model": result.state, **card, "converted_from": origin}, output)
    write_card(output, card | {"converted_from": origin}, digest(result.state))
    return _report(result, output)


def _check_arguments(
    file: Path, output: Path, num_classes: int | None, names_file: Path | None, backbone_only: bool
) -> None:
    if backbone_only and (num_classes is not None or names_file is not None):
        raise ValueError("a backbone has no classes: leave --num_classes and --class_names out with --backbone_only")
    if file.exists() and output.resolve() == file.resolve():
        raise ValueError(f"{output} is the file that is converted, and would be overwritten; name another output")
    refuse_other(output)
    if num_classes is not None and num_classes < 1:
        raise ValueError(f"--num_classes is {num_classes}; it must be at least 1")


def _card(result: Conversion, num_classes: int | None, names_file: Path | None) -> dict[str, Any]:
    """What the checkpoint says about its weights; with another number of classes the class layers are made anew."""
    card: dict[str, Any] = {"model_name": result.model_name, "part": "backbone", "num_classes": None, "class_names": []}
    if not result.backbone_only:
        _change_classes(result, num_classes or result.settings.num_classes)
        names, line = class_names(result.settings.num_classes, names_file, known=result.released.class_names)
        result.notes.append(line)
        card = {"model_name": result.model_name, "num_classes": len(names), "class_names": list(names)}
    return card | {"input": freeze(result.released.input)["InputSpec"], "detector": freeze(result.settings)}


def _use_input_of_file(result: Conversion) -> None:
    """One network may have several released files, each for a size of images of its own: a known file's name tells which."""
    known = by_original(result.file.name)
    if known is None or known.model == result.model_name or known.model not in PUBLISHED:
        return
    if published(known.model) == result.settings:
        result.released = replace(result.released, input=released(known.model, known.project).input)
        height, width = result.released.input.size
        result.notes.append(f"input: {height} x {width}, that of {known.model}, whose file this is by its name")


# ---------------------------------------------------------------------------------------------- the file's arrays


def _read_paddle(result: Conversion) -> dict[str, np.ndarray]:
    foreign = read_pdparams(result.file)
    result.sha256 = foreign.sha256
    result.notes.append(
        f"{result.file}: sha256 {foreign.sha256}, {check_sha256(result.file.name, foreign.sha256, result.source)}"
    )
    result.left_out |= foreign.left_out
    arrays, lines = widen_arrays(foreign.arrays, result.file)
    result.notes += lines
    return arrays


def _read_torch(result: Conversion) -> dict[str, np.ndarray]:
    foreign = read_torch_file(result.file)
    result.sha256 = foreign.sha256
    result.notes += [
        *foreign.notes,
        f"{result.file.name}: {check_sha256(result.file.name, foreign.sha256, result.source)}",
    ]
    result.left_out |= foreign.left_out
    tensors, lines = widen_tensors(foreign.tensors, result.file)
    result.notes += lines
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def _backbone_arrays(arrays: dict[str, np.ndarray], result: Conversion) -> dict[str, np.ndarray]:
    """The arrays of the backbone; a file of a backbone alone, or of a classifier, writes their names without a prefix."""
    neck = result.released.neck
    kept = {name: array for name, array in arrays.items() if name.startswith(BACKBONE) and not name.startswith(neck)}
    if not kept:
        parts = _backbone_parts(result)
        kept = {f"{BACKBONE}{name}": array for name, array in arrays.items() if name.split(".")[0] in parts}
        if kept:
            result.notes.append(f"the file's names lack the prefix {BACKBONE!r}; it was put before them")
    used = kept.keys() | {name.removeprefix(BACKBONE) for name in kept}
    result.left_out |= {name: "not of the backbone" for name in arrays if name not in used}
    if not kept:
        raise ValueError(f"{result.file} has no array of a backbone; its names begin {list(arrays)[:3]}")
    return kept


def _backbone_parts(result: Conversion) -> set[str]:
    """How the names in a file of the backbone alone begin."""
    return set(result.released.backbone_parts) or {n for n, _ in _on_meta(result.settings).backbone.named_children()}


@functools.cache
def _on_meta(settings) -> Any:
    """The network without memory for its values: names and shapes alone; built once for the same settings."""
    with torch.device("meta"):
        return settings.build_model()


def _rename(arrays: dict[str, np.ndarray], result: Conversion) -> None:
    """Fills `state` under our names, array by array, so that each is accounted for."""
    rename = result.released.rename
    if not any(name.startswith(BACKBONE) for name in arrays):
        parts = _backbone_parts(result)
        if any(name.split(".")[0] in parts for name in arrays):
            raise ValueError(f"{result.file} holds a backbone alone; convert it with --backbone_only")
    try:
        result.left_out |= result.released.left_out(arrays)
    except ValueError as error:
        raise ValueError(f"{result.file}: {error}") from error
    for name, array in arrays.items():
        if name in result.left_out:
            continue
        try:
            renamed = rename({name: array})
        except ValueError as error:
            raise ValueError(f"{result.file}: {error}") from error
        if not renamed:
            result.left_out[name] = "fixed values, as expected; they are no parameters here"
        for ours, value in renamed.items():
            if ours in result.state:
                raise ValueError(f"{result.file}: {result.origin[ours]!r} and {name!r} both become {ours!r}")
            result.state[ours], result.origin[ours] = value, name
            if ours.endswith(COUNTER) and not name.endswith(COUNTER):
                result.added.append(ours)


# ---------------------------------------------------------------------------------------------- the network


def _with_classes_of(settings, state: dict[str, torch.Tensor]):
    """`settings` with as many classes as the first class layer in `state` has rows for; unchanged where there is none."""
    model = _on_meta(settings)
    found = (len(value) for name, value in state.items() if name.startswith(model.class_layers) and value.ndim)
    rows, rows_per_class = next(found, None), getattr(model, "rows_per_class", 1)
    if not rows or rows % rows_per_class:
        return settings
    return replace(settings, num_classes=rows // rows_per_class)


def _reference(settings, backbone_only: bool) -> dict[str, torch.Tensor]:
    """Name and shape of all that the checkpoint has to hold."""
    state = _on_meta(settings).state_dict()
    return {name: value for name, value in state.items() if not backbone_only or name.startswith(BACKBONE)}


def _differences(reference: dict[str, torch.Tensor], state: dict[str, torch.Tensor]) -> tuple[list, list, list]:
    """The names that `state` lacks, learnt factors and counters apart, those it has too many, and those of another shape."""
    missing = [name for name in reference if name not in state and not name.endswith((ALPHA, COUNTER))]
    unknown = [name for name in state if name not in reference]
    other = [name for name, value in state.items() if name in reference and value.shape != reference[name].shape]
    return missing, unknown, other


def _complete(result: Conversion) -> None:
    """Adds the learnt factors and the counters of BatchNorm that the file lacks.

    Raises:
        ValueError: the file lacks a parameter, has one that the network has not, or one of another shape.
    """
    result.settings = _with_classes_of(result.settings, result.state)
    reference = _reference(result.settings, result.backbone_only)
    missing, unknown, other = _differences(reference, result.state)
    problems = []
    if numbers := other_numbers(reference, result.state):
        problems.append(f"what becomes {numbers}")
    if other:
        name = other[0]
        problems.append(
            f"{result.origin[name]!r} has shape {tuple(result.state[name].shape)}, the network's {name!r} has "
            f"{tuple(reference[name].shape)} ({len(other)} arrays of another shape in all)"
        )
    if missing:
        problems.append(f"the file lacks {missing[:5]} ({len(missing)} in all)")
    if unknown:
        names = [result.origin[name] for name in unknown]
        problems.append(f"the network has no place for {names[:5]} ({len(names)} in all)")
    if problems:
        raise ValueError(f"{result.file} does not fit {result.model_name}: {'; '.join(problems)}. {_hint(result)}")
    for name, value in reference.items():
        if name not in result.state:  # only learnt factors and counters are left
            is_counter = name.endswith(COUNTER)
            result.state[name] = torch.tensor(0) if is_counter else torch.ones(value.shape)
            result.added.append(name)


def _hint(result: Conversion) -> str:
    """The published networks, of those that the file's makers have weights of, whose names and shapes are the file's."""
    fitting = []
    for name in sorted(name for name, known in RELEASED.items() if result.source in known.sources):
        model = _on_meta(PUBLISHED[name])
        missing, unknown, other = _differences(_reference(PUBLISHED[name], result.backbone_only), result.state)
        if not missing and not unknown and all(layer.startswith(model.class_layers) for layer in other):
            fitting.append(name)
    return f"These shapes fit {' and '.join(fitting)}" if fitting else "These shapes fit no published network"


def _change_classes(result: Conversion, num_classes: int) -> None:
    """With another number of classes, the class layers get initial values; everything else is the file's."""
    own_classes = result.settings.num_classes
    if num_classes == own_classes:
        return
    result.settings = replace(result.settings, num_classes=num_classes)
    with torch.random.fork_rng():
        seed_torch(0, "model")
        fresh = result.settings.build_model()
    for name, value in fresh.state_dict().items():
        if name.startswith(fresh.class_layers) and value.shape != result.state[name].shape:
            result.left_out[result.origin[name]] = (
                f"a class layer, {tuple(result.state[name].shape)} for {own_classes} classes; {name} has "
                f"{tuple(value.shape)} for {num_classes}, initial values"
            )
            result.state[name] = value.clone()


# ---------------------------------------------------------------------------------------------- report and command


def _report(result: Conversion, output: Path) -> list[str]:
    factors = [name for name in result.added if name.endswith(ALPHA)]
    used = set(result.origin.values()) - result.left_out.keys()
    lines = [*result.notes, f"used: {len(used)} arrays"]
    if factors:
        lines.append(f"added: {len(factors)} learnt factors that the file lacks, as 1: {', '.join(factors)}")
    lines.append(f"added: {len(result.added) - len(factors)} counters of BatchNorm ({COUNTER}), as 0")
    lines.append(f"left out: {len(result.left_out)} entries")
    lines += [f"  {name}: {reason}" for name, reason in result.left_out.items()]
    names = [name for name, _ in _on_meta(result.settings).named_parameters()]
    total = sum(result.state[name].numel() for name in names if name in result.state)
    what = "the backbone alone" if result.backbone_only else f"{result.settings.num_classes} classes"
    lines.append(f"{output}: {result.model_name}, {what}, {total:,} parameters, digest {digest(result.state)}")
    return lines


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m public.weights.convert",
        description=f"{__doc__}\npretrained/README.md lists the files that the experiments start from.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "source",
        choices=SOURCES,
        help="whose file it is: paddle (.pdparams); mmdet, timm, torchvision or yolox (.pth, .safetensors); yolox_legacy: "
        "YOLOX's of before August 2021, which take other values of the pixels and look the same",
    )
    parser.add_argument("model", help=f"the published network: {', '.join(list_models())}")
    parser.add_argument("file", type=Path, help="the file to convert")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the checkpoint to write")
    parser.add_argument(
        "--num_classes",
        type=int,
        help="classes of the checkpoint (the file's own); with another number the class layers get initial values",
    )
    parser.add_argument(
        "--class_names",
        type=Path,
        help="a text file with the names of the classes, one a line (COCO's for 80, VOC's for 20, else class_0, ...)",
    )
    parser.add_argument(
        "--backbone_only", action="store_true", help="only the backbone, from its own file or a detector's (no)"
    )
    return parser


def run(arguments: argparse.Namespace) -> None:
    lines = convert(
        source=arguments.source,
        model_name=arguments.model,
        file=arguments.file,
        output=arguments.output,
        num_classes=arguments.num_classes,
        names_file=arguments.class_names,
        backbone_only=arguments.backbone_only,
    )
    print("\n".join(lines))


if __name__ == "__main__":
    parser = make_parser()
    call(run, parser.parse_args())
