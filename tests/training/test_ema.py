"""The moving average of the weights against the weighted sum written out."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from public.training.ema import EMA, RampedEMA
from tests.helpers.places import SHARED


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).double()


def disturb(model: nn.Module, seed: int) -> None:
    """Changes weights, BatchNorm statistics and the counter, as a training step does."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn_like(parameter)
    model.train()(torch.randn(2, 3, 6, 6, dtype=torch.float64))


def snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def weighted_sum(history: list[dict], decay: float) -> dict[str, torch.Tensor]:
    """The average after the updates of `history`: update t counts (1 - d_t) * d_{t+1} * d_{t+2} ..., normalised to 1."""
    decays = [min(decay, (1 + t) / (10 + t)) for t in range(len(history))]
    shares = []
    for t, d in enumerate(decays):
        share = 1 - d
        for later in decays[t + 1 :]:
            share *= later
        shares.append(share)
    total = sum(shares)
    floating = [name for name, value in history[0].items() if value.is_floating_point()]
    return {name: sum(share / total * state[name] for share, state in zip(shares, history)) for name in floating}


@pytest.mark.parametrize("decay", [0.9998, 0.3])  # 0.3 ends the warm-up at the fourth update
@pytest.mark.parametrize("num_updates", [1, 2, 3, 4, 12])
def test_the_average_is_the_normalised_weighted_sum_of_all_updates(decay, num_updates):
    model = make_model()
    ema = EMA(decay=decay).build(model)
    history = []
    for seed in range(num_updates):
        disturb(model, seed)
        ema.update(model)
        history.append(snapshot(model))
    averaged = ema.model.state_dict()
    expected = weighted_sum(history, decay)
    assert {"0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"} == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(averaged[name], value, rtol=1e-12, atol=1e-12)
    assert averaged["1.num_batches_tracked"] == num_updates, "counters are copied"


@pytest.mark.parametrize("num_updates", [1, 2, 7])
def test_the_ramped_average_starts_from_the_weights_and_follows_its_decays(num_updates):
    """YOLOX's rule written out: average = decay * average + (1 - decay) * weights, the first being the initial ones."""
    model = make_model()
    ema = RampedEMA(decay=0.9, ramp_updates=3).build(model)
    expected = snapshot(model)
    for update in range(1, num_updates + 1):
        disturb(model, update)
        ema.update(model)
        decay = 0.9 * (1 - math.exp(-update / 3))
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * value
    averaged = ema.model.state_dict()
    for name, value in expected.items():
        if value.is_floating_point():
            torch.testing.assert_close(averaged[name], value, rtol=1e-12, atol=1e-12)
    assert averaged["1.num_batches_tracked"] == num_updates, "counters are copied"


def test_the_ramp_has_the_decays_of_the_original():
    folder = SHARED / "oracles/yolox/preprocess"
    if not folder.exists():
        pytest.skip(f"the oracle is not at {folder}")
    oracle = np.load(folder / "out.npz")
    for update, decay in zip(oracle["ema.updates_i64"].tolist(), oracle["ema.decay_f64"].tolist()):
        model = nn.Linear(1, 1).double()
        ema = RampedEMA(decay=0.9998, ramp_updates=2000).build(model)
        ema.num_updates = update - 1
        torch.nn.init.zeros_(ema.model.weight)
        torch.nn.init.ones_(model.weight)
        ema.update(model)
        assert ema.model.weight.item() == pytest.approx(1 - decay, rel=1e-12)


def test_the_first_update_takes_the_weights_over_exactly():
    model = make_model().float()
    ema = EMA(decay=0.9998).build(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter))
    ema.update(model)
    for name, value in model.state_dict().items():
        assert torch.equal(ema.model.state_dict()[name], value), name


def test_an_average_of_equal_weights_is_those_weights():
    model = make_model().float()
    ema = EMA(decay=0.9998).build(model)
    for _ in range(50):
        ema.update(model)
    for name, value in model.state_dict().items():
        assert torch.equal(ema.model.state_dict()[name], value), name


def test_the_average_is_apart_from_the_model():
    model = make_model()
    before = snapshot(model)
    ema = EMA(decay=0.9).build(model)
    assert model.training, "the model stays in train mode"
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not ema.model.training
    assert not any(parameter.requires_grad for parameter in ema.model.parameters())
    disturb(model, 1)
    assert all(torch.equal(ema.model.state_dict()[name], value) for name, value in before.items())
    changed = snapshot(model)
    ema.update(model)
    ema.update(model)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in changed.items())


@pytest.mark.parametrize("settings", [EMA(decay=0.5), RampedEMA(decay=0.5, ramp_updates=10)])
def test_a_saved_average_goes_on_with_the_same_bits(settings):
    model = make_model().float()
    ema = settings.build(model)
    for _ in range(7):
        with torch.no_grad():
            model[0].weight += 0.1
        ema.update(model)
    other = settings.build(make_model().float())
    other.load_state_dict(copy.deepcopy(ema.state_dict()))
    for _ in range(3):
        with torch.no_grad():
            model[0].weight *= 1.1
        ema.update(model)
        other.update(model)
    assert ema.state_dict()["num_updates"] == other.state_dict()["num_updates"] == 10
    for name, value in ema.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name]), name


@pytest.mark.parametrize("part", ["model", "num_updates", "decay_product"])
def test_a_part_that_is_missing_is_named(part):
    ema = EMA(decay=0.5).build(make_model())
    state = ema.state_dict()
    del state[part]
    with pytest.raises(KeyError, match=part):
        ema.load_state_dict(state)
