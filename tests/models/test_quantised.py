"""Fake quantisation in closed forms: levels, rounding, gradients, BatchNorm folded, ranges and their average."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from public.models import create_model
from public.models.fuse import fuse
from public.models.layers import ConvBNAct, RepVGGBlock
from public.models.quantised import (
    QuantisedConv2d,
    fake_quantise,
    follow,
    quantise_convs,
    quantised_layers,
    range_levels,
    weight_scales,
)
from public.parts import train
from public.training.ema import EMA

SETTINGS = {"weight_bits": 8, "activation_bits": 8, "per_channel": True, "momentum": 0.75, "float_layers": ()}


class Net(nn.Module):
    """Two blocks, one of them depthwise, and a last convolution."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = ConvBNAct(3, 4, 3, activation="relu")
        self.depthwise = ConvBNAct(4, 4, 3, activation="hardswish", groups=4)
        self.rep = RepVGGBlock(4, 6, activation="silu", use_alpha=True)
        self.last = nn.Conv2d(6, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.rep(self.depthwise(self.first(x))))


def observing(model: nn.Module) -> nn.Module:
    for layer in quantised_layers(model):
        layer.is_observing = True
    return model


@pytest.fixture
def net() -> Net:
    made = Net()
    with torch.no_grad():
        for module in made.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 2)
                module.bias.normal_()
    return made


# ---------------------------------------------------------------------------------------------- one value


def test_levels_are_those_of_integers():
    """Against integers that numpy-like arithmetic makes, halves to the even level, and what is beyond at the ends."""
    scale, zero = torch.tensor(0.5), torch.tensor(4.0)
    x = torch.tensor([-9.0, -2.0, -0.26, -0.25, 0.0, 0.25, 0.26, 0.75, 1.24, 5.4, 99.0])
    levels = torch.tensor([0, 0, 3, 4, 4, 4, 5, 6, 6, 15, 15])  # -0.5 and 0.5 steps go to 0, 1.5 steps to 2
    assert torch.equal(fake_quantise(x, scale, zero, 0, 15), (levels - 4) * 0.5)


def test_zero_is_a_level_and_the_range_is_covered():
    for low, high in ((-1.0, 3.0), (0.5, 2.0), (-3.0, -1.0), (0.0, 0.0)):
        scale, zero = range_levels(torch.tensor(low), torch.tensor(high), 8)
        assert zero == zero.round()
        ends = torch.tensor([min(low, 0.0), 0.0, max(high, 0.0)])
        found = fake_quantise(ends, scale, zero, 0, 255)
        assert found[1] == 0
        assert (found - ends).abs().max() <= scale / 2 + 1e-6


def test_weights_have_a_step_for_each_filter_or_one_for_all():
    weight = torch.stack([torch.full((2, 1, 1), 1.27), torch.full((2, 1, 1), -0.127)])
    assert torch.allclose(weight_scales(weight, 8, True).flatten(), torch.tensor([0.01, 0.001]))
    assert torch.allclose(weight_scales(weight, 8, False).flatten(), torch.tensor([0.01, 0.01]))
    assert torch.allclose(weight_scales(weight, 4, True).flatten(), torch.tensor([1.27, 0.127]) / 7)


def test_the_gradient_passes_where_nothing_was_cut_off():
    x = torch.tensor([-1.0, -0.26, 0.3, 3.7, 4.6], requires_grad=True)
    fake_quantise(x, torch.tensor(0.5), torch.tensor(1.0), 0, 8).backward(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert x.grad.tolist() == [0.0, 2.0, 3.0, 4.0, 0.0]  # levels -1, 0, 2, 8, 10 of 0 .. 8


# ---------------------------------------------------------------------------------------------- a network


def test_what_is_quantised_and_what_stays_float(net):
    assert [(name, link.norm, link.is_last) for name, link in follow(net).items()][:2] == [
        ("first.conv", "first.bn", False),
        ("depthwise.conv", "depthwise.bn", False),
    ]
    left = quantise_convs(net, **SETTINGS)
    kinds = {name: type(module) for name, module in net.named_modules() if isinstance(module, nn.Conv2d)}
    assert left == ("last",)
    assert kinds == {
        "first.conv": QuantisedConv2d,
        "depthwise.conv": QuantisedConv2d,
        "rep.conv": QuantisedConv2d,  # three by three, of both branches
        "last": nn.Conv2d,
    }
    assert [tuple(layer.low.shape) for layer in quantised_layers(net)] == [(1, 1, 1), (4, 1, 1), (1, 1, 1)]
    with pytest.raises(ValueError, match="'second', but no convolution is called so"):
        quantise_convs(Net(), **SETTINGS | {"float_layers": ("second",)})


@pytest.mark.parametrize("name", ["picodet_s", "yolox_nano", "ppyoloe_s", "retinanet"])
def test_heads_of_detectors_stay_float(name):
    with torch.device("meta"):
        model = create_model(name, num_classes=3)
    left = quantise_convs(model, **SETTINGS)
    assert left
    assert all(part.startswith("head.") for part in left)
    assert len(quantised_layers(model)) > len(left)


def test_the_network_for_npus_is_all_int8_but_for_its_outputs():
    """And between its convolutions stands ReLU6, whose values lie in 0 .. 6."""
    with torch.device("meta"):
        model = create_model("picodet_s_416_npu", num_classes=80)
    left = quantise_convs(model, **SETTINGS)
    assert (len(quantised_layers(model)), len(left)) == (110, 12)
    assert {part.split(".")[1] for part in left} == {"pred_cls", "pred_reg", "align"}
    with torch.device("meta"):
        whole = create_model("picodet_s_416_npu", num_classes=80)
    assert quantise_convs(whole, **SETTINGS, float_last=False) == ()
    assert len(quantised_layers(whole)) == 122
    for part in (model.backbone, model.neck, model.head.towers):
        kinds = {type(m) for m in part.modules() if not list(m.children())} - {QuantisedConv2d, nn.BatchNorm2d}
        assert nn.ReLU6 in kinds
        assert kinds <= {nn.ReLU6, nn.ReLU, nn.Hardsigmoid}, "ReLU and its gate inside squeeze and excitation"


def test_before_a_range_was_seen_nothing_is_quantised(net):
    exact = copy.deepcopy(net).double().eval()
    quantise_convs(net, **SETTINGS)
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(net.eval()(x).double(), exact(x.double()), atol=1e-5)


def test_a_quantised_block_is_the_folded_convolution_of_rounded_values(net):
    """A second way: BatchNorm folded first (`fuse`), then both operands rounded by hand, in float64."""
    folded = fuse(nn.Sequential(net.first))[0].conv
    weight, bias = folded.weight.detach(), folded.bias.detach()
    quantise_convs(net, **SETTINGS)
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 3 - 1
    layer = net.first.conv
    layer.set_range(torch.tensor(-1.0), torch.tensor(2.0))
    step, zero = 3 / 255, 85
    rounded = ((x.double() / step).round() + zero).clamp(0, 255).sub(zero) * step
    steps = weight.double().abs().amax((1, 2, 3), keepdim=True) / 127
    expected = F.conv2d(rounded, (weight.double() / steps).round() * steps, bias.double(), padding=1).relu()
    for found in (net.eval().first(x), fuse(net).first(x)):
        far = (found.double() - expected).abs()
        assert (far > 1e-5).float().mean() < 0.01, "but for weights halfway between two levels"
        assert far.max() < 0.1


def test_in_training_batchnorm_sees_what_it_would_without_a_fold(net):
    """With one filter's factor 0, too, through which nothing can be divided back."""
    with torch.no_grad():
        net.first.bn.weight[0] = 0
    plain = copy.deepcopy(net)
    quantise_convs(net, **SETTINGS)
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    ours, theirs = net.train().first(x), plain.train().first(x)
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert torch.allclose(net.first.bn.running_mean, plain.first.bn.running_mean, atol=1e-6)


def test_gradients_are_those_of_the_rounded_network(net):
    """dL/dw of conv(round(x), round(w * f)) / f with straight-through rounding, by autograd over plain operations."""
    quantise_convs(net, **SETTINGS)
    conv, norm = net.first.conv, net.first.bn.eval()
    conv.set_range(torch.tensor(-4.0), torch.tensor(4.0))
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    norm(conv(x)).square().sum().backward()
    ours = conv.weight.grad.clone()
    weight = conv.weight.detach().double().requires_grad_()
    factor = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach().double()[:, None, None, None]
    step, zero = 8 / 255, 128
    rounded = ((x.double() / step).round() + zero).clamp(0, 255).sub(zero) * step
    folded = weight * factor
    steps = folded.detach().abs().amax((1, 2, 3), keepdim=True) / 127
    through = folded + ((folded / steps).round() * steps - folded).detach()
    y = F.conv2d(rounded, through, padding=1)
    shift = (norm.bias - norm.running_mean * factor.flatten().float()).detach().double()[:, None, None]
    (y + shift).square().sum().backward()
    assert torch.allclose(ours.double(), weight.grad, rtol=1e-3, atol=1e-3)


# ---------------------------------------------------------------------------------------------- ranges


def test_a_moving_range_is_the_weighted_mean_of_what_was_seen(net):
    quantise_convs(net, **SETTINGS)
    layer = observing(net).train().first.conv
    for high in (1.0, 2.0, 4.0):
        layer.observe(torch.tensor([-high / 2, high]).reshape(1, 1, 1, 2))
    shares = torch.tensor([0.75**2 * 0.25, 0.75 * 0.25, 0.25])
    assert float(layer.seen) == pytest.approx(float(shares.sum()))
    assert float(layer.high / layer.seen) == pytest.approx(
        float((shares * torch.tensor([1.0, 2, 4])).sum() / shares.sum())
    )
    assert float(layer.low / layer.seen) == pytest.approx(-float(layer.high / layer.seen) / 2)


def test_ranges_stay_in_evaluation_and_when_they_are_frozen(net):
    quantise_convs(net, **SETTINGS | {"momentum": None})
    x = torch.randn(1, 3, 8, 8)
    observing(net).eval()(x)
    assert all(float(layer.seen) == 0 for layer in quantised_layers(net))
    train(net)
    net(x)
    assert all(float(layer.seen) == 1 for layer in quantised_layers(net))
    before = copy.deepcopy(net.state_dict())
    for layer in quantised_layers(net):
        layer.is_observing, layer.is_batchnorm_frozen = False, True
    train(net)
    net(10 * x)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_the_average_of_ranges_leaves_out_the_steps_before_the_first(net):
    """However long the network was trained without: their share of the average is none."""
    quantise_convs(net, **SETTINGS | {"momentum": None})
    average = EMA(decay=0.5).build(net)
    for _ in range(20):
        average.update(net)
    net.first.conv.set_range(torch.tensor(-1.0), torch.tensor(3.0))
    average.update(net)
    found = average.model.first.conv
    assert 0 < float(found.seen) < 1
    assert float(found.high / found.seen) == pytest.approx(3.0)
    scale, zero = found.input_levels()
    assert float(scale) == pytest.approx(4 / 255)
    assert float(zero) == 64


def test_copies_keep_their_own_batchnorm(net):
    quantise_convs(net, **SETTINGS)
    other = copy.deepcopy(net)
    assert other.first.conv.batchnorm is other.first.bn
    assert net.first.conv.batchnorm is net.first.bn
    assert set(net.state_dict()) == set(other.state_dict())
    assert "first.conv.linked" not in str(list(net.state_dict()))
