"""Synchronised BatchNorm on several processes against torch's BatchNorm on the joined batch."""

import pytest
import torch
from torch import nn

from public.parallel import collectives
from public.parallel.sync_batchnorm import SyncBatchNorm2d, convert_sync_batchnorm, global_statistics
from tests.helpers.numerics import assert_within_rounding
from tests.helpers.processes import run_processes

PARTS = [(3, 5), (1, 7), (4, 4), (2, 1, 3)]  # images on each process
MEANS = [0.0, 1e4]
CHANNELS, HEIGHT, WIDTH = 4, 5, 6


def make_batch(num_images: int, mean: float, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and the gradient of the loss with respect to the output, both (B, C, H, W)."""
    torch.manual_seed(1)
    shape = (num_images, CHANNELS, HEIGHT, WIDTH)
    x = torch.randn(shape, dtype=torch.float64) * torch.tensor([0.5, 1, 2, 3]).view(1, CHANNELS, 1, 1) + mean
    return x.float().to(dtype), torch.randn(shape, dtype=torch.float64).to(dtype)


def make_norm(dtype: torch.dtype) -> nn.BatchNorm2d:
    torch.manual_seed(2)
    norm = nn.BatchNorm2d(CHANNELS, eps=1e-3, momentum=0.03).to(dtype)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    nn.init.normal_(norm.running_mean)
    return norm


def two_steps(norm: nn.Module, x: torch.Tensor, gradient: torch.Tensor) -> dict[str, torch.Tensor]:
    """Two training steps on `x`, the second on 2x + 1, with the gradients summed up; then the output in eval mode."""
    norm.train()
    first = x.clone().requires_grad_()
    output = norm(first)
    (output * gradient).sum().backward()
    (norm(2 * x + 1) * gradient).sum().backward()
    found = {"output": output, "input gradient": first.grad, "evaluation": norm.eval()(x)}
    found |= {"weight gradient": norm.weight.grad, "bias gradient": norm.bias.grad}
    return {name: value.detach() for name, value in (found | dict(norm.named_buffers())).items()}


def part_of(rank: int, parts: tuple[int, ...]) -> slice:
    return slice(sum(parts[:rank]), sum(parts[: rank + 1]))


def on_this_rank(cases: list) -> list[dict]:
    """The two steps of this rank's part for each case (mean, dtype) and each division into parts of this many ranks."""
    found = []
    for parts, mean, dtype in cases:
        x, gradient = make_batch(sum(parts), mean, dtype)
        own = part_of(collectives.rank(), parts)
        norm = convert_sync_batchnorm(nn.Sequential(make_norm(dtype)))[0]
        assert type(norm) is SyncBatchNorm2d
        found.append(two_steps(norm, x[own], gradient[own]))
    return found


def joined(by_rank: list[dict]) -> dict[str, torch.Tensor]:
    """One process's view of what the ranks found: images in rank order, gradients summed, buffers equal."""
    whole = {name: torch.cat([found[name] for found in by_rank]) for name in ("output", "input gradient", "evaluation")}
    whole |= {name: sum(found[name] for found in by_rank) for name in ("weight gradient", "bias gradient")}
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert all(torch.equal(found[name], by_rank[0][name]) for found in by_rank), "equal bits on all ranks"
        whole[name] = by_rank[0][name]
    return whole


@pytest.fixture(scope="module")
def results() -> dict[tuple, dict[str, torch.Tensor]]:
    """What all processes together found, for each case (parts, mean, dtype)."""
    cases = [(parts, mean, dtype) for parts in PARTS for mean in MEANS for dtype in (torch.float64, torch.float32)]
    found = {}
    for world_size in (2, 3):
        own = [case for case in cases if len(case[0]) == world_size]
        by_rank = run_processes(on_this_rank, world_size, own)
        found |= {case: joined([results[i] for results in by_rank]) for i, case in enumerate(own)}
    return found


def reference(parts: tuple[int, ...], mean: float, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    x, gradient = make_batch(sum(parts), mean, dtype)
    return two_steps(make_norm(dtype), x, gradient)


@pytest.mark.parametrize("parts", PARTS, ids=str)
def test_equals_batchnorm_on_the_joined_batch_in_float64(results, parts):
    found, expected = results[parts, 0.0, torch.float64], reference(parts, 0.0, torch.float64)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-12, msg=name)


@pytest.mark.numeric
@pytest.mark.parametrize("parts", PARTS, ids=str)
def test_equals_batchnorm_on_the_joined_batch_in_float32(results, parts):
    """To the rounding that torch's own BatchNorm has here."""
    found, single, double = (
        results[parts, 0.0, torch.float32],
        *(reference(parts, 0.0, dtype) for dtype in (torch.float32, torch.float64)),
    )
    for name, value in double.items():
        assert_within_rounding(found[name], value, single=single[name], double=value, cap=1e-5, what=name)


@pytest.mark.numeric
@pytest.mark.parametrize("parts", PARTS, ids=str)
def test_a_large_mean_costs_hardly_more_digits_than_in_torchs_own(results, parts):
    """At a mean of 1e4, E[x^2] - E[x]^2 would leave no right digit of a variance of 0.25 in float32.

    What is lost here comes from the means of the parts, which are exchanged in float32.
    """
    exact = reference(parts, 1e4, torch.float64)
    for name, value in exact.items():
        torch.testing.assert_close(results[parts, 1e4, torch.float64][name], value, rtol=1e-9, atol=1e-9, msg=name)
    found, torchs = results[parts, 1e4, torch.float32], reference(parts, 1e4, torch.float32)
    torch.testing.assert_close(found["running_var"].double(), exact["running_var"], rtol=1e-4, atol=0)
    for name, value in exact.items():
        error, torchs_error = (found[name] - value).abs().max(), (torchs[name] - value).abs().max()
        assert error <= 10 * torchs_error + 1e-4 * value.abs().max(), name


def test_statistics_alone_are_those_of_the_batch():
    x, _ = make_batch(4, 3.0, torch.float64)
    mean, variance, count = global_statistics(x)
    torch.testing.assert_close(mean, x.mean((0, 2, 3)), rtol=1e-12, atol=0)
    torch.testing.assert_close(variance, x.var((0, 2, 3), correction=0), rtol=1e-12, atol=0)
    assert count == 4 * HEIGHT * WIDTH


def test_alone_and_in_eval_mode_it_is_batchnorm():
    x, gradient = make_batch(4, 3.0, torch.float32)
    own = two_steps(convert_sync_batchnorm(nn.Sequential(make_norm(torch.float32)))[0], x, gradient)
    for name, value in two_steps(make_norm(torch.float32), x, gradient).items():
        assert torch.equal(own[name], value), name


# ---------------------------------------------------------------------------------------------- conversion


def test_conversion_keeps_names_values_and_parameters():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), make_norm(torch.float32), nn.ModuleDict({"n": nn.BatchNorm2d(4)})).eval()
    parameters, state = list(model.parameters()), {k: v.clone() for k, v in model.state_dict().items()}
    settings = model[1].eps, model[1].momentum
    assert convert_sync_batchnorm(model) is model
    assert [type(model[1]), type(model[2]["n"])] == [SyncBatchNorm2d, SyncBatchNorm2d]
    assert (model[1].eps, model[1].momentum, model[1].training) == (*settings, False)
    assert all(a is b for a, b in zip(parameters, model.parameters()))
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("options", [{"affine": False}, {"momentum": None}], ids=str)
def test_a_batchnorm_it_cannot_stand_for_is_refused(options):
    with pytest.raises(ValueError, match="affine parameters and a fixed momentum"):
        convert_sync_batchnorm(nn.Sequential(nn.BatchNorm2d(4, **options)))


# ---------------------------------------------------------------------------------------------- autocast


def bf16_step() -> dict[str, torch.Tensor]:
    """A convolution and a BatchNorm under bf16 autocast, on this rank's part of 8 images."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(3, CHANNELS, 3), nn.BatchNorm2d(CHANNELS))
    images = torch.randn(8, 3, 8, 8).to(memory_format=torch.channels_last)
    gradient = torch.randn(8, CHANNELS, 6, 6)
    if collectives.is_distributed():
        own = part_of(collectives.rank(), (3, 5))
        images, gradient = images[own], gradient[own]
        convert_sync_batchnorm(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(images)
    assert output.is_contiguous(memory_format=torch.channels_last)
    (output.float() * gradient).sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return gradients | {"output": output.detach(), "running_var": model[1].running_var}


@pytest.mark.numeric
def test_bf16_inputs_under_autocast():
    """Within a few steps of bf16, 0.4 per cent each; the statistics are float32."""
    expected, found = bf16_step(), run_processes(bf16_step, 2)
    output = torch.cat([part["output"] for part in found])
    assert output.dtype == expected["output"].dtype == torch.bfloat16
    torch.testing.assert_close(output, expected["output"], rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(found[0]["running_var"], expected["running_var"], rtol=1e-3, atol=1e-3)
    for name in ("1.weight", "1.bias", "0.weight"):
        total = found[0][name] + found[1][name]
        assert total.dtype == torch.float32
        torch.testing.assert_close(total, expected[name], rtol=5e-2, atol=2e-2 * expected[name].abs().max().item())


# ---------------------------------------------------------------------------------------------- collectives


def gathered() -> dict[str, object]:
    rank = collectives.rank()
    value = torch.tensor([1.0 + rank, 10.0], dtype=torch.float64, requires_grad=True)
    parts = collectives.gather_over_ranks(value)
    weights = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], dtype=torch.float64) * (rank + 1)
    (parts * weights).sum().backward()
    before = torch.tensor([rank + 1.0])
    return {
        "parts": parts.detach(),
        "gradient": value.grad,
        "sum": collectives.sum_over_ranks(before),
        "untouched": before,
        "share": collectives.share_of_sum(torch.tensor(rank * 4.0)),
        "share of nothing": collectives.share_of_sum(torch.tensor(0.0)),
        "objects": collectives.gather_objects(("rank", rank)),
        "first": collectives.from_rank_0(("rank", rank)),
        "who": (collectives.rank(), collectives.local_rank(), collectives.world_size(), collectives.local_world_size()),
    }


def test_collectives_on_three_processes():
    found = run_processes(gathered, 3)
    for rank, own in enumerate(found):
        assert own["parts"].tolist() == [[1, 10], [2, 10], [3, 10]]
        # the loss is the sum over ranks r of (r + 1) * weights * parts, and 1 + 2 + 3 = 6
        assert own["gradient"].tolist() == [6 * (2 * rank + 1), 6 * (2 * rank + 2)]
        assert own["sum"].item() == 6
        assert own["untouched"].item() == rank + 1
        assert own["share"].item() == 12 / 3
        assert own["share of nothing"].item() == pytest.approx(1 / 3)
        assert own["objects"] == [("rank", 0), ("rank", 1), ("rank", 2)]
        assert own["first"] == ("rank", 0)
        assert own["who"] == (rank, rank, 3, 3)


def test_collectives_alone_are_the_identity():
    value = torch.tensor([2.0], requires_grad=True)
    collectives.gather_over_ranks(value).sum().backward()
    assert value.grad.item() == 1
    assert collectives.sum_over_ranks(value).item() == 2
    assert collectives.share_of_sum(torch.tensor(0.25)).item() == 1
    assert collectives.share_of_sum(torch.tensor(5.0)).item() == 5
    assert collectives.gather_objects("x") == ["x"]
    assert collectives.from_rank_0("x") == "x"
    assert (collectives.rank(), collectives.world_size()) == (0, 1)
