"""Darknet-19 and Darknet-53 against timm's and YOLOX's figures, a second implementation, and published counts."""

import copy
import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from public.models.backbones import darknet
from public.models.backbones.darknet import Bottleneck
from public.models.image_classifier import Classifier
from public.models.layers import StochasticDepth
from public.weights.backbones.darknet import rename
from tests.helpers.backbone_checks import (
    assert_close,
    build_on_meta,
    num_parameters,
    scatter_batch_norms,
)
from tests.helpers.dark_backbones import (
    YOLOX_IMAGES,
    check_map,
    filled,
    images_of,
    load_figures,
    oracle_arrays,
    yolox_figures,
)

YOLOX = {"activation": "leaky_relu_0.1", "bn_eps": 1e-3, "bn_momentum": 0.03}  # its Darknet-53
TIMM_IMAGES = (2, 3, 256, 256)


def loaded(state: dict[str, torch.Tensor], **keywords) -> Classifier:
    """darknet53 in float64, in eval mode; a class layer only where `state` has one."""
    model = darknet.build("darknet53", num_classes=1000, **keywords)
    missing, unexpected = model.load_state_dict(rename(state, "darknet53"), strict=False)
    assert not unexpected
    assert set(missing) <= {"fc.weight", "fc.bias"}
    return model.double().eval()


def test_oracle_of_timm(shared):
    oracle = shared / "oracles/backbones/timm_darknet53"
    limit = json.loads((shared / "oracles/tolerances.json").read_text())["backbones/timm_darknet53"]["cal"]["max_abs"]
    figures = np.load(oracle / "out.npz")
    state = oracle_arrays(oracle)
    assert "fc.weight" in rename(state, "darknet53")
    model = loaded(state)
    with torch.no_grad():
        stem = model.backbone.stem(images_of("timm_darknet53", TIMM_IMAGES))
        maps = [stem]
        for stage in model.backbone.stages:
            maps.append(stage(maps[-1]))
        logits = model.fc(model.final(maps[-1]))
    np.testing.assert_allclose(logits.numpy(), figures["cal/logits"], rtol=0, atol=3 * limit)
    for number, probe in enumerate(["stem", *(f"stages.{stage}" for stage in range(5))]):
        ours = {part: figures[f"cal/stage/{probe}/{part}"] for part in ("shape", "stats", "first", "chmean")}
        assert tuple(maps[number].shape) == tuple(ours["shape"])
        check_map(maps[number], ours, tolerance=1e-5)
        np.testing.assert_allclose(maps[number].mean((0, 2, 3)).numpy(), ours["chmean"], rtol=0, atol=1e-4)


def test_reduced_figures_of_timm():
    """The same without the reference data: plain filled statistics, with which the logits are about a million."""
    figures = load_figures("timm_darknet53")
    model = loaded(filled(figures["entries"]))
    with torch.no_grad():
        logits = model(images_of("timm_darknet53", TIMM_IMAGES)[:1])[0]
    expected = torch.tensor(figures["logits"], dtype=torch.float64)
    assert expected.std() > 1e4 * figures["limit"]
    assert (logits[: len(expected)] - expected).abs().max() < 3 * figures["limit"]


def test_oracle_of_yolox(shared):
    """The same layers with slope 0.1 and another eps.  YOLOX's dark5 goes on behind ours."""
    oracle = shared / "oracles/yolox/yolov3"
    state = oracle_arrays(oracle, "backbone.backbone.")
    theirs = [name for name in state if name.startswith("backbone.backbone.")]
    behind = [name for name in theirs if name.split(".")[2] == "dark5" and int(name.split(".")[3]) > 4]
    assert len(rename(state, "darknet53")) == len(theirs) - len(behind)
    backbone, figures = loaded(state, **YOLOX).backbone.select((2, 4, 8, 16)), yolox_figures(oracle, "cal")
    images = images_of("yolov3", YOLOX_IMAGES)
    with torch.no_grad():
        for ours, probe in zip(backbone(images), ("stem", "dark2", "dark3", "dark4"), strict=True):
            check_map(ours, figures[probe], tolerance=1e-6)
        for module in backbone.modules():
            if isinstance(module, nn.LeakyReLU):
                module.negative_slope = 0.01
        with pytest.raises(AssertionError):
            check_map(backbone.select((2,))(images)[0], figures["stem"], tolerance=1e-3)


# The recipes' table, in words of its own: M is a 2x2 maximum, the others are convolutions kernel:channels.
DARKNET19 = (
    "3:32 M 3:64 M 3:128 1:64 3:128 M 3:256 1:128 3:256 M 3:512 1:256 3:512 1:256 3:512 M "
    "3:1024 1:512 3:1024 1:512 3:1024"
)


def test_darknet19_is_the_published_list_of_layers():
    """Layer by layer with torch's functions, the class layer before the mean, as in Darknet."""
    torch.manual_seed(0)
    model = darknet.build("darknet19", num_classes=11)
    scatter_batch_norms(model)
    model = model.double().eval()
    images = torch.randn(2, 3, 96, 64, dtype=torch.float64)
    blocks = iter([module for module in model.modules() if hasattr(module, "bn")])
    x, maps = images, []
    for layer in DARKNET19.split():
        if layer == "M":
            maps.append(x)
            x = F.max_pool2d(x, 2)
            continue
        kernel_size, channels = (int(number) for number in layer.split(":"))
        block = next(blocks)
        assert block.conv.weight.shape == (channels, x.shape[1], kernel_size, kernel_size)
        x = F.conv2d(x, block.conv.weight, padding=(kernel_size - 1) // 2)
        x = (x - block.bn.running_mean[:, None, None]) / (block.bn.running_var[:, None, None] + 1e-5).sqrt()
        x = x * block.bn.weight[:, None, None] + block.bn.bias[:, None, None]
        x = torch.where(x > 0, x, 0.1 * x)
    assert next(blocks, None) is None
    logits = F.conv2d(x, model.fc.weight[:, :, None, None], model.fc.bias).mean((2, 3))
    with torch.no_grad():
        assert_close(model(images), logits)
        for ours, expected in zip(model.backbone(images), [*maps[1:], x], strict=True):
            assert_close(ours, expected)


@pytest.mark.parametrize(
    ("name", "parameters", "gmacs"),
    [
        # the recipes' network has no bias in its 1x1 class layer, and that layer at each of 8 x 8 cells
        ("darknet19", 20_841_376 + 1000, 3.645 - 63 * 1024 * 1000 / 1e9),
        ("darknet53", 41_609_928, 9.285),  # the recipes' measurement; timm's parameters
    ],
)
def test_published_numbers(name, parameters, gmacs):
    model = build_on_meta(darknet, name, num_classes=1000).eval()
    assert num_parameters(model) == parameters
    with FlopCounterMode(display=False) as counter:
        model(torch.empty(1, 3, 256, 256, device="meta"))
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmacs, abs=0.0006)


def test_keywords_reach_every_layer():
    model = build_on_meta(darknet, "darknet53", num_classes=3, dropout=0.3, **YOLOX)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.03)}
    assert {module.negative_slope for module in model.modules() if isinstance(module, nn.LeakyReLU)} == {0.1}
    assert len(norms) == 52
    assert model.dropout.p == 0.3
    with pytest.raises(TypeError, match="slope"):
        darknet.build("darknet53", num_classes=3, slope=0.1)


def test_stochastic_depth_rises_linearly_and_acts_in_training_only():
    torch.manual_seed(0)
    model = darknet.build("darknet53", num_classes=5, drop_path=0.8)
    rates = [module.p for module in model.modules() if isinstance(module, StochasticDepth)]
    assert rates == pytest.approx([0.8 * number / 23 for number in range(23)])
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
    model = darknet.build("darknet53", num_classes=5, zero_init=True)
    blocks = [module for module in model.modules() if isinstance(module, Bottleneck)]
    assert len(blocks) == 23
    for block in blocks[:4]:
        x = torch.randn(2, block.conv1.conv.in_channels, 8, 8)
        y = block(x)
        assert torch.equal(y, x)
        (y * torch.randn_like(y)).sum().backward()
        assert block.conv2.bn.weight.grad.abs().min() > 0


def test_what_is_refused():
    for keyword in ({"drop_path": 0.1}, {"zero_init": True}):
        with pytest.raises(ValueError, match="darknet19 has no residual branches"):
            darknet.build("darknet19", num_classes=5, **keyword)
    with pytest.raises(ValueError, match="gradient at 0"), torch.device("meta"):
        darknet.build("darknet53", num_classes=5, zero_init=True, activation="relu")
    with pytest.raises(ValueError, match="has released weights of darknet19"):
        rename({}, "darknet19")
    with pytest.raises(ValueError, match=r"stages\.4\.blocks\.4\.conv1\.conv\.weight.*timm's darknet53"):
        rename({"stages.4.blocks.4.conv1.conv.weight": torch.zeros(1)}, "darknet53")
    yolox = {
        "backbone.backbone.stem.0.conv.weight": torch.zeros(1),
        "backbone.lateral_conv0.conv.weight": torch.zeros(1),
    }
    with pytest.raises(ValueError, match=r"lateral_conv0.*YOLOX"):
        rename(yolox, "darknet53")


def test_initial_values():
    """Convolutions N(0, 2 / fan-out); BatchNorm 1 and 0; the last layer uniform within 1 / sqrt(features)."""
    torch.manual_seed(0)
    model = darknet.build("darknet19", num_classes=100)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()
    assert 0.99 / 32 < model.fc.weight.abs().max() <= 1 / 32
