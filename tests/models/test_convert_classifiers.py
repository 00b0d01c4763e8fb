"""Weights of classifiers: the account of every array, refusals, and checkpoints that `create_model` takes."""

import hashlib
import warnings

import numpy as np
import pytest
import torch
import torchvision

from public.checkpoint_files import load_checkpoint
from public.models import create_model
from public.models.backbones import NETWORKS
from public.weights.backbones import RELEASED, released
from public.weights.convert import convert
from tests.helpers.backbone_checks import scatter_batch_norms
from tests.helpers.forked_commands import run_python
from tests.helpers.numerics import assert_same_in_float64, in_float64
from tests.helpers.paddle_files import paddle_arrays, write_pdparams


@pytest.fixture(scope="module")
def theirs() -> torch.nn.Module:
    """torchvision's ResNet-18 with 10 classes, and statistics that are not those of a new one."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None, num_classes=10)
    scatter_batch_norms(model)
    return model.eval()


def converted(tmp_path, state, *, source="torchvision", model="resnet18", name="theirs.pth", **options):
    """(the checkpoint, the report) of `state`."""
    torch.save(state, tmp_path / name)
    output = tmp_path / "ours.pth"
    lines = convert(source=source, model_name=model, file=tmp_path / name, output=output, **options)
    return load_checkpoint(output), lines


def images() -> torch.Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def refused(tmp_path, state, *, match: str, **options) -> None:
    with pytest.raises(ValueError, match=match) as caught:
        converted(tmp_path, state, **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ours.pth").exists()


# ---------------------------------------------------------------------------------------------- what is written


@pytest.mark.numeric
def test_checkpoint_and_report(tmp_path, theirs):
    checkpoint, lines = converted(tmp_path, theirs.state_dict())
    assert checkpoint["model_name"] == "resnet18"
    assert checkpoint["num_classes"] == len(checkpoint["class_names"]) == 10
    assert checkpoint["keywords"] == {}
    assert checkpoint["input"]["size"] == [224, 224]
    sha256 = hashlib.sha256((tmp_path / "theirs.pth").read_bytes()).hexdigest()
    assert checkpoint["converted_from"] == {"project": "torchvision", "file": "theirs.pth", "sha256": sha256}
    assert f"{tmp_path / 'theirs.pth'}: sha256 {sha256}" in lines
    assert f"used: {len(theirs.state_dict())} arrays" in lines
    assert "left out: 0 entries" in lines
    parameters = sum(value.numel() for value in theirs.parameters())
    assert any(f"resnet18, 10 classes, {parameters:,} parameters, digest " in line for line in lines)
    model = create_model("resnet18", num_classes=10, pretrained=tmp_path / "ours.pth").eval()
    with torch.no_grad():
        assert_same_in_float64(in_float64(model)(images()), in_float64(theirs)(images()))


def test_imagenet_classes_have_their_names(tmp_path):
    with torch.random.fork_rng():
        model = torchvision.models.shufflenet_v2_x0_5(weights=None)
    checkpoint, lines = converted(tmp_path, model.state_dict(), model="shufflenetv2_x0_5")
    assert checkpoint["class_names"][0] == "tench"
    assert checkpoint["class_names"][207] == "golden retriever"
    assert any(line.startswith("class names: ImageNet's 1000") for line in lines)


@pytest.mark.parametrize("num_classes", [20, 80])
def test_other_numbers_of_classes_have_no_names_of_their_own(tmp_path, theirs, num_classes):
    """Twenty kinds of flowers are not VOC's twenty objects."""
    checkpoint, lines = converted(tmp_path, theirs.state_dict(), num_classes=num_classes)
    assert checkpoint["class_names"] == [f"class_{label}" for label in range(num_classes)]
    assert any(f"class_0 .. class_{num_classes - 1}, since none are known" in line for line in lines)
    names = tmp_path / "names.txt"
    names.write_text("".join(f"flower {label}\n" for label in range(num_classes)))
    checkpoint, _ = converted(tmp_path, theirs.state_dict(), num_classes=num_classes, names_file=names)
    assert checkpoint["class_names"] == names.read_text().splitlines()


def test_another_number_of_classes_keeps_all_but_the_last_layer(tmp_path, theirs):
    names = tmp_path / "names.txt"
    names.write_text("cat\ndog\nowl\n")
    whole, _ = converted(tmp_path, theirs.state_dict())
    checkpoint, lines = converted(tmp_path, theirs.state_dict(), num_classes=3, names_file=names)
    assert checkpoint["class_names"] == ["cat", "dog", "owl"]
    assert checkpoint["model"]["fc.weight"].shape == (3, 512)
    assert all(
        torch.equal(value, whole["model"][key]) for key, value in checkpoint["model"].items() if key[:3] != "fc."
    )
    assert f"used: {len(theirs.state_dict()) - 2} arrays" in lines
    assert "left out: 2 entries" in lines
    again, _ = converted(tmp_path, theirs.state_dict(), num_classes=3)
    assert torch.equal(again["model"]["fc.weight"], checkpoint["model"]["fc.weight"])


def test_backbone_only(tmp_path, theirs):
    whole, _ = converted(tmp_path, theirs.state_dict())
    checkpoint, lines = converted(tmp_path, theirs.state_dict(), backbone_only=True)
    assert checkpoint["part"] == "backbone"
    assert checkpoint["num_classes"] is None
    assert checkpoint["model"].keys() == {key for key in whole["model"] if key.startswith("backbone.")}
    assert "  what would be fc.weight: not of the backbone" in lines
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backbone = create_model("resnet18", features_only=True, pretrained=tmp_path / "ours.pth")
    assert all(torch.equal(value, whole["model"][f"backbone.{key}"]) for key, value in backbone.state_dict().items())
    with pytest.raises(ValueError, match="leave --num_classes and --class_names out"):
        converted(tmp_path, theirs.state_dict(), backbone_only=True, num_classes=3)


def test_older_files_lack_counters_and_training_programs_wrap_the_weights(tmp_path, theirs):
    state = {key: value for key, value in theirs.state_dict().items() if "num_batches" not in key}
    checkpoint, lines = converted(tmp_path, {"epoch": 3, "state_dict": state})
    assert "added: 20 counters of BatchNorm (num_batches_tracked), as 0" in lines
    assert "  epoch: beside the weights" in lines
    whole, _ = converted(tmp_path, theirs.state_dict())
    assert checkpoint["model"].keys() == whole["model"].keys()


def test_names_of_parallel_training_are_taken(tmp_path, theirs):
    """DataParallel puts `module.` before each name; where only some have it, the file is another network's."""
    plain, _ = converted(tmp_path, theirs.state_dict())
    state = {f"module.{name}": value for name, value in theirs.state_dict().items()}
    checkpoint, lines = converted(tmp_path, {"state_dict": state})
    assert all(torch.equal(value, checkpoint["model"][name]) for name, value in plain["model"].items())
    assert any(line.startswith("every name began with 'module.'") for line in lines)
    (tmp_path / "ours.pth").unlink()
    state["conv1.weight"] = state.pop("module.conv1.weight")
    refused(tmp_path, state, match="'module.bn1.weight' belongs to no")


def test_narrow_numbers_are_widened_and_reported(tmp_path, theirs):
    state = dict(theirs.state_dict())
    state["fc.weight"], state["fc.bias"] = state["fc.weight"].half(), state["fc.bias"].bfloat16()
    checkpoint, lines = converted(tmp_path, state)
    assert torch.equal(checkpoint["model"]["fc.weight"], state["fc.weight"].float())
    assert checkpoint["model"]["fc.bias"].dtype == torch.float32
    assert "1 arrays of float16 widened to float32: fc.weight" in lines
    assert "1 arrays of bfloat16 widened to float32: fc.bias" in lines


@pytest.mark.parametrize(
    ("source", "model", "theirs", "keywords"),
    [
        ("torchvision", "regnety_800mf", "regnet_y_800mf", {"rounding": "up"}),
        ("torchvision", "mobilenetv3_small", "mobilenet_v3_small", {}),
    ],
)
def test_keywords_that_the_weights_need(tmp_path, source, model, theirs, keywords):
    torch.manual_seed(0)
    network = getattr(torchvision.models, theirs)(weights=None, num_classes=4)
    scatter_batch_norms(network)
    checkpoint, _ = converted(tmp_path, network.state_dict(), source=source, model=model)
    assert checkpoint["keywords"] == keywords
    ours = create_model(model, num_classes=4, pretrained=tmp_path / "ours.pth").eval()
    with torch.no_grad():
        assert_same_in_float64(in_float64(ours)(images()), in_float64(network.eval())(images()))


def test_paddles_backbone_becomes_that_of_a_classifier_and_of_a_detector(tmp_path):
    """The file of a backbone alone, names without `backbone.`, as PaddleDetection offers CSPResNet."""
    prefix = "backbone."
    arrays = paddle_arrays("ppyoloe_xs", 4)
    arrays = {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}
    file = write_pdparams(tmp_path / "x.pdparams", arrays, 4)
    states = []
    for model, options in (("cspresnet_xs", {}), ("ppyoloe_xs", {"backbone_only": True})):
        output = tmp_path / f"{model}.pth"
        convert(source="paddle", model_name=model, file=file, output=output, **options)
        states.append(load_checkpoint(output)["model"])
    ours, detector = states
    assert ours.keys() == detector.keys()
    assert all(torch.equal(value, detector[key]) for key, value in ours.items())
    np.testing.assert_array_equal(ours["backbone.stem.conv1.conv.weight"].numpy(), arrays["stem.conv1.conv.weight"])
    with pytest.warns(UserWarning, match="the backbone alone"):
        create_model("cspresnet_xs", num_classes=3, pretrained=tmp_path / "cspresnet_xs.pth")


# ---------------------------------------------------------------------------------------------- what is refused


def test_every_family_says_whose_weights_it_loads():
    files = {family.__name__.rpartition(".")[2] for family in NETWORKS.values()}
    assert files - RELEASED.keys() == {
        "csp_darknet",
        "yolov5",
    }  # YOLOX's are a detector's; YOLOv5's are not ours to load
    assert RELEASED.keys() <= files
    with pytest.raises(ValueError, match="paddle's weights of resnet18 are not known here; torchvision and timm's are"):
        released("resnet18", "paddle")
    with pytest.raises(ValueError, match="timm's weights of yolov5_s are not known here; nobody's are"):
        released("yolov5_s", "timm")


def test_files_that_do_not_fit(tmp_path, theirs):
    state = dict(theirs.state_dict())
    refused(
        tmp_path, state, model="resnet34", match=r"does not fit resnet34: the file lacks .*These arrays fit resnet18$"
    )
    refused(tmp_path, state, model="regnety_400mf", match=r"'conv1.weight' belongs to no .*These arrays fit resnet18$")
    narrow = state | {"layer1.0.conv1.weight": torch.zeros(32, 64, 3, 3)}
    refused(tmp_path, narrow, match=r"has shape \(32, 64, 3, 3\), the network's has \(64, 64, 3, 3\)")
    refused(
        tmp_path, state | {"gamma": torch.zeros(3)}, match="'gamma' belongs to no .*These arrays fit no network here"
    )
    lacking = {key: value for key, value in state.items() if key != "bn1.bias"}
    refused(tmp_path, lacking, match=r"lacks what becomes \['backbone.stem.conv.bn.bias'\]")
    refused(tmp_path, state | {"fc.bias": state["fc.bias"].double()}, match="fc.bias holds float64 numbers")


NO_MATRIX = [torch.tensor(1.0), torch.zeros(0), torch.zeros(0, 8), torch.zeros(3)]


@pytest.mark.parametrize("value", NO_MATRIX, ids=lambda value: str(tuple(value.shape)))
@pytest.mark.parametrize(
    ("source", "model", "theirs", "ours"),
    [
        ("torchvision", "resnet18", "fc.weight", "fc.weight"),
        ("timm", "regnety_400mf", "s4.b1.conv1.conv.weight", "backbone.stages.3.0.conv1.conv.weight"),
        ("timm", "mobilenetv3_small", "conv_head.weight", "final.hidden.weight"),
    ],
)
def test_arrays_that_say_something_of_the_network_may_have_any_shape(tmp_path, source, model, theirs, ours, value):
    """Numbers of classes and channels are read from them: what has no such number is told of as what it is."""
    state = {theirs: value} | ({"conv_stem.weight": torch.zeros(16, 3, 3, 3)} if theirs == "conv_head.weight" else {})
    refused(
        tmp_path, state, source=source, model=model, match=rf"theirs\.pth does not fit {model}: .*'{ours}' has shape"
    )


def test_whole_numbers_are_no_weights(tmp_path, theirs):
    state = dict(theirs.state_dict())
    whole = state | {"layer1.0.conv1.weight": state["layer1.0.conv1.weight"].long()}
    refused(
        tmp_path,
        whole,
        match=r"what becomes backbone\S* has numbers of torch\.int64, the model's are of torch\.float32",
    )


def test_files_that_are_no_weights(tmp_path, theirs):
    refused(tmp_path, {"epoch": 1}, match="holds no state dict")
    refused(tmp_path, theirs, match=r"holds code, torchvision.models.resnet.ResNet; .*torch.save\(model.state_dict")
    (tmp_path / "page.pth").write_text("<!DOCTYPE html>")
    torch.save(theirs.state_dict(), tmp_path / "cut.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "cut.pth").read_bytes()[:1000])
    for name, reason in (("page", "damaged, or torch.save has not written it"), ("cut", "failed reading zip archive")):
        with pytest.raises(ValueError, match=f"{name}.pth is not a file of weights .*{reason}") as caught:
            convert(
                source="timm",
                model_name="resnet18",
                file=tmp_path / f"{name}.pth",
                output=tmp_path / "ours.pth",
            )
        assert "weights_only" not in str(caught.value), "no advice to execute a file that is not trusted"
    with pytest.raises(FileNotFoundError, match=r"nothing\.pth"):
        convert(source="timm", model_name="resnet18", file=tmp_path / "nothing.pth", output=tmp_path / "ours.pth")
    refused(
        tmp_path, theirs.state_dict(), name="resnet18-0123abcd.pth", match=r"its name says 0123abcd\.\.\.; download it"
    )
    with pytest.raises(ValueError, match="timm's weights of the detector ppyoloe_s are not known here"):
        convert(source="timm", model_name="ppyoloe_s", file=tmp_path / "theirs.pth", output=tmp_path / "ours.pth")


def test_the_sum_in_a_name_is_checked(tmp_path, theirs):
    torch.save(theirs.state_dict(), tmp_path / "a.pth")
    begin = hashlib.sha256((tmp_path / "a.pth").read_bytes()).hexdigest()[:8]
    file = (tmp_path / "a.pth").rename(tmp_path / f"resnet18-{begin}.pth")
    lines = convert(source="torchvision", model_name="resnet18", file=file, output=tmp_path / "ours.pth")
    assert lines[0].endswith(f", as its name says, {begin}")


@pytest.mark.slow
def test_command(tmp_path, theirs):
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    command = ["-m", "public.weights.convert", "timm", "resnet18", tmp_path / "theirs.pth", "-o"]
    done = run_python([*command, tmp_path / "o.pth"])
    assert done.returncode == 0, done.stderr
    assert "used: 122 arrays" in done.stdout
    command[3] = "resnet19"
    failed = run_python([*command, tmp_path / "p.pth"])
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: no published network is called 'resnet19'; did you mean resnet")
    assert len(failed.stderr.splitlines()) == 1
