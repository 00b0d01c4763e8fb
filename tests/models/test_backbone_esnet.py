"""ESNet: blocks written out layer by layer, widths, the names of Paddle's arrays."""

import pytest
import torch
from torch import nn

from public.models.backbones import esnet
from public.weights.backbones.esnet import DOWN_UNIT, UNIT, rename
from tests.helpers.backbone_checks import build_on_meta, filled, num_parameters

MIDDLES = {  # channels inside the first block of each stage, as the original's constructor computes them
    "esnet_075": (88, 96, 192),
    "esnet_100": (112, 160, 512),
    "esnet_125": (144, 200, 640),
}


@pytest.mark.parametrize("name", esnet.NETWORKS)
def test_widths_inside_the_blocks(name):
    backbone = build_on_meta(esnet, name, num_classes=10).backbone
    assert tuple(2 * stage[0].right[0].conv.out_channels for stage in backbone.stages) == MIDDLES[name]
    assert [len(stage) for stage in backbone.stages] == [3, 7, 3]
    assert backbone.out_strides == (8, 16, 32)


def paddle_entries(name: str) -> list:
    """Names and shapes of the original's arrays, written down from its layers."""
    network = esnet.NETWORKS[name]

    def conv_bn(layer: str, inside: int, outside: int, kernel: int) -> list:
        norm = [[f"{layer}._batch_norm.{part}", [outside]] for part in ("weight", "bias", "_mean", "_variance")]
        return [[f"{layer}._conv.weight", [outside, inside, kernel, kernel]], *norm]

    def squeeze(layer: str, channels: int) -> list:
        few = channels // 4
        one = [[f"{layer}._se.conv1.weight", [few, channels, 1, 1]], [f"{layer}._se.conv1.bias", [few]]]
        return [*one, [f"{layer}._se.conv2.weight", [channels, few, 1, 1]], [f"{layer}._se.conv2.bias", [channels]]]

    entries, inside, ratios = conv_bn("_conv1", 3, 24, 3), 24, iter(network["ratios"])
    for stage, (channels, count) in enumerate(zip(network["channels"], (3, 7, 3))):
        for block in range(count):
            layer = f"{stage + 2}_{block + 1}"
            middle = max(8, (int(channels * next(ratios)) + 4) // 8 * 8)
            half, inner = channels // 2, middle // 2
            if block == 0:
                entries += conv_bn(f"{layer}._conv_dw_1", 1, inside, 3)
                entries += conv_bn(f"{layer}._conv_linear_1", inside, half, 1)
                entries += conv_bn(f"{layer}._conv_pw_2", inside, inner, 1) + conv_bn(
                    f"{layer}._conv_dw_2", 1, inner, 3
                )
                entries += squeeze(layer, inner) + conv_bn(f"{layer}._conv_linear_2", inner, half, 1)
                entries += conv_bn(f"{layer}._conv_dw_mv1", 1, channels, 3)
                entries += conv_bn(f"{layer}._conv_pw_mv1", channels, channels, 1)
            else:
                entries += conv_bn(f"{layer}._conv_pw", half, inner, 1) + conv_bn(f"{layer}._conv_dw", 1, inner, 3)
                entries += squeeze(layer, middle) + conv_bn(f"{layer}._conv_linear", middle, half, 1)
        inside = channels
    return entries


@pytest.mark.parametrize("name", esnet.NETWORKS)
@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_every_array_of_paddle_has_its_place(name, prefix):
    renamed = rename({prefix + array: value for array, value in filled(paddle_entries(name)).items()}, name)
    own = build_on_meta(esnet, name, num_classes=10).state_dict()
    expected = {array: tuple(value.shape) for array, value in own.items() if array.startswith("backbone.")}
    assert {array: tuple(value.shape) for array, value in renamed.items()} == expected


def test_a_foreign_array_is_refused():
    with pytest.raises(ValueError, match=r"'2_4\._conv_pw._conv\.weight' belongs to no Paddle's esnet_075"):
        rename({"2_4._conv_pw._conv.weight": torch.zeros(1)}, "esnet_075")


def test_the_units_compute_what_paddle_computes():
    """Both kinds of block written out with torch's functions, layer by layer in the original's order."""
    torch.manual_seed(0)
    backbone = esnet.build("esnet_075", num_classes=10).backbone.double().eval()
    state = {array: value.double() for array, value in rename(filled(paddle_entries("esnet_075")), "esnet_075").items()}
    backbone.load_state_dict({array.removeprefix("backbone."): value for array, value in state.items()})
    theirs = filled(paddle_entries("esnet_075"))

    def conv_bn(x, layer, *, act, stride=1, groups=1):
        weight = theirs[f"{layer}._conv.weight"].double()
        x = nn.functional.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2, groups=groups)
        norm = [theirs[f"{layer}._batch_norm.{part}"].double() for part in ("_mean", "_variance", "weight", "bias")]
        x = nn.functional.batch_norm(x, *norm, eps=1e-5)
        return nn.functional.hardswish(x) if act else x

    def squeeze(x, layer):
        weights = [theirs[f"{layer}._se.conv{i}.{part}"].double() for i in (1, 2) for part in ("weight", "bias")]
        y = nn.functional.conv2d(x.mean((2, 3), keepdim=True), *weights[:2]).relu()
        return x * nn.functional.hardsigmoid(nn.functional.conv2d(y, *weights[2:]))

    x = torch.randn(2, 24, 12, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    left = conv_bn(conv_bn(x, "2_1._conv_dw_1", act=False, stride=2, groups=24), "2_1._conv_linear_1", act=True)
    right = conv_bn(conv_bn(x, "2_1._conv_pw_2", act=True), "2_1._conv_dw_2", act=False, stride=2, groups=44)
    right = conv_bn(squeeze(right, "2_1"), "2_1._conv_linear_2", act=True)
    y = conv_bn(torch.cat([left, right], 1), "2_1._conv_dw_mv1", act=True, groups=96)
    y = conv_bn(y, "2_1._conv_pw_mv1", act=True)
    passed, rest = y.chunk(2, 1)
    rest = conv_bn(rest, "2_2._conv_pw", act=True)
    rest = torch.cat([rest, conv_bn(rest, "2_2._conv_dw", act=False, groups=rest.shape[1])], 1)
    rest = conv_bn(squeeze(rest, "2_2"), "2_2._conv_linear", act=True)
    z = nn.functional.channel_shuffle(torch.cat([passed, rest], 1), 2)
    with torch.no_grad():
        first = backbone.stages[0][0](x)
        second = backbone.stages[0][1](first)
    assert (first - y).abs().max() < 1e-9 * y.abs().max()
    assert (second - z).abs().max() < 1e-9 * z.abs().max()
    assert len(UNIT) == 3
    assert len(DOWN_UNIT) == 7
    assert num_parameters(backbone) > 4e5
