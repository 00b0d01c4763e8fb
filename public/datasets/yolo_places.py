"""Where the pictures and the labels of a set with YOLO labels lie: what data.yaml means, as Ultralytics reads it.

A place of pictures (`train:`) is a folder, a text that lists pictures, or several of them.  It starts from `path:`, which
may be left out.  Files move between machines and folders, so a place is looked for

- in `path` as it is written, from the yaml's folder, from the one above it, and from the data root; then
- in the yaml's folder itself;
- where it begins with "../", without that as well: Roboflow writes `../train/images` into a yaml beside train/.

The first that is there is taken.  Without a data.yaml, a text with one class name a line (classes.txt) stands for one.
"""

import os
from pathlib import Path
from typing import NamedTuple

from public.datasets.data_yaml import DataYaml, Entry, read_data_yaml, read_names, read_text
from public.datasets.folders import extension_of, list_files, list_folders, split_of
from public.datasets.voc import PICTURE_EXTENSIONS
from public.folders import stop_at_unusable

YAML = (".yaml", ".yml")
ALL = "all"  # the split of a set that names none


class Place(NamedTuple):
    """A folder of pictures, or a text that lists them."""

    path: str
    named_by: str  # the file and line that name it, for messages


class Named(NamedTuple):
    """What a data.yaml, or a text of class names, says."""

    names: tuple[str, ...]  # of the classes, in YOLO's order
    num_keypoints: int | None  # numbers at the end of each line of a label; None: there are none
    places: dict[str, list[Place]]  # by split: "train", "val", "test"; "all" of a text of names
    roots: list[Path]  # that a list's pictures may start from
    missing: dict[str, str]  # split -> why its places cannot be found


class Listed(NamedTuple):
    """A picture of the set."""

    picture: str  # its file
    named_by: str  # the file and line that name it, or its folder


def find_places(path: Path, data_root: str | os.PathLike) -> Named:
    """What the data.yaml or the text of class names `path` says of a set under `data_root`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not understood; naming file and line.
    """
    if path.suffix.lower() not in YAML:
        places = {split: [Place(os.fspath(folder), os.fspath(path))] for split, folder in _folders_around(path).items()}
        return Named(read_names(os.fspath(path)), None, places, [path.parent], {})
    content = read_data_yaml(path)
    roots = _roots(path, content, Path(data_root))
    places, missing = {}, {}
    for split, entries in content.splits.items():
        found = {entry: _find(entry, roots) for entry in entries}
        lost = next((entry for entry, place in found.items() if place is None), None)
        if lost is None:
            places[split] = [Place(str(place), f"{path}, line {entry.line}") for entry, place in found.items()]
        else:
            missing[split] = (
                f"{path}, line {lost.line}: {split} is {lost.text!r}, which is not there; it was looked for in "
                f"{', '.join(map(str, roots))}. Write the folder of the pictures as it starts from {path.name}"
            )
    return Named(content.names, content.num_keypoints, places, roots, missing)


def _folders_around(path: Path) -> dict[str, Path]:
    """The folders of pictures beside a text of class names, which may lie among the labels."""
    folder = path.parent
    if not (folder / "images").is_dir() and (folder.parent / "images").is_dir():
        folder = folder.parent
    images = folder / "images" if (folder / "images").is_dir() else folder
    parts = {split_of(name): images / name for name in list_folders(images)}
    return {ALL: images} | {split: place for split, place in parts.items() if split}


def _roots(path: Path, content: DataYaml, data_root: Path) -> list[Path]:
    """The folders that places may start from, the likeliest first."""
    here = path.parent
    if content.path is None:
        return [here]
    stated = Path(content.path.text).expanduser()
    stated_from = [stated] if stated.is_absolute() else [here / stated, here.parent / stated, data_root / stated]
    folders = [Path(os.path.normpath(folder)) for folder in stated_from]
    return list(dict.fromkeys([*(folder for folder in folders if folder.is_dir()), here]))


def _find(entry: Entry, roots: list[Path]) -> Path | None:
    texts = [entry.text, entry.text.removeprefix("../")]
    places = [Path(os.path.normpath(root / text)) for text in dict.fromkeys(texts) for root in roots]
    return next((place for place in places if place.exists()), None)


def list_pictures(place: Place, roots: list[Path]) -> list[Listed]:
    """The pictures of a place: of a folder all, with those in its folders; of a text those that it lists.

    Raises:
        FileNotFoundError: the folder holds no picture, or the text lists none.
        ValueError: the place is a file, but no text.
    """
    if os.path.isdir(place.path):
        names = list_files(place.path, PICTURE_EXTENSIONS, on_unusable=stop_at_unusable)
        if not names:
            raise FileNotFoundError(
                f"{place.named_by}: {place.path} holds no picture ({', '.join(PICTURE_EXTENSIONS)}) and is named as a folder "
                "of pictures"
            )
        return [Listed(os.path.join(place.path, name), place.path) for name in names]
    if extension_of(place.path) != ".txt":
        raise ValueError(f"{place.named_by}: {place.path} is neither a folder nor a text (.txt) that lists pictures")
    lines = enumerate(read_text(Path(place.path)).splitlines(), start=1)
    listed = [_listed(line.strip(), number, place, roots) for number, line in lines if line.strip()]
    if not listed:
        raise FileNotFoundError(f"{place.path} lists no picture, though {place.named_by} names it")
    return listed


def _listed(text: str, number: int, place: Place, roots: list[Path]) -> Listed:
    """The picture of a line of a list: absolute, or from the list's folder, or from where the set's places start."""
    starts = [Path(place.path).parent, *roots]
    files = [os.path.normpath(start / text) for start in starts]
    return Listed(next(filter(os.path.isfile, files), files[0]), f"{place.path}, line {number}")


def label_file(picture: str) -> str:
    """The text of a picture: the last folder called images is called labels; else, and else only, it lies beside it."""
    beside = f"{os.path.splitext(picture)[0]}.txt"
    head, found, tail = beside.rpartition(f"{os.sep}images{os.sep}")
    apart = f"{head}{os.sep}labels{os.sep}{tail}"
    return apart if found and (os.path.isfile(apart) or not os.path.isfile(beside)) else beside
