"""ResNet against torchvision's figures, torchvision's own networks, and the recipes' counts."""

import json

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from public.models.backbones import resnet
from public.models.backbones.resnet import ResidualBlock
from public.models.layers import StochasticDepth
from public.weights.backbones.resnet import rename
from tests.figures.fill_rule import oracle_input
from tests.helpers.backbone_checks import (
    build_on_meta,
    check_second_implementation,
    num_parameters,
    oracle_state,
)
from tests.helpers.numerics import assert_same_in_float64

TORCHVISION = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
MAPS = {f"layer{number + 1}": number for number in range(4)}
# parameters, as the recipes measured them on the networks that these follow
COUNTS = {
    "resnet34_half": (1000, 5_584_776),
    "resnet50_half": (1000, 6_917_640),
    "resnet18_cifar": (100, 11_220_132),
    "resnet34_cifar": (100, 21_328_292),
    "resnet50_cifar": (100, 23_705_252),
    "resnet101_cifar": (100, 42_697_380),
    "resnet152_cifar": (100, 58_341_028),
}


def small(**keywords) -> nn.Module:
    torch.manual_seed(0)
    return resnet.build("resnet18", num_classes=5, **keywords)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_figures_of_the_released_network(shared, name):
    """Logits and maps in float64; the maps within the relative rounding that the logits of the reference have."""
    oracle = f"tv_{name}"
    figures = np.load(shared / "oracles/backbones" / oracle / "out.npz")
    limits = json.loads((shared / "oracles/tolerances.json").read_text())[f"backbones/{oracle}"]["cal"]
    model = resnet.build(name, num_classes=1000)
    model.load_state_dict(rename(oracle_state(shared, oracle), name), strict=True)
    model.double().eval()
    images = torch.from_numpy(oracle_input(oracle, (2, 3, 224, 224))).double()
    with torch.no_grad():
        maps = model.backbone(images)
        logits = model.fc(model.final(maps[-1]))
    np.testing.assert_allclose(logits.numpy(), figures["cal/logits"], rtol=0, atol=3 * limits["max_abs"])
    for theirs, stage in MAPS.items():
        ours = maps[stage]
        assert tuple(ours.shape) == tuple(figures[f"cal/stage/{theirs}/shape"])
        limit = 3 * limits["rel_to_scale"] * ours.abs().max().item()
        for kind, value in (("chmean", ours.mean((0, 2, 3))), ("first", ours.flatten()[:64])):
            np.testing.assert_allclose(value.numpy(), figures[f"cal/stage/{theirs}/{kind}"], rtol=0, atol=limit)


@pytest.mark.parametrize("name", TORCHVISION)
def test_same_outputs_as_torchvision(name):
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, name)(weights=None, num_classes=20)
    check_second_implementation(theirs, resnet.build(name, num_classes=20), rename, name, MAPS)


@pytest.mark.parametrize("name", ["resnet34_half", "resnet50_half"])
def test_halves_are_torchvisions_network_of_half_the_width(name):
    """torchvision's class takes a stem of 32 channels, and a second implementation of the halves is one line away."""
    block = torchvision.models.resnet.BasicBlock if name == "resnet34_half" else torchvision.models.resnet.Bottleneck
    torch.manual_seed(0)
    theirs = torchvision.models.ResNet(block, [3, 4, 6, 3], num_classes=20)
    theirs.inplanes = 32
    theirs.conv1, theirs.bn1 = nn.Conv2d(3, 32, 7, 2, 3, bias=False), nn.BatchNorm2d(32)
    for number, blocks in enumerate((3, 4, 6, 3)):
        layer = theirs._make_layer(block, 32 * 2**number, blocks, stride=1 if number == 0 else 2)
        setattr(theirs, f"layer{number + 1}", layer)
    theirs.fc = nn.Linear(256 * block.expansion, 20)
    check_second_implementation(theirs, resnet.build(name, num_classes=20), rename, name, MAPS)


@pytest.mark.parametrize("name", ["resnet18_cifar", pytest.param("resnet50_cifar", marks=pytest.mark.slow)])
def test_small_images_lack_the_pooling_and_the_stride_of_the_stem(name):
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, name.removesuffix("_cifar"))(weights=None, num_classes=20)
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    check_second_implementation(theirs, resnet.build(name, num_classes=20), rename, name, MAPS)


@pytest.mark.parametrize("name", resnet.NETWORKS)
def test_published_numbers_of_parameters(name):
    if name in TORCHVISION:
        num_classes, count = 1000, torchvision.models.get_model_weights(name).DEFAULT.meta["num_params"]
    else:
        num_classes, count = COUNTS[name]
    assert num_parameters(build_on_meta(resnet, name, num_classes=num_classes)) == count


def test_initial_values_are_those_of_torchvision():
    """The spread of each layer's weights, from two independent draws; and torch's own for small images."""
    torch.manual_seed(0)
    theirs = rename(torchvision.models.resnet18(weights=None).state_dict(), "resnet18")
    ours = resnet.build("resnet18", num_classes=1000).state_dict()
    for array, value in theirs.items():
        if value.numel() > 2000:
            assert ours[array].std().item() == pytest.approx(value.std().item(), rel=0.1), array
        elif ".bn." in array:
            assert torch.equal(ours[array], value), array
    plain = resnet.build("resnet18_cifar", num_classes=100).backbone.stages[1][0].layers.conv1.conv
    fresh = nn.Conv2d(64, 128, 3)
    assert plain.weight.std().item() == pytest.approx(fresh.weight.std().item(), rel=0.05)
    assert plain.weight.abs().max() <= (64 * 9) ** -0.5  # uniform, where the others are normal


def test_zero_init_makes_each_block_its_shortcut():
    blocks = [module for module in small(zero_init=True).eval().modules() if isinstance(module, ResidualBlock)]
    assert len(blocks) == 8
    for block in blocks:
        x = torch.randn(2, block.layers.conv1.conv.in_channels, 8, 8)
        with torch.no_grad():
            shortcut = x if block.shortcut is None else block.shortcut(x)
            assert torch.equal(block(x), shortcut.relu())
    assert all(block.layers[-1].bn.weight.min() == 1 for block in small().modules() if isinstance(block, ResidualBlock))


def test_stochastic_depth_rises_linearly_and_acts_in_training_only():
    model = small(drop_path=0.7)
    rates = [module.p for module in model.modules() if isinstance(module, StochasticDepth)]
    assert rates == pytest.approx([0.7 * number / 7 for number in range(8)])
    images = torch.randn(8, 3, 64, 64)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    with torch.no_grad():
        assert not torch.equal(model(images), model(images))
        plain = small().eval()
        assert torch.equal(model.eval()(images), plain(images))
    for wrong in (-0.1, 1.0):
        with pytest.raises(ValueError, match=f"drop_path={wrong}"):
            small(drop_path=wrong)


def test_dropout_acts_on_the_features_in_training_only():
    model = small(dropout=0.5)
    seen = []
    model.fc.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(torch.randn(2, 3, 64, 64))
        model.eval()(torch.randn(2, 3, 64, 64))
    shares = [(features == 0).float().mean().item() for features in seen]
    assert 0.4 < shares[0] < 0.6
    assert shares[1] < 0.1


@pytest.mark.numeric
def test_attention_stands_before_the_sum_and_leaves_the_published_network_alone():
    """With zeros in its last two convolutions each factor is 1/2, so each block adds a quarter of what it added."""
    model = small(attention="coordinate").double().eval()
    block = model.backbone.stages[0][0]
    for conv in (block.attention.rows, block.attention.columns):
        nn.init.zeros_(conv.weight)
        nn.init.zeros_(conv.bias)
    x = torch.randn(2, 64, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        assert_same_in_float64(block(x), (x + block.layers(x) / 4).relu())
    assert not [name for name in small().state_dict() if "attention" in name]
    with pytest.raises(ValueError, match="unknown attention 'squeeze'"):
        small(attention="squeeze")


def test_activation_and_batch_norm_are_keywords():
    model = small(activation="acon_c", bn_eps=1e-3, bn_momentum=0.01)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.01)}
    assert not [module for module in model.modules() if isinstance(module, nn.ReLU)]
    assert model(torch.randn(2, 3, 64, 64)).isfinite().all()
    with pytest.raises(TypeError, match="negative_slope"):
        small(negative_slope=0.1)


@pytest.mark.parametrize("array", ["layer1.0.conv3.weight", "fc.gamma", "layer5.0.conv1.weight", "stem.conv.weight"])
def test_a_foreign_array_is_named(array):
    with pytest.raises(ValueError, match=f"'{array}' belongs to no torchvision's or timm's resnet18"):
        rename({"conv1.weight": torch.zeros(64, 3, 7, 7), array: torch.zeros(1)}, "resnet18")
