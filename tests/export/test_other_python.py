"""Formats of another environment: the pipe to its Python, what is said where it is missing or fails, and their files."""

import dataclasses
import io
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import public
from public.export import other_python
from public.export.formats import FORMATS
from public.export.graph import ExportGraph
from public.export.runners import other_side
from public.export.writing import Request, write
from public.families import PUBLISHED
from public.input import ClassificationInput, normalise, prepare_crop
from tests.export.conftest import NAMES, SPEC
from tests.export.test_files import needs
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


def test_deformable_convolutions_are_refused_before_anything_is_converted(tmp_path):
    settings = dataclasses.replace(PUBLISHED["centernet_r18_dcn_mmdet"], num_classes=len(NAMES))
    graph = ExportGraph(
        model=settings.build_model(), decoder=settings.build_decoder(), spec=SPEC, input_form="image", outputs="boxes",
        size=SPEC.size,
    )  # fmt: skip
    for kind, runtime in other_python.KINDS.items():
        with pytest.raises(
            ValueError, match=f"^{runtime} has no deformable convolution, .* the nearest is --format onnx$"
        ):
            other_python.write_elsewhere(kind, graph, tmp_path / "a.pte", batch=None, card="", precision="float32")


CROP = ClassificationInput(
    size=(32, 48), shorter_side=48, interpolation="linear", color_order="bgr", scale=1 / 255, mean=(0.4, 0.5, 0.6),
    std=(0.2, 0.3, 0.25),
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ["executorch", "litert"])
def test_the_files_give_what_the_weights_give(name, tmp_path):
    """Of a small classifier, normalising inside: a detector takes these converters minutes."""
    needs(name)
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(8, 3)).eval()
    nn.init.normal_(model[-1].weight, std=5)
    request = Request(format=name, outputs="raw", input_form=None, precision="float32", batch=None)
    path = tmp_path / f"tiny{FORMATS[name].suffix}"
    written = write(
        request,
        path,
        model=model,
        decoder=None,
        spec=CROP,
        class_names=("a", "b", "c"),
        pictures=pictures(3),
        source={},
    )
    assert not written.parity.failures
    assert written.parity.is_lively
    assert written.card.batch == 1
    assert any(name in package for package in written.card.source["packages"])
    with torch.no_grad():
        expected = model(normalise(torch.from_numpy(prepare_crop(pictures(1)[0], CROP)[0][None]), CROP))[0].softmax(0)
    found = public.load(path)(pictures(1)[0])
    assert found["names"] == [("a", "b", "c")[i] for i in expected.argsort(descending=True).tolist()]
    path.write_bytes(b"no file of this kind")
    with pytest.raises(ValueError, match="cannot be opened by"):
        public.load(path)
