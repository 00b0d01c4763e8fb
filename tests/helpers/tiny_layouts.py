"""Writes tiny data where an experiment's own settings look for them, for any classes.

Layouts: VOC, COCO, YOLO labels, CIFAR's archives, class folders; and `Split`s of them.
"""

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np

from public.config import ClassificationConfig, DetectionConfig, TrainingConfig, replace
from public.datasets.cifar import OFFICIAL, Cifar
from public.datasets.coco import Coco
from public.datasets.combine import Split
from public.datasets.image_folder import ImageFolder
from public.datasets.preparing.cifar_writer import write_cifar100_part, write_pickle
from public.datasets.voc import Places, Voc
from public.datasets.yolo import Yolo
from public.transforms.detection import BatchRandomResize
from public.transforms.geometric import ResizeShorterSide
from public.transforms.rules import Until
from tests.helpers.tiny_data import make_picture, write_picture, write_voc_xml

SIZE = (48, 64)  # height and width of a picture
SIDE = 64  # of what the network gets
MAX_OBJECTS = 3
CIFAR_SIDE = 32
IMAGES_A_STEP = 2


def write_layout(config: TrainingConfig, data_root: Path, *, num_images: int, seed: int = 0) -> None:
    """Writes `num_images` pictures for each source of the configuration's sets; of detection, the last without an object.

    Class folders, of which none may be empty, get a picture of 8 x 8 pixels each instead.

    Raises:
        TypeError: a set is of a class that this file does not know how to write; add it here.
    """
    num_classes = config.network_settings.num_classes
    for number, data in enumerate([config.train_data, config.val_data, config.test_data]):
        if data is not None:
            _write(data, Path(data_root), num_classes, num_images, np.random.default_rng([seed, number]))


def shrunk(config: TrainingConfig, *, is_large: bool = False, is_narrow: bool = False) -> TrainingConfig:
    """`config` with small pictures, two images a step and no loader processes; everything else as it is.

    A teacher has its initial values.

    Of classification the learning rate falls with the images of a step: that of 256 would blow up the deepest networks.
    CIFAR's archives, whose names promise 60,000 pictures, are looked for under the name that `write_layout` gave them.

    Args:
        is_large: of a large network, which takes long: float32, since a CPU without bf16 instructions takes up to ten times
            as long in bf16; and of a detector a ResNet-18 in place of a deeper one.
        is_narrow: PPYOLOE's networks with an eighth of their channels and the fewest blocks.
    """
    side = CIFAR_SIDE if isinstance(config.train_data, Cifar) else SIDE
    spec, lr = dataclasses.replace(config.input, size=(side, side)), config.lr
    if isinstance(config, ClassificationConfig):
        spec = dataclasses.replace(spec, shorter_side=side * config.input.shorter_side // config.input.size[0])
        lr = config.lr * IMAGES_A_STEP / config.batch_size
    if getattr(config.network_settings, "teacher_weights", None) is not None:
        field = "classifier" if isinstance(config, ClassificationConfig) else "detector"
        config = replace(config, **{field: dataclasses.replace(config.network_settings, teacher_weights=None)})
    if is_large:
        config = replace(config, precision="float32")
        if isinstance(config, DetectionConfig):
            config = replace(config, detector=_shallower(config.detector))
    if is_narrow and hasattr(config.network_settings, "backbone_channels"):
        config = replace(config, detector=dataclasses.replace(config.network_settings, depth=0.16, width=0.125))
    return replace(
        config,
        train_data=_renamed(config.train_data),
        val_data=_renamed(config.val_data),
        train_transforms=tuple(_shrunk_transform(transform, side) for transform in config.train_transforms),
        batch_transforms=tuple(_shrunk_transform(transform, side) for transform in config.batch_transforms),
        input=spec,
        batch_size=IMAGES_A_STEP,
        accumulate=1,
        lr=lr,
        evaluation_batch_size=2,
        num_workers=0,
    )


def _shallower(settings):
    """A detector's settings with the smallest ResNet in place of a deeper one, in student and teacher too."""
    changes = {part: _shallower(getattr(settings, part)) for part in ("student", "teacher") if hasattr(settings, part)}
    if getattr(settings, "backbone", None) in ("resnet50", "resnet101"):
        changes["backbone"] = "resnet18"
    return dataclasses.replace(settings, **changes) if changes else settings


def _renamed(data):
    if isinstance(data, Cifar) and data.archive in OFFICIAL:
        return dataclasses.replace(data, archive=f"tiny-{data.archive}")
    return data


def _shrunk_transform(transform, side: int):
    if isinstance(transform, Until):
        inner = tuple(_shrunk_transform(one, side) for one in transform.transforms)
        return dataclasses.replace(transform, transforms=inner)
    if isinstance(transform, BatchRandomResize):
        return dataclasses.replace(transform, sizes=(side,))
    if isinstance(transform, ResizeShorterSide):
        return dataclasses.replace(transform, shorter_sides=(side,), longer_side=side)
    return dataclasses.replace(transform, size=(side, side)) if hasattr(transform, "size") else transform


def _write(data, data_root: Path, num_classes: int, num_images: int, rng: np.random.Generator) -> None:
    names = getattr(data, "classes", None) or tuple(f"class {k}" for k in range(num_classes))
    if isinstance(data, Split) and isinstance(data.data, ImageFolder):
        _write_class_folders(data_root / data.data.folder, names, np.random.default_rng(0), count=8)
    elif isinstance(data, Split):
        _write(data.data, data_root, num_classes, 4 * num_images, np.random.default_rng(0))  # the same for both parts
    elif isinstance(data, Voc):
        for source in data.sources:
            _write_voc(data_root, source, Places(data.annotations, data.images), names, num_images, rng)
    elif isinstance(data, Yolo):
        _write_yolo(data_root / data.data, data.split, names, num_images, rng)
    elif isinstance(data, Coco):
        _write_coco(data_root, data, names, num_images, rng)
    elif isinstance(data, Cifar):
        _write_cifar(data_root / _renamed(data).archive, data.split, names, num_images, rng)
    elif isinstance(data, ImageFolder):
        _write_class_folders(data_root / data.folder, names, rng)
    else:
        raise TypeError(f"tests/helpers/tiny_layouts.py cannot write a {type(data).__name__}; teach it to")


def _pictures(num_images: int, num_classes: int, rng: np.random.Generator):
    """(picture, boxes, labels); the three colours stand for the first, the middle and the last class."""
    labels_of_colors = (0, num_classes // 2, num_classes - 1)
    for number in range(num_images):
        image, boxes, colors = make_picture(rng, *SIZE, MAX_OBJECTS)
        is_empty = number == num_images - 1
        yield image, [] if is_empty else boxes, [] if is_empty else [labels_of_colors[color] for color in colors]


def _write_voc(
    data_root: Path, source: str, places: Places, names: tuple[str, ...], num_images: int, rng: np.random.Generator
) -> None:
    folder, _, split = source.rpartition("/")
    root = data_root / folder
    image_ids = [f"{source.replace('/', '_').replace('*', 'all')}_{number}" for number in range(num_images)]
    for image_id, (image, boxes, labels) in zip(image_ids, _pictures(num_images, len(names), rng)):
        write_picture(root / places.images / f"{image_id}.jpg", image)
        objects = [(names[label], box, False) for label, box in zip(labels, boxes)]
        write_voc_xml(root / places.annotations / f"{image_id}.xml", size=SIZE, objects=objects)
    listing = root / "ImageSets" / "Main" / f"{split}.txt"
    listing.parent.mkdir(parents=True, exist_ok=True)
    listing.write_text("".join(f"{image_id}\n" for image_id in image_ids))


def _write_yolo(data: Path, split: str, names: tuple[str, ...], num_images: int, rng: np.random.Generator) -> None:
    """A data.yaml that names train, val and test, and the pictures of one of them; or a text of names and its pictures."""
    height, width = SIZE
    part = "" if split == "all" else split
    for number, (image, boxes, labels) in enumerate(_pictures(num_images, len(names), rng)):
        write_picture(data.parent / "images" / part / f"{split}_{number}.jpg", image)
        rows = [
            (label, (x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
            for label, (x1, y1, x2, y2) in zip(labels, boxes)
        ]
        text = data.parent / "labels" / part / f"{split}_{number}.txt"
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text("".join(" ".join(map(str, row)) + "\n" for row in rows))
    is_yaml = data.suffix in (".yaml", ".yml")
    places = "".join(f"{name}: images/{name}\n" for name in ("train", "val", "test"))
    data.write_text(f"{places}names: {list(names)}\n" if is_yaml else "".join(f"{name}\n" for name in names))


def _write_coco(data_root: Path, data: Coco, names: tuple[str, ...], num_images: int, rng: np.random.Generator) -> None:
    """Category ids have gaps, as COCO's 80 have among 1 .. 90; the pictures lie in folders, as those of Objects365."""
    category_ids = [1 + k + k // 8 for k in range(len(names))]
    content: dict[str, list] = {"images": [], "annotations": []}
    content["categories"] = [{"id": number, "name": name} for number, name in zip(category_ids, names)]
    for image_id, (image, boxes, labels) in enumerate(_pictures(num_images, len(names), rng), start=1):
        file_name = f"patch{image_id % 2}/{image_id:012d}.jpg"
        folder = (data_root / data.annotations).parent if data.images is None else data_root / data.images
        write_picture(folder / file_name, image)
        content["images"].append({"id": image_id, "file_name": file_name, "height": SIZE[0], "width": SIZE[1]})
        for (x1, y1, x2, y2), label in zip(boxes, labels):
            size = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
            item = {"id": len(content["annotations"]) + 1, "image_id": image_id, "category_id": category_ids[label]}
            content["annotations"].append(item | size)
    path = data_root / data.annotations
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def _write_cifar(archive: Path, split: str, names: tuple[str, ...], num_images: int, rng: np.random.Generator) -> None:
    archive.mkdir(parents=True, exist_ok=True)
    write_pickle(archive / "meta", {"fine_label_names": list(names), "coarse_label_names": ["all"]})
    labels = [number * (len(names) - 1) // max(num_images - 1, 1) for number in range(num_images)]
    images = rng.integers(0, 256, (num_images, CIFAR_SIDE, CIFAR_SIDE, 3), dtype=np.uint8)
    image_ids = [f"{split}_{number}.png" for number in range(num_images)]
    write_cifar100_part(
        archive / split, images, labels, coarse_labels=[0] * num_images, names=image_ids, title="tiny pictures"
    )


def _write_class_folders(folder: Path, names: tuple[str, ...], rng: np.random.Generator, count: int = 1) -> None:
    """`count` pictures of each class."""
    for number, name in enumerate(names):
        class_folder = folder / name.replace("class ", "n")
        class_folder.mkdir(parents=True, exist_ok=True)
        for copy in range(count):
            is_written, encoded = cv2.imencode(".png", rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            assert is_written
            (class_folder / f"{number + copy * len(names)}.png").write_bytes(encoded.tobytes())
