"""CSPDarknet against YOLOX's figures, its layers by their definitions, and YOLOX's published counts."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from public.models.backbones import csp_darknet
from public.models.backbones.csp_darknet import SPP, Focus
from public.models.backbones.darknet import Bottleneck
from public.models.image_classifier import Classifier
from public.models.layers import StochasticDepth
from public.weights.backbones.csp_darknet import one_convolution, rename
from tests.helpers.backbone_checks import assert_close, build_on_meta, num_parameters
from tests.helpers.dark_backbones import (
    YOLOX_IMAGES,
    YOLOX_PROBES,
    check_map,
    filled,
    images_of,
    load_figures,
    num_conv,
    num_conv_3x3,
    num_neck,
    oracle_arrays,
    yolox_figures,
)

BN = {"bn_eps": 1e-3, "bn_momentum": 0.03}
ORACLES = {"yolox_s": "csp_darknet_s", "yolox_nano": "csp_darknet_nano"}


def loaded(state: dict[str, torch.Tensor], name: str) -> Classifier:
    """The network in float64 and eval mode with YOLOX's weights, which give all but the class layer."""
    model = csp_darknet.build(name, num_classes=10)
    missing, unexpected = model.load_state_dict(rename(state, name), strict=False)
    assert (set(missing), unexpected) == ({"fc.weight", "fc.bias"}, [])
    return model.double().eval()


def check_probes(model: Classifier, oracle: str, figures: dict[str, dict], tolerance: float) -> None:
    images = images_of(oracle, YOLOX_IMAGES)
    with torch.no_grad():
        maps = [model.backbone.stem(images), *model.backbone(images)]
    for ours, probe in zip(maps, YOLOX_PROBES, strict=True):
        check_map(ours, figures[probe], tolerance=tolerance)


@pytest.mark.parametrize("oracle", ORACLES)
def test_oracle_of_yolox(shared, oracle):
    folder = shared / "oracles/yolox" / oracle
    model = loaded(oracle_arrays(folder, "backbone.backbone."), ORACLES[oracle])
    check_probes(model, oracle, yolox_figures(folder, "cal"), tolerance=1e-6)


def test_a_file_as_yolox_writes_it(shared):
    """The backbone in a checkpoint in YOLOX's official layout gives the same figures."""
    folder = shared / "oracles/yolox/yolox_nano"
    state = torch.load(folder / "yolox_nano.pth", weights_only=True)["model"]
    check_probes(loaded(state, "csp_darknet_nano"), "yolox_nano", yolox_figures(folder, "cal"), tolerance=1e-6)


def test_reduced_figures_of_yolox():
    """The same without the reference data: plain filled statistics, stored in float32."""
    figures = load_figures("yolox_nano")
    model = loaded(filled(figures["entries"]), "csp_darknet_nano")
    check_probes(model, "yolox_nano", figures["maps"], tolerance=1e-5)


def test_one_convolution_is_focus_and_a_convolution():
    """Focus by its definition, four maps of every other pixel: rows and columns 0 0, 1 0, 0 1, 1 1."""
    torch.manual_seed(0)
    stem = Focus(2, 5, activation="none", **BN).double().eval()
    weight = torch.randn(5, 8, 3, 3, dtype=torch.float64)
    with torch.no_grad():
        stem.conv.weight.copy_(one_convolution(weight))
        images = torch.randn(2, 2, 14, 10, dtype=torch.float64)
        quarters = [images[:, :, row::2, column::2] for row, column in ((0, 0), (1, 0), (0, 1), (1, 1))]
        expected = F.conv2d(torch.cat(quarters, dim=1), weight, padding=1) / (1 + 1e-3) ** 0.5
        assert_close(stem(images), expected)


def test_spp_is_three_maxima_side_by_side():
    torch.manual_seed(0)
    spp = SPP(8, activation="silu", **BN).eval()
    x = torch.randn(2, 8, 15, 20)
    with torch.no_grad():
        half = spp.conv1(x)
        pooled = [F.max_pool2d(half, size, stride=1, padding=size // 2) for size in (5, 9, 13)]
        assert torch.equal(spp(x), spp.conv2(torch.cat([half, *pooled], dim=1)))


# ---------------------------------------------------------------------------------------------- counts

PUBLISHED = {  # YOLOX's parameters with 80 classes
    "csp_darknet_nano": 912_159,
    "csp_darknet_tiny": 5_055_855,
    "csp_darknet_s": 8_968_255,
    "csp_darknet_m": 25_326_495,
    "csp_darknet_l": 54_208_895,
    "csp_darknet_x": 99_071_455,
}


def num_head(width: float, num_classes: int, use_depthwise: bool) -> int:
    """YOLOX's head, for each of three levels: a 1x1 stem, two 3x3 for classes, two for boxes, three 1x1 to outputs."""
    hidden = int(256 * width)
    branches = 4 * num_conv_3x3(hidden, hidden, use_depthwise) + (hidden + 1) * (num_classes + 5)
    return sum(num_conv(int(channels * width), hidden, 1) + branches for channels in (256, 512, 1024))


def num_detector(name: str, num_classes: int, **keywords) -> int:
    """The parameters of the YOLOX around our backbone."""
    network = csp_darknet.NETWORKS[name]
    width, use_depthwise = network["width"], network["use_depthwise"]
    backbone = num_parameters(build_on_meta(csp_darknet, name, num_classes=2, **keywords).backbone)
    return backbone + num_neck(width, network["depth"], use_depthwise) + num_head(width, num_classes, use_depthwise)


@pytest.mark.parametrize("name", csp_darknet.NETWORKS)
def test_published_numbers(name):
    assert num_detector(name, 80) == PUBLISHED[name]


def test_the_simple_stem():
    """YOLOX-s without Focus and with 20 classes, as miemiedetection publishes it; half the resolution all the same."""
    assert num_detector("csp_darknet_s", 20, use_focus=False) == 8_942_443
    torch.manual_seed(0)
    backbone = csp_darknet.build("csp_darknet_nano", num_classes=2, use_focus=False).eval().backbone
    assert backbone.stem(torch.randn(1, 3, 33, 64)).shape == (1, 16, 17, 32)


# ---------------------------------------------------------------------------------------------- promises


def test_the_largest_runs_and_shares_the_backbone_with_a_detector():
    """Maps of strides 8, 16 and 32 of the sizes and channels that YOLOX-x's neck takes."""
    torch.manual_seed(0)
    model = csp_darknet.build("csp_darknet_x", num_classes=3).eval()
    backbone = model.backbone.select((8, 16, 32))
    assert (backbone.out_channels, backbone.out_strides) == ((320, 640, 1280), (8, 16, 32))
    with torch.no_grad():
        maps = backbone(torch.randn(1, 3, 64, 96))
    assert [tuple(x.shape) for x in maps] == [(1, 320, 8, 12), (1, 640, 4, 6), (1, 1280, 2, 3)]
    assert all(x.isfinite().all() for x in maps)


def test_keywords_reach_every_layer():
    model = build_on_meta(csp_darknet, "csp_darknet_nano", num_classes=3, dropout=0.3, activation="hardswish")
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.03)}  # YOLOX's
    assert sum(isinstance(module, nn.Hardswish) for module in model.modules()) == len(norms)
    assert not any(isinstance(module, nn.SiLU) for module in model.modules())
    assert model.dropout.p == 0.3
    model = build_on_meta(csp_darknet, "csp_darknet_s", num_classes=3, bn_eps=1e-5, bn_momentum=0.1)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-5, 0.1)}


def test_stochastic_depth_rises_linearly_over_the_shortcuts_and_acts_in_training_only():
    torch.manual_seed(0)
    model = csp_darknet.build("csp_darknet_nano", num_classes=5, drop_path=0.7)
    blocks = [module for module in model.modules() if isinstance(module, Bottleneck)]
    assert [block.use_shortcut for block in blocks] == [True] * 7 + [False]
    assert [block.drop_path.p for block in blocks] == pytest.approx([0.1 * number for number in range(7)] + [0.0])
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0  # two passes in training mode must see the same statistics
    images = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        assert not torch.equal(model(images), model(images))
        still = copy.deepcopy(model)
        for module in still.modules():
            if isinstance(module, StochasticDepth):
                module.p = 0.0
        assert torch.equal(still(images), still(images))
        assert torch.equal(model.eval()(images), still.eval()(images))


@pytest.mark.parametrize("name", ["csp_darknet_nano", "csp_darknet_tiny"])
def test_zero_init_makes_each_block_with_a_shortcut_the_identity_that_learns(name):
    torch.manual_seed(0)
    model = csp_darknet.build(name, num_classes=5, zero_init=True)
    for block in [module for module in model.modules() if isinstance(module, Bottleneck)]:
        x = torch.randn(2, block.conv1.conv.in_channels, 8, 8)
        y = block(x)
        assert torch.equal(y, x) == block.use_shortcut
        norms = [part for part in block.conv2.modules() if isinstance(part, nn.BatchNorm2d)]
        assert all((norm.weight == 1).all() for norm in norms[:-1])
        (y * torch.randn_like(y)).sum().backward()
        assert norms[-1].weight.grad.abs().min() > 0


def test_what_is_refused():
    with pytest.raises(ValueError, match="gradient at 0"), torch.device("meta"):
        csp_darknet.build("csp_darknet_nano", num_classes=5, zero_init=True, activation="relu6")
    with pytest.raises(TypeError, match="slope"):
        csp_darknet.build("csp_darknet_nano", num_classes=5, slope=0.1)
    for foreign in ("backbone.backbone.dark2.1.m.1.conv1.conv.weight", "backbone.C3_p5.conv1.conv.weight", "fc.weight"):
        with pytest.raises(ValueError, match=f"{foreign}.*csp_darknet_s"):
            rename({foreign: torch.zeros(1)}, "csp_darknet_s")
    larger = {"backbone.backbone.dark2.1.m.1.conv1.conv.weight": torch.zeros(1)}
    assert list(rename(larger, "csp_darknet_m")) == ["backbone.stages.0.csp.blocks.1.conv1.conv.weight"]
