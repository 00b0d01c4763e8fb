"""The rule of the numeric tests: it lets rounding pass, and nothing else."""

import copy

import pytest
import torch
from torch import nn

from tests.helpers.numerics import (
    EPS,
    FACTOR,
    allowed,
    assert_same_in_float64,
    assert_within_rounding,
    in_float64,
    rounding,
)

CAP = 1e-3


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.SiLU(), nn.Conv2d(16, 4, 3, padding=1)]
    return nn.Sequential(*layers).eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def measured(network, images) -> dict[str, torch.Tensor]:
    """The network's outputs in float32 and in float64."""
    with torch.no_grad():
        return {"single": network(images), "double": in_float64(network)(images)}


@pytest.mark.numeric
def test_rounding_passes(network, images, measured):
    """The same network in another memory format and one image at a time: other kernels, other sums."""
    with torch.no_grad():
        other = network(images.to(memory_format=torch.channels_last))
        parts = torch.cat([network(image[None]) for image in images])
    for found in (other, parts):
        assert_within_rounding(found, measured["single"], **measured, cap=CAP)
    assert 0 < rounding(**measured) < 1e-5


def test_a_deviation_above_rounding_fails(measured):
    scale = measured["double"].abs().max()
    bound = allowed(rounding(**measured), cap=CAP)
    assert EPS < bound < CAP
    found = measured["double"].clone()
    found[1, 2, 3, 4] += 0.9 * bound * scale
    assert_within_rounding(found, measured["double"], **measured, cap=CAP)
    found[1, 2, 3, 4] += 0.2 * bound * scale
    with pytest.raises(AssertionError, match=r"logits differs by .* where the rounding of this CPU explains"):
        assert_within_rounding(found, measured["double"], **measured, cap=CAP, what="logits")


def test_the_bound_is_the_measured_rounding_times_the_factor():
    double = torch.tensor([1.0, -2.0], dtype=torch.float64)
    single = double + torch.tensor([0.0, 2e-5], dtype=torch.float64)
    assert rounding(single, double) == pytest.approx(1e-5, rel=1e-9)
    assert allowed(rounding(single, double), cap=CAP) == pytest.approx(FACTOR * 1e-5, rel=1e-9)
    assert allowed(rounding(double, double), cap=CAP) == FACTOR * EPS


def test_a_bound_above_the_cap_fails_even_where_nothing_differs():
    double = torch.tensor([1.0, -2.0], dtype=torch.float64)
    single = double * (1 + CAP)
    with pytest.raises(
        AssertionError, match=r"logits: float32 and float64 differ by 1\.00e-03 .* above the cap of 1e-03"
    ):
        assert_within_rounding(double, double, single=single, double=double, cap=CAP, what="logits")


def test_a_network_broken_in_float32_fails(network, images, measured):
    """One that is wrong in float32 would measure a large rounding, and excuse itself by it."""
    broken = copy.deepcopy(network)
    with torch.no_grad():
        broken[0].weight[3] = 0
        found = broken(images)
    with pytest.raises(AssertionError, match="above the cap"):
        assert_within_rounding(found, found, single=found, double=measured["double"], cap=CAP)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_fail(measured, value):
    found = measured["double"].clone()
    found[0, 0, 0, 0] = value
    with pytest.raises(AssertionError, match="not finite"):
        assert_within_rounding(found, measured["double"], **measured, cap=CAP)
    with pytest.raises(AssertionError, match="not finite"):
        assert_within_rounding(found, found, **measured, cap=CAP)
    with pytest.raises(AssertionError, match="in float32 is not finite"):
        rounding(found, measured["double"])
    with pytest.raises(AssertionError, match="not finite"):
        assert_same_in_float64(found, found)


def test_what_can_tell_nothing_fails(measured):
    zeros, nothing = torch.zeros(3, dtype=torch.float64), torch.zeros(0, dtype=torch.float64)
    with pytest.raises(AssertionError, match="0 everywhere"):
        rounding(zeros, zeros)
    with pytest.raises(AssertionError, match="is empty"):
        assert_same_in_float64(nothing, nothing)
    with pytest.raises(AssertionError, match=r"shapes \(2, 4, 16, 16\) and \(1, 4, 16, 16\)"):
        assert_within_rounding(measured["double"], measured["double"][:1], **measured, cap=CAP)


def test_float64_is_asked_for_and_compared_closely(measured):
    expected = measured["double"]
    assert_same_in_float64(expected * (1 + 1e-10), expected)
    with pytest.raises(AssertionError, match=r"logits differs by 1\.0.e-08 of its scale, not 1e-09"):
        assert_same_in_float64(expected * (1 + 1.001e-8), expected, what="logits")
    with pytest.raises(AssertionError, match=r"found is torch\.float32; compute it in float64"):
        assert_same_in_float64(measured["single"], expected)
    with pytest.raises(AssertionError, match=r"expected is torch\.float32"):
        assert_same_in_float64(expected, measured["single"])


def test_a_copy_in_float64_takes_any_images_and_leaves_the_network_alone(network, images):
    with torch.no_grad():
        assert in_float64(network)(images).dtype == in_float64(network)(images.double()).dtype == torch.float64
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
