"""Writes tiny data sets in VOC and COCO layout, for tests: coloured rectangles on noise, from a seed."""

import json
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

TINY_CLASSES = ("bird", "cat", "dog")


class TinyImage(NamedTuple):
    """What was written about one image."""

    image_id: str | int
    height: int
    width: int
    boxes: list[tuple[int, int, int, int]]  # x1 y1 x2 y2, edges of whole pixels from 0, as `Annotations` stores them
    labels: list[int]  # numbers into the classes
    difficult: list[bool]
    crowd: list[bool]


def make_picture(rng: np.random.Generator, height: int, width: int, max_objects: int) -> tuple[np.ndarray, list, list]:
    """A noisy picture (H, W, 3) uint8 RGB with rectangles, their boxes, and labels: the colour tells the class."""
    image = rng.integers(0, 90, (height, width, 3), dtype=np.uint8)
    boxes, labels = [], []
    for _ in range(int(rng.integers(1, max_objects + 1))):
        box_width, box_height = rng.integers(8, (width // 2, height // 2))
        x1, y1 = int(rng.integers(0, width - box_width + 1)), int(rng.integers(0, height - box_height + 1))
        x2, y2 = x1 + int(box_width), y1 + int(box_height)
        label = int(rng.integers(len(TINY_CLASSES)))
        image[y1:y2, x1:x2, label] = 230
        boxes.append((x1, y1, x2, y2))
        labels.append(label)
    return image, boxes, labels


def write_picture(path: Path, image: np.ndarray) -> None:
    """Writes an RGB picture; the extension says the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, image[:, :, ::-1])[1].tobytes())


def _tiny_images(num_images, size, max_objects, seed, id_of):
    """Pictures and what is to be written about them; with several images the last holds no object."""
    rng = np.random.default_rng(seed)
    for number in range(num_images):
        image, boxes, labels = make_picture(rng, *size, max_objects)
        if number > 0 and number == num_images - 1:
            boxes, labels = [], []
        flags = [bool(flag) for flag in rng.random(len(boxes)) < 0.25]
        yield image, TinyImage(id_of(number), *size, boxes, labels, flags, [False] * len(boxes))


def write_voc(
    data_root: Path,
    *,
    folder: str = "VOCdevkit/VOC2007",
    split: str = "train",
    num_images: int = 8,
    size: tuple[int, int] = (48, 64),
    max_objects: int = 3,
    seed: int = 0,
    extension: str = ".png",
) -> list[TinyImage]:
    """Writes "<folder>/<split>" under `data_root`, readable by Voc(sources=("<folder>/<split>",), ...).

    `size` is (height, width).  A quarter of the objects is difficult; the last of several images has none.
    """
    root = Path(data_root) / folder
    written = []
    for image, tiny in _tiny_images(num_images, size, max_objects, seed, lambda number: f"{split}_{number:04d}"):
        write_picture(root / "JPEGImages" / f"{tiny.image_id}{extension}", image)
        objects = zip(tiny.boxes, tiny.labels, tiny.difficult)
        write_voc_xml(
            root / "Annotations" / f"{tiny.image_id}.xml",
            size=size,
            objects=[(TINY_CLASSES[label], box, difficult) for box, label, difficult in objects],
        )
        written.append(tiny)
    listing = root / "ImageSets" / "Main" / f"{split}.txt"
    listing.parent.mkdir(parents=True, exist_ok=True)
    listing.write_text("".join(f"{tiny.image_id}\n" for tiny in written))
    return written


def write_voc_xml(path: Path, *, size: tuple[int, int], objects: list) -> None:
    """One annotation file; `objects` are (name, box, difficult) with the box x1 y1 x2 y2 as edges of pixels from 0."""
    lines = [f"<annotation><size><width>{size[1]}</width><height>{size[0]}</height><depth>3</depth></size>"]
    for name, (x1, y1, x2, y2), difficult in objects:
        box = f"<xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
        lines.append(
            f"<object><name>{name}</name><difficult>{int(difficult)}</difficult><bndbox>{box}</bndbox></object>"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*lines, "</annotation>\n"]))


def write_coco(
    data_root: Path,
    *,
    annotations: str = "annotations/train.json",
    images: str = "images",
    num_images: int = 8,
    size: tuple[int, int] = (48, 64),
    max_objects: int = 3,
    seed: int = 0,
    category_ids: tuple[int, ...] = (3, 17, 90),
    extension: str = ".png",
) -> list[TinyImage]:
    """Writes a COCO json and its pictures, readable by Coco(annotations=annotations, images=images, ...).

    Image ids are 10, 17, 24, ...; images, and objects by their images, stand in the json in falling order.  A quarter
    of the objects is crowd; the last of several images has none.
    """
    data_root = Path(data_root)
    content = {"images": [], "annotations": [], "categories": []}
    for category_id, name in zip(category_ids, TINY_CLASSES):
        content["categories"].append({"id": category_id, "name": name})
    written = []
    for image, tiny in _tiny_images(num_images, size, max_objects, seed, lambda number: 10 + 7 * number):
        tiny = tiny._replace(crowd=tiny.difficult, difficult=tiny.crowd)
        file_name = f"{tiny.image_id:012d}{extension}"
        write_picture(data_root / images / file_name, image)
        entry = {"id": tiny.image_id, "file_name": file_name, "height": size[0], "width": size[1]}
        content["images"].insert(0, entry)
        objects = []
        for (x1, y1, x2, y2), label, crowd in zip(tiny.boxes, tiny.labels, tiny.crowd):
            width, height = x2 - x1, y2 - y1
            item = {"image_id": tiny.image_id, "category_id": category_ids[label], "iscrowd": int(crowd)}
            objects.append({**item, "bbox": [x1, y1, width, height], "area": 0.75 * width * height})
        content["annotations"] = objects + content["annotations"]
        written.append(tiny)
    content["annotations"] = [{"id": 1000 + i, **item} for i, item in enumerate(content["annotations"])]
    path = data_root / annotations
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return written
