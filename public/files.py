"""The repository's folder, files that appear whole or not at all, and how many a process may hold open."""

import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from public.text import to_bytes

REPOSITORY = Path(__file__).resolve().parents[1]
SPARE_FILES = 32  # open files that a process needs now and then beside those it was asked about


def write_whole(path: str | Path, write: Callable[[IO[bytes]], object], keep: str | None = None) -> None:
    """Lets `write` fill a temporary file beside `path`, flushes it to the disk and renames it to `path`.

    Killed at any moment, `path` holds the old content or the new, never a part.  What such a kill leaves beside it is
    overwritten the next time.

    Args:
        keep: a name beside `path` under which the old content stays.  Killed between the two renames, `path` is not there
            and `keep` is.

    Raises:
        OSError: naming `path` and the reason, for instance a full disk; the old content is kept.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    is_in_place = False
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if keep and path.exists():
            os.replace(path, path.with_name(keep))
        os.replace(temporary, path)
        is_in_place = True
        _flush_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch.save covers the system's error with a RuntimeError
        reason = error if isinstance(error, OSError) else error.__context__ or error
        raise OSError(f"{path} could not be written ({reason}); what was there before is kept") from error
    finally:
        if not is_in_place:
            temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Writes `text` in UTF-8, whole or not at all; what UTF-8 cannot hold is escaped.  Raises as `write_whole`."""
    write_whole(path, lambda file: file.write(to_bytes(text)))


def read_json(path: str | Path) -> Any:
    """What the JSON file `path` holds; some programs begin a text with a mark, which is no part of it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, naming it and the place; or it is nested deeper than any file of use.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {_in_one_line(error)}") from error


def read_json_object(path: str | Path) -> dict[str, Any]:
    """As `read_json`, of a file that has to hold an object, {...}."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path} is damaged: it holds a {type(value).__name__}, not an object with names")
    return value


def _in_one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def _flush_folder(folder: Path) -> None:
    """Makes a rename in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class OpenFilesError(OSError):
    """A process may not hold as many files open as its work needs; the message names the limit and the remedy."""


def allow_open_files(count: int, purpose: str, remedy: str) -> None:
    """Makes room for `count` more open files: where the limit is too low, it becomes the highest that is allowed.

    Args:
        purpose, remedy: for the message: "<purpose> needs ...: raise the limit, or <remedy>".

    Raises:
        OpenFilesError: the highest limit is too low as well.
    """
    limit, highest = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _num_open_files() + count + SPARE_FILES
    if limit == resource.RLIM_INFINITY or needed <= limit:
        return
    wanted = needed if highest == resource.RLIM_INFINITY else highest  # macOS refuses a limit without end
    if wanted >= needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, highest))
        return
    raise OpenFilesError(
        f"{purpose} needs about {needed} open files, but this process may open {highest} (ulimit -Hn): raise the limit, or "
        f"{remedy}"
    )


def _num_open_files() -> int:
    try:
        return len(os.listdir("/dev/fd"))
    except OSError:  # no such folder
        return 0
