"""COCO layout: one json with images, annotations and categories, and a folder of pictures.

A json box is x y width height with continuous coordinates, stored as (x, y, x + width, y + height).  Category ids may be
any numbers with gaps: class label k is the k-th of `class_names`, and `category_ids[k]` is its number in the json.
Images come in the order of their ids, whatever the order in the json.
"""

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from public.datasets.annotations import (
    Annotations,
    WrittenImages,
    WrittenObjects,
    agree_on_classes,
    assemble,
    brief_names,
)
from public.datasets.coco_columns import CROWD_MARKS, Columns, read_columns
from public.datasets.defects import Defect, OnDefect, stop
from public.datasets.folders import word_of_split
from public.files import read_json
from public.settings import Name, check
from public.text import brief, file_named, shorten

SAMPLE = 100  # pictures that are looked for, to find the folder of all

_is_cached = True  # whether large files are read from what an earlier start has kept of them


@contextmanager
def annotation_cache(is_used: bool) -> Iterator[None]:
    """Within it, sets are read with or without what an earlier start has kept of their json; the result is the same."""
    global _is_cached
    before, _is_cached = _is_cached, is_used
    try:
        yield
    finally:
        _is_cached = before


@dataclass(frozen=True, kw_only=True)
class Coco:
    """A data set in COCO layout.

    Crowd objects are kept, flagged: evaluation needs them, training never gets them.  Objects with `"ignore": 1` are read
    as crowds are: they are not trained on, are neither to be found nor wrong to be found.

    Fields:
        annotations: the json file, under the data root.
        images: the folder of the pictures, under the data root; None looks for them in the usual places around the json
            (`find_pictures`).
        classes: names in label order; None takes the json's categories by rising id.
        keep_empty_images: whether images without an object to train on (nothing, or crowd only) stay in the set.
    """

    annotations: Name
    images: str | None
    classes: tuple[Name, ...] | None
    keep_empty_images: bool

    def __post_init__(self):
        check(self)

    def read(
        self,
        data_root: str | os.PathLike,
        class_names: tuple[str, ...] | None = None,
        on_defect: OnDefect = stop,
    ) -> Annotations:
        """Reads the json.

        Args:
            data_root: the folder that `annotations` and `images` start from.
            class_names: the classes that this set has to agree with, for instance those of the training set.
            on_defect: told every defect of an entry.  Where it returns, the entry is left out, and with an image its
                annotations.

        Raises:
            FileNotFoundError: the json is missing; there is no `images`, and no usual place holds a picture.
            ValueError: the json is broken; an entry lacks something or has a value that makes no sense; an id or a picture
                is there twice; an annotation belongs to no known image or category; no image is left; the classes of the
                json, the config and `class_names` differ.
        """
        path = os.path.join(os.fspath(data_root), self.annotations)
        columns = read_columns(path, _is_image, cached=_is_cached)
        found = _looked_at(path, on_defect) if columns is None else _of_columns(columns)
        names = {found.categories[category_id]["name"]: category_id for category_id in sorted(found.categories)}
        if columns is None:
            names = _unique_names(path, found.categories, on_defect)
        class_names, category_ids = _classes(
            path, names, found.used, agree_on_classes(self.classes, class_names, f"COCO {self.annotations}")
        )
        used = found.used & set(category_ids)  # objects of a second category of one name go with it
        if not found.image_ids:
            raise ValueError(f"{path}: no image to use")
        warnings = _root_categories(path, found.categories, used, class_names, on_defect)
        image_root = self._image_root(data_root, path, found.file_names)
        read = assemble(
            found.images(path),
            found.objects(category_ids),
            first_pixel=0,
            image_root=image_root,
            class_names=class_names,
            category_ids=category_ids,
            use_difficult=True,
            description=f"COCO {self.annotations}",
            on_defect=on_defect,
        )
        read.warnings += warnings
        return read if self.keep_empty_images else read.without_empty_images()

    def _image_root(self, data_root, path, names):
        """The folder that the pictures of the json `path`, called `names`, start from."""
        if self.images is None:
            return find_pictures(path, names)
        return os.path.join(os.fspath(data_root), self.images)


class _Found(NamedTuple):
    """The usable entries of a json, in which every reference is to another of them."""

    categories: dict  # by id
    image_ids: list  # sorted
    file_names: list[str]  # in the order of image_ids
    used: set  # the ids of categories that have objects
    images: Callable[[str], WrittenImages]  # of the path
    objects: Callable[[tuple], WrittenObjects]  # of the ids of the classes, in label order; without those of no class


def _looked_at(path: str, on_defect: OnDefect) -> _Found:
    """The entries one by one, each of which is checked."""
    content = _load(path)
    entries, known = {}, {}
    for kind in ("categories", "images", "annotations"):
        entries[kind], known[kind] = _usable(path, kind, content[kind], on_defect)
    images = entries["images"] = _each_once(path, entries["images"], on_defect)
    annotations = _belonging(path, list(entries["annotations"].values()), entries, known, on_defect)
    image_ids = sorted(images)
    ordered = [images[image_id] for image_id in image_ids]
    return _Found(
        categories=entries["categories"],
        image_ids=image_ids,
        file_names=[image["file_name"] for image in ordered],
        used={item["category_id"] for item in annotations},
        images=lambda path: _written_images(path, ordered),
        objects=lambda ids: _written_objects(annotations, image_ids, ids),
    )


def _of_columns(columns: Columns) -> _Found:
    """The same of a json in which nothing is unusual."""
    order = columns.image_ids.argsort(kind="stable")
    image_ids = columns.image_ids[order]
    file_names = [columns.names[place] for place in order.tolist()]

    def images(path: str) -> WrittenImages:
        return WrittenImages(
            names=[file_named(name) for name in file_names],
            ids=image_ids.tolist(),
            heights=columns.heights[order],  # type: ignore[arg-type]  # an array is as good as a list
            widths=columns.widths[order],  # type: ignore[arg-type]
            files=[path] * len(file_names),
        )

    def objects(category_ids: tuple) -> WrittenObjects:
        classes = np.array(category_ids, dtype=np.int64)
        by_id = classes.argsort()
        labels = by_id[np.searchsorted(classes, columns.category_ids, sorter=by_id)] if len(classes) else classes
        boxes = columns.boxes.copy()
        boxes[:, 2:] += boxes[:, :2]  # x y width height -> x1 y1 x2 y2
        return WrittenObjects(
            image_indices=np.searchsorted(image_ids, columns.owners),  # type: ignore[arg-type]
            boxes=boxes,
            labels=labels,  # type: ignore[arg-type]
            difficult=np.zeros(len(boxes), dtype=bool),  # type: ignore[arg-type]
            crowd=columns.crowd,  # type: ignore[arg-type]
            areas=columns.areas,  # type: ignore[arg-type]
            numbers=columns.numbers,  # type: ignore[arg-type]
        )

    return _Found(
        categories={item["id"]: item for item in columns.categories},
        image_ids=image_ids.tolist(),
        file_names=file_names,
        used=set(np.unique(columns.category_ids).tolist()),
        images=images,
        objects=objects,
    )


def find_pictures(path: str, names: Sequence[str]) -> str:
    """The folder of the pictures of the json `path`: of the usual places the one with the most of the first SAMPLE.

    The usual places, in the json's folder and in the one above it: the split (of instances_train2017.json: train2017),
    images/<split>, images, JPEGImages, the folder itself.  Of two with equally many pictures the first is taken.

    Args:
        names: of the pictures, as the json has them.

    Raises:
        FileNotFoundError: none of these holds any of the pictures; naming all that were tried.
    """
    stem = os.path.splitext(os.path.basename(path))[0]
    splits = list(dict.fromkeys((stem.removeprefix("instances_"), word_of_split(stem) or stem)))
    here = os.path.dirname(path) or "."
    above = os.path.join(here, os.pardir)
    inner = (*splits, *(os.path.join("images", split) for split in splits), "images", "JPEGImages", "")
    folders = [os.path.normpath(os.path.join(place, name)) for place in (here, above) for name in inner]
    folders = [folder for folder in dict.fromkeys(folders) if os.path.isdir(folder)]
    first = list(names)[:SAMPLE]
    counts = [sum(os.path.isfile(os.path.join(folder, name)) for name in first) for folder in folders]
    if not any(counts):
        raise FileNotFoundError(
            f"{path}: none of its first {len(first)} pictures is in {', '.join(folders)} (the first is {first[0]}); "
            "give --images FOLDER to a command, or images=... to Coco on a page"
        )
    return folders[counts.index(max(counts))]


def _load(path):
    try:
        content = read_json(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: missing. Check the config's `annotations` and the data root.") from error
    except ValueError as error:
        reason = str(error).removeprefix(f"{path} is damaged: ")
        raise ValueError(f"{path}: not readable as json: {reason}") from error
    lists = content if isinstance(content, dict) else {}
    missing = [kind for kind in ("annotations", "categories", "images") if not isinstance(lists.get(kind), list)]
    if missing:
        raise ValueError(f"{path}: no list of {missing}; a COCO json has images, annotations and categories")
    return content


# ------------------------------------------------------------------------------------------------- single entries

NUMBERS = {int, float}  # types; bool, a kind of int for Python, is none of them
FIELDS = {
    "images": ("id", "file_name", "height", "width"),
    "annotations": ("id", "image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}


def _usable(path, kind, items, on_defect):
    """The entries of one of the json's lists that can be used, by id, and the ids of all that have one."""
    problem_of: Any = {"images": _image_problem, "annotations": _annotation_problem, "categories": _category_problem}[
        kind
    ]
    fields = FIELDS[kind]
    entries, known = {}, set()
    id_type = None
    for item in items:
        defect = None
        try:
            values = [item[name] for name in fields]
        except (KeyError, TypeError):
            defect, problem = "broken", _lacking(kind, item, fields)
            known |= {item["id"]} if isinstance(item, dict) and isinstance(item.get("id"), int | str) else set()
        else:
            item_id = values[0]
            if id_type is None and type(item_id) in (int, str):
                id_type = type(item_id)
            if type(item_id) is not id_type:
                defect = "broken"
                problem = (
                    f"the ids of the {kind} have to be all whole numbers or all text, not {_value(item_id)}: "
                    f"{_brief(item)}"
                )
            elif item_id in entries:
                defect = "duplicate id"
                problem = f"two of the {kind} have the id {item_id}: {_brief(entries[item_id])}, {_brief(item)}"
            else:
                problem = problem_of(item, *values)
                known.add(item_id)
        if problem is None:
            entries[item_id] = item
        else:
            _tell(on_defect, path, kind, item, defect or "broken", problem)
    return entries, known


def _tell(on_defect, path, kind, item, defect, problem):
    if defect == "broken":
        defect = "broken object" if kind == "annotations" else "broken annotation"
    number = item.get("id") if isinstance(item, dict) else None
    on_defect(Defect(defect, path, f"{path}: {shorten(problem, 1000)}", number))


def _lacking(kind, item, fields):
    if not isinstance(item, dict):
        return f"one of the {kind} is not an object with {', '.join(fields)}: {_brief(item)}"
    return f"one of the {kind} has no {next(name for name in fields if name not in item)!r}: {_brief(item)}"


def _brief(item):
    try:
        return json.dumps(item)[:200]
    except RecursionError:
        return brief(item)


def _is_number(value):
    """Whether it is a number that a float can be; NaN and the infinite ones, which JSON has in Python, are."""
    return type(value) is float or (type(value) is int and abs(value) < 2**1023)


def _value(value):
    return brief(value)


def _is_image(item):
    return _image_problem(item, item["id"], item["file_name"], item["height"], item["width"]) is None


def _image_problem(item, image_id, file_name, height, width):
    if not isinstance(file_name, str) or not file_name:
        return f"image {image_id} has the file_name {_value(file_name)}, not the name of a file"
    try:
        file_named(file_name)
    except ValueError as error:
        return f"image {image_id}: {shorten(str(error))}"
    for name, side in (("height", height), ("width", width)):
        if type(side) not in NUMBERS or not 1 <= side < 2**31 or side != int(side):
            return f"image {image_id} has the {name} {_value(side)}, not a whole number of pixels from 1"
    return None


def _annotation_problem(item, number, image_id, category_id, box):
    if type(box) is not list or len(box) != 4 or not all(map(_is_number, box)):
        return f"annotation {number} has the bbox {_value(box)}, not x, y, width, height"
    for name in CROWD_MARKS:
        if item.get(name, 0) not in (0, 1):
            return f"annotation {number} has {name} {_value(item[name])}, not 0 or 1"
    area = item.get("area", 0)
    if not _is_number(area) or not 0 <= area < math.inf:
        return f"annotation {number} has the area {_value(area)}, not a number of square pixels"
    return None


def _category_problem(item, category_id, name):
    if not isinstance(name, str) or not name:
        return f"category {category_id} has the name {_value(name)}, not a text"
    return None


# ------------------------------------------------------------------------------------------------- between entries


def _belonging(path, annotations, entries, known, on_defect):
    """The annotations whose image and category can be used.

    Those whose image or category is there, but was left out, go with it: its own defect has been told.
    """
    for name, kind in (("image_id", "images"), ("category_id", "categories")):
        usable, kept = entries[kind], []
        for item in annotations:
            reference = item[name]
            is_id = _is_exact(reference)
            if is_id and reference in usable:
                kept.append(item)
            elif not is_id or reference not in known[kind]:
                problem = (
                    f"annotation {item['id']} has {name} {shorten(json.dumps(reference))}, which is none of the "
                    f"{len(usable)} {name.removesuffix('_id')} ids of the file"
                )
                _tell(on_defect, path, "annotations", item, "unknown reference", problem)
        annotations = kept
    return annotations


def _is_exact(reference):
    """Whether it names one id: a text, or a number; 3.0 is 3, but from 2**53 on a float may stand for several."""
    return type(reference) in (int, str) or (type(reference) is float and abs(reference) < 2**53)


def _each_once(path, images, on_defect):
    """`images` without those whose picture a smaller id has: each counts once, and one would lack the other's objects."""
    kept, first = {}, {}
    for image_id in sorted(images):
        name = os.path.normpath(images[image_id]["file_name"])
        other = first.setdefault(name, image_id)
        if other == image_id:
            kept[image_id] = images[image_id]
        else:
            problem = (
                f"images {other!r} and {image_id!r} both have the file_name {images[image_id]['file_name']!r}. Each picture "
                "counts once: give the annotations of both to one of them, and take out the other"
            )
            _tell(on_defect, path, "images", images[image_id], "duplicate picture", problem)
    return kept


def _unique_names(path, categories, on_defect):
    """{name: id} of the categories, by rising id."""
    ids = {}
    for category_id in sorted(categories):
        name = categories[category_id]["name"]
        if name in ids:
            problem = f"categories {ids[name]} and {category_id} are both called {name!r}"
            _tell(on_defect, path, "categories", categories[category_id], "duplicate id", problem)
        else:
            ids[name] = category_id
    return ids


def _classes(path, ids, used_ids, class_names):
    """(class names, category ids), both in label order.

    The names that the config or another set prescribe have to be those of the json; only categories without a single
    object may be left out.
    """
    if class_names is None:
        return tuple(ids), tuple(ids.values())
    used = [name for name, category_id in ids.items() if category_id in used_ids]
    unknown = [name for name in used if name not in class_names]
    lacking = [name for name in class_names if name not in ids]
    if unknown or lacking:
        raise ValueError(
            f"{path}: its {len(ids)} categories {brief_names(ids)} are not the {len(class_names)} classes "
            f"{brief_names(class_names)} of the config or the training set: {brief_names(unknown)} are not expected there, "
            f"{brief_names(lacking)} are not in the file"
        )
    return class_names, tuple(ids[name] for name in class_names)


def _root_categories(path, categories, used, class_names, on_defect):
    """A line for each class that is but the parent of others: Roboflow begins its lists with such a category."""
    lines = []
    for category_id, category in categories.items():
        name = category["name"]
        children = [
            other["name"] for other in categories.values() if other.get("supercategory") == name != other["name"]
        ]
        if category_id not in used and children and name in class_names:
            others = tuple(other for other in class_names if other != name)
            lines.append(
                f"{path}: the category {name!r} (id {category_id}) has no object, and is the supercategory of "
                f"{brief_names(children)}, as Roboflow writes it. Here it is one of the {len(class_names)} classes, which "
                f"nothing is ever found of; to leave it out: classes={brief_names(others)}"
            )
            on_defect(Defect("root category", path, lines[-1], category_id))
    return lines


def _written_images(path, images):
    return WrittenImages(
        names=[file_named(image["file_name"]) for image in images],
        ids=[image["id"] for image in images],
        heights=[image["height"] for image in images],
        widths=[image["width"] for image in images],
        files=[path] * len(images),
    )


def _written_objects(annotations, image_ids, category_ids):
    positions = {image_id: i for i, image_id in enumerate(image_ids)}
    labels = {category_id: label for label, category_id in enumerate(category_ids)}
    annotations = [item for item in annotations if item["category_id"] in labels]
    boxes = np.array([item["bbox"] for item in annotations], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]  # x y width height -> x1 y1 x2 y2
    return WrittenObjects(
        image_indices=[positions[item["image_id"]] for item in annotations],
        boxes=boxes,
        labels=[labels[item["category_id"]] for item in annotations],
        difficult=[False] * len(annotations),
        crowd=[any(item.get(name, 0) for name in CROWD_MARKS) for item in annotations],
        areas=[item["area"] if "area" in item else item["bbox"][2] * item["bbox"][3] for item in annotations],
        numbers=[item["id"] for item in annotations],
    )
