"""The files of an experiment's folder: which belong to the recipe, their sums, and the package that Python makes of them."""

import contextlib
import hashlib
import importlib.machinery
import os
import stat
import sys
import types
from pathlib import Path

from public.files import REPOSITORY

EXPERIMENT_FILES = (".py", ".sh", ".md", ".json", ".txt")  # what a run copies from an experiment's folder
RESULTS = ("seeds.json",)  # what commands write into an experiment's folder: no part of the recipe
PREFIX = "encore_experiment_"  # of the packages' names


def experiment_files(folder: Path) -> list[Path]:
    """The files of an experiment's folder that belong to the recipe, sorted.

    Not its runs and results, nothing hidden (what editors and tools leave), and not the file that this process writes its
    output to.
    """
    inside = (p for p in folder.rglob("*") if p.is_file() and p.suffix in EXPERIMENT_FILES and p.name not in RESULTS)
    places = ((p, p.relative_to(folder).parts) for p in inside)
    kept = (p for p, parts in places if not ({"runs", "__pycache__"} & set(parts) or any(n[0] == "." for n in parts)))
    outputs = _own_outputs()
    return sorted(p for p in kept if (p.stat().st_dev, p.stat().st_ino) not in outputs)


def _own_outputs() -> set[tuple[int, int]]:
    """Device and inode of the files behind standard output and error, as of `python train.py > log.txt`."""
    found = set()
    for handle in (1, 2):
        with contextlib.suppress(OSError):  # closed
            status = os.fstat(handle)
            if stat.S_ISREG(status.st_mode):
                found.add((status.st_dev, status.st_ino))
    return found


def file_hashes(folder: Path) -> dict[str, str]:
    """sha256 of each file of an experiment's folder that belongs to the recipe, by its name in the folder."""
    files = experiment_files(folder)
    return {file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def hash_files(files: list[Path], root: Path) -> str:
    """sha256 over names and contents of `files`."""
    digest = hashlib.sha256()
    for file in files:
        content = file.read_bytes()
        digest.update(os.fsencode(f"{file.relative_to(root).as_posix()} {len(content)}\n") + content)
    return digest.hexdigest()


def library_hash() -> str:
    """sha256 over the sources of public/."""
    root = REPOSITORY / "public"
    return hash_files(sorted(root.rglob("*.py")), root)


class _SourceLoader(importlib.machinery.SourceFileLoader):
    """Compiles the source itself, and neither reads nor writes Python's cache of compiled files.

    The cache tells an old entry by the file's size and its time in whole seconds, which a quick edit can leave as they
    are; then the code that runs would not be the code that is recorded.
    """

    def path_stats(self, path: str):
        raise OSError("no time and size of the source: the cache is not used")


# ---------------------------------------------------------------------------------------------- packages


def add_package(folder: Path) -> str:
    """Makes the files of `folder` a package that can be imported; its name, which belongs to this folder and content alone.

    A package, so that `from .loss import MyLoss` works in it; a name of its own, because every experiment's file is
    called config.py.
    """
    files = experiment_files(folder)
    content = hash_files(files, folder)
    name = PREFIX + hashlib.sha256(os.fsencode(f"{folder} {content}")).hexdigest()[:16]
    if name not in sys.modules:
        package = types.ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package
        for place in {str(file.parent) for file in files}:
            sys.path_importer_cache[place] = importlib.machinery.FileFinder(place, (_SourceLoader, [".py"]))
    return name


def added_packages() -> dict[str, str]:
    """The folder of each package of this process, by its name."""
    names = [name for name in sys.modules if name.startswith(PREFIX) and "." not in name]
    return {name: sys.modules[name].__path__[0] for name in names}


def add_packages_again(packages: dict[str, str]) -> None:
    """Adds what `added_packages` returned in another process.

    Raises:
        RuntimeError: the files of a folder are no longer those that the other process has read.
    """
    for name, folder in packages.items():
        if add_package(Path(folder)) != name:
            raise RuntimeError(
                f"the files of {folder} have changed since this training started, and a new process of it would run the "
                "changed ones; start it again (it resumes, or says what differs)"
            )
