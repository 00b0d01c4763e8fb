"""Files: opened by their runtime they give what the weights give, say what they are, and are used as a checkpoint is."""

import gc
import json
import os
import signal
import sys

import numpy as np
import pytest
import torch

import public
from public.decoders.dense import clips_to_picture
from public.export import parity
from public.export.card import beside
from public.export.formats import FORMATS, files_of, find_format, is_exported, make_decoder, open_network
from public.export.writing import reject
from public.inference.detector import Detector
from tests.export.conftest import NAMES, SPEC
from tests.helpers.lively import pictures
from tests.helpers.processes import start_process

FILES = [("onnx", "detections"), ("openvino", "detections"), ("ncnn", "boxes"), ("torch", "raw")]


@pytest.fixture(params=FILES, ids=" ".join)
def written(request, write_tiny):
    name, outputs = request.param
    needs(name)
    return write_tiny(name, outputs)


def needs(name: str) -> None:
    if FORMATS[name].python is not None:
        try:
            FORMATS[name].python()
        except ValueError as error:
            pytest.skip(str(error))
    for package in FORMATS[name].packages:
        pytest.importorskip(package, reason=f"needs the package {package}, which is not installed")


def own_detector(tiny) -> Detector:
    settings, model = tiny
    return Detector(
        model=model, decoder=settings.build_decoder(), spec=SPEC, class_names=NAMES, device=torch.device("cpu")
    )


def assert_same(found, expected) -> None:
    assert found["labels"].tolist() == expected["labels"].tolist()
    np.testing.assert_allclose(found["scores"], expected["scores"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(found["boxes"], expected["boxes"], rtol=0, atol=0.05)


def test_a_file_is_a_detector(written, tiny):
    """As `public.load` opens it: the same boxes, of one picture and of several at once, in pixels of the picture."""
    assert not written.parity.failures
    assert written.parity.is_lively
    detector, own = public.load(written.path), own_detector(tiny)
    assert detector.class_names == NAMES
    assert detector.spec == SPEC
    assert clips_to_picture(detector.decoder) == clips_to_picture(own.decoder)
    images = pictures(5, 90, 70)
    for found, image in zip(detector.many(images, 0.31, batch_size=3), images):
        expected = own(image, 0.31)
        assert len(expected["scores"]) > 3
        assert_same(found, expected)
        assert found["names"] == expected["names"]


def test_the_card_stands_in_the_file_and_beside_it(written):
    path = written.path
    entries = json.loads(beside(path).read_text())
    assert entries["card"] == json.loads(written.card.text())
    assert entries["parity"]["failures"] == []
    assert {name: entry["bytes"] for name, entry in entries["files"].items()} == {
        file.name: file.stat().st_size for file in files_of(path)
    }
    assert entries["card"]["source"]["digest"] == "0" * 64
    assert open_network(path).card == written.card
    assert str(path.parent) not in path.read_bytes().decode("latin-1")  # no place of this machine
    assert "/site-packages" not in path.read_bytes().decode("latin-1")


def test_the_file_refuses_other_sizes(written):
    network = open_network(written.path)
    images = torch.zeros(1, 32, 96, 3, dtype=torch.uint8) if network.takes_pixels else torch.zeros(1, 3, 32, 96)
    with pytest.raises(ValueError, match=r"takes images of \(64, 96\) pixels .*, not \(32, 96\)"):
        network(images)


def test_the_same_export_gives_the_same_bytes(write_tiny):
    needs("onnx")
    first, again = (write_tiny("onnx", "detections", again=n).path for n in (False, True))
    assert first != again
    assert first.read_bytes() == again.read_bytes()


def test_the_same_openvino_file_again(write_tiny, tmp_path):
    needs("openvino")
    from public.export.openvino_file import convert

    first, again = write_tiny("openvino", "detections"), tmp_path / "again.xml"
    convert(write_tiny("onnx", "detections").path, again, card=first.card.text(), precision="float32")
    for ending in (".xml", ".bin"):
        assert first.path.with_suffix(ending).read_bytes() == again.with_suffix(ending).read_bytes()


# --------------------------------------------------------------------------------------- broken files


def broken(written, tmp_path, change):
    """A copy of an ONNX file that `change` was done to, compared with its weights."""
    import onnx

    model = onnx.load(written.path)
    change(model)
    path = tmp_path / "broken.onnx"
    onnx.save(model, path)
    return open_network(path)


def change_weight(model) -> None:
    import onnx

    tensor = next(value for value in model.graph.initializer if list(value.dims)[2:] == [3, 3])
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[0] *= 1.1
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


def change_nms_threshold(model) -> None:
    import onnx

    node = next(node for node in model.graph.node if node.op_type == "NonMaxSuppression")
    iou = next(value for value in model.graph.initializer if value.name == node.input[3])
    iou.CopyFrom(onnx.numpy_helper.from_array(np.array([0.8], np.float32), iou.name))


@pytest.mark.parametrize("change", [change_weight, change_nms_threshold])
def test_a_changed_file_is_found(write_tiny, tiny, tmp_path, change):
    needs("onnx")
    settings, model = tiny
    network = broken(write_tiny("onnx", "detections"), tmp_path, change)
    decoder = settings.build_decoder()
    found = parity.measure(
        network, make_decoder(network.card), model=model, decoder=decoder, spec=SPEC, pictures=pictures(4)
    )
    assert found.failures


def hear_a_signal_behind_two_files(path) -> None:
    """Two networks are closed in the order in which they were opened; then a signal comes."""
    heard = []
    signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    networks = [open_network(path) for _ in range(2)]
    while networks:
        del networks[0]
        gc.collect()
    os.kill(os.getpid(), signal.SIGTERM)
    os._exit(0 if heard == [signal.SIGTERM] else 1)


def test_a_signal_is_heard_when_files_have_been_closed(written):
    """A runtime may leave a stack for signals that is there no more; the next signal ends such a process at once."""
    process = start_process(hear_a_signal_behind_two_files, written.path)
    process.join(60)
    assert process.exitcode == 0


def test_a_file_of_others_has_no_card(write_tiny, tmp_path):
    needs("onnx")
    import onnx

    model = onnx.load(write_tiny("onnx", "detections").path)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(ValueError, match=r"other\.onnx has no card"):
        public.load(tmp_path / "other.onnx")


@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_file_is_named(name, tmp_path):
    needs(name)
    path = tmp_path / f"bad{FORMATS[name].suffix}"
    path.write_bytes(b"no file of this kind")
    with pytest.raises(ValueError, match=f"{path.name} cannot be opened"):
        public.load(path)
    with pytest.raises(FileNotFoundError, match="no exported file"):
        public.load(tmp_path / f"missing{FORMATS[name].suffix}")
    with pytest.raises(ValueError, match="--device cpu, not cuda"):
        public.load(path, "cuda")


def test_what_is_rejected_is_no_file_of_ours(tmp_path):
    for name in ("a.xml", "a.bin", "a.xml.json"):
        (tmp_path / name).write_text("")
    path = reject(tmp_path / "a.xml")
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "a.bin.rejected",
        "a.xml.json.rejected",
        "a.xml.rejected",
    ]
    assert not is_exported(path)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("onnx", "boxes"), "needs the package onnx, which is not installed: pip install onnx onnxscript"),
        (("openvino", "boxes"), "needs the package onnx, which is not installed: pip install onnx onnxscript"),
        (("ncnn", "boxes"), "pip install ncnn pnnx"),
        (("ncnn", "detections"), "the nearest is --outputs boxes"),
        (("ncnn", "boxes", "image"), "the nearest is --input normalised"),
        (("ncnn", "boxes", None, 4), "1 image a call, not --batch 4"),
        (("litert", "detections"), "the nearest is --outputs boxes"),
        (("litert", "boxes"), "make setup-litert, or let \\$ENCORE_LITERT_PYTHON name its Python"),
        (("executorch", "boxes"), "make setup-executorch, or let \\$ENCORE_EXECUTORCH_PYTHON name its Python"),
        (("executorch", "boxes", None, None, False, "fp16"), "no --precision fp16; the nearest is float32"),
        (("mnn", "boxes"), "telemetry"),
    ],
)
def test_what_is_missing_is_said_in_a_line(monkeypatch, asked, said):
    """Without the packages, as in an environment of the plain requirements."""
    for package in ("onnx", "onnxscript", "onnxruntime", "openvino", "ncnn", "pnnx"):
        monkeypatch.setitem(sys.modules, package, None)
    for kind in ("EXECUTORCH", "LITERT"):
        monkeypatch.setenv(f"ENCORE_{kind}_PYTHON", "/nowhere/python")
    with pytest.raises(ValueError, match=said) as error:
        find_format(*asked)
    assert "\n" not in str(error.value)


def test_unknown_formats():
    with pytest.raises(
        ValueError, match="there is no format 'tensorrt'; there are torch, onnx, openvino, ncnn, executorch"
    ):
        find_format("tensorrt", "boxes")
