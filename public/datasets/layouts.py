"""What lies in a folder of data: the one place where layouts are recognised, for commands that take any of them.

    pascal voc    Annotations/ + JPEGImages/, or two folders of other names (annotations/ + images/), or an xml beside each
                  picture; once, or in each of train/, valid/, test/
    coco          a json with images, annotations and categories, or one for each of train, val, test
    yolo          a data.yaml, or images/ + labels/ with a classes.txt
    class folders a folder of pictures for each class; once, or in each of train/, val/, test/

Nothing is guessed where two readings are possible: the folder is refused, and both are named.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from public.datasets.coco import Coco
from public.datasets.folders import extension_of, list_files, list_folders, split_of
from public.datasets.image_folder import ImageFolder
from public.datasets.preparing.checks import voc_splits
from public.datasets.voc import ANNOTATIONS, IMAGES, PICTURE_EXTENSIONS, VOC_PLACES, Places, Voc
from public.datasets.yolo import NO_LABELS, Yolo
from public.datasets.yolo_places import ALL, YAML, find_places

KINDS = ("voc", "coco", "yolo", "classes")
XML_FOLDERS = ("annotations", "annotation", "annots", "xml", "xmls", "labels")  # in small letters
PICTURE_FOLDERS = ("jpegimages", "images", "image", "imgs", "img", "pictures", "photos")
EXPECTED = (
    "Annotations/ + JPEGImages/ or two folders such as annotations/ + images/ (VOC xml), an xml beside each picture, a COCO "
    "json with images, annotations and categories, a data.yaml (YOLO), or a folder of pictures for each class"
)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A set of data as it was found.

    Fields:
        kind: one of KINDS.
        found: what was found, in words for a person.
        data_root: the folder that the names in `sets` start from.
        sets: by split, "train", "val", "test"; or "all" alone, where nothing says which picture is for what.
        notes: what a person should know beside it.
        folder, places: of kind "voc", where all xml files lie in one place: the set's folder and its two folders.
    """

    kind: str
    found: str
    data_root: Path
    sets: dict[str, Any]
    notes: tuple[str, ...] = ()
    folder: Path | None = None
    places: Places | None = None

    @property
    def is_classification(self) -> bool:
        return self.kind == "classes"


def find_layout(path: str | os.PathLike, *, kind: str | None = None, images: str | None = None) -> Layout:
    """The layout of the data at `path`: a folder, a COCO json or a data.yaml.

    Args:
        kind: take this of KINDS, where a folder holds several.
        images: of a COCO json, the folder of its pictures.

    Raises:
        FileNotFoundError: there is no such place, or nothing in it that is known.
        ValueError: it can be read in several ways; naming them.
    """
    typed, path = path, Path(path).resolve()
    root = path.parent if path.is_file() else path
    base = _Base(root.parent, root)
    if path.is_file():
        return _of_file(path, base, images)
    if not path.is_dir():
        raise FileNotFoundError(f"{typed} is neither a folder nor a .json or .yaml file")
    looks = {"voc": _find_voc, "coco": _find_coco, "yolo": _find_yolo, "classes": _find_classes}
    found = [layout for name, look in looks.items() if kind in (None, name) for layout in look(base)]
    if len(found) > 1:  # pictures in folders are class folders only where nothing else is annotated
        found = [layout for layout in found if layout.kind != "classes"]
    if len(found) == 1:
        return found[0]
    if found:
        ways = "; ".join(f"{number}) {layout.found}" for number, layout in enumerate(found, start=1))
        raise ValueError(
            f"{typed} can be read in {len(found)} ways: {ways}. Name the one you mean: the .json or .yaml itself, or "
            f"--layout {' or '.join(dict.fromkeys(layout.kind for layout in found))}"
        )
    what = "" if kind is None else f" as {kind}"
    raise FileNotFoundError(f"{typed} holds no data that can be read{what}: {_present(path)}. Known are {EXPECTED}")


class _Base(NamedTuple):
    """The folder that is looked at, and the data root above it."""

    data_root: Path
    folder: Path

    def name(self, path: Path) -> str:
        """`path`, which lies under the data root, as a setting names it."""
        return path.relative_to(self.data_root).as_posix()

    def inside(self, path: Path) -> str:
        """`path` as a person sees it who stands above the folder."""
        return self.name(path) + ("/" if path.is_dir() else "")


def _of_file(path: Path, base: _Base, images: str | None) -> Layout:
    if path.suffix.lower() == ".json":
        return _coco_layout({"all": path}, base, images)
    if path.suffix.lower() in YAML:
        return _yolo_layout(path, base)
    raise FileNotFoundError(f"{path} is neither a folder nor a .json (COCO) or .yaml (YOLO) file")


def _present(folder: Path) -> str:
    """What is there, in words."""
    folders = [f"{name}/" for name in list_folders(folder)]
    files = list_files_of_any_kind(folder)
    names = [*folders, *files]
    if not names:
        return "it is empty"
    return "; ".join([f"it has {', '.join(names[:6])}{', ...' if len(names) > 6 else ''}", *_near_misses(folder)])


def _near_misses(folder: Path) -> list[str]:
    """What keeps jsons and folders of pictures from being data, in words."""
    inner = [folder / name for name in list_folders(folder)]
    places = [folder, *(place for place in inner if place.name.lower() in XML_FOLDERS or split_of(place.name))]
    files = [place / name for place in places for name in list_files(place, (".json",), is_deep=False)]
    found = [f"{file.relative_to(folder)} {problem}" for file in files if (problem := problem_of_json(file))]
    filled = [place.name for place in inner if _has_picture(place, is_deep=False)]
    empty = [place.name for place in inner if not list_files_of_any_kind(place)]
    if empty and len(filled) > 1:
        found.append(f"{empty[0]}/ holds no picture, though {filled[0]}/ does: fill it or take it away")
    return found


def list_files_of_any_kind(folder: Path) -> list[str]:
    """The names of the files in `folder`, in order."""
    extensions = {extension_of(name) for name in os.listdir(folder)}
    return list_files(folder, tuple(extensions), is_deep=False)


def _by_split(base: _Base, look: Callable[[Path], Any]) -> dict[str, Any]:
    """split -> what `look` finds in the folder of that split: train/, valid/, test/.

    Raises:
        ValueError: two folders are of one split, such as val/ and valid/.
    """
    found: dict[str, tuple[str, Any]] = {}
    for name in list_folders(base.folder):
        split, item = split_of(name), None
        if split is not None:
            item = look(base.folder / name)
        if item is not None and split in found:
            raise ValueError(f"{base.folder}: {found[split][0]}/ and {name}/ both hold the {split} part; take one away")
        if item is not None and split is not None:
            found[split] = (name, item)
    return {split: found[split][1] for split in ("train", "val", "test") if split in found}


# --------------------------------------------------------------------------------------------------------- VOC


def _find_voc(base: _Base) -> list[Layout]:
    places = find_places_of_xml(base.folder)
    if places is not None:
        return [_voc_layout(base, places)]
    parts = _by_split(base, find_places_of_xml)
    folders = {split_of(name): name for name in list_folders(base.folder) if split_of(name)}
    sets = {split: _voc(f"{base.name(base.folder / folders[split])}/*", places) for split, places in parts.items()}
    if not sets:
        return []
    names = ", ".join(f"{base.inside(base.folder / folders[split])} ({split})" for split in sets)
    return [Layout(kind="voc", found=f"VOC xml in {names}", data_root=base.data_root, sets=sets)]


def find_places_of_xml(folder: Path) -> Places | None:
    """The two folders of xml files and pictures in `folder`; None: there are none.

    Raises:
        ValueError: two folders may be meant, such as images/ and JPEGImages/.
    """
    names = list_folders(folder)
    holders = [name for name in names if name.lower() in XML_FOLDERS and list_files(folder / name, (".xml",))]
    if not holders:
        has_xml = list_files(folder, (".xml",), is_deep=False)
        pictures = [name for name in names if name.lower() in PICTURE_FOLDERS and _has_picture(folder / name)]
        if not has_xml:
            return None
        return Places(".", _only(folder, pictures, "pictures") if pictures else ".")
    annotations = ANNOTATIONS if ANNOTATIONS in holders else _only(folder, holders, "xml files")
    pictures = [name for name in names if name.lower() in PICTURE_FOLDERS]
    if IMAGES in pictures and annotations == ANNOTATIONS:
        return VOC_PLACES
    if pictures:
        images = _only(folder, pictures, "pictures")
        return Places(_innermost(folder, annotations, images), images)
    return Places(annotations, annotations if _has_picture(folder / annotations) else ".")


def _innermost(folder: Path, annotations: str, images: str) -> str:
    """`annotations`, or the one folder in it that holds the xml files: annotations/xmls/."""
    names = list_folders(folder / annotations)
    holders = [name for name in names if list_files(folder / annotations / name, (".xml",))]
    is_inside = len(holders) == 1 and not list_files(folder / annotations, (".xml",), is_deep=False)
    return f"{annotations}/{holders[0]}" if is_inside and not (folder / images / holders[0]).is_dir() else annotations


def _only(folder: Path, names: list[str], what: str) -> str:
    if len(names) > 1:
        both = " and ".join(f"{name}/" for name in names)
        raise ValueError(
            f"{folder}: {both} may both be the folder of the {what}; name it on a page: Voc(annotations=..., images=...)"
        )
    return names[0]


def _has_picture(folder: Path, *, is_deep: bool = True) -> bool:
    return bool(list_files(folder, PICTURE_EXTENSIONS, is_deep=is_deep))


def _voc(source: str, places: Places) -> Voc:
    return Voc(
        sources=(source,), classes=None, use_difficult=True, keep_empty_images=True,
        annotations=places.annotations, images=places.images,
    )  # fmt: skip


def _voc_layout(base: _Base, places: Places) -> Layout:
    name, where = base.name(base.folder), _voc_words(base, places)
    lists = _chosen_lists(base.folder)
    parts = {} if lists else _parts_of_places(base.folder, places)
    if lists:
        found = f"{where}, lists {', '.join(lists.values())}"
        sets = {split: _voc(f"{name}/{listing}", places) for split, listing in lists.items()}
    elif parts:
        found = f"{where}, in each {', '.join(part.annotations.rpartition('/')[2] for part in parts.values())}"
        sets = {split: _voc(f"{name}/*", part) for split, part in parts.items()}
        return Layout(kind="voc", found=found, data_root=base.data_root, sets=sets)
    else:
        found, sets = f"{where}, without lists", {ALL: _voc(f"{name}/*", places)}
    return Layout(kind="voc", found=found, data_root=base.data_root, sets=sets, folder=base.folder, places=places)


def _chosen_lists(folder: Path) -> dict[str, str]:
    """split -> the list that is for it: "train" before "trainval", which val is a part of."""
    names = voc_splits(folder)
    chosen: dict[str | None, str] = {}
    for name in sorted(names, key=lambda name: name != split_of(name)):
        chosen.setdefault(split_of(name), name)
    if chosen.get("train") == "trainval":
        chosen.pop("val", None)
    return {split: chosen[split] for split in ("train", "val", "test") if split in chosen}


def _parts_of_places(folder: Path, places: Places) -> dict[str, Places]:
    """split -> its two folders, where both of `places` have one for each split: annotations/train/ and images/train/."""
    if "." in places or list_files(folder / places.annotations, (".xml",), is_deep=False):
        return {}
    names = set(list_folders(folder / places.annotations)) & set(list_folders(folder / places.images))
    by_split = {split_of(name): name for name in sorted(names)}
    return {
        split: Places(f"{places.annotations}/{by_split[split]}", f"{places.images}/{by_split[split]}")
        for split in ("train", "val", "test")
        if split in by_split
    }


def _voc_words(base: _Base, places: Places) -> str:
    if places.annotations == places.images:
        where = base.folder if places.images == "." else base.folder / places.images
        return f"VOC xml beside the pictures in {base.inside(where)}"
    xml, pictures = (base.inside(base.folder / name) for name in places)
    return f"VOC xml in {xml} and pictures in {pictures}"


# -------------------------------------------------------------------------------------------------------- COCO


def _find_coco(base: _Base) -> list[Layout]:
    inner = [name for name in list_folders(base.folder) if name.lower() in XML_FOLDERS or split_of(name)]
    folders = [base.folder, *(base.folder / name for name in inner)]
    files = [folder / name for folder in folders for name in list_files(folder, (".json",), is_deep=False)]
    files = [file for file in files if problem_of_json(file) is None]
    instances = [file for file in files if file.name.startswith("instances_")]
    left_out = [file for file in files if file not in instances] if instances else []
    files = instances or files
    if not files:
        return []
    if len(files) == 1:
        return [_coco_layout({ALL: files[0]}, base, None)]
    by_split: dict[str | None, list[Path]] = {}
    for file in files:
        by_split.setdefault(_split_of_json(file, base), []).append(file)
    if None in by_split or any(len(several) > 1 for several in by_split.values()):
        return [_coco_layout({ALL: file}, base, None) for file in files]  # several ways to read it
    notes = tuple(f"left out beside instances_*: {base.inside(file)}" for file in left_out)
    parts: dict[str, Path] = {split: by_split[split][0] for split in ("train", "val", "test") if split in by_split}
    return [_coco_layout(parts, base, None, notes)]


def problem_of_json(path: Path) -> str | None:
    """Why a json is no COCO json, in words; None: it has COCO's three lists."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        return f"is not readable as json: {error}"
    lists = content if isinstance(content, dict) else {}
    missing = [name for name in ("images", "annotations", "categories") if not isinstance(lists.get(name), list)]
    return f"has no list of {' and '.join(missing)}" if missing else None


def _split_of_json(file: Path, base: _Base) -> str | None:
    """By its name, or by that of the folder that it lies in."""
    return split_of(file.stem) or (split_of(file.parent.name) if file.parent != base.folder else None)


def _coco_layout(files: dict[str, Path], base: _Base, images: str | None, notes: tuple[str, ...] = ()) -> Layout:
    sets = {
        split: Coco(annotations=base.name(file), images=images, classes=None, keep_empty_images=True)
        for split, file in files.items()
    }
    found = "COCO json " + ", ".join(
        base.inside(file) + ("" if split == ALL else f" ({split})") for split, file in files.items()
    )
    return Layout(kind="coco", found=found, data_root=base.data_root, sets=sets, notes=notes)


# -------------------------------------------------------------------------------------------------------- YOLO


def _find_yolo(base: _Base) -> list[Layout]:
    files = [base.folder / name for name in list_files(base.folder, YAML, is_deep=False)]
    files = [file for file in files if _names_classes(file)]
    if files:
        return [_yolo_layout(file, base) for file in files]
    texts = [base.folder / name for name in ("classes.txt", "labels/classes.txt") if (base.folder / name).is_file()]
    if texts:
        return [_yolo_layout(texts[0], base)]
    labels = base.folder / "labels"
    has_labels = labels.is_dir() and [name for name in list_files(labels, (".txt",)) if name not in NO_LABELS]
    if has_labels and (base.folder / "images").is_dir():
        raise FileNotFoundError(
            f"{base.folder} has YOLO labels in labels/, but nothing that names their classes; write a data.yaml (names, "
            "train, val) or a classes.txt, one name a line, into it"
        )
    return []


def _names_classes(file: Path) -> bool:
    text = file.read_text(encoding="utf-8", errors="replace")
    return any(line.startswith(("names", "'names'", '"names"')) for line in text.splitlines())


def _yolo_layout(file: Path, base: _Base) -> Layout:
    named = find_places(file, base.data_root)
    places = {split: found for split, found in named.places.items() if split != ALL or len(named.places) == 1}
    if not places:
        raise FileNotFoundError("; ".join(named.missing.values()) or f"{file} names no train, val or test")
    notes = [f"left out: {reason}" for reason in named.missing.values()]
    train = places.get("train")
    for split in ("val", "test"):
        if train and split in places and [p.path for p in places[split]] == [p.path for p in train]:
            notes.append(
                f"left out: {split} of {base.inside(file)} is the folder of train, on which nothing can be judged"
            )
            del places[split]
    sets = {
        split: Yolo(data=base.name(file), split=split, classes=None, keep_empty_images=True)  # type: ignore[arg-type]
        for split in places
    }
    found = f"YOLO labels of {base.inside(file)} ({', '.join(places)})"
    return Layout(kind="yolo", found=found, data_root=base.data_root, sets=sets, notes=tuple(notes))


# ----------------------------------------------------------------------------------------------- class folders


def _find_classes(base: _Base) -> list[Layout]:
    parts = _by_split(base, _class_folder)
    if not parts:
        folder = _class_folder(base.folder)
        parts = {ALL: folder} if folder else {}
    if not parts:
        return []
    sets = {
        split: ImageFolder(folder=base.name(folder), classes=None, num_classes=None) for split, folder in parts.items()
    }
    names = ", ".join(base.inside(folder) + ("" if split == ALL else f" ({split})") for split, folder in parts.items())
    return [Layout(kind="classes", found=f"class folders in {names}", data_root=base.data_root, sets=sets)]


def _class_folder(folder: Path) -> Path | None:
    """`folder`, if each of its folders, at least two, holds pictures and no annotation."""
    names = list_folders(folder)
    if len(names) < 2 or all(split_of(name) or name.lower() in PICTURE_FOLDERS for name in names):
        return None
    for name in names:
        files = list_files_of_any_kind(folder / name)
        if not any(extension_of(file) in PICTURE_EXTENSIONS for file in files):
            return None
        if any(extension_of(file) in (".xml", ".json", ".txt") for file in files):
            return None
    return folder
