"""Small drawn data as users have it, in each layout that is recognised: the same pictures and objects in all of them."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tests.helpers.tiny_data import TINY_CLASSES, make_picture, write_picture, write_voc_xml

SIZES = ((48, 64), (60, 45), (50, 50))  # height and width
NUM_IMAGES = {"train": 8, "val": 4, "test": 3}


class Drawn(NamedTuple):
    """One picture; boxes are x1 y1 x2 y2 in pixels."""

    name: str
    image: np.ndarray
    boxes: list[tuple[int, int, int, int]]
    labels: list[int]

    @property
    def size(self) -> tuple[int, int]:
        return self.image.shape[:2]


def drawn(split: str) -> Iterator[Drawn]:
    """The pictures of a split, the same in each layout; each has an object."""
    rng = np.random.default_rng(list(NUM_IMAGES).index(split))
    for number in range(NUM_IMAGES[split]):
        yield Drawn(f"{split}_{number}", *make_picture(rng, *SIZES[number % len(SIZES)], 3))


def write_voc_pair(root: Path, split: str, *, annotations: str, images: str) -> None:
    for item in drawn(split):
        write_picture(root / images / f"{item.name}.png", item.image)
        objects = [(TINY_CLASSES[label], box, False) for box, label in zip(item.boxes, item.labels)]
        write_voc_xml(root / annotations / f"{item.name}.xml", size=item.size, objects=objects)


def write_coco_json(root: Path, split: str, *, json_file: str, images: str) -> None:
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(TINY_CLASSES)]
    content: dict[str, list] = {"images": [], "annotations": [], "categories": categories}
    for number, item in enumerate(drawn(split), start=1):
        write_picture(root / images / f"{item.name}.png", item.image)
        height, width = item.size
        content["images"].append({"id": number, "file_name": f"{item.name}.png", "height": height, "width": width})
        for (x1, y1, x2, y2), label in zip(item.boxes, item.labels):
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "image_id": number, "category_id": label + 1}
            content["annotations"].append({"id": len(content["annotations"]) + 1, **box})
    path = root / json_file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_yolo_pair(root: Path, split: str, *, images: str, labels: str, outlines: bool = False) -> None:
    for item in drawn(split):
        write_picture(root / images / f"{item.name}.png", item.image)
        height, width = item.size
        lines = []
        for (x1, y1, x2, y2), label in zip(item.boxes, item.labels):
            left, top, right, bottom = x1 / width, y1 / height, x2 / width, y2 / height
            numbers = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
            corners = [left, top, right, top, right, bottom, left, bottom]
            lines.append(" ".join(map(str, [label, *(corners if outlines else numbers)])))
        path = root / labels / f"{item.name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")


def write_class_folders(root: Path, split: str, folder: str) -> None:
    for number, item in enumerate(drawn(split)):
        write_picture(root / folder / TINY_CLASSES[number % 3] / f"{item.name}.png", item.image)


# ------------------------------------------------------------------------------------------------------ layouts


def _voc(root: Path) -> None:
    for split in ("train", "val"):
        write_voc_pair(root, split, annotations="Annotations", images="JPEGImages")
        listing = root / f"ImageSets/Main/{split}.txt"
        listing.parent.mkdir(parents=True, exist_ok=True)
        listing.write_text("".join(f"{item.name}\n" for item in drawn(split)))


def _two_folders(root: Path) -> None:
    write_voc_pair(root, "train", annotations="annotations", images="images")


def _nested(root: Path) -> None:
    """As the Oxford pets are kept."""
    write_voc_pair(root, "train", annotations="annotations/xmls", images="images")


def _xml_beside(root: Path) -> None:
    write_voc_pair(root, "train", annotations=".", images=".")


def _xml_in_splits(root: Path) -> None:
    for split, folder in (("train", "train"), ("val", "valid"), ("test", "test")):
        write_voc_pair(root / folder, split, annotations=".", images=".")


def _two_folders_in_splits(root: Path) -> None:
    for split in ("train", "val"):
        write_voc_pair(root, split, annotations=f"annotations/{split}", images=f"images/{split}")


def _coco_official(root: Path) -> None:
    for split in ("train", "val"):
        write_coco_json(root, split, json_file=f"annotations/instances_{split}2017.json", images=f"{split}2017")
    (root / "annotations/person_keypoints_val2017.json").write_text(
        (root / "annotations/instances_val2017.json").read_text()
    )
    (root / "annotations/captions_val2017.json").write_text('{"images": [], "annotations": []}')


def _coco_one(root: Path) -> None:
    write_coco_json(root, "train", json_file="annotations.json", images="images")


def _coco_in_splits(root: Path) -> None:
    for split, folder in (("train", "train"), ("val", "valid")):
        write_coco_json(root, split, json_file=f"{folder}/_annotations.coco.json", images=folder)


def _yolo(root: Path) -> None:
    for split in ("train", "val"):
        write_yolo_pair(root, split, images=f"images/{split}", labels=f"labels/{split}")
    (root / "data.yaml").write_text(
        "path: ../datasets/mine  # root\ntrain: images/train  # relative to 'path'\nval: images/val\ntest:  # none\n\n"
        "names:\n  0: bird\n  1: cat\n  2: dog\n"
    )


def _yolo_in_splits(root: Path) -> None:
    for split, folder in (("train", "train"), ("val", "valid")):
        write_yolo_pair(root / folder, split, images="images", labels="labels", outlines=True)
    (root / "data.yaml").write_text(
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 3\nnames: ['bird', 'cat', 'dog']\n"
    )


def _yolo_names(root: Path) -> None:
    write_yolo_pair(root, "train", images="images", labels="labels")
    (root / "classes.txt").write_text("bird\ncat\ndog\n")


def _yolo_beside(root: Path) -> None:
    write_yolo_pair(root, "train", images=".", labels=".")
    (root / "classes.txt").write_text("bird\ncat\ndog\n")


def _classes(root: Path) -> None:
    for split in ("train", "val"):
        write_class_folders(root, split, split)


def _classes_one(root: Path) -> None:
    write_class_folders(root, "train", ".")


class Written(NamedTuple):
    """How to write a layout, and what is to be found."""

    write: Callable[[Path], None]
    kind: str
    splits: tuple[str, ...]
    says: str  # what the found line has to have


LAYOUTS = {
    "voc": Written(_voc, "voc", ("train", "val"), "Annotations/ and pictures in .*JPEGImages/, lists train, val"),
    "two folders": Written(_two_folders, "voc", ("all",), "annotations/ and pictures in .*images/, without lists"),
    "nested": Written(_nested, "voc", ("all",), "annotations/xmls/ and pictures in .*images/"),
    "xml beside": Written(_xml_beside, "voc", ("all",), "VOC xml beside the pictures"),
    "xml in splits": Written(_xml_in_splits, "voc", ("train", "val", "test"), "valid/ .val."),
    "two folders in splits": Written(_two_folders_in_splits, "voc", ("train", "val"), "in each train, val"),
    "coco": Written(_coco_official, "coco", ("train", "val"), "instances_val2017.json .val."),
    "one json": Written(_coco_one, "coco", ("all",), "annotations.json"),
    "json in splits": Written(_coco_in_splits, "coco", ("train", "val"), "valid/_annotations.coco.json .val."),
    "yolo": Written(_yolo, "yolo", ("train", "val"), "data.yaml .train, val."),
    "yolo in splits": Written(_yolo_in_splits, "yolo", ("train", "val"), "data.yaml .train, val."),
    "yolo with names": Written(_yolo_names, "yolo", ("all",), "classes.txt"),
    "yolo beside": Written(_yolo_beside, "yolo", ("all",), "classes.txt"),
    "class folders": Written(_classes, "classes", ("train", "val"), "class folders in .*train/ .train."),
    "one of class folders": Written(_classes_one, "classes", ("all",), "class folders"),
}
