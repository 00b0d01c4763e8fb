"""What lies in a folder: the one rule by which every reader and every command looks.

- Hidden entries are passed over, folders and files alike, with all that is in them: names that begin with a dot
  (`.ipynb_checkpoints`, `._a.jpg`), and what systems lay beside a user's files (`LEFT_BY_SYSTEMS`).
- Symbolic links are followed, to folders as to files.  Each folder is entered once, under its own name where it has one
  there, else under that of the first link; so a link that leads back is no loop, and no picture comes twice.  A link to
  a folder that holds the one that is looked through is not entered.
- A link that leads nowhere is not passed over.  If its name is one that is looked for, such as `a.jpg`, it is listed, and
  who opens it says that it is missing.  Any other may have been a folder full of files: `on_unusable` is told of it, as of
  what is neither a file nor a folder.
- A file or folder that is named, by a list, a json or a command, is taken as it is named.
"""

import os
from collections.abc import Callable
from typing import NamedTuple

LEFT_BY_SYSTEMS = ("__macosx", "@eadir", "$recycle.bin", "system volume information", "thumbs.db", "desktop.ini")

OnUnusable = Callable[[str, str], object]  # is told the path and a message that names it


class Inside(NamedTuple):
    """The names in a folder, sorted."""

    folders: list[str]
    files: list[str]  # of the extensions that are looked for
    others: list[str]  # files of other extensions


def stop_at_unusable(path: str, message: str) -> None:
    """Raises FileNotFoundError."""
    raise FileNotFoundError(message)


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is passed over."""
    return name.startswith(".") or name.casefold() in LEFT_BY_SYSTEMS


def look_into(
    folder: str | os.PathLike[str],
    extensions: tuple[str, ...] | None = None,
    on_unusable: OnUnusable = stop_at_unusable,
) -> Inside:
    """The folders and files that lie in `folder` itself.

    Args:
        extensions: of the files that are looked for, in lower case with their dots.  None: all files.
        on_unusable: told of an entry that cannot be used; where it returns, the entry is left out.

    Raises:
        OSError: `folder` cannot be read.
    """
    folders, files, others = [], [], []
    for entry in os.scandir(os.fspath(folder)):
        if is_hidden(entry.name):
            continue
        is_folder, is_file, is_link = _kind(entry)
        is_named = extensions is not None and os.path.splitext(entry.name)[1].lower() in extensions
        if is_folder:
            folders.append(entry.name)
        elif is_named and (is_file or is_link):
            files.append(entry.name)
        elif is_file:
            (files if extensions is None else others).append(entry.name)
        else:
            on_unusable(entry.path, _why_unusable(entry.path, is_link))
    return Inside(sorted(folders), sorted(files), sorted(others))


def files_under(
    folder: str | os.PathLike[str],
    extensions: tuple[str, ...] | None = None,
    on_unusable: OnUnusable = stop_at_unusable,
) -> list[str]:
    """The files in `folder` and in the folders under it: their paths from `folder` on, with "/" between names, sorted.

    Arguments and errors are those of `look_into`.
    """
    top = os.path.realpath(folder)
    files, entered = [], set()
    folders, links = [""], []  # still to be entered; links come last, so that a folder goes by its own name if it can
    while folders or links:
        name = folders.pop() if folders else links.pop(0)
        place = os.path.join(folder, name) if name else os.fspath(folder)
        real = os.path.realpath(place)
        if real in entered or _holds(real, top):
            continue
        entered.add(real)
        inside = look_into(place, extensions, on_unusable)
        within = f"{name}/" if name else ""
        files += [within + file for file in inside.files]
        for inner in inside.folders:
            (links if os.path.islink(os.path.join(place, inner)) else folders).append(within + inner)
    return sorted(files)


def where_it_leads(path: str) -> str:
    """What a message says more about a file that is not there: where it leads, if it is a symbolic link; else nothing."""
    return f" (it is a symbolic link to {os.readlink(path)})" if os.path.islink(path) else ""


def _holds(outer, inner):
    """Whether the folder `outer` holds `inner`, somewhere within it; both are real paths."""
    return outer != inner and inner.startswith(os.path.join(outer, ""))


def _kind(entry):
    """(is it a folder, is it a file, is it a symbolic link); a link that leads nowhere, or to itself, is only a link."""
    try:
        return entry.is_dir(), entry.is_file(), entry.is_symlink()
    except OSError:
        return False, False, entry.is_symlink()


def _why_unusable(path, is_link):
    if is_link:
        return f"{path}: a symbolic link to {os.readlink(path)}, which is not there. Restore that, or remove the link."
    return f"{path}: neither a file nor a folder. Remove it, or move it away."
