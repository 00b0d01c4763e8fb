"""Writes tiny data where an experiment's own settings look for them: any VOC or COCO layout, any classes."""

import dataclasses
import json
from pathlib import Path

import numpy as np

from public.config import DetectionConfig, replace
from public.datasets.coco import Coco
from public.datasets.transforms import BatchRandomResize
from public.datasets.voc import Voc
from tests.tiny_data import make_picture, write_picture, write_voc_xml

SIZE = (48, 64)  # height and width of a picture
SIDE = 64  # of what the network gets
MAX_OBJECTS = 3


def write_layout(config: DetectionConfig, data_root: Path, *, num_images: int, seed: int = 0) -> None:
    """Writes `num_images` pictures for each source of the configuration's sets, the last of them without an object.

    Raises:
        TypeError: a set is of a class that this file does not know how to write; add it here.
    """
    for number, data in enumerate([config.train_data, config.val_data, config.test_data]):
        if data is not None:
            _write(
                data, Path(data_root), config.detector.num_classes, num_images, np.random.default_rng([seed, number])
            )


def shrunk(config: DetectionConfig) -> DetectionConfig:
    """`config` with small pictures, two images a step and no loader processes; everything else as it is."""
    return replace(
        config,
        train_transforms=tuple(_shrunk_transform(transform) for transform in config.train_transforms),
        batch_transforms=tuple(_shrunk_transform(transform) for transform in config.batch_transforms),
        input=dataclasses.replace(config.input, size=(SIDE, SIDE)),
        batch_size=2,
        accumulate=1,
        evaluation_batch_size=2,
        num_workers=0,
    )


def _shrunk_transform(transform):
    if isinstance(transform, BatchRandomResize):
        return dataclasses.replace(transform, sizes=(SIDE,))
    return dataclasses.replace(transform, size=(SIDE, SIDE)) if hasattr(transform, "size") else transform


def _write(data, data_root: Path, num_classes: int, num_images: int, rng: np.random.Generator) -> None:
    names = getattr(data, "classes", None) or tuple(f"class {k}" for k in range(num_classes))
    if isinstance(data, Voc):
        for source in data.sources:
            _write_voc(data_root, source, names, num_images, rng)
    elif isinstance(data, Coco):
        _write_coco(data_root, data, names, num_images, rng)
    else:
        raise TypeError(f"tests/tiny_layouts.py cannot write a {type(data).__name__}; teach it to")


def _pictures(num_images: int, num_classes: int, rng: np.random.Generator):
    """(picture, boxes, labels); the three colours stand for the first, the middle and the last class."""
    labels_of_colors = (0, num_classes // 2, num_classes - 1)
    for number in range(num_images):
        image, boxes, colors = make_picture(rng, *SIZE, MAX_OBJECTS)
        is_empty = number == num_images - 1
        yield image, [] if is_empty else boxes, [] if is_empty else [labels_of_colors[color] for color in colors]


def _write_voc(data_root: Path, source: str, names: tuple[str, ...], num_images: int, rng: np.random.Generator) -> None:
    folder, _, split = source.rpartition("/")
    root = data_root / folder
    image_ids = [f"{source.replace('/', '_')}_{number}" for number in range(num_images)]
    for image_id, (image, boxes, labels) in zip(image_ids, _pictures(num_images, len(names), rng)):
        write_picture(root / "JPEGImages" / f"{image_id}.jpg", image)
        objects = [(names[label], box, False) for label, box in zip(labels, boxes)]
        write_voc_xml(root / "Annotations" / f"{image_id}.xml", size=SIZE, objects=objects)
    listing = root / "ImageSets" / "Main" / f"{split}.txt"
    listing.parent.mkdir(parents=True, exist_ok=True)
    listing.write_text("".join(f"{image_id}\n" for image_id in image_ids))


def _write_coco(data_root: Path, data: Coco, names: tuple[str, ...], num_images: int, rng: np.random.Generator) -> None:
    """Category ids have gaps, as COCO's 80 have among 1 .. 90; the pictures lie in folders, as those of Objects365."""
    category_ids = [1 + k + k // 8 for k in range(len(names))]
    content: dict[str, list] = {"images": [], "annotations": []}
    content["categories"] = [{"id": number, "name": name} for number, name in zip(category_ids, names)]
    for image_id, (image, boxes, labels) in enumerate(_pictures(num_images, len(names), rng), start=1):
        file_name = f"patch{image_id % 2}/{image_id:012d}.jpg"
        write_picture(data_root / data.images / file_name, image)
        content["images"].append({"id": image_id, "file_name": file_name, "height": SIZE[0], "width": SIZE[1]})
        for (x1, y1, x2, y2), label in zip(boxes, labels):
            size = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
            item = {"id": len(content["annotations"]) + 1, "image_id": image_id, "category_id": category_ids[label]}
            content["annotations"].append(item | size)
    path = data_root / data.annotations
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
