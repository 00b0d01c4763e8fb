"""Pascal VOC layout: `<folder>/Annotations/*.xml`, `<folder>/ImageSets/Main/<split>.txt`, `<folder>/JPEGImages/*`.

The two folders may have other names, such as `annotations` and `images`, and may be one: labelling tools commonly write
an xml file beside each picture.

Coordinates.  VOC counts pixels from 1 and both corners belong to the object: xmin 1 and xmax W cover a whole picture of
width W.  We store the edges of that area, (xmin - 1, ymin - 1, xmax, ymax), which lose nothing: a sub-pixel-exact box
whose width x2 - x1 is VOC's xmax - xmin + 1, so that VOC's inclusive-pixel IoU is the plain IoU of our boxes.
`to_inclusive_pixels` gives back what the xml says.  So xmin = xmax is a column of one pixel; a box of a single pixel, which
a click without a drag leaves, is dropped and noted.  The references differ from this by at most one pixel and from each
other: PaddleDetection takes the four numbers as they are, YOLOX subtracts 1 from all four.
"""

import os
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np

from public.datasets.annotations import (
    Annotations,
    WrittenImages,
    WrittenObjects,
    agree_on_classes,
    assemble,
    brief_names,
)
from public.datasets.defects import Defect, OnDefect, stop, telling
from public.folders import files_under, where_it_leads
from public.settings import Name, NotEmpty, check
from public.text import brief, file_named, shorten, shown

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip

PICTURE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
ANNOTATIONS, IMAGES = "Annotations", "JPEGImages"  # the two folders of VOC itself


class Places(NamedTuple):
    """The two folders of a set in VOC layout: in which of the xml files, and in which of the pictures lie."""

    annotations: str
    images: str


VOC_PLACES = Places(ANNOTATIONS, IMAGES)


def to_inclusive_pixels(boxes: np.ndarray) -> np.ndarray:
    """Stored boxes (..., 4), or detections in the same coordinates, as VOC's xmin ymin xmax ymax."""
    return boxes + np.array([1, 1, 0, 0], dtype=boxes.dtype)


@dataclass(frozen=True, kw_only=True)
class Voc:
    """A data set in VOC layout.

    Fields:
        sources: "folder/split" under the data root, such as "VOCdevkit/VOC2007/trainval"; several make a union.
            "folder/*" takes every xml file under folder/Annotations (by the rule of `public.folders`), and needs no lists.
        classes: names in label order; None takes the sorted names found in the data.
        use_difficult: whether difficult objects are trained on.  Evaluation sees them, flagged, in any case.
        keep_empty_images: whether images without an object to train on (nothing, or difficult ones only where these are
            not trained on) stay in the set.
        annotations, images: the folders, in `folder`, of the xml files and of the pictures, with all that lie in them;
            "." is `folder` itself.
    """

    sources: Annotated[tuple[Name, ...], NotEmpty()]
    classes: tuple[Name, ...] | None
    use_difficult: bool
    keep_empty_images: bool
    annotations: Name = ANNOTATIONS
    images: Name = IMAGES

    def __post_init__(self):
        check(self)

    def read(
        self,
        data_root: str | os.PathLike,
        class_names: tuple[str, ...] | None = None,
        on_defect: OnDefect = stop,
    ) -> Annotations:
        """Reads all xml files of the splits.

        Args:
            data_root: the folder that `sources` start from.
            class_names: the classes that this set has to agree with, for instance those of the training set.
            on_defect: told every defect of a file or an object.  Where it returns, an image whose xml cannot be used and
                an object that cannot be used are left out; an image whose picture is missing stays, for evaluation.

        Raises:
            FileNotFoundError: a list, an xml file or a picture is missing.
            ValueError: an xml file is broken or says no size, an object has an unknown class or no box, an image is
                listed twice, no image is left, or `classes` and `class_names` differ.
        """
        data_root, places = os.fspath(data_root), Places(self.annotations, self.images)
        where = "" if places == VOC_PLACES else f" ({places.annotations}, {places.images})"
        description = f"VOC {' + '.join(self.sources)}{where}"
        class_names = agree_on_classes(self.classes, class_names, description)
        pictures = [item for source in self.sources for item in _read_source(data_root, source, places, on_defect)]
        annotations = _annotations(
            data_root, _unique(pictures, on_defect), class_names, self.use_difficult, description, on_defect
        )
        return annotations if self.keep_empty_images else annotations.without_empty_images()


def read_voc_folder(
    folder: str | os.PathLike,
    on_defect: OnDefect = stop,
    places: Places = VOC_PLACES,
) -> Annotations:
    """All xml files of `folder`, in its `places`, whatever the lists say, in the order of their names.

    Raises:
        FileNotFoundError, ValueError: as `Voc.read`.
    """
    folder = os.fspath(folder)
    image_ids, root = _all_ids(folder, places, on_defect)
    pictures = _read_pictures(folder, "", places, image_ids, f"the folder {root}", on_defect)
    return _annotations(folder, pictures, None, True, f"VOC {folder}", on_defect)


def _all_ids(folder, places, on_defect):
    """(The ids of all xml files in the place of `folder` where they lie, by name; that place)."""
    root = _place(folder, places.annotations)
    files = files_under(root, (".xml",), telling(on_defect)) if os.path.isdir(root) else []
    return sorted(file[: -len(".xml")] for file in files), root


def _place(folder, name):
    """The folder `name` in `folder`; "." is `folder` itself."""
    return folder if name == "." else os.path.join(folder, name)


def list_split(listing: str | os.PathLike) -> list[str]:
    """The image ids that a file of ImageSets/Main lists, one a line.

    Raises:
        ValueError: the file is not text in UTF-8, and not a list of xml files whose names are no UTF-8.
    """
    content = Path(listing).read_bytes()
    lines = content.decode("utf-8-sig", errors="surrogateescape").splitlines()  # some editors put a mark before a text
    try:
        image_ids = [file_named(line.strip()) for line in lines if line.strip() and "\0" not in line]
    except ValueError as error:
        raise ValueError(f"{listing}: {error}") from error
    folder = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(listing))), "Annotations")
    strange = [image_id for image_id in image_ids if shown(image_id) != image_id]
    if b"\0" in content or not all(os.path.isfile(os.path.join(folder, f"{image_id}.xml")) for image_id in strange):
        try:
            content.decode("utf-8-sig")
            reason = "it holds zeros, as UTF-16 does"
        except UnicodeDecodeError as error:
            reason = str(error)
        raise ValueError(f"{listing}: not text in UTF-8: {reason}. Save the list as UTF-8.")
    return image_ids


def _annotations(data_root, pictures, class_names, use_difficult, description, on_defect):
    if not pictures:
        raise ValueError(f"{description}: no image to use")
    if class_names is None:
        class_names = tuple(sorted({item.name for picture in pictures for item in picture.objects}))
        if not class_names:
            raise ValueError(f"{description}: no object in {len(pictures)} files; name the classes in the config")
    pictures = [_with_known_classes(picture, class_names, on_defect) for picture in pictures]
    return assemble(
        _written_images(pictures),
        _written_objects(pictures, class_names),
        first_pixel=1,
        image_root=data_root,
        class_names=class_names,
        category_ids=tuple(range(1, len(class_names) + 1)),
        use_difficult=use_difficult,
        description=description,
        on_defect=on_defect,
    )


class _Object(NamedTuple):
    number: int  # position in the xml
    name: str
    box: tuple[float, ...]
    is_difficult: bool


class _Picture(NamedTuple):
    file: str  # the xml
    image_id: str
    image_name: str  # under the data root
    height: int
    width: int
    objects: list[_Object]


def _read_source(data_root, source, places, on_defect):
    folder, _, split = source.rpartition("/")
    if split == "*":
        image_ids, root = _all_ids(os.path.join(data_root, folder), places, on_defect)
        if not image_ids:
            raise FileNotFoundError(
                f"{root}: no xml file there, though the config's source {source!r} means all of them. Folders of other "
                'names are named as in Voc(annotations="annotations", images="images", ...); "." is the folder itself'
            )
        return _read_pictures(data_root, folder, places, image_ids, f"the folder {root}", on_defect)
    listing = os.path.join(data_root, folder, "ImageSets", "Main", f"{split}.txt")
    try:
        image_ids = list_split(listing)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{listing}: missing. The config's source {source!r} means split {split!r} of folder {folder!r} under the "
            f"data root {data_root}; check both."
        ) from error
    if not image_ids:
        raise ValueError(f"{listing}: lists no image")
    return _read_pictures(data_root, folder, places, image_ids, listing, on_defect)


def _read_pictures(data_root, folder, places, image_ids, listing, on_defect):
    """The images of `image_ids` that can be used; `listing` is where the ids come from, for messages."""
    root = os.path.join(data_root, folder)
    finder = PictureFinder(_place(root, places.images), on_defect)
    pictures = []
    for image_id in image_ids:
        file = os.path.join(_place(root, places.annotations), f"{image_id}.xml")
        try:
            height, width, named_file, nodes = _read_xml(file, listing)
        except FileNotFoundError as error:
            on_defect(Defect("missing annotation", file, str(error)))
            continue
        except ValueError as error:
            on_defect(Defect("broken annotation", file, str(error)))
            continue
        picture_file = finder.find(image_id, named_file, listing)
        if picture_file is None:
            continue
        image_name = "/".join(part for part in (folder, places.images, picture_file) if part not in ("", "."))
        objects = [_read_object(file, number, node, on_defect) for number, node in enumerate(nodes)]
        objects = [item for item in objects if item is not None]
        pictures.append(_Picture(file, image_id, image_name, height, width, objects))
    return pictures


class PictureFinder:
    """Finds the picture of an id, whatever its extension, by one look into the folder."""

    def __init__(self, folder: str, on_defect: OnDefect):
        self.folder = folder
        self.on_defect = on_defect
        self.names = {}  # folder of the id -> id -> file names

    def find(self, image_id: str, named_file: str, listing: str) -> str | None:
        """The picture's file under the folder, the expected one if there is none; None if it may be one of several."""
        subfolder = os.path.dirname(image_id)
        if subfolder not in self.names:
            self.names[subfolder] = self._list(subfolder)
        candidates = self.names[subfolder].get(image_id, [])
        if len(candidates) > 1:
            candidates = [name for name in candidates if os.path.basename(name) == named_file] or candidates
        if len(candidates) == 1:
            return candidates[0]
        found = f"{len(candidates)} files {sorted(candidates)}" if candidates else "no file"
        message = (
            f"{os.path.join(self.folder, image_id)}.*: {found} for the image {image_id!r} of {listing}. "
            "There has to be one picture of that name, such as .jpg or .png."
        )
        if candidates:
            self.on_defect(Defect("ambiguous picture", os.path.join(self.folder, image_id), message))
            return None
        expected = f"{image_id}.jpg"
        self.on_defect(Defect("missing picture", os.path.join(self.folder, expected), message))
        return expected

    def _list(self, subfolder):
        folder = os.path.join(self.folder, subfolder)
        names = {}
        for name in os.listdir(folder) if os.path.isdir(folder) else []:
            stem, extension = os.path.splitext(name)
            if extension.lower() in PICTURE_EXTENSIONS:
                names.setdefault(os.path.join(subfolder, stem), []).append(os.path.join(subfolder, name))
        return names


def _read_xml(file, listing):
    """(height, width, name of the picture as the xml has it, nodes of the objects) of one annotation file.

    Raises:
        FileNotFoundError: it is missing.
        ValueError: it is not xml, or says no size.
    """
    try:
        root = ET.parse(file).getroot()
    except FileNotFoundError as error:
        told = f"{file}: missing{where_it_leads(file)}, though {listing} lists the image{_hint(file)}"
        raise FileNotFoundError(told) from error
    except (ET.ParseError, ValueError, LookupError) as error:  # the last two: an encoding that is unknown or not kept
        raise ValueError(f"{file}: not readable as xml: {error}") from error
    sides = (root.findtext("size/height"), root.findtext("size/width"))
    try:
        height, width = (int(float(side)) for side in sides)  # type: ignore[arg-type]  # None is a TypeError, which is meant
    except (TypeError, ValueError, OverflowError):
        height, width = 0, 0
    if not 1 <= min(height, width) <= max(height, width) < 2**31:
        raise ValueError(f"{file}: height and width are {brief(sides)}. Write the picture's size into <size>.")
    return height, width, root.findtext("filename", "").strip(), root.findall("object")


def _hint(file):
    """What may be meant where `file`, <image id>.xml, is not there."""
    image_id = file.removesuffix(".xml")
    stem, extension = os.path.splitext(image_id)
    if os.path.isfile(image_id + ".XML"):
        return f"; {image_id}.XML has to be renamed to .xml"
    if extension.lower() in (*PICTURE_EXTENSIONS, ".xml"):
        return f". Lists have names without extension: {os.path.basename(stem)}"
    if is_class_line(os.path.basename(image_id)):
        return ". The list looks like one of a single class, with a second column; those without it list a split"
    return ""


def is_class_line(line: str) -> bool:
    """Whether it is a line of a list of a single class, `<image id> 1`, 0 or -1; a name may have blanks itself."""
    words = line.split()
    return len(words) > 1 and words[-1] in ("1", "0", "-1")


def _read_object(file, number, node, on_defect):
    """One object, or None if it cannot be used."""
    name = node.findtext("name", "").strip()
    corners = [node.findtext(f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")]
    difficult = node.findtext("difficult", "0").strip()
    try:
        box = tuple(float(corner) for corner in corners)
    except (TypeError, ValueError):
        box = None
    if not name:
        problem = f"object {number} has no <name>"
    elif box is None:
        problem = f"object {number} ({name}) has corners {brief(corners)}, not four numbers"
    elif difficult not in ("", "0", "1"):
        problem = f"object {number} ({name}) has difficult {brief(difficult)}, not 0 or 1"
    else:
        return _Object(number, name, box, difficult == "1")
    on_defect(Defect("broken object", file, f"{file}: {problem}", number))
    return None


def _unique(pictures: Sequence[_Picture], on_defect: OnDefect) -> list[_Picture]:
    """`pictures` without those whose id was there before."""
    first = {}
    for picture in pictures:
        other = first.setdefault(picture.image_id, picture)
        if other is not picture:
            message = (
                f"image {picture.image_id!r} is listed twice, as {other.file} and as {picture.file}. "
                "Each image counts once: take it off one list, or rename one of two pictures that share a name."
            )
            on_defect(Defect("duplicate id", picture.file, message, picture.image_id))
    return list(first.values())


def _with_known_classes(picture, class_names, on_defect):
    """`picture` without objects of other classes."""
    for item in picture.objects:
        if item.name not in class_names:
            message = (
                f"{picture.file}: object {item.number} is a {shorten(repr(item.name))}, none of the {len(class_names)} known "
                f"classes {brief_names(class_names)}. Add it to the config's classes, or correct the file."
            )
            on_defect(Defect("unknown class", picture.file, message, item.number))
    return picture._replace(objects=[item for item in picture.objects if item.name in class_names])


def _written_images(pictures):
    return WrittenImages(
        names=[picture.image_name for picture in pictures],
        ids=[picture.image_id for picture in pictures],
        heights=[picture.height for picture in pictures],
        widths=[picture.width for picture in pictures],
        files=[picture.file for picture in pictures],
    )


def _written_objects(pictures, class_names):
    objects = [item for picture in pictures for item in picture.objects]
    labels = {name: label for label, name in enumerate(class_names)}
    return WrittenObjects(
        image_indices=[i for i, picture in enumerate(pictures) for _ in picture.objects],
        boxes=[item.box for item in objects],
        labels=[labels[item.name] for item in objects],
        difficult=[item.is_difficult for item in objects],
        crowd=[False] * len(objects),
        areas=None,
        numbers=[item.number for item in objects],
    )
