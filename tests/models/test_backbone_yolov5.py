"""YOLOv5's backbone against its description read a second time, CSPDarknet, and published counts."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from public.models.backbones import csp_darknet, yolov5
from public.models.backbones.darknet import Bottleneck
from public.models.layers import StochasticDepth
from tests.helpers.backbone_checks import (
    assert_close,
    build_on_meta,
    num_parameters,
    scatter_batch_norms,
)
from tests.helpers.dark_backbones import num_neck

# parameters of the whole detectors with 80 classes, as their training prints them
PUBLISHED = {
    ("yolov5_s", "5.0"): 7_276_605,
    ("yolov5_n", "6.0"): 1_872_157,
    ("yolov5_s", "6.0"): 7_235_389,
    ("yolov5_m", "6.0"): 21_190_557,
    ("yolov5_l", "6.0"): 46_563_709,
    ("yolov5_x", "6.0"): 86_749_405,
}


@pytest.mark.parametrize(("name", "version"), PUBLISHED)
def test_published_numbers(name, version):
    """The detector's neck is the one that YOLOX took over; its head one 1x1 convolution a level to 3 anchors x 85."""
    depth, width = yolov5.NETWORKS[name]["depth"], yolov5.NETWORKS[name]["width"]
    backbone = num_parameters(build_on_meta(yolov5, name, num_classes=2, version=version).backbone)
    head = sum((int(channels * width) + 1) * 255 for channels in (256, 512, 1024))
    assert backbone + num_neck(width, depth) + head == PUBLISHED[name, version]


@pytest.mark.parametrize("size", ["s", "m", "l", "x"])
def test_version_5_has_the_layers_of_csp_darknet(size):
    ours = build_on_meta(yolov5, f"yolov5_{size}", num_classes=9, version="5.0").state_dict()
    theirs = build_on_meta(csp_darknet, f"csp_darknet_{size}", num_classes=9).state_dict()
    assert {name: value.shape for name, value in ours.items()} == {name: value.shape for name, value in theirs.items()}


def test_version_5_computes_what_csp_darknet_does():
    torch.manual_seed(0)
    ours = yolov5.build("yolov5_s", num_classes=9, version="5.0").eval()
    theirs = csp_darknet.build("csp_darknet_s", num_classes=9).eval()
    scatter_batch_norms(theirs)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(ours(images), theirs(images))


# ---------------------------------------------------------------------------------------------- version 6.0, read again


def convolve(x: torch.Tensor, block: nn.Module, kernel_size: int, stride: int, padding: int) -> torch.Tensor:
    """Convolution, BatchNorm with eps 1e-3, and x times the sigmoid of x, with the weights of `block`."""
    assert block.conv.weight.shape[2:] == (kernel_size, kernel_size)
    x = F.conv2d(x, block.conv.weight, stride=stride, padding=padding)
    x = (x - block.bn.running_mean[:, None, None]) / (block.bn.running_var[:, None, None] + 1e-3).sqrt()
    x = x * block.bn.weight[:, None, None] + block.bn.bias[:, None, None]
    return x * x.sigmoid()


def c3(x: torch.Tensor, layer: nn.Module, num_blocks: int) -> torch.Tensor:
    assert len(layer.blocks) == num_blocks
    y = convolve(x, layer.conv1, 1, 1, 0)
    for block in layer.blocks:
        y = y + convolve(convolve(y, block.conv1, 1, 1, 0), block.conv2, 3, 1, 1)
    return convolve(torch.cat([y, convolve(x, layer.conv2, 1, 1, 0)], dim=1), layer.conv3, 1, 1, 0)


def spp(x: torch.Tensor, layer: nn.Module) -> torch.Tensor:
    x = convolve(x, layer.conv1, 1, 1, 0)
    pooled = [F.max_pool2d(x, size, stride=1, padding=size // 2) for size in (5, 9, 13)]
    return convolve(torch.cat([x, *pooled], dim=1), layer.conv2, 1, 1, 0)


@pytest.mark.parametrize(("name", "num_blocks"), [("yolov5_n", (1, 2, 3, 1)), ("yolov5_m", (2, 4, 6, 2))])
def test_version_6_is_the_published_list_of_layers(name, num_blocks):
    torch.manual_seed(0)
    model = yolov5.build(name, num_classes=5)
    scatter_batch_norms(model)
    model = model.double().eval()
    images = torch.randn(2, 3, 96, 64, dtype=torch.float64)
    width = {"yolov5_n": 1, "yolov5_m": 3}[name]  # in quarters
    x, maps = convolve(images, model.backbone.stem, 6, 2, 2), []
    assert x.shape[1] == 16 * width
    for stage, count in zip(model.backbone.stages, num_blocks, strict=True):
        x = c3(convolve(x, stage.down, 3, 2, 1), stage.csp, count)
        if stage is model.backbone.stages[-1]:
            x = spp(x, stage.spp)
        maps.append(x)
    assert [x.shape[1] for x in maps] == [width * channels for channels in (32, 64, 128, 256)]
    with torch.no_grad():
        for ours, expected in zip(model.backbone(images), maps, strict=True):
            assert_close(ours, expected)
        assert_close(model(images), maps[-1].mean((2, 3)) @ model.fc.weight.T + model.fc.bias)


# ---------------------------------------------------------------------------------------------- promises


@pytest.mark.parametrize(("version", "shortcuts"), [("5.0", [True] * 7 + [False]), ("6.0", [True] * 7)])
def test_stochastic_depth_rises_linearly_over_the_shortcuts(version, shortcuts):
    with torch.device("meta"):
        model = yolov5.build("yolov5_n", num_classes=5, drop_path=0.7, version=version)
    blocks = [module for module in model.modules() if isinstance(module, Bottleneck)]
    assert [block.use_shortcut for block in blocks] == shortcuts
    assert [block.drop_path.p for block in blocks[:7]] == pytest.approx([0.1 * number for number in range(7)])
    assert all(block.drop_path.p == 0 for block in blocks[7:])


def test_stochastic_depth_acts_in_training_only():
    torch.manual_seed(0)
    model = yolov5.build("yolov5_n", num_classes=5, drop_path=0.7)
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


def test_zero_init_makes_each_block_the_identity_that_learns():
    torch.manual_seed(0)
    model = yolov5.build("yolov5_n", num_classes=5, zero_init=True)
    for block in [module for module in model.modules() if isinstance(module, Bottleneck)]:
        x = torch.randn(2, block.conv1.conv.in_channels, 8, 8)
        y = block(x)
        assert torch.equal(y, x)
        (y * torch.randn_like(y)).sum().backward()
        assert block.conv2.bn.weight.grad.abs().min() > 0


def test_keywords_reach_every_layer():
    model = build_on_meta(
        yolov5, "yolov5_n", num_classes=3, dropout=0.3, activation="meta_acon", bn_eps=1e-5, bn_momentum=0.1
    )
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-5, 0.1)}
    assert not any(isinstance(module, nn.SiLU) for module in model.modules())
    assert model.dropout.p == 0.3


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"version '7\.0' is not known; write one of 5\.0, 6\.0"):
        yolov5.build("yolov5_n", num_classes=5, version="7.0")
    with pytest.raises(ValueError, match="gradient at 0"), torch.device("meta"):
        yolov5.build("yolov5_n", num_classes=5, zero_init=True, activation="relu")
    with pytest.raises(TypeError, match="slope"):
        yolov5.build("yolov5_n", num_classes=5, slope=0.1)
