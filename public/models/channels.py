"""Which channels of a network can only be removed together: found by following them through its operations.

Every output channel of a convolution or a linear layer is one channel, whatever it runs through afterwards: BatchNorm,
activations, depthwise convolutions, pooling and resizing keep it, concatenation puts it beside others, and a sum or a product
of two maps ties the channels that meet, so that residual branches, attention gates, the branches of a RepVGG block and a head
that several levels share come out as one.  After "DepGraph: Towards Any Structural Pruning", arXiv 2301.12900, which ties
layers; here single channels are tied, so that a concatenation needs no rule of its own.

Nothing is computed: a copy runs on torch's meta device, and every operation that torch carries out is looked at, so any
network of plain modules can be followed.  What is not understood is never cut: the channels that go into an unknown
operation, such as a split of channels, a GroupNorm or a grouped convolution, stay, as do those of the outputs.

Legend: B batch, C channels, H W height and width, O output channels.
"""

import copy
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from public.parts import lent_parts

TRACED_SIDE = 256  # pixels of the picture, without values, by which channels are followed

# Operations of one map whose channels are those that come in.
KEPT = {
    *(
        "silu",
        "relu",
        "relu_",
        "hardtanh",
        "hardtanh_",
        "hardswish",
        "hardswish_",
        "hardsigmoid",
        "sigmoid",
        "leaky_relu",
    ),
    *("gelu", "tanh", "exp", "clamp", "clone", "detach", "_to_copy", "neg", "dropout", "alias", "silu_", "leaky_relu_"),
    *("max_pool2d_with_indices", "avg_pool2d", "upsample_nearest2d", "upsample_bilinear2d", "bernoulli_", "contiguous"),
}
MET = {
    "add",
    "add_",
    "sub",
    "sub_",
    "mul",
    "mul_",
    "div",
    "div_",
    "maximum",
    "minimum",
}  # of two maps: channel by channel
NORMS = {"native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm"}
SHAPED = {"view", "_unsafe_view", "reshape", "squeeze", "unsqueeze", "split", "split_with_sizes", "slice"}
MOVED = {"permute", "transpose"}


class Map(NamedTuple):
    """What is known of a tensor: in which dimension its channels lie, which they are, and what they come from."""

    dim: int
    channels: np.ndarray  # int64, a number for each
    layer: str | None  # the layer that made them, with nothing but operations of one map in between
    is_fresh: bool  # nothing at all in between


class Use(NamedTuple):
    """One dimension of a parameter or a buffer that has an entry for each of some channels."""

    dim: int
    channels: np.ndarray


class Group(NamedTuple):
    """Channels of a width: each stands for all the places that go with it.

    Attributes:
        name: of the first layer that makes them.
        channels: their numbers, in the order of that layer.
        makers: layer -> for each channel its places among the layer's outputs; gates, which only scale channels, are none.
    """

    name: str
    channels: np.ndarray
    makers: dict[str, list[np.ndarray]]


class Spared(NamedTuple):
    """A layer none of whose channels is removed, and why."""

    name: str
    reason: str


class Channels:
    """The channels of a network, tied where they can only go together.

    Attributes:
        uses: name of a parameter or buffer -> its Uses.
        norms: name of a convolution -> that of the BatchNorm behind it.
        parts: name of a part, such as a neck, that says its `out_channels` -> the channels of each of its maps.
        groups: what can be made narrower, in the order of the calls.
        spared: the layers that cannot.
    """

    def __init__(self, model: nn.Module) -> None:
        self.uses: dict[str, list[Use]] = {}
        self.norms: dict[str, str] = {}
        self.parts: dict[str, list[np.ndarray]] = {}
        self.made: dict[str, np.ndarray] = {}  # layer -> its output channels
        self.gates: set[str] = set()
        self.reasons: dict[int, str] = {}  # channel -> why it stays
        self._above: list[int] = []  # channel -> one that it is tied to, or itself
        _follow(model, self)
        self.groups, self.spared = self._sorted()

    def new(self, count: int) -> np.ndarray:
        start = len(self._above)
        self._above += range(start, start + count)
        return np.arange(start, start + count)

    def root(self, channel: int) -> int:
        """The channel that stands for all that are tied to this one."""
        while self._above[channel] != channel:
            self._above[channel] = channel = self._above[self._above[channel]]
        return channel

    def roots(self, channels: np.ndarray) -> np.ndarray:
        return np.array([self.root(int(channel)) for channel in channels], np.int64)

    def tie(self, channels: np.ndarray, others: np.ndarray) -> None:
        """Each of `channels` goes with the one of `others` at its place."""
        for one, other in zip(self.roots(channels), self.roots(others), strict=True):
            self._above[max(self.root(one), self.root(other))] = min(self.root(one), self.root(other))

    def keep(self, channels: np.ndarray, reason: str) -> None:
        for channel in channels:
            self.reasons.setdefault(int(channel), reason)

    def use(self, name: str, dim: int, channels: np.ndarray) -> None:
        """Dimension `dim` of the parameter `name` has an entry for each channel; those of a second call are tied to them."""
        for known in self.uses.setdefault(name, []):
            if known.dim == dim:
                self.tie(known.channels, channels)
                return
        self.uses[name].append(Use(dim, channels))

    def _sorted(self) -> tuple[list[Group], list[Spared]]:
        made = {layer: self.roots(channels) for layer, channels in self.made.items()}
        places: dict[int, dict[str, list[int]]] = {}  # root -> layer -> its places
        for layer, tied in made.items():
            for place, root in enumerate(tied.tolist()):
                places.setdefault(root, {}).setdefault(layer, []).append(place)
        kept: dict[int, str] = {}
        for channel, reason in self.reasons.items():
            kept.setdefault(self.root(channel), reason)
        together: dict[tuple[str, ...], list[int]] = {}
        for root, those in places.items():
            together.setdefault(tuple(those), []).append(root)
        firsts = [layers[0] for layers in together]
        groups, spared = [], []
        for layers, roots in together.items():
            why = next((kept[root] for root in roots if root in kept), None)
            if why is None and firsts.count(layers[0]) > 1:
                why = "its channels are parts of several widths"
            if why is not None:
                spared += [Spared(layer, why) for layer in layers]
                continue
            heard = [layers[0], *(layer for layer in layers[1:] if layer not in self.gates)]
            makers = {layer: [np.array(places[root][layer]) for root in roots] for layer in heard}
            groups.append(Group(layers[0], np.array(roots), makers))
        return groups, list(dict.fromkeys(spared))


def in_channels(model: nn.Module) -> int:
    """Of the pictures that `model` reads."""
    return next(module.in_channels for module in model.modules() if isinstance(module, nn.Conv2d))


def _follow(model: nn.Module, channels: Channels) -> None:
    """Runs a copy of `model` on the meta device; in train mode as well where it has parts for training alone."""
    shadow: Any = copy.deepcopy(model).to("meta").float()
    is_training = [False]
    if set(getattr(model, "training_only", ())) - set(lent_parts(model)):
        is_training.append(True)
    for mode in is_training:
        images = torch.empty(2, in_channels(shadow), TRACED_SIDE, TRACED_SIDE, device="meta")
        with torch.no_grad(), _Watch(shadow, channels) as watch:
            for name, module in shadow.named_modules():
                if hasattr(module, "out_channels") and not isinstance(module, nn.Conv2d):
                    module.register_forward_hook(partial(watch.note_maps, name))
            watch.end(shadow.train(mode)(images))


class _Watch(TorchDispatchMode):
    """Within it every operation is followed."""

    def __init__(self, model: nn.Module, channels: Channels) -> None:
        super().__init__()
        self.channels = channels
        self.maps: dict[int, tuple[torch.Tensor, Map]] = {}  # by the id of the tensor
        self.names = {id(value): name for name, value in (*model.named_parameters(), *model.named_buffers())}
        self.alive: list[torch.Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self._see(func._overloadpacket.__name__, args, kwargs or {}, out)
        return out

    def note_maps(self, name: str, _module: nn.Module, _inputs: Any, outputs: Any) -> None:
        """What the part `name` gives, where all of it is known."""
        maps = [found.channels for value in _tensors(outputs) if (found := self._of(value)) is not None]
        if len(maps) == len(_tensors(outputs)):
            self.channels.parts[name] = maps

    def end(self, outputs: Any) -> None:
        """What comes out stays as it is."""
        for tensor in _tensors(outputs):
            if (found := self._of(tensor)) is not None:
                self.channels.keep(found.channels, "an output of the network")

    def _of(self, value: Any) -> Map | None:
        found = self.maps.get(id(value))
        return found[1] if found else None

    def _put(self, tensor: torch.Tensor, found: Map) -> None:
        assert tensor.shape[found.dim] == len(found.channels), (tensor.shape, found)
        self.maps[id(tensor)] = (tensor, found)

    def _see(self, name: str, args: Any, kwargs: Any, out: Any) -> None:
        self.alive += _tensors(out)  # an id that was given anew would be taken for the former tensor's
        if name == "t" and id(args[0]) in self.names:
            self.names[id(out)] = self.names[id(args[0])]
        maps = [found for value in _tensors((args, kwargs)) if (found := self._of(value)) is not None]
        if name == "convolution":
            self._convolution(args, out)
        elif name in ("addmm", "mm") and self._is_linear(name, args):
            self._linear(args[-2], args[-1], args[0] if name == "addmm" else None, out)
        elif not maps:
            return
        elif name in NORMS:
            self._norm(args, out)
        elif name in KEPT or (name == "constant_pad_nd" and len(args[1]) <= 4):
            self._put(_tensors(out)[0], maps[0]._replace(is_fresh=False))
        elif not (_rule(name) and _rule(name)(self, args, out)):
            for found in maps:
                self.channels.keep(found.channels, f"goes into {name}")

    # ------------------------------------------------------------------------------------------ layers

    def _convolution(self, args: Any, out: torch.Tensor) -> None:
        x, weight, bias, *_, groups = args
        name, found = self.names.get(id(weight)), self._of(x)
        is_plain = name is not None and weight.ndim == 4 and not args[6]  # args[6]: transposed
        if is_plain and found is not None and found.dim == 1 and groups == x.shape[1] == weight.shape[0] > 1:
            self._uses(weight, 0, found.channels)
            self._uses(bias, 0, found.channels)
            self._put(out, Map(1, found.channels, None, False))
            return
        if not is_plain or groups > 1:
            if found is not None:
                self.channels.keep(found.channels, "goes into a grouped or transposed convolution")
            return
        if found is not None:
            self.channels.use(str(name), 1, found.channels)
        self._made(weight, bias, out)

    def _is_linear(self, name: str, args: Any) -> bool:
        return args[-2].ndim == 2 and id(args[-1]) in self.names and (name == "mm" or id(args[0]) in self.names)

    def _linear(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor) -> None:
        found = self._of(x)
        if found is not None and found.dim == 1:
            self.channels.use(self.names[id(weight)], 1, found.channels)
        elif found is not None:
            self.channels.keep(found.channels, "goes into a linear layer by another dimension")
        self._made(weight, bias, out)

    def _made(self, weight: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor) -> None:
        name = self.names[id(weight)]
        layer = name.rpartition(".")[0]
        made = self.channels.made
        if layer not in made:
            made[layer] = self.channels.new(out.shape[1])
        self.channels.use(name, 0, made[layer])
        self._uses(bias, 0, made[layer])
        self._put(out, Map(1, made[layer], layer, True))

    def _uses(self, value: torch.Tensor | None, dim: int, channels: np.ndarray) -> None:
        if value is not None:
            self.channels.use(self.names[id(value)], dim, channels)

    def _norm(self, args: Any, out: Any) -> None:
        found = self._of(args[0])
        assert found is not None
        for value in args[1:5]:
            self._uses(value, 0, found.channels)
        if found.is_fresh and found.layer is not None and args[1] is not None:
            self.channels.norms[found.layer] = self.names[id(args[1])].rpartition(".")[0]
        self._put(out[0], found._replace(is_fresh=False))

    # ------------------------------------------------------------------------------------------ maps

    def _meet(self, args: Any, out: torch.Tensor) -> bool:
        values = [value for value in args[:2] if torch.is_tensor(value)]
        wide = [value for value in values if value.numel() > 1]
        found = [self._of(value) for value in wide]
        if any(one is None for one in found):
            return False
        places = [one.dim - value.ndim for one, value in zip(found, wide) if one is not None]
        if len(set(places)) > 1:
            return False
        longest = max(found, key=lambda one: len(one.channels))  # type: ignore[union-attr]
        assert longest is not None
        for one, value in zip(found, wide):
            assert one is not None
            if len(one.channels) == len(longest.channels):
                self.channels.tie(longest.channels, one.channels)
                if len(wide) == 2 and value.numel() < out.numel() and one.layer is not None:
                    self.channels.gates.add(one.layer)
            else:
                self.channels.keep(one.channels, "is one for all channels")
        self._put(out, Map(out.ndim + places[0], longest.channels, found[0].layer if len(wide) == 1 else None, False))  # type: ignore[union-attr]
        return True

    def _join(self, args: Any, out: torch.Tensor) -> bool:
        dim = (args[1] if len(args) > 1 else 0) % out.ndim
        found = [self._of(value) for value in args[0]]
        if any(one is None or one.dim != found[0].dim for one in found):  # type: ignore[union-attr]
            return False
        known = [one for one in found if one is not None]
        if known[0].dim == dim:
            self._put(out, Map(dim, np.concatenate([one.channels for one in known]), None, False))
            return True
        for one in known[1:]:
            self.channels.tie(known[0].channels, one.channels)
        self._put(out, Map(known[0].dim, known[0].channels, None, False))
        return True

    def _mean(self, args: Any, out: torch.Tensor) -> bool:
        found, x = self._of(args[0]), args[0]
        assert found is not None
        dims = [dim % x.ndim for dim in args[1]] if len(args) > 1 and args[1] is not None else []
        if found.dim in dims or not dims:
            return False
        fewer = sum(dim < found.dim for dim in dims) if out.ndim < x.ndim else 0
        self._put(out, found._replace(dim=found.dim - fewer, is_fresh=False))
        return True

    def _shape(self, args: Any, out: Any) -> bool:
        """Other dimensions are changed; those up to that of the channels stay."""
        found, x = self._of(args[0]), args[0]
        assert found is not None
        outs = _tensors(out)
        if any(one.shape[: found.dim + 1] != x.shape[: found.dim + 1] for one in outs):
            return False
        for one in outs:
            self._put(one, found._replace(is_fresh=False))
        return True

    def _move(self, args: Any, out: torch.Tensor) -> bool:
        found, x = self._of(args[0]), args[0]
        assert found is not None
        order = list(range(x.ndim))
        if len(args) == 3:
            first, second = args[1] % x.ndim, args[2] % x.ndim
            order[first], order[second] = order[second], order[first]
        else:
            order = [dim % x.ndim for dim in args[1]]
        self._put(out, found._replace(dim=order.index(found.dim), is_fresh=False))
        return True


def _rule(name: str) -> Any:
    """The method of _Watch that follows the operation `name`, which says whether it could; None: there is none."""
    if name in MET:
        return _Watch._meet
    if name in SHAPED:
        return _Watch._shape
    if name in MOVED:
        return _Watch._move
    return {"cat": _Watch._join, "mean": _Watch._mean}.get(name)


def _tensors(value: Any) -> list[torch.Tensor]:
    return list(_walk(value))


def _walk(value: Any) -> Iterator[torch.Tensor]:
    if torch.is_tensor(value):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _walk(part)
    elif isinstance(value, dict):
        yield from _walk(list(value.values()))
