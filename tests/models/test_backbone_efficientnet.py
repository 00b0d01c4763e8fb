"""EfficientNet against torchvision's and timm's: logits, maps, counts; and what every backbone promises."""

import pytest
import torch
import torchvision
from torch import nn

from public.models.attention import SqueezeExcitation
from public.models.backbones import efficientnet
from public.models.backbones.mobilenetv3 import InvertedResidual
from public.models.layers import StochasticDepth
from public.weights.backbones.efficientnet import rename
from tests.figures.fill_rule import oracle_input
from tests.helpers.backbone_checks import (
    build_on_meta,
    check_oracle,
    check_second_implementation,
    filled,
    load_figures,
    num_parameters,
    oracle_state,
)

MAPS = {"features.1": 0, "features.2": 1, "features.3": 2, "features.5": 3, "features.7": 4}


def test_oracle_of_torchvision(shared):
    model = efficientnet.build("efficientnet_b0", num_classes=1000)
    model.load_state_dict(rename(oracle_state(shared, "tv_efficientnet_b0"), "efficientnet_b0"), strict=True)
    check_oracle(shared, "tv_efficientnet_b0", model, MAPS)


def test_oracle_of_timm(shared):
    model = efficientnet.build("efficientnet_b1", num_classes=1000)
    model.load_state_dict(rename(oracle_state(shared, "timm_efficientnet_b1"), "efficientnet_b1"), strict=True)
    maps = {"blocks.0": 0, "blocks.1": 1, "blocks.2": 2, "blocks.4": 3, "blocks.6": 4}
    check_oracle(shared, "timm_efficientnet_b1", model, maps)


def test_reduced_figures_of_timm():
    """The same without the reference data: plain filled statistics, with which the logits are thousands."""
    figures = load_figures("timm_efficientnet_b1")
    state = filled(figures["entries"])
    state |= {name.replace("running_var", "num_batches_tracked"): torch.tensor(0) for name in state if "var" in name}
    model = efficientnet.build("efficientnet_b1", num_classes=1000)
    model.load_state_dict(rename(state, "efficientnet_b1"), strict=True)
    with torch.no_grad():
        logits = model.double().eval()(
            torch.from_numpy(oracle_input("timm_efficientnet_b1", (2, 3, 224, 224))).double()
        )
    expected = torch.tensor(figures["logits"], dtype=torch.float64)
    assert expected.std() > 100 * figures["limit"]
    assert (logits[:, :100] - expected).abs().max() < 3 * figures["limit"]


@pytest.mark.parametrize("name", efficientnet.NETWORKS)
def test_same_outputs_as_torchvision(name):
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, name)(weights=None, num_classes=20)
    check_second_implementation(theirs, efficientnet.build(name, num_classes=20), rename, name, MAPS)


@pytest.mark.parametrize("name", efficientnet.NETWORKS)
def test_published_numbers(name):
    """Parameters as torchvision documents them, and its dropout."""
    published = torchvision.models.get_model_weights(name).DEFAULT.meta["num_params"]
    model = build_on_meta(efficientnet, name, num_classes=1000)
    assert num_parameters(model) == published
    theirs = getattr(torchvision.models, name)
    with torch.device("meta"):
        assert model.dropout.p == theirs(weights=None).classifier[0].p
    assert efficientnet.build("efficientnet_b0", num_classes=2, dropout=0.0).dropout.p == 0


def test_stochastic_depth_rises_linearly_and_acts_in_training_only():
    torch.manual_seed(0)
    model = efficientnet.build("efficientnet_b0", num_classes=5, drop_path=0.8, dropout=0.0)
    rates = [module.p for module in model.modules() if isinstance(module, StochasticDepth)]
    assert rates == pytest.approx([0.8 * number / 16 for number in range(16)])
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0  # two passes in training mode must see the same statistics
    images = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        assert not torch.equal(model(images), model(images))
        model.eval()
        plain = efficientnet.build("efficientnet_b0", num_classes=5).eval()
        plain.load_state_dict(model.state_dict())
        assert torch.equal(model(images), plain(images))


def test_zero_init_makes_each_block_with_a_shortcut_the_identity():
    torch.manual_seed(0)
    model = efficientnet.build("efficientnet_b0", num_classes=5, zero_init=True).eval()
    blocks = [module for module in model.modules() if isinstance(module, InvertedResidual)]
    assert sum(block.has_shortcut for block in blocks) == 9  # 16 blocks, the first of seven stages without
    for block in blocks:
        first = block.depthwise if block.expand is None else block.expand
        x = torch.randn(2, first.conv.in_channels, 8, 8)
        with torch.no_grad():
            y = block(x)
        assert torch.equal(y, x) if block.has_shortcut else y.abs().sum() > 0


def test_initial_values_are_those_of_torchvision():
    """The spread of each layer's weights, from two independent draws of up to a million numbers."""
    torch.manual_seed(0)
    name = "efficientnet_b0"
    theirs = rename(torchvision.models.efficientnet_b0(weights=None).state_dict(), name)
    ours = efficientnet.build(name, num_classes=1000).state_dict()
    for array, value in theirs.items():
        if value.numel() > 2000:
            assert ours[array].std().item() == pytest.approx(value.std().item(), rel=0.1), array
        elif array.endswith("bias") or ".bn." in array:
            assert torch.equal(ours[array], value), array


@pytest.mark.parametrize("array", ["features.1.0.block.3.0.weight", "fc.weight", "features.0.1.gamma"])
def test_a_foreign_array_is_named(array):
    state = {"features.0.0.weight": torch.zeros(32, 3, 3, 3), array: torch.zeros(1)}
    with pytest.raises(ValueError, match=f"'{array}' belongs to no torchvision's efficientnet_b0"):
        rename(state, "efficientnet_b0")


def test_batch_norm_and_activation_are_keywords():
    model = efficientnet.build("efficientnet_b0", num_classes=5, bn_eps=1e-3, bn_momentum=0.01, activation="hardswish")
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.01)}
    inside = [module for module in model.modules() if isinstance(module, SqueezeExcitation)]
    assert {type(module.act) for module in inside} == {nn.SiLU}
    assert isinstance(model.backbone.stem.act, nn.Hardswish)
    with pytest.raises(TypeError, match="head_bias"):
        efficientnet.build("efficientnet_b0", num_classes=5, head_bias=True)
