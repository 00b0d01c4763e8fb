"""Ranges that are learnt by gradient: how far the ends of an observed range are moved.

Papers: Learned Step Size Quantization (LSQ), arXiv 1902.08153 (the gradient of a step); LSQ+, arXiv 2004.09576
(a step and an offset for activations that are not symmetric); How to Parameterize Asymmetric Quantization Ranges for
Quantization-Aware Training, arXiv 2404.16898, which compares step and offset, both ends, and factors on both ends.

What is learnt are the logarithms of two factors, one for each end of the range that was observed before.  With n + 1 levels
the step is (high - low) / n and the offset is the low end, so the gradients of both ends are those of LSQ+ by the chain
rule.  Deviations, and why:
- Logarithms of factors, not a step: the ranges of one network differ a hundredfold, and a step of 0.001 moves each by a
  thousandth.  The gradient is the same when a tensor is scaled and the weights behind it are scaled back.  An end keeps its
  sign, so that 0 stays among the levels and ReLU's range stays above 0.  The average of such logarithms (EMA) is the
  logarithm of the geometric mean, a valid factor.
- The zero point is rounded to a whole level, as int8 has it; the gradient passes this rounding, too.
- LSQ's factor 1 / sqrt(N n) of the gradient, for N values of a picture, is left out.  It is there so that a step changes a
  range and the weights by like shares, and with logarithms it undoes this: in a trained PPYOLOE-xs on BCCD one SGD step
  changes high ends by 0.24 (4 bits) and 0.02 (8 bits) of the share by which it changes the layer's weights, with the factor
  by 0.0004 and 0.000007, medians of 73 layers.  There, the least gradients would be below Adam's eps of 1e-8, too.
- Weights keep the step of their largest magnitude, which follows them while BatchNorm is folded in anew at each step.  At 8
  bits there is next to nothing to be learnt: of filters of 9, 72 and 576 normal weights the best step of each takes away 0,
  0.2 and 1.4 % of the squared error, at 4 bits 10, 15 and 33 %.  For so few bits a learnt step would earn its place; it is
  not built.

Legend: B batch, C channels, H W height and width.
"""

import torch
from torch import nn

from public.models.quantised import quantised_layers, range_levels


class _FakeQuantiseWithin(torch.autograd.Function):
    """As `fake_quantise` over the levels of a range, with LSQ's gradients for its ends."""

    @staticmethod
    def forward(ctx, x, low, high, bits):
        scale, zero = range_levels(low, high, bits)
        ctx.save_for_backward(x, low, scale, zero)
        ctx.top = 2**bits - 1
        return ((torch.round(x / scale) + zero).clamp(0, ctx.top) - zero) * scale

    @staticmethod
    def backward(ctx, *gradients):
        x, low, scale, zero = ctx.saved_tensors
        (gradient,), top = gradients, ctx.top
        steps = x / scale
        is_below, is_above = steps < -zero, steps > top - zero
        is_within = ~(is_below | is_above)
        passed = gradient * is_within
        if not any(ctx.needs_input_grad[1:3]):
            return passed, None, None, None
        rounded_by = torch.where(is_within, torch.round(steps) - steps, -low / scale - zero)
        by_step = gradient * (rounded_by / top)  # of (high - low) / top
        to_low = (gradient * is_below - by_step).sum_to_size(low.shape)
        to_high = (gradient * is_above + by_step).sum_to_size(low.shape)
        return passed, to_low, to_high, None


def fake_quantise_within(x: torch.Tensor, low: torch.Tensor, high: torch.Tensor, bits: int) -> torch.Tensor:
    """`x` (B, C, H, W) as the nearest level of the range `low` <= 0 <= `high`, each (1, 1, 1) or (C, 1, 1).

    The levels are those of `range_levels`.  The gradient of `x` is passed on within them and is 0 beyond.  Those of the ends
    are the sums of LSQ's over the values of a range:

        within: (round(v) - v) / (2 ** bits - 1), v = x / step, for the high end, and its negative for the low one
        beyond an end: 1 for this end, 0 for the other, and as above with what the zero point was rounded by
    """
    return _FakeQuantiseWithin.apply(x, low, high, bits)


class RangeFactors(nn.Module):
    """The factors of one convolution's range, as parameters.

    Args:
        like: an end of the range, (1, 1, 1) or (C, 1, 1).
        own_lr_factor: see below.

    Attributes:
        low, high: the logarithms of both factors, (1,) or (C,); 0 at the start.
        own_lr_factor: of the learning rate of both; optimizers know modules that have it, and never decay their parameters.
    """

    def __init__(self, like: torch.Tensor, *, own_lr_factor: float) -> None:
        super().__init__()
        self.low, self.high = (nn.Parameter(torch.zeros_like(like.flatten())) for _ in range(2))
        self.own_lr_factor = own_lr_factor
        self._is_resting = False

    def learn(self, is_learning: bool) -> None:
        """Whether both move.  Without a gradient no optimizer touches them; what a page freezes stays frozen."""
        if is_learning and self._is_resting:
            self.requires_grad_(True)
            self._is_resting = False
        elif not is_learning and self.low.requires_grad:
            self.requires_grad_(False)
            self._is_resting = True

    def ends(self, low: torch.Tensor, high: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The learnt range of the observed one, after 0 was taken into that."""
        by_low, by_high = (torch.exp(factor)[:, None, None] for factor in (self.low, self.high))
        return low.clamp(max=0) * by_low, high.clamp(min=0) * by_high

    def forward(self, x: torch.Tensor, low: torch.Tensor, high: torch.Tensor, bits: int) -> torch.Tensor:
        """`x` (B, C, H, W) quantised within the learnt range of `low` .. `high`."""
        return fake_quantise_within(x, *self.ends(low, high), bits)


def learn_ranges(model: nn.Module, *, lr_factor: float) -> None:
    """Gives the quantised convolutions of `model` factors of their ranges, in place."""
    for layer in quantised_layers(model):
        layer.factors = RangeFactors(layer.low, own_lr_factor=lr_factor)
