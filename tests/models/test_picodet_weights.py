"""PicoDet's files: PaddleDetection's, real ones too, converted; every size by names, shapes and published counts."""

import json
import re

import numpy as np
import pytest
import torch

import public
from public.checkpoint_files import load_checkpoint
from public.decoders import create_decoder
from public.families import PUBLISHED, published
from public.models import create_model
from public.models.detectors.picodet import PicoDetOutputs
from public.models.operations import count_operations, example_input
from public.weights.convert import convert
from public.weights.detectors import released
from public.weights.detectors.picodet import copies_and_dead, rename_picodet
from public.weights.pdparams import read_pdparams
from tests.helpers.forked_commands import run_python
from tests.helpers.paddle_files import write_pdparams
from tests.helpers.places import REPOSITORY

# recipes, section 6: millions of parameters; billions of operations at 416 pixels
COUNTS = {"xs": (0.70, 1.13), "s": (1.18, 1.65), "m": (3.46, 4.34), "l": (5.80, 7.10)}
MEASURED = {"xs": 704_258, "s": 1_186_496}  # as counted in the original, with four scales that nothing reads


def on_meta(name: str, **changes) -> torch.nn.Module:
    with torch.device("meta"):
        return create_model(name, **changes)


@pytest.mark.parametrize("size", ["xs", "s", *(pytest.param(size, marks=pytest.mark.slow) for size in ("m", "l"))])
def test_published_counts(size):
    """Parameters and operations as published."""
    model = on_meta(f"picodet_{size}")
    total = sum(parameter.numel() for parameter in model.parameters())
    assert total == MEASURED.get(size, total + 4) - 4
    assert total / 1e6 == pytest.approx(COUNTS[size][0], abs=0.01)
    macs = count_operations(model.eval(), example_input(416, 416)).macs
    assert 2 * macs / 1e9 == pytest.approx(COUNTS[size][1], rel=0.08)


# ---------------------------------------------------------------------------------------------- names and shapes


def conv_bn(name: str, inside: int, outside: int, kernel: int, norm: str = "bn") -> list:
    parts = [[f"{name}.{norm}.{part}", [outside]] for part in ("weight", "bias", "_mean", "_variance")]
    return [[f"{name}.conv.weight", [outside, inside, kernel, kernel]], *parts]


def separable_module(name: str, channels: int) -> list:
    """Their DPModule, whose two convolutions lie side by side."""
    entries = []
    for kind, norm, shape in (("dw", "bn1", [channels, 1, 5, 5]), ("pw", "bn2", [channels, channels, 1, 1])):
        entries += [[f"{name}.{kind}conv.weight", shape]]
        entries += [[f"{name}.{norm}.{part}", [channels]] for part in ("weight", "bias", "_mean", "_variance")]
    return entries


def csp_entries(name: str, channels: int) -> list:
    half = channels // 2
    entries = conv_bn(f"{name}.main_conv", 2 * channels, half, 1) + conv_bn(f"{name}.short_conv", 2 * channels, half, 1)
    entries += conv_bn(f"{name}.blocks.0.conv1", half, half, 1) + separable_module(f"{name}.blocks.0.conv2", half)
    return entries + conv_bn(f"{name}.final_conv", channels, channels, 1)


def lc_entries(name: str, channels: int) -> list:
    entries = []
    for i, outside in enumerate((2 * channels, channels)):
        entries += conv_bn(f"{name}.{i}.dw_conv", 1, 2 * channels, 5)
        entries += conv_bn(f"{name}.{i}.pw_conv", 2 * channels, outside, 1)
    return entries


def neck_entries(inside: list[int], channels: int, kind: str) -> list:
    entries = []
    for i, width in enumerate(inside):
        entries += conv_bn(f"neck.conv_t.convs.{i}", width, channels, 1)
    for part in ("first_top_conv", "second_top_conv", "downsamples.0", "downsamples.1"):
        entries += separable_module(f"neck.{part}", channels)
    mixer = csp_entries if kind == "csp_pan" else lc_entries
    for part in ("top_down_blocks", "bottom_up_blocks"):
        entries += mixer(f"neck.{part}.0", channels) + mixer(f"neck.{part}.1", channels)
    return entries


def head_entries(channels: int, num_convs: int, num_classes: int) -> list:
    entries = [["head.distribution_project.project", [8]]]
    for level in range(4):
        entries += [[f"head.p{level + 3}_feat.scale_reg", [1]]]
        entries += [[f"head.conv_feat.se.{level}.fc.weight", [channels, channels, 1, 1]]]
        entries += [[f"head.conv_feat.se.{level}.fc.bias", [channels]]]
        entries += conv_bn(f"head.conv_feat.se.{level}.conv", channels, channels, 1, "norm")
        for i in range(num_convs):
            entries += conv_bn(f"head.conv_feat.cls_conv_dw{level}.{i}", 1, channels, 5, "norm")
            entries += conv_bn(f"head.conv_feat.cls_conv_pw{level}.{i}", channels, channels, 1, "norm")
        for branch, count in (("cls", num_classes), ("reg", 32)):
            for name in (f"head.head_{branch}_list.{level}", f"head.head_{branch}{level}"):
                entries += [[f"{name}.weight", [count, channels, 1, 1]], [f"{name}.bias", [count]]]
        for kind, norm, inside, kernel in (("dw", "bn1", channels, 5), ("pw", "bn2", 1, 1)):
            entries += [[f"head.cls_align.{level}.{kind}conv.weight", [1, inside, kernel, kernel]]]
            parts = ("weight", "bias", "_mean", "_variance")
            entries += [[f"head.cls_align.{level}.{norm}.{part}", [1]] for part in parts]
    return entries


def paddle_entries(name: str, num_classes: int) -> list:
    """Names and shapes of neck and head in the file of the published network `name`, from the recipe's numbers."""
    settings = published(name)
    model = on_meta(name)
    return neck_entries(list(model.backbone.out_channels), settings.channels, settings.neck) + head_entries(
        settings.channels, settings.head_convs, num_classes
    )


@pytest.mark.parametrize("folder", ["picodet_s", "picodet_xs"])
def test_the_list_is_that_of_the_oracle(shared, folder):
    entries = json.loads((shared / "oracles/paddle" / folder / "state.json").read_text())["entries"]
    theirs = [[e["name"], e["shape"]] for e in entries if not e["name"].startswith("backbone.")]
    assert sorted(theirs) == sorted(paddle_entries(folder, 80))


ALIGNED = sorted(name for name, settings in PUBLISHED.items() if type(settings).__name__ == "PicoDet")


@pytest.mark.parametrize("name", [name for name in ALIGNED if re.fullmatch("picodet_(xs|s|m|l)|.*(npu|192).*", name)])
def test_every_array_has_its_place(name):
    """The renamed arrays are exactly the tensors of our neck and head, with their shapes."""
    model = on_meta(name, num_classes=7)
    arrays = {entry: np.broadcast_to(np.float32(0), shape) for entry, shape in paddle_entries(name, 7)}
    left_out = copies_and_dead(arrays)
    arrays = {entry: array for entry, array in arrays.items() if entry not in left_out}
    renamed = {key: tuple(value.shape) for key, value in rename_picodet(arrays, network="lcnet_075").items()}
    own = {key: tuple(v.shape) for key, v in model.state_dict().items() if not key.startswith("backbone.")}
    assert renamed == own
    changed = {key for key in renamed if key.startswith(model.class_layers)}
    assert changed == {key for key, shape in renamed.items() if shape and shape[0] == 7}


def test_sizes_differ_by_name_in_their_input_only():
    for name in [name for name in PUBLISHED if name.startswith("picodet")]:
        side = re.search(r"_(\d+)", name)
        height, width = released(name, "paddle").input.size
        assert height == width == int(side[1] if side else 416)
    assert published("picodet_s_320") == published("picodet_s_416") == published("picodet_s")


@pytest.mark.parametrize(("size", "millions"), [("s", 0.99), ("m", 2.15), ("l", 3.30)])
def test_published_counts_of_2021(size, millions):
    total = sum(parameter.numel() for parameter in on_meta(f"picodet_{size}_esnet").parameters())
    assert total / 1e6 == pytest.approx(millions, abs=0.006)


def test_one_convolution_of_2021_becomes_two():
    """Its first filters are the classes', the other 32 those of the distances; every array of neck and head has its place."""
    settings = published("picodet_s_esnet")
    model = on_meta("picodet_s_esnet", num_classes=7)
    entries = neck_entries(list(model.backbone.out_channels), 96, "csp_pan") + [
        ["head.distribution_project.project", [8]]
    ]
    for level in range(4):
        entries += [[f"head.p{level + 3}_feat.scale_reg", [1]]]
        for i in range(settings.head_convs):
            entries += conv_bn(f"head.conv_feat.cls_conv_dw{level}.{i}", 1, 96, 5, "norm")
            entries += conv_bn(f"head.conv_feat.cls_conv_pw{level}.{i}", 96, 96, 1, "norm")
        entries += [[f"head.head_cls{level}.weight", [39, 96, 1, 1]], [f"head.head_cls{level}.bias", [39]]]
    arrays = {entry: np.broadcast_to(np.float32(0), shape) for entry, shape in entries}
    arrays["head.head_cls2.bias"] = np.arange(39, dtype=np.float32)
    left_out = copies_and_dead(arrays)
    arrays = {entry: array for entry, array in arrays.items() if entry not in left_out}
    found = released("picodet_s_esnet", "paddle").rename(arrays)
    own = {key: tuple(v.shape) for key, v in model.state_dict().items() if not key.startswith("backbone.")}
    assert {key: tuple(value.shape) for key, value in found.items()} == own
    assert found["head.pred_cls.2.bias"].tolist() == list(range(7))
    assert found["head.pred_reg.2.bias"].tolist() == list(range(7, 39))


# ---------------------------------------------------------------------------------------------- conversion


@pytest.fixture(scope="module")
def arrays(shared) -> dict[str, np.ndarray]:
    """Those of a file that Paddle wrote."""
    return read_pdparams(shared / "oracles/paddle/picodet_xs/model.pdparams").arrays


def converted(tmp_path, arrays: dict, *, model_name: str = "picodet_xs", name: str = "x.pdparams", **options):
    file = write_pdparams(tmp_path / name, arrays)
    lines = convert(source="paddle", model_name=model_name, file=file, output=tmp_path / "out.pth", **options)
    return load_checkpoint(tmp_path / "out.pth"), lines


def test_a_file_that_paddle_wrote(tmp_path, shared, arrays):
    """Every key used once, or named with its reason."""
    file = shared / "oracles/paddle/picodet_xs/model.pdparams"
    lines = convert(source="paddle", model_name="picodet_xs_320", file=file, output=tmp_path / "out.pth")
    checkpoint = load_checkpoint(tmp_path / "out.pth")
    assert "used: 443 arrays" in lines
    assert len([line for line in lines if ": the same as head.head_" in line]) == 16
    assert len([line for line in lines if line.endswith("never used by the original, and not trained")]) == 4
    assert len(arrays) == 443 + 16 + 4
    assert checkpoint["input"]["size"] == [320, 320]
    create_model("picodet_xs", num_classes=80).load_state_dict(checkpoint["model"], strict=True)


def test_copies_that_differ_are_refused(tmp_path, arrays):
    other = arrays["head.head_cls2.bias"] + 1
    with pytest.raises(
        ValueError, match=r"x\.pdparams: 'head\.head_cls_list\.2\.bias' and 'head\.head_cls2\.bias' are one"
    ):
        converted(tmp_path, arrays | {"head.head_cls2.bias": other})
    assert not (tmp_path / "out.pth").exists()


def test_a_file_with_one_name_for_each_prediction(tmp_path, arrays):
    first, _ = converted(tmp_path, arrays)
    for left_out in (r"head_(cls|reg)\d", r"head_(cls|reg)_list"):
        fewer = {name: array for name, array in arrays.items() if not re.match(rf"head\.{left_out}", name)}
        again, _ = converted(tmp_path, fewer)
        assert all(torch.equal(value, again["model"][name]) for name, value in first["model"].items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"head.conv_feat.cls_conv_dw0.0.conv.weight": None},
            r"lacks \['head\.towers\.0\.0\.depthwise\.conv\.weight'\]",
        ),
        ({"neck.conv_t.convs.3.conv.weight": np.zeros((96, 8, 1, 1), np.float32)}, "no place for"),
        ({"head.gfl_cls.weight": np.zeros(3, np.float32)}, "'head.gfl_cls.weight' belongs to no PicoDet"),
        ({"backbone.extra.weight": np.zeros(3, np.float32)}, "'backbone.extra.weight' belongs to no"),
        ({"head.distribution_project.project": np.zeros(17, np.float32)}, r"shape \(17,\)"),
    ],
)
def test_one_array_less_or_more_or_other_is_an_error(tmp_path, arrays, change, message):
    changed = {name: array for name, array in (arrays | change).items() if array is not None}
    with pytest.raises(ValueError, match=message):
        converted(tmp_path, changed)


def test_other_classes_and_the_backbone_alone(tmp_path, arrays):
    checkpoint, _ = converted(tmp_path, arrays, num_classes=3)
    assert checkpoint["model"]["head.pred_cls.1.weight"].shape == (3, 96, 1, 1)
    assert checkpoint["model"]["head.pred_reg.1.weight"].shape == (32, 96, 1, 1)
    whole, _ = converted(tmp_path, arrays, backbone_only=True)
    assert all(name.startswith("backbone.") for name in whole["model"])
    bare = {name.removeprefix("backbone."): array for name, array in arrays.items() if name.startswith("backbone.")}
    bare |= {"last_conv.weight": np.zeros((1280, 176, 1, 1), np.float32), "fc.bias": np.zeros(1000, np.float32)}
    alone, lines = converted(tmp_path, bare, backbone_only=True)
    assert all(torch.equal(value, alone["model"][name]) for name, value in whole["model"].items())
    assert "  fc.bias: not of the backbone" in lines


@pytest.mark.parametrize("side", [320, 416])
def test_the_name_of_a_known_file_tells_its_input(tmp_path, arrays, side):
    """One network may be released for several sizes; another name leaves the size of the network's name."""
    checkpoint, lines = converted(tmp_path, arrays, name=f"picodet_xs_{side}_coco_lcnet.pdparams")
    assert checkpoint["input"]["size"] == [side, side]
    assert any(f"{side} x {side}" in line for line in lines)
    checkpoint, _ = converted(tmp_path, arrays, model_name=f"picodet_xs_{side}")
    assert checkpoint["input"]["size"] == [side, side]


# ---------------------------------------------------------------------------------------------- bins


def test_scores_and_boxes_follow_the_bins_of_the_outputs():
    """Written out for one point: the geometric mean of two probabilities; a distribution's mean over its own bins."""
    logits = torch.tensor([0.0, 1.0, 2.0, 1.0, 0.0, -1.0, -2.0, 0.5], dtype=torch.float64)
    bins = torch.tensor([0.0, 1.0, 2.0, 3.5, 4.0, 5.0, 6.0, 7.25], dtype=torch.float64)
    outputs = PicoDetOutputs(
        class_logits=torch.tensor([[[0.3, -2.0]]], dtype=torch.float64),
        align_logits=torch.tensor([[[1.2]]], dtype=torch.float64),
        box_logits=logits.repeat(4)[None, None],
        bins=bins,
        level_sizes=((1, 1), (0, 0), (0, 0), (0, 0)),
    )
    boxes, scores = create_decoder("picodet_s").decode(outputs)
    distance = 8 * (logits.softmax(0) @ bins).item()
    assert boxes[0, 0].tolist() == pytest.approx([4 - distance, 4 - distance, 4 + distance, 4 + distance])
    alignment = 1 / (1 + np.exp(-1.2))
    expected = [np.sqrt(alignment / (1 + np.exp(-logit)) + 1e-9) for logit in (0.3, -2.0)]
    assert scores[0, 0].tolist() == pytest.approx(expected)
    assert scores.max() <= 1


# ---------------------------------------------------------------------------------------------- real weights


@pytest.fixture(scope="module")
def real(shared, tmp_path_factory):
    """(the converted file of PicoDet-S 416, the lines of the report)."""
    output = tmp_path_factory.mktemp("real") / "picodet_s_416_coco.pth"
    file = shared / "weights/picodet_s_416_coco_lcnet.pdparams"
    return output, convert(source="paddle", model_name="picodet_s_416", file=file, output=output)


def test_real_weights_keep_their_bins_and_raw_outputs(shared, real):
    """Outputs before NMS on the made picture of ../shared/weights/SOURCE.md, computed by the original."""
    output, lines = real
    assert "used: 443 arrays" in lines
    bins = load_checkpoint(output)["model"]["head.bins"]
    assert bins.tolist() != list(range(8))
    assert bins.tolist() == pytest.approx(range(8), abs=1e-3)
    y, x, c = np.mgrid[:416, :416, :3]
    image = ((x * 3 + y * 5 + c * 40 + (x * y) // 7) % 256).astype(np.uint8)
    images = (torch.from_numpy(image).double() / 255 - torch.tensor([0.485, 0.456, 0.406]).double()) / torch.tensor(
        [0.229, 0.224, 0.225], dtype=torch.float64
    )
    model = create_model("picodet_s_416", num_classes=80, pretrained=output).double().eval()
    with torch.no_grad():
        boxes, scores = create_decoder("picodet_s_416").decode(model(images.permute(2, 0, 1)[None]))
    expected = np.load(shared / "weights/raw_picodet_s_416_coco_lcnet.npz")
    np.testing.assert_allclose(boxes.numpy(), expected["boxes"], rtol=0, atol=3e-3)
    np.testing.assert_allclose(scores.numpy(), expected["scores"].transpose(0, 2, 1), rtol=0, atol=2e-5)


@pytest.mark.slow
def test_real_weights_find_what_the_original_finds(shared, real):
    """The detections over 0.3 in eight photographs: within 1 pixel and 0.005 in score, and no others."""
    expected = json.loads((shared / "weights/expected.json").read_text())["models"]["picodet_s_416_coco_lcnet"]
    detector = public.load(real[0])
    for name, theirs in expected["detections"].items():
        found = detector(shared / "data/coco_val100/named" / name, score_threshold=0.3)
        assert found["labels"].tolist() == theirs["labels"], name
        np.testing.assert_allclose(found["scores"], theirs["scores"], rtol=0, atol=0.005, err_msg=name)
        np.testing.assert_allclose(found["boxes"], theirs["boxes"], rtol=0, atol=1.0, err_msg=name)


@pytest.mark.slow
def test_real_weights_reach_the_original_s_ap(shared, real, tmp_path):
    """`./test.sh` of the COCO page on 100 photographs: each AP within a tenth of a point, each AR within two.

    The original evaluated boxes that reach beyond their image as they are; here they end at its border, by which one object
    more is found, barely, at one threshold.
    """
    data = tmp_path / "coco"
    data.mkdir()
    (data / "annotations").symlink_to(shared / "data/coco_val100/annotations")
    (data / "val2017").symlink_to(shared / "data/coco_val100/images/val2017")
    expected = json.loads((shared / "weights/expected.json").read_text())["models"]["picodet_s_416_coco_lcnet"]["ap"]
    page = REPOSITORY / "detection_experiments/picodet_s_416_coco"
    words = [str(page), str(real[0]), "--data_root", str(tmp_path), "--device", "cpu", "--no_report"]
    done = run_python(["-m", "public.test_scripts.evaluate", *words, "--output", tmp_path / "found.json"])
    numbers = [float(number) for number in re.findall(r"maxDets= *\d+ \] = ([\d.]+)$", done.stdout, re.MULTILINE)]
    theirs = list(expected["first100"].values())
    assert numbers[:6] == pytest.approx(theirs[:6], abs=0.001)
    assert numbers[6:] == pytest.approx(theirs[6:], abs=0.002)
