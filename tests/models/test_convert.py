"""Converting weights: every array used once or named, outputs as the oracle's, and the list of known files."""

import hashlib
import itertools
import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import public
from public import random_streams
from public.checkpoint_files import digest, load_checkpoint
from public.families import PUBLISHED
from public.files import REPOSITORY
from public.models import create_model, list_models
from public.runs.experiment import load_experiment
from public.weights import convert, known
from public.weights.class_names import COCO_CLASSES, class_names
from public.weights.detectors import RELEASED, released
from public.weights.known import KNOWN
from tests.figures.fill_rule import fill, oracle_input
from tests.figures.make_figures import load_figures
from tests.helpers.forked_commands import run_python
from tests.helpers.numerics import in_float64
from tests.helpers.paddle_files import TABLE, paddle_arrays, paddle_name, write_pdparams

ORACLES = {
    "ppyoloe_s": "ppyoloe_crn_s",
    "ppyoloe_plus_s": "ppyoloe_plus_crn_s",
    "ppyoloe_plus_t": "ppyoloe_plus_crn_t_auxhead",
}


@pytest.fixture(autouse=True)
def small_plus(monkeypatch):
    """A PPYOLOE+ of the size of ppyoloe_xs, as if it had been published."""
    monkeypatch.setitem(PUBLISHED, "ppyoloe_plus_xs", replace(PUBLISHED["ppyoloe_xs"], use_alpha=True))
    monkeypatch.setitem(RELEASED, "ppyoloe_plus_xs", RELEASED["ppyoloe_plus_s"])


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    """Those of a ppyoloe_xs with 4 classes."""
    return paddle_arrays("ppyoloe_xs", 4)


def converted(tmp_path: Path, arrays: dict, *options: str, model="ppyoloe_xs", name="x.pdparams", protocol=4):
    """(the checkpoint, the report) of `arrays`, by the parser of the command."""
    file, output = write_pdparams(tmp_path / name, arrays, protocol), tmp_path / "out.pth"
    words = ["paddle", model, str(file), "-o", str(output), *options]
    parsed = convert.make_parser().parse_args(words)
    lines = convert.convert(
        source=parsed.source,
        model_name=parsed.model,
        file=parsed.file,
        output=parsed.output,
        num_classes=parsed.num_classes,
        names_file=parsed.class_names,
        backbone_only=parsed.backbone_only,
    )
    return load_checkpoint(output), lines


def refused(tmp_path: Path, arrays: dict, *options: str, match: str, **named) -> str:
    """The one line with which a conversion ends that writes nothing."""
    with pytest.raises(ValueError, match=match) as caught:
        converted(tmp_path, arrays, *options, **named)
    assert not (tmp_path / "out.pth").exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------------------------------------- against the oracle


def oracle_arrays(figures: dict) -> dict[str, np.ndarray]:
    """The arrays of the original's checkpoint whose outputs `forward_gain` holds."""
    arrays = {}
    for name, shape in figures["entries"]:
        if name in figures["fixed"]:
            arrays[name] = np.array(figures["fixed"][name], dtype=np.float32).reshape(shape)
        else:
            is_gain = len(shape) == 1 and name.endswith(".weight")
            arrays[name] = np.asarray(fill(name, tuple(shape)) * np.float32(figures["gain"] if is_gain else 1))
    return arrays


@pytest.mark.parametrize(("model", "protocol"), [("ppyoloe_s", 2), ("ppyoloe_plus_s", 4), ("ppyoloe_plus_t", 4)])
def test_converted_weights_give_the_outputs_of_the_original(tmp_path, model, protocol):
    """From a file as Paddle writes it, by the command and `public.load`, to the reference's scores and boxes.

    Ours are computed in float64; what remains is the rounding of the reference.
    """
    figures = load_figures(ORACLES[model])
    arrays = oracle_arrays(figures)
    checkpoint, lines = converted(tmp_path, arrays, model=model, protocol=protocol)
    detector = public.load(tmp_path / "out.pth", "cpu")
    with torch.no_grad():
        outputs = in_float64(detector.model)(torch.from_numpy(oracle_input(ORACLES[model], (2, 3, 160, 224))))
    boxes, scores = detector.decoder.decode(outputs)
    index, expected = figures["scores"]
    np.testing.assert_allclose(scores.numpy()[tuple(index.T)], expected, rtol=0, atol=2e-5)
    index, expected = figures["boxes"]
    np.testing.assert_allclose(boxes.numpy()[tuple(index.T)], expected, rtol=0, atol=3e-3)
    fixed = sum(name in arrays for name in figures["fixed"])
    assert f"used: {len(arrays) - fixed} arrays" in lines
    assert checkpoint["class_names"] == list(COCO_CLASSES)


@pytest.mark.slow
def test_the_command_writes_a_detector_for_real_images(tmp_path, shared):
    """As a user types it; then boxes within a real image, whose sides the network does not have."""
    arrays = oracle_arrays(load_figures("ppyoloe_crn_s"))
    file, output = write_pdparams(tmp_path / "x.pdparams", arrays), tmp_path / "out.pth"
    command = ["-m", "public.weights.convert", "paddle", "ppyoloe_s", file, "-o", output]
    done = run_python(command)
    assert done.returncode == 0, done.stderr
    content = torch.load(output, weights_only=True)
    assert {"model", "model_name", "num_classes", "class_names", "input", "detector"} <= content.keys()
    assert f"digest {digest(content['model'])}" in done.stdout
    assert hashlib.sha256(file.read_bytes()).hexdigest() in done.stdout
    found = public.load(output, "cpu")(shared / "data/coco_val100/named/000000004795.jpg")  # 640 x 480
    assert len(found["names"]) > 0
    assert set(found["names"]) <= set(COCO_CLASSES)
    assert found["boxes"].min() >= 0
    assert (found["boxes"].max(axis=0) <= [640, 480, 640, 480]).all()
    failed = run_python([*command[:3], "ppyoloe_m", *command[4:]])
    assert failed.returncode == 1
    (line,) = failed.stderr.splitlines()
    assert line.startswith(f"error: {file} does not fit ppyoloe_m: ")


# ---------------------------------------------------------------------------------------------- the account


def test_every_array_finds_its_place(tmp_path, arrays):
    checkpoint, lines = converted(tmp_path, arrays)
    for name, value in checkpoint["model"].items():
        if name.endswith("num_batches_tracked"):
            assert value == 0
        else:
            np.testing.assert_array_equal(value.numpy(), arrays[paddle_name(name)])
    create_model("ppyoloe_xs", num_classes=4).load_state_dict(checkpoint["model"], strict=True)
    counters = sum(name.endswith("num_batches_tracked") for name in checkpoint["model"])
    assert len(checkpoint["model"]) - counters == len(arrays) - 1
    for line in (
        f"used: {len(arrays) - 1} arrays",
        f"added: {counters} counters of BatchNorm (num_batches_tracked), as 0",
        "left out: 2 entries",
        f"  {TABLE}: Paddle's table of internal names",
        "  yolo_head.proj_conv.weight: fixed values, as expected; they are no parameters here",
    ):
        assert line in lines
    parameters = sum(value.numel() for value in create_model("ppyoloe_xs", num_classes=4).parameters())
    assert f"ppyoloe_xs, 4 classes, {parameters:,} parameters, digest {digest(checkpoint['model'])}" in lines[-1]
    assert checkpoint["num_classes"] == 4


def test_one_array_less_or_more_or_other_is_an_error(tmp_path, arrays):
    name = "neck.pan_stages.1.0.convs.0.conv1.bn._mean"
    ours = "neck.pan_stages.1.blocks.0.conv1.bn.running_mean"
    without = {key: value for key, value in arrays.items() if key != name}
    message = refused(tmp_path, without, match=rf"x\.pdparams does not fit ppyoloe_xs: the file lacks \['{ours}'")
    assert "fit no published network" in message
    more = {**arrays, "backbone.stages.0.blocks.7.conv1.conv.weight": np.zeros((2, 2), np.float32)}
    refused(tmp_path, more, match=r"no place for \['backbone\.stages\.0\.blocks\.7\.conv1\.conv\.weight'\]")
    refused(
        tmp_path, {**arrays, "fc.weight": arrays[name]}, match="x.pdparams: array 'fc.weight' belongs to no PPYOLOE"
    )
    other = {**arrays, name: np.zeros(5, np.float32)}
    shape = arrays[name].shape[0]
    refused(tmp_path, other, match=rf"'{name}' has shape \(5,\), the network's '{ours}' has \({shape},\)")
    bins = {**arrays, "yolo_head.proj_conv.weight": np.ones((1, 17, 1, 1), np.float32)}
    refused(tmp_path, bins, match=r"x\.pdparams: array 'yolo_head\.proj_conv\.weight' holds")
    twice = {**arrays, name.replace("stages.1.0.", "stages.1."): arrays[name]}
    refused(tmp_path, twice, match=f"both become '{ours}'")


@pytest.mark.parametrize("shape", [(), (0,), (0, 48, 3, 3)], ids=str)
def test_class_layers_may_have_any_shape(tmp_path, arrays, shape):
    """The number of classes is read from the first of them."""
    name = "yolo_head.pred_cls.0.weight"
    match = rf"x\.pdparams does not fit ppyoloe_xs: '{name}' has shape \(" + ("" if shape == () else "0,")
    refused(tmp_path, {**arrays, name: np.zeros(shape, np.float32)}, match=match)


def test_the_network_that_would_fit_is_named(tmp_path, arrays):
    message = refused(tmp_path, arrays, model="ppyoloe_s", match="does not fit ppyoloe_s")
    assert message.endswith("These shapes fit ppyoloe_plus_xs and ppyoloe_xs")
    factors = paddle_arrays("ppyoloe_xs", 4, use_alpha=True)
    message = refused(tmp_path, factors, match=r"no place for \['backbone\.stages\.0\.blocks\.0\.conv2\.alpha'")
    assert message.endswith("These shapes fit ppyoloe_plus_xs")


def test_files_without_alpha_load_as_alpha_1(tmp_path, arrays):
    """The outputs are those of the network without alpha, bit for bit."""
    plain, _ = converted(tmp_path, arrays)
    plus, lines = converted(tmp_path, arrays, model="ppyoloe_plus_xs")
    factors = {name: value for name, value in plus["model"].items() if name.endswith(".alpha")}
    assert len(factors) == sum("conv2.conv1.conv" in name and name.startswith("backbone") for name in arrays) > 0
    assert all(torch.equal(value, torch.ones(1)) for value in factors.values())
    assert f"added: {len(factors)} learnt factors that the file lacks, as 1: {', '.join(factors)}" in lines
    outputs = []
    for name, checkpoint in (("ppyoloe_xs", plain), ("ppyoloe_plus_xs", plus)):
        model = create_model(name, num_classes=4).eval()
        model.load_state_dict(checkpoint["model"])
        torch.manual_seed(0)
        with torch.no_grad():
            outputs.append(model(torch.randn(1, 3, 64, 64)))
    assert torch.equal(outputs[0].class_logits, outputs[1].class_logits)
    assert torch.equal(outputs[0].box_logits, outputs[1].box_logits)


def test_factors_that_the_file_has_are_kept(tmp_path):
    factors = paddle_arrays("ppyoloe_xs", 4, use_alpha=True)
    checkpoint, lines = converted(tmp_path, factors, model="ppyoloe_plus_xs")
    name = "backbone.stages.0.blocks.0.conv2.alpha"
    assert checkpoint["model"][name].item() == factors[name].item() != 1
    assert not any("learnt factors" in line for line in lines)


@pytest.mark.parametrize(("own", "wanted"), [(80, 20), (365, 20), (20, 80)])
def test_another_number_of_classes_keeps_all_but_the_class_layers(tmp_path, own, wanted):
    arrays = paddle_arrays("ppyoloe_xs", own)
    before = torch.random.get_rng_state()
    checkpoint, lines = converted(tmp_path, arrays, "--num_classes", str(wanted))
    assert torch.equal(torch.random.get_rng_state(), before), "the conversion drew from the user's generator"
    random_streams.seed_torch(0, "model")
    fresh = create_model("ppyoloe_xs", num_classes=wanted)
    layers = {f"head.pred_cls.{level}.{kind}" for level, kind in itertools.product(range(3), ("weight", "bias"))}
    for name, value in fresh.state_dict().items():
        if name in layers:
            assert torch.equal(checkpoint["model"][name], value)
            assert any(line.startswith(f"  {paddle_name(name)}: a class layer, ({own},") for line in lines)
        elif not name.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(checkpoint["model"][name].numpy(), arrays[paddle_name(name)])
    assert "left out: 8 entries" in lines
    assert f"used: {len(arrays) - 7} arrays" in lines
    assert checkpoint["num_classes"] == len(checkpoint["class_names"]) == wanted
    assert public.load(tmp_path / "out.pth", "cpu").model.num_classes == wanted


def test_new_class_layers_come_from_a_fixed_seed(tmp_path):
    """The auxiliary head's class layer starts with random values: the same in every conversion."""
    arrays = oracle_arrays(load_figures("ppyoloe_plus_crn_t_auxhead"))
    checkpoint, _ = converted(tmp_path, arrays, "--num_classes", "20", model="ppyoloe_plus_t")
    random_streams.seed_torch(0, "model")
    fresh = create_model("ppyoloe_plus_t", num_classes=20)
    layers = {n: value for n, value in fresh.state_dict().items() if n.startswith(fresh.class_layers)}
    assert max(value.std() for value in layers.values() if value.ndim == 4) > 0
    for name, value in layers.items():
        assert torch.equal(checkpoint["model"][name], value), name


def test_numbers_of_half_the_width(tmp_path, arrays):
    """float16 as it is; bfloat16 as Paddle hands it to numpy, the upper half of a float32's bits."""
    half, brain = "backbone.stem.conv1.conv.weight", "yolo_head.pred_reg.0.bias"
    upper = (arrays[brain].view(np.uint32) >> 16).astype(np.uint16)
    mixed = {**arrays, half: arrays[half].astype(np.float16), brain: upper}
    checkpoint, lines = converted(tmp_path, mixed)
    state = checkpoint["model"]
    assert state[half].dtype == state["head.pred_reg.0.bias"].dtype == torch.float32
    np.testing.assert_array_equal(state[half].numpy(), arrays[half].astype(np.float16).astype(np.float32))
    expected = torch.from_numpy(upper.view(np.int16).copy()).view(torch.bfloat16).float()
    assert torch.equal(state["head.pred_reg.0.bias"], expected)
    assert f"1 arrays of float16 widened to float32: {half}" in lines
    assert f"1 arrays of bfloat16 (kept as uint16) widened to float32: {brain}" in lines
    for dtype in (np.float64, np.int64):
        (tmp_path / "out.pth").unlink(missing_ok=True)
        refused(
            tmp_path, {**arrays, half: arrays[half].astype(dtype)}, match=rf"{half} holds {np.dtype(dtype)} numbers"
        )


def test_foreign_entries_of_the_file_are_reported(tmp_path, arrays):
    _, lines = converted(tmp_path, {**arrays, "epoch": 7})
    assert "  epoch: an int, no array" in lines


# ---------------------------------------------------------------------------------------------- backbones


def test_a_backbone_from_a_detector(tmp_path, arrays):
    checkpoint, lines = converted(tmp_path, arrays, "--backbone_only")
    assert checkpoint["part"] == "backbone"
    assert checkpoint["num_classes"] is None
    expected = {name for name in create_model("ppyoloe_xs", num_classes=4).state_dict() if name.startswith("backbone.")}
    assert set(checkpoint["model"]) == expected
    others = [name for name in arrays if not name.startswith("backbone.")]
    assert all(f"  {name}: not of the backbone" in lines for name in others)
    assert f"left out: {len(others) + 1} entries" in lines
    assert "ppyoloe_xs, the backbone alone" in lines[-1]
    with pytest.raises(ValueError, match="backbone"):
        public.load(tmp_path / "out.pth", "cpu")


def test_a_backbone_whose_names_have_no_prefix(tmp_path, arrays):
    """As a classifier's file: the same weights, and its last layer is reported."""
    prefixed, _ = converted(tmp_path, arrays, "--backbone_only")
    bare = {n.removeprefix("backbone."): value for n, value in arrays.items() if n.startswith("backbone.")}
    bare |= {"fc.weight": np.ones((8, 10), np.float32), "last_conv.weight": np.ones((8, 8), np.float32)}
    checkpoint, lines = converted(tmp_path, bare, "--backbone_only")
    assert digest(checkpoint["model"]) == digest(prefixed["model"])
    assert {"  fc.weight: not of the backbone", "  last_conv.weight: not of the backbone"} <= set(lines)
    (tmp_path / "out.pth").unlink()
    refused(tmp_path, bare, match="x.pdparams holds a backbone alone; convert it with --backbone_only")
    refused(
        tmp_path, bare, "--backbone_only", model="ppyoloe_s", match="These shapes fit ppyoloe_plus_xs and ppyoloe_xs"
    )
    head = {name: value for name, value in arrays.items() if name.startswith("yolo_head")}
    refused(tmp_path, head, "--backbone_only", match="has no array of a backbone")
    part = {name: value for name, value in arrays.items() if name.startswith("backbone.")}
    refused(tmp_path, part, match="the file lacks .'neck")


def test_the_file_that_is_converted_is_not_overwritten(tmp_path, arrays):
    file = write_pdparams(tmp_path / "x.pdparams", arrays)
    before = file.read_bytes()
    (tmp_path / "link").symlink_to(file)
    for output in (file, tmp_path / "link"):
        with pytest.raises(ValueError, match="is the file that is converted, and would be overwritten"):
            convert.convert(source="paddle", model_name="ppyoloe_xs", file=file, output=output)
    assert file.read_bytes() == before


@pytest.mark.parametrize("options", [("--num_classes", "20"), ("--class_names", "names.txt")])
def test_a_backbone_has_no_classes(tmp_path, arrays, options):
    refused(tmp_path, arrays, "--backbone_only", *options, match="a backbone has no classes")


# ---------------------------------------------------------------------------------------------- names and settings


def test_class_names(tmp_path, arrays, shared):
    annotations = json.loads((shared / "data/coco_val100/annotations/instances_val2017.json").read_text())
    in_order = sorted(annotations["categories"], key=lambda category: category["id"])
    assert class_names(80)[0] == tuple(category["name"] for category in in_order)
    assert class_names(365)[0][::364] == ("class_0", "class_364")
    file = tmp_path / "names.txt"
    file.write_text("ant\nbee\n\ncat \ndog\n")
    checkpoint, lines = converted(tmp_path, arrays, "--class_names", str(file))
    assert checkpoint["class_names"] == ["ant", "bee", "cat", "dog"]
    assert f"class names: from {file}" in lines
    (tmp_path / "out.pth").unlink()
    for text, message in (
        ("ant\nbee", "has 2 names, one a line, but the weights have 4 classes"),
        ("a\nb\na\nc", "twice: a"),
    ):
        file.write_text(text)
        refused(tmp_path, arrays, "--class_names", str(file), match=message)
    refused(tmp_path, arrays, "--num_classes", "0", match="--num_classes is 0; it must be at least 1")
    refused(tmp_path, arrays, model="ppyoloe_xxs", match="no published network is called 'ppyoloe_xxs'")


def test_names_that_are_not_known_are_said_to_be_made_up(tmp_path, arrays):
    checkpoint, lines = converted(tmp_path, arrays)
    assert checkpoint["class_names"] == ["class_0", "class_1", "class_2", "class_3"]
    assert any("class_0 .. class_3, since none are known" in line for line in lines)


def test_the_input_is_that_of_the_experiment_that_starts_from_it():
    experiment = load_experiment(REPOSITORY / "detection_experiments" / "ppyoloe_s_voc")
    assert released("ppyoloe_s", "paddle").input == experiment.config.input
    plus = released("ppyoloe_plus_s", "paddle").input
    assert replace(plus, mean=experiment.config.input.mean, std=experiment.config.input.std) == experiment.config.input
    assert (plus.scale, plus.mean, plus.std) == (1 / 255, (0, 0, 0), (1, 1, 1))


# ---------------------------------------------------------------------------------------------- known files


def test_another_content_under_a_known_name_is_refused(tmp_path, arrays, monkeypatch):
    (with_sum,) = [weights for weights in KNOWN if weights.sha256]
    message = refused(tmp_path, arrays, name=with_sum.original, match=f"the known file of this name.*{with_sum.sha256}")
    assert hashlib.sha256((tmp_path / with_sum.original).read_bytes()).hexdigest() in message
    content = (tmp_path / with_sum.original).read_bytes()
    right = replace(with_sum, sha256=hashlib.sha256(content).hexdigest(), sha256_source="the test")
    monkeypatch.setattr(known, "KNOWN", (right,))
    _, lines = converted(tmp_path, arrays, name=with_sum.original)
    assert lines[0].endswith("a known file, PaddleDetection, Objects365; the sum is that of the test")


def test_the_report_says_whether_a_sum_is_known(tmp_path, arrays):
    _, lines = converted(tmp_path, arrays)
    assert lines[0].endswith("no file of the list in pretrained/README.md")
    _, lines = converted(tmp_path, arrays, name="ppyoloe_crn_s_300e_coco.pdparams")
    assert lines[0].endswith("of which no sum is known: not checked")


def test_the_readme_lists_every_known_file():
    text = (REPOSITORY / "pretrained" / "README.md").read_text()
    rows = [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line.startswith("| `")
    ]
    for row, weights in itertools.zip_longest(rows, KNOWN):
        assert row == [
            f"`{weights.name}`",
            f"`{weights.model}`",
            weights.source,
            str(weights.num_classes or "backbone alone"),
            weights.published,
            f"[{weights.original}]({weights.url})",
            f"`{weights.sha256}`" if weights.sha256 else "not known",
        ]
    commands = re.findall(r"^python -m public\.weights\.convert paddle .*$", text, flags=re.MULTILINE)
    assert commands == [weights.command for weights in KNOWN]


@pytest.mark.parametrize("weights", KNOWN, ids=lambda weights: weights.name)
def test_each_known_file_can_be_made_by_its_command(weights):
    parsed = convert.make_parser().parse_args(shlex.split(weights.command)[3:])
    assert parsed.model in list_models()
    assert parsed.file == Path(weights.original)
    assert parsed.output == Path("pretrained") / weights.name
    assert parsed.backbone_only == (weights.num_classes is None)
    assert weights.url.startswith("https://")
    assert weights.url.endswith(f"/{weights.original}")
    assert released(weights.model, "paddle").class_names[0] in ("person", "foreground")
    assert [known.by_name(weights.name), known.by_original(weights.original)] == [weights, weights]


def test_experiments_start_from_known_files():
    for folder in sorted(REPOSITORY.glob("detection_experiments/*/config.py")):
        config = load_experiment(folder.parent).config
        if config.starting_weights and config.starting_weights.startswith("pretrained/"):
            weights = known.by_name(Path(config.starting_weights).name)
            assert weights is not None, f"{folder.parent.name} starts from {config.starting_weights}"
            assert config.backbone_only or not weights.backbone_only, folder.parent.name


def test_every_published_detector_says_what_is_known_of_its_weights():
    """Input and classes stand in a table by name; a name that only looks like another one has none."""
    generic = {name for name in PUBLISHED if "_" not in name}  # on any backbone; nobody's weights are of just this form
    assert RELEASED.keys() == PUBLISHED.keys() - generic
    for name, weights in RELEASED.items():
        assert len(weights.class_names) == PUBLISHED[name].num_classes
    with pytest.raises(
        ValueError, match=r"paddle's weights of the detector ppyoloe_plus_zz are not known here; nobody"
    ):
        released("ppyoloe_plus_zz", "paddle")
    with pytest.raises(ValueError, match=r"timm's weights of the detector ppyoloe_s are not known here; paddle's are"):
        released("ppyoloe_s", "timm")
    with pytest.raises(ValueError, match=r"retinanet are not known here; those of retinanet_r50_mmdet are"):
        released("retinanet", "mmdet")
