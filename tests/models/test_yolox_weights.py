"""YOLOX's weights: what the converter does with Megvii's files, the list of known ones, and real weights on real pictures.

The real weights stand for the official file: see ../shared/weights/SOURCE.md.
"""

import dataclasses
import json

import numpy as np
import pytest
import torch

import public
from public.checkpoint_files import load_checkpoint
from public.datasets.coco import Coco
from public.decoders import create_decoder
from public.families import published
from public.models import create_model
from public.runs.experiment import load_experiment
from public.tasks import make_task
from public.weights import convert, known
from public.weights.class_names import COCO_CLASSES
from public.weights.detectors import released
from public.weights.detectors.yolox import layer_names
from tests.helpers.places import REPOSITORY, SHARED

OFFICIAL = SHARED / "oracles/yolox/yolox_nano/yolox_nano.pth"  # the official layout, values made up
REAL = SHARED / "weights/yolox_nano.pth"
EXPECTED = SHARED / "weights/expected.json"
needs_official = pytest.mark.skipif(not OFFICIAL.exists(), reason=f"needs {OFFICIAL}, which is not here")
needs_real = pytest.mark.skipif(not REAL.exists(), reason=f"needs {REAL}, which is not here")


def made(folder, *, source="yolox", file=OFFICIAL, model_name="yolox_nano", **options):
    """The converted checkpoint's path, and the report."""
    folder.mkdir(exist_ok=True)
    output = folder / "ours.pth"
    lines = convert.convert(source=source, model_name=model_name, file=file, output=output, **options)
    return output, lines


# ---------------------------------------------------------------------------------------------- the converter


@needs_official
def test_the_file_of_the_trainer_is_converted(tmp_path):
    """The average of the weights under "model", and the optimizer beside it; every array is used."""
    output, lines = made(tmp_path)
    assert "used: 642 arrays" in lines
    assert "added: 0 counters of BatchNorm (num_batches_tracked), as 0" in lines
    beside = {line.split(":")[0].strip() for line in lines if "beside the weights" in line}
    assert beside == {"start_epoch", "optimizer", "best_ap", "curr_ap"}
    checkpoint = load_checkpoint(output)
    assert tuple(checkpoint["class_names"]) == COCO_CLASSES
    create_model("yolox_nano", pretrained=output)
    card = json.loads(output.with_suffix(".json").read_text())
    assert card["licence"].startswith("Apache-2.0")
    assert card["made_from"]["url"].endswith("/0.1.1rc0/yolox_nano.pth")


@needs_official
@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("yolox", ("bgr", 1.0, [0.0, 0.0, 0.0], [1.0, 1.0, 1.0])),
        ("yolox_legacy", ("rgb", 1 / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])),
    ],
)
def test_the_source_decides_on_the_input(tmp_path, source, expected):
    """Nothing in the file tells the two releases apart."""
    output, _ = made(tmp_path, source=source)
    spec = load_checkpoint(output)["input"]
    assert tuple(spec[name] for name in ("color_order", "scale", "mean", "std")) == expected
    assert (spec["size"], spec["resize"], spec["padding"]) == ([416, 416], "letterbox_by_ratio", 114)
    url = json.loads(output.with_suffix(".json").read_text())["made_from"]["url"]
    assert (url is None) == (source == "yolox_legacy"), "the known file of this name is one of the present release"


@needs_official
def test_the_backbone_alone(tmp_path):
    """Without the neck, which Megvii's file counts among the backbone; it fits the detector and the classifier."""
    output, lines = made(tmp_path, backbone_only=True)
    state = load_checkpoint(output)["model"]
    detector = create_model("yolox_nano", num_classes=3)
    assert state.keys() == {name for name in detector.state_dict() if name.startswith("backbone.")}
    assert any(line == "  backbone.C3_p4.conv1.conv.weight: not of the backbone" for line in lines)
    backbone = create_model("csp_darknet_nano", features_only=True, pretrained=output)
    assert torch.equal(backbone.stem.conv.weight, state["backbone.stem.conv.weight"])


@pytest.mark.parametrize("name", ["yolox_s", "yolox_darknet53"])
def test_what_counts_as_neck_is_what_becomes_one(name):
    """By names alone: the layers of the file's backbone that are not of ours are those that `neck` begins."""
    neck = released(name, "yolox").neck
    for theirs, ours in layer_names(name).items():
        if theirs.startswith("backbone."):
            assert theirs.startswith(neck) == ours.startswith("neck."), theirs
        else:
            assert ours.startswith("head."), theirs


@needs_official
def test_another_number_of_classes(tmp_path):
    output, lines = made(tmp_path, num_classes=3)
    new, old = load_checkpoint(output)["model"], load_checkpoint(made(tmp_path / "whole")[0])["model"]
    changed = {name for name in old if old[name].shape != new[name].shape}
    assert changed == {f"head.class_preds.{level}.{kind}" for level in range(3) for kind in ("weight", "bias")}
    assert all(torch.equal(new[name], old[name]) for name in old.keys() - changed)
    assert sum("a class layer" in line for line in lines) == 6


@needs_official
def test_a_file_of_another_size_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"belongs to no YOLOX's yolox_s"):
        made(tmp_path, model_name="yolox_s")
    assert not (tmp_path / "ours.pth").exists()


# ---------------------------------------------------------------------------------------------- the known files


@pytest.mark.parametrize("item", known.YOLOX, ids=lambda item: item.short_name)
def test_each_known_file_is_listed_and_can_be_made(item):
    text = (REPOSITORY / "pretrained/README.md").read_text()
    height, width = released(item.model, item.project).input.size
    cells = (item.name, item.model, f"{height} x {width}", item.published, f"[{item.original}]({item.url})")
    assert f"| {' | '.join(cells)} |" in text.splitlines()
    assert item.url.endswith(f"/{item.original}")
    assert published(item.model).num_classes == item.num_classes
    arguments = convert.make_parser().parse_args(item.command.split()[3:])
    assert (arguments.source, arguments.model) == ("yolox", item.model)
    assert known.of_network(item.model) is item
    assert item.licence.startswith("Apache-2.0")


# ---------------------------------------------------------------------------------------------- real weights


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The converted real weights, and what the original's own code found with them."""
    if not (REAL.exists() and EXPECTED.exists()):
        pytest.skip(f"needs {REAL}, which is not here")
    output, _ = made(tmp_path_factory.mktemp("real"), file=REAL)
    return output, json.loads(EXPECTED.read_text())


@needs_real
def test_real_weights_give_the_raw_outputs_of_the_original(real):
    rows, columns, channels = np.mgrid[:416, :416, :3]
    image = ((columns * 3 + rows * 5 + channels * 40 + (columns * rows) // 7) % 256).astype(np.uint8)
    expected = np.load(SHARED / "weights/raw_yolox_nano.npz")["output"]
    model = create_model("yolox_nano", pretrained=real[0]).double().eval()
    with torch.no_grad():
        outputs = model(torch.from_numpy(image).permute(2, 0, 1)[None].double())
    boxes, scores = create_decoder("yolox_nano").decode(outputs)
    centres_and_sides = torch.cat([(boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]], dim=2)
    np.testing.assert_allclose(centres_and_sides, expected[..., :4], rtol=2e-6, atol=2e-3)
    np.testing.assert_allclose(scores, expected[..., 4:5] * expected[..., 5:], rtol=0, atol=2e-6)


@needs_real
def test_real_detections_are_those_of_the_original(real):
    """Boxes that reach beyond their picture, too."""
    detector = public.load(real[0], "cpu")
    for name, expected in real[1]["models"]["yolox_nano"]["detections"].items():
        found = detector(SHARED / "data/coco_val100/named" / name, 0.3)
        np.testing.assert_array_equal(found["labels"], expected["labels"], err_msg=name)
        np.testing.assert_allclose(found["scores"], expected["scores"], rtol=0, atol=1e-4, err_msg=name)
        np.testing.assert_allclose(found["boxes"], expected["boxes"], rtol=0, atol=0.01, err_msg=name)


@pytest.mark.slow
@needs_real
def test_real_weights_reach_the_ap_of_the_original(real):
    """All twelve numbers on 100 pictures of COCO, by the evaluation that test.sh runs."""
    page = load_experiment(REPOSITORY / "detection_experiments/yolox_nano_shapes").config
    data = Coco(
        annotations="annotations/instances_val2017.json", images="images/val2017", classes=None, keep_empty_images=True
    )
    config = dataclasses.replace(
        page,
        train_data=data,
        val_data=data,
        input=released("yolox_nano", "yolox").input,
        detector=published("yolox_nano"),
        evaluation_batch_size=10,
    )
    task = make_task(
        config,
        data_root=SHARED / "data/coco_val100",
        device=torch.device("cpu"),
        limit_images=None,
        class_names=COCO_CLASSES,
    )
    metrics = task.evaluate(create_model("yolox_nano", pretrained=real[0]).eval(), "val")
    for name, value in real[1]["models"]["yolox_nano"]["ap"]["first100"].items():
        assert abs(metrics[name] - value) < 1e-3, name
