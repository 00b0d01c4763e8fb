"""A cache of pictures as a data set reads them, in memory or in a file, shared by all processes that use it.

The picture of index i has a fixed place, which follows from the sides that the annotations promise, and beside it a mark
with the checksum of its pixels, written last.  So there is nothing to lock: two processes that store one picture write the
same bytes, and what a killed process or machine has left half written has no mark, or one that does not fit; each process
compares the checksum when it sees a picture for the first time.  Of a set that is too large the first pictures are kept, as
many as go into `max_bytes`.

A file is named by a digest of the contents of all pictures and of the rule by which they are read: where either changes,
another file is begun, and files of the folder that no process has open are deleted, the oldest first, as far as the folder
would hold more than `max_bytes`.
"""

import contextlib
import fcntl
import hashlib
import mmap
import os
import weakref
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from public.files import REPOSITORY

FOLDER = REPOSITORY / ".cache" / "pictures"
FORM = 1  # of the file; another number begins all files anew
MARK_BYTES = 8  # a mark: the checksum in the lower half, 1 above it; 0: there is no picture
STORED = 1 << 32


class PictureCache:
    """Pictures by index; see above.

    Args:
        shapes: (height, width) of each picture as it is read.
        max_bytes: of pixels, at most.
        path: of the file; None: in memory, which the processes share that are forked from this one.

    Raises:
        OSError: the file cannot be made.
    """

    def __init__(self, shapes: Sequence[tuple[int, int]] | np.ndarray, *, max_bytes: int, path: Path | None = None):
        self.shapes = np.asarray(shapes, dtype=np.int64).reshape(-1, 2)
        self.max_bytes, self.path = max_bytes, path
        ends = np.cumsum(self.shapes.prod(axis=1) * 3)
        self.num_kept = int(np.searchsorted(ends, max_bytes, side="right"))
        self.places = np.concatenate([[0], ends]) + MARK_BYTES * len(self.shapes)
        self._open()

    def _open(self) -> None:
        self.size = max(int(self.places[self.num_kept]), 1)
        self.is_checked = np.zeros(len(self.shapes), dtype=bool)  # in this process
        self.file: int | None = None
        if self.path is None:
            self.memory = mmap.mmap(-1, self.size)
        else:
            self.file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            weakref.finalize(self, os.close, self.file)
            fcntl.flock(self.file, fcntl.LOCK_SH)  # says that it is in use
            os.ftruncate(self.file, self.size)
            self.memory = mmap.mmap(self.file, self.size, access=mmap.ACCESS_READ)
        self.pixels = np.frombuffer(self.memory, dtype=np.uint8)
        self.pixels.flags.writeable = False

    def __getstate__(self) -> dict:
        """A process that is not forked opens the file itself; memory it cannot share, so it has its own."""
        return {"shapes": self.shapes, "max_bytes": self.max_bytes, "path": self.path}

    def __setstate__(self, state: dict) -> None:
        self.__init__(state["shapes"], max_bytes=state["max_bytes"], path=state["path"])  # type: ignore[misc]  # the same class

    def get(self, index: int, *, read: Callable[[int], np.ndarray]) -> np.ndarray:
        """The picture `index`, which is not to be written to; read by `read` where it is not kept."""
        if index >= self.num_kept:
            return read(index)
        start, stop = self.places[index], self.places[index + 1]
        pixels = self.pixels[start:stop]
        mark = int.from_bytes(self.memory[MARK_BYTES * index : MARK_BYTES * (index + 1)], "little")
        if mark and (self.is_checked[index] or mark == STORED | zlib.crc32(pixels.data)):
            self.is_checked[index] = True
            return pixels.reshape(*self.shapes[index], 3)
        image = read(index)
        if image.shape[:2] == tuple(self.shapes[index]):
            self._store(index, np.ascontiguousarray(image))
        return image

    def _store(self, index: int, image: np.ndarray) -> None:
        mark = (STORED | zlib.crc32(image.data)).to_bytes(MARK_BYTES, "little")
        self._write(image.reshape(-1).data, int(self.places[index]))
        self._write(mark, MARK_BYTES * index)

    def _write(self, content: memoryview | bytes, place: int) -> None:
        """By a system call where it is a file: written to through memory, a disk without room would kill the process."""
        if self.file is None:
            self.memory[place : place + len(content)] = content
            return
        with contextlib.suppress(OSError):  # no room: the picture is read again next time, as its mark says
            os.pwrite(self.file, content, place)


def open_in_folder(
    shapes: Sequence[tuple[int, int]] | np.ndarray,
    *,
    content: str,
    rule: str,
    max_bytes: int,
    folder: Path | None = None,
) -> PictureCache:
    """The cache file of pictures with these contents, read by this rule; other files make room for it.

    Args:
        content: a digest of the contents of all pictures, in order.
        rule: all that the pixels depend on beside.
        folder: None: FOLDER.

    Raises:
        OSError: the folder or the file cannot be made.
    """
    folder = folder or FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    text = repr((FORM, content, rule, cv2.__version__, np.asarray(shapes).tolist(), max_bytes))
    path = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.pixels"
    cache = PictureCache(shapes, max_bytes=max_bytes, path=path)
    _make_room(folder, path, max_bytes - cache.size)
    return cache


def _make_room(folder: Path, own: Path, room: int) -> None:
    """Deletes files that no process has open, the oldest first, until the others hold `room` bytes at most."""
    others = []
    for path in folder.glob("*.pixels"):
        with contextlib.suppress(FileNotFoundError):  # another process makes room as well
            status = path.stat()
            others += [] if path == own else [(status.st_mtime_ns, status.st_blocks * 512, path)]
    held = sum(size for _, size, _ in others)
    for _, size, path in sorted(others):
        if held <= room:
            return
        with contextlib.suppress(OSError), open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
            held -= size
