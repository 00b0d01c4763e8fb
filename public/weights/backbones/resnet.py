"""torchvision's and timm's names of ResNet -> ours."""

import torch

from public.models.backbones.resnet import BASIC, BLOCKS, NETWORKS
from public.weights.backbones.names import rename_layers


def layer_names(name: str) -> dict[str, str]:
    """torchvision's, timm's and MMDetection's name of each layer -> ours, of the network that we call `name`."""
    depth = NETWORKS[name]["depth"]
    layers = {"conv1": "backbone.stem.conv.conv", "bn1": "backbone.stem.conv.bn", "fc": "fc"}
    for stage, num_blocks in enumerate(BLOCKS[depth]):
        for block in range(num_blocks):
            theirs, ours = f"layer{stage + 1}.{block}", f"backbone.stages.{stage}.{block}"
            for number in range(1, 3 if depth in BASIC else 4):
                layers |= {
                    f"{theirs}.conv{number}": f"{ours}.layers.conv{number}.conv",
                    f"{theirs}.bn{number}": f"{ours}.layers.conv{number}.bn",
                }
            if block == 0:  # a first block without a shortcut of its own has no such arrays, here or there
                layers |= {
                    f"{theirs}.downsample.0": f"{ours}.shortcut.conv",
                    f"{theirs}.downsample.1": f"{ours}.shortcut.bn",
                }
    return layers


def rename(state: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """The state dict of torchvision's or timm's network, which name their arrays alike, with our names; `name` is ours.

    Raises:
        ValueError: an array whose name is not one of that network.
    """
    return rename_layers(state, layer_names(name), f"torchvision's or timm's {name}")
