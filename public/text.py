"""Text that has to leave the program whatever it holds: names of files that are no UTF-8, and streams that lack letters.

A file name is bytes.  Python makes text of it (`os.fsdecode`), in which a byte that is no UTF-8 stands as half of a
surrogate pair, and gives the bytes back (`os.fsencode`).  Such text names the file, but it cannot be printed, encoded or
drawn, and OpenCV ends the process at it.  So everywhere

- names are handed on as they are, and made bytes by `os.fsencode`;
- JSON holds them exactly, with that half as "\\udce9", from which it comes back;
- all that people read has the byte as \\xe9, and a letter that the stream or the font lacks as \\u732b.
"""

import codecs
import json
import os
import re
import sys
import unicodedata
from typing import Any

ESCAPED = "escaped"  # how codecs call the rule: "猫".encode("ascii", ESCAPED)
_HALVES = re.compile("[\ud800-\udfff]")
_FIRST_BYTE, _LAST_BYTE = 0xDC80, 0xDCFF  # the halves by which os.fsdecode keeps the bytes 0x80 .. 0xff
LONGEST_NAME, LONGEST_PATH = 255, 4096  # bytes, of the usual systems' files
PLAIN = {bool, int, float, str}
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def escaped(character: str) -> str:
    """How `character` is written where it cannot stand itself."""
    code = ord(character)
    if _FIRST_BYTE <= code <= _LAST_BYTE:
        return f"\\x{code - 0xDC00:02x}"
    return _SHORT.get(character) or (f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")


def _escape_part(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(escaped, error.object[error.start : error.end])), error.end


codecs.register_error(ESCAPED, _escape_part)


def shown(text: str) -> str:
    """`text`, such as a file's name, in one line that can be printed: with control characters and bytes escaped."""
    return "".join(escaped(c) if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c for c in text)


def shorten(text: str, length: int = 100) -> str:
    """`text`, or its beginning and two points: a value in a message may be a number of 400 digits."""
    return text if len(text) <= length else f"{text[:length]}.."


def brief(value: object) -> str:
    """A value of unknown kind for a message: plain ones and short lists of them as they are, of others what they are."""
    if (
        isinstance(value, list | tuple)
        and len(value) <= 8
        and all(item is None or type(item) in PLAIN for item in value)
    ):
        return shorten(repr(value))
    if isinstance(value, dict | list | tuple | set):
        return f"a {type(value).__name__} of {len(value)}"
    return shorten(repr(value)) if value is None or type(value) in PLAIN else f"a {type(value).__name__}"


def to_bytes(text: str) -> bytes:
    """`text` in UTF-8, for files that people read."""
    return text.encode("utf-8", ESCAPED)


def as_json(value: Any) -> str:
    """`value` as JSON in one line, with letters as they are; names of files come back as they were.

    Raises:
        ValueError: a number is not finite.
    """
    return _HALVES.sub(lambda half: f"\\u{ord(half[0]):04x}", json.dumps(value, allow_nan=False, ensure_ascii=False))


def file_named(text: str) -> str:
    """The name of the file that `text` means, where it comes from a file in UTF-8 and not from the system.

    Raises:
        ValueError: no file can have this name.
    """
    try:
        name = text if text.isascii() else os.fsdecode(text.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError as error:
        raise ValueError(
            f"no file can be called {shorten(shown(text))!r}: half of a surrogate pair is no letter"
        ) from error
    if "\0" in name:
        raise ValueError(f"no file can be called {shorten(shown(text))!r}: names hold no zero")
    if len(name) > LONGEST_NAME // 4:  # a letter has four bytes at most
        parts = [len(os.fsencode(part)) for part in name.split("/")]
        if max(parts) > LONGEST_NAME or sum(parts) + len(parts) > LONGEST_PATH:
            longest = f"{LONGEST_NAME} bytes, with their folders {LONGEST_PATH}"
            raise ValueError(f"no file can be called {shorten(shown(text))!r}: names have at most {longest}")
    return name


def let_everything_be_printed() -> None:
    """From now on standard output and error escape what their encoding lacks, instead of raising an error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # what a program or a notebook has put in its place may lack it
            stream.reconfigure(errors=ESCAPED)
