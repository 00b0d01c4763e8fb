"""Experiments of the repository as small trainings: the own page, with small pictures and tiny data in its layout."""

import shutil
from pathlib import Path

from public.config import TrainingConfig
from public.runs.experiment import load_experiment
from tests.helpers.experiments import TinyExperiment
from tests.helpers.places import REPOSITORY
from tests.helpers.tiny_layouts import write_layout

SMALL_PAGE = '''"""Command: a test's; the experiment's own page, small."""

from tests.helpers.tiny_layouts import shrunk

from .page import config as page

config = shrunk(page, is_narrow={is_narrow})
'''


def small_copy(folder: Path, root: Path, *, num_images: int, is_narrow: bool = False) -> TinyExperiment:
    """A copy of the experiment `folder` in `root`, `num_images` small pictures a source; all else is its own page.

    `is_narrow`: but for the width and the depth of PPYOLOE, see `shrunk`.
    """
    ignored = shutil.ignore_patterns("runs", "reproductions", "__pycache__")
    copy = shutil.copytree(folder, root / folder.name, ignore=ignored)
    (copy / "config.py").rename(copy / "page.py")
    (copy / "config.py").write_text(SMALL_PAGE.format(is_narrow=is_narrow))
    write_layout(load_experiment(folder).config, root / "data", num_images=num_images)
    return TinyExperiment(copy, root / "data")


def a_page_of_each_detector() -> dict[str, Path]:
    """Name of a class of detector settings -> an experiment with it: on the drawn shapes where there is one.

    What holds of every detector is tested on these, so that a new one is under all those tests with its first page.  A
    student beside its teacher is no other detector; what holds of pairs is tested in test_distilled.  Nor is one that is
    quantised or pruned: test_changed_networks.
    """
    pages: dict[str, Path] = {}
    folders = sorted(REPOSITORY.glob("detection_experiments/*/config.py"))
    for file in sorted(folders, key=lambda file: not file.parent.name.endswith("_shapes")):
        config = load_experiment(file.parent).config
        if config.used_settings is config.network_settings and not hasattr(config.used_settings, "prepare"):
            pages.setdefault(type(detector_of(config)).__name__, file.parent)
    return pages


def detector_of(config: TrainingConfig):
    return config.network_settings
