"""Opening an experiment: its folder, or a run that was made of it.

Training, evaluation, detection and every other tool go through `load_experiment`, so all of them build the same objects,
also where an experiment's folder has a model, a loss or settings of its own.
"""

import ast
import importlib
import os
import re
import sys
import types
from dataclasses import dataclass, is_dataclass
from pathlib import Path

from public.config import TrainingConfig, classes_of, thaw
from public.datasets.layouts import Layout, find_layout
from public.experiment_files import add_package
from public.files import REPOSITORY, read_json_object
from public.text import brief, shorten, shown

COPY = re.compile(r"experiment(_from_step\d+(_again)?)?")  # names of the copies that a run keeps


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
        config = _recorded_config(path / "config.json", module)
        return Experiment(folder=path.parent.parent, config=config, run=path)
    if (path / "config.py").is_file():
        return Experiment(folder=path, config=_load_package(path).config, run=None)
    raise FileNotFoundError(
        f"{path} is neither an experiment's folder (config.py) nor a run (config.json, experiment/)"
    )


def _recorded_config(path: Path, module: types.ModuleType) -> TrainingConfig:
    """The settings of a run, made of the classes of its page.  Raises ValueError, naming `path`, where they are damaged."""
    try:
        config = thaw(read_json_object(path), _known_classes(module))
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path} is damaged: {shorten(shown(str(error)), 1000)}") from error
    if not isinstance(config, TrainingConfig):
        raise ValueError(f"{path} is damaged: it holds {type(config).__name__}(...), not the settings of a training")
    return config


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

    Raises:
        ValueError: the manifest is damaged, naming it.
    """
    manifest = run / "manifest.json"
    named = read_json_object(manifest).get("experiment_copy") if manifest.is_file() else None
    if named is not None and not (isinstance(named, str) and COPY.fullmatch(named)):
        raise ValueError(f"{manifest} is damaged: experiment_copy is {brief(named)}, no copy that a run makes")
    return run / (named or "experiment")


def _load_package(folder: Path) -> types.ModuleType:
    """The module config.py of `folder`, in a package of its own."""
    name = add_package(folder)
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
            "ENCORE_DATA_ROOT (the built-in sets: python -m public.datasets.shapes, python -m public.datasets.drawn_cifar)"
        )
    return path.resolve()


def recipe_card(experiment: Experiment) -> str:
    """The docstring of the experiment's config.py."""
    return ast.get_docstring(ast.parse((experiment.folder / "config.py").read_bytes())) or experiment.name
