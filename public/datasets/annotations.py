"""The annotations of a data set, in a few flat arrays.

A list of dicts per image is copied page by page into every loader worker as Python counts references; flat numpy
arrays are shared.  M boxes of N images lie one after the other, `offsets` (N + 1) says where each image begins.

Boxes are x1 y1 x2 y2 with continuous coordinates: pixel column c covers [c, c + 1], a picture of width W ends at W.
"""

import copy
import functools
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from public.datasets.defects import DROPPED_BOXES, Defect, OnDefect, stop
from public.folders import where_it_leads
from public.input import ImageError
from public.settings import refuse_text
from public.text import shorten

SHOWN_CLASSES = 20  # with more of them a message names the first


class Objects(NamedTuple):
    """The N objects of one image."""

    boxes: np.ndarray  # (N, 4) float32
    labels: np.ndarray  # (N,) int64
    difficult: np.ndarray  # (N,) bool
    crowd: np.ndarray  # (N,) bool


class Annotations:
    """The images and objects of one data set; made by `assemble`, through `Voc.read` and `Coco.read`.

    Attributes:
        offsets (N + 1,) int64; boxes (M, 4) float32; labels (M,) int64; difficult, crowd (M,) bool; areas (M,) float64;
        heights, widths (N,) int64; image_ids (N,), see `exact_ids`; class_names: tuple of K; category_ids: tuple of K, the
        data set's own class numbers; use_difficult: whether difficult objects are trained on; description: for
        messages; dropped, clipped, corrected: one line for each box that could not be used as it was written, or whose
        area could not, with its file, number (VOC: position in the file, from 0; COCO: annotation id), corners as written
        and the reason; warnings: lines that a user should see before a training; repeat_threshold: of
        `public.datasets.balanced`, or None.
    """

    repeat_threshold: float | None = None

    def __init__(
        self,
        *,
        image_root: str,
        image_names: Sequence[str],
        image_ids: Sequence[str] | Sequence[int],
        heights: Sequence[int] | np.ndarray,
        widths: Sequence[int] | np.ndarray,
        offsets: np.ndarray,
        boxes: np.ndarray,
        labels: np.ndarray,
        difficult: np.ndarray,
        crowd: np.ndarray,
        areas: np.ndarray,
        class_names: tuple[str, ...],
        category_ids: tuple[int, ...],
        use_difficult: bool,
        description: str,
        dropped: Sequence[str] = (),
        clipped: Sequence[str] = (),
        corrected: Sequence[str] = (),
        warnings: Sequence[str] = (),
    ):
        refuse_text(description, class_names=class_names)
        encoded_names = [os.fsencode(name) for name in image_names]
        self.image_root = str(image_root)
        self._names = np.frombuffer(b"".join(encoded_names), dtype=np.uint8)
        self._name_offsets = np.cumsum([0, *map(len, encoded_names)])
        self.image_ids = exact_ids(image_ids)
        self.heights = np.asarray(heights, dtype=np.int64)
        self.widths = np.asarray(widths, dtype=np.int64)
        self.offsets = np.asarray(offsets, dtype=np.int64)
        self.boxes = np.asarray(boxes, dtype=np.float32).reshape(-1, 4)
        self.labels = np.asarray(labels, dtype=np.int64)
        self.difficult = np.asarray(difficult, dtype=bool)
        self.crowd = np.asarray(crowd, dtype=bool)
        self.areas = np.asarray(areas, dtype=np.float64)
        self.class_names = tuple(class_names)
        self.category_ids = tuple(category_ids)
        self.use_difficult = use_difficult
        self.description = description
        self.dropped = list(dropped)
        self.clipped = list(clipped)
        self.corrected = list(corrected)
        self.warnings = list(warnings)
        self._check()

    def _check(self):
        num_images, num_boxes = len(self.image_ids), len(self.boxes)
        per_image = {"names": len(self._name_offsets) - 1, "heights": len(self.heights), "widths": len(self.widths)}
        per_image["offsets - 1"] = len(self.offsets) - 1
        per_box = {name: len(getattr(self, name)) for name in ("labels", "difficult", "crowd", "areas")}
        per_box["last offset"] = int(self.offsets[-1])
        for expected, counts in ((num_images, per_image), (num_boxes, per_box)):
            wrong = {name: count for name, count in counts.items() if count != expected}
            if wrong:
                raise ValueError(f"{self.description}: {wrong} for {expected} entries ({num_images} images)")
        if len(self.category_ids) != len(self.class_names):
            raise ValueError(f"{self.description}: {len(self.category_ids)} ids, {len(self.class_names)} class names")

    def __len__(self) -> int:
        """The number of images."""
        return len(self.image_ids)

    def image_name(self, index: int) -> str:
        """The picture's path under `image_root`."""
        return os.fsdecode(self._names[self._name_offsets[index] : self._name_offsets[index + 1]].tobytes())

    def image_path(self, index: int) -> str:
        return os.path.join(self.image_root, self.image_name(index))

    def image_id(self, index: int) -> str | int:
        """The data set's own name of the image, as a plain Python value."""
        return self.image_ids[index : index + 1].tolist()[0]

    def picture_files(self) -> list[str]:
        """The files of all pictures."""
        return [self.image_path(index) for index in range(len(self))]

    def objects(self, index: int) -> Objects:
        """All objects of one image, difficult and crowd ones too; the arrays are views."""
        part = slice(self.offsets[index], self.offsets[index + 1])
        return Objects(self.boxes[part], self.labels[part], self.difficult[part], self.crowd[part])

    def limit(self, num_images: int) -> "Annotations":
        """The first `num_images` images, or all if there are fewer; the notes on boxes stay those of the whole set."""
        if num_images < 1:
            raise ValueError(f"{self.description}: cannot be limited to {num_images} images, at least 1 is needed")
        if num_images >= len(self):
            return self
        first = copy.copy(self)
        num_boxes = self.offsets[num_images]
        first.description = f"first {num_images} images of {self.description}"
        first.offsets = self.offsets[: num_images + 1]
        first._name_offsets = self._name_offsets[: num_images + 1]
        first._names = self._names[: self._name_offsets[num_images]]
        for name in ("image_ids", "heights", "widths"):
            setattr(first, name, getattr(self, name)[:num_images])
        for name in ("boxes", "labels", "difficult", "crowd", "areas"):
            setattr(first, name, getattr(self, name)[:num_boxes])
        return first

    def take(self, indices: Sequence[int] | np.ndarray, description: str) -> "Annotations":
        """The images at `indices`, in that order, as a set of its own; the notes stay those of the whole set."""
        if self.repeat_threshold is not None:
            raise ValueError(f"{self.description} is Balanced(...), which goes around the parts of a set, not into one")
        indices = np.asarray(indices, dtype=np.int64)
        counts = np.diff(self.offsets)[indices]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        # box b of the part is box b - (first of its image in the part) + (first of its image in the whole)
        rows = np.arange(offsets[-1]) + np.repeat(self.offsets[indices] - offsets[:-1], counts)
        return Annotations(
            image_root=self.image_root,
            image_names=[self.image_name(index) for index in indices],
            image_ids=self.image_ids[indices].tolist(),
            **{name: getattr(self, name)[indices] for name in ("heights", "widths")},
            offsets=offsets,
            **{name: getattr(self, name)[rows] for name in ("boxes", "labels", "difficult", "crowd", "areas")},
            class_names=self.class_names,
            category_ids=self.category_ids,
            use_difficult=self.use_difficult,
            description=description,
            dropped=self.dropped,
            clipped=self.clipped,
            corrected=self.corrected,
            warnings=self.warnings,
        )

    def is_trained(self) -> np.ndarray:
        """(M,) bool: the objects that training gets: no crowd, and difficult ones only if the set says so."""
        return ~self.crowd & (self.use_difficult | ~self.difficult)

    def without_empty_images(self) -> "Annotations":
        """The images with at least one object to train on.

        Raises:
            ValueError: there is none.
        """
        owners = np.repeat(np.arange(len(self)), np.diff(self.offsets))
        kept = np.unique(owners[self.is_trained()])
        if not len(kept):
            raise ValueError(
                f"{self.description}: no image to use: none of the {len(self)} has an object to train on, and "
                "keep_empty_images is False"
            )
        return self if len(kept) == len(self) else self.take(kept, self.description)

    def fingerprint(self, *, allow_missing: bool = False) -> str:
        """SHA-256 (hex) of everything annotated, of the pictures' names and of their file sizes.

        It does not depend on where the data lie.

        Args:
            allow_missing: a picture that is not there counts with the size -1.

        Raises:
            ImageError: a picture is missing, and that is not allowed.
        """
        digest = hashlib.sha256()
        paths = (self.image_path(i) for i in range(len(self)))
        sizes = np.array([_file_size(path, self.description, allow_missing) for path in paths], dtype=np.int64)
        ids = self.image_ids
        if ids.dtype == object:  # whose memory holds addresses
            ids = np.frombuffer(repr(ids.tolist()).encode(), dtype=np.uint8)
        arrays = (self._names, self._name_offsets, sizes, ids, self.heights, self.widths, self.offsets)
        for array in (*arrays, self.boxes, self.labels, self.difficult, self.crowd, self.areas):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        digest.update(repr((self.class_names, self.category_ids)).encode())
        return digest.hexdigest()

    def summary(self) -> str:
        """One line with the counts a reader should see before a run."""
        num_empty = int((np.diff(self.offsets) == 0).sum())
        parts = [f"{len(self)} images", f"{len(self.boxes)} boxes", f"{len(self.class_names)} classes"]
        parts += [f"{num_empty} images without boxes", f"{int(self.difficult.sum())} difficult"]
        parts += [f"{int(self.crowd.sum())} crowd", f"{len(self.dropped)} degenerate boxes dropped"]
        parts += [f"{len(self.clipped)} boxes clipped to their image"]
        if self.corrected:
            parts += [f"{len(self.corrected)} impossible areas replaced by those of the boxes"]
        return f"{self.description}: " + ", ".join(parts)


def exact_ids(ids: Sequence[str] | Sequence[int] | np.ndarray) -> np.ndarray:
    """The N ids in an array that gives back each of them as it is, `tolist()` being equal to `ids`.

    It is of int64 or of text where that holds every id, and of Python's own objects where it does not: numpy would make
    floats of a set with numbers from 2**63 on, which are not even different from each other any more, and takes the
    zeros off the end of a text.
    """
    plain = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
    array = np.asarray(plain)
    if not plain or (array.dtype.kind in "iU" and array.tolist() == plain):
        return array
    array = np.empty(len(plain), dtype=object)
    array[:] = plain
    return array


def _file_size(path, description, allow_missing):
    try:
        return os.stat(path).st_size
    except FileNotFoundError as error:
        if allow_missing:
            return -1
        folder = os.path.dirname(path)
        remedy = (
            "restore it or take it off the list"
            if os.path.isdir(folder)
            else f"there is no folder {folder}: are the data root and the folder of the pictures right?"
        )
        told = f"{path}: missing{where_it_leads(path)}, though {description} lists it; {remedy}"
        raise ImageError(told, "missing picture") from error


@dataclass(kw_only=True)
class WrittenImages:
    """The N images as the annotation files have them."""

    names: Sequence[str]  # of the pictures, under the set's image root
    ids: Sequence[str] | Sequence[int]
    heights: Sequence[int]
    widths: Sequence[int]
    files: Sequence[str]  # the annotation file of each, for messages


@dataclass(kw_only=True)
class WrittenObjects:
    """The objects of all images as the annotation files have them, in any order."""

    image_indices: Sequence[int]  # the position of each object's image
    boxes: Sequence[Sequence[float]] | np.ndarray  # x1 y1 x2 y2
    labels: Sequence[int]
    difficult: Sequence[bool]
    crowd: Sequence[bool]
    areas: Sequence[float] | None  # in square pixels; None: those of the boxes
    numbers: Sequence[int]  # of each object, for messages


def assemble(
    images: WrittenImages,
    objects: WrittenObjects,
    *,
    first_pixel: int,
    image_root: str,
    class_names: tuple[str, ...],
    category_ids: tuple[int, ...],
    use_difficult: bool,
    description: str,
    on_defect: OnDefect = stop,
) -> Annotations:
    """`Annotations` of what is written, with boxes that cannot be used taken out and noted.

    A box is dropped if it is not finite, if a side is zero or negative, if it is but one pixel, or if it lies outside its
    image.  A box that
    reaches over the edge of its image is clipped.  An area that is zero, or larger than its box with a pixel more on each
    side (outlines are rounded to whole pixels), cannot be: that of the box is taken instead.  All three are noted, and
    told to `on_defect`.  The area of a clipped box is at most that of what is left of it.

    Args:
        first_pixel: 1 where corners are pixels counted from 1 and both belong to the object (VOC): then x1 and y1 are
            moved by -1, which makes the coordinates continuous, and x1 = x2 is one pixel wide.  0 where they are continuous
            already (COCO), and x1 = x2 has no width.
    """
    boxes, is_kept, defects = _usable_boxes(images, objects, first_pixel, image_root)
    areas, impossible = _usable_areas(images, objects, boxes, is_kept, image_root)
    defects += impossible
    for defect in defects:
        on_defect(defect)
    if on_defect is not stop:  # which passes over warnings
        for defect in _duplicate_boxes(images, objects, image_root):
            on_defect(defect)
    owners = np.asarray(objects.image_indices, dtype=np.int64)
    order = np.flatnonzero(is_kept)
    order = order[np.argsort(owners[order], kind="stable")]
    boxes = boxes[order]
    counts = np.bincount(owners[order], minlength=len(images.names))
    return Annotations(
        image_root=image_root,
        image_names=images.names,
        image_ids=images.ids,
        heights=images.heights,
        widths=images.widths,
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        boxes=boxes,
        labels=np.asarray(objects.labels, dtype=np.int64)[order],
        difficult=np.asarray(objects.difficult, dtype=bool)[order],
        crowd=np.asarray(objects.crowd, dtype=bool)[order],
        areas=areas[order],
        class_names=class_names,
        category_ids=category_ids,
        use_difficult=use_difficult,
        description=description,
        dropped=[defect.message for defect in defects if defect.kind in DROPPED_BOXES],
        clipped=[defect.message for defect in defects if defect.kind == "clipped box"],
        corrected=[defect.message for defect in impossible],
    )


def _each_row(combine: np.ufunc, values: np.ndarray) -> np.ndarray:
    """Each row of `values` (M, N) combined, (M,): `combine.reduce(values, axis=1)`, which is slow where rows are short."""
    return functools.reduce(combine, values.T)


def _usable_boxes(images, objects, first_pixel, image_root):
    """((M, 4) float32 boxes within their images, (M,) which of them to keep, the defects)."""
    owners = np.asarray(objects.image_indices, dtype=np.int64)
    written = np.asarray(objects.boxes, dtype=np.float64).reshape(-1, 4)
    limits = np.stack([images.widths, images.heights] * 2, axis=1).astype(np.float32)[owners]  # (M, 4)
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is clipped
        boxes = (written - [first_pixel, first_pixel, 0, 0]).astype(np.float32)
    inside = np.clip(boxes, 0, limits)

    is_finite = _each_row(np.logical_and, np.isfinite(written))
    is_inverted = _each_row(np.logical_or, written[:, 2:] < written[:, :2])
    # where both corners belong to the object, equal ones are a pixel apart; a single pixel is a click without a drag
    is_point = _each_row(np.logical_and, written[:, 2:] == written[:, :2])
    has_size = _each_row(np.logical_and, written[:, 2:] > written[:, :2] - first_pixel) & ~is_point
    is_visible = _each_row(np.logical_and, inside[:, 2:] > inside[:, :2])
    is_kept = is_finite & ~is_inverted & has_size & is_visible
    is_clipped = is_kept & _each_row(np.logical_or, inside != boxes)
    cases = [
        (~is_finite, "box not finite", "not finite"),
        (is_inverted, "inverted box", "zero or negative size"),
        (~has_size, "empty box", "both corners are one pixel" if first_pixel else "zero or negative size"),
        (~is_visible, "box outside", "outside its image"),
        (is_clipped, "clipped box", "reaches over the edge of its image"),
    ]
    defects = []
    for i in np.flatnonzero(~is_kept | is_clipped):
        kind, reason = next((kind, reason) for holds, kind, reason in cases if holds[i])
        size = f"{images.widths[owners[i]]} x {images.heights[owners[i]]} pixels"
        defects.append(_box_defect(images, objects, i, kind, f" in {size}: {reason}", image_root))
    return inside, is_kept, defects


def _usable_areas(images, objects, boxes, is_kept, image_root):
    """((M,) float64 areas, those of the boxes where the written ones cannot be; the defects)."""
    sides = boxes[:, 2:] - boxes[:, :2]  # of what lies within the image
    within = _each_row(np.multiply, sides.astype(np.float64))
    if objects.areas is None:
        return within, []
    written = np.asarray(objects.boxes, dtype=np.float64).reshape(-1, 4)
    areas = np.asarray(objects.areas, dtype=np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # of boxes that are not kept
        most = _each_row(np.multiply, written[:, 2:] - written[:, :2] + 2)
        is_impossible = is_kept & ~((areas > 0) & (areas <= most))
        is_cut = is_kept & (areas > _each_row(np.multiply, sides.astype(np.float64) + 2))
    defects = []
    for i in np.flatnonzero(is_impossible):
        reason = (
            f": the area {areas[i]:g} cannot be that of an object in this box; the box's own, {within[i]:g}, is used "
            "instead. Correct the area, or leave it out"
        )
        defects.append(_box_defect(images, objects, i, "impossible area", reason, image_root))
    return np.where(is_impossible | is_cut, within, areas), defects


def _duplicate_boxes(images, objects, image_root):
    """A warning for each box that has image, class and corners of an earlier one."""
    boxes = np.asarray(objects.boxes, dtype=np.float64).reshape(-1, 4)
    rows = np.column_stack([objects.image_indices, objects.labels, boxes])  # (M, 6)
    order = np.lexsort(rows.T)  # stable: equal rows stay in the order of the files
    is_equal = (rows[order[1:]] == rows[order[:-1]]).all(axis=1)
    return [
        _box_defect(
            images, objects, second, "duplicate box", f": same class and corners as object {objects.numbers[first]}",
            image_root,
        )
        for first, second in zip(order[:-1][is_equal], order[1:][is_equal])
    ]  # fmt: skip


def _box_defect(images, objects, i, kind, reason, image_root):
    owner, number = objects.image_indices[i], objects.numbers[i]
    number = number.item() if isinstance(number, np.generic) else number
    box = [float(corner) for corner in objects.boxes[i]]
    file, picture = images.files[owner], os.path.join(image_root, images.names[owner])
    where = os.path.basename(picture) + ", " if file.endswith(".json") else ""
    return Defect(kind, file, f"{file}, {where}object {number}, box {box}{reason}", number, picture, tuple(box))


def agree_on_classes(configured: tuple[str, ...] | None, given: tuple[str, ...] | None, where: str):
    """The class names that the config and another set (the training set, say) prescribe; None if neither does.

    Raises:
        ValueError: they differ, or one is a text.
    """
    refuse_text(where, classes=configured, class_names=given)
    if configured is not None and given is not None and tuple(configured) != tuple(given):
        parting = _first_difference(configured, given)
        raise ValueError(
            f"{where}: the config names {len(configured)} classes {brief_names(configured)}, the set it has to agree with "
            f"names {len(given)} classes {brief_names(given)}{parting}. Give both the same names in the same order."
        )
    names = configured if configured is not None else given
    if names is not None and len(set(names)) != len(names):
        repeated = next(name for name in names if list(names).count(name) > 1)
        raise ValueError(
            f"{where}: a class name stands twice among {len(names)} classes {brief_names(names)}: {shorten(repr(repeated))}"
        )
    return None if names is None else tuple(names)


def brief_names(names: Sequence[str]) -> str:
    """All names, or of many the first ones, as a tuple is written; of a long one its beginning."""
    names = [shorten(repr(name)) for name in names]
    if len(names) > SHOWN_CLASSES:
        return f"({', '.join(names[:3])}, ...)"
    return f"({', '.join(names)}{',' if len(names) == 1 else ''})"


def _first_difference(names, others) -> str:
    """Where two long lists of names part."""
    if max(len(names), len(others)) <= SHOWN_CLASSES:
        return ""
    number = next((number for number, (one, other) in enumerate(zip(names, others)) if one != other), None)
    if number is None:
        return "; they part where the shorter one ends"
    return f"; they part at class {number}, {names[number]!r} and {others[number]!r}"
