"""COCO layout: one json with images, annotations and categories, and a folder of pictures.

A json box is x y width height with continuous coordinates, stored as (x, y, x + width, y + height).  Category ids may be
any numbers with gaps: class label k is the k-th of `class_names`, and `category_ids[k]` is its number in the json.
Images come in the order of their ids, whatever the order in the json.
"""

import json
import os
from dataclasses import dataclass

from public.datasets.annotations import Annotations, WrittenImages, WrittenObjects, agree_on_classes, assemble


@dataclass(frozen=True, kw_only=True)
class Coco:
    """A data set in COCO layout.

    Crowd objects are kept, flagged: evaluation needs them, training never gets them.

    Fields:
        annotations: the json file, under the data root.
        images: the folder of the pictures, under the data root.
        classes: names in label order; None takes the json's categories by rising id.
        keep_empty_images: whether images without an object to train on (nothing, or crowd only) stay in the set.
    """

    annotations: str
    images: str
    classes: tuple[str, ...] | None
    keep_empty_images: bool

    def read(self, data_root: str | os.PathLike, class_names: tuple[str, ...] | None = None) -> Annotations:
        """Reads the json.

        Args:
            data_root: the folder that `annotations` and `images` start from.
            class_names: the classes that this set has to agree with, for instance those of the training set.

        Raises:
            FileNotFoundError: the json is missing.
            ValueError: the json is broken; an id is there twice; an annotation belongs to no known image or category;
                the classes of the json, the config and `class_names` differ.
        """
        path = os.path.join(os.fspath(data_root), self.annotations)
        content = _load(path)
        categories = _by_id(path, content, "categories")
        images = _by_id(path, content, "images")
        annotations = list(_by_id(path, content, "annotations").values())
        _check_references(path, annotations, images, categories)
        class_names, category_ids = _classes(
            path, categories, annotations, agree_on_classes(self.classes, class_names, f"COCO {self.annotations}")
        )
        if not self.keep_empty_images:
            used = {item["image_id"] for item in annotations if not item.get("iscrowd", 0)}
            images = {image_id: image for image_id, image in images.items() if image_id in used}
            annotations = [item for item in annotations if item["image_id"] in images]
        if not images:
            raise ValueError(f"{path}: no image to use")
        image_ids = sorted(images)
        return assemble(
            _written_images(path, [images[image_id] for image_id in image_ids]),
            _written_objects(path, annotations, image_ids, category_ids),
            first_pixel=0,
            image_root=os.path.join(os.fspath(data_root), self.images),
            class_names=class_names,
            category_ids=category_ids,
            use_difficult=True,
            description=f"COCO {self.annotations}",
        )


def _load(path):
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: missing. Check the config's `annotations` and the data root.") from None
    except ValueError as error:
        raise ValueError(f"{path}: not readable as json: {error}") from None
    missing = {"images", "annotations", "categories"} - set(content if isinstance(content, dict) else ())
    if missing:
        raise ValueError(f"{path}: no list of {sorted(missing)}; a COCO json has images, annotations and categories")
    return content


def _by_id(path, content, kind):
    """The entries of one of the json's lists by their ids."""
    entries = {}
    for item in content[kind]:
        item_id = _field(path, kind, item, "id")
        if item_id in entries:
            raise ValueError(
                f"{path}: two of the {kind} have the id {item_id}: {_brief(entries[item_id])}, {_brief(item)}"
            )
        entries[item_id] = item
    if len({type(item_id) for item_id in entries} | {int}) > 1 and not all(isinstance(i, str) for i in entries):
        raise ValueError(f"{path}: the ids of the {kind} have to be all whole numbers or all text")
    return entries


def _field(path, kind, item, name):
    if name not in item:
        raise ValueError(f"{path}: one of the {kind} has no {name!r}: {_brief(item)}")
    return item[name]


def _brief(item):
    return json.dumps(item)[:200]


def _check_references(path, annotations, images, categories):
    for item in annotations:
        for name, known in (("image_id", images), ("category_id", categories)):
            if _field(path, "annotations", item, name) not in known:
                raise ValueError(
                    f"{path}: annotation {item['id']} has {name} {item[name]}, which is none of the {len(known)} "
                    f"{name.removesuffix('_id')} ids of the file"
                )


def _classes(path, categories, annotations, class_names):
    """(class names, category ids), both in label order.

    The names that the config or another set prescribe have to be those of the json; only categories without a single
    object may be left out.
    """
    ids = {}
    for category_id in sorted(categories):
        name = _field(path, "categories", categories[category_id], "name")
        if name in ids:
            raise ValueError(f"{path}: categories {ids[name]} and {category_id} are both called {name!r}")
        ids[name] = category_id
    if class_names is None:
        return tuple(ids), tuple(ids.values())
    used_ids = {item["category_id"] for item in annotations}
    used = [name for name, category_id in ids.items() if category_id in used_ids]
    unknown = [name for name in used if name not in class_names]
    lacking = [name for name in class_names if name not in ids]
    if unknown or lacking:
        raise ValueError(
            f"{path}: its {len(ids)} categories {tuple(ids)} are not the {len(class_names)} classes {class_names} of the "
            f"config or the training set: {unknown} are not expected there, {lacking} are not in the file"
        )
    return class_names, tuple(ids[name] for name in class_names)


def _written_images(path, images):
    return WrittenImages(
        names=[_field(path, "images", image, "file_name") for image in images],
        ids=[image["id"] for image in images],
        heights=[_field(path, "images", image, "height") for image in images],
        widths=[_field(path, "images", image, "width") for image in images],
        files=[path] * len(images),
    )


def _written_objects(path, annotations, image_ids, category_ids):
    positions = {image_id: i for i, image_id in enumerate(image_ids)}
    labels = {category_id: label for label, category_id in enumerate(category_ids)}
    boxes = [_corners(path, item) for item in annotations]
    return WrittenObjects(
        image_indices=[positions[item["image_id"]] for item in annotations],
        boxes=boxes,
        labels=[labels[item["category_id"]] for item in annotations],
        difficult=[False] * len(annotations),
        crowd=[bool(item.get("iscrowd", 0)) for item in annotations],
        areas=[item.get("area", item["bbox"][2] * item["bbox"][3]) for item in annotations],
        numbers=[item["id"] for item in annotations],
    )


def _corners(path, item):
    box = _field(path, "annotations", item, "bbox")
    if len(box) != 4 or not all(isinstance(value, int | float) for value in box):
        raise ValueError(f"{path}: annotation {item['id']} has the bbox {box}, not x, y, width, height")
    x, y, width, height = box
    return x, y, x + width, y + height
