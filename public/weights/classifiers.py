"""torchvision's, timm's and Paddle's weights of a backbone -> a checkpoint; `public.weights.convert` calls it.

Nothing in the file is executed.  Each array is used once, or the file is refused: what it lacks, has too many, or has in
another shape is an error.  Added, and reported, are the counters of torch's BatchNorm, which older files lack.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from public.checkpoint_files import digest, save_atomic
from public.datasets.imagenet_names import imagenet_words
from public.models.backbones import IMAGENET_CLASSES, NETWORKS, family_of, image_size
from public.models.image_classifier import Classifier
from public.models.loading import BACKBONE
from public.parts import other_numbers
from public.random_streams import seed_torch
from public.weights.backbones import State, released
from public.weights.cards import write_card
from public.weights.class_names import class_names
from public.weights.pdparams import read_pdparams
from public.weights.torch_files import read_torch_file
from public.weights.widen import widen_arrays, widen_tensors

SMALL_SIDE = 64  # images of at most so many pixels, such as CIFAR's, are taken whole
COUNTER = "num_batches_tracked"  # of torch's BatchNorm


@dataclass
class Conversion:
    """A checkpoint in the making, and what is to be said about it."""

    source: str
    model_name: str
    file: Path
    sha256: str = ""
    theirs: State = field(default_factory=dict)
    state: State = field(default_factory=dict)  # with our names
    keywords: dict[str, Any] = field(default_factory=dict)  # of the family's `build`
    num_classes: int | None = None  # None: the file holds a backbone alone
    notes: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)  # the file's name -> reason
    unused: dict[str, str] = field(default_factory=dict)  # our name of an array of `theirs` -> reason

    def build(self, num_classes: int) -> Classifier:
        return family_of(self.model_name).build(self.model_name, num_classes=num_classes, **self.keywords)


def convert_classifier(
    *,
    source: str,
    model_name: str,
    file: Path,
    output: Path,
    num_classes: int | None = None,
    names_file: Path | None = None,
    backbone_only: bool = False,
) -> list[str]:
    """Writes the checkpoint `output` for the network `model_name` of `public.models.backbones`; returns the report.

    The arguments are those of `public.weights.convert.convert`.  The checkpoint's `keywords` are those of the family's
    `build` that the weights need; `create_model` takes them from there.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: naming the file and what does not fit; nothing is written then.
    """
    known = released(model_name, source)
    result = Conversion(source, model_name, file)
    (_read_paddle if source == "paddle" else _read_torch)(result)
    if backbone_only and any(name.startswith(BACKBONE) for name in result.theirs):
        result.left_out |= {name: "not of the backbone" for name in result.theirs if not name.startswith(BACKBONE)}
        result.theirs = {name: value for name, value in result.theirs.items() if name.startswith(BACKBONE)}
    try:
        result.state = dict(known.rename(result.theirs, model_name))
    except ValueError as error:
        raise ValueError(f"{file}: {error}. {_hint(result)}") from error
    result.keywords = known.keywords(result.theirs, result.state, model_name)
    if backbone_only:
        others = [name for name in result.state if not name.startswith(BACKBONE)]
        result.unused |= dict.fromkeys(others, "not of the backbone")
        result.state = {name: value for name, value in result.state.items() if name not in others}
    _complete(result, backbone_only)
    if result.num_classes is not None:
        _change_classes(result, num_classes or result.num_classes)
    elif num_classes is not None or names_file is not None:
        raise ValueError(
            f"{file} holds a backbone alone, which has no classes: leave --num_classes and --class_names out"
        )
    _save(result, output, names_file)
    return _report(result, output)


# ---------------------------------------------------------------------------------------------- the file's arrays


def _read_paddle(result: Conversion) -> None:
    foreign = read_pdparams(result.file)
    arrays, lines = widen_arrays(foreign.arrays, result.file)
    result.sha256, result.left_out = foreign.sha256, dict(foreign.left_out)
    result.theirs = {name: torch.tensor(array) for name, array in arrays.items()}
    result.notes += [f"{result.file}: sha256 {foreign.sha256}", *lines]


def _read_torch(result: Conversion) -> None:
    foreign = read_torch_file(result.file)
    result.sha256, result.left_out = foreign.sha256, foreign.left_out
    result.notes += foreign.notes
    result.theirs, lines = widen_tensors(foreign.tensors, result.file)
    result.notes += lines


# ---------------------------------------------------------------------------------------------- the network


def _reference(result: Conversion, backbone_only: bool) -> State:
    """Name and shape of all that the checkpoint has to hold, with as many classes as the file."""
    with torch.device("meta"):
        state = result.build(1 if result.num_classes is None else result.num_classes).state_dict()
    return {name: value for name, value in state.items() if not backbone_only or name.startswith(BACKBONE)}


def _complete(result: Conversion, backbone_only: bool) -> None:
    """Finds the number of classes, compares names and shapes with the network's, and adds the counters that are missing.

    Raises:
        ValueError: naming what the file lacks, has too many, or has in another shape.
    """
    result.num_classes = _num_classes(result.state)
    is_backbone = backbone_only or all(name.startswith(BACKBONE) for name in result.state)
    reference = _reference(result, is_backbone)
    problems = _problems(reference, result.state)
    if problems:
        raise ValueError(f"{result.file} does not fit {result.model_name}: {'; '.join(problems)}. {_hint(result)}")
    added = [name for name in reference if name not in result.state]  # counters only
    result.state |= {name: torch.tensor(0) for name in added}
    if added:
        result.notes.append(f"added: {len(added)} counters of BatchNorm ({COUNTER}), as 0")


def _num_classes(state: State) -> int | None:
    """The rows of the class layer; None where there is none, or what stands there is no matrix with rows."""
    weight = state.get("fc.weight")
    return len(weight) if weight is not None and weight.ndim == 2 and len(weight) else None


def _problems(reference: State, state: State) -> list[str]:
    missing = [name for name in reference if name not in state and not name.endswith(COUNTER)]
    unknown = [name for name in state if name not in reference]
    other = [name for name, value in state.items() if name in reference and value.shape != reference[name].shape]
    problems = []
    if numbers := other_numbers(reference, state):
        problems.append(f"what becomes {numbers}")
    if other:
        name = other[0]
        problems.append(
            f"what becomes {name!r} has shape {tuple(state[name].shape)}, the network's has "
            f"{tuple(reference[name].shape)} ({len(other)} arrays of another shape in all)"
        )
    if missing:
        problems.append(f"the file lacks what becomes {missing[:5]} ({len(missing)} in all)")
    if unknown:
        problems.append(f"the network has no place for {unknown[:5]} ({len(unknown)} in all)")
    return problems


def _hint(result: Conversion) -> str:
    """The networks whose names and shapes are those of the file."""
    fitting = []
    for name in NETWORKS:
        try:
            known = released(name, result.source)
            other = Conversion(result.source, name, result.file, state=known.rename(result.theirs, name))
        except ValueError:
            continue
        other.keywords = known.keywords(result.theirs, other.state, name)
        other.num_classes = _num_classes(other.state)
        if not _problems(_reference(other, other.num_classes is None), other.state):
            fitting.append(name)
    return f"These arrays fit {' and '.join(fitting)}" if fitting else "These arrays fit no network here"


def _change_classes(result: Conversion, num_classes: int) -> None:
    """With another number of classes, the last layer gets initial values, from a fixed seed."""
    own = result.num_classes
    if num_classes == own:
        return
    with torch.random.fork_rng():
        seed_torch(0, "model")
        fresh = result.build(num_classes).state_dict()
    for name in ("fc.weight", "fc.bias"):
        result.unused[name] = (
            f"the class layer, {tuple(result.state[name].shape)} for {own} classes; "
            f"{tuple(fresh[name].shape)} for {num_classes}, initial values"
        )
        result.state[name] = fresh[name]
    result.num_classes = num_classes


# ---------------------------------------------------------------------------------------------- checkpoint and report


def _save(result: Conversion, output: Path, names_file: Path | None) -> None:
    card: dict[str, Any] = {"model_name": result.model_name, "keywords": result.keywords}
    if result.num_classes is None:
        card |= {"part": "backbone", "num_classes": None, "class_names": []}
    else:
        names, line = _class_names(result.num_classes, names_file)
        result.notes.append(line)
        card |= {"num_classes": len(names), "class_names": list(names)}
    card["input"] = input_card(result.model_name)
    size, shorter = card["input"]["size"], card["input"]["shorter_side"]
    result.notes.append(
        f"input: shorter side to {shorter}, the middle {size[0]} x {size[1]}: usual, but not in the file"
    )
    origin = {"project": result.source, "file": result.file.name, "sha256": result.sha256}
    save_atomic({"model": result.state, **card, "converted_from": origin}, output)
    write_card(output, card | {"converted_from": origin}, digest(result.state))


def input_card(model_name: str) -> dict[str, Any]:
    """What the networks here were trained to see: RGB with ImageNet's mean and standard deviation, at the published size.

    How an image is resized and cropped to that size differs between releases, and the file does not say it: taken is the
    usual rule, the shorter side to 256 / 224 of the size, then the middle; for CIFAR's small pictures the size itself.
    """
    side = image_size(model_name)
    return {
        "size": [side, side],
        "shorter_side": side if side <= SMALL_SIDE else side * 256 // 224,
        "interpolation": "area",  # the nearest to Pillow's antialiased reduction, with which they were trained
        "color_order": "rgb",
        "scale": 1 / 255,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }


def _class_names(num_classes: int, names_file: Path | None) -> tuple[tuple[str, ...], str]:
    """The file's; else ImageNet's for 1000 classes; else numbers: 20 or 80 classes need not be VOC's or COCO's."""
    if names_file is not None:
        return class_names(num_classes, names_file)
    if num_classes == IMAGENET_CLASSES:
        line = (
            "class names: ImageNet's 1000, as torchvision lists them, by their number (--class_names FILE gives others)"
        )
        return imagenet_words(), line
    names = tuple(f"class_{label}" for label in range(num_classes))
    return (
        names,
        f"class names: class_0 .. class_{num_classes - 1}, since none are known (--class_names FILE gives them)",
    )


def _report(result: Conversion, output: Path) -> list[str]:
    used = len(result.theirs) - len(result.unused)
    lines = [*result.notes, f"used: {used} arrays"]
    if result.keywords:
        lines.append("keywords that these weights need: " + ", ".join(f"{k}={v!r}" for k, v in result.keywords.items()))
    lines.append(f"left out: {len(result.left_out) + len(result.unused)} entries")
    lines += [f"  {name}: {reason}" for name, reason in result.left_out.items()]
    lines += [f"  what would be {name}: {reason}" for name, reason in result.unused.items()]
    what = "the backbone alone" if result.num_classes is None else f"{result.num_classes} classes"
    with torch.device("meta"):
        names = [name for name, _ in result.build(1).named_parameters()]
    total = sum(result.state[name].numel() for name in names if name in result.state)
    lines.append(f"{output}: {result.model_name}, {what}, {total:,} parameters, digest {digest(result.state)}")
    return lines
