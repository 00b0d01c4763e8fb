"""Renaming the arrays of a detector layer by layer: what torchvision's and MMDetection's detectors share."""

from collections.abc import Callable

import numpy as np
import torch

from public.weights.backbones import resnet
from public.weights.backbones.names import rename_layers


def by_layers(layers: dict[str, str], detector: str) -> Callable[[dict[str, np.ndarray]], dict[str, torch.Tensor]]:
    """A function from their arrays to ours, for `Released.rename`.

    Args:
        layers: their name of a layer, all before the last dot, -> ours.
        detector: whose arrays they should be, for the error, such as "MMDetection's RetinaNet".
    """

    def rename(arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
        return rename_layers({name: torch.tensor(array) for name, array in arrays.items()}, layers, detector)

    return rename


def resnet_layers(network: str, prefix: str) -> dict[str, str]:
    """The layers of a ResNet without its classifier, their names beginning with `prefix`."""
    names = resnet.layer_names(network)
    return {f"{prefix}{theirs}": ours for theirs, ours in names.items() if theirs != "fc"}
