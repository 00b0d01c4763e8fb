"""MobileNetV3 against torchvision's: logits, maps, counts; timm's names; and what every backbone promises."""

import itertools

import pytest
import torch
import torchvision
from torch import nn

from public.models.backbones import mobilenetv3
from public.models.backbones.mobilenetv3 import InvertedResidual, round_channels
from public.models.layers import StochasticDepth
from public.weights.backbones.mobilenetv3 import keywords, rename
from tests.helpers.backbone_checks import (
    build_on_meta,
    check_oracle,
    check_second_implementation,
    num_parameters,
    oracle_state,
    scatter_batch_norms,
)

THEIRS = {"mobilenetv3_small": "mobilenet_v3_small", "mobilenetv3_large": "mobilenet_v3_large"}
MAPS = {  # torchvision's block -> the number of our stage that it ends
    "mobilenetv3_small": {"features.1": 0, "features.3": 1, "features.8": 2, "features.11": 3},
    "mobilenetv3_large": {"features.1": 0, "features.3": 1, "features.6": 2, "features.12": 3, "features.15": 4},
}
STRIDES = {"mobilenetv3_small": (4, 8, 16, 32), "mobilenetv3_large": (2, 4, 8, 16, 32)}


def test_oracle_of_torchvision(shared):
    name = "mobilenetv3_large"
    model = mobilenetv3.build(name, num_classes=1000)
    model.load_state_dict(rename(oracle_state(shared, "tv_mobilenet_v3_large"), name), strict=True)
    check_oracle(shared, "tv_mobilenet_v3_large", model, MAPS[name])


@pytest.mark.parametrize("name", THEIRS)
def test_same_outputs_as_torchvision(name):
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, THEIRS[name])(weights=None, num_classes=20)
    model = mobilenetv3.build(name, num_classes=20)
    assert model.backbone.strides == STRIDES[name]
    check_second_implementation(theirs, model, rename, name, MAPS[name])


@pytest.mark.parametrize("name", THEIRS)
def test_published_numbers(name):
    """Parameters as torchvision documents them, and its dropout and BatchNorm."""
    weights = torchvision.models.get_model_weights(THEIRS[name]).DEFAULT
    model = build_on_meta(mobilenetv3, name, num_classes=1000)
    assert num_parameters(model) == weights.meta["num_params"]
    with torch.device("meta"):
        theirs = getattr(torchvision.models, THEIRS[name])(weights=None)
    assert model.dropout.p == theirs.classifier[2].p
    settings = [
        {(part.eps, part.momentum) for part in network.modules() if isinstance(part, nn.BatchNorm2d)}
        for network in (model, theirs)
    ]
    assert settings[0] == settings[1] == {(1e-3, 0.01)}


# ---------------------------------------------------------------------------------------------- timm's names

# The layers of timm's mobilenetv3_small_100 as its checkpoint lists them, in the order of computation: `s` marks a squeeze
# and excitation.  Written down from timm's description of the network, apart from the code under test.
TIMM_SMALL = (
    ("blocks.0.0", "dw s pw"),
    *((f"blocks.1.{number}", "pw dw pwl") for number in range(2)),
    *((f"blocks.2.{number}", "pw dw s pwl") for number in range(3)),
    *((f"blocks.3.{number}", "pw dw s pwl") for number in range(2)),
    *((f"blocks.4.{number}", "pw dw s pwl") for number in range(3)),
)


def timm_names() -> list[str]:
    """The arrays of timm's small network, in the order of computation."""

    def norm(name):
        return [f"{name}.{kind}" for kind in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")]

    names = ["conv_stem.weight", *norm("bn1")]
    for block, parts in TIMM_SMALL:
        number = itertools.count(1)
        for part in parts.split():
            if part == "s":
                layers = (f"{block}.se.conv_reduce", f"{block}.se.conv_expand")
                names += [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]
            else:
                names += [f"{block}.conv_{part}.weight", *norm(f"{block}.bn{next(number)}")]
    names += ["blocks.5.0.conv.weight", *norm("blocks.5.0.bn1")]
    return [*names, "conv_head.weight", "conv_head.bias", "classifier.weight", "classifier.bias"]


def test_a_checkpoint_of_timm_gives_the_same_network():
    """torchvision's arrays under timm's names: both lists run in the order of computation."""
    torch.manual_seed(0)
    theirs = torchvision.models.mobilenet_v3_small(weights=None, num_classes=20)
    scatter_batch_norms(theirs)
    state = dict(zip(timm_names(), theirs.state_dict().values(), strict=True))
    state["conv_head.weight"] = state["conv_head.weight"][:, :, None, None]
    expected = rename(theirs.state_dict(), "mobilenetv3_small")
    renamed = rename(state, "mobilenetv3_small")
    assert renamed.keys() == expected.keys()
    assert all(torch.equal(renamed[array], value) for array, value in expected.items())
    assert keywords(theirs.state_dict()) == {}
    model = mobilenetv3.build("mobilenetv3_small", num_classes=20, **keywords(state))
    assert {(part.eps, part.momentum) for part in model.modules() if isinstance(part, nn.BatchNorm2d)} == {(1e-5, 0.1)}


@pytest.mark.parametrize(
    ("stem", "array", "whose"),
    [
        ("features.0.0.weight", "features.16.0.weight", "torchvision's"),  # the large network has one of this name
        ("conv_stem.weight", "blocks.1.0.se.conv_reduce.weight", "timm's"),
        ("conv_stem.weight", "features.0.0.weight", "timm's"),
    ],
)
def test_a_foreign_array_is_named(stem, array, whose):
    with pytest.raises(ValueError, match=f"'{array}' belongs to no {whose} mobilenetv3_small"):
        rename({stem: torch.zeros(1), array: torch.zeros(1)}, "mobilenetv3_small")


# ---------------------------------------------------------------------------------------------- options


def test_stochastic_depth_and_zero_init():
    torch.manual_seed(0)
    model = mobilenetv3.build("mobilenetv3_small", num_classes=5, drop_path=0.5, zero_init=True)
    rates = [module.p for module in model.modules() if isinstance(module, StochasticDepth)]
    assert rates == pytest.approx([0.5 * number / 11 for number in range(11)])
    for block in model.modules():
        if isinstance(block, InvertedResidual):
            assert (block.project.bn.weight == 0).all() == block.has_shortcut
    assert sum(block.has_shortcut for block in model.modules() if isinstance(block, InvertedResidual)) == 6


def test_initial_values_are_those_of_torchvision():
    torch.manual_seed(0)
    name = "mobilenetv3_small"
    theirs = rename(torchvision.models.mobilenet_v3_small(weights=None).state_dict(), name)
    ours = mobilenetv3.build(name, num_classes=1000).state_dict()
    for array, value in theirs.items():
        if value.numel() > 2000:
            assert ours[array].std().item() == pytest.approx(value.std().item(), rel=0.1), array
        elif array.endswith("bias") or ".bn." in array:
            assert torch.equal(ours[array], value), array


def test_channels_are_rounded_as_in_the_released_networks():
    """Down by a tenth at most: 11 x 0.9 = 9.9 > 8, 44 -> 48 (half up), 75.6 -> 80 (72 is within a tenth, 76 is nearer 80)."""
    theirs = torchvision.models._utils._make_divisible
    for channels in [1, 4, 7.9, 8, 11, 12, 18, 19.2, 44, 75.6, 89.6, 179.2, 1000.3]:
        assert round_channels(channels) == theirs(channels, 8)
