"""Quantised layers in an ONNX file: QuantizeLinear and DequantizeLinear around its convolutions, with ranges that are given.

The file computes in float32 with rounded values until a runtime puts its int8 kernels in their place: OpenVINO wherever what
comes in is quantised, ONNX Runtime only where what goes out is, too.  Operators: https://onnx.ai/onnx/operators,
QuantizeLinear-19.  onnxruntime.quantization is not used: it finds ranges of its own, of which a trained network has its own
already, and none of several channels for what comes into a depthwise convolution.

Legend: C input channels, O output channels.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from public.models.quantised import QuantisedConv2d, range_levels, weight_scales

NETWORK = "model."  # how the names of the network's weights begin in a file: the attribute of ExportGraph
PLAIN = ("Relu", "Clip")  # what a runtime computes inside the convolution before it


class Levels(NamedTuple):
    """Unsigned levels of an activation: `scale` float32 and `zero` uint8, both (1,), or (C,) one for each channel."""

    scale: np.ndarray
    zero: np.ndarray


class Layer(NamedTuple):
    """How a convolution is quantised."""

    input: Levels
    weight_scale: np.ndarray  # (O,) float32
    output: Levels | None  # of what goes out; None: it stays float


def layer_of(conv: QuantisedConv2d) -> Layer:
    """The levels of a convolution that has seen its range.

    Raises:
        ValueError: they are not of 8 bits, which a file has.
    """
    if (conv.weight_bits, conv.activation_bits) != (8, 8):
        raise ValueError(
            f"files are of 8 bits; the network has weights of {conv.weight_bits} and activations of {conv.activation_bits}"
        )
    if conv.batchnorm is not None:
        raise ValueError("a BatchNorm behind a quantised convolution was not folded into it, so a file cannot hold it")
    scale = weight_scales(conv.weight, conv.weight_bits, conv.per_channel)
    return Layer(_levels(*conv.input_levels()), scale.flatten().cpu().numpy(), None)


def output_levels(low: Any, high: Any) -> Levels:
    """Levels of one range (1,) of what goes out."""
    return _levels(*range_levels(low, high, 8))


def _levels(scale: Any, zero: Any) -> Levels:
    return Levels(scale.flatten().cpu().numpy(), zero.flatten().cpu().numpy().astype(np.uint8))


def take_layers(model: nn.Module) -> dict[str, Layer]:
    """name -> Layer of the quantised convolutions of `model`, which computes in float from then on; in place.

    Those that have seen no range yet are float already.
    """
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, QuantisedConv2d):
            if module.is_quantising and module.seen > 0:
                found[name] = layer_of(module)
            module.is_quantising = False
    return found


def insert(model: Any, layers: Mapping[str, Layer], *, integer_bias: bool) -> None:
    """Puts the `layers` into the ONNX `model` (a ModelProto), in place.

    Args:
        integer_bias: also round each bias to int32, without which ONNX Runtime has no int8 kernel.

    Raises:
        ValueError: the file has no convolution with the weights of one of them.
    """
    writer = _Writer(model.graph)
    nodes, left = [], set(layers)
    for node in list(model.graph.node):
        name = _layer_name(node)
        if name is None or name not in layers:
            nodes.append(node)
            continue
        left.discard(name)
        nodes += writer.quantised(node, layers[name], integer_bias)
    if left:
        raise ValueError(f"the file has no convolution with the weights of {sorted(left)[:5]}, {len(left)} in all")
    del model.graph.node[:]
    model.graph.node.extend(writer.behind(nodes))
    kept = [value for value in model.graph.initializer if value.name not in writer.replaced]
    del model.graph.initializer[:]
    model.graph.initializer.extend([*kept, *writer.constants.values()])


def _layer_name(node: Any) -> str | None:
    if node.op_type != "Conv" or not node.input[1].startswith(NETWORK):
        return None
    return node.input[1].removeprefix(NETWORK).removesuffix(".weight")


class _Writer:
    """Makes nodes and constants; the same values of the same tensor are made once."""

    def __init__(self, graph: Any) -> None:
        from onnx import numpy_helper

        self.producers = {tensor: node for node in graph.node for tensor in node.output}
        self.channels = {value.name: _channels(value) for value in graph.value_info}
        self.values = {value.name: numpy_helper.to_array(value) for value in graph.initializer}
        self.constants: dict[str, Any] = {}
        self.made: dict[Any, str] = {}  # what was made of which tensor by which levels -> its name
        self.replaced: set[str] = set()  # constants that nobody reads any more
        self.outputs: dict[str, Levels] = {}  # tensor -> its levels

    def constant(self, name: str, value: np.ndarray) -> str:
        from onnx import numpy_helper

        self.constants[name] = numpy_helper.from_array(value, name)
        return name

    def quantised(self, node: Any, layer: Layer, integer_bias: bool) -> list[Any]:
        """The nodes that take the place of the convolution `node`."""
        weight, bias = node.input[1], node.input[2] if len(node.input) > 2 else ""
        before = self.pair(node.input[0], layer.input)
        node.input[0] = self.made[_key(node.input[0], layer.input)]
        before += self.weight(weight, layer.weight_scale)
        node.input[1] = f"{weight}_back"
        if bias and integer_bias:
            before += self.bias(bias, layer.input.scale * layer.weight_scale)
            node.input[2] = f"{bias}_back"
        if layer.output is not None:
            self.outputs[node.output[0]] = layer.output
        return [*before, node]

    def pair(self, tensor: str, levels: Levels) -> list[Any]:
        """QuantizeLinear and DequantizeLinear of `tensor`; none where they were made before."""
        from onnx import helper

        key = _key(tensor, levels)
        if key in self.made:
            return []
        start = f"{tensor}_{len(self.made)}"
        self.made[key] = f"{start}_back"
        if (parts := self.parts(tensor, levels)) is not None:
            before = [node for part in parts for node in self.pair(*part)]
            joined = [self.made[_key(*part)] for part in parts]
            return [*before, helper.make_node("Concat", joined, [f"{start}_back"], f"{start}_join", axis=1)]
        shape = () if len(levels.scale) == 1 else (-1,)
        scale = self.constant(f"{start}_scale", levels.scale.reshape(shape))
        zero = self.constant(f"{start}_zero", levels.zero.reshape(shape))
        axis: Any = {"axis": 1} if shape else {}
        return [
            helper.make_node("QuantizeLinear", [tensor, scale, zero], [f"{start}_int8"], f"{start}_quantise", **axis),
            helper.make_node(
                "DequantizeLinear", [f"{start}_int8", scale, zero], [f"{start}_back"], f"{start}_return", **axis
            ),
        ]

    def parts(self, tensor: str, levels: Levels) -> list[tuple[str, Levels]] | None:
        """What the Concat that makes `tensor` joins, each with its levels; None where there is none, or one range for all.

        OpenVINO 2026.4 cannot compile levels of several channels behind a Concat ("Argument shapes are inconsistent").
        """
        node = self.producers.get(tensor)
        if len(levels.scale) == 1 or node is None or node.op_type != "Concat":
            return None
        widths = [self.channels.get(name) for name in node.input]
        if None in widths or sum(widths) != len(levels.scale):  # type: ignore[arg-type]
            raise ValueError(
                f"the channels of {tensor}, {len(levels.scale)}, are not those that its Concat joins: {widths}"
            )
        ends = np.cumsum(widths)[:-1]  # type: ignore[arg-type]
        pieces = zip(np.split(levels.scale, ends), np.split(levels.zero, ends))
        return [(name, Levels(*piece)) for name, piece in zip(node.input, pieces)]

    def weight(self, name: str, scale: np.ndarray) -> list[Any]:
        """The weight `name` as int8."""
        steps = scale.reshape(-1, *(1,) * (self.values[name].ndim - 1))
        whole = np.clip(np.round(self.values[name] / steps), -127, 127).astype(np.int8)
        return self.returned(name, whole, scale, np.zeros(len(scale), np.int8))

    def bias(self, name: str, scale: np.ndarray) -> list[Any]:
        """The bias `name` as int32, in steps of the convolution's sums."""
        limit = 2**31 - 1
        whole = np.clip(np.round(self.values[name].astype(np.float64) / scale), -limit, limit).astype(np.int32)
        return self.returned(name, whole, scale.astype(np.float32), np.zeros(len(scale), np.int32))

    def returned(self, name: str, whole: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> list[Any]:
        from onnx import helper

        if name in self.replaced:
            return []
        self.replaced.add(name)
        inputs = [self.constant(f"{name}_{kind}", v) for kind, v in (("int", whole), ("scale", scale), ("zero", zero))]
        return [helper.make_node("DequantizeLinear", inputs, [f"{name}_back"], f"{name}_return", axis=0)]

    def behind(self, nodes: list[Any]) -> list[Any]:
        """`nodes` with a pair behind each of `outputs`, or behind the plain activation that alone reads it."""
        readers: dict[str, list[Any]] = {}
        for node in nodes:
            for tensor in node.input:
                readers.setdefault(tensor, []).append(node)
        moved = {}
        for tensor, levels in self.outputs.items():
            follower = readers.get(tensor, [])
            if len(follower) == 1 and follower[0].op_type in PLAIN:
                moved[follower[0].output[0]] = _above_zero(levels)
            else:
                moved[tensor] = levels
        found: list[Any] = []
        for node in nodes:
            found.append(node)
            tensor = node.output[0] if node.output else ""
            if tensor in moved:
                node.output[0] = f"{tensor}_float"
                pair = self.pair(node.output[0], moved[tensor])
                pair[1].output[0] = tensor
                found += pair
        return found


def _channels(value: Any) -> int | None:
    dims = value.type.tensor_type.shape.dim
    return dims[1].dim_value if len(dims) == 4 else None


def _key(tensor: str, levels: Levels) -> tuple:
    return tensor, levels.scale.tobytes(), levels.zero.tobytes()


def _above_zero(levels: Levels) -> Levels:
    """The levels of what is not negative."""
    top = np.float32(255)
    scale = levels.scale * (top - levels.zero) / top
    return Levels(scale.astype(np.float32), np.zeros_like(levels.zero))
