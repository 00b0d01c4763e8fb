"""Post-training quantisation of a network in torch: calibration on pictures, and which layers it hurts.

Ranges are the least and the largest value that the calibration pictures bring, per channel before depthwise convolutions; no
random number is drawn after the pictures are, so the same pictures give the same scales, bit for bit.

Legend: B batch, O output channels, H W height and width.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from public import random_streams
from public.export.qdq import Layer, layer_of, output_levels
from public.input import ClassificationInput, InputSpec, normalise, prepare, prepare_crop, read_image, stack
from public.models.fuse import fuse
from public.models.quantised import QuantisedConv2d, fake_quantise, quantise_convs


class Pictures(NamedTuple):
    """The pictures of a calibration, and what the card says of them."""

    images: list[torch.Tensor]  # each (1, 3, h, w), as `normalise` makes them
    ids: tuple[str | int, ...]
    digest: str  # sha256 of the prepared pixels, in their order


def draw_pictures(data: Any, count: int, seed: int, spec: InputSpec | ClassificationInput) -> Pictures:
    """`count` pictures of the set `data`, drawn by the stream (`seed`, "calibration"), prepared as the network's input is.

    Raises:
        ValueError: the set has fewer.
    """
    name = getattr(data, "image_id", lambda i: i)
    sha, images, ids = hashlib.sha256(), [], []
    for place, pixels, regions in draw_pixels(data, count, seed, spec):
        sha.update(np.ascontiguousarray(pixels).tobytes())
        images.append(normalise(torch.from_numpy(pixels), spec, regions))
        ids.append(name(place))
    return Pictures(images, tuple(ids), sha.hexdigest())


def draw_pixels(
    data: Any, count: int, seed: int, spec: InputSpec | ClassificationInput
) -> Iterator[tuple[int, np.ndarray, Any]]:
    """The places in `data` of what `draw_pictures` draws, the pixels uint8 (1, h, w, 3), and their regions.

    Raises:
        ValueError: as `draw_pictures`.
    """
    if not 1 <= count <= len(data):
        raise ValueError(f"--calibration is {count}; {data.description} has {len(data)} pictures")
    read = getattr(data, "load_picture", lambda i: read_image(data.image_path(i)))
    for place in random_streams.stream(seed, "calibration").permutation(len(data))[:count].tolist():
        yield place, *_prepared(read(place), spec)


def _prepared(picture: np.ndarray, spec: InputSpec | ClassificationInput) -> tuple[np.ndarray, Any]:
    """One picture as a batch uint8 (1, h, w, 3), and its region."""
    if isinstance(spec, InputSpec):
        pixels, geometry = prepare(picture, spec)
        return stack([pixels], spec), [geometry.region]
    return prepare_crop(picture, spec)[0][None], None


class Calibrated:
    """A network whose convolutions know their ranges; it computes in float.

    Args:
        model: the network with its weights; it is left as it is.
        images: each (1, 3, h, w).
        float_layers: beginnings of names of layers that stay float, beside those that the outputs are made of.
        float_last: False: those that the outputs are made of are quantised too.
        with_outputs: also find the range of what each convolution gives, which ONNX Runtime needs.
        with_depthwise: False: depthwise convolutions stay float.

    Attributes:
        network: a fused copy of `model`.
        layers: name -> the convolution, in the order of the network.
        outputs: name -> (low, high) of what it gives, each (1,).
        kept: names of the convolutions that stay float.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Sequence[torch.Tensor],
        *,
        float_layers: tuple[str, ...],
        float_last: bool = True,
        with_outputs: bool,
        with_depthwise: bool,
    ) -> None:
        self.network = fuse(model)
        kept = quantise_convs(
            self.network,
            weight_bits=8,
            activation_bits=8,
            per_channel=True,
            momentum=None,
            float_layers=float_layers,
            float_last=float_last,
        )
        found = {n: m for n, m in self.network.named_modules() if isinstance(m, QuantisedConv2d)}
        self.layers = {n: m for n, m in found.items() if with_depthwise or not m.is_depthwise}
        self.kept = (*kept, *(name for name in found if name not in self.layers))
        self.outputs: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self.images = images
        for layer in found.values():
            layer.is_quantising = False

        def see(name: str, layer: QuantisedConv2d, x: torch.Tensor, y: torch.Tensor) -> None:
            layer.observe(x)
            low, high = y.amin().reshape(1), y.amax().reshape(1)
            if name in self.outputs:
                low, high = torch.minimum(low, self.outputs[name][0]), torch.maximum(high, self.outputs[name][1])
            self.outputs[name] = low, high

        self._run(see, images)
        if not with_outputs:
            self.outputs.clear()

    @torch.no_grad()
    def _run(self, see: Callable[..., None], images: Sequence[torch.Tensor]) -> None:
        """The network on all images; `see` gets name, layer, input and output of each convolution."""
        with ExitStack() as hooks:
            for name, layer in self.layers.items():

                def hook(module: Any, inputs: Any, output: torch.Tensor, name: str = name) -> None:
                    see(name, module, inputs[0], output)

                hooks.callback(layer.register_forward_hook(hook).remove)
            for image in images:
                self.network(image)

    def files_layers(self) -> dict[str, Layer]:
        """name -> how a file quantises it."""
        found = {}
        for name, layer in self.layers.items():
            made = layer_of(layer)
            found[name] = made._replace(output=output_levels(*self.outputs[name])) if self.outputs else made
        return found

    def errors(self, count: int) -> dict[str, float]:
        """name -> the error that quantising this layer alone causes in what it gives, on the first `count` pictures.

        Each layer gets what the float network gives it, is computed quantised and in float, and the two are compared: the
        root of the squared difference over the variance of each channel, both summed.  1: nothing is left of the signal.
        """
        sums: dict[str, list[Any]] = {name: [0.0, 0.0, 0.0, 0] for name in self.layers}

        def see(name: str, layer: QuantisedConv2d, x: torch.Tensor, y: torch.Tensor) -> None:
            found, exact = self._quantised(name, layer, x).double(), y.double()
            total = sums[name]
            total[0] += float((found - exact).square().sum())
            total[1] += exact.square().sum((0, 2, 3))  # (O,)
            total[2] += exact.sum((0, 2, 3))
            total[3] += exact[:, 0].numel()

        self._run(see, self.images[:count])
        return {name: _relative(*total) for name, total in sums.items()}

    def _quantised(self, name: str, layer: QuantisedConv2d, x: torch.Tensor) -> torch.Tensor:
        weight = layer.quantised_weight(layer.weight)
        y = layer._conv_forward(layer.quantised_input(x), weight, layer.bias)
        if name not in self.outputs:
            return y
        scale, zero = (torch.from_numpy(value).float() for value in output_levels(*self.outputs[name]))
        return fake_quantise(y, scale, zero, 0, 255)


def _relative(squared: float, squares: torch.Tensor, values: torch.Tensor, count: int) -> float:
    spread = float((squares - values.square() / count).sum())
    return (squared / spread) ** 0.5 if spread > 0 else (0.0 if squared == 0 else float("inf"))


def worst_first(errors: dict[str, float]) -> list[str]:
    """The layers by falling error; those of the same error in the order of the network."""
    return sorted(errors, key=lambda name: -errors[name])
