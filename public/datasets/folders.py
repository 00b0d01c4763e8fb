"""What lies in a folder of a data set: the one place where the readers of YOLO's labels and of layouts list files.

Names that begin with a dot are no part of a data set (.ipynb_checkpoints, .DS_Store, ._a.jpg) and are passed over, with
all that lies in them.  Symbolic links to folders are followed; a link back to a folder that it lies in is not.
"""

import os
import re
from collections.abc import Iterator, Sequence

SPLITS = {  # the words that people call a part of their data by -> ours
    **dict.fromkeys(("train", "training", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def list_files(folder: str | os.PathLike, extensions: Sequence[str], *, is_deep: bool = True) -> list[str]:
    """Paths under `folder`, relative to it and with "/", of the files with one of the `extensions` (".jpg"), in order.

    Args:
        is_deep: also those in its folders, and in theirs.

    Raises:
        OSError: there is no such folder, or it cannot be listed.
    """
    return sorted(name for name in _walk(os.fspath(folder), "", (), is_deep) if extension_of(name) in extensions)


def list_folders(folder: str | os.PathLike) -> list[str]:
    """The names of the folders in `folder`, in order.

    Raises:
        OSError: as `list_files`.
    """
    with os.scandir(os.fspath(folder)) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def extension_of(name: str) -> str:
    """ ".jpg" of "a.JPG"."""
    return os.path.splitext(name)[1].lower()


def word_of_split(name: str) -> str | None:
    """The part of `name` that says which part of a set it is: "train2017" of "instances_train2017"; None: there is none."""
    return next((word for word in re.findall(r"[a-z]+\d*", name.lower()) if word.rstrip("0123456789") in SPLITS), None)


def split_of(name: str) -> str | None:
    """ "train", "val" or "test": the part of a set that a file or folder of this name holds; None: the name does not say."""
    word = word_of_split(name)
    return SPLITS[word.rstrip("0123456789")] if word else None


def _walk(folder: str, prefix: str, above: tuple[str, ...], is_deep: bool) -> Iterator[str]:
    here = os.path.realpath(folder)
    if here in above:
        return
    with os.scandir(folder) as scanned:
        entries = sorted(scanned, key=lambda entry: entry.name)
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if is_deep:
                yield from _walk(entry.path, f"{prefix}{entry.name}/", (*above, here), is_deep)
        else:
            yield prefix + entry.name
