"""Gradients over processes: the mean, with any rank's gradient missing, in a layout that stays."""

import pytest
import torch
from torch import nn

from public.parallel import collectives, reduce
from public.parallel.reduce import GradientReducer
from tests.helpers.processes import run_processes


def make_model() -> nn.Module:
    torch.manual_seed(0)
    model = nn.ModuleDict({"a": nn.Linear(3, 5), "b": nn.Linear(5, 2), "frozen": nn.Linear(2, 2), "c": nn.Linear(2, 1)})
    model["frozen"].requires_grad_(False)
    return model


def gradients_of(rank: int, skip: str | None) -> dict[str, torch.Tensor]:
    """What rank `rank` computes: random numbers, and nothing for the parameters of layer `skip`."""
    torch.manual_seed(100 + rank)
    drawn = {name: torch.randn_like(p) for name, p in make_model().named_parameters() if p.requires_grad}
    return {name: value for name, value in drawn.items() if skip is None or not name.startswith(skip)}


def reduced(bucket_values: int, skips: list[str | None], arrival: int) -> dict[str, torch.Tensor]:
    """This rank's gradients after the reduction; they were set in the model's order or, with arrival -1, backwards."""
    reduce.BUCKET_VALUES = bucket_values
    model = make_model()
    reducer = GradientReducer(model)
    parameters = dict(model.named_parameters())
    for name, value in list(gradients_of(collectives.rank(), skips[collectives.rank()]).items())[::arrival]:
        parameters[name].grad = value
    reducer.reduce()
    assert model["frozen"].weight.grad is None
    return {name: p.grad for name, p in parameters.items() if p.requires_grad}


def reduced_in_several_ways(skips: list[str | None]) -> list[dict[str, torch.Tensor]]:
    """For one large bucket and for small ones, with gradients that arrive forwards and backwards."""
    return [reduced(values, skips, arrival) for values in (10**6, 12, 1) for arrival in (1, -1)]


@pytest.mark.parametrize("skips", [[None, None], [None, "b"], [None, "b", "c"], [None, None, None]], ids=str)
def test_each_gradient_becomes_the_mean_over_the_processes(skips):
    results = run_processes(reduced_in_several_ways, len(skips), skips)
    parts = [gradients_of(rank, skip) for rank, skip in enumerate(skips)]
    for by_rank in zip(*results):  # one way of reducing
        for name in gradients_of(0, None):
            expected = sum(part[name].double() for part in parts if name in part) / len(skips)
            for gradients in by_rank:
                torch.testing.assert_close(gradients[name].double(), expected, rtol=1e-6, atol=1e-6)
                assert torch.equal(gradients[name], by_rank[0][name]), "all ranks have the same bits"
    for forwards, backwards in zip(results[0][::2], results[0][1::2]):
        assert all(torch.equal(forwards[name], backwards[name]) for name in forwards), "arrival changes no bit"


def memory_formats() -> bool:
    """Reduces the gradient of a channels-last convolution, and says whether it kept its format.

    And once more after its bias was taken out of training, which then gets no gradient, not a zero that moves it.
    """
    conv = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    value = torch.arange(conv.weight.numel()).float().view(conv.weight.shape) * (collectives.rank() + 1)
    conv.weight.grad = value.to(memory_format=torch.channels_last)
    conv.bias.grad = torch.zeros(4)
    reducer = GradientReducer(conv)
    reducer.reduce()
    assert torch.equal(conv.weight.grad, value / (collectives.rank() + 1) * 1.5)
    conv.bias.requires_grad_(False).grad = None
    reducer.reduce()
    assert conv.bias.grad is None
    assert torch.equal(conv.weight.grad, value / (collectives.rank() + 1) * 1.5)
    return conv.weight.grad.is_contiguous(memory_format=torch.channels_last)


def test_channels_last_gradients_stay_in_place():
    assert run_processes(memory_formats, 2) == [True, True]


def test_the_layout_is_the_models_order_cut_by_size(monkeypatch):
    monkeypatch.setattr(reduce, "BUCKET_VALUES", 20)
    model = make_model()  # 15 + 5, 10 + 2, 2 + 1 values that are trained
    buckets = GradientReducer(model).buckets
    trained = [id(p) for p in model.parameters() if p.requires_grad]
    assert [id(p) for bucket in buckets for p in bucket] == trained
    assert [[p.numel() for p in bucket] for bucket in buckets] == [[15, 5], [10, 2, 2, 1]]


def test_a_parameter_larger_than_a_bucket_has_one_of_its_own(monkeypatch):
    monkeypatch.setattr(reduce, "BUCKET_VALUES", 4)
    assert [[p.numel() for p in bucket] for bucket in GradientReducer(make_model()).buckets] == [
        [15], [5], [10], [2, 2], [1]
    ]  # fmt: skip


def test_alone_nothing_changes():
    model = make_model()
    model["a"].weight.grad = torch.ones(5, 3)
    GradientReducer(model).reduce()
    assert torch.equal(model["a"].weight.grad, torch.ones(5, 3))
    assert model["b"].weight.grad is None
