"""Renaming the arrays of a detector layer by layer: what torchvision's and MMDetection's detectors share.

Ours of a neck are those of `public.models.necks.fpn.FPN`, of a tower those of `public.models.towers`.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from public.weights.backbones import resnet
from public.weights.backbones.names import rename_layers


def by_layers(
    layers: dict[str, str], detector: str, *, arrays: dict[str, str] | None = None
) -> Callable[[dict[str, np.ndarray]], dict[str, torch.Tensor]]:
    """A function from their state dict to ours, for `Released.rename`.

    Args:
        layers: their name of a layer, all before the last dot, -> ours.
        detector: whose arrays they should be, for the error, such as "MMDetection's RetinaNet".
        arrays: their name of an array that is a layer of ours by itself, -> ours.
    """
    single = arrays or {}

    def rename(state: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
        tensors = {name: torch.tensor(array) for name, array in state.items()}
        renamed = {single[name]: tensors.pop(name) for name in state if name in single}
        return renamed | rename_layers(tensors, layers, detector)

    return rename


def resnet_layers(network: str, prefix: str) -> dict[str, str]:
    """The layers of a ResNet without its classifier, their names beginning with `prefix`."""
    names = resnet.layer_names(network)
    return {f"{prefix}{theirs}": ours for theirs, ours in names.items() if theirs != "fc"}


def torchvision_fpn_layers(*, num_maps: int, num_extra: int) -> dict[str, str]:
    """The layers of a torchvision detector's FPN; each convolution has two names, of files before and since 0.13."""
    layers = {}
    for theirs, ours in (("inner_blocks", "lateral"), ("layer_blocks", "output")):
        for level in range(num_maps):
            layers[f"backbone.fpn.{theirs}.{level}"] = f"neck.{ours}.{level}"
            layers[f"backbone.fpn.{theirs}.{level}.0"] = f"neck.{ours}.{level}"
    extra = {f"backbone.fpn.extra_blocks.p{6 + level}": f"neck.extra.{level}" for level in range(num_extra)}
    return layers | extra


def mmdet_fpn_layers(*, num_maps: int, num_extra: int) -> dict[str, str]:
    """The layers of an MMDetection detector's FPN."""
    lateral = {f"neck.lateral_convs.{level}.conv": f"neck.lateral.{level}" for level in range(num_maps)}
    output = {f"neck.fpn_convs.{level}.conv": f"neck.output.{level}" for level in range(num_maps)}
    extra = {f"neck.fpn_convs.{num_maps + level}.conv": f"neck.extra.{level}" for level in range(num_extra)}
    return lateral | output | extra


def tower_layers(ours: str, *, conv: Sequence[str], norm: Sequence[str]) -> dict[str, str]:
    """The layers of a tower whose names here begin with `ours`.

    Args:
        conv, norm: what the other project calls the convolution and the normalisation of each layer; `norm` may be empty.
    """
    convs = {theirs: f"{ours}.{number}.conv" for number, theirs in enumerate(conv)}
    return convs | {theirs: f"{ours}.{number}.norm" for number, theirs in enumerate(norm)}
