"""RepVGG against timm: logits, maps, counts; a second way to compute it; the fused form; what every backbone promises."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from public.models.activations import AconC
from public.models.backbones import repvgg
from public.models.backbones.repvgg import ThreeBranchBlock
from public.models.fuse import fuse
from public.weights.backbones.repvgg import rename
from tests.figures.fill_rule import oracle_input
from tests.helpers.backbone_checks import (
    assert_close,
    build_on_meta,
    check_oracle,
    filled,
    load_figures,
    num_parameters,
    oracle_state,
    scatter_batch_norms,
)

MAPS = {f"stages.{stage}": stage for stage in range(4)}
# channels of the stages, parameters in millions and MACs in billions at 224 x 224 as timm prints them (of a0: the
# oracle's count), and the paper's parameters of the fused network, which it cuts off after two digits
PUBLISHED = {
    "repvgg_a0": ((48, 96, 192, 1280), 9.108968, None, 8.30),
    "repvgg_a1": ((64, 128, 256, 1280), 14.1, 2.6, 12.78),
    "repvgg_a2": ((96, 192, 384, 1408), 28.21, 5.70, 25.49),
    "repvgg_b0": ((64, 128, 256, 1280), 15.82, 3.41, 14.33),
    "repvgg_b1": ((128, 256, 512, 2048), 57.42, 13.16, 51.82),
    "repvgg_b2": ((160, 320, 640, 2560), 89.02, 20.45, 80.31),
    "repvgg_b3": ((192, 384, 768, 2560), 123.09, 29.16, 110.96),
}
LARGE = ("repvgg_b1", "repvgg_b2", "repvgg_b3")  # hundreds of megabytes of weights each


def blocks_of(model: nn.Module) -> list[ThreeBranchBlock]:
    return [module for module in model.modules() if isinstance(module, ThreeBranchBlock)]


def macs(model: nn.Module) -> int:
    """Of one image of 224 x 224 pixels; `model` is on the meta device."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, 3, 224, 224, device="meta"))
    return counter.get_total_flops() // 2


# ---------------------------------------------------------------------------------------------- timm's outputs


def test_oracle_of_timm(shared):
    model = repvgg.build("repvgg_a0", num_classes=1000)
    model.load_state_dict(rename(oracle_state(shared, "timm_repvgg_a0"), "repvgg_a0"), strict=True)
    check_oracle(shared, "timm_repvgg_a0", model, MAPS)


def test_reduced_oracle_of_timm():
    """The same without the reference data: plain filled statistics, with which the logits are millions."""
    figures = load_figures("timm_repvgg_a0")
    model = loaded("repvgg_a0", filled(figures["entries"]))
    with torch.no_grad():
        logits = model(torch.from_numpy(oracle_input("timm_repvgg_a0", (2, 3, 224, 224))).double())
    expected = torch.tensor(figures["logits"], dtype=torch.float64)
    assert expected.std() > 1000 * figures["limit"]
    assert (logits[:, :100] - expected).abs().max() < 3 * figures["limit"]


def loaded(name: str, state: dict[str, torch.Tensor]) -> nn.Module:
    """Our network with timm's arrays, to which the counters are added."""
    norms = [array.removesuffix("running_var") for array in state if array.endswith("running_var")]
    state = state | {f"{norm}num_batches_tracked": torch.tensor(0) for norm in norms}
    model = repvgg.build(name, num_classes=state["head.fc.bias"].numel())
    model.load_state_dict(rename(state, name), strict=True)
    return model.double().eval()


# ---------------------------------------------------------------------------------------------- a second implementation


def timm_blocks(name: str) -> list[tuple[str, int, int, int]]:
    """timm's name, input and output channels and stride of each block, from the published widths."""
    widths, depths = PUBLISHED[name][0], (2, 4, 14, 1) if "_a" in name else (4, 6, 16, 1)
    blocks, channels = [("stem", 3, min(64, widths[0]), 2)], min(64, widths[0])
    for stage, (width, depth) in enumerate(zip(widths, depths)):
        for number in range(depth):
            blocks.append((f"stages.{stage}.{number}", channels, width, 1 if number else 2))
            channels = width
    return blocks


def timm_entries(name: str, num_classes: int) -> list[list]:
    """[name, shape] of timm's arrays without counters."""
    entries = []
    for block, in_channels, out_channels, stride in timm_blocks(name):
        for branch, size in (("conv_kxk", 3), ("conv_1x1", 1)):
            entries.append([f"{block}.{branch}.conv.weight", [out_channels, in_channels, size, size]])
        norms = [f"{block}.conv_kxk.bn", f"{block}.conv_1x1.bn"]
        norms += [f"{block}.identity"] if stride == 1 else []
        kinds = ("weight", "bias", "running_mean", "running_var")
        entries += [[f"{norm}.{kind}", [out_channels]] for norm in norms for kind in kinds]
    return [*entries, ["head.fc.weight", [num_classes, PUBLISHED[name][0][-1]]], ["head.fc.bias", [num_classes]]]


def reference(
    name: str, state: dict[str, torch.Tensor], x: torch.Tensor
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """timm's logits and the outputs of its blocks, straight from the arrays."""

    def norm(x: torch.Tensor, layer: str) -> torch.Tensor:
        arrays = (state[f"{layer}.{kind}"] for kind in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *arrays)

    outputs = {}
    for block, _, _, stride in timm_blocks(name):
        branches = [norm(x, f"{block}.identity")] if stride == 1 else []
        for branch, padding in (("conv_kxk", 1), ("conv_1x1", 0)):
            y = F.conv2d(x, state[f"{block}.{branch}.conv.weight"], None, stride, padding)
            branches.append(norm(y, f"{block}.{branch}.bn"))
        x = outputs[block] = sum(branches).relu()
    return x.mean((2, 3)) @ state["head.fc.weight"].T + state["head.fc.bias"], outputs


def test_the_second_implementation_has_the_names_of_timm():
    assert sorted(timm_entries("repvgg_a0", 1000)) == sorted(load_figures("timm_repvgg_a0")["entries"])


@pytest.mark.parametrize("name", LARGE)
def test_the_large_ones_have_the_arrays_of_timm(name):
    """Wider than repvgg_b0, else the same: their names and shapes, without values."""
    with torch.device("meta"):
        state = {array: torch.empty(shape) for array, shape in timm_entries(name, num_classes=20)}
        norms = [array.removesuffix("running_var") for array in state if array.endswith("running_var")]
        state |= {f"{norm}num_batches_tracked": torch.tensor(0) for norm in norms}
    model = build_on_meta(repvgg, name, num_classes=20)
    model.load_state_dict(rename(state, name), strict=True)


@pytest.mark.parametrize("name", sorted(repvgg.NETWORKS.keys() - set(LARGE)))
def test_same_outputs_as_the_second_implementation(name):
    """Also the fused form: the three branches of a block make one convolution."""
    state = filled(timm_entries(name, num_classes=20))
    model = loaded(name, state)
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, outputs = reference(name, {array: value.double() for array, value in state.items()}, images)
        maps = model.backbone(images)
        assert expected.std() > 1e-3
        assert_close(model(images), expected)
        for stage, count in enumerate(repvgg.NETWORKS[name]["num_blocks"]):
            assert_close(maps[stage], outputs[f"stages.{stage}.{count - 1}"])
        assert_close(fuse(model)(images), expected)


@pytest.mark.parametrize("name", repvgg.NETWORKS)
def test_published_numbers(name):
    """timm's MACs count a little more than convolutions."""
    model = build_on_meta(repvgg, name, num_classes=1000)
    channels, parameters, giga_macs, fused_parameters = PUBLISHED[name]
    assert model.backbone.out_channels == channels
    assert model.backbone.out_strides == (4, 8, 16, 32)
    digits = len(str(parameters).split(".")[1])
    assert round(num_parameters(model) / 1e6, digits) == parameters
    if giga_macs is not None:
        assert macs(model) / 1e9 == pytest.approx(giga_macs, rel=0.011)
    fused = fuse(model)
    assert math.floor(num_parameters(fused) / 1e4) / 100 == fused_parameters
    convolutions = [module for module in fused.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == 1 + sum(repvgg.NETWORKS[name]["num_blocks"])
    assert {module.kernel_size for module in convolutions} == {(3, 3)}
    assert not [module for module in fused.modules() if isinstance(module, nn.BatchNorm2d)]


# ---------------------------------------------------------------------------------------------- the block


def block_of(in_channels: int, out_channels: int, *, stride: int = 1, activation: str = "none") -> ThreeBranchBlock:
    torch.manual_seed(0)
    block = ThreeBranchBlock(
        in_channels,
        out_channels,
        stride=stride,
        activation=activation,
        drop_path=0.0,
        bn_eps=1e-5,
        bn_momentum=0.1,
    )
    scatter_batch_norms(block)
    return block.double().eval()


def test_fused_kernel_of_the_identity():
    """Without the two convolutions the kernel has one number in each channel's centre: weight / sqrt(variance + eps)."""
    block = block_of(5, 5)
    for branch in (block.dense, block.pointwise):
        nn.init.zeros_(branch.bn.weight)
        nn.init.zeros_(branch.bn.bias)
    bn, conv = block.identity, block.fused().conv
    expected = torch.zeros(5, 5, 3, 3, dtype=torch.float64)
    for channel in range(5):
        expected[channel, channel, 1, 1] = bn.weight[channel] / (bn.running_var[channel] + 1e-5).sqrt()
    torch.testing.assert_close(conv.weight.data, expected, rtol=1e-12, atol=1e-15)
    impulse = torch.zeros(1, 5, 3, 3, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(conv(impulse), bn(impulse), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("in_channels", "out_channels", "stride"), [(5, 5, 2), (5, 6, 1), (6, 5, 1), (5, 5, 1)])
def test_the_identity_is_there_where_shapes_agree(in_channels, out_channels, stride):
    block = block_of(in_channels, out_channels, stride=stride, activation="relu")
    assert (block.identity is not None) == (stride == 1 and in_channels == out_channels)
    x = torch.randn(2, in_channels, 7, 6, dtype=torch.float64)
    with torch.no_grad():
        assert block(x).shape == (2, out_channels, math.ceil(7 / stride), math.ceil(6 / stride))
        torch.testing.assert_close(block.fused()(x), block(x), rtol=1e-12, atol=1e-12)


# ---------------------------------------------------------------------------------------------- promises and keywords


def test_stochastic_depth_rises_linearly_to_the_last_block():
    model = repvgg.build("repvgg_a0", num_classes=5, drop_path=0.6)
    expected = [0.0] + [0.03 * number for number in range(21)]  # the stem has no identity to be left alone
    assert [block.drop_path.p for block in blocks_of(model)] == pytest.approx(expected)


def test_stochastic_depth_leaves_the_identity_or_doubles_the_rest():
    block = block_of(6, 6)
    x = torch.randn(32, 6, 3, 3, dtype=torch.float64)
    with torch.no_grad():
        identity, rest = block.identity(x), block.dense(x) + block.pointwise(x)
        block.drop_path.p = 0.5
        torch.testing.assert_close(block(x), identity + rest)  # nothing is dropped in eval mode
        block.drop_path.train()
        y = block(x)
    is_dropped = (y == identity).flatten(1).all(dim=1)
    assert 0 < is_dropped.sum() < 32
    torch.testing.assert_close(y[~is_dropped], (identity + 2 * rest)[~is_dropped])


def test_zero_init_makes_a_block_its_identity():
    torch.manual_seed(0)
    blocks = blocks_of(repvgg.build("repvgg_a0", num_classes=5, zero_init=True).eval())
    assert sum(block.identity is not None for block in blocks) == 1 + 3 + 13
    for block in blocks:
        x = torch.randn(2, block.dense.conv.in_channels, 6, 6)
        y = block(x)
        assert y.abs().sum() > 0
        if block.identity is not None:
            assert torch.equal(y, block.identity(x).relu())
            y.sum().backward()
            assert block.dense.bn.weight.grad.abs().sum() > 0  # it can leave 0
            assert block.pointwise.bn.weight.grad.abs().sum() > 0


def test_initial_values_are_those_of_torch():
    """As in the authors' code: convolutions uniform within 1 / sqrt(fan-in), BatchNorm 1 and 0."""
    torch.manual_seed(0)
    model = repvgg.build("repvgg_a0", num_classes=5)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 2000:
            bound = 1 / math.sqrt(module.weight[0].numel())
            assert 0.99 * bound < module.weight.abs().max() <= bound, name
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()


def test_other_keywords():
    model = repvgg.build("repvgg_a0", num_classes=5, dropout=0.1, bn_eps=1e-3, bn_momentum=0.01, activation="acon_c")
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.01)}
    assert len(norms) == 2 * 22 + 17
    assert model.dropout.p == 0.1
    assert sum(isinstance(module, AconC) for module in model.modules()) == 22
    with pytest.raises(TypeError, match="groups"):
        repvgg.build("repvgg_a0", num_classes=5, groups=4)


@pytest.mark.parametrize("activation", ["acon_c", "meta_acon"])
def test_learnt_activations_survive_fusing(activation):
    torch.manual_seed(0)
    model = repvgg.build("repvgg_a0", num_classes=5, activation=activation).eval()
    scatter_batch_norms(model)
    model = model.double()
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        expected = model(images)
        assert expected.isfinite().all()
        assert_close(fuse(model)(images), expected)


# ---------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    "array",
    [
        "stages.0.0.identity.weight",  # a stage's first block has no identity
        "stages.0.2.conv_kxk.conv.weight",  # of a RepVGG-B
        "stages.1.1.identity.scale",
        "backbone.stem.dense.conv.weight",  # ours, not theirs
    ],
)
def test_a_foreign_array_is_named(array):
    with pytest.raises(ValueError, match=f"'{array}' belongs to no timm's repvgg_a1"):
        rename({array: torch.zeros(1)}, "repvgg_a1")


def test_a_fused_file_is_refused():
    with pytest.raises(ValueError, match=r"'stem\.reparam_conv\.weight' is a re-parameterised block's"):
        rename({"stem.reparam_conv.weight": torch.zeros(1)}, "repvgg_a0")
