"""Every backbone: its promises in one parametrised test, and the released networks' figures through the converter."""

import json
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from public.models import create_model, list_models
from public.models.backbones import NETWORKS, published_classes
from public.models.fuse import fuse
from public.models.layers import StochasticDepth
from public.weights.convert import convert
from tests.figures.fill_rule import oracle_input
from tests.helpers.backbone_checks import oracle_state, scatter_batch_norms
from tests.helpers.numerics import assert_same_in_float64, in_float64

NAMES = [
    *("resnet18", "resnet34", "resnet34_half", "resnet50", "resnet50_half", "resnet101", "resnet152"),
    *(
        "resnet18_cifar",
        "resnet34_cifar",
        "resnet50_cifar",
        "resnet101_cifar",
        "resnet152_cifar",
        "darknet19",
        "darknet53",
    ),
    *("csp_darknet_nano", "csp_darknet_tiny", "csp_darknet_s", "csp_darknet_m", "csp_darknet_l", "csp_darknet_x"),
    *("cspresnet_xs", "cspresnet_s", "cspresnet_m", "cspresnet_l", "cspresnet_x"),
    *("lcnet_035", "lcnet_075", "lcnet_100", "lcnet_150", "lcnet_200", "lcnet_250"),
    *("efficientnet_b0", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3"),
    *("esnet_075", "esnet_100", "esnet_125"),
    *(
        "vovnet19_slim_dw_se",
        "vovnet19_slim_se",
        "vovnet19_dw_se",
        "vovnet19_se",
        "vovnet39_se",
        "vovnet57_se",
        "vovnet99_se",
    ),
    *(
        "regnety_200mf",
        "regnety_400mf",
        "regnety_600mf",
        "regnety_800mf",
        "regnety_1_6gf",
        "regnety_3_2gf",
        "regnety_4_0gf",
        "regnety_6_4gf",
    ),
    *(
        "shufflenetv2_x0_5",
        "shufflenetv2_x1_0",
        "shufflenetv2_x1_5",
        "shufflenetv2_x2_0",
        "mobilenetv3_small",
        "mobilenetv3_large",
    ),
    *("rexnet_100", "rexnet_130", "rexnet_150", "rexnet_200"),
    *("repvgg_a0", "repvgg_a1", "repvgg_a2", "repvgg_b0", "repvgg_b1", "repvgg_b2", "repvgg_b3"),
    *("yolov5_n", "yolov5_s", "yolov5_m", "yolov5_l", "yolov5_x"),
]
SMALLEST = {  # one or two a family; the others are slow
    *("resnet18", "resnet18_cifar", "darknet19", "csp_darknet_nano", "cspresnet_xs", "lcnet_035", "efficientnet_b0"),
    *("vovnet19_slim_dw_se", "regnety_200mf", "shufflenetv2_x0_5", "mobilenetv3_small", "rexnet_100", "repvgg_a0"),
    *("esnet_075", "yolov5_n"),
}
FUSED_BELOW = 45e6  # parameters; larger networks have the blocks of smaller ones, and hundreds of MB in float64
NUMERIC = {*("resnet18", "cspresnet_xs", "lcnet_035", "vovnet19_slim_dw_se", "rexnet_100", "repvgg_a0", "yolov5_n")}
# the oracle's folder -> whose network it is, and our name
ORACLES = {
    "timm_darknet53": ("timm", "darknet53"),
    "timm_efficientnet_b1": ("timm", "efficientnet_b1"),
    "timm_ese_vovnet19b_slim_dw": ("timm", "vovnet19_slim_dw_se"),
    "timm_ese_vovnet39b": ("timm", "vovnet39_se"),
    "timm_regnety_002": ("timm", "regnety_200mf"),
    "timm_regnety_016": ("timm", "regnety_1_6gf"),
    "timm_repvgg_a0": ("timm", "repvgg_a0"),
    "timm_rexnet_100": ("timm", "rexnet_100"),
    "tv_efficientnet_b0": ("torchvision", "efficientnet_b0"),
    "tv_mobilenet_v3_large": ("torchvision", "mobilenetv3_large"),
    "tv_regnet_y_3_2gf": ("torchvision", "regnety_3_2gf"),
    "tv_regnet_y_400mf": ("torchvision", "regnety_400mf"),
    "tv_resnet18": ("torchvision", "resnet18"),
    "tv_resnet50": ("torchvision", "resnet50"),
    "tv_shufflenet_v2_x1_0": ("torchvision", "shufflenetv2_x1_0"),
}
NOT_ASKED = {"timm_cspdarknet53"}  # oracles of networks that are none of NAMES
FAST_ORACLES = {"timm_regnety_002", "tv_mobilenet_v3_large", "tv_shufflenet_v2_x1_0"}
FORBIDDEN = (
    nn.Upsample,
    nn.ReflectionPad2d,
    nn.ReplicationPad2d,
    nn.AdaptiveMaxPool2d,
)  # no deterministic backward on CUDA


def with_slow(names, fast) -> list:
    return [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in names]


def with_numeric(names) -> list:
    """The same, those of NUMERIC marked so."""
    values = [name if isinstance(name, str) else name.values[0] for name in names]
    return [
        pytest.param(value, marks=(*getattr(name, "marks", ()), pytest.mark.numeric)) if value in NUMERIC else name
        for value, name in zip(values, names)
    ]


def test_the_names_are_those_of_the_issue():
    assert sorted(NAMES) == sorted(NETWORKS)
    assert set(NAMES) <= set(list_models())


# ---------------------------------------------------------------------------------------------- promises


def shapes_in(module: nn.Module) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in module.state_dict().items()}


@pytest.mark.parametrize("name", NAMES)
def test_shapes(name):
    """Without values: classes, channels and strides as announced, and no part that CUDA cannot repeat."""
    maps: list[torch.Tensor] = []
    with torch.device("meta"):
        model = create_model(name, in_chans=4).eval()
        images = torch.empty(1, 4, 160, 224)
        model.backbone.register_forward_hook(lambda module, inputs, outputs: maps.extend(outputs))
        assert model(images).shape == (1, published_classes(name))
        backbone = create_model(name, in_chans=4, features_only=True).eval()
    assert shapes_in(backbone) == shapes_in(model.backbone), "so that its maps are those of the classifier's"
    assert model.backbone.out_strides == backbone.out_strides
    assert backbone.out_strides == backbone.strides == tuple(sorted(backbone.strides))
    expected = [(1, c, 160 // s, 224 // s) for c, s in zip(backbone.out_channels, backbone.out_strides, strict=True)]
    assert [tuple(x.shape) for x in maps] == expected
    wanted = {1, 2, 4, 8} if name.endswith("_cifar") else {8, 16, 32}
    assert wanted <= set(backbone.strides)
    first = model.get_submodule(model.input_layer)
    assert isinstance(first, nn.Conv2d)
    assert first.in_channels == 4
    assert not [part for part, module in model.named_modules() if isinstance(module, FORBIDDEN)]
    pools = [module for module in model.modules() if isinstance(module, nn.AdaptiveAvgPool2d)]
    assert {pool.output_size for pool in pools} <= {1}  # to one cell, torch takes the mean, which is deterministic


@pytest.mark.parametrize("name", with_numeric(with_slow(NAMES, SMALLEST)))
def test_promises(name):
    """A training step, the maps, a selection of them, the fused form, and the round trip of the state dict.

    All that follows the step is looked at on one image.
    """
    torch.manual_seed(0)
    model = create_model(name, num_classes=7, in_chans=2)
    images = torch.randn(2, 2, 16, 32) if name.endswith("_cifar") else torch.randn(2, 2, 32, 64)
    logits = model(images)
    assert logits.shape == (2, 7)
    logits.square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    parameters = dict(model.named_parameters())
    without = [key for key, parameter in parameters.items() if not parameter.grad.abs().sum() > 0]
    # A bias before a BatchNorm has no gradient.
    without = [key for key in without if key.replace(".conv.bias", ".bn.bias") not in parameters.keys() - {key}]
    assert not without, f"no gradient reaches {without}"
    model.zero_grad(set_to_none=True)

    scatter_batch_norms(model)
    model.eval()
    strides, maps, images = model.backbone.strides[-3:-1], [], images[:1]
    keep = model.backbone.register_forward_hook(lambda module, inputs, outputs: maps.extend(outputs))
    with torch.no_grad():
        expected = model(images)
        keep.remove()
        with torch.device("meta"):  # without values: those of the first network are taken
            selected = create_model(name, in_chans=2, features_only=True, out_strides=strides[::-1]).eval()
            other = create_model(name, num_classes=7, in_chans=2).eval()
        own = selected.state_dict()
        kept = {key: value for key, value in model.backbone.state_dict().items() if key in own}
        selected.load_state_dict(kept, assign=True)
        assert selected.out_strides == strides
        for found, whole, channels in zip(selected(images), maps[-3:-1], selected.out_channels, strict=True):
            assert torch.equal(found, whole)
            assert found.shape[1] == channels

        if sum(parameter.numel() for parameter in model.parameters()) < FUSED_BELOW:
            precise = in_float64(model)
            fused = fuse(precise)
            assert not [module for module in fused.modules() if isinstance(module, nn.BatchNorm2d)]
            assert_same_in_float64(fused(images), precise(images))

        other.load_state_dict(model.state_dict(), strict=True, assign=True)
        assert torch.equal(other(images), expected)


@pytest.mark.parametrize("name", sorted(SMALLEST))  # of the others the depth and the width are other ones
def test_initial_values_come_from_the_global_generator(name):
    """The same seed gives the same network, another seed another one."""
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(create_model(name, num_classes=3).state_dict())
    once, again, other = states
    assert all(torch.equal(value, again[key]) for key, value in once.items())
    assert not torch.equal(once["fc.weight"], other["fc.weight"])
    with torch.device("meta"):
        first = f"{create_model(name, num_classes=3).input_layer}.weight"
    assert not torch.equal(once[first], other[first])
    assert all(value.isfinite().all() for value in once.values())


# what has no residual branch that could be left out, or none that ends in a BatchNorm
WITHOUT_DROP_PATH = ("darknet19", "esnet", "lcnet", "shufflenetv2", "vovnet19")
WITHOUT_ZERO_INIT = ("darknet19", "esnet", "lcnet", "shufflenetv2", "vovnet", "cspresnet")


@pytest.mark.parametrize("name", NAMES)
def test_dropout_and_drop_path_act_or_are_refused(name):
    """No keyword is taken in silence: it changes the network, or the error names it."""
    with torch.device("meta"):
        assert create_model(name, dropout=0.25).dropout.p == 0.25
        if name.startswith(WITHOUT_DROP_PATH):
            with pytest.raises(ValueError, match="drop_path"):
                create_model(name, drop_path=0.5)
            return
        for rate in (-0.1, 1.0, 1.5):
            with pytest.raises(ValueError, match=f"drop_path={rate}: a probability, at least 0 and below 1"):
                create_model(name, drop_path=rate)
        changed = create_model(name, drop_path=0.5)
    rates = [module.p for module in changed.modules() if isinstance(module, StochasticDepth)]
    acting = [rate for rate in rates if rate > 0]  # a block without a shortcut has none
    assert acting == sorted(acting)
    assert acting[-1] > 0.3


@pytest.fixture
def no_kernels_are_drawn(monkeypatch):
    """What stands in kernels and matrices is left to chance: in large networks their draws take seconds."""
    for method in ("normal_", "uniform_"):
        draw = getattr(torch.Tensor, method)
        monkeypatch.setattr(
            torch.Tensor, method, lambda x, *args, draw=draw, **how: x if x.ndim > 1 else draw(x, *args, **how)
        )


@pytest.mark.usefixtures("no_kernels_are_drawn")  # only vectors are looked at
@pytest.mark.parametrize("name", with_slow(NAMES, SMALLEST))
def test_zero_init_starts_at_zero_or_is_refused(name):
    if name.startswith(WITHOUT_ZERO_INIT):
        with pytest.raises(ValueError, match="zero_init"):
            create_model(name, num_classes=2, zero_init=True)
        return
    plain, model = create_model(name, num_classes=2), create_model(name, num_classes=2, zero_init=True)
    zeros = {key for key, value in model.named_parameters() if value.ndim == 1 and not value.any()}
    zeros -= {key for key, value in plain.named_parameters() if value.ndim == 1 and not value.any()}
    assert zeros
    norms = {key for key, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert all(key.removesuffix(".weight") in norms for key in zeros)


@pytest.mark.parametrize("size", ["xs", "s", "m", "l", "x"])
def test_cspresnet_is_the_backbone_of_ppyoloe(size):
    """The same arrays of the same shapes, with the learnt factors too."""
    with torch.device("meta"):
        for use_alpha in (False, True):
            ours = create_model(f"cspresnet_{size}", use_alpha=use_alpha).backbone.state_dict()
            detector = create_model(f"ppyoloe_{size}", use_alpha=use_alpha).backbone.state_dict()
            assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in detector.items()}


def test_cspresnet_starts_with_paddles_values():
    """N(0, 2 / fan-in), where torch's own values have a sixth of this variance; biases 0."""
    torch.manual_seed(0)
    convs = [m for m in create_model("cspresnet_xs").backbone.modules() if isinstance(m, nn.Conv2d)]
    for conv in convs:
        if conv.weight.numel() > 2000:
            assert conv.weight.std().item() == pytest.approx((2 / conv.weight[0].numel()) ** 0.5, rel=0.1)
    assert not any(conv.bias.any() for conv in convs if conv.bias is not None)


def test_stochastic_depth_of_cspresnet_leaves_the_input():
    block = create_model("cspresnet_xs", drop_path=0.9).backbone.stages[-1].blocks[-1].train()
    assert block.drop_path.p == pytest.approx(0.9)
    x = torch.randn(64, block.conv1.conv.in_channels, 4, 4)
    torch.manual_seed(0)
    left = [torch.equal(after, before) for after, before in zip(block(x), x, strict=True)]
    assert 48 <= sum(left) < 64  # 0.9 of 64 is 57.6, three standard deviations are 7.2
    assert not any(torch.equal(after, before) for after, before in zip(block.eval()(x), x, strict=True))


# ---------------------------------------------------------------------------------------------- released weights


def test_every_oracle_is_compared(shared):
    assert {folder.name for folder in (shared / "oracles/backbones").iterdir()} == ORACLES.keys() | NOT_ASKED


@pytest.mark.parametrize("oracle", with_slow(ORACLES, FAST_ORACLES))
def test_converted_weights_give_the_logits_of_the_original(tmp_path, shared, oracle):
    """From a file as torch.save writes it, by the converter and `pretrained`, to the reference's logits in float64."""
    source, name = ORACLES[oracle]
    folder = shared / "oracles/backbones" / oracle
    figures, shape = np.load(folder / "out.npz"), json.loads((folder / "meta.json").read_text())["input"]["shape"]
    limit = json.loads((shared / "oracles/tolerances.json").read_text())[f"backbones/{oracle}"]["cal"]["max_abs"]
    theirs = oracle_state(shared, oracle)
    torch.save(theirs, tmp_path / "theirs.pth")
    lines = convert(source=source, model_name=name, file=tmp_path / "theirs.pth", output=tmp_path / "ours.pth")
    assert f"used: {len(theirs)} arrays" in lines
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = create_model(name, pretrained=tmp_path / "ours.pth").double().eval()
    images = torch.from_numpy(oracle_input(oracle, tuple(shape))).double()
    with torch.no_grad():
        np.testing.assert_allclose(model(images).numpy(), figures["cal/logits"], rtol=0, atol=3 * limit)
