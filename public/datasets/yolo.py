"""YOLO's text labels: one text for each picture, one object a line; read as a data set, or made a COCO json.

Layout, as Ultralytics writes it: a folder of pictures (images/train/a.jpg) and one of labels (labels/train/a.txt) with the
same subfolders.  A line is `class x y width height`, the centre and the size of the box as shares of the picture's width
and height.  In a segmentation set it is `class x1 y1 x2 y2 x3 y3 ...`.

`Yolo` is a data set like the others.  `convert_yolo` writes the json for other programs: image ids count from 1 in the
order of the paths, and category k + 1 is YOLO's class k.
"""

import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from tqdm import tqdm

from public.datasets.annotations import (
    Annotations,
    WrittenImages,
    WrittenObjects,
    agree_on_classes,
    assemble,
    brief_names,
)
from public.datasets.data_yaml import brief, read_names
from public.datasets.defects import Defect, OnDefect, stop
from public.datasets.folders import list_files
from public.datasets.pictures import measure
from public.datasets.voc import PICTURE_EXTENSIONS
from public.datasets.yolo_places import Listed, Named, Place, find_places, label_file, list_pictures
from public.folders import files_under
from public.input import read_image
from public.settings import Name, check, refuse_text
from public.text import shorten

__all__ = ["NO_LABELS", "Yolo", "convert_yolo", "read_labels", "read_names"]

TOLERANCE = 1e-6  # of a share of the picture: labels are commonly written with six digits
SLACK = 0.01  # of a share: how far outside the picture the data set takes a corner, which is then cut and noted
NO_LABELS = ("classes.txt",)  # lists of names that labelling tools lay beside the labels


@dataclass(frozen=True, kw_only=True)
class Yolo:
    """A data set with YOLO labels, read as they lie; nothing has to be converted.

    A line of a label is a box, or an outline (7, 9, 11, ... fields), of which the box around it is taken; where data.yaml
    has a kpt_shape, the keypoints behind the box are passed over.  A picture without a text, or with an empty one, is a
    picture without objects.  The sizes of the pictures are read from their headers, every time.

    Fields:
        data: the data.yaml, under the data root; `public.datasets.yolo_places` says where its places are looked for.  Or a
            text with one class name a line, such as classes.txt: the pictures are those of images/ beside it, or of its
            own folder.
        split: "train", "val" or "test" of the data.yaml.  Of a text of names "all", or a folder in images/ by its name.
        classes: names in label order; None takes those of the file.
        keep_empty_images: whether images without an object stay in the set.
    """

    data: Name
    split: Literal["train", "val", "test", "all"]
    classes: tuple[Name, ...] | None
    keep_empty_images: bool

    def __post_init__(self) -> None:
        check(self)

    def read(
        self,
        data_root: str | os.PathLike,
        class_names: tuple[str, ...] | None = None,
        on_defect: OnDefect = stop,
    ) -> Annotations:
        """Reads the labels of one split.

        Args:
            data_root, class_names, on_defect: as of `Voc.read`.

        Raises:
            FileNotFoundError: the data.yaml, a place that it names, or a picture of a list is missing; no picture has a
                label, or two share one.
            ValueError: data.yaml or a line of a label is wrong (the message names file and line); a picture's header cannot
                be read; a picture is listed twice; the classes of the file, the config and `class_names` differ.
        """
        path = Path(data_root) / self.data
        named = find_places(path, data_root)
        _categories(named.names)  # refuses a name that stands twice
        places = self._places(path, named)
        wanted = agree_on_classes(self.classes, class_names, f"YOLO {self.data}") or named.names
        pictures = _labelled([one for place in places for one in list_pictures(place, named.roots)], on_defect)
        if not any(os.path.isfile(picture.label) for picture in pictures):
            first = f", the first would be {pictures[0].label}" if pictures else ""
            raise FileNotFoundError(f"{path}: none of the {len(pictures)} pictures of {self.split} has a label{first}")
        if on_defect is not stop:  # which passes over warnings
            _tell_of_labels_alone(pictures, on_defect)
        pictures, sizes = _measured(pictures, on_defect)
        form = _Form(named.names, named.num_keypoints)
        objects = [_objects_of(picture, form, on_defect) for picture in pictures]
        read = assemble(
            WrittenImages(
                names=[os.path.relpath(picture.file, data_root) for picture in pictures],
                ids=[Path(os.path.relpath(picture.file, path.parent)).as_posix() for picture in pictures],
                heights=[height for _, height in sizes],
                widths=[width for width, _ in sizes],
                files=[picture.label for picture in pictures],
            ),
            _written_objects(objects, sizes, _new_labels(path, named.names, wanted, objects)),
            first_pixel=0,
            image_root=os.fspath(data_root),
            class_names=wanted,
            category_ids=tuple(named.names.index(name) for name in wanted),
            use_difficult=True,
            description=f"YOLO {self.data}, {self.split}",
            on_defect=on_defect,
        )
        return read if self.keep_empty_images else read.without_empty_images()

    def _places(self, path: Path, named: Named) -> list[Place]:
        if self.split in named.missing:
            raise FileNotFoundError(named.missing[self.split])
        if self.split not in named.places:
            there = ", ".join([*named.places, *named.missing]) or "none"
            raise ValueError(f"{path}: names no {self.split}; the parts of the set that it names: {there}")
        return named.places[self.split]


class _Picture(NamedTuple):
    file: str
    label: str  # its text, which need not be there


class _Form(NamedTuple):
    """What a line of a label may be."""

    names: tuple[str, ...]
    num_keypoints: int | None


class _Line(NamedTuple):
    number: int  # from 1
    label: int  # YOLO's class
    corners: tuple[float, ...]  # x1 y1 x2 y2 in shares of the picture


def _labelled(listed: list[Listed], on_defect: OnDefect) -> list[_Picture]:
    """The pictures with the files of their labels, each once; those that are not there, or share a label, are told."""
    pictures, owners = [], {}
    for item in listed:
        if not os.path.isfile(item.picture):
            message = f"{item.picture}: missing, though {item.named_by} lists the picture"
            on_defect(Defect("missing picture", item.picture, message))
            continue
        label = label_file(item.picture)
        other = owners.setdefault(label, item)
        if other is item:
            pictures.append(_Picture(item.picture, label))
        elif other.picture == item.picture:
            message = (
                f"{item.picture} is there twice, by {other.named_by} and by {item.named_by}. Each picture counts once."
            )
            on_defect(Defect("duplicate picture", item.picture, message))
        else:
            message = f"{other.picture} and {item.picture} would share the label {label}; rename one of them"
            on_defect(Defect("ambiguous picture", item.picture, message))
    return pictures


def _tell_of_labels_alone(pictures: list[_Picture], on_defect: OnDefect) -> None:
    """A warning for each text beside the labels of the pictures whose picture is not there."""
    folders = {(os.path.dirname(picture.label), os.path.dirname(picture.file)) for picture in pictures}
    for labels, images in sorted(folders):
        if labels == images or not os.path.isdir(labels):
            continue  # a text beside pictures may be anything
        there = {os.path.splitext(name)[0] for name in list_files(images, PICTURE_EXTENSIONS, is_deep=False)}
        for name in list_files(labels, (".txt",), is_deep=False):
            if name not in NO_LABELS and os.path.splitext(name)[0] not in there:
                file = os.path.join(labels, name)
                message = f"{file}: no picture of this name in {images}; the label is never used"
                on_defect(Defect("annotation without picture", file, message))


def _measured(pictures: list[_Picture], on_defect: OnDefect) -> tuple[list[_Picture], list[tuple[int, int]]]:
    """The pictures whose header can be read, and their (width, height), turned by the EXIF orientation."""
    sizes = measure([picture.file for picture in pictures], on_defect)
    kept = [(picture, size) for picture, size in zip(pictures, sizes) if size is not None]
    return [picture for picture, _ in kept], [size for _, size in kept]


def _objects_of(picture: _Picture, form: _Form, on_defect: OnDefect) -> list[_Line]:
    """The objects of a picture; wrong lines are told."""
    if not os.path.isfile(picture.label):
        return []
    try:
        lines = list(_lines(Path(picture.label)))
    except ValueError as error:
        on_defect(Defect("broken annotation", picture.label, str(error)))
        return []
    objects = []
    for number, fields in lines:
        try:
            fields, is_outline = _fields_of_box(fields, form.num_keypoints)
            objects.append(_Line(number, *_read_line(fields, form.names, is_outline, SLACK)))
        except ValueError as error:
            kind = "unknown class" if isinstance(error, _UnknownClassError) else "broken object"
            on_defect(Defect(kind, picture.label, f"{picture.label}, line {number}: {error}", number))
    return objects


def _fields_of_box(fields: list[str], num_keypoints: int | None) -> tuple[list[str], bool]:
    """(the fields without keypoints, whether they are an outline)."""
    if num_keypoints is not None and len(fields) == 5 + num_keypoints:
        return fields[:5], False
    if num_keypoints is None and len(fields) >= 7 and len(fields) % 2 == 1:
        return fields, True
    if len(fields) == 5:
        return fields, False
    if num_keypoints is not None:
        raise ValueError(
            f"{len(fields)} fields; with the keypoints of data.yaml's kpt_shape a line has {5 + num_keypoints}"
        )
    raise ValueError(
        f"{len(fields)} fields; a line is a box, `class x y width height`, or an outline, `class x1 y1 x2 y2 x3 y3 ...`"
    )


def _new_labels(
    path: Path, names: tuple[str, ...], wanted: tuple[str, ...], objects: list[list[_Line]]
) -> dict[int, int]:
    """YOLO's class -> its label in the set; only classes without a single object may be left out of it.

    Raises:
        ValueError: naming what is not expected, and what is not there.
    """
    used = {line.label for lines in objects for line in lines}
    unknown = [names[label] for label in sorted(used) if names[label] not in wanted]
    lacking = [name for name in wanted if name not in names]
    if unknown or lacking:
        raise ValueError(
            f"{path}: its {len(names)} names ({brief(names)}) are not the {len(wanted)} classes ({brief(wanted)}) of the "
            f"config or the training set: {brief_names(unknown)} are not expected there, {brief_names(lacking)} are not in "
            "the file"
        )
    return {names.index(name): label for label, name in enumerate(wanted)}


def _written_objects(
    objects: list[list[_Line]], sizes: list[tuple[int, int]], labels: dict[int, int]
) -> WrittenObjects:
    rows = [(index, line) for index, lines in enumerate(objects) for line in lines]
    return WrittenObjects(
        image_indices=[index for index, _ in rows],
        boxes=[[share * side for share, side in zip(line.corners, sizes[index] * 2)] for index, line in rows],
        labels=[labels[line.label] for _, line in rows],
        difficult=[False] * len(rows),
        crowd=[False] * len(rows),
        areas=None,
        numbers=[line.number for _, line in rows],
    )


# ---------------------------------------------------------------------------------------------------- as a json


class Converted(NamedTuple):
    """The json's content, and what a reader should know about it."""

    content: dict
    num_empty: int  # images whose text holds no object
    num_unlabelled: int  # images without a text
    num_unused: int  # texts without an image, left out on demand


def convert_yolo(
    images: str | os.PathLike,
    labels: str | os.PathLike,
    names: tuple[str, ...],
    *,
    polygons: bool,
    unused_labels: bool,
) -> Converted:
    """The labels in folder `labels` of the pictures in folder `images`, with all subfolders.

    An image with an empty text, or without one, is an image without objects.  Boxes are taken as written; an edge that
    lies outside the picture by no more than a millionth of it (rounding) is moved to the picture's edge.

    Args:
        names: of the classes, in YOLO's order.
        polygons: the lines are outlines of objects; each becomes the box around it.
        unused_labels: leave out texts without an image, instead of refusing them.

    Raises:
        FileNotFoundError: there is no such folder, no picture in it, or no label file.
        ImageError: a picture cannot be read.
        ValueError: a line is wrong (the message names file and line), or texts and pictures do not fit together.
    """
    refuse_text("convert_yolo", names=names)
    images, labels = Path(images), Path(labels)
    pictures = _find_pictures(images, labels)
    texts = _find_texts(labels)
    if not texts:
        raise FileNotFoundError(f"{labels}: no label file (.txt) there. Is it the folder of the labels?")
    unused = sorted(set(texts) - set(pictures))
    if unused and not unused_labels:
        raise ValueError(
            f"{labels}: {len(unused)} of {len(texts)} label files belong to no picture in {images}, the first is "
            f"{unused[0]}.txt. Are these the right two folders? To leave such files out: --unused_labels"
        )
    content = {"images": [], "annotations": [], "categories": _categories(names)}
    num_empty = 0
    for (stem, name), (height, width) in zip(pictures.items(), _sizes(images, pictures.values())):
        image_id = len(content["images"]) + 1
        content["images"].append({"id": image_id, "file_name": name, "width": width, "height": height})
        if stem not in texts:
            continue
        objects = read_labels(texts[stem], names, polygons=polygons)
        num_empty += not objects
        for label, corners in objects:
            annotation = {"id": len(content["annotations"]) + 1, "image_id": image_id, "category_id": label + 1}
            content["annotations"].append(annotation | _box(corners, height, width))
    num_unlabelled = len(set(pictures) - set(texts))
    return Converted(content, num_empty=num_empty, num_unlabelled=num_unlabelled, num_unused=len(unused))


def _find_pictures(images, labels):
    """Path without extension -> path of every picture under `images`, relative to it, in order."""
    for folder in (images, labels):
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder")
    pictures = {}
    for name in files_under(images, PICTURE_EXTENSIONS):
        other = pictures.setdefault(os.path.splitext(name)[0], name)
        if other != name:
            raise ValueError(f"{images}: {other} and {name} would share one label file; rename one of them")
    if not pictures:
        raise FileNotFoundError(f"{images}: no picture there ({', '.join(PICTURE_EXTENSIONS)})")
    return pictures


def _find_texts(labels):
    """Path without extension, relative to `labels`, -> path of every label file."""
    names = [name for name in files_under(labels, (".txt",)) if os.path.basename(name) not in NO_LABELS]
    return {os.path.splitext(name)[0]: labels / name for name in names}


def _sizes(images, names):
    """(height, width) of each picture as training will see it, turned by its EXIF orientation."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        shapes = pool.map(lambda name: read_image(images / name).shape[:2], names)
        yield from tqdm(shapes, total=len(names), desc="reading pictures", disable=None)


def _categories(names):
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated or not names:
        wrong = f"twice {shorten(repeated[0])}" if repeated else "there is none"
        raise ValueError(f"the {len(names)} classes are {brief_names(names)}: {wrong}")
    return [{"id": label + 1, "name": name} for label, name in enumerate(names)]


def _box(corners, height, width):
    """COCO's fields for a box x1 y1 x2 y2 in shares of a picture of `height` x `width` pixels."""
    x1, y1, x2, y2 = (value * side for value, side in zip(corners, (width, height, width, height)))
    box_width, box_height = x2 - x1, y2 - y1
    return {"bbox": [x1, y1, box_width, box_height], "area": box_width * box_height, "iscrowd": 0}


# ---------------------------------------------------------------------------------------------------- lines


def read_labels(path: Path, names: tuple[str, ...], *, polygons: bool) -> list[tuple[int, tuple[float, ...]]]:
    """(class, x1 y1 x2 y2 in shares of the picture) of every object in a label file; empty lines are skipped.

    Raises:
        ValueError: naming file, line and reason.
    """
    objects = []
    for number, fields in _lines(path):
        try:
            objects.append(_read_line(fields, names, polygons, TOLERANCE))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
    return objects


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(number from 1, fields) of each line that is not empty."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not text in UTF-8") from error
    yield from ((number, line.split()) for number, line in enumerate(lines, start=1) if line.strip())


class _UnknownClassError(ValueError):
    """The number of a class has no name."""


def _read_line(fields, names, polygons, slack):
    """(class, corners) of one object; `slack`: how far outside 0 .. 1 a number may be."""
    wanted = len(fields) >= 7 and len(fields) % 2 == 1 if polygons else len(fields) == 5
    if not wanted:
        raise ValueError(_wrong_count(len(fields), polygons))
    label = _number(fields[0])
    if label not in range(len(names)):
        raise _UnknownClassError(
            f"class {fields[0]} is none of 0 .. {len(names) - 1}, the {len(names)} names {brief(names)}"
        )
    shares = [_number(field) for field in fields[1:]]
    outside = [field for field, share in zip(fields[1:], shares) if not -slack <= share <= 1 + slack]
    if outside:
        raise ValueError(
            f"{outside[0]} is outside 0 .. 1; coordinates have to be shares of the picture's width or height"
        )
    if polygons:
        corners = (min(shares[::2]), min(shares[1::2]), max(shares[::2]), max(shares[1::2]))
    else:
        x, y, width, height = shares
        corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    return int(label), tuple(_without_rounding(corner) for corner in corners)


def _wrong_count(count, polygons):
    if polygons:
        return f"{count} fields; an outline has a class and at least three points x y, so 7, 9, 11, ... fields"
    if count >= 7 and count % 2:
        return (
            f"{count} fields instead of 5 (class x y width height). If all lines are outlines of objects, --polygons takes "
            "the box around each; keypoints are not supported"
        )
    return f"{count} fields instead of 5 (class x y width height)"


def _number(field):
    try:
        number = float(field)
    except ValueError as error:
        raise ValueError(f"{field!r} is not a number") from error
    if not math.isfinite(number):
        raise ValueError(f"{field!r} is not finite")
    return number


def _without_rounding(share):
    """`share`, moved to 0 or 1 where it lies outside by no more than the tolerance."""
    if -TOLERANCE <= share < 0:
        return 0.0
    return 1.0 if 1 < share <= 1 + TOLERANCE else share
