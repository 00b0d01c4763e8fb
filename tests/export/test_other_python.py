"""Formats of another environment: the pipe to its Python, what is said where it is missing or fails, and their files."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest

import public
from public.export import other_python
from public.export.runners import other_side
from tests.export.test_files import assert_same, needs, own_detector
from tests.helpers.lively import pictures

ARRAYS = [np.arange(6, dtype=np.uint8).reshape(1, 2, 3), np.zeros((0, 4), np.float32), np.float32([[np.nan, -0.0]])]
DOUBLING = """
import sys
sys.path.insert(0, {folder!r})
import other_side
other_side.open_executorch = lambda path, threads: (lambda inputs: print("hello") or [2 * value for value in inputs])
other_side.main()
"""


@pytest.fixture
def here(monkeypatch):
    """This Python as the one of ExecuTorch."""
    monkeypatch.setenv("ENCORE_EXECUTORCH_PYTHON", sys.executable)


def test_arrays_come_through_as_they_are():
    stream = io.BytesIO()
    other_side.send(stream, ARRAYS)
    other_side.send(stream, [])
    stream.seek(0)
    for found, sent in zip(other_side.receive(stream), ARRAYS, strict=True):
        assert found.dtype == sent.dtype
        np.testing.assert_array_equal(found, sent)
    assert other_side.receive(stream) == []
    assert other_side.receive(stream) is None


def test_a_session_answers_until_it_is_let_go(here, monkeypatch, tmp_path):
    """By a runtime that doubles what it is given; what packages print does not disturb it."""
    script = tmp_path / "doubling.py"
    script.write_text(DOUBLING.format(folder=str(Path(other_side.__file__).parent)))
    monkeypatch.setattr(other_side, "__file__", str(script))
    children, popen = [], other_python.subprocess.Popen

    def started(*words, **options):
        children.append(popen(*words, **options))
        return children[-1]

    monkeypatch.setattr(other_python.subprocess, "Popen", started)
    run, card = other_python.open_elsewhere("executorch", tmp_path / "network.pte")
    assert card is None
    for number in (1, 2):
        (found,) = run([np.full((1, 3), number, np.float32)])
        assert found.tolist() == [[2 * number] * 3]
    del run
    assert children[0].poll() == 0


def test_what_fails_is_said_in_a_line(here, tmp_path):
    """Without the packages, as in an environment that was not set up whole."""
    path = tmp_path / "bad.pte"
    path.write_bytes(b"no file of this kind")
    with pytest.raises(ValueError, match=r"bad\.pte cannot be opened by ExecuTorch: ModuleNotFoundError.*executorch"):
        public.load(path)
    with pytest.raises(ValueError, match=r"ExecuTorch cannot do it: .*PackageNotFoundError.*executorch"):
        other_python.versions_of("executorch")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["executorch", "litert"])
def test_the_files_give_what_the_weights_give(name, write_tiny, tiny):
    needs(name)
    written = write_tiny(name, "boxes")
    assert not written.parity.failures
    assert written.parity.is_lively
    assert name in " ".join(written.card.source["packages"])
    detector, own = public.load(written.path), own_detector(tiny)
    for image in pictures(2, 90, 70):
        found, expected = detector(image, 0.31), own(image, 0.31)
        assert len(expected["scores"]) > 3
        assert_same(found, expected)
    bad = written.path.with_name(f"bad{written.path.suffix}")
    bad.write_bytes(b"no file of this kind")
    with pytest.raises(ValueError, match="cannot be opened by"):
        public.load(bad)
