"""Which parameters are decayed, and what one step of the optimizers computes."""

import copy

import pytest
import torch
from torch import nn

from public.config import replace
from public.training.freezing import batchnorm_layers, freeze_parameters
from public.training.optimizers import SGD, Adam, AdamW, parameter_groups
from tests.helpers.small_task import make_trainer, run_steps

SGD_VALUES = {"momentum": 0.9, "nesterov": False, "weight_decay": 0.1}
FLAGS = {"decay_normalisation": False, "decay_bias": True}


class Small(nn.Module):
    """A convolution with bias, three normalisation layers, a free-standing parameter, and a layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.group = nn.GroupNorm(2, 4)
        self.layer = nn.LayerNorm(4)
        self.alpha = nn.Parameter(torch.ones(1))
        self.head = nn.Linear(4, 2)
        self.same_head = self.head


NORMALISATION = {f"{name}.{part}" for name in ("norm", "group", "layer") for part in ("weight", "bias")}
BIASES = {"conv.bias", "head.bias"}
ALWAYS = {"conv.weight", "head.weight", "alpha"}


def decays(model: nn.Module, groups: list[dict]) -> dict[str, float]:
    """The weight decay of each parameter by name; each must be in the groups at most once."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = [(names[id(p)], group["weight_decay"]) for group in groups for p in group["params"]]
    assert len(found) == len(dict(found))
    return dict(found)


@pytest.mark.parametrize(
    ("decay_normalisation", "decay_bias", "spared"),
    [
        (True, True, set()),
        (True, False, BIASES),
        (False, True, NORMALISATION),
        (False, False, NORMALISATION | BIASES),
    ],
)
def test_the_two_flags_choose_what_is_decayed(decay_normalisation, decay_bias, spared):
    model = Small()
    found = decays(model, parameter_groups(model, 0.25, decay_normalisation, decay_bias))
    assert found == {name: 0.0 if name in spared else 0.25 for name in NORMALISATION | BIASES | ALWAYS}


def test_synchronised_batchnorm_counts_as_normalisation():
    from public.parallel.sync_batchnorm import convert_sync_batchnorm

    model = convert_sync_batchnorm(Small())
    assert decays(model, parameter_groups(model, 0.25, False, True))["norm.weight"] == 0.0


def test_a_parameter_that_two_layers_share_is_trained_once():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    assert len(decays(model, parameter_groups(model, 0.25, False, True))) == 3
    optimizer = SGD(**SGD_VALUES, **FLAGS).build(model, lr=0.1)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 3


def test_frozen_parameters_are_in_no_group_and_the_others_in_one():
    model = Small()
    assert freeze_parameters(model, ("conv", "group.weight")) == 3 * 4 * 9 + 4 + 4
    frozen = {"conv.weight", "conv.bias", "group.weight"}
    assert decays(model, parameter_groups(model, 0.25, True, True)).keys() == (NORMALISATION | BIASES | ALWAYS) - frozen


def test_nothing_left_to_train_is_an_error():
    model = Small()
    freeze_parameters(model, tuple(name for name, _ in model.named_children()))
    freeze_parameters(model, tuple(name for name, _ in model.named_parameters(recurse=False)))
    with pytest.raises(ValueError, match="nothing is left to train"):
        parameter_groups(model, 0.25, True, True)


def test_a_prefix_that_fits_nothing_is_named():
    with pytest.raises(ValueError, match="'bias'"):
        freeze_parameters(Small(), ("bias",))  # names end with it, none starts with it
    with pytest.raises(ValueError, match="'backbne'"):
        freeze_parameters(Small(), ("conv", "backbne"))
    with pytest.raises(ValueError, match="'conv'"):
        batchnorm_layers(Small(), ("conv",))  # it has parameters, but no BatchNorm


def test_a_value_that_is_frozen_twice_counts_once():
    assert freeze_parameters(Small(), ("conv", "conv.bias")) == 3 * 4 * 9 + 4


def test_batchnorm_layers_are_found_by_prefix():
    model = nn.ModuleDict({"stem": nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)), "head": nn.BatchNorm2d(1)})
    assert batchnorm_layers(model, ()) == []
    assert batchnorm_layers(model, ("stem",)) == [model["stem"][1]]
    assert batchnorm_layers(model, ("stem.1", "head")) == [model["stem"][1], model["head"]]


# ---------------------------------------------------------------------------------------------- steps


def steps(settings, lr: float, num_steps: int) -> tuple[dict, dict, dict]:
    """A float64 model before and after `num_steps` steps with the same random gradient, and that gradient."""
    torch.manual_seed(0)
    model = Small().double()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    gradients = {name: torch.randn_like(p) for name, p in before.items()}
    optimizer = settings.build(model, lr)
    for _ in range(num_steps):
        for name, parameter in model.named_parameters():
            parameter.grad = gradients[name].clone()
        optimizer.step()
    return before, gradients, {name: p.detach() for name, p in model.named_parameters()}


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_steps_equal_the_closed_form(nesterov):
    settings = SGD(momentum=0.9, nesterov=nesterov, weight_decay=0.1, **FLAGS)
    before, gradients, after = steps(settings, lr=0.5, num_steps=2)
    for name, w in before.items():
        decay, velocity = (0.0 if name in NORMALISATION else 0.1), 0.0
        for _ in range(2):
            g = gradients[name] + decay * w
            velocity = 0.9 * velocity + g
            w = w - 0.5 * (g + 0.9 * velocity if nesterov else velocity)
        torch.testing.assert_close(after[name], w, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", [Adam, AdamW])
def test_the_first_step_of_adam_equals_the_closed_form(kind):
    """At step 1 the corrected moments are g and g*g, so the step is lr * g / (|g| + eps)."""
    settings = kind(betas=(0.9, 0.99), eps=1e-3, weight_decay=0.1, **FLAGS)
    before, gradients, after = steps(settings, lr=0.5, num_steps=1)
    for name, w in before.items():
        decay, g = (0.0 if name in NORMALISATION else 0.1), gradients[name]
        if kind is AdamW:
            w = w * (1 - 0.5 * decay)
        else:
            g = g + decay * w
        torch.testing.assert_close(after[name], w - 0.5 * g / (g.abs() + 1e-3), rtol=1e-12, atol=1e-12)


def test_the_second_moment_has_its_own_beta():
    settings = Adam(betas=(0.5, 0.75), eps=1e-3, weight_decay=0.0, **FLAGS)
    model = nn.Linear(1, 1, bias=False).double()
    w = model.weight.item()
    optimizer = settings.build(model, lr=1.0)
    first, second = 2.0, -1.0
    for gradient in (first, second):
        model.weight.grad = torch.full_like(model.weight, gradient)
        optimizer.step()
    mean = (0.5 * (0.5 * first) + 0.5 * second) / (1 - 0.5**2)
    square = (0.75 * (0.25 * first**2) + 0.25 * second**2) / (1 - 0.75**2)
    expected = w - first / (abs(first) + 1e-3) - mean / (square**0.5 + 1e-3)
    assert model.weight.item() == pytest.approx(expected, rel=1e-12)


def test_building_changes_nothing_in_the_model():
    model = Small()
    before = copy.deepcopy(model.state_dict())
    SGD(**SGD_VALUES, **FLAGS).build(model, lr=0.1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# ---------------------------------------------------------------------------------------------- factors of the rate


def factors(model: nn.Module, groups: list[dict]) -> dict[str, tuple[float, float]]:
    """(factor of the learning rate, weight decay) of each parameter by name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(p)]: (group["lr_factor"], group["weight_decay"]) for group in groups for p in group["params"]}


def test_lr_factors_go_by_the_beginning_of_the_name_and_leave_weight_decay_alone():
    model = Small()
    plain = factors(model, parameter_groups(model, 0.25, False, True))
    found = factors(
        model, parameter_groups(model, 0.25, False, True, (("conv.bias", 3), ("conv", 0.1), ("group.", 0.0)))
    )
    assert found.keys() == plain.keys()
    assert {decay for _, decay in plain.values()} == {0.0, 0.25}
    for name, (factor, decay) in found.items():
        expected = {"conv.bias": 3.0, "conv.weight": 0.1, "group.weight": 0.0, "group.bias": 0.0}.get(name, 1.0)
        assert (factor, decay) == (expected, plain[name][1]), name


def test_a_beginning_that_fits_nothing_is_refused():
    with pytest.raises(ValueError, match=r"lr_factors names \['backbone\.'\]"):
        parameter_groups(Small(), 0.1, False, True, (("head.", 0.5), ("backbone.", 0.1)))
    frozen = Small()
    freeze_parameters(frozen, ("conv",))
    with pytest.raises(ValueError, match=r"\['conv\.'\]"):
        parameter_groups(frozen, 0.1, False, True, (("conv.", 0.1),))


@pytest.mark.parametrize("optimizer", [SGD, AdamW])
def test_a_factor_is_another_learning_rate_of_these_parameters(optimizer, config, tmp_path):
    """The loop's steps with a factor are those of torch's optimizer with that learning rate, and 1 changes no bit."""
    values = {"weight_decay": 0.1, **FLAGS} | (
        {"momentum": 0.9, "nesterov": False} if optimizer is SGD else {"betas": (0.9, 0.999), "eps": 1e-8}
    )

    def trained(lr_factors, lr=config.lr) -> nn.Module:
        settings = replace(
            config,
            num_pictures=0,
            ema=None,
            lr=lr,
            clip_norm=None,
            optimizer=optimizer(**values, lr_factors=lr_factors),
        )
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Conv2d(2, 1, 3))
        trainer = make_trainer(settings, model, tmp_path)
        run_steps(trainer, 4)
        return model

    plain, one, tenth = trained(()), trained((("0.", 1.0),)), trained((("0.", 0.1), ("1.", 0.1)))
    slow = trained((), lr=config.lr * 0.1)
    for a, b in zip(plain.parameters(), one.parameters()):
        assert torch.equal(a, b)
    for a, b, c in zip(tenth.parameters(), slow.parameters(), plain.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
        assert not torch.equal(a, c)
    mixed = trained((("0.", 0.0),))
    torch.manual_seed(0)
    first = nn.Conv2d(3, 2, 3)
    assert torch.equal(mixed[0].weight, first.weight), "a factor of 0 leaves them as they were"
    assert not torch.equal(mixed[1].weight, plain[1].weight)
