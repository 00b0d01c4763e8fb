"""ReXNet against timm's: logits, maps, counts; a second way to compute every width; and what every backbone promises."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from public.models.activations import AconC, MetaAcon
from public.models.attention import CoordinateAttention
from public.models.backbones import rexnet
from public.models.fuse import fuse
from public.weights.backbones.rexnet import rename
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
from tests.helpers.numerics import assert_same_in_float64, in_float64

MAPS = {"features.0": 0, "features.2": 1, "features.4": 2, "features.10": 3, "features.15": 4}
STRIDED = (1, 3, 5, 11)  # the blocks that halve the resolution
PUBLISHED = {  # parameters in millions and MACs in billions at 224 x 224, from timm's table of benchmarks
    "rexnet_100": (4.80, 0.41),
    "rexnet_130": (7.56, 0.68),
    "rexnet_150": (9.73, 0.90),
    "rexnet_200": (16.37, 1.56),
}


def blocks_of(model: nn.Module) -> list[rexnet.LinearBottleneck]:
    return [module for module in model.modules() if isinstance(module, rexnet.LinearBottleneck)]


# ---------------------------------------------------------------------------------------------- timm's outputs


def test_oracle_of_timm(shared):
    model = rexnet.build("rexnet_100", num_classes=1000)
    model.load_state_dict(rename(oracle_state(shared, "timm_rexnet_100"), "rexnet_100"), strict=True)
    check_oracle(shared, "timm_rexnet_100", model, dict(list(MAPS.items())[:2]))
    check_every_block(shared, model)


def check_every_block(shared, model: nn.Module) -> None:
    """The outputs of all blocks, as closely as the logits.

    The oracle is float32, and its BatchNorms between two layers of channel means have tiny variances, which enlarge
    rounding to 4e-4 of the logits.
    """
    figures = np.load(shared / "oracles/backbones/timm_rexnet_100/out.npz")
    limits = json.loads((shared / "oracles/tolerances.json").read_text())["backbones/timm_rexnet_100"]["cal"]
    outputs = []
    for block in blocks_of(model):
        block.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    with torch.no_grad():
        model(torch.from_numpy(oracle_input("timm_rexnet_100", (2, 3, 224, 224))).double())
    assert len(outputs) == 16
    for number, output in enumerate(outputs):
        allowed = 3 * limits["rel_to_scale"] * output.abs().max().item()
        for ours, kind in ((output.mean((0, 2, 3)), "chmean"), (output.flatten()[:64], "first")):
            expected = figures[f"cal/stage/features.{number}/{kind}"]
            np.testing.assert_allclose(ours.numpy(), expected, rtol=0, atol=allowed, err_msg=f"block {number}")


def test_reduced_oracle_of_timm():
    """The same without the reference data: plain filled statistics."""
    figures = load_figures("timm_rexnet_100")
    model = loaded("rexnet_100", filled(figures["entries"]))
    with torch.no_grad():
        logits = model(torch.from_numpy(oracle_input("timm_rexnet_100", (2, 3, 224, 224))).double())
    expected = torch.tensor(figures["logits"], dtype=torch.float64)
    assert expected.std() > 1000 * figures["limit"]
    assert (logits[:, :100] - expected).abs().max() < 3 * figures["limit"]


def loaded(name: str, state: dict[str, torch.Tensor]) -> nn.Module:
    """Our network with timm's arrays, to which the counters are added."""
    norms = [array.removesuffix("running_var") for array in state if array.endswith("running_var")]
    state = state | {f"{norm}num_batches_tracked": torch.tensor(0) for norm in norms}
    model = rexnet.build(name, num_classes=state["head.fc.bias"].numel())
    model.load_state_dict(rename(state, name), strict=True)
    return model.double().eval()


# ---------------------------------------------------------------------------------------------- a second implementation


def timm_entries(width: float, num_classes: int) -> list[list]:
    """[name, shape] of timm's arrays without counters, from the width alone."""
    entries, channels, exact = [], round(32 * width), 16.0

    def conv(name: str, out_channels: int, in_channels: int, kernel_size: int) -> None:
        entries.append([f"{name}.conv.weight", [out_channels, in_channels, kernel_size, kernel_size]])
        norm(f"{name}.bn", out_channels)

    def norm(name: str, size: int) -> None:
        entries.extend([f"{name}.{kind}", [size]] for kind in ("weight", "bias", "running_mean", "running_var"))

    conv("stem", channels, 3, 3)
    for block in range(16):
        inside = channels if block == 0 else 6 * channels
        if block > 0:
            conv(f"features.{block}.conv_exp", inside, channels, 1)
        conv(f"features.{block}.conv_dw", inside, 1, 3)
        if block > 2:
            squeezed = inside // 12
            for number, shape in ((1, [squeezed, inside, 1, 1]), (2, [inside, squeezed, 1, 1])):
                entries.append([f"features.{block}.se.fc{number}.weight", shape])
                entries.append([f"features.{block}.se.fc{number}.bias", shape[:1]])
            norm(f"features.{block}.se.bn", squeezed)
        channels = round(exact * width)
        conv(f"features.{block}.conv_pwl", channels, inside, 1)
        exact += 11.25
    conv("features.16", round(1280 * width), channels, 1)
    return [*entries, ["head.fc.weight", [num_classes, round(1280 * width)]], ["head.fc.bias", [num_classes]]]


def reference(state: dict[str, torch.Tensor], x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """timm's logits and the outputs of its 16 blocks, straight from the arrays."""

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        arrays = (state[f"{name}.{kind}"] for kind in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *arrays)

    def conv(x: torch.Tensor, name: str, stride: int = 1) -> torch.Tensor:
        weight = state[f"{name}.conv.weight"]
        groups = x.shape[1] // weight.shape[1]
        return norm(F.conv2d(x, weight, None, stride, weight.shape[2] // 2, groups=groups), f"{name}.bn")

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"])

    x, outputs = F.silu(conv(x, "stem", 2)), []
    for block in range(16):
        name, stride = f"features.{block}", 2 if block in STRIDED else 1
        y = F.silu(conv(x, f"{name}.conv_exp")) if block > 0 else x
        y = conv(y, f"{name}.conv_dw", stride)
        if block > 2:
            gate = norm(linear(F.adaptive_avg_pool2d(y, 1), f"{name}.se.fc1"), f"{name}.se.bn").relu()
            y = y * linear(gate, f"{name}.se.fc2").sigmoid()
        y = conv(y.clamp(0, 6), f"{name}.conv_pwl")
        if stride == 1 and x.shape[1] <= y.shape[1]:
            y[:, : x.shape[1]] += x
        x = y
        outputs.append(x)
    features = F.silu(conv(x, "features.16")).mean((2, 3))
    return features @ state["head.fc.weight"].T + state["head.fc.bias"], outputs


def test_the_second_implementation_has_the_names_of_timm():
    assert sorted(timm_entries(1.0, 1000)) == sorted(load_figures("timm_rexnet_100")["entries"])


@pytest.mark.parametrize("name", rexnet.NETWORKS)
def test_same_outputs_as_the_second_implementation(name):
    state = filled(timm_entries(int(name[-3:]) / 100, num_classes=20))
    model = loaded(name, state)
    images = torch.randn(2, 3, 96, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, outputs = reference({array: value.double() for array, value in state.items()}, images)
        logits, maps = model(images), model.backbone(images)
        assert logits.std() > 1e-3
        assert_close(logits, expected)
        for module, stage in MAPS.items():
            assert_close(maps[stage], outputs[int(module.removeprefix("features."))])
        assert_close(fuse(model)(images), expected)


@pytest.mark.parametrize("name", rexnet.NETWORKS)
def test_published_numbers(name):
    """timm's MACs count BatchNorm and activations too, about 2.5 % more than the convolutions alone."""
    model = build_on_meta(rexnet, name, num_classes=1000)
    parameters, giga_macs = PUBLISHED[name]
    assert num_parameters(model) / 1e6 == pytest.approx(parameters, abs=0.0051)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, 3, 224, 224, device="meta"))
    assert 1 < giga_macs / (counter.get_total_flops() / 2e9) < 1.035


def test_the_width_grows_by_the_same_amount():
    """The table of rexnet_100, whose halves go to the even number: 38.5 -> 38, 83.5 -> 84."""
    shapes = [shape for stage in rexnet.block_shapes("rexnet_100") for shape in stage]
    widths = [16, 27, 38, 50, 61, 72, 84, 95, 106, 117, 128, 140, 151, 162, 174, 185]
    assert [shape.out_channels for shape in shapes] == widths
    assert [shape.in_channels for shape in shapes] == [32, *widths[:-1]]
    assert [number for number, shape in enumerate(shapes) if shape.stride == 2] == list(STRIDED)


# ---------------------------------------------------------------------------------------------- promises and keywords


@pytest.mark.parametrize("name", ["rexnet_100", "rexnet_130"])
def test_a_training_step(name):
    """A bias right before a BatchNorm changes nothing; every other parameter gets a gradient."""
    torch.manual_seed(0)
    model = rexnet.build(name, num_classes=7, in_chans=2)
    logits = model(torch.randn(4, 2, 96, 64))
    assert logits.shape == (4, 7)
    logits.square().mean().backward()
    for array, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), array
        assert parameter.grad.abs().max() > 0 or array.endswith("reduce.conv.bias"), array


def test_maps_selection_and_round_trip():
    torch.manual_seed(0)
    model = rexnet.build("rexnet_130", num_classes=7, in_chans=2)
    scatter_batch_norms(model)
    model.eval()
    images = torch.randn(2, 2, 96, 80)
    with torch.no_grad():
        maps, expected = model.backbone(images), model(images)
        assert [tuple(x.shape) for x in maps] == [
            (2, channels, math.ceil(96 / stride), math.ceil(80 / stride))
            for channels, stride in zip((21, 50, 79, 167, 240), (2, 4, 8, 16, 32), strict=True)
        ]
        selected = copy.deepcopy(model.backbone).select((8, 16))
        assert selected.out_channels == (79, 167)
        assert len(selected.stages) == 4
        assert all(torch.equal(ours, whole) for ours, whole in zip(selected(images), maps[2:4], strict=True))
        assert model.backbone.get_submodule(model.backbone.input_layer).in_channels == 2
        other = rexnet.build("rexnet_130", num_classes=7, in_chans=2).eval()
        assert not torch.equal(other(images), expected)
        other.load_state_dict(model.state_dict(), strict=True)
        assert torch.equal(other(images), expected)
        precise = in_float64(model)
        fused = fuse(precise)
        assert not [module for module in fused.modules() if isinstance(module, nn.BatchNorm2d)]
        assert_same_in_float64(fused(images), precise(images))


def test_stochastic_depth_rises_linearly_to_the_last_block():
    model = rexnet.build("rexnet_100", num_classes=5, drop_path=0.6)
    assert [block.drop_path.p for block in blocks_of(model)] == pytest.approx([0.04 * number for number in range(16)])


def test_stochastic_depth_leaves_the_shortcut_or_doubles_the_rest():
    torch.manual_seed(0)
    block = blocks_of(rexnet.build("rexnet_100", num_classes=5))[-1]
    scatter_batch_norms(block)
    block.double().eval()
    x = torch.randn(32, 174, 3, 3, dtype=torch.float64)
    with torch.no_grad():
        padded = torch.cat([x, x.new_zeros(32, 11, 3, 3)], dim=1)
        rest = block(x) - padded
        block.drop_path.p = 0.5
        assert_same_in_float64(block(x), padded + rest)  # nothing is dropped in eval mode
        block.drop_path.train()
        y = block(x)
    is_dropped = (y == padded).flatten(1).all(dim=1)
    assert 0 < is_dropped.sum() < 32
    assert_same_in_float64(y[~is_dropped], (padded + 2 * rest)[~is_dropped])


def test_zero_init_makes_a_block_its_input():
    torch.manual_seed(0)
    blocks = blocks_of(rexnet.build("rexnet_100", num_classes=5, zero_init=True).eval())
    assert [number for number, block in enumerate(blocks) if not block.has_shortcut] == [0, *STRIDED]
    for number, block in enumerate(blocks):
        in_channels = (block.depthwise if block.expand is None else block.expand).conv.in_channels
        x = torch.randn(2, in_channels, 6, 6)
        y = block(x)
        if not block.has_shortcut:
            assert y.abs().sum() > 0, number
            continue
        assert torch.equal(y[:, :in_channels], x)
        assert (y[:, in_channels:] == 0).all()
        y.sum().backward()
        assert (block.project.bn.weight.grad != 0).all()  # also the new channels can leave 0


def test_initial_values():
    """Each convolution's spread by the fan-out of one group; BatchNorm 1 and 0; biases 0; the last layer uniform."""
    torch.manual_seed(0)
    model = rexnet.build("rexnet_100", num_classes=100)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            expected = math.sqrt(2 / (module.kernel_size[0] ** 2 * module.out_channels / module.groups))
            spread = 5 / math.sqrt(2 * module.weight.numel())
            assert module.weight.std().item() == pytest.approx(expected, rel=spread), name
            assert module.bias is None or (module.bias == 0).all()
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()
    assert 0.099 < model.fc.weight.abs().max() <= 0.1
    assert model.fc.weight.std().item() == pytest.approx(0.1 / math.sqrt(3), rel=0.01)
    assert (model.fc.bias == 0).all()


def test_other_keywords():
    assert rexnet.build("rexnet_100", num_classes=5).dropout.p == 0.2
    model = rexnet.build("rexnet_100", num_classes=5, dropout=0.1, bn_eps=1e-3, bn_momentum=0.01)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.01)}
    assert len(norms) == 1 + 3 * 16 - 1 + 13 + 1
    assert model.dropout.p == 0.1
    with pytest.raises(TypeError, match="se_ratio"):
        rexnet.build("rexnet_100", num_classes=5, se_ratio=0.25)


@pytest.mark.parametrize(("activation", "kind", "count"), [("acon_c", AconC, 17), ("meta_acon", MetaAcon, 17)])
def test_a_backbone_with_learnt_activations_and_coordinate_attention(activation, kind, count):
    torch.manual_seed(0)
    model = rexnet.build("rexnet_100", num_classes=5, activation=activation, attention="coordinate")
    assert sum(isinstance(module, kind) for module in model.modules()) == count
    assert sum(isinstance(module, nn.SiLU) for module in model.modules()) == 0
    assert sum(isinstance(module, rexnet.SqueezeExcitation) for module in model.modules()) == 0
    attentions = [module for module in model.modules() if isinstance(module, CoordinateAttention)]
    assert [attention.rows.out_channels for attention in attentions] == [
        block.depthwise.conv.out_channels for block in blocks_of(model)[3:]
    ]
    images = torch.randn(2, 3, 64, 96)
    model(images).square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    scatter_batch_norms(model)
    precise = in_float64(model.eval())
    with torch.no_grad():
        assert_same_in_float64(fuse(precise)(images), precise(images))


def test_the_activation_behind_the_depthwise_convolution():
    model = rexnet.build("rexnet_100", num_classes=5, depthwise_activation="acon_c")
    assert [module.p1.shape[1] for module in model.modules() if isinstance(module, AconC)] == [
        block.depthwise.conv.out_channels for block in blocks_of(model)
    ]
    assert not [module for module in model.modules() if isinstance(module, nn.ReLU6)]


def test_unknown_options_are_named():
    with pytest.raises(ValueError, match="unknown attention 'se'"):
        rexnet.build("rexnet_100", num_classes=5, attention="se")
    with pytest.raises(ValueError, match="unknown activation 'swish'"):
        rexnet.build("rexnet_100", num_classes=5, activation="swish")


# ---------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    "array",
    [
        "features.0.conv_exp.conv.weight",  # the first block does not expand
        "features.2.se.fc1.weight",  # only the fourth block and those behind it have one
        "features.17.conv.weight",
        "features.3.se.bn.scale",
        "backbone.stem.conv.weight",  # ours, not theirs
    ],
)
def test_a_foreign_array_is_named(array):
    with pytest.raises(ValueError, match=f"'{array}' belongs to no timm's rexnet_150"):
        rename({array: torch.zeros(1)}, "rexnet_150")
