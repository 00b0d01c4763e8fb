"""The repository's folder, and files that appear whole or not at all."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

REPOSITORY = Path(__file__).resolve().parents[1]


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
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if keep and path.exists():
            os.replace(path, path.with_name(keep))
        os.replace(temporary, path)
        _flush_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch.save covers the system's error with a RuntimeError
        reason = error if isinstance(error, OSError) else error.__context__ or error
        raise OSError(f"{path} could not be written ({reason}); what was there before is kept") from error
    finally:
        temporary.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """Makes a rename in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
