"""PP-LCNet against the backbone of PaddleDetection's PicoDet; counts; the classifier's names; promises of all backbones."""

import hashlib
import json

import numpy as np
import pytest
import torch
from torch import nn

from public.models.backbones import lcnet
from public.weights.backbones.lcnet import keywords, rename
from public.weights.pdparams import read_pdparams
from tests.figures.fill_rule import oracle_input
from tests.helpers.backbone_checks import build_on_meta, filled, load_figures, num_parameters

PUBLISHED = {  # millions of parameters: the paper's table
    "lcnet_035": 1.6,
    "lcnet_075": 2.4,
    "lcnet_100": 3.0,
    "lcnet_150": 4.5,
    "lcnet_200": 6.5,
    "lcnet_250": 9.0,
}
TIMM = {"lcnet_035": 1.64, "lcnet_075": 2.36, "lcnet_100": 2.95, "lcnet_150": 4.50}  # timm's table; it has a bias more
TIMM_NAMES = "d6e6d9f54e33496fd43ba940a1001c92b17fb40131e9ba8d2c64b067059cadd4"


# ---------------------------------------------------------------------------------------------- against PicoDet


def detector_backbone(name: str, state: dict[str, torch.Tensor]) -> nn.Module:
    """The backbone as PicoDet takes it, with the arrays of a PicoDet's backbone."""
    backbone = lcnet.build_backbone(name, in_chans=3)
    renamed = rename(state, name)
    backbone.load_state_dict({array.removeprefix("backbone."): value for array, value in renamed.items()}, strict=True)
    return backbone.select((8, 16, 32)).eval()


def test_reduced_figures_of_picodet():
    figures = load_figures("picodet_s")
    backbone = detector_backbone("lcnet_075", filled(figures["entries"], figures["gain"])).double()
    with torch.no_grad():
        maps = backbone(torch.from_numpy(oracle_input("picodet_s", (2, 3, 160, 224))).double())
    for ours, expected in zip(maps, figures["maps"], strict=True):
        assert list(ours.shape) == expected["shape"]
        scale = ours.abs().max().item()
        np.testing.assert_allclose(ours.flatten()[:64].numpy(), expected["first64"], rtol=0, atol=1e-5 * scale)
        assert ours.mean().item() == pytest.approx(expected["mean"], abs=1e-5 * scale)
        assert ours.std(correction=0).item() == pytest.approx(expected["std"], rel=1e-4)


@pytest.mark.parametrize("variant", ["forward", "forward_gain"])
def test_oracle_of_picodet(shared, variant):
    folder = shared / "oracles/paddle/picodet_s"
    state = json.loads((folder / "state.json").read_text())
    entries = [[entry["name"], entry["shape"]] for entry in state["entries"] if entry["name"].startswith("backbone.")]
    backbone = detector_backbone("lcnet_075", filled(entries, state["variants"][variant]["gain"])).double()
    outputs = np.load(folder / f"{variant}.npz")
    with torch.no_grad():
        maps = backbone(torch.from_numpy(oracle_input("picodet_s", (2, 3, 160, 224))).double())
    for level, ours in enumerate(maps):
        expected, step = outputs[f"backbone{level}/sample"], int(outputs[f"backbone{level}/sample_step"])
        sample = ours.flatten()[::step][:2048].numpy()
        np.testing.assert_allclose(sample, expected, rtol=0, atol=1e-5 * ours.abs().max().item())


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("oracles/paddle/picodet_xs/model.pdparams", "lcnet_035"),
        ("weights/picodet_s_416_coco_lcnet.pdparams", "lcnet_075"),
    ],
)
def test_files_that_paddle_wrote(shared, file, name):
    """Each array of the backbone has its place, with its shape; in the trained one all statistics are sound."""
    arrays = read_pdparams(shared / file).arrays
    state = {array: torch.tensor(value) for array, value in arrays.items() if array.startswith("backbone.")}
    backbone = detector_backbone(name, state)
    assert sum(value.numel() for value in state.values()) == sum(
        value.numel() for array, value in backbone.state_dict().items() if "num_batches" not in array
    )
    with torch.no_grad():
        maps = backbone(torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert all(x.isfinite().all() and x.std() > 0 for x in maps)


# ---------------------------------------------------------------------------------------------- the classifier


@pytest.mark.parametrize("name", lcnet.NETWORKS)
def test_published_numbers(name):
    assert round(num_parameters(build_on_meta(lcnet, name, num_classes=1000)) / 1e6, 1) == PUBLISHED[name]
    if name in TIMM:
        with_bias = build_on_meta(lcnet, name, num_classes=1000, head_bias=True)
        assert round(num_parameters(with_bias) / 1e6, 2) == TIMM[name]


def paddle_classifier(num_classes: int) -> dict[str, torch.Tensor]:
    """A PPLCNet_x0_35 as PaddleClas would save it: the detector's backbone, and a head with arrays of its own."""
    with torch.device("meta"):
        shapes = lcnet.build("lcnet_035", num_classes=num_classes).state_dict()
    entries = []
    for array, value in shapes.items():
        name = array.removeprefix("backbone.").replace("stem.", "conv1.").replace("squeeze.fc", "se.conv")
        name = name.replace("running_mean", "_mean").replace("running_var", "_variance")
        name = name.replace("depthwise", "dw_conv").replace("pointwise", "pw_conv")
        for stage in range(5):
            name = name.replace(f"stages.{stage}.", f"blocks{stage + 2}.")
        if name.startswith(("conv1", "blocks")) and "num_batches" not in name:
            entries.append([name, list(value.shape)])
    channels = shapes["final.hidden.weight"].shape[1]
    entries += [
        ["last_conv.weight", [1280, channels, 1, 1]],
        ["fc.weight", [1280, num_classes]],
        ["fc.bias", [num_classes]],
    ]
    return filled(entries)


def test_a_classifier_of_paddle_computes_what_paddle_computes():
    """Its head written out: mean, 1x1 convolution, hard swish, features times 1 - 0.2 in inference, x W + b."""
    state = paddle_classifier(10)
    model = lcnet.build("lcnet_035", num_classes=10).double().eval()
    model.load_state_dict(rename(state, "lcnet_035"), strict=True)
    with torch.no_grad():
        images = torch.randn(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
        x = model.backbone(images)[-1].mean((2, 3), keepdim=True)
        x = nn.functional.hardswish(nn.functional.conv2d(x, state["last_conv.weight"].double()))
        expected = (0.8 * x).flatten(1) @ state["fc.weight"].double() + state["fc.bias"].double()
        difference = (model(images) - expected).abs().max()
    assert difference < 1e-6 * expected.abs().max()  # the matrix times 0.8 was rounded to float32


def test_a_checkpoint_of_timm_gives_the_same_network():
    """timm's names in their order of computation, with the arrays of Paddle's classifier and a bias in the head.

    TIMM_NAMES is the sha256 over the names in the state dict of lcnet_035 as timm 1.0.31 builds it, one a line.
    """
    paddle = rename(paddle_classifier(10), "lcnet_035")
    kinds = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = ["conv_stem.weight", *(f"bn1.{kind}" for kind in kinds)]
    for stage, num_blocks in enumerate((1, 2, 2, 2, 4, 2)):
        for block in (f"blocks.{stage}.{number}" for number in range(num_blocks)):
            names += [f"{block}.conv_dw.weight", *(f"{block}.bn1.{kind}" for kind in kinds)]
            if stage == 5:
                names += [f"{block}.se.conv_{part}.{kind}" for part in ("reduce", "expand") for kind in kinds[:2]]
            names += [f"{block}.conv_pw.weight", *(f"{block}.bn2.{kind}" for kind in kinds)]
    names += ["conv_head.weight", "conv_head.bias", "classifier.weight", "classifier.bias"]
    assert hashlib.sha256("\n".join(names).encode()).hexdigest() == TIMM_NAMES
    ours = lcnet.build("lcnet_035", num_classes=10, head_bias=True).state_dict()
    arrays = [
        paddle.get(array, value) for array, value in ours.items()
    ]  # a state dict lists its layers as they compute
    state = dict(zip(names, arrays, strict=True))
    state["conv_head.weight"] = state["conv_head.weight"][:, :, None, None]
    renamed = rename(state, "lcnet_035")
    assert list(renamed) == list(ours)
    assert all(torch.equal(renamed[array], value) for array, value in zip(ours, arrays))
    assert keywords(state) == {"head_bias": True}
    assert keywords(paddle_classifier(10)) == {}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            ["backbone.blocks7.0.dw_conv.conv.weight"],
            "'backbone.blocks7.0.dw_conv.conv.weight' belongs to no Paddle's lcnet_100",
        ),
        (["neck.conv_t.convs.0.conv.weight"], "'neck.conv_t.convs.0.conv.weight' belongs to no Paddle's lcnet_100"),
        (["conv1.bn._mean", "conv1.bn.running_mean"], "'conv1.bn.running_mean' belongs to no Paddle's lcnet_100"),
        (["conv1.bn._mean", "backbone.conv1.bn._mean"], "'backbone.conv1.bn._mean' and another one both become"),
        (["conv_stem.weight", "last_conv.weight"], "'last_conv.weight' belongs to no timm's lcnet_100"),
    ],
)
def test_a_foreign_array_is_named(arrays, message):
    with pytest.raises(ValueError, match=message):
        rename({array: torch.zeros(1) for array in arrays}, "lcnet_100")


# ---------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize("options", [{"drop_path": 0.1}, {"zero_init": True}])
def test_what_needs_residual_branches_is_refused(options):
    with pytest.raises(ValueError, match="lcnet_035 has no residual branches: leave out drop_path"):
        lcnet.build("lcnet_035", num_classes=5, **options)


def test_initial_values_follow_the_fan_in():
    """Weights N(0, 2 / fan-in); a depthwise convolution's fan-in is its kernel alone."""
    torch.manual_seed(0)
    model = lcnet.build("lcnet_100", num_classes=1000)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and module.weight.numel() > 5000:
            fan_in = module.weight[0].numel()
            variance = 2 / fan_in if name != "fc" else 2 / (fan_in + 1000)
            assert module.weight.std().item() == pytest.approx(variance**0.5, rel=0.05), name
        if getattr(module, "bias", None) is not None:
            assert (module.bias == 0).all(), name
