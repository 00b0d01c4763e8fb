"""Re-parameterisation: the same function, fewer layers, and an original that stays as it was."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from public.models import create_model
from public.models.fuse import fuse
from public.models.layers import ConvBNAct, RepVGGBlock
from tests.helpers.numerics import assert_same_in_float64, in_float64


def randomise(model: nn.Module, seed: int) -> nn.Module:
    """Random parameters and running statistics, so that no branch is negligible and no BatchNorm the identity."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.3, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(module.bias, std=0.1, generator=generator)
        elif isinstance(module, RepVGGBlock) and module.alpha is not None:
            nn.init.uniform_(module.alpha, 0.5, 1.5, generator=generator)
        elif isinstance(module, nn.Conv2d):
            std = (2 / module.weight[0].numel()) ** 0.5
            nn.init.normal_(module.weight, std=std, generator=generator)
    return model


@pytest.mark.numeric
@pytest.mark.parametrize("name", ["ppyoloe_xs", "ppyoloe_plus_t"])
@pytest.mark.parametrize("use_alpha", [False, True])
def test_fused_model_computes_the_same(name, use_alpha):
    model = in_float64(randomise(create_model(name, num_classes=4, use_alpha=use_alpha), seed=1).eval())
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, found = model(images), fuse(model)(images)
    assert_same_in_float64(found.class_logits, expected.class_logits)
    assert_same_in_float64(found.box_logits, expected.box_logits)
    assert found.level_sizes == expected.level_sizes


def test_fuse_touches_nothing_of_the_original():
    model = randomise(create_model("ppyoloe_xs", num_classes=4), seed=1).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modules = list(model.modules())
    generator_state = torch.get_rng_state()
    fused = fuse(model)
    with torch.no_grad():
        for parameter in fused.parameters():
            parameter.zero_()
    assert all(module.training for module in model.modules())
    assert modules == list(model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(generator_state, torch.get_rng_state())
    assert not any(module.training for module in fused.modules())


class ConvolutionCounter(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.convolution.default:
            self.count += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["ppyoloe_xs", "ppyoloe_plus_t"])
def test_fused_model_has_no_batch_norm_and_no_functional_convolution(name):
    """Every convolution that runs is a module, and the other way round: profilers and quantisers see no others."""
    fused = fuse(create_model(name, num_classes=4))
    assert not any(isinstance(module, nn.BatchNorm2d | RepVGGBlock) for module in fused.modules())
    with torch.no_grad(), ConvolutionCounter() as counter:
        fused(torch.zeros(1, 3, 64, 64))
    assert counter.count == sum(isinstance(module, nn.Conv2d) for module in fused.modules())


@pytest.mark.parametrize("prefix", ["ppyoloe", "ppyoloe_plus"])
@pytest.mark.parametrize(("size", "millions"), [("s", 7.926), ("m", 23.428), ("l", 52.199), ("x", 98.424)])
def test_parameter_count_after_fusion(prefix, size, millions):
    """The published counts (7.93 million of PPYOLOE-s, ...) are of fused RepVGG blocks, but with BatchNorm.

    Where BatchNorm is folded too, its weight and bias become one bias.  The 17 fixed numbers of the original's
    projection are no part of our model.
    """
    with torch.device("meta"):
        model = create_model(f"{prefix}_{size}", num_classes=80)
    in_branches = {
        bn for block in model.modules() if isinstance(block, RepVGGBlock) for bn in (block.conv1.bn, block.conv2.bn)
    }
    num_bn_weights = sum(
        module.weight.numel()
        for module in model.modules()
        if isinstance(module, nn.BatchNorm2d) and module not in in_branches
    )
    count = sum(parameter.numel() for parameter in fuse(model).parameters())
    assert count == pytest.approx(millions * 1e6 - num_bn_weights - 17, abs=500)


def test_a_shared_block_stays_shared():
    block = randomise(ConvBNAct(3, 3, 3, activation="silu"), seed=2)
    fused = fuse(nn.Sequential(block, nn.Sequential(block)))
    assert fused[0] is fused[1][0]


@pytest.mark.numeric
def test_a_single_block_can_be_fused():
    block = randomise(RepVGGBlock(3, 5, activation="relu", use_alpha=True), seed=3).double().eval()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert_same_in_float64(fuse(block)(x), block(x))


@pytest.mark.numeric
def test_strided_grouped_convolution():
    block = randomise(ConvBNAct(4, 8, 5, stride=2, groups=2, activation="silu"), seed=4).double().eval()
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert_same_in_float64(fuse(block)(x), block(x))


def test_unknown_activation_is_named():
    with pytest.raises(ValueError, match=r"'gelu'.*write one of silu, relu"):
        ConvBNAct(3, 3, 1, activation="gelu")
