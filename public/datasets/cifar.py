"""CIFAR-10 and CIFAR-100 in their python archives (Krizhevsky, "Learning Multiple Layers of Features", 2009).

An archive is a folder of pickles, which `public.safe_pickle` reads without executing anything in them:

    cifar-10-batches-py    data_batch_1 ... data_batch_5, test_batch, batches.meta       key of the labels: labels
    cifar-100-python       train, test, meta                                             key of the labels: fine_labels

Each pickle of pictures is a dict: `data` uint8 (N, 3072), a row being 32 x 32 reds, greens, blues; the labels, a list of
N numbers; `filenames`, N names.  Any folder of one of the two layouts is read; one that has an official name has to have
the official counts as well.
"""

import mmap
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from public.datasets.annotations import agree_on_classes
from public.datasets.classification_set import ClassificationSet
from public.safe_pickle import PickleMachine, SavedArray, kind_of
from public.settings import Name, check
from public.text import shorten, shown

SIDE = 32  # pixels
MAX_INSTRUCTIONS = 2_000_000  # CIFAR-100's 50,000 pictures take 200,000


class Layout(NamedTuple):
    """Which files an archive has, and under which keys."""

    meta: str
    names_key: str
    labels_key: str
    splits: dict[str, tuple[str, ...]]


LAYOUTS = (
    Layout("meta", "fine_label_names", "fine_labels", {"train": ("train",), "test": ("test",)}),
    Layout(
        "batches.meta",
        "label_names",
        "labels",
        {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)},
    ),
)


class OfficialCounts(NamedTuple):
    """What an archive of this name has to hold."""

    num_classes: int
    num_images: dict[str, int]


OFFICIAL = {
    "cifar-100-python": OfficialCounts(100, {"train": 50_000, "test": 10_000}),
    "cifar-10-batches-py": OfficialCounts(10, {"train": 50_000, "test": 10_000}),
}


@dataclass(frozen=True, kw_only=True)
class Cifar:
    """A data set in CIFAR's archive format.

    Fields:
        archive: the unpacked folder under the data root, such as "cifar-100-python".
        split: "train" or "test".
    """

    archive: Name
    split: Literal["train", "test"]

    def __post_init__(self) -> None:
        check(self)

    def read(self, data_root: str | os.PathLike, class_names: tuple[str, ...] | None = None) -> ClassificationSet:
        """Reads all pictures of the split into memory.

        Args:
            data_root: the folder that `archive` starts from.
            class_names: the classes that this set has to agree with, for instance those of the training set.

        Raises:
            FileNotFoundError: the folder or one of its files is missing.
            ValueError: a file is no such pickle, its arrays have other shapes or counts, or the class names differ.
        """
        folder = Path(data_root) / self.archive
        layout = find_layout(folder)
        names = agree_on_classes(_class_names(folder, layout), class_names, str(folder))
        parts = [_read_part(folder / file, layout, len(names)) for file in layout.splits[self.split]]
        images = np.concatenate([part.images for part in parts])
        self._check_counts(folder, len(images), len(names))
        return ClassificationSet(
            images=images,
            image_root=None,
            labels=np.concatenate([part.labels for part in parts]),
            class_names=names,
            image_ids=[name for part in parts for name in part.names],
            description=f"CIFAR {self.archive}/{self.split}",
        )

    def _check_counts(self, folder, num_images, num_classes):
        official = OFFICIAL.get(folder.name)
        if official is None:
            return
        found, expected = (num_images, num_classes), (official.num_images[self.split], official.num_classes)
        if found != expected:
            raise ValueError(
                f"{folder}: {self.split} has {found[0]} images of {found[1]} classes, the archive of this name has "
                f"{expected[0]} of {expected[1]}. Download it again, or give the folder another name."
            )


def find_layout(folder: Path) -> Layout:
    """Which of the two layouts the folder has, told by its file of class names.

    Raises:
        FileNotFoundError: the folder is missing, or has neither file.
    """
    if not folder.is_dir():
        known = 10 if folder.name == "cifar-10-batches-py" else 100
        raise FileNotFoundError(
            f"there is no folder {folder}; `python -m public.test_scripts.download_cifar --classes {known}` makes CIFAR's, "
            "`python -m public.datasets.drawn_cifar` the drawn one"
        )
    for layout in LAYOUTS:
        if (folder / layout.meta).is_file():
            return layout
    files = " nor ".join(layout.meta for layout in LAYOUTS)
    raise FileNotFoundError(f"{folder} has neither {files}: it is not an archive of CIFAR")


def read_pickle(path: Path) -> dict[str, Any]:
    """The dict that a file of the archive holds; arrays as numpy arrays, read-only.  Nothing in it is executed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no pickle of plain containers and arrays.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}, though its archive needs it; unpack the archive again")
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty, 0 bytes; unpack the archive again")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        machine = PickleMachine(len(data), purpose="labelled pictures", max_instructions=MAX_INSTRUCTIONS)
        try:
            content = machine.run(data)
        except ValueError as error:
            raise ValueError(f"{path}: {shorten(shown(str(error)), 1000)}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds {kind_of(content)}, not a dict")
    return {key: value.value if isinstance(value, SavedArray) else value for key, value in content.items()}


def _entry(path, content, key, kind):
    value = content.get(key)
    if not isinstance(value, kind):
        found = "is missing" if key not in content else f"is {kind_of(value)}"
        raise ValueError(f"{path}: the entry {key!r} {found}, not a {kind.__name__}; it has {_listed(content)}")
    return value


def _listed(content):
    return [shorten(name, 40) for name in sorted(content)[:8]]


def _class_names(folder, layout):
    path = folder / layout.meta
    names = _entry(path, read_pickle(path), layout.names_key, list)
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path}: {layout.names_key} has to be a list of names, at least one")
    return tuple(names)


class _Part(NamedTuple):
    images: np.ndarray  # (N, 32, 32, 3) uint8 RGB
    labels: np.ndarray  # (N,) int64
    names: list[str]


def _read_part(path, layout, num_classes):
    content = read_pickle(path)
    rows = _entry(path, content, "data", np.ndarray)
    labels, names = _entry(path, content, layout.labels_key, list), _entry(path, content, "filenames", list)
    if rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != 3 * SIDE * SIDE:
        raise ValueError(f"{path}: data is {rows.dtype} {rows.shape}, has to be uint8 (N, {3 * SIDE * SIDE})")
    if not len(rows) == len(labels) == len(names):
        raise ValueError(
            f"{path}: {len(rows)} pictures, {len(labels)} labels, {len(names)} names: they have to be equal"
        )
    wrong = [label for label in labels if type(label) is not int or not 0 <= label < num_classes]
    if wrong:
        shown = wrong[0] if isinstance(wrong[0], int) else kind_of(wrong[0])
        raise ValueError(
            f"{path}: {len(wrong)} labels are not classes, the first is {shown}; {layout.meta} names {num_classes} classes, "
            "numbered from 0"
        )
    if not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path}: filenames has to be a list of names")
    images = rows.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)  # (N, 32, 32, 3)
    return _Part(np.ascontiguousarray(images), np.array(labels, dtype=np.int64), names)
