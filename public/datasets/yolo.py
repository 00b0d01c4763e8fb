"""YOLO's text labels as a COCO json: one text beside each picture, one object a line.

Layout, as Ultralytics writes it: a folder of pictures (images/train/a.jpg) and one of labels (labels/train/a.txt) with the
same subfolders.  A line is `class x y width height`, the centre and the size of the box as shares of the picture's width
and height.  In a segmentation set it is `class x1 y1 x2 y2 x3 y3 ...`.

In the json, image ids count from 1 in the order of the paths, and category k + 1 is YOLO's class k.
"""

import math
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from public.datasets.voc import PICTURE_EXTENSIONS
from public.folders import files_under
from public.input import read_image
from public.settings import refuse_text

TOLERANCE = 1e-6  # of a share of the picture: labels are commonly written with six digits
NO_LABELS = ("classes.txt",)  # lists of names that labelling tools lay beside the labels


class Converted(NamedTuple):
    """The json's content, and what a reader should know about it."""

    content: dict
    num_empty: int  # images whose text holds no object
    num_unlabelled: int  # images without a text
    num_unused: int  # texts without an image, left out on demand


def convert_yolo(
    images: str | os.PathLike,
    labels: str | os.PathLike,
    names: tuple[str, ...],
    *,
    polygons: bool,
    unused_labels: bool,
) -> Converted:
    """The labels in folder `labels` of the pictures in folder `images`, with all subfolders.

    An image with an empty text, or without one, is an image without objects.  Boxes are taken as written; an edge that
    lies outside the picture by no more than a millionth of it (rounding) is moved to the picture's edge.

    Args:
        names: of the classes, in YOLO's order.
        polygons: the lines are outlines of objects; each becomes the box around it.
        unused_labels: leave out texts without an image, instead of refusing them.

    Raises:
        FileNotFoundError: there is no such folder, no picture in it, or no label file.
        ImageError: a picture cannot be read.
        ValueError: a line is wrong (the message names file and line), or texts and pictures do not fit together.
    """
    refuse_text("convert_yolo", names=names)
    images, labels = Path(images), Path(labels)
    pictures = _find_pictures(images, labels)
    texts = _find_texts(labels)
    if not texts:
        raise FileNotFoundError(f"{labels}: no label file (.txt) there. Is it the folder of the labels?")
    unused = sorted(set(texts) - set(pictures))
    if unused and not unused_labels:
        raise ValueError(
            f"{labels}: {len(unused)} of {len(texts)} label files belong to no picture in {images}, the first is "
            f"{unused[0]}.txt. Are these the right two folders? To leave such files out: --unused_labels"
        )
    content = {"images": [], "annotations": [], "categories": _categories(names)}
    num_empty = 0
    for (stem, name), (height, width) in zip(pictures.items(), _sizes(images, pictures.values())):
        image_id = len(content["images"]) + 1
        content["images"].append({"id": image_id, "file_name": name, "width": width, "height": height})
        if stem not in texts:
            continue
        objects = read_labels(texts[stem], names, polygons=polygons)
        num_empty += not objects
        for label, corners in objects:
            annotation = {"id": len(content["annotations"]) + 1, "image_id": image_id, "category_id": label + 1}
            content["annotations"].append(annotation | _box(corners, height, width))
    num_unlabelled = len(set(pictures) - set(texts))
    return Converted(content, num_empty=num_empty, num_unlabelled=num_unlabelled, num_unused=len(unused))


def _find_pictures(images, labels):
    """Path without extension -> path of every picture under `images`, relative to it, in order."""
    for folder in (images, labels):
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder")
    pictures = {}
    for name in files_under(images, PICTURE_EXTENSIONS):
        other = pictures.setdefault(os.path.splitext(name)[0], name)
        if other != name:
            raise ValueError(f"{images}: {other} and {name} would share one label file; rename one of them")
    if not pictures:
        raise FileNotFoundError(f"{images}: no picture there ({', '.join(PICTURE_EXTENSIONS)})")
    return pictures


def _find_texts(labels):
    """Path without extension, relative to `labels`, -> path of every label file."""
    names = [name for name in files_under(labels, (".txt",)) if os.path.basename(name) not in NO_LABELS]
    return {os.path.splitext(name)[0]: labels / name for name in names}


def _sizes(images, names):
    """(height, width) of each picture as training will see it, turned by its EXIF orientation."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        shapes = pool.map(lambda name: read_image(images / name).shape[:2], names)
        yield from tqdm(shapes, total=len(names), desc="reading pictures", disable=None)


def _categories(names):
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated or not names:
        raise ValueError(f"the classes are {names}: {'twice ' + repeated[0] if repeated else 'there is none'}")
    return [{"id": label + 1, "name": name} for label, name in enumerate(names)]


def _box(corners, height, width):
    """COCO's fields for a box x1 y1 x2 y2 in shares of a picture of `height` x `width` pixels."""
    x1, y1, x2, y2 = (value * side for value, side in zip(corners, (width, height, width, height)))
    box_width, box_height = x2 - x1, y2 - y1
    return {"bbox": [x1, y1, box_width, box_height], "area": box_width * box_height, "iscrowd": 0}


# ---------------------------------------------------------------------------------------------------- lines


def read_labels(path: Path, names: tuple[str, ...], *, polygons: bool) -> list[tuple[int, tuple[float, ...]]]:
    """(class, x1 y1 x2 y2 in shares of the picture) of every object in a label file; empty lines are skipped.

    Raises:
        ValueError: naming file, line and reason.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not text in UTF-8") from error
    objects = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                objects.append(_read_line(line.split(), names, polygons))
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from error
    return objects


def _read_line(fields, names, polygons):
    wanted = len(fields) >= 7 and len(fields) % 2 == 1 if polygons else len(fields) == 5
    if not wanted:
        raise ValueError(_wrong_count(len(fields), polygons))
    label = _number(fields[0])
    if label not in range(len(names)):
        raise ValueError(f"class {fields[0]} is none of 0 .. {len(names) - 1}, the {len(names)} names {_brief(names)}")
    shares = [_number(field) for field in fields[1:]]
    outside = [field for field, share in zip(fields[1:], shares) if not -TOLERANCE <= share <= 1 + TOLERANCE]
    if outside:
        raise ValueError(
            f"{outside[0]} is outside 0 .. 1; coordinates have to be shares of the picture's width or height"
        )
    if polygons:
        corners = (min(shares[::2]), min(shares[1::2]), max(shares[::2]), max(shares[1::2]))
    else:
        x, y, width, height = shares
        corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    return int(label), tuple(_without_rounding(corner) for corner in corners)


def _wrong_count(count, polygons):
    if polygons:
        return f"{count} fields; an outline has a class and at least three points x y, so 7, 9, 11, ... fields"
    if count >= 7 and count % 2:
        return (
            f"{count} fields instead of 5 (class x y width height). If all lines are outlines of objects, --polygons takes "
            "the box around each; keypoints are not supported"
        )
    return f"{count} fields instead of 5 (class x y width height)"


def _number(field):
    try:
        number = float(field)
    except ValueError as error:
        raise ValueError(f"{field!r} is not a number") from error
    if not math.isfinite(number):
        raise ValueError(f"{field!r} is not finite")
    return number


def _without_rounding(share):
    """`share`, moved to 0 or 1 where it lies outside by no more than the tolerance."""
    if -TOLERANCE <= share < 0:
        return 0.0
    return 1.0 if 1 < share <= 1 + TOLERANCE else share


def _brief(names):
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


# ---------------------------------------------------------------------------------------------------- names


def read_names(source: str) -> tuple[str, ...]:
    """The class names that `source` states: a data.yaml, a text with one name a line, or "cat,dog,bird".

    Of the yaml only `names` is read, and `nc` checked: a list or a map from 0 on, in one line, in brackets over several,
    or with one entry a line; names plain or quoted.  Plain names are text, also `yes` and `12`.

    Raises:
        FileNotFoundError: `source` looks like a file and is none.
        ValueError: the file states no names in one of these forms.
    """
    path = Path(source)
    if path.suffix in (".yaml", ".yml"):
        return _names_of_yaml(path, _read_text(path))
    if path.suffix == ".txt":
        names = tuple(line.strip() for line in _read_text(path).splitlines() if line.strip())
    else:
        names = tuple(name.strip() for name in source.split(","))
    if not names or not all(names):
        raise ValueError(f"{source!r} states no class names, or an empty one")
    return names


def _read_text(path):
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: no such file with class names") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not text in UTF-8") from error


def _names_of_yaml(path, text):
    lines = text.splitlines()
    starts = [number for number, line in enumerate(lines) if re.match(r"names\s*:", line)]
    if len(starts) != 1:
        raise ValueError(f"{path}: has {len(starts)} entries `names:`, there has to be one")
    first = lines[starts[0]].split(":", 1)[1]
    try:
        if _without_comment(first):
            entries = _bracket_entries([first, *lines[starts[0] + 1 :]])
        else:
            entries = _line_entries(lines[starts[0] + 1 :])
        names = _in_order(entries)
    except ValueError as error:
        raise ValueError(
            f"{path}: its `names` cannot be read: {error}. Give the names as a text with one a line, or as cat,dog,bird"
        ) from error
    counts = [match[1] for line in lines if (match := re.match(r"nc\s*:\s*(\d+)\s*(#.*)?$", line))]
    if counts and int(counts[0]) != len(names):
        raise ValueError(f"{path}: nc is {counts[0]}, but there are {len(names)} names {_brief(names)}")
    return names


def _in_order(entries):
    """Names from (number or None, name) entries; numbers have to be 0, 1, 2, ... in any order."""
    if not entries:
        raise ValueError("there is none")
    if all(number is None for number, _ in entries):
        return tuple(name for _, name in entries)
    numbers = [number for number, _ in entries]
    if None in numbers or sorted(numbers) != list(range(len(entries))):
        raise ValueError(f"they are numbered {numbers}, not 0 to {len(entries) - 1}")
    return tuple(name for _, name in sorted(entries))


def _line_entries(lines):
    """Entries below `names:`, one a line: `- name` or `0: name`; the first line that is neither blank nor one ends them."""
    entries = []
    for line in lines:
        content = _without_comment(line)
        is_entry = content == "-" or content.startswith("- ")
        if content and not line[0].isspace() and not is_entry:
            break  # the next key of the file
        if is_entry:
            entries.append((None, _scalar(content[1:].strip())))
        elif content:
            entries.append(_map_entry(content))
    return entries


def _bracket_entries(lines):
    """Entries of `[a, b]` or `{0: a, 1: b}`, which may go on over several lines."""
    opening = _without_comment(lines[0])[0]
    if opening not in "[{":
        raise ValueError(f"{_without_comment(lines[0])!r} is neither a list nor a map")
    text = ""
    for line in lines:
        text = f"{text} {_without_comment(line)}".strip()
        parts = _split_brackets(text)
        if parts is not None:
            return [(None, _scalar(part)) if opening == "[" else _map_entry(part) for part in parts]
    raise ValueError(f"the {opening} is never closed")


def _split_brackets(text):
    """The parts between the commas of `[...]` or `{...}`; None while the bracket is open."""
    parts, part, quote = [], "", None
    for place, character in enumerate(text[1:], start=1):
        if quote is None and character in "]}":
            if {"[": "]", "{": "}"}[text[0]] != character or text[place + 1 :].strip():
                raise ValueError(f"{text[place:]!r} stands where the names should end")
            last = [part.strip()] if part.strip() else []  # a comma may stand behind the last name
            return parts + last
        if quote is None and character in "[{":
            raise ValueError("brackets within brackets")
        if quote is None and character == ",":
            parts.append(part.strip())
            part = ""
            continue
        if quote is None and character in "'\"" and not part.split(":")[-1].strip():
            quote = character
        elif character == quote:
            quote = None
        part += character
    return None


def _map_entry(text):
    match = re.fullmatch(r"(['\"]?)(\d+)\1\s*:(\s+.*|['\"].*)", text)
    if match is None:
        raise ValueError(f"{text!r} is not of the form `number: name`")
    return int(match[2]), _scalar(match[3].strip())


def _scalar(text):
    """A plain or quoted name."""
    if text[:1] in ("'", '"'):
        quote, inner = text[0], text[1:-1]
        escapes = inner.replace("''" if quote == "'" else '\\"', "")
        if len(text) < 2 or text[-1] != quote or quote in escapes or (quote == '"' and "\\" in escapes):
            raise ValueError(f"{text} is quoted in a way that is not understood")
        name = inner.replace("''", "'") if quote == "'" else inner.replace('\\"', '"')
    else:
        name = text
        if name[:1] in tuple("&*!|>%@`?") or ": " in name:
            raise ValueError(f"{text!r} is not a plain name")
    if not name.strip():
        raise ValueError("a name is empty")
    return name


def _without_comment(line):
    """`line` without what stands behind a # that begins a word, outside quotes."""
    quote = None
    for place, character in enumerate(line):
        if quote is None and character == "#" and (place == 0 or line[place - 1].isspace()):
            return line[:place].strip()
        if quote is None and character in "'\"" and (place == 0 or line[place - 1] in " \t[{,:"):
            quote = character
        elif character == quote:
            quote = None
    return line.strip()
