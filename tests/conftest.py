"""What every test shares: one compute thread, the folder of reference data, and a small experiment."""

import functools
import os
import shutil
from pathlib import Path

import pytest
import torch

from public.config import DetectionConfig
from public.reports import figure_canvas
from public.runs.experiment import load_experiment
from tests.helpers.places import HELPERS, SHARED

os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start


def pytest_addoption(parser):
    parser.addoption(
        "--fuzz-cases", type=int, help="cases of each kind of file in test_fuzz.py (300; 60 with a network)"
    )
    parser.addoption(
        "--whole-table", action="store_true", help="write every network in every format (test_table_of_exports.py)"
    )


def pytest_collection_modifyitems(items):
    """Files with many slow tests at the beginning of both halves, so that no long one is left alone at the end.

    Two processes begin with a half each (`--dist worksteal`), and take from each other's end what is left.
    """
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    slow = {path: sum(item.get_closest_marker("slow") is not None for item in here) for path, here in files.items()}
    ordered = sorted(files, key=lambda path: -slow[path])
    items[:] = [item for path in ordered[0::2] + ordered[1::2] for item in files[path]]


@pytest.fixture(autouse=True)
def one_thread():
    """One torch thread in every test, whatever the tests before it set."""
    torch.set_num_threads(1)


def pytest_configure(config):
    """On torch's meta device no initial value is drawn, in the collection as well.

    There is none to draw there, and torch takes most of the time that a network takes to build to find the shape of nothing.
    """
    patched = pytest.MonkeyPatch()
    config.add_cleanup(patched.undo)
    for name in ("normal_", "uniform_"):
        patched.setattr(torch.Tensor, name, drawn_where_values_are(getattr(torch.Tensor, name)))


def drawn_where_values_are(draw):
    """`draw`, a method of tensors that fills them in place, but for tensors on the meta device, which stay as they are."""

    @functools.wraps(draw)
    def draw_or_leave(self, *args, **kwargs):
        return self if self.is_meta else draw(self, *args, **kwargs)

    return draw_or_leave


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of recipes, oracles and data beside the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the reference data in {SHARED}, which is not here")
    return SHARED


@pytest.fixture
def experiment_folder(tmp_path: Path) -> Path:
    """A copy of tests/helpers/tiny_experiment, which has settings and a loss of its own."""
    folder = tmp_path / "tiny_experiment"
    shutil.copytree(HELPERS / "tiny_experiment", folder, ignore=shutil.ignore_patterns("__pycache__", "runs"))
    return folder


@pytest.fixture
def config(experiment_folder: Path) -> DetectionConfig:
    """The settings of `experiment_folder`."""
    return load_experiment(experiment_folder).config


@pytest.fixture
def modes_are_put_back():
    """Training sets modes of the whole process, which the tests after this one must not see."""
    before = torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision()
    yield
    torch.use_deterministic_algorithms(before[0])
    torch.set_float32_matmul_precision(before[1])
    torch.set_flush_denormal(False)


@pytest.fixture
def figures(monkeypatch) -> list:
    """The figures of matplotlib that the test draws, in their order."""
    drawn = []

    class Recorder(figure_canvas.LetteringCanvas):
        def __init__(self, figure):
            super().__init__(figure)
            drawn.append(figure)

    monkeypatch.setattr(figure_canvas, "LetteringCanvas", Recorder)
    return drawn
