"""timm's names of ReXNet -> ours."""

import torch

from public.models.backbones.rexnet import block_shapes
from public.weights.backbones.names import rename_layers


def rename(state: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """The state dict of timm's network with our names; `name` is both ours and timm's.

    timm counts the blocks through, and the last 1x1 convolution as one more of them.

    Raises:
        ValueError: an array whose name is not one of a ReXNet; all widths have the same names.
    """
    layers = {"head.fc": "fc", **_conv("stem", "backbone.stem")}
    number = 0
    for stage, shapes in enumerate(block_shapes(name)):
        for position, shape in enumerate(shapes):
            theirs, ours = f"features.{number}", f"backbone.stages.{stage}.{position}"
            layers |= _conv(f"{theirs}.conv_dw", f"{ours}.depthwise") | _conv(f"{theirs}.conv_pwl", f"{ours}.project")
            if shape.has_expansion:
                layers |= _conv(f"{theirs}.conv_exp", f"{ours}.expand")
            if shape.squeezed:
                reduce = f"{ours}.attention.reduce"
                layers |= {f"{theirs}.se.fc1": f"{reduce}.conv", f"{theirs}.se.bn": f"{reduce}.bn"}
                layers[f"{theirs}.se.fc2"] = f"{ours}.attention.expand"
            number += 1
    layers |= _conv(f"features.{number}", "final.conv")
    return rename_layers(state, layers, f"timm's {name}")


def _conv(theirs: str, ours: str) -> dict[str, str]:
    """The two layers of a convolution with BatchNorm, which both call conv and bn."""
    return {f"{theirs}.{layer}": f"{ours}.{layer}" for layer in ("conv", "bn")}
