"""How near two computations of the same quantity must be: one rule for every numeric test.

Kernels differ from CPU to CPU: with AVX2, AVX512 or plain SSE the same sums are taken in another order, and float32 rounds
each order differently.  A tolerance tuned by hand on one CPU is therefore wrong on another.  So:

1. Where both computations can run in float64, they do: `assert_same_in_float64`.  Rounding is then 1e-16 an operation,
   and 1e-9 of the largest value leaves room for any order of summing, but for no mistake.
2. Where the reference was stored in float32, ours runs in float64.  Both are then fixed numbers, on any CPU, and their
   difference is the rounding of the reference alone, which its notes state (`shared/oracles/tolerances.json`,
   `NOTES_paddle.md`).
3. Where the code under test computes in float32 (a training, a command, several processes), the test measures the rounding
   of these quantities on the CPU it runs on: it computes them once in float32 and once in float64, and allows `FACTOR`
   times the difference (`assert_within_rounding`).  The bound is never widened by hand.  A cap, stated by the test, is a
   difference that would be a mistake on any CPU: where the measured rounding would allow more than that, the test fails,
   for then it could no longer find a mistake.
4. bfloat16 has 8 binary digits: one rounding is up to 0.4 per cent, which dwarfs what float32 does on any CPU.  Tests of it
   compare with float32 within a few such steps and state how many.

All bounds are shares of the scale: the largest absolute value of the reference.
"""

import copy

import numpy as np
import torch
from torch import nn

FACTOR = 4  # two float32 results have each its own rounding, and another order of summing may round twice as much
EPS = torch.finfo(torch.float32).eps  # 1.2e-7
SAME = 1e-9  # of the largest value, in float64

Values = torch.Tensor | np.ndarray | float | list


def assert_same_in_float64(found: Values, expected: Values, *, bound: float = SAME, what: str = "the result") -> None:
    """`found` and `expected`, both float64 and finite, differ by at most `bound` of the largest absolute value."""
    for values, name in ((found, "found"), (expected, "expected")):
        if isinstance(values, torch.Tensor | np.ndarray):
            assert str(values.dtype).endswith("float64"), f"{what}: {name} is {values.dtype}; compute it in float64"
    found, expected = _finite(found, what), _finite(expected, what)
    difference, scale = _difference(found, expected, what), _scale(expected)
    assert difference <= bound * scale, (
        f"{what} differs by {difference / (scale or 1):.2e} of its scale, not {bound:.0e}"
    )


def rounding(single: Values, double: Values, *, what: str = "the result") -> float:
    """The largest difference between a quantity in float32 and in float64, as a share of its scale."""
    single, double = _finite(single, f"{what} in float32"), _finite(double, f"{what} in float64")
    scale = _scale(double)
    assert scale > 0, f"{what} is 0 everywhere in float64: it can tell nothing"
    return _difference(single, double, what) / scale


def allowed(measured: float, *, cap: float, what: str = "the result") -> float:
    """The share of the scale by which a float32 computation may differ on this CPU: FACTOR times its rounding.

    Args:
        measured: the rounding of float32, see `rounding`; it is taken for at least EPS, for single numbers are sometimes
            right to the last digit, by chance.

    Raises:
        AssertionError: more than `cap` would be allowed, so the comparison would not find a mistake of that size.
    """
    bound = FACTOR * max(measured, EPS)
    assert bound <= cap, (
        f"{what}: float32 and float64 differ by {measured:.2e} of the scale on this CPU, so {bound:.2e} would be allowed, "
        f"above the cap of {cap:.0e}: either the float32 computation is broken, or this quantity is no fit one to compare"
    )
    return bound


def assert_within_rounding(
    found: Values,
    expected: Values,
    *,
    single: Values,
    double: Values,
    cap: float,
    what: str = "the result",
) -> None:
    """`found` and `expected` differ by no more than rounding explains on this CPU.

    Args:
        found: what the code under test computed in float32; `expected`: the same by another way.
        single, double: the quantity, or one with the same rounding, computed here in float32 and in float64.
        cap: a share of the scale that would be a mistake on any CPU.
    """
    bound = allowed(rounding(single, double, what=what), cap=cap, what=what)
    found, expected = _finite(found, what), _finite(expected, what)
    difference, scale = _difference(found, expected, what), _scale(expected)
    assert difference <= bound * scale, (
        f"{what} differs by {difference / (scale or 1):.2e} of its scale, where the rounding of this CPU explains {bound:.2e}"
    )


def in_float64(model: nn.Module) -> nn.Module:
    """A copy of `model` that computes in float64, whatever the type of its images."""
    model = copy.deepcopy(model).double()
    model.register_forward_pre_hook(lambda module, inputs: tuple(x.double() for x in inputs))
    return model


def _finite(values: Values, what: str) -> torch.Tensor:
    values = torch.as_tensor(np.asarray(values.detach() if isinstance(values, torch.Tensor) else values)).double()
    assert values.numel() > 0, f"{what} is empty: it can tell nothing"
    assert values.isfinite().all(), f"{what} is not finite everywhere"
    return values


def _scale(values: torch.Tensor) -> float:
    return values.abs().max().item()


def _difference(one: torch.Tensor, other: torch.Tensor, what: str) -> float:
    assert one.shape == other.shape, f"{what}: shapes {tuple(one.shape)} and {tuple(other.shape)}"
    return (one - other).abs().max().item()
