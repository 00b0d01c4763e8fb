"""Learnt ranges: LSQ's gradients by hand and by a second way, what they learn, and when they stay."""

import copy
import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from public.families.quantised import QAT, LearnedRange, MovingRange, Quantised
from public.models.fuse import fuse
from public.models.layers import ConvBNAct
from public.models.learned_ranges import RangeFactors, fake_quantise_within
from public.models.operations import count_operations, example_input
from public.models.quantised import fake_quantise, quantised_layers, range_levels
from public.training.ema import EMA
from public.training.freezing import freeze_parameters
from public.training.optimizers import SGD, AdamW, parameter_groups

LEARNED = QAT(
    weight_bits=8,
    activation_bits=8,
    per_channel=True,
    observer=LearnedRange(momentum=0.5, observed_epochs=2, lr_factor=0.5),
    start_epoch=1,
    freeze_observers_epoch=5,
    freeze_batchnorm_epoch=None,
    float_layers=(),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Net:
    """Settings of two blocks, one of them depthwise, and a last convolution."""

    def build_model(self) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(
            ConvBNAct(3, 4, 3, activation="silu"),
            ConvBNAct(4, 4, 3, activation="relu", groups=4),
            ConvBNAct(4, 6, 1, activation="silu"),
            nn.Conv2d(6, 2, 1),
        )

    def on_epoch(self, model, epoch) -> None:
        pass


def drawn(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain(x, low, high, bits):
    """A second way: autograd over plain operations, each rounding as if it were the sum of its value and a constant."""
    top = 2**bits - 1
    scale = (high - low) / top
    zero = -low / scale
    zero = zero + (zero.round() - zero).detach()
    steps = (x / scale).clamp(-zero, top - zero)
    return (steps + (steps.round() - steps).detach()) * scale


# ---------------------------------------------------------------------------------------------- gradients


def test_gradients_of_step_and_offset_are_those_of_lsq_by_hand():
    """Four values with levels 0 .. 3 of width 1, of which 1 means 0: below, two within, above.

    LSQ+: d/ds within is round(v) - v, beyond it the level; d/dbeta is 0 within and 1 beyond.  low = beta, high = beta + 3 s.
    """
    x = torch.tensor([-1.75, -0.25, 1.375, 2.5], dtype=torch.float64).reshape(1, 1, 2, 2).requires_grad_()
    low, high = (torch.tensor(v, dtype=torch.float64).reshape(1, 1, 1).requires_grad_() for v in (-1.0, 2.0))
    weights = torch.tensor([1.0, 10.0, 100.0, 1000.0], dtype=torch.float64).reshape(1, 1, 2, 2)
    found = fake_quantise_within(x, low, high, 2)
    assert found.flatten().tolist() == [-1.0, 0.0, 1.0, 2.0]
    (found * weights).sum().backward()
    assert x.grad.flatten().tolist() == [0.0, 10.0, 100.0, 0.0]
    by_scale = 0 * 1 + 0.25 * 10 + -0.375 * 100 + 3 * 1000
    by_offset = 1 + 1000
    assert float(high.grad) == pytest.approx(by_scale / 3)
    assert float(low.grad) == pytest.approx(by_offset - by_scale / 3)


@pytest.mark.parametrize("channels", [1, 5])
def test_gradients_are_those_of_plain_operations_and_finite_differences(channels):
    """For one range and for one of each channel; differences, while the roundings are held, along both logarithms."""
    x, weights = drawn(2, 5, 4, 3), drawn(2, 5, 4, 3, seed=2)
    low = -0.5 - drawn(channels, 1, 1, seed=3).abs()
    high = 0.75 + drawn(channels, 1, 1, seed=4).abs()
    factors = RangeFactors(low, own_lr_factor=1.0)
    with torch.no_grad():
        factors.low.copy_(0.2 * drawn(channels, seed=5))
        factors.high.copy_(0.2 * drawn(channels, seed=6))
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    a, b = (v.detach().clone()[:, None, None].requires_grad_() for v in (factors.low, factors.high))
    found, expected = factors(ours, low, high, 3), plain(theirs, low * a.exp(), high * b.exp(), 3)
    assert torch.allclose(found, expected)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    assert torch.allclose(ours.grad, theirs.grad)
    assert torch.allclose(factors.low.grad, a.grad.flatten())
    assert torch.allclose(factors.high.grad, b.grad.flatten())

    ends = [v.detach() for v in factors.ends(low, high)]
    step, zero = range_levels(*ends, 3)
    held = (x / step).clamp(-zero, 7 - zero)
    rest, offset = held.round() - held, zero + ends[0] / step

    def at(low_end, high_end):
        width = (high_end - low_end) / 7
        start = offset - low_end / width
        return float(((torch.minimum(torch.maximum(x / width, -start), 7 - start) + rest) * width * weights).sum())

    for parameter, moved in ((factors.low, 0), (factors.high, 1)):
        tiny = 1e-6
        up, down = ([e * (1 + sign * tiny) if i == moved else e for i, e in enumerate(ends)] for sign in (1, -1))
        assert float(parameter.grad.sum()) == pytest.approx((at(*up) - at(*down)) / (2 * tiny), rel=1e-5)


def test_untouched_factors_quantise_as_the_observed_range_to_the_bit():
    """And the end of a range that does not reach 0 has nothing to learn: it lies at 0."""
    x = drawn(2, 3, 4, 4).float()
    for low, high in ((-1.3, 2.7), (0.4, 2.0), (-3.0, -1.0), (0.0, 0.0)):
        low, high = torch.tensor(low).reshape(1, 1, 1), torch.tensor(high).reshape(1, 1, 1)
        expected = fake_quantise(x, *range_levels(low, high, 8), 0, 255)
        factors = RangeFactors(low, own_lr_factor=1.0)
        found = factors(x, low, high, 8)
        assert torch.equal(found, expected)
        (found * x).sum().backward()
        assert bool(factors.low.grad != 0) == bool(low < 0)
        assert bool(factors.high.grad != 0) == bool(high > 0)


def test_a_learnt_range_has_less_squared_error_than_the_largest_one():
    """Of values with heavy tails, at 4 bits; from ranges a thousandfold apart the same way is gone, and 0 stays a level."""
    x = drawn(1, 4, 32, 32).float()
    x = F.silu(x * (1 + 3 * (drawn(1, 4, 32, 32, seed=2).float() > 2.2)))
    low, high = x.amin().reshape(1, 1, 1), x.amax().reshape(1, 1, 1)

    def error_at(low_factor: float, high_factor: float) -> float:
        levels = range_levels(low * low_factor, high * high_factor, 4)
        return float((fake_quantise(x, *levels, 0, 15) - x).square().mean())

    best = min(error_at(a / 20, b / 20) for a in range(14, 27) for b in range(6, 21))
    found = {}
    for size in (0.01, 1.0, 10.0):
        factors = RangeFactors(low, own_lr_factor=1.0)
        optimizer = torch.optim.Adam(factors.parameters(), lr=0.05)
        for _ in range(60):
            optimizer.zero_grad()
            error = (factors(x * size, low * size, high * size, 4) / size - x).square().mean()
            error.backward()
            optimizer.step()
        found[size] = factors.high.item()
        assert best <= error.item() < 1.06 * best < 0.65 * error_at(1, 1)
        ends = factors.ends(low * size, high * size)
        assert factors(torch.zeros(1, 1, 1, 1), low * size, high * size, 4) == 0
        _, zero = range_levels(*ends, 4)
        assert zero == zero.round()
    assert max(found.values()) - min(found.values()) < 0.02


# ---------------------------------------------------------------------------------------------- when they are learnt


def stepped(settings: Quantised, model: nn.Module, optimizer: torch.optim.Optimizer, epoch: int) -> dict:
    """The state of the factors after three steps in `epoch`."""
    settings.on_epoch(model, epoch)
    for step in range(3):
        optimizer.zero_grad(set_to_none=True)
        model.train()(drawn(2, 3, 8, 8, seed=100 * epoch + step).float()).square().mean().backward()
        assert model[2].conv.factors.low.grad is None, "the page froze it"
        optimizer.step()
    return {name: value.clone() for name, value in model.state_dict().items() if ".factors." in name}


@pytest.mark.parametrize(
    "optimizer",
    [
        SGD(momentum=0.9, nesterov=True, weight_decay=0.1, decay_normalisation=True, decay_bias=True),
        AdamW(betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1, decay_normalisation=True, decay_bias=True),
    ],
    ids=["sgd", "adamw"],
)
def test_they_are_learnt_in_their_epochs_and_else_stay_to_the_bit(optimizer):
    """Neither decay nor momentum moves them before and after, and what the page freezes stays in between as well."""
    settings = Quantised(network=Net(), quantisation=LEARNED)
    model = settings.build_model()
    freeze_parameters(model, ("2",))
    built = optimizer.build(model, 0.01)
    states, seen = [], []
    for epoch in range(7):
        states.append(stepped(settings, model, built, epoch))
        seen.append(float(model[0].conv.seen))
    for epoch in (0, 1, 2):
        assert not any(value.any() for value in states[epoch].values()), epoch
    assert seen[0] == 0
    assert seen[1] < seen[2] == seen[6]
    for epoch in (3, 4):
        moved = {name for name, value in states[epoch].items() if not torch.equal(value, states[epoch - 1][name])}
        assert moved == {"0.conv.factors.low", "0.conv.factors.high", "1.conv.factors.low", "1.conv.factors.high"}
    for epoch in (5, 6):
        assert all(torch.equal(value, states[4][name]) for name, value in states[epoch].items())


def test_they_are_a_group_of_their_own_that_is_never_decayed():
    model = Quantised(network=Net(), quantisation=LEARNED).build_model()
    groups = parameter_groups(model, 0.25, True, True, (("0.", 0.1),))
    own = {id(p) for name, p in model.named_parameters() if ".factors." in name}
    assert len(own) == 6
    for group in groups:
        kinds = {id(parameter) in own for parameter in group["params"]}
        assert len(kinds) == 1
        assert group["weight_decay"] == (0.0 if kinds == {True} else 0.25)
    assert sorted((g["lr_factor"], len(g["params"])) for g in groups if id(g["params"][0]) in own) == [
        (pytest.approx(0.05), 2),
        (0.5, 4),
    ]


def test_a_folded_layer_and_the_average_have_the_learnt_range():
    settings = Quantised(network=Net(), quantisation=LEARNED)
    model = settings.build_model()
    average = EMA(decay=0.5).build(model)
    settings.on_epoch(model, 1)
    x = drawn(2, 3, 8, 8).float()
    model.train()(x)
    for value in (-0.4, -0.2):
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if ".factors." in name:
                    parameter.fill_(value)
        average.update(model)
    for network in (model.eval(), average.model):
        folded = fuse(network)
        for ours, theirs in zip(quantised_layers(network), quantised_layers(folded), strict=True):
            assert theirs.factors is None
            assert all(torch.equal(a, b) for a, b in zip(ours.input_levels(), theirs.input_levels()))
            scale, zero = ours.input_levels()
            low, high = ours.observed_range()
            factor = ours.factors.low.exp()[:, None, None]
            assert 0.67 < float(factor.max()) < 0.82
            assert torch.allclose(scale, (high.clamp(min=0) - low.clamp(max=0)) * factor / 255)
            assert torch.equal(zero, zero.round())
        assert torch.allclose(network(x), folded(x), atol=0.02)
    fresh = fuse(settings.build_model().eval())
    assert all(float(layer.seen) == 0 for layer in quantised_layers(fresh)), "no range was seen, and none is made up"


def test_they_are_vectors_without_operations():
    """One for each range, also of a copy on the meta device, and no layer that a count of operations misses."""
    settings = Quantised(network=Net(), quantisation=LEARNED)
    with torch.device("meta"):
        model = settings.build_model()
    layers = quantised_layers(copy.deepcopy(model))
    assert [tuple(layer.factors.high.shape) for layer in layers] == [(1,), (4,), (1,)]
    counted, bare = (count_operations(m, example_input(8, 8)) for m in (model, Net().build_model()))
    assert counted.uncounted == []
    assert counted.rows[0].macs == bare.rows[0].macs > 0


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"observed_epochs": 0}, "LearnedRange.observed_epochs is 0; it must be at least 1"),
        ({"lr_factor": 0.0}, "LearnedRange.lr_factor is 0.0; it must be above 0"),
        ({"momentum": 1.0}, "LearnedRange.momentum is 1.0; it must be at least 0 and below 1"),
        (
            {"observed_epochs": 4},
            "QAT.freeze_observers_epoch is 5, start_epoch 1 and the observer's observed_epochs 4; no range would be "
            "learnt in between",
        ),
    ],
)
def test_settings_that_teach_nothing_are_refused(changes, told):
    with pytest.raises(ValueError, match=told.replace(".", r"\.")):
        dataclasses.replace(LEARNED, observer=dataclasses.replace(LEARNED.observer, **changes))
    assert dataclasses.replace(LEARNED, observer=MovingRange(momentum=0.9)).learning_epoch is None
    assert dataclasses.replace(LEARNED, freeze_observers_epoch=None).learning_epoch == 3
