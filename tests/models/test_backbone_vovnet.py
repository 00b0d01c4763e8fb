"""VoVNet against timm's: logits, maps, counts; and what every backbone promises."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from public.models.backbones import vovnet
from public.weights.backbones.vovnet import rename
from tests.figures.fill_rule import oracle_input
from tests.helpers.backbone_checks import (
    build_on_meta,
    check_oracle,
    filled,
    load_figures,
    num_parameters,
    oracle_state,
    scatter_batch_norms,
)

ORACLES = {"timm_ese_vovnet19b_slim_dw": "vovnet19_slim_dw_se", "timm_ese_vovnet39b": "vovnet39_se"}
SMALL = "timm_ese_vovnet19b_slim_dw"  # its reduced figures lie in tests/figures
PARAMETERS = {  # 19: measured in recipes/classification.md; 39: of the oracle; 57 and 99: as timm prints them, in millions
    "vovnet19_slim_dw_se": 1_897_752,
    "vovnet19_slim_se": 3_166_136,
    "vovnet19_dw_se": 6_543_080,
    "vovnet19_se": 11_205_416,
    "vovnet39_se": 24_568_936,
    "vovnet57_se": 38_610_000,
    "vovnet99_se": 63_200_000,
}


def reduced(shared) -> dict:
    """What tests/figures/backbones/timm_ese_vovnet19b_slim_dw.json holds: every 10th logit, and the sums of all."""
    folder = shared / "oracles/backbones" / SMALL
    limit = json.loads((shared / "oracles/tolerances.json").read_text())[f"backbones/{SMALL}"]["fill"]["max_abs"]
    state = json.loads((folder / "state.json").read_text())
    logits = np.load(folder / "out.npz")["fill/logits"].astype(np.float64)
    return {
        "entries": [[entry["name"], entry["shape"]] for entry in state if "num_batches" not in entry["name"]],
        "limit": limit,
        "logits": [[float(f"{value:.8g}") for value in row] for row in logits[:, ::10]],
        "sums": [float(f"{value:.8g}") for value in logits.sum(1)],
    }


def blocks_of(model: nn.Module) -> list[vovnet.OSABlock]:
    return [module for module in model.modules() if isinstance(module, vovnet.OSABlock)]


@pytest.mark.parametrize("oracle", ORACLES)
def test_oracles(shared, oracle):
    """The last map is seen through the logits."""
    model = vovnet.build(ORACLES[oracle], num_classes=1000)
    model.load_state_dict(rename(oracle_state(shared, oracle), ORACLES[oracle]), strict=True)
    check_oracle(shared, oracle, model, {f"stages.{stage}": stage for stage in range(3)})


def test_reduced_figures():
    """The same without the reference data: plain filled statistics, with which the logits are hundreds."""
    figures, name = load_figures(SMALL), ORACLES[SMALL]
    state = filled(figures["entries"])
    state |= {array.replace("running_var", "num_batches_tracked"): torch.tensor(0) for array in state if "var" in array}
    model = vovnet.build(name, num_classes=1000)
    model.load_state_dict(rename(state, name), strict=True)
    with torch.no_grad():
        logits = model.double().eval()(torch.from_numpy(oracle_input(SMALL, (2, 3, 224, 224))).double())
    expected = torch.tensor(figures["logits"], dtype=torch.float64)
    assert expected.std() > 1e5 * figures["limit"]
    assert (logits[:, ::10] - expected).abs().max() < 3 * figures["limit"]
    assert (logits.sum(1) - torch.tensor(figures["sums"])).abs().max() < 1000 * figures["limit"]


def test_reduced_figures_are_those_of_the_oracle(shared):
    assert load_figures(SMALL) == reduced(shared)


@pytest.mark.parametrize("name", vovnet.NETWORKS)
def test_published_numbers(name):
    model = build_on_meta(vovnet, name, num_classes=1000)
    rounded = 5000 if PARAMETERS[name] % 10_000 == 0 else 0
    assert abs(num_parameters(model) - PARAMETERS[name]) <= rounded
    assert model.backbone.out_strides == (4, 8, 16, 32)


@pytest.mark.parametrize(
    ("name", "num_convolutions"), [("vovnet19_se", 19), ("vovnet39_se", 39), ("vovnet57_se", 57), ("vovnet99_se", 99)]
)
def test_the_name_counts_the_convolutions(name, num_convolutions):
    """The paper's counting: convolutions with BatchNorm in the stem and the blocks, without attention and the logits."""
    model = build_on_meta(vovnet, name, num_classes=2)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in model.modules()) == num_convolutions


def test_a_block_by_hand():
    """Concatenation of the whole input and each layer's output, attention, then the input: in functions, from weights."""
    torch.manual_seed(0)
    block = blocks_of(vovnet.build("vovnet39_se", num_classes=2))[-1]
    scatter_batch_norms(block)
    block = block.double().eval()
    x = torch.randn(2, 1024, 4, 4, dtype=torch.float64)

    def conv_bn_relu(layer, y):
        y = F.conv2d(y, layer.conv.weight, padding=layer.conv.kernel_size[0] // 2)
        bn = layer.bn
        return F.batch_norm(y, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=1e-5).relu()

    with torch.no_grad():
        outputs = [x]
        for layer in block.layers:
            outputs.append(conv_bn_relu(layer, outputs[-1]))
        y = conv_bn_relu(block.concat, torch.cat(outputs, dim=1))
        gate = F.linear(y.mean((2, 3)), block.attn.fc.weight[:, :, 0, 0], block.attn.fc.bias)
        expected = x + y * ((gate + 3).clamp(0, 6) / 6)[:, :, None, None]
        torch.testing.assert_close(block(x), expected, rtol=1e-10, atol=1e-10)
        block.drop_path.p = 0.5
        assert torch.equal(block(x), block.eval()(x))  # nothing is dropped in eval mode
        block.drop_path.train()
        y = block(x.repeat(16, 1, 1, 1))
    is_dropped = (y == x.repeat(16, 1, 1, 1)).flatten(1).all(dim=1)
    assert 0 < is_dropped.sum() < 32
    kept = (x + 2 * (expected - x)).repeat(16, 1, 1, 1)
    torch.testing.assert_close(y[~is_dropped], kept[~is_dropped], rtol=1e-10, atol=1e-10)


def test_attention_and_shortcuts_stand_where_timm_has_them():
    blocks = blocks_of(build_on_meta(vovnet, "vovnet57_se", num_classes=2))  # 1, 1, 4 and 3 blocks a stage
    assert [block.attn is not None for block in blocks] == [True, True, *[False] * 3, True, False, False, True]
    assert [block.use_shortcut for block in blocks] == [False, False, False, *[True] * 3, False, True, True]


def test_initial_values():
    torch.manual_seed(0)
    model = vovnet.build("vovnet19_dw_se", num_classes=5)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            expected = (2 / (module.out_channels * module.kernel_size[0] ** 2)) ** 0.5
            assert module.weight.std().item() == pytest.approx(expected, rel=0.1), name
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all(), name
            assert (module.bias == 0).all(), name
    assert (model.fc.bias == 0).all()


# ---------------------------------------------------------------------------------------------- keywords


def test_stochastic_depth_rises_linearly_to_the_last_block():
    blocks = blocks_of(build_on_meta(vovnet, "vovnet57_se", num_classes=2, drop_path=0.4))
    assert [block.drop_path.p for block in blocks] == pytest.approx([0.05 * number for number in range(9)])


@pytest.mark.parametrize(
    ("name", "keywords", "message"),
    [
        ("vovnet19_se", {"drop_path": 0.1}, "drop_path=0.1: vovnet19_se has no shortcut"),
        ("vovnet39_se", {"drop_path": 1.0}, "drop_path=1.0: a probability"),
        ("vovnet39_se", {"zero_init": True}, "zero_init=True: the last BatchNorm of a block of vovnet39_se"),
        ("vovnet39_se", {"activation": "gelu"}, "unknown activation 'gelu'"),
    ],
)
def test_what_cannot_be_had_is_named(name, keywords, message):
    with pytest.raises(ValueError, match=message):
        build_on_meta(vovnet, name, num_classes=2, **keywords)


def test_other_keywords():
    model = vovnet.build(
        "vovnet19_slim_dw_se", num_classes=5, dropout=0.25, bn_eps=1e-3, bn_momentum=0.01, activation="hardswish"
    )
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.01)}
    assert model.dropout.p == 0.25
    activations = [type(module) for module in model.modules() if isinstance(module, nn.Hardswish | nn.ReLU)]
    assert activations == [nn.Hardswish] * len(norms)
    with pytest.raises(TypeError, match="use_attention"):
        vovnet.build("vovnet19_slim_dw_se", num_classes=5, use_attention=False)


def test_maps_of_odd_sizes():
    """The pools round down where convolutions of stride 2 round up; an image too small for them is an error."""
    backbone = vovnet.build("vovnet19_slim_dw_se", num_classes=2).backbone.eval()
    with torch.no_grad():
        assert [tuple(x.shape[2:]) for x in backbone(torch.zeros(1, 3, 100, 92))] == [
            (25, 23),
            (12, 11),
            (6, 5),
            (3, 2),
        ]
        with pytest.raises(RuntimeError, match="Output size is too small"):
            backbone(torch.zeros(1, 3, 16, 16))


# ---------------------------------------------------------------------------------------------- names


def test_names_of_timm():
    """One array of each kind, by the names that the released files have."""
    value = torch.zeros(1)
    pairs = {
        "stem.0.conv.weight": "backbone.stem.0.conv.weight",
        "stem.1.conv_dw.weight": "backbone.stem.1.depthwise.weight",
        "stem.2.bn.running_mean": "backbone.stem.2.bn.running_mean",
        "stages.1.blocks.0.conv_reduction.bn.bias": "backbone.stages.1.block1.reduce.bn.bias",
        "stages.1.blocks.0.conv_mid.2.conv_pw.weight": "backbone.stages.1.block1.layers.2.pointwise.weight",
        "stages.3.blocks.0.conv_concat.conv.weight": "backbone.stages.3.block1.concat.conv.weight",
        "stages.3.blocks.0.attn.fc.bias": "backbone.stages.3.block1.attn.fc.bias",
        "head.fc.bias": "fc.bias",
    }
    assert list(rename(dict.fromkeys(pairs, value), "vovnet19_dw_se")) == list(pairs.values())
    deeper = {"stages.2.blocks.8.conv_mid.4.bn.weight": "backbone.stages.2.block9.layers.4.bn.weight"}
    assert list(rename(dict.fromkeys(deeper, value), "vovnet99_se")) == list(deeper.values())


@pytest.mark.parametrize(
    "array",
    [
        "stages.2.blocks.0.attn.fc.weight",  # the attention stands in the last block only
        "stages.1.blocks.1.conv_concat.conv.weight",  # of a deeper network
        "stages.1.blocks.0.conv_reduction.conv.weight",  # of a depthwise one
        "stem.1.conv_dw.weight",
        "backbone.stem.0.conv.weight",  # ours, not theirs
    ],
)
def test_a_foreign_array_is_named(array):
    state = {"stem.0.conv.weight": torch.zeros(64, 3, 3, 3), array: torch.zeros(1)}
    with pytest.raises(ValueError, match=f"'{array}' belongs to no vovnet39_se of timm"):
        rename(state, "vovnet39_se")
