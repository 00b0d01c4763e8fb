"""Fake quantisation: a network computes in float32 with the values that int8 would have, in training and for calibration.

Papers: Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, arXiv 1712.05877
(ranges, BatchNorm folded into the convolution); Estimating or Propagating Gradients Through Stochastic Neurons, arXiv
1308.3432 (the straight-through gradient).  The range of the moving rule is PaddleSlim's moving_average_abs_max with both ends
kept, and its state and accumulator are `seen` and `low`, `high` here.
torchao's PT2E was tried and left: its prepared graph renames what a state dict holds (464 entries become 1,801), so
neither starting weights nor a resume fit by name, and OpenVINO refuses what it exports.
Deviations:
- BatchNorm is folded by its running statistics in training as well, and undone behind the convolution (torch's
  approximation), so that batch statistics are those of the unquantised scale.
- A convolution quantises what comes in, and its weight; what goes out is quantised by the next one.  So an activation
  function, a sum or an attention between two convolutions is computed in float, as OpenVINO and NNCF do.
- What comes into a depthwise convolution has a range for each channel, as its filters have: PicoDet-S's first depthwise
  layers get values up to 668 in one channel and below 1 in others, and have nothing left of them at one range.

Legend: B batch, C channels, H W height and width, O output channels.
"""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from public.parallel.collectives import gather_over_ranks, is_distributed
from public.parts import own_modules
from public.precision import at_least_float32

TRACED_SIDE = 256  # pixels of the picture, without values, by which a network's layers are followed
SMALLEST = 1e-12  # of a range or a weight that is divided by


class _FakeQuantise(torch.autograd.Function):
    """round(x / scale) + zero within low .. high, and back; the gradient passes where nothing was cut off."""

    @staticmethod
    def forward(ctx, x, scale, zero, low, high):
        levels = torch.round(x / scale) + zero  # half to even, as ONNX
        ctx.save_for_backward((levels >= low) & (levels <= high))
        return (levels.clamp(low, high) - zero) * scale

    @staticmethod
    def backward(ctx, *gradients):
        (is_inside,) = ctx.saved_tensors
        return gradients[0] * is_inside, None, None, None, None


def fake_quantise(x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, low: int, high: int) -> torch.Tensor:
    """`x` as the nearest of the levels `low` .. `high`, of which `zero` means 0 and one is `scale` wide.

    The gradient is passed on as it is where `x` lies within the levels, and is 0 beyond: straight-through.
    `scale` and `zero` broadcast to `x` and get no gradient.
    """
    return _FakeQuantise.apply(x, scale, zero, low, high)


def range_levels(low: torch.Tensor, high: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(scale, zero) of unsigned levels 0 .. 2 ** bits - 1 over `low` .. `high`, widened until 0 is among them."""
    low, high = low.clamp(max=0), high.clamp(min=0)
    top = 2**bits - 1
    scale = ((high - low) / top).clamp(min=SMALLEST)
    return scale, torch.round(-low / scale).clamp(0, top)


def weight_scales(weight: torch.Tensor, bits: int, per_channel: bool) -> torch.Tensor:
    """The step (O, 1, 1, 1) of levels that are symmetric about 0, from the largest magnitude of each filter, or of all.

    Levels are -(2 ** (bits - 1) - 1) .. 2 ** (bits - 1) - 1.
    """
    largest = weight.detach().abs().amax((1, 2, 3), keepdim=True)  # (O, 1, 1, 1)
    if not per_channel:
        largest = largest.amax(0, keepdim=True).expand_as(largest)
    return (largest / (2 ** (bits - 1) - 1)).clamp(min=SMALLEST)


class QuantisedConv2d(nn.Conv2d):
    """A convolution whose input and weight have the values that integers would have.

    Made of an nn.Conv2d by `quantise_convs`; parameters and their names stay.  The range of its input lies in buffers: `low`
    and `high`, (C, 1, 1) where each channel has its own and (1, 1, 1) else, are sums over what was seen, `seen` () the sum of
    the shares, so that low / seen .. high / seen is the range.  While `seen` is 0 nothing is quantised.  An average of the
    weights (EMA) averages all three, so its range is the average over the steps that saw one.

    Attributes:
        weight_bits, activation_bits, per_channel: see `weight_scales` and `range_levels`.
        momentum: share of the old range at each step; None: the range widens to all that was seen.
        is_observing: in train mode, whether what comes in moves the range.
        is_batchnorm_frozen: in train mode, whether the BatchNorm behind it uses and keeps its running statistics.
        is_quantising: False: the layer is left out, as a plain convolution.
        factors: what the range is multiplied by where it is learnt, a `public.models.learned_ranges.RangeFactors`; or None.
    """

    weight_bits: int
    activation_bits: int
    per_channel: bool
    momentum: float | None
    is_observing: bool
    is_batchnorm_frozen: bool
    is_quantising: bool
    factors: Any
    low: torch.Tensor
    high: torch.Tensor
    seen: torch.Tensor

    @property
    def batchnorm(self) -> nn.BatchNorm2d | None:
        """The BatchNorm behind it, which is another layer of the network; None: there is none."""
        return vars(self)["linked"][0]

    @property
    def is_depthwise(self) -> bool:
        return self.groups == self.in_channels > 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.is_quantising:
            return super().forward(x)
        norm = self.batchnorm
        if self.training:
            if self.is_observing:
                self.observe(x)
            if self.is_batchnorm_frozen and norm is not None:
                norm.eval()  # the loop puts it into train mode before each step
        x = self.quantised_input(at_least_float32(x))
        if norm is None:
            return self._conv_forward(x, self.quantised_weight(self.weight), self.bias)
        factor = self.batchnorm_factor()  # (O,)
        weight = self.quantised_weight(self.weight * factor[:, None, None, None])
        y = self._conv_forward(x, weight, None) / factor[:, None, None]
        return y if self.bias is None else y + self.bias[:, None, None]

    def batchnorm_factor(self) -> torch.Tensor:
        """What BatchNorm multiplies each filter by (O,); 1 where that is 0, since it is divided by."""
        norm = self.batchnorm
        assert norm is not None
        assert norm.running_var is not None
        factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        return torch.where(factor == 0, torch.ones_like(factor), factor)

    @torch.no_grad()
    def observe(self, x: torch.Tensor) -> None:
        """Moves the range towards that of `x` on all processes."""
        low, high = self.extremes(x.to(self.low.dtype))
        if is_distributed():
            low, high = gather_over_ranks(low).amin(0), gather_over_ranks(high).amax(0)
        if self.momentum is None:
            self.low.copy_(torch.minimum(self.low, low))
            self.high.copy_(torch.maximum(self.high, high))
            self.seen.fill_(1)
            return
        self.low.lerp_(low, 1 - self.momentum)
        self.high.lerp_(high, 1 - self.momentum)
        self.seen.lerp_(torch.ones_like(self.seen), 1 - self.momentum)

    def extremes(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The least and the largest value of `x` (B, C, H, W), shaped as `low` and `high`."""
        if len(self.low) == 1:
            return x.amin().reshape(1, 1, 1), x.amax().reshape(1, 1, 1)
        return x.amin((0, 2, 3))[:, None, None], x.amax((0, 2, 3))[:, None, None]

    @torch.no_grad()
    def set_range(self, low: torch.Tensor, high: torch.Tensor) -> None:
        """States the range, as a calibration found it; shaped as the buffers."""
        self.low.copy_(low)
        self.high.copy_(high)
        self.seen.fill_(1)

    def observed_range(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(low, high) of what came in."""
        seen = torch.where(self.seen > 0, self.seen, torch.ones_like(self.seen))
        return self.low / seen, self.high / seen

    @torch.no_grad()
    def input_range(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(low, high) by which what comes in is quantised."""
        low, high = self.observed_range()
        return (low, high) if self.factors is None else self.factors.ends(low, high)

    def input_levels(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(scale, zero) of what comes in."""
        return range_levels(*self.input_range(), self.activation_bits)

    def quantised_input(self, x: torch.Tensor) -> torch.Tensor:
        if self.factors is not None:
            return torch.where(self.seen > 0, self.factors(x, *self.observed_range(), self.activation_bits), x)
        scale, zero = self.input_levels()
        return torch.where(self.seen > 0, fake_quantise(x, scale, zero, 0, 2**self.activation_bits - 1), x)

    def quantised_weight(self, weight: torch.Tensor) -> torch.Tensor:
        top = 2 ** (self.weight_bits - 1) - 1
        scale = weight_scales(weight, self.weight_bits, self.per_channel)
        return torch.where(self.seen > 0, fake_quantise(weight, scale, torch.zeros_like(scale), -top, top), weight)

    def carried_to(self, conv: nn.Conv2d) -> "QuantisedConv2d":
        """`conv`, into which a BatchNorm was folded, quantised as this layer is; in place.

        A learnt range is no longer learnt there: its ends are those that were seen.
        """
        made = make_quantised(
            conv,
            None,
            weight_bits=self.weight_bits,
            activation_bits=self.activation_bits,
            per_channel=self.per_channel,
            momentum=self.momentum,
        )
        with torch.no_grad():
            for name in ("low", "high", "seen"):
                getattr(made, name).copy_(getattr(self, name))
            if self.factors is not None and self.seen > 0:
                made.set_range(*self.input_range())
        made.is_quantising = self.is_quantising
        return made


def make_quantised(
    conv: nn.Conv2d,
    norm: nn.BatchNorm2d | None,
    *,
    weight_bits: int,
    activation_bits: int,
    per_channel: bool,
    momentum: float | None,
) -> QuantisedConv2d:
    """Turns `conv`, behind which `norm` follows, into a QuantisedConv2d, in place."""
    made: Any = conv
    made.__class__ = QuantisedConv2d
    shape = (conv.in_channels if per_channel and made.is_depthwise else 1, 1, 1)
    for name in ("low", "high"):
        made.register_buffer(name, torch.zeros(shape, device=conv.weight.device))
    made.register_buffer("seen", torch.zeros((), device=conv.weight.device))
    made.weight_bits, made.activation_bits, made.per_channel = weight_bits, activation_bits, per_channel
    made.momentum, made.is_observing = momentum, False
    made.is_batchnorm_frozen, made.is_quantising, made.factors = False, True, None
    vars(made)["linked"] = [norm]  # in a list, so that it does not become a child of the convolution
    return made


def quantise_convs(
    model: nn.Module,
    *,
    weight_bits: int,
    activation_bits: int,
    per_channel: bool,
    momentum: float | None,
    float_layers: tuple[str, ...],
    float_last: bool = True,
) -> tuple[str, ...]:
    """Turns the convolutions of `model` that an inference runs through into QuantisedConv2d, in place.

    What the outputs are made of, the last convolution on each way to them, stays float if `float_last`, as do the layers
    whose names begin with one of `float_layers`.  Blocks whose branches become one convolution for inference become one
    before.

    Returns:
        The names of the layers that stay float.

    Raises:
        ValueError: no layer is called so.
    """
    merge_branches(model)
    links = follow(model)
    modules = dict(model.named_modules())
    for name in float_layers:
        if not any(is_part(layer, name) for layer in links):
            raise ValueError(
                f"float_layers names {name!r}, but no convolution is called so; there is {next(iter(links))!r}"
            )
    left = []
    for layer, link in links.items():
        if (link.is_last and float_last) or any(is_part(layer, name) for name in float_layers):
            left.append(layer)
            continue
        make_quantised(
            modules[layer],
            modules[link.norm] if link.norm else None,
            weight_bits=weight_bits,
            activation_bits=activation_bits,
            per_channel=per_channel,
            momentum=momentum,
        )
    return tuple(left)


def is_part(layer: str, name: str) -> bool:
    """Whether `layer` is the module `name` or inside it."""
    return layer == name or layer.startswith(f"{name}.")


def merge_branches(model: nn.Module) -> None:
    """Re-parameterises, in place, the blocks that say `merges_branches`: their one kernel is what int8 has."""
    for module in list(model.modules()):
        for name, child in module._modules.items():
            if child is not None and getattr(child, "merges_branches", False):
                module._modules[name] = child.fused().requires_grad_(True).train(child.training)  # type: ignore[operator]


class Link:
    """What follows a convolution: the name of its BatchNorm, and whether no other convolution comes before the outputs."""

    def __init__(self) -> None:
        self.norm: str | None = None
        self.is_last = False


def follow(model: nn.Module) -> dict[str, Link]:
    """name -> Link of each plain convolution that an inference of `model` runs through, in the order of their calls.

    Nothing is computed: a copy runs on torch's meta device, and the graph of its gradients says what follows what.
    """
    shadow = _shadow(model)
    names = {module: name for name, module in shadow.named_modules()}
    links: dict[str, Link] = {}
    made_by: dict[Any, str] = {}  # node of the gradients -> the convolution whose output it made

    def note(module: Any, _inputs: Any, output: Any) -> None:
        links.setdefault(names[module], Link())
        made_by[output.grad_fn] = names[module]

    def link(module: Any, inputs: Any) -> None:
        if (conv := made_by.get(inputs[0].grad_fn)) is not None:
            links[conv].norm = names[module]

    handles = []
    for module in shadow.modules():
        if type(module) in (nn.Conv2d, QuantisedConv2d):
            handles.append(module.register_forward_hook(note))
        elif isinstance(module, nn.BatchNorm2d):
            handles.append(module.register_forward_pre_hook(link))
    with torch.enable_grad():
        outputs = shadow(torch.empty(1, _in_channels(shadow), TRACED_SIDE, TRACED_SIDE, device="meta"))
    for handle in handles:
        handle.remove()
    for name in _before(outputs, made_by):
        links[name].is_last = True
    return links


def _shadow(model: nn.Module) -> nn.Module:
    shadow = copy.deepcopy(model).to("meta").eval().requires_grad_(True)
    for layer in quantised_layers(shadow):
        layer.is_quantising = False
    return shadow


def _in_channels(model: nn.Module) -> int:
    return next(module.in_channels for module in model.modules() if isinstance(module, nn.Conv2d))


def _before(outputs: Any, made_by: dict[Any, str]) -> Iterator[str]:
    """The convolutions that are reached first on the ways from the outputs back to the picture."""
    tensors = [outputs] if torch.is_tensor(outputs) else [value for value in outputs if torch.is_tensor(value)]
    open_nodes = [tensor.grad_fn for tensor in tensors]
    known = set()
    while open_nodes:
        node = open_nodes.pop()
        if node is None or node in known:
            continue
        known.add(node)
        if node in made_by:
            yield made_by[node]
        else:
            open_nodes += [before for before, _ in node.next_functions]


def quantised_layers(model: nn.Module) -> list[QuantisedConv2d]:
    """Its quantised convolutions, without those of what is lent to it."""
    return [module for module in own_modules(model) if isinstance(module, QuantisedConv2d)]
