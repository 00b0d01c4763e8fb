"""Opening an experiment: its folder, or a run that was made of it.

Training, evaluation, detection and every other tool go through `load_experiment`, so all of them build the same objects,
also where an experiment's folder has a model, a loss or settings of its own.
"""

import contextlib
import hashlib
import importlib.machinery
import json
import os
import stat
import sys
import types
from dataclasses import dataclass, is_dataclass
from pathlib import Path

from public.config import TrainingConfig, classes_of, thaw
from public.datasets.layouts import Layout, find_layout
from public.files import REPOSITORY

EXPERIMENT_FILES = (".py", ".sh", ".md", ".json", ".txt")  # what a run copies from an experiment's folder


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """An experiment's folder with its settings, or a run of it with the settings it was made with."""

    folder: Path  # where config.py lies; for a run: the experiment's folder, whose runs/ holds it
    config: TrainingConfig
    run: Path | None  # None: the experiment itself

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    @property
    def source(self) -> Path:
        """Where its files are read: the folder itself, or the copy that the run keeps."""
        return run_copy(self.run) if self.run else self.folder


def load_experiment(path: str | Path) -> Experiment:
    """The experiment in folder `path`, or the one that the run folder `path` was made of.

    Of a run, the copy of the folder that the run keeps is loaded, and its resolved settings are laid over it.

    Raises:
        FileNotFoundError: `path` is neither.
        ValueError: config.py does not state a configuration.
    """
    path = Path(path).resolve()
    if (path / "config.json").is_file() and (run_copy(path) / "config.py").is_file():
        module = _load_package(run_copy(path))
        config = thaw(_read_json(path / "config.json"), _known_classes(module))
        return Experiment(folder=path.parent.parent, config=config, run=path)
    if (path / "config.py").is_file():
        return Experiment(folder=path, config=_load_package(path).config, run=None)
    raise FileNotFoundError(
        f"{path} is neither an experiment's folder (config.py) nor a run (config.json, experiment/)"
    )


def is_experiment(path: str | Path) -> bool:
    """Whether the folder looks like an experiment's or a run's, as `load_experiment` takes them."""
    return any((Path(path) / name).is_file() for name in ("config.py", "config.json"))


def open_layout(path: str | Path, *, kind: str | None = None, images: str | None = None) -> Layout:
    """`find_layout`, for commands that take an experiment as well.

    Raises:
        FileNotFoundError: `path` is neither an experiment or a run, nor data.
        ValueError: as `find_layout`.
    """
    try:
        return find_layout(path, kind=kind, images=images)
    except FileNotFoundError as error:
        if not Path(path).is_dir():
            raise
        raise FileNotFoundError(
            f"{path} is neither an experiment's folder (config.py) nor a run (config.json, experiment/) nor data: {error}"
        ) from error


def run_copy(run: Path) -> Path:
    """The copy of the experiment's folder that a run keeps: experiment/, or the one that its manifest names.

    It names another one where the run went on with changed code.
    """
    manifest = run / "manifest.json"
    named = _read_json(manifest).get("experiment_copy") if manifest.is_file() else None
    return run / (named or "experiment")


def _read_json(path: Path) -> dict:
    """Raises ValueError, naming the file, where it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def experiment_files(folder: Path) -> list[Path]:
    """The files of an experiment's folder that belong to the recipe, sorted.

    Not its runs, nothing hidden (what editors and tools leave), and not the file that this process writes its output to.
    """
    inside = (p for p in folder.rglob("*") if p.is_file() and p.suffix in EXPERIMENT_FILES)
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
        digest.update(f"{file.relative_to(root).as_posix()} {len(content)}\n".encode() + content)
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


def _load_package(folder: Path) -> types.ModuleType:
    """The module config.py of `folder`, as part of a package whose name belongs to this folder and content alone.

    A package, so that `from .loss import MyLoss` works in it; a name of its own, because every experiment's file is
    called config.py.
    """
    files = experiment_files(folder)
    content = hash_files(files, folder)
    name = "encore_experiment_" + hashlib.sha256(f"{folder} {content}".encode()).hexdigest()[:16]
    if name not in sys.modules:
        package = types.ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package
        for place in {str(file.parent) for file in files}:
            sys.path_importer_cache[place] = importlib.machinery.FileFinder(place, (_SourceLoader, [".py"]))
    try:
        module = importlib.import_module(f"{name}.config")
    except Exception:
        sys.modules.pop(name)
        raise
    if not isinstance(getattr(module, "config", None), TrainingConfig):
        raise ValueError(
            f"{folder / 'config.py'} must state `config = DetectionConfig(...)` or ClassificationConfig(...)"
        )
    return module


def _known_classes(module: types.ModuleType) -> dict[str, type]:
    """The dataclasses that an experiment's settings may be made of: those in its value and those its page names."""
    named = {n: c for n, c in vars(module).items() if isinstance(c, type) and is_dataclass(c)}
    return named | classes_of(module.config)


def find_data_root(option: str | None) -> Path:
    """The folder of the data sets: `--data_root`, else the variable ENCORE_DATA_ROOT, else data/ in the repository.

    Raises:
        FileNotFoundError: naming the folder and where it was named.
    """
    named = {"--data_root": option, "$ENCORE_DATA_ROOT": os.environ.get("ENCORE_DATA_ROOT")}
    source, path = next(((s, Path(p)) for s, p in named.items() if p), ("the default", REPOSITORY / "data"))
    if not path.is_dir():
        raise FileNotFoundError(
            f"{source} says that the data sets lie in {path}, which is not a folder; give --data_root FOLDER or set "
            "ENCORE_DATA_ROOT (the built-in set: python -m public.datasets.shapes)"
        )
    return path.resolve()
