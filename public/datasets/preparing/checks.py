"""What `check_dataset` looks at beyond what the readers meet: the classes, every picture, and what two splits share."""

import hashlib
import itertools
import os
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from public.datasets.annotations import Annotations
from public.datasets.defects import Defect
from public.datasets.pictures import check_size, load_picture
from public.datasets.preparing.similarity import find_near, perceptual_hash
from public.datasets.voc import PICTURE_EXTENSIONS, VOC_PLACES, Places, is_class_line, list_split
from public.files import allow_open_files
from public.folders import files_under, look_into
from public.input import ImageError, read_size

FILES_A_PROCESS = 6  # pipes to a process that looks at pictures


class Seen(NamedTuple):
    """What was found about one picture."""

    path: str
    defect: Defect | None
    sha256: str | None  # of the file; None if it cannot be read, or was not
    pixels: str | None = None  # sha256 of the decoded picture
    looks: np.ndarray | None = None  # `perceptual_hash`


LEAK = "What is trained on must not be evaluated on."


def check_classes(annotations: Annotations) -> list[Defect]:
    """Warnings: names that differ by case and white space only, and classes without objects."""
    defects, spellings = [], {}
    place = annotations.description
    for name in annotations.class_names:
        spellings.setdefault("".join(name.split()).casefold(), []).append(name)
    for names in spellings.values():
        if len(names) > 1:
            text = f"{place}: the classes {', '.join(map(repr, names))} differ by case or spaces only; are they one?"
            defects.append(Defect("similar class names", place, text))
    counts = np.bincount(annotations.labels, minlength=len(annotations.class_names))
    for name, count in zip(annotations.class_names, counts):
        if count == 0:
            defects.append(Defect("class without objects", place, f"{place}: no object of the class {name!r}"))
    return defects


# ------------------------------------------------------------------------------------------------------- pictures


def check_pictures(annotations: Annotations, *, is_quick: bool, num_workers: int, title: str) -> list[Seen]:
    """Reads every picture once, as training would, and compares its size with the annotated one; see `look_at`."""
    return look_at(_Pictures(annotations, is_quick), num_workers=num_workers, title=title)


def look_at(pictures: Dataset, *, num_workers: int, title: str) -> list[Seen]:
    """What `pictures` finds in each of its pictures, in order.

    Args:
        num_workers: processes; 0 reads in this one.
        title: of the progress bar, which a terminal shows.

    Raises:
        OSError: so many processes would need more open files than are allowed.
    """
    allow_open_files(
        num_workers * FILES_A_PROCESS, f"looking at pictures by {num_workers} processes", "--workers takes fewer"
    )
    loader = DataLoader(
        pictures,
        batch_size=None,
        num_workers=num_workers,
        collate_fn=_as_it_is,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # the loader numbers its workers from it
        multiprocessing_context="fork" if num_workers and sys.platform == "linux" else None,
    )
    return list(tqdm(loader, desc=title, unit="pictures", disable=not sys.stderr.isatty()))


class _Pictures(Dataset):
    """is_quick: only the header of each file is read; then no file is hashed, and a cut one is not noticed."""

    def __init__(self, annotations: Annotations, is_quick: bool):
        self.annotations = annotations
        self.is_quick = is_quick

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, index: int) -> Seen:
        path = self.annotations.image_path(index)
        try:
            if self.is_quick:
                check_size(self.annotations, index, *read_size(path))
                return Seen(path, None, None)
            return seen_whole(path, file_sha256(path, is_quick=False), load_picture(self.annotations, index))
        except ImageError as error:
            return Seen(path, Defect(error.kind, path, str(error)), file_sha256(path, self.is_quick))


def seen_whole(path: str, sha256: str | None, image: np.ndarray) -> Seen:
    """What is kept of a picture (H, W, 3) uint8 RGB without defect, to tell whether another one is the same."""
    digest = hashlib.sha256(str(image.shape).encode())
    digest.update(np.ascontiguousarray(image).data)
    return Seen(path, None, sha256, digest.hexdigest(), perceptual_hash(image))


def file_sha256(path: str, is_quick: bool) -> str | None:
    """sha256 (hex) of the file; None where it is not there, or nothing is to be read."""
    if is_quick or not os.path.isfile(path):
        return None
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _as_it_is(item):
    return item


def _start_worker(worker):
    cv2.setNumThreads(0)


# ------------------------------------------------------------------------------------------- between the pictures


def find_shared(splits: Mapping[str, Sequence[Seen]]) -> list[Defect]:
    """Pictures that two splits share, and pictures that one split holds twice.

    The same file, or the same pixels, in two splits are an error; pictures of two splits that look alike (`similarity`) are
    a warning with both names, and so are the same pixels twice within a split.
    """
    defects, first_by_path, first_by_pixels = [], {}, {}
    for split, pictures in splits.items():
        for seen in pictures:
            path = os.path.realpath(seen.path)
            other_split = first_by_path.setdefault(path, split)
            if other_split != split:
                text = f"{seen.path}: in {other_split} and in {split}. {LEAK}"
                defects.append(Defect("picture in two splits", seen.path, text))
                continue
            pixels = seen.pixels or seen.sha256  # of what cannot be decoded the bytes have to do
            if pixels is None:
                continue
            other_split, other = first_by_pixels.setdefault(pixels, (split, seen))
            if os.path.realpath(other.path) == path:
                continue
            what = "bytes" if seen.sha256 == other.sha256 else "decoded pixels"
            text = f"{seen.path} ({split}): the same {what} as {other.path} ({other_split})"
            if other_split != split:
                defects.append(Defect("picture in two splits", seen.path, f"{text}. {LEAK}"))
            else:
                defects.append(Defect("identical pictures", seen.path, text))
    for (first, others), (split, pictures) in itertools.combinations(splits.items(), 2):
        defects += _find_alike(first, others, split, pictures)
    return defects


def _find_alike(first, others, split, pictures):
    """A warning for each picture of `split` that looks like one of `first`, the nearest, and is not the very same."""
    defects = []
    for near in find_near([seen.looks for seen in pictures], [seen.looks for seen in others]):
        one, other = pictures[near.index], others[near.other]
        if one.pixels == other.pixels or os.path.realpath(one.path) == os.path.realpath(other.path):
            continue
        how = ", mirrored or turned" if near.is_turned else ""
        text = (
            f"{one.path} ({split}): looks like {other.path} ({first}){how}, {near.distance} of 255 bits apart. "
            f"If they show the same, take one out: {LEAK[0].lower()}{LEAK[1:]}"
        )
        defects.append(Defect("similar pictures", one.path, text))
    return defects


# ---------------------------------------------------------------------------------------- a folder in VOC layout


def all_lists(folder: str | os.PathLike) -> dict[str, list[str]]:
    """{name: its lines} of the lists in ImageSets/Main."""
    place = os.path.join(folder, "ImageSets", "Main")
    files = look_into(place).files if os.path.isdir(place) else []
    names = [file.removesuffix(".txt") for file in files if file.endswith(".txt")]
    return {name: list_split(os.path.join(place, f"{name}.txt")) for name in names}


def voc_splits(folder: str | os.PathLike) -> dict[str, list[str]]:
    """{split: image ids} of the lists in ImageSets/Main; those of single classes, `<image id> -1`, are passed over."""
    return {name: ids for name, ids in all_lists(folder).items() if not ids or not all(map(is_class_line, ids))}


def check_voc_lists(
    folder: str | os.PathLike, splits: dict[str, list[str]], places: Places = VOC_PLACES
) -> list[Defect]:
    """Ids that a list names twice or that have no xml, and pictures without xml."""
    defects = []
    annotations = os.path.normpath(os.path.join(folder, places.annotations))
    known = _stems(annotations, (".xml",))
    for split, image_ids in splits.items():
        listing = os.path.join(folder, "ImageSets", "Main", f"{split}.txt")
        met = set()
        for line, image_id in enumerate(image_ids, start=1):
            file = os.path.join(annotations, f"{image_id}.xml")
            if image_id in met:
                text = f"{listing}, line {line}: image {image_id!r} is listed twice. Each image counts once."
                defects.append(Defect("duplicate id", listing, text, image_id))
            elif image_id not in known and not os.path.isfile(file):
                text = f"{file}: missing, though {listing} lists the image"
                defects.append(Defect("missing annotation", file, text))
            met.add(image_id)
    images = os.path.normpath(os.path.join(folder, places.images))
    for image_id, file in sorted(_stems(images, PICTURE_EXTENSIONS).items()):
        if image_id not in known:
            xml = os.path.normpath(os.path.join(places.annotations, f"{image_id}.xml"))
            text = f"{file}: no file {xml}; the picture is never used"
            defects.append(Defect("picture without annotation", file, text))
    return defects


def forgive_unlisted(defects: list[Defect], splits: dict[str, list[str]], images: str | os.PathLike) -> list[Defect]:
    """`defects`, where a picture that is missing is only a warning if no list names it, and there are lists.

    Args:
        images: the folder of the pictures.
    """
    listed = {image_id for image_ids in splits.values() for image_id in image_ids}
    result = []
    for defect in defects:
        image_id = os.path.relpath(os.path.splitext(defect.file)[0], images)
        if defect.kind == "missing picture" and splits and image_id not in listed:
            defect = defect._replace(kind="annotation without picture")
        result.append(defect)
    return result


def _stems(folder, extensions):
    """{path from `folder` on, without its extension: path} of the files with one of `extensions`."""
    files = files_under(folder, extensions, lambda path, message: None) if os.path.isdir(folder) else []
    return {os.path.splitext(file)[0]: os.path.join(folder, file) for file in files}
