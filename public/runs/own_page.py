"""The page of an experiment on a user's own data: an existing page, with what has to be another written over it.

Every value that is chosen stands below a comment that says why.  What is not named here stays as the page has it.
"""

import os
import re
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

from public.config import ClassificationConfig
from public.datasets.cifar import Cifar
from public.datasets.coco import Coco
from public.datasets.combine import Split
from public.datasets.image_folder import ImageFolder
from public.datasets.layouts import Layout
from public.datasets.voc import VOC_PLACES, Places, Voc
from public.datasets.yolo import Yolo
from public.files import REPOSITORY
from public.runs import fitting
from public.runs.experiment import Experiment, load_experiment
from public.runs.near_copies import card_of
from public.runs.page_text import PageText, literal
from public.runs.run_folder import newest_weights
from public.runs.starting_experiment import named_experiment, shown_place

CARD_WIDTH = 116
MODULES = {
    "Coco": "public.datasets.coco",
    "ImageFolder": "public.datasets.image_folder",
    "RandomFlip": "public.transforms.flip",
    "RandomResizedCrop": "public.transforms.classification",
    "Split": "public.datasets.combine",
    "Voc": "public.datasets.voc",
    "Yolo": "public.datasets.yolo",
}


class Own(NamedTuple):
    """What a page is made of."""

    original: Experiment  # the page that it is written from
    layout: Layout
    parts: fitting.Parts
    class_names: tuple[str, ...]
    notes: list[str]  # on the classes


def write_page(own: Own, name: str, command: str) -> PageText:
    """The page of the experiment `name`, which `command` trains."""
    page = PageText((own.original.source / "config.py").read_text(encoding="utf-8"))
    is_classifier = isinstance(own.original.config, ClassificationConfig)
    _state_steps(page, own)
    (_state_crop if is_classifier else _state_size)(page, own)
    _state_starting_weights(page, own)
    page.set_inner(
        "classifier" if is_classifier else "detector", "num_classes", literal(len(own.class_names)), "of CLASSES"
        if not is_classifier else "the class folders that were found",
    )  # fmt: skip
    _state_data(page, own, is_classifier)
    page.set_card(_card(own, name, command))
    page.set_imports(MODULES)
    return page


# -------------------------------------------------------------------------------------------------------- data


def _state_data(page: PageText, own: Own, is_classifier: bool) -> None:
    """Writes the three sets, and the constants above them."""
    constants: dict[str, tuple[str, str | None]] = {}
    if not is_classifier:
        classes_why = f"found in the data, in label order{''.join(f'; {note}' for note in own.notes)}"
        constants["CLASSES"] = (literal(own.class_names), classes_why)
    split = own.parts.split
    if split is not None:
        whole = own.parts.settings["train"].data
        constants["EVERYTHING"] = (_stated(whole, own, "train"), own.layout.found)
    for part, data in own.parts.settings.items():
        why: str | None = None
        if isinstance(data, Split):
            fraction, seed = split.value if split else (None, None)
            text = f'Split(data=EVERYTHING, part="{part}", val_fraction={fraction}, seed={seed})'
            why = split.why if split and part == "train" else None
        else:
            text = "None" if data is None else _stated(data, own, part)
            why = own.layout.found if part == "train" else "the data have no third part" if data is None else None
        page.set(f"{part}_data", text, why)
    page.set_constants(constants)


def _stated(data: Any, own: Own, part: str) -> str:
    """The settings of a set as a page states them."""
    common = "classes=CLASSES, keep_empty_images=True"
    if isinstance(data, Voc):
        places = "" if Places(data.annotations, data.images) == VOC_PLACES else (
            f", annotations={literal(data.annotations)}, images={literal(data.images)}"
        )  # fmt: skip
        return (
            f"Voc(sources={literal(data.sources)}, classes=CLASSES, use_difficult=True, keep_empty_images=True{places})"
        )
    if isinstance(data, Coco):
        root = os.path.relpath(own.parts.read[part].image_root, own.layout.data_root)
        images = Path(root).as_posix()
        return f"Coco(annotations={literal(data.annotations)}, images={literal(images)}, {common})"
    if isinstance(data, Yolo):
        return f"Yolo(data={literal(data.data)}, split={literal(data.split)}, {common})"
    assert isinstance(data, ImageFolder)
    count = len(own.class_names)
    return f"ImageFolder(folder={literal(data.folder)}, classes=None, num_classes={count})"


# ------------------------------------------------------------------------------------------- steps, sizes, weights


def _state_steps(page: PageText, own: Own) -> None:
    config, name = own.original.config, own.original.name
    most = None if isinstance(config, ClassificationConfig) else fitting.MOST_IMAGES
    batch = fitting.choose_batch(len(own.parts.read["train"]), config.batch_size, name, most)
    lr = fitting.choose_lr(config.lr, batch.value, config.batch_size, name)
    page.set("batch_size", literal(batch.value), batch.why)
    page.set("lr", page.expression("lr") if lr.value == config.lr else literal(lr.value), lr.why)
    steps = config.epochs * (len(own.parts.read["train"]) // batch.value)
    page.set("epochs", literal(config.epochs), f"as in {name}: {steps} steps in all; --epochs tries another number")
    if batch.value % config.accumulate:
        page.set("accumulate", "1", f"{batch.value} images of a step cannot be cut into {config.accumulate} parts")


def _state_size(page: PageText, own: Own) -> None:
    """The size of a detector's input, wherever the page states it; the rule of a page that keeps aspects fits any data."""
    config = own.original.config
    if config.input.multiple is not None:
        why = f"as in {own.original.name}: the rule of resize brings pictures of any size to it"
        page.set_inner("input", "size", literal(config.input.size), why)
        return
    drawn = [kind for kind in config.batch_transforms if hasattr(kind, "sizes")]
    size = fitting.choose_size(own.parts.read["train"], is_square=bool(drawn))
    page.set_inner("input", "size", literal(size.value), size.why)
    for name in ("size", "crop_size"):
        page.set_inner("train_transforms", name, literal(size.value))
    if drawn:
        sizes = fitting.choose_sizes(size.value[0], drawn[0].sizes, config.input.size[0])
        page.set_inner("batch_transforms", "sizes", literal(sizes.value), sizes.why)


def _state_crop(page: PageText, own: Own) -> None:
    """The size of a classifier's input, and transforms that bring pictures of any size to it."""
    config = own.original.config
    is_for_small = isinstance(config.train_data, Cifar)
    crop = fitting.choose_crop(own.parts.read["train"], config.input, is_for_small=is_for_small)
    size, shorter_side = crop.value
    page.set_inner("input", "size", literal(size), crop.why)
    page.set_inner("input", "shorter_side", literal(shorter_side))
    if is_for_small:
        page.set(
            "train_transforms",
            f"(RandomResizedCrop(size={literal(size)}, area=(0.35, 1.0), aspect_ratio=(3 / 4, 4 / 3), "
            'interpolation="area", num_attempts=10), RandomFlip(prob=0.5))',
            "the pictures of the page have one size, these may have any: a part of each is cut out and scaled",
        )
        page.drop("data_on_device")
    elif size != config.input.size:
        page.set_inner("train_transforms", "size", literal(size))


def missing_weights(own: Own) -> str | None:
    """The command that makes the page's starting weights, where they are not there."""
    weights = own.original.config.starting_weights
    if weights is None or (REPOSITORY / weights).is_file():
        return None
    folder = named_experiment(weights)
    if folder is None:
        return f"python -m public.weights.download {Path(weights).stem}"
    experiment = load_experiment(folder)
    return None if newest_weights(experiment) else f"python {shown_place(experiment.folder)}/train.py"


def _state_starting_weights(page: PageText, own: Own) -> None:
    """The page's starting weights, where they are there; else none, so that training can begin."""
    missing = missing_weights(own)
    if missing is None:
        return
    why = (
        f"{own.original.name} starts from {own.original.config.starting_weights}, which was not there; few pictures need it: "
        f"{missing}, then write its name here"
    )
    page.set("starting_weights", "None", why)
    if own.original.config.freeze or own.original.config.freeze_batchnorm:
        page.set("freeze", "()", "without starting weights nothing is worth keeping as it is")
        page.set("freeze_batchnorm", "()")


# -------------------------------------------------------------------------------------------------------- card


def _card(own: Own, name: str, command: str) -> list[str]:
    """The lines of the docstring."""
    original = card_of(own.original.source).splitlines()
    network = original[0].partition(" on ")[0]
    counts = " + ".join(str(len(own.parts.read[part])) for part in ("train", "val", "test") if part in own.parts.read)
    title = f"{network} on {name}: {counts} pictures, {len(own.class_names)} classes."
    lines = [title if len(title) <= CARD_WIDTH else f"{name}: {counts} pictures, {len(own.class_names)} classes.", ""]
    weights = own.original.config.starting_weights
    kept = ["Paper:", *(["Starting weights:"] if weights and missing_weights(own) is None else [])]
    for word in kept:
        lines += paragraph(original, word)
    lines += wrapped(f"Recipe: that of {own.original.name}, fitted to these data; each choice below says why.")
    lines += wrapped(f"Data: {own.layout.found}; {', '.join(own.layout.notes) or 'nothing was left out'}.")
    lines += wrapped(f"Command: {command}")
    return [*lines, "Expected: not trained yet."]


def paragraph(card: list[str], word: str) -> list[str]:
    """The line of the card that begins with `word`, and the indented ones that belong to it."""
    start = next((number for number, line in enumerate(card) if line.startswith(word)), None)
    if start is None:
        return []
    end = start + 1
    while end < len(card) and card[end].startswith(" "):
        end += 1
    text = " ".join(line.strip() for line in card[start:end])
    return wrapped(re.sub(r"[.:]\s+[\d,]+ parameters\.", ".", text))  # their number goes with that of the classes


def wrapped(text: str, indent: str = "    ") -> list[str]:
    return textwrap.wrap(text, CARD_WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
