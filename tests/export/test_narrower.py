"""A network with widths of its own as a file."""

import pytest

from public.config import freeze
from public.export.writing import Request, write
from public.families.slimmed import Slimmed
from tests.export.conftest import NAMES, SPEC
from tests.helpers.lively import lively, pictures

pytest.importorskip("onnx", reason="needs onnx, which is not installed: make setup-export")


def test_the_file_gives_what_the_network_gives(tiny, tmp_path):
    widths = (
        ("backbone.stages.0.conv2.conv", 4),
        ("neck.fpn_stages.0.conv3.conv", 50),
        ("head.stem_reg.1.conv.conv", 30),
    )
    settings = Slimmed(network=tiny[0], criterion="magnitude", widths=widths)
    model = lively(settings, SPEC)
    written = write(
        Request(format="onnx", outputs="boxes", input_form=None, precision="float32", batch=None),
        tmp_path / "slim.onnx",
        model=model,
        decoder=settings.build_decoder(),
        spec=SPEC,
        class_names=NAMES,
        pictures=pictures(2),
        source={"weights": "slim.pth", "digest": "0" * 64, "detector": freeze(settings)},
    )
    assert model.state_dict()["head.stem_reg.1.conv.conv.weight"].shape[:2] == (30, 48)
    found = written.parity  # of every point; which of two detections survives may be up to the last bit
    assert found.is_lively
    assert found.boxes <= found.box_bound
    assert found.scores <= found.score_bound
