"""ShuffleNetV2 against torchvision's: logits, maps, counts; and what every backbone promises."""

import pytest
import torch
import torchvision
from torch import nn

from public.models.attention import CoordinateAttention
from public.models.backbones import shufflenetv2
from public.models.backbones.shufflenetv2 import shuffle_halves
from public.weights.backbones.shufflenetv2 import rename
from tests.helpers.backbone_checks import (
    build_on_meta,
    check_oracle,
    check_second_implementation,
    num_parameters,
    oracle_state,
)

MAPS = {"stage2": 0, "stage3": 1, "stage4": 2}


def torchvision_name(name: str) -> str:
    return name.replace("shufflenetv2", "shufflenet_v2")


def test_oracle_of_torchvision(shared):
    name = "shufflenetv2_x1_0"
    model = shufflenetv2.build(name, num_classes=1000)
    model.load_state_dict(rename(oracle_state(shared, "tv_shufflenet_v2_x1_0"), name), strict=True)
    check_oracle(shared, "tv_shufflenet_v2_x1_0", model, MAPS)


@pytest.mark.parametrize("name", shufflenetv2.NETWORKS)
def test_same_outputs_as_torchvision(name):
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, torchvision_name(name))(weights=None, num_classes=20)
    check_second_implementation(theirs, shufflenetv2.build(name, num_classes=20), rename, name, MAPS)


@pytest.mark.parametrize("name", shufflenetv2.NETWORKS)
def test_published_numbers(name):
    """Parameters as torchvision documents them."""
    published = torchvision.models.get_model_weights(torchvision_name(name)).DEFAULT.meta["num_params"]
    assert num_parameters(build_on_meta(shufflenetv2, name, num_classes=1000)) == published


def test_halves_are_interleaved():
    x = torch.arange(6.0)[None, :, None, None].expand(2, 6, 3, 4)
    assert shuffle_halves(x)[1, :, 2, 3].tolist() == [0, 3, 1, 4, 2, 5]
    whole = torch.randn(2, 10, 3, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(shuffle_halves(whole), nn.ChannelShuffle(2)(whole))


@pytest.mark.parametrize("keywords", [{"drop_path": 0.1}, {"zero_init": True}])
def test_what_needs_residual_branches_is_refused(keywords):
    with pytest.raises(ValueError, match="shufflenetv2_x0_5 has no residual branches: leave out drop_path"):
        shufflenetv2.build("shufflenetv2_x0_5", num_classes=5, **keywords)


@pytest.mark.parametrize("array", ["stage2.4.branch2.0.weight", "stage2.1.branch1.0.weight", "maxpool.weight"])
def test_a_foreign_array_is_named(array):
    with pytest.raises(ValueError, match=f"'{array}' belongs to no torchvision's shufflenetv2_x1_5"):
        rename({array: torch.zeros(1)}, "shufflenetv2_x1_5")


def test_dropout_batch_norm_and_activation_are_keywords():
    model = shufflenetv2.build(
        "shufflenetv2_x0_5", num_classes=5, dropout=0.3, bn_eps=1e-3, activation="leaky_relu_0.1"
    )
    assert model.dropout.p == 0.3
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.1)}
    assert {module.negative_slope for module in model.modules() if isinstance(module, nn.LeakyReLU)} == {0.1}
    assert not [module for module in model.modules() if isinstance(module, nn.ReLU)]


def test_coordinate_attention_stands_behind_the_depthwise_convolutions_and_nowhere_else():
    """One a unit, of the branch's channels; what the published network has keeps its names and its values."""
    torch.manual_seed(0)
    model = shufflenetv2.build("shufflenetv2_x0_5", num_classes=5, attention="coordinate").eval()
    attentions = {name: m for name, m in model.named_modules() if isinstance(m, CoordinateAttention)}
    assert len(attentions) == sum(shufflenetv2.NUM_BLOCKS)
    assert {m.rows.out_channels for m in attentions.values()} == {24, 48, 96}
    plain = build_on_meta(shufflenetv2, "shufflenetv2_x0_5", num_classes=5).state_dict()
    state = {name: value for name, value in model.state_dict().items() if ".attention." not in name}
    assert {name: value.shape for name, value in state.items()} == {name: v.shape for name, v in plain.items()}
    branch, x = model.backbone.stages[0][1].right, torch.randn(1, 24, 6, 8)
    with torch.no_grad():
        expected = branch[3](attentions["backbone.stages.0.1.right.attention"](branch[1](branch[0](x))))
        assert torch.equal(branch(x), expected)
    with pytest.raises(ValueError, match="unknown attention 'se'"):
        shufflenetv2.build("shufflenetv2_x0_5", num_classes=5, attention="se")
