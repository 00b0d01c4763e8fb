"""Writing CIFAR's archive format, as Python 2 wrote the originals: pickle protocol 2, text as bytes.

Any reader of CIFAR takes it; `public.datasets.cifar` does.
"""

import io
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from public.files import write_whole

ARRAY_START = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
BYTES_TYPE = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"


def write_pickle(path: Path, content: dict[str, Any]) -> None:
    """Writes a dict of texts, whole numbers, lists of them, and uint8 arrays.

    Raises:
        TypeError: a value is none of these.
    """

    def write(file):
        file.write(b"\x80\x02")
        _write_value(file, content)
        file.write(b".")

    write_whole(path, write)


def _write_value(file: io.BufferedIOBase, value: object) -> None:
    match value:
        case str():
            _write_bytes(file, value.encode("latin1"))
        case bool():
            raise TypeError("a bool has no place in CIFAR's format")
        case int():
            file.write(b"J" + struct.pack("<i", value) if not 0 <= value < 256 else b"K" + bytes([value]))
        case list():
            file.write(b"](")
            for item in value:
                _write_value(file, item)
            file.write(b"e")
        case dict():
            file.write(b"}(")
            for key, item in value.items():
                _write_value(file, key)
                _write_value(file, item)
            file.write(b"u")
        case np.ndarray(dtype=np.uint8):
            file.write(ARRAY_START + b"(K\x01(")
            for side in value.shape:
                _write_value(file, side)
            file.write(b"t" + BYTES_TYPE + b"\x89")
            _write_bytes(file, value.tobytes())
            file.write(b"tb")
        case _:
            raise TypeError(f"{type(value).__name__} has no place in CIFAR's format")


def _write_bytes(file, data):
    file.write(b"U" + bytes([len(data)]) if len(data) < 256 else b"T" + struct.pack("<i", len(data)))
    file.write(data)


def rows_of(images: np.ndarray) -> np.ndarray:
    """(N, 32, 32, 3) uint8 RGB as CIFAR's rows (N, 3072): all reds, all greens, all blues."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(len(images), -1)


def write_cifar100_part(
    path: Path,
    images: np.ndarray,
    labels: Sequence[int] | np.ndarray,
    *,
    coarse_labels: Sequence[int] | np.ndarray,
    names: Sequence[str],
    title: str,
) -> None:
    """A file of pictures as CIFAR-100's `train` and `test` are."""
    content: dict[str, Any] = {
        "filenames": list(names),
        "batch_label": title,
        "fine_labels": [int(label) for label in labels],
    }
    content |= {"coarse_labels": [int(label) for label in coarse_labels], "data": rows_of(images)}
    write_pickle(path, content)


def write_cifar10_part(
    path: Path, images: np.ndarray, labels: Sequence[int], *, names: Sequence[str], title: str
) -> None:
    """A file of pictures as CIFAR-10's `data_batch_1` and `test_batch` are."""
    content: dict[str, Any] = {
        "batch_label": title,
        "labels": [int(label) for label in labels],
        "data": rows_of(images),
    }
    write_pickle(path, content | {"filenames": list(names)})
