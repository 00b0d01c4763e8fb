"""The entries of a COCO json as columns, read piece by piece and kept for the next start.

A json of 118,000 images becomes a million dicts, which take seconds and gigabytes, and are needed for nothing but messages
about what is wrong with them.  So the file is read in pieces, and each piece's entries go into flat arrays at once.  A file
in which anything at all is unusual (a defect, ids that are text, a number where a whole number is due) has no columns:
`public.datasets.coco` then looks at each entry.  What is read is the same either way.

The columns of a large file are kept in the repository's `.cache/annotations`, under a digest of the file's content, so that
the next start only has to digest the file.  A file of the cache appears whole or not at all, its parts have checksums, and
whatever cannot be read is made anew; the columns of an older content of the same json are deleted.
"""

import codecs
import contextlib
import gc
import hashlib
import json
import os
import re
import zipfile
from collections.abc import Callable, Iterator
from io import BufferedReader
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from public.files import REPOSITORY

FOLDER = REPOSITORY / ".cache" / "annotations"
FORM = 1  # of the cache's files; another number makes all of them anew
PIECE = 1 << 22  # bytes of the json that are read at once
LONGEST = 1 << 26  # characters of a single entry
BATCH = 20_000  # entries that exist as dicts at once
LEAST_BYTES = 5_000_000  # of a json whose columns are kept; a smaller one is read in a fraction of a second
LARGEST_WHOLE = 2**53  # up to which floats hold every whole number
CROWD_MARKS = ("iscrowd", "ignore")  # of an object that is neither to be trained on nor to be found

_space = re.compile(r"[ \t\n\r]*").match
_scan = json.JSONDecoder().scan_once  # type: ignore[attr-defined]  # one value from a place on


class Columns(NamedTuple):
    """N images and M annotations in the order of the file, and the categories as they are written."""

    categories: list[dict]
    image_ids: np.ndarray  # (N,) int64
    names: list[str]
    heights: np.ndarray  # (N,) int64
    widths: np.ndarray  # (N,) int64
    numbers: np.ndarray  # (M,) int64, the annotations' ids
    owners: np.ndarray  # (M,) int64, the ids of their images
    category_ids: np.ndarray  # (M,) int64
    boxes: np.ndarray  # (M, 4) float64, x y width height
    areas: np.ndarray  # (M,) float64, the box's where none is written
    crowd: np.ndarray  # (M,) bool


ARRAYS = tuple(name for name in Columns._fields if name not in ("categories", "names"))


class UnusualError(Exception):
    """Something that has to be looked at entry by entry."""


def read_columns(path: str, is_image: Callable[[dict], bool], *, cached: bool = True) -> Columns | None:
    """The columns of the json `path`; None where anything in it is unusual, or where it cannot be read.

    Args:
        is_image: whether the `file_name`, `height` and `width` of an entry of the images make sense.
        cached: whether columns of an earlier start may be used, and kept for a later one.
    """
    try:
        with open(path, "rb") as file:
            kept = _kept_under(path, file) if cached and os.path.getsize(path) >= LEAST_BYTES else None
            columns = _kept(kept) if kept else None
            if columns is None:
                file.seek(0)
                with _without_collection():
                    columns = _columns(_top_level(_Text(file)), is_image)
                if kept:
                    _keep(kept, columns)
        return columns
    except (UnusualError, OSError, ValueError, RecursionError):
        return None


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """Within it, Python looks for no circles of references: there are none in JSON, and looking takes half of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


# --------------------------------------------------------------------------------------------- text in pieces


class _Text:
    """The text of a file, from a place on that only ever moves forward."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.decoder = file, codecs.getincrementaldecoder("utf-8-sig")()
        self.text, self.place, self.is_whole = "", 0, False

    def more(self) -> None:
        """Reads another piece; what lies before the place is forgotten."""
        if self.is_whole or len(self.text) - self.place > LONGEST:
            raise UnusualError
        piece = self.file.read(PIECE)
        self.is_whole = not piece
        self.text = self.text[self.place :] + self.decoder.decode(piece, final=self.is_whole)
        self.place = 0

    def next(self) -> str:
        """The next character that is no space, "" at the end; the place is before it."""
        while True:
            self.place = _space(self.text, self.place).end()  # type: ignore[union-attr]  # it matches everywhere
            if self.place < len(self.text):
                return self.text[self.place]
            if self.is_whole:
                return ""
            self.more()

    def take(self, character: str) -> None:
        if self.next() != character:
            raise UnusualError
        self.place += 1

    def value(self) -> Any:
        """The json value that begins here."""
        self.next()
        while True:
            try:
                value, end = _scan(self.text, self.place)
                if end < len(self.text) or self.is_whole:  # else a number may go on
                    self.place = end
                    return value
            except (StopIteration, ValueError):
                pass
            self.more()

    def batches(self) -> Iterator[list[dict]]:
        """The items of the list that begins here, all of which are objects, up to BATCH at once."""
        self.take("[")
        if self.next() == "]":
            self.place += 1
            return
        batch: list[dict] = []
        while True:
            self._run_of_objects(batch)
            if self.next() != "{":
                raise UnusualError
            batch.append(self.value())
            separator = self.next()
            self.place += 1
            if separator not in (",", "]"):
                raise UnusualError
            if separator == "]" or len(batch) >= BATCH:
                yield batch
                batch = []
            if separator == "]":
                return

    def _run_of_objects(self, batch: list[dict]) -> None:
        """Appends objects as long as each is followed by a comma, a space or none, and another one, within this piece."""
        text, place = self.text, self.place
        try:
            while text[place] == "{" and len(batch) < BATCH:
                value, end = _scan(text, place)
                if text[end] != ",":
                    break
                place = end + 2 if text[end + 1] == " " else end + 1
                batch.append(value)
                self.place = place
        except (
            StopIteration,
            ValueError,
            IndexError,
        ):  # the piece ends, or something is wrong, which `value` finds out
            pass


def _top_level(text: _Text) -> dict[str, Any]:
    """What the object of the whole file holds of each kind of entry: columns of images and annotations, the categories."""
    found: dict[str, Any] = {}
    readers = {"images": _images, "annotations": _annotations}
    text.take("{")
    while True:
        name = text.value()
        if not isinstance(name, str) or name in found:
            raise UnusualError
        text.take(":")
        found[name] = readers[name](text.batches()) if name in readers else text.value()
        separator = text.next()
        text.place += 1
        if separator == "}":
            break
        if separator != ",":
            raise UnusualError
    if text.next() != "":
        raise UnusualError
    return found


# --------------------------------------------------------------------------------------------------- columns


def _fields(batch: list[dict], *names: str) -> Iterator[tuple]:
    try:
        return zip(*map(itemgetter(*names), batch))
    except KeyError as error:
        raise UnusualError from error


def _whole(values: Any) -> np.ndarray:
    """(N,) int64 of values all of which are whole numbers, and no bool."""
    if set(map(type, values)) - {int}:
        raise UnusualError
    try:
        return np.array(values, dtype=np.int64)
    except OverflowError as error:
        raise UnusualError from error


def _numbers(values: Any) -> np.ndarray:
    """(N,) float64 of values all of which are finite numbers that a float holds exactly if they are whole."""
    if set(map(type, values)) - {int, float}:
        raise UnusualError
    try:
        numbers = np.array(values, dtype=np.float64)
    except OverflowError as error:
        raise UnusualError from error
    if not (np.abs(numbers) < LARGEST_WHOLE).all():  # nor is NaN
        raise UnusualError
    return numbers


def _images(batches: Iterator[list[dict]]) -> dict[str, Any]:
    parts: dict[str, list] = {"image_ids": [], "heights": [], "widths": []}
    names: list[str] = []
    entries: list[dict] = []
    for batch in batches:
        ids, files, heights, widths = _fields(batch, "id", "file_name", "height", "width")
        for name, values in (("image_ids", ids), ("heights", heights), ("widths", widths)):
            parts[name].append(_whole(values))
        names += files
        entries += [
            {"id": i, "file_name": f, "height": h, "width": w} for i, f, h, w in zip(ids, files, heights, widths)
        ]
    return {name: _joined(values, np.int64) for name, values in parts.items()} | {"names": names, "entries": entries}


def _annotations(batches: Iterator[list[dict]]) -> dict[str, Any]:
    parts: dict[str, list] = {name: [] for name in ("numbers", "owners", "category_ids", "boxes", "areas", "crowd")}
    for batch in batches:
        numbers, owners, categories, boxes = _fields(batch, "id", "image_id", "category_id", "bbox")
        for name, values in (("numbers", numbers), ("owners", owners), ("category_ids", categories)):
            parts[name].append(_whole(values))
        if set(map(type, boxes)) - {list} or set(map(len, boxes)) - {4}:
            raise UnusualError
        parts["boxes"].append(_numbers(list(chain.from_iterable(boxes))).reshape(-1, 4))
        areas = _numbers([item["area"] if "area" in item else item["bbox"][2] * item["bbox"][3] for item in batch])
        if any("area" in item for item in batch) and not (areas >= 0).all():
            raise UnusualError
        parts["areas"].append(areas)
        marks = [_whole([item.get(name, 0) for item in batch]) for name in CROWD_MARKS]
        if any(((mark != 0) & (mark != 1)).any() for mark in marks):
            raise UnusualError
        parts["crowd"].append(marks[0].astype(bool) | marks[1].astype(bool))
    types = {"boxes": np.float64, "areas": np.float64, "crowd": bool}
    columns = {name: _joined(values, types.get(name, np.int64)) for name, values in parts.items()}
    return columns | {"boxes": columns["boxes"].reshape(-1, 4)}


def _joined(parts: list[np.ndarray], dtype: Any) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(0, dtype)


def _columns(found: dict[str, Any], is_image: Callable[[dict], bool]) -> Columns:
    """The columns, once all that holds between entries has been looked at."""
    images, annotations, categories = (found.get(name) for name in ("images", "annotations", "categories"))
    if images is None or annotations is None or not isinstance(categories, list):
        raise UnusualError
    if not all(map(is_image, images.pop("entries"))):
        raise UnusualError
    columns = Columns(categories=categories, **images, **annotations)
    _check_categories(categories)
    known = {"owners": columns.image_ids, "category_ids": np.array([item["id"] for item in categories], dtype=np.int64)}
    for ids in (columns.image_ids, columns.numbers):
        if len(np.unique(ids)) < len(ids):
            raise UnusualError
    if len({os.path.normpath(name) for name in columns.names}) < len(columns.names):
        raise UnusualError
    for name, ids in known.items():
        if not np.isin(getattr(columns, name), ids).all():
            raise UnusualError
    return columns


def _check_categories(categories: list) -> None:
    if not all(type(item) is dict and type(item.get("id")) is int for item in categories):
        raise UnusualError
    names = [item.get("name") for item in categories]
    if not all(isinstance(name, str) and name for name in names):
        raise UnusualError
    if len(set(names)) < len(names) or len({item["id"] for item in categories}) < len(names):
        raise UnusualError
    if any(abs(item["id"]) >= 2**63 for item in categories):
        raise UnusualError


# ----------------------------------------------------------------------------------------------------- cache


def _kept_under(path: str, file: BufferedReader) -> Path:
    """Where the columns of this content are kept; the first part of the name is that of the json's path."""
    place = hashlib.sha256(os.fsencode(os.path.abspath(path))).hexdigest()[:16]
    content = hashlib.file_digest(file, "sha256").hexdigest()
    return FOLDER / f"{place}-{content[:40]}-{FORM}.npz"


def _kept(path: Path) -> Columns | None:
    """What the cache holds; None where it holds nothing, or nothing that can be read."""
    try:
        with np.load(path, allow_pickle=False) as arrays:  # a zip archive, which checks the sum of each part
            found = {name: arrays[name] for name in (*ARRAYS, "categories", "names")}
            texts = {name: json.loads(found[name].tobytes().decode()) for name in ("categories", "names")}
            return Columns(**(found | texts))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _keep(path: Path, columns: Columns) -> None:
    """Keeps the columns, and takes out those of an older content of the same json; without room nothing is kept."""
    texts = {
        name: np.frombuffer(json.dumps(getattr(columns, name)).encode(), np.uint8) for name in ("categories", "names")
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # several processes may read the same json
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                np.savez(file, **{name: getattr(columns, name) for name in ARRAYS}, **texts)  # type: ignore[arg-type]
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        for other in path.parent.glob(f"{path.name.split('-')[0]}-*.npz"):
            if other != path:
                other.unlink(missing_ok=True)
