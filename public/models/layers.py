"""Blocks that two or more families use: convolution + BatchNorm + activation, and the RepVGG block.

A block that can be re-parameterised for inference has a method `fused()`, which returns a new module that computes the
same function in eval mode with fewer layers; `public.models.fuse` calls it.

Legend: B batch, C channels, H W height and width.
"""

import math
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Annotated

import torch
from torch import nn
from torch.nn import functional as F

from public.models.activations import AconC, MetaAcon
from public.settings import OneOf

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "silu": nn.SiLU,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "hardswish": nn.Hardswish,
    "leaky_relu_0.1": partial(nn.LeakyReLU, 0.1),
    "leaky_relu_0.01": partial(nn.LeakyReLU, 0.01),
    "none": nn.Identity,
}
LEARNT_ACTIVATIONS = {"acon_c": AconC, "meta_acon": MetaAcon}  # with parameters for each channel


Activation = Annotated[str, OneOf((*ACTIVATIONS, *LEARNT_ACTIVATIONS))]


def make_activation(name: str, channels: int | None = None) -> nn.Module:
    """The activation called `name`, one of ACTIVATIONS or, where `channels` is known, of LEARNT_ACTIVATIONS.

    Raises:
        ValueError: any other name, or a learnt activation without `channels`.
    """
    if name in ACTIVATIONS:
        return ACTIVATIONS[name]()
    if name in LEARNT_ACTIVATIONS and channels is not None:
        return LEARNT_ACTIVATIONS[name](channels)
    known = ", ".join([*ACTIVATIONS, *LEARNT_ACTIVATIONS])
    raise ValueError(f"unknown activation {name!r}, or its channels are not known; write one of {known}")


class ConvBNAct(nn.Module):
    """Convolution, BatchNorm, activation.  Padding keeps H and W where the stride is 1.

    (B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride)); `kernel_size` is odd.  The convolution
    has a bias of its own, which BatchNorm takes out again, only where published weights hold one.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        activation: str,
        stride: int = 1,
        groups: int = 1,
        dilation: int = 1,
        bias: bool = False,
        bn_eps: float = 1e-5,
        bn_momentum: float = 0.1,
    ):
        super().__init__()
        padding = dilation * (kernel_size // 2)
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding, dilation=dilation, groups=groups, bias=bias
        )
        self.bn = nn.BatchNorm2d(out_channels, eps=bn_eps, momentum=bn_momentum)
        self.act = make_activation(activation, out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.bn(self.conv(x)))

    def fused(self) -> nn.Sequential:
        """Convolution with bias, then activation."""
        weight, bias = fold_batch_norm(self.conv, self.bn)
        return conv_and_activation(self.conv, weight, bias, self.act)


class RepVGGBlock(nn.Module):
    """act(3x3 branch + alpha * 1x1 branch), each branch a convolution with BatchNorm; no identity branch.

    Source: RepVGG: Making VGG-style ConvNets Great Again, arXiv 2101.03697.  With `use_alpha` the factor of the 1x1
    branch is learnt and starts at 1 (PPYOLOE+); without, it is 1.
    (B, in_channels, H, W) -> (B, out_channels, H, W)
    """

    merges_branches = True

    def __init__(self, in_channels: int, out_channels: int, *, activation: str, use_alpha: bool):
        super().__init__()
        self.conv1 = ConvBNAct(in_channels, out_channels, 3, activation="none")
        self.conv2 = ConvBNAct(in_channels, out_channels, 1, activation="none")
        self.alpha = nn.Parameter(torch.ones(1)) if use_alpha else None
        self.act = make_activation(activation, out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pointwise = self.conv2(x)
        if self.alpha is not None:
            pointwise = self.alpha * pointwise
        return self.act(self.conv1(x) + pointwise)

    def fused(self) -> nn.Sequential:
        """One 3x3 convolution with bias, then activation: a 1x1 kernel is a 3x3 kernel with a border of zeros."""
        weight_3x3, bias_3x3 = fold_batch_norm(self.conv1.conv, self.conv1.bn)
        weight_1x1, bias_1x1 = fold_batch_norm(self.conv2.conv, self.conv2.bn)
        alpha = 1.0 if self.alpha is None else self.alpha.detach().double()
        weight = weight_3x3 + alpha * F.pad(weight_1x1, (1, 1, 1, 1))
        return conv_and_activation(self.conv1.conv, weight, bias_3x3 + alpha * bias_1x1, self.act)


class StochasticDepth(nn.Module):
    """In training the whole of a sample becomes zero with probability `p`, else it is divided by 1 - p.

    Deep Networks with Stochastic Depth, arXiv 1603.09382, sample by sample.  The draws, one a sample in the input's own
    type, are those of torchvision's layer of this name in its mode "row"; importing that costs three seconds of CPU.
    (B, ...) -> the same.
    """

    def __init__(self, p: float):
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"a probability of stochastic depth lies in 0 to 1, this is {p}")
        self.p = p

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or self.p == 0:
            return x
        survival = 1 - self.p
        is_kept = x.new_empty([len(x)] + [1] * (x.ndim - 1)).bernoulli_(survival)  # (B, 1, ...)
        return x * (is_kept / survival if survival > 0 else is_kept)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def fold_batch_norm(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias, in float64, of the one convolution that equals `conv` then `bn` in eval mode."""
    scale, shift = batch_norm_factors(bn)
    if conv.bias is not None:
        shift = shift + scale * conv.bias.detach().double()
    return conv.weight.detach().double() * scale[:, None, None, None], shift


def batch_norm_factors(bn: nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and shift (C,), in float64, by which `bn` in eval mode is x * scale + shift."""
    assert bn.running_mean is not None, "without running statistics there is no eval mode"
    assert bn.running_var is not None
    scale = bn.weight.detach().double() / (bn.running_var.double() + bn.eps).sqrt()
    return scale, bn.bias.detach().double() - bn.running_mean.double() * scale


def conv_and_activation(
    like: nn.Conv2d, weight: torch.Tensor, bias: torch.Tensor, activation: nn.Module
) -> nn.Sequential:
    """A convolution shaped like `like` with these values and a bias, in the precision of `like`, then `activation`."""
    conv = nn.utils.skip_init(
        nn.Conv2d,
        like.in_channels,
        like.out_channels,
        like.kernel_size,
        like.stride,
        like.padding,
        like.dilation,
        like.groups,
        device=like.weight.device,
        dtype=like.weight.dtype,
    )
    with torch.no_grad():
        conv.weight.copy_(weight)
        conv.bias.copy_(bias)
    if callable(carried_to := getattr(like, "carried_to", None)):  # a QuantisedConv2d
        conv = carried_to(conv)
    return nn.Sequential(OrderedDict(conv=conv, act=activation))


def initialise_convs(module: nn.Module) -> None:
    """Paddle's initial values for every convolution in `module`: weights N(0, 2 / fan-in), biases 0."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            fan_in = part.in_channels * math.prod(part.kernel_size)
            nn.init.normal_(part.weight, std=math.sqrt(2 / fan_in))
            if part.bias is not None:
                nn.init.zeros_(part.bias)
