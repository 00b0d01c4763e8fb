"""Pascal VOC layout: `<folder>/Annotations/*.xml`, `<folder>/ImageSets/Main/<split>.txt`, `<folder>/JPEGImages/*`.

Coordinates.  VOC counts pixels from 1 and both corners belong to the object: xmin 1 and xmax W cover a whole picture of
width W.  We store the edges of that area, (xmin - 1, ymin - 1, xmax, ymax), which lose nothing: a sub-pixel-exact box
whose width x2 - x1 is VOC's xmax - xmin + 1, so that VOC's inclusive-pixel IoU is the plain IoU of our boxes.
`to_inclusive_pixels` gives back what the xml says.  The references differ from this by at most one pixel and from each
other: PaddleDetection takes the four numbers as they are, YOLOX subtracts 1 from all four.
"""

import os
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from public.datasets.annotations import Annotations, WrittenImages, WrittenObjects, agree_on_classes, assemble

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip

PICTURE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def to_inclusive_pixels(boxes: np.ndarray) -> np.ndarray:
    """Stored boxes (..., 4), or detections in the same coordinates, as VOC's xmin ymin xmax ymax."""
    return boxes + np.array([1, 1, 0, 0], dtype=boxes.dtype)


@dataclass(frozen=True, kw_only=True)
class Voc:
    """A data set in VOC layout.

    Fields:
        sources: "folder/split" under the data root, such as "VOCdevkit/VOC2007/trainval"; several make a union.
        classes: names in label order; None takes the sorted names found in the data.
        use_difficult: whether difficult objects are trained on.  Evaluation sees them, flagged, in any case.
    """

    sources: tuple[str, ...]
    classes: tuple[str, ...] | None
    use_difficult: bool

    def read(self, data_root: str | os.PathLike, class_names: tuple[str, ...] | None = None) -> Annotations:
        """Reads all xml files of the splits.

        Args:
            data_root: the folder that `sources` start from.
            class_names: the classes that this set has to agree with, for instance those of the training set.

        Raises:
            FileNotFoundError: a list, an xml file or a picture is missing.
            ValueError: an xml file is broken or says no size, an object has an unknown class or no box, an image is
                listed twice, or `classes` and `class_names` differ.
        """
        description = f"VOC {' + '.join(self.sources)}"
        class_names = agree_on_classes(self.classes, class_names, description)
        data_root = os.fspath(data_root)
        pictures = [picture for source in self.sources for picture in _read_source(data_root, source)]
        _check_unique(pictures)
        if class_names is None:
            class_names = tuple(sorted({item.name for picture in pictures for item in picture.objects}))
            if not class_names:
                raise ValueError(f"{description}: no object in {len(pictures)} files; name the classes in the config")
        return assemble(
            _written_images(pictures),
            _written_objects(pictures, class_names),
            first_pixel=1,
            image_root=data_root,
            class_names=class_names,
            category_ids=tuple(range(1, len(class_names) + 1)),
            use_difficult=self.use_difficult,
            description=description,
        )


class _Object(NamedTuple):
    name: str
    box: tuple[float, float, float, float]  # as written
    is_difficult: bool


class _Picture(NamedTuple):
    file: str  # the xml
    image_id: str
    image_name: str  # under the data root
    height: int
    width: int
    objects: list[_Object]


def _read_source(data_root, source):
    folder, _, split = source.rpartition("/")
    root = os.path.join(data_root, folder)
    listing = os.path.join(root, "ImageSets", "Main", f"{split}.txt")
    try:
        with open(listing, encoding="utf-8") as file:
            image_ids = [line.strip() for line in file if line.strip()]
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{listing}: missing. The config's source {source!r} means split {split!r} of folder {folder!r} under the "
            f"data root {data_root}; check both."
        ) from None
    if not image_ids:
        raise ValueError(f"{listing}: lists no image")
    finder = _PictureFinder(os.path.join(root, "JPEGImages"))
    pictures = []
    for image_id in image_ids:
        file = os.path.join(root, "Annotations", f"{image_id}.xml")
        height, width, named_file, objects = _read_xml(file, listing)
        picture_file = finder.find(image_id, named_file, listing)
        image_name = "/".join(part for part in (folder, "JPEGImages", picture_file) if part)
        pictures.append(_Picture(file, image_id, image_name, height, width, objects))
    return pictures


class _PictureFinder:
    """Finds the picture of an id, whatever its extension, by one look into the folder."""

    def __init__(self, folder: str):
        self.folder = folder
        self.names = {}  # folder of the id -> id -> file names

    def find(self, image_id: str, named_file: str, listing: str) -> str:
        subfolder = os.path.dirname(image_id)
        if subfolder not in self.names:
            self.names[subfolder] = self._list(subfolder)
        candidates = self.names[subfolder].get(image_id, [])
        if len(candidates) > 1:
            candidates = [name for name in candidates if os.path.basename(name) == named_file] or candidates
        if len(candidates) != 1:
            found = f"{len(candidates)} files {sorted(candidates)}" if candidates else "no file"
            raise FileNotFoundError(
                f"{os.path.join(self.folder, image_id)}.*: {found} for the image {image_id!r} of {listing}. "
                "There has to be one picture of that name, such as .jpg or .png."
            )
        return candidates[0]

    def _list(self, subfolder):
        folder = os.path.join(self.folder, subfolder)
        names = {}
        for name in os.listdir(folder) if os.path.isdir(folder) else []:
            stem, extension = os.path.splitext(name)
            if extension.lower() in PICTURE_EXTENSIONS:
                names.setdefault(os.path.join(subfolder, stem), []).append(os.path.join(subfolder, name))
        return names


def _read_xml(file, listing):
    """(height, width, name of the picture as the xml has it, objects) of one annotation file."""
    try:
        root = ET.parse(file).getroot()
    except FileNotFoundError:
        raise FileNotFoundError(f"{file}: missing, though {listing} lists the image") from None
    except ET.ParseError as error:
        raise ValueError(f"{file}: not readable as xml: {error}") from None
    sides = (root.findtext("size/height"), root.findtext("size/width"))
    try:
        height, width = (int(float(side)) for side in sides)
    except (TypeError, ValueError):
        height, width = 0, 0
    if height < 1 or width < 1:
        raise ValueError(f"{file}: height and width are {sides}. Write the picture's size into <size>.")
    objects = [_read_object(file, number, node) for number, node in enumerate(root.findall("object"))]
    return height, width, root.findtext("filename", "").strip(), objects


def _read_object(file, number, node):
    name = node.findtext("name", "").strip()
    if not name:
        raise ValueError(f"{file}: object {number} has no <name>")
    corners = [node.findtext(f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")]
    try:
        box = tuple(float(corner) for corner in corners)
    except (TypeError, ValueError):
        raise ValueError(f"{file}: object {number} ({name}) has corners {corners}, not four numbers") from None
    difficult = node.findtext("difficult", "0").strip()
    if difficult not in ("", "0", "1"):
        raise ValueError(f"{file}: object {number} ({name}) has difficult {difficult!r}, not 0 or 1")
    return _Object(name, box, difficult == "1")


def _check_unique(pictures: Sequence[_Picture]):
    first = {}
    for picture in pictures:
        other = first.setdefault(picture.image_id, picture)
        if other is not picture:
            raise ValueError(
                f"image {picture.image_id!r} is listed twice, as {other.file} and as {picture.file}. "
                "Each image counts once: take it off one list, or rename one of two pictures that share a name."
            )


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
    return WrittenObjects(
        image_indices=[i for i, picture in enumerate(pictures) for _ in picture.objects],
        boxes=[item.box for item in objects],
        labels=_labels(pictures, class_names),
        difficult=[item.is_difficult for item in objects],
        crowd=[False] * len(objects),
        areas=None,
        numbers=[number for picture in pictures for number in range(len(picture.objects))],
    )


def _labels(pictures, class_names):
    numbers = {name: label for label, name in enumerate(class_names)}
    labels = []
    for picture in pictures:
        for number, item in enumerate(picture.objects):
            if item.name not in numbers:
                raise ValueError(
                    f"{picture.file}: object {number} is a {item.name!r}, none of the {len(class_names)} known classes "
                    f"{class_names}. Add it to the config's classes, or correct the file."
                )
            labels.append(numbers[item.name])
    return labels
