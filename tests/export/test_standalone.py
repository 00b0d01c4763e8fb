"""The one file that a user copies: without torch it finds what the weights find."""

import dataclasses
import json
import sys

import numpy as np
import pytest
import torch

import public
from public.decoders.nms import multiclass_nms
from public.input import as_picture, prepare, prepare_crop
from tests.export.conftest import SPEC
from tests.export.test_files import needs
from tests.export.test_nms_graph import CASES, PLAIN, made
from tests.helpers.forked_commands import run_python
from tests.helpers.lively import pictures
from tests.helpers.places import REPOSITORY
from tests.helpers.tiny_data import write_picture

FILE = REPOSITORY / "public/export/runners/standalone.py"
WITHOUT_TORCH = """
import json, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "public"):
            raise ImportError(f"{name} is not here")
sys.modules = {name: module for name, module in sys.modules.items() if name.split(".")[0] not in ("torch", "public")}
sys.meta_path.insert(0, Refuse())
sys.argv = ["standalone.py", *sys.argv[1:]]
exec(compile(open(FILE).read(), FILE, "exec"), {"__name__": "__main__"})
"""


@pytest.fixture(scope="module")
def standalone():
    needs("onnx")
    from public.export.runners import standalone

    return standalone


def test_it_finds_what_we_find(standalone, write_tiny, tmp_path):
    """As a program of its own, where torch and this project cannot be imported."""
    path = write_tiny("onnx", "detections").path
    picture = tmp_path / "picture.png"
    write_picture(picture, pictures(1, 90, 70)[0])
    program = tmp_path / "without_torch.py"
    program.write_text(f"FILE = {str(FILE)!r}\n{WITHOUT_TORCH}")
    done = run_python([program, path, picture, "--score_threshold", "0.31", "--output", tmp_path / "found.png"])
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    expected = public.load(path)(picture, 0.31)
    assert [row[0] for row in rows] == expected["names"]
    assert len(rows) > 3
    np.testing.assert_allclose([[float(v) for v in row[2:]] for row in rows], expected["boxes"], rtol=0, atol=0.01)
    np.testing.assert_allclose([float(row[1]) for row in rows], expected["scores"], rtol=0, atol=1e-4)
    drawn, before = as_picture(tmp_path / "found.png"), as_picture(picture)
    assert drawn.shape == before.shape
    assert (drawn != before).any()


@pytest.mark.parametrize("resize", ["stretch", "letterbox", "letterbox_by_ratio"])
def test_pictures_are_prepared_alike(standalone, resize):
    spec = dataclasses.replace(SPEC, resize=resize)
    for height, width in ((48, 64), (90, 70), (64, 96), (33, 200), (200, 31)):
        (picture,) = pictures(1, height, width)
        ours, geometry = prepare(picture, spec)
        theirs, scale_x, scale_y = standalone.prepare(picture, dataclasses.asdict(spec))
        assert (ours == theirs).all()
        assert (geometry.scale_x, geometry.scale_y) == (scale_x, scale_y)


@pytest.mark.parametrize("interpolation", ["linear", "area"])
def test_pictures_are_cut_alike(standalone, interpolation):
    from public.input import ClassificationInput

    spec = ClassificationInput(
        size=(32, 40), shorter_side=44, interpolation=interpolation, color_order="rgb", scale=1.0, mean=(0.0,) * 3,
        std=(1.0,) * 3,
    )  # fmt: skip
    for height, width in ((48, 64), (90, 70), (33, 45), (10, 700), (700, 10)):
        picture = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
        assert (prepare_crop(picture, spec)[0] == standalone.crop(picture, dataclasses.asdict(spec))).all()


@pytest.mark.parametrize("name", CASES)
def test_suppression_is_ours(standalone, name):
    """In numpy, bit for bit, with ties and with other scores that make candidates."""
    limits = PLAIN | CASES[name]
    decoder = {
        "score_threshold": limits["score_threshold"],
        "nms_iou": limits["iou_threshold"],
        "keep_top_k": limits["keep_top_k"],
        "nms_top_k": limits["top_k_per_class"] or limits["top_k_per_level"],
        "candidates_of": "level" if limits["top_k_per_level"] else "class",
        "drops_empty": limits["drop_empty"],
        "is_clipped": False,
    }
    card = {"decoder": decoder, "level_lengths": limits["level_lengths"]}
    for seed in range(4):
        boxes, scores, other = made(seed, is_tied=seed > 1)
        for candidates in (None, other):
            chosen_by = scores if candidates is None else candidates
            expected = multiclass_nms(
                boxes[0], scores[0], candidate_scores=None if candidates is None else other[0], **limits
            )
            found = standalone.suppress(boxes[0].numpy(), scores[0].numpy(), chosen_by[0].numpy(), card, [0, 0, 9, 9])
            for ours, theirs in zip(found, ("boxes", "scores", "labels")):
                assert torch.equal(torch.from_numpy(ours), expected[theirs])


def test_it_says_what_it_cannot_use(standalone, write_tiny, tmp_path):
    import onnx

    model = onnx.load(write_tiny("onnx", "detections").path)
    card = json.loads(model.metadata_props[0].value)
    for change, message in (({"input_form": "normalised"}, "--input image"), ({"outputs": "raw"}, "--outputs boxes")):
        model.metadata_props[0].value = json.dumps(card | change)
        onnx.save(model, tmp_path / "other.onnx")
        with pytest.raises(ValueError, match=message):
            standalone.Runner(str(tmp_path / "other.onnx"))
    assert "torch" in sys.modules  # of the tests; the file itself is run without it above
