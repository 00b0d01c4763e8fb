"""What lies in a folder of a data set, by the rule of `public.folders`, and the splits that names speak of."""

import os
import re
from collections.abc import Sequence

from public.folders import OnUnusable, files_under, look_into

SPLITS = {  # the words that people call a part of their data by -> ours
    **dict.fromkeys(("train", "training", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def _pass_over(path: str, message: str) -> None:
    """Who recognises a layout passes over what cannot be used; who reads it then names it."""


def list_files(
    folder: str | os.PathLike,
    extensions: Sequence[str],
    *,
    is_deep: bool = True,
    on_unusable: OnUnusable = _pass_over,
) -> list[str]:
    """Paths under `folder`, relative to it and with "/", of the files with one of the `extensions` (".jpg"), in order.

    Args:
        is_deep: also those in its folders, and in theirs.
        on_unusable: as of `public.folders.look_into`.

    Raises:
        OSError: there is no such folder, or it cannot be listed.
    """
    if is_deep:
        return files_under(folder, tuple(extensions), on_unusable)
    return look_into(folder, tuple(extensions), on_unusable).files


def list_folders(folder: str | os.PathLike) -> list[str]:
    """The names of the folders in `folder`, in order.

    Raises:
        OSError: as `list_files`.
    """
    return look_into(folder, on_unusable=_pass_over).folders


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
