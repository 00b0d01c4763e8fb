"""Files for inputs of any size: the points of their graphs follow the size; where they cannot, a line says so."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

import public
from public.export.formats import FORMATS, find_format
from public.export.graph import ExportGraph
from public.export.onnx_file import write_onnx
from public.export.writing import Request, write
from public.inference.detector import Detector
from tests.export.conftest import NAMES, SPEC
from tests.export.test_files import assert_same, needs
from tests.helpers.cells import Cells
from tests.helpers.lively import pictures

pytest.importorskip("onnxruntime", reason="needs onnxruntime, which is not installed: make setup-export")
from public.export.runners import standalone

OTHER = (96, 64)  # pixels; the tiny network's own size is 64 x 96


# what a whole network gives takes the exporters long, so the other outputs are those of a network of a layer a level
FILES = [("onnx", "boxes"), ("openvino", "boxes"), ("onnx", "detections"), ("openvino", "detections")]


@pytest.fixture(scope="module")
def cells(tiny):
    return Cells(tiny[0]).eval()


@pytest.fixture(scope="module")
def write_one(tiny, cells, write_tiny, tmp_path_factory):
    """A function that writes a file for any size, once: of boxes that of `cells`, of detections that of the tiny network."""
    settings, kept = tiny[0], {}

    def written(name: str, outputs: str):
        needs(name)
        if outputs == "detections":
            return write_tiny(name, outputs, any_size=True)
        if name not in kept:
            kept[name] = write(
                Request(format=name, outputs=outputs, input_form=None, precision="float32", batch=None, any_size=True),
                tmp_path_factory.mktemp("any_size") / f"cells{FORMATS[name].suffix}",
                model=cells,
                decoder=settings.build_decoder(),
                spec=SPEC,
                class_names=NAMES,
                pictures=pictures(4),
                source={},
            )
        return kept[name]

    return written


@pytest.fixture(params=FILES, ids=" ".join)
def written(request, write_one):
    return write_one(*request.param)


def test_three_sizes_are_compared(written):
    results = written.measured["parity_at"]
    assert list(results) == ["64 x 96", "64 x 64", "128 x 64"]
    for entries in results.values():
        assert entries["failures"] == []
        assert entries["matched"] > 20
    assert written.parity.entries() in results.values()


def test_it_is_a_detector_at_another_size(written, tiny, cells):
    """The same boxes as of the weights, of a batch as well."""
    settings, model = tiny[0], tiny[1] if written.card.outputs == "detections" else cells
    spec = dataclasses.replace(SPEC, size=OTHER)
    parts = {"decoder": settings.build_decoder(), "spec": spec, "class_names": NAMES, "device": torch.device("cpu")}
    own, file = Detector(model=model, **parts), public.load(written.path)
    assert (file.model.card.size, file.model.card.multiple) == (None, 32)
    file.spec = spec
    for found, image in zip(file.many(pictures(3), 0.31, batch_size=3), pictures(3)):
        assert len(found["scores"]) > 3
        assert_same(found, own(image, 0.31))


def test_sides_that_are_no_multiples_are_refused(written):
    file = public.load(written.path)
    with pytest.raises(ValueError, match=r"sides are multiples of 32 pixels, not \(64, 70\)"):
        file.model(torch.zeros(1, 64, 70, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"multiples of 32 from 64 pixels, not \(64, 100\)"):
        ExportGraph(
            model=torch.nn.Identity(), decoder=None, spec=SPEC, input_form="image", outputs="raw", size=(64, 100),
            any_size=True,
        )  # fmt: skip


@pytest.mark.parametrize("outputs", ["boxes", "detections"])
def test_standalone_takes_it(outputs, write_one):
    path = write_one("onnx", outputs).path
    (image,) = pictures(1)
    found, expected = standalone.Runner(str(path))(image, 0.31), public.load(path)(image, 0.31)
    np.testing.assert_allclose(found["boxes"], expected["boxes"], atol=0.01)
    assert found["names"] == expected["names"]


@pytest.mark.parametrize("name", ["torch", "ncnn"])
def test_formats_of_one_size_say_so(name):
    with pytest.raises(ValueError, match=f"--format {name} --dynamic_size: .*; the nearest is --format onnx") as error:
        find_format(name, "boxes", None, None, True)
    assert "\n" not in str(error.value)


class Fixed(nn.Module):
    """A classifier that knows its pictures' size."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, *SPEC.size))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images * self.weight).sum((2, 3))


def test_a_network_of_one_size_says_so(tmp_path):
    needs("onnx")
    graph = ExportGraph(
        model=Fixed(), decoder=None, spec=SPEC, input_form="image", outputs="raw", size=SPEC.size, any_size=True
    ).eval()
    with pytest.raises(ValueError, match=r"Fixed cannot be exported to ONNX for inputs of any size.*; the nearest is"):
        write_onnx(graph, tmp_path / "fixed.onnx", batch=1, card="", precision="float32")
