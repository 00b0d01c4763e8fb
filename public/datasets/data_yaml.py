"""The data.yaml of a set with YOLO labels, as Ultralytics' users have it: names of the classes, and where the pictures lie.

Of YAML only that is read which these files are made of: keys at the beginning of a line; values in the line, in brackets,
or below it with one entry a line.  What is not understood is refused with its line, and nothing is guessed.
"""

import re
from pathlib import Path
from typing import NamedTuple

SPLIT_KEYS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
NOTHING = ("", "~", "null", "Null", "NULL")  # how YAML writes that there is none


class Entry(NamedTuple):
    """One place of pictures, as it is written: a folder, or a text that lists pictures."""

    text: str
    line: int  # in the yaml, from 1


class DataYaml(NamedTuple):
    """What a data.yaml says."""

    names: tuple[str, ...]  # of the classes, in YOLO's order
    path: Entry | None  # of the folder that the places start from
    splits: dict[str, list[Entry]]  # "train", "val", "test" -> places; those that are named
    num_keypoints: int | None  # numbers of keypoints at the end of each line of a label; None: there are none


def read_data_yaml(path: Path) -> DataYaml:
    """Reads a data.yaml.

    Raises:
        FileNotFoundError: it is missing.
        ValueError: it has no `names`, or what it says is not understood; naming the line.
    """
    text = read_text(path)
    lines = text.splitlines()
    splits: dict[str, list[Entry]] = {}
    root, num_keypoints = None, None
    for number, key, first in _keys(lines):
        if key not in (*SPLIT_KEYS, "path", "kpt_shape"):
            continue
        try:
            entries = [entry for entry in _values(number, first, lines) if entry.text not in NOTHING]
            if key == "path" and len(entries) > 1:
                raise ValueError(f"`path` has {len(entries)} values; it is one folder")
            if key == "kpt_shape":
                num_keypoints = _product(entries)
        except ValueError as error:
            raise ValueError(f"{path}, line {number + 1}: {error}") from error
        if key in SPLIT_KEYS and entries:
            if SPLIT_KEYS[key] in splits:
                raise ValueError(f"{path}, line {number + 1}: `{key}` names a part of the set that is named before")
            splits[SPLIT_KEYS[key]] = entries
        elif key == "path":
            root = entries[0] if entries else None
    return DataYaml(_names_of_yaml(path, text), root, splits, num_keypoints)


def read_text(path: Path) -> str:
    """The text of a file of names or places.

    Raises:
        FileNotFoundError: it is missing.
        ValueError: it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: no such file with class names") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not text in UTF-8") from error


def _keys(lines):
    """(position of the line, key, what stands behind it) of each key at the beginning of a line."""
    for number, line in enumerate(lines):
        match = re.match(r"(['\"]?)([A-Za-z_]\w*)\1\s*:(?=\s|$)(.*)", line)
        if match:
            yield number, match[2], match[3]


def _values(number, first, lines):
    """The scalars behind a key: one in its line, several in brackets or below it, each with the line it stands in."""
    here = _without_comment(first)
    if here.startswith("["):
        return [Entry(name, number + 1) for _, name in _bracket_entries([first, *lines[number + 1 :]])]
    if here.startswith(("|", ">", "&", "*", "!", "{")):
        raise ValueError(f"{here!r} is neither a name nor a list of names")
    if here:
        return [Entry(_scalar(here), number + 1)] if here not in NOTHING else []
    return [
        Entry(name, number + 2 + place)
        for place, entry in _below(lines[number + 1 :])
        for name in [_item(entry)]
    ]  # fmt: skip


def _below(lines):
    """(position, content) of the lines that belong to the key above: indented ones, and those of a list."""
    for place, line in enumerate(lines):
        content = _without_comment(line)
        if content and not line[0].isspace() and not _is_item(content):
            return  # the next key of the file
        if content:
            yield place, content


def _is_item(content):
    return content == "-" or content.startswith("- ")


def _item(content):
    if not _is_item(content):
        raise ValueError(f"{content!r} is not of the form `- name`")
    return _scalar(content[1:].strip())


def _product(entries):
    """The numbers of a label that are keypoints: 17 of them with 3 numbers each are 51."""
    if len(entries) != 2 or not all(re.fullmatch(r"\d+", entry.text) for entry in entries):
        raise ValueError(
            f"kpt_shape is {[entry.text for entry in entries]}, not [number of keypoints, numbers of each]"
        )
    return int(entries[0].text) * int(entries[1].text)


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
        return _names_of_yaml(path, read_text(path))
    if path.suffix == ".txt":
        names = tuple(line.strip() for line in read_text(path).splitlines() if line.strip())
    else:
        names = tuple(name.strip() for name in source.split(","))
    if not names or not all(names):
        raise ValueError(f"{source!r} states no class names, or an empty one")
    return names


def _names_of_yaml(path: Path, text: str) -> tuple[str, ...]:
    """The names in the `text` of the yaml `path`.

    Raises:
        ValueError: as `read_names`.
    """
    lines = text.splitlines()
    starts = [number for number, line in enumerate(lines) if re.match(r"(['\"]?)names\1\s*:", line)]
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
            f"{path}: its `names`, line {starts[0] + 1}, cannot be read: {error}. Give the names as a text with one a line, "
            "or as cat,dog,bird"
        ) from error
    counts = [match[1] for line in lines if (match := re.match(r"nc\s*:\s*(\d+)\s*(#.*)?$", line))]
    if counts and int(counts[0]) != len(names):
        raise ValueError(f"{path}: nc is {counts[0]}, but there are {len(names)} names {brief(names)}")
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
    return [(None, _item(content)) if _is_item(content) else _map_entry(content) for _, content in _below(lines)]


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


def brief(names: tuple[str, ...]) -> str:
    """The first of `names`, for a message."""
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


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
