"""torchvision's names of ShuffleNetV2 -> ours."""

import torch

from public.models.backbones.shufflenetv2 import NUM_BLOCKS
from public.weights.backbones.names import rename_layers, torchvision_conv

# places of a convolution and its BatchNorm in torchvision's branch, in the order of ours
LEFT = ((0, 1), (2, 3))
RIGHT = ((0, 1), (3, 4), (5, 6))


def rename(state: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """The state dict of torchvision's network with our names; `name` is ours.

    Raises:
        ValueError: an array whose name is not one of a ShuffleNetV2; all sizes have the same names.
    """
    layers = {"fc": "fc", **torchvision_conv("conv1", "backbone.stem.conv"), **torchvision_conv("conv5", "final.conv")}
    for stage, num_blocks in enumerate(NUM_BLOCKS):
        for block in range(num_blocks):
            theirs, ours = f"stage{stage + 2}.{block}", f"backbone.stages.{stage}.{block}"
            layers |= _branch(f"{theirs}.branch2", f"{ours}.right", RIGHT)
            if block == 0:
                layers |= _branch(f"{theirs}.branch1", f"{ours}.left", LEFT)
    return rename_layers(state, layers, f"torchvision's {name}")


def _branch(theirs: str, ours: str, places: tuple[tuple[int, int], ...]) -> dict[str, str]:
    layers = {}
    for number, (convolution, batch_norm) in enumerate(places):
        layers |= {f"{theirs}.{convolution}": f"{ours}.{number}.conv", f"{theirs}.{batch_norm}": f"{ours}.{number}.bn"}
    return layers
