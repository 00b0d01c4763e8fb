"""RegNetY against torchvision's and timm's: logits, maps, counts; and what every backbone promises."""

import pytest
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from public.models.backbones import regnet
from public.weights.backbones.regnet import build_keywords, rename
from tests.helpers.backbone_checks import (
    build_on_meta,
    check_oracle,
    check_second_implementation,
    num_parameters,
    oracle_state,
    scatter_batch_norms,
)
from tests.helpers.numerics import assert_same_in_float64

ORACLES = {  # -> our name, and theirs of the first two stages
    "timm_regnety_002": ("regnety_200mf", "s1", "s2"),
    "timm_regnety_016": ("regnety_1_6gf", "s1", "s2"),
    "tv_regnet_y_400mf": ("regnety_400mf", "trunk_output.block1", "trunk_output.block2"),
    "tv_regnet_y_3_2gf": ("regnety_3_2gf", "trunk_output.block1", "trunk_output.block2"),
}
TORCHVISION = {"regnety_400mf": "even", "regnety_800mf": "up", "regnety_1_6gf": "even", "regnety_3_2gf": "even"}
PUBLISHED = {  # widths, depths, parameters in millions and MACs in billions as timm and the paper's authors print them
    "regnety_200mf": ((24, 56, 152, 368), (1, 1, 4, 7), 3.16, 0.2),
    "regnety_400mf": ((48, 104, 208, 440), (1, 3, 6, 6), 4.34, 0.4),
    "regnety_600mf": ((48, 112, 256, 608), (1, 3, 7, 4), 6.06, 0.6),
    "regnety_800mf": ((64, 128, 320, 768), (1, 3, 8, 2), 6.26, 0.8),
    "regnety_1_6gf": ((48, 120, 336, 888), (2, 6, 17, 2), 11.20, 1.6),
    "regnety_3_2gf": ((72, 216, 576, 1512), (2, 5, 13, 1), 19.44, 3.2),
    "regnety_4_0gf": ((128, 192, 512, 1088), (2, 6, 12, 2), 20.65, 4.0),
    "regnety_6_4gf": ((144, 288, 576, 1296), (2, 7, 14, 2), 30.58, 6.4),
}


def theirs_of(name: str, **keywords) -> nn.Module:
    """torchvision's network for our `name`, with its initial values."""
    return torchvision.models.get_model(name.replace("regnety", "regnet_y"), weights=None, **keywords)


def macs(model: nn.Module) -> int:
    """Of one image of 224 x 224 pixels; `model` is on the meta device."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, 3, 224, 224, device="meta"))
    return counter.get_total_flops() // 2


def blocks_of(model: nn.Module) -> list[regnet.YBlock]:
    return [module for module in model.modules() if isinstance(module, regnet.YBlock)]


@pytest.mark.parametrize("oracle", ORACLES)
def test_oracles(shared, oracle):
    """The maps of the later stages are seen through the logits, and in the comparison with torchvision."""
    name, *maps = ORACLES[oracle]
    state = rename(oracle_state(shared, oracle), name)
    assert build_keywords(state, name) == {}
    model = regnet.build(name, num_classes=1000)
    model.load_state_dict(state, strict=True)
    check_oracle(shared, oracle, model, {module: stage for stage, module in enumerate(maps)})


@pytest.mark.parametrize("name", TORCHVISION)
def test_same_outputs_as_torchvision(name):
    torch.manual_seed(0)
    theirs = theirs_of(name, num_classes=20)
    keywords = build_keywords(rename(theirs.state_dict(), name), name)
    assert keywords.get("rounding", "even") == TORCHVISION[name]
    maps = {f"trunk_output.block{stage + 1}": stage for stage in range(4)}
    check_second_implementation(theirs, regnet.build(name, num_classes=20, **keywords), rename, name, maps)


@pytest.mark.parametrize("name", TORCHVISION)
def test_numbers_that_torchvision_documents(name):
    card = torchvision.models.get_model_weights(name.replace("regnety", "regnet_y")).DEFAULT.meta
    model = build_on_meta(regnet, name, num_classes=1000, rounding=TORCHVISION[name])
    assert num_parameters(model) == card["num_params"]
    assert macs(model) / 1e9 == pytest.approx(card["_ops"], abs=0.0006)


@pytest.mark.parametrize("name", regnet.NETWORKS)
def test_published_numbers(name):
    """The group width is the number of channels of a group: read as the number of groups, the MACs would be others."""
    widths, depths, parameters, giga_macs = PUBLISHED[name]
    assert regnet.stage_shapes(name) == (list(widths), list(depths))
    model = build_on_meta(regnet, name, num_classes=1000)
    assert model.backbone.out_channels == widths
    assert model.backbone.out_strides == (4, 8, 16, 32)
    assert num_parameters(model) / 1e6 == pytest.approx(parameters, abs=0.0051)
    assert macs(model) / 1e9 == pytest.approx(giga_macs, rel=0.015)


def test_rounding_matters_at_800mf_only():
    differing = [
        name
        for name in regnet.NETWORKS
        if regnet.stage_shapes(name, rounding="up") != regnet.stage_shapes(name, rounding="even")
    ]
    assert differing == ["regnety_800mf"]
    with pytest.raises(ValueError, match="rounding='down': write 'even'"):
        regnet.build("regnety_800mf", num_classes=2, rounding="down")


def test_initial_values_are_those_of_torchvision():
    """The spread of each layer's weights, from two independent draws."""
    torch.manual_seed(0)
    name = "regnety_400mf"
    theirs = rename(theirs_of(name).state_dict(), name)
    ours = regnet.build(name, num_classes=1000).state_dict()
    for array, value in theirs.items():
        if value.numel() > 2000:
            assert ours[array].std().item() == pytest.approx(value.std().item(), rel=0.1), array
        elif ".bn." in array or array == "fc.bias":
            assert torch.equal(ours[array], value), array


# ---------------------------------------------------------------------------------------------- keywords


def test_stochastic_depth_rises_linearly_to_the_last_block():
    model = regnet.build("regnety_200mf", num_classes=5, drop_path=0.6)
    assert [block.drop_path.p for block in blocks_of(model)] == pytest.approx(
        [0.6 * number / 12 for number in range(13)]
    )
    with pytest.raises(ValueError, match=r"drop_path=1.0: a probability"):
        regnet.build("regnety_200mf", num_classes=5, drop_path=1.0)


def test_stochastic_depth_leaves_the_shortcut_or_doubles_the_rest():
    torch.manual_seed(0)
    block = blocks_of(regnet.build("regnety_200mf", num_classes=5))[-1]
    scatter_batch_norms(block)
    block.double().eval()
    x = torch.randn(32, 368, 3, 3, dtype=torch.float64)
    with torch.no_grad():
        rest = block.conv3(block.se(block.conv2(block.conv1(x))))
        assert_same_in_float64(block(x), (x + rest).relu())
        block.drop_path.p = 0.5
        assert_same_in_float64(block(x), (x + rest).relu())  # nothing is dropped in eval mode
        block.drop_path.train()
        y = block(x)
    is_dropped = (y == x.relu()).flatten(1).all(dim=1)
    assert 0 < is_dropped.sum() < 32
    assert_same_in_float64(y[~is_dropped], (x + 2 * rest).relu()[~is_dropped])


def test_zero_init_makes_each_block_its_shortcut():
    torch.manual_seed(0)
    blocks = blocks_of(regnet.build("regnety_200mf", num_classes=5, zero_init=True).eval())
    assert [block.shortcut is not None for block in blocks] == [True, True, True, *[False] * 3, True, *[False] * 6]
    for block in blocks:
        x = torch.randn(2, block.conv1.conv.in_channels, 6, 6)
        shortcut = x if block.shortcut is None else block.shortcut(x)
        y = block(x)
        assert torch.equal(y, shortcut.relu())
        assert y.abs().sum() > 0
        y.sum().backward()
        assert block.conv3.bn.weight.grad.abs().sum() > 0  # it can leave 0


def test_other_keywords():
    model = regnet.build(
        "regnety_200mf", num_classes=5, dropout=0.25, bn_eps=1e-3, bn_momentum=0.01, activation="hardswish"
    )
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.01)}
    assert model.dropout.p == 0.25
    activations = [type(module) for module in model.modules() if isinstance(module, nn.Hardswish | nn.ReLU)]
    assert activations.count(nn.ReLU) == 13  # one in each squeeze and excitation
    assert activations.count(nn.Hardswish) == 1 + 3 * 13
    with pytest.raises(TypeError, match="se_ratio"):
        regnet.build("regnety_200mf", num_classes=5, se_ratio=0.25)


# ---------------------------------------------------------------------------------------------- names


def test_names_of_timm_and_torchvision():
    """One array of each kind, by the names that the released files have."""
    pairs = {
        "stem.conv.weight": "stem.0.weight",
        "stem.bn.running_var": "stem.1.running_var",
        "s3.b2.conv1.conv.weight": "trunk_output.block3.block3-1.f.a.0.weight",
        "s3.b2.conv2.bn.bias": "trunk_output.block3.block3-1.f.b.1.bias",
        "s3.b2.se.fc1.weight": "trunk_output.block3.block3-1.f.se.fc1.weight",
        "s3.b2.se.fc2.bias": "trunk_output.block3.block3-1.f.se.fc2.bias",
        "s3.b2.conv3.conv.weight": "trunk_output.block3.block3-1.f.c.0.weight",
        "s4.b1.downsample.conv.weight": "trunk_output.block4.block4-0.proj.0.weight",
        "s4.b1.downsample.bn.num_batches_tracked": "trunk_output.block4.block4-0.proj.1.num_batches_tracked",
        "head.fc.weight": "fc.weight",
    }
    value = torch.zeros(1)
    ours = set()
    for timm, torchvision_name in pairs.items():
        renamed = rename({timm: value}, "regnety_400mf")
        assert renamed == rename({torchvision_name: value}, "regnety_400mf")
        ours |= renamed.keys()
    assert len(ours) == len(pairs)
    assert "backbone.stages.3.0.shortcut.bn.num_batches_tracked" in ours


@pytest.mark.parametrize(
    "array",
    [
        "s1.b2.conv1.conv.weight",  # of a deeper network
        "s2.b2.downsample.conv.weight",  # only a stage's first block has one
        "trunk_output.block2.block1-0.f.a.0.weight",
        "head.fc.scale",
        "backbone.stem.conv.weight",  # ours, not theirs
    ],
)
def test_a_foreign_array_is_named(array):
    state = {"stem.conv.weight": torch.zeros(32, 3, 3, 3), array: torch.zeros(1)}
    with pytest.raises(ValueError, match=f"'{array}' belongs to no regnety_400mf, neither"):
        rename(state, "regnety_400mf")


def test_a_mixed_file_is_refused():
    with pytest.raises(ValueError, match=r"'fc\.bias' and another one both become 'fc\.bias'; two networks are mixed"):
        rename({"head.fc.bias": torch.zeros(1), "fc.bias": torch.zeros(1)}, "regnety_400mf")


def test_renaming_draws_no_random_number():
    before = torch.get_rng_state()
    rename({"fc.bias": torch.zeros(1)}, "regnety_6_4gf")
    assert torch.equal(torch.get_rng_state(), before)
