"""What tests of exported files share: a small lively network, and the file it was written to."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch

from public.config import freeze
from public.export import openvino_file
from public.export.formats import FORMATS
from public.export.writing import Request, write
from public.input import InputSpec
from tests.helpers.lively import lively, pictures
from tests.helpers.tiny_detector import tiny_settings

SPEC = InputSpec(
    size=(64, 96),
    resize="letterbox",
    interpolation="linear",
    padding=114,
    color_order="bgr",
    scale=1 / 255,
    mean=(0.4, 0.5, 0.6),
    std=(0.2, 0.3, 0.25),
)
NAMES = ("circle", "square", "triangle")


@pytest.fixture(scope="session")
def tiny():
    """(settings, network) of a very small PPYOLOE."""
    torch.set_num_threads(1)
    settings = dataclasses.replace(  # with few layers, since the exporters take their time for each
        tiny_settings(keep_top_k=20, nms_iou=0.5), score_threshold=0.3, backbone_blocks=(1, 1, 1, 1), neck_blocks=1
    )
    return settings, lively(settings, SPEC)


@pytest.fixture(scope="session")
def write_tiny(tiny, tmp_path_factory):
    """A function that writes the tiny network as a file, and keeps it for who asks again."""
    settings, model = tiny
    kept: dict = {}
    patch = pytest.MonkeyPatch()

    def write_once(format: str, outputs: str, again: bool = False, **changes):
        request = Request(format=format, outputs=outputs, input_form=None, precision="float32", batch=None)
        request = dataclasses.replace(request, **changes)
        if (request, again) not in kept:
            folder: Path = tmp_path_factory.mktemp("exported")
            if format == "openvino":  # of the ONNX file that is there, since the exporter takes its time
                source = write_once("onnx", outputs, **changes).path
                patch.setattr(openvino_file, "write_onnx", lambda graph, path, **_: shutil.copyfile(source, path))
            kept[request, again] = write(
                request,
                folder / f"tiny{FORMATS[format].suffix}",
                model=model,
                decoder=settings.build_decoder(),
                spec=SPEC,
                class_names=NAMES,
                pictures=pictures(4),
                source={"weights": "tiny.pth", "digest": "0" * 64, "detector": freeze(settings)},
            )
        return kept[request, again]

    yield write_once
    patch.undo()


@pytest.fixture(scope="module")
def modes():
    """What an evaluation sets for the process, as before afterwards."""
    before = torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision()
    yield
    torch.use_deterministic_algorithms(before[0])
    torch.set_float32_matmul_precision(before[1])
    torch.set_flush_denormal(False)
