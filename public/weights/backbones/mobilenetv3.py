"""torchvision's and timm's names of MobileNetV3 -> ours; and how both name a block, which EfficientNet's rename uses too."""

import itertools

import torch

from public.models.backbones.mobilenetv3 import BlockShape, block_shapes, group_by_stride
from public.weights.backbones.names import TIMM_STEM, flat_linear, rename_layers, timm_squeeze, torchvision_conv


def keywords(state: dict[str, torch.Tensor]) -> dict[str, float]:
    """The keywords of `build` that the network with these arrays needs: timm's BatchNorm has other numbers."""
    return {"bn_eps": 1e-5, "bn_momentum": 0.1} if TIMM_STEM in state else {}


def rename(state: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """The state dict of torchvision's or timm's network with our names; `name` is ours, mobilenetv3_small or _large.

    timm's last 1x1 convolution acts on one cell; ours, as torchvision's, is the linear layer of the same matrix.

    Raises:
        ValueError: an array whose name is not one of that network.
    """
    shapes = block_shapes(name)
    blocks = list(zip(our_blocks(shapes), shapes, strict=True))
    if TIMM_STEM in state:
        renamed = rename_layers(state, _timm_layers(blocks), f"timm's {name}")
        return flat_linear(renamed, "final.hidden.weight")
    layers = {"classifier.0": "final.hidden", "classifier.3": "fc"}
    layers |= torchvision_conv("features.0", "backbone.stem")
    for number, (ours, shape) in enumerate(blocks, start=1):
        layers |= torchvision_block(f"features.{number}", ours, shape)
    layers |= torchvision_conv(f"features.{len(shapes) + 1}", "final.conv")
    return rename_layers(state, layers, f"torchvision's {name}")


def _timm_layers(blocks: list[tuple[str, BlockShape]]) -> dict[str, str]:
    """timm's blocks of as many output channels form a stage; the last 1x1 convolution before the mean is one more."""
    layers = {"conv_stem": "backbone.stem.conv", "bn1": "backbone.stem.bn"}
    stage = 0
    for stage, (_, run) in enumerate(itertools.groupby(blocks, key=lambda block: block[1].out_channels)):
        for position, (ours, shape) in enumerate(run):
            layers |= timm_block(f"blocks.{stage}.{position}", ours, shape)
    layers |= {f"blocks.{stage + 1}.0.conv": "final.conv.conv", f"blocks.{stage + 1}.0.bn1": "final.conv.bn"}
    return layers | {"conv_head": "final.hidden", "classifier": "fc"}


def our_blocks(shapes: list[BlockShape]) -> list[str]:
    """Our name of each block of a network of inverted residuals, in order."""
    stages, _ = group_by_stride(shapes, stride=2)
    return [
        f"backbone.stages.{number}.{position}" for number, stage in enumerate(stages) for position in range(len(stage))
    ]


def torchvision_block(theirs: str, ours: str, shape: BlockShape) -> dict[str, str]:
    """The layers of an inverted residual: torchvision counts the parts that are there."""
    parts = ["depthwise", "squeeze", "project"] if shape.squeezed else ["depthwise", "project"]
    if shape.has_expansion:
        parts.insert(0, "expand")
    layers = {}
    for number, part in enumerate(parts):
        if part == "squeeze":
            layers |= {f"{theirs}.block.{number}.{layer}": f"{ours}.squeeze.{layer}" for layer in ("fc1", "fc2")}
        else:
            layers |= torchvision_conv(f"{theirs}.block.{number}", f"{ours}.{part}")
    return layers


def timm_block(theirs: str, ours: str, shape: BlockShape) -> dict[str, str]:
    """The layers of an inverted residual: timm calls the last convolution conv_pwl where an expansion has conv_pw."""
    convolutions = [("conv_dw", "depthwise")]
    if shape.has_expansion:
        convolutions = [("conv_pw", "expand"), *convolutions, ("conv_pwl", "project")]
    else:
        convolutions = [*convolutions, ("conv_pw", "project")]
    layers = timm_squeeze(theirs, ours) if shape.squeezed else {}
    for number, (convolution, part) in enumerate(convolutions, start=1):
        layers |= {f"{theirs}.{convolution}": f"{ours}.{part}.conv", f"{theirs}.bn{number}": f"{ours}.{part}.bn"}
    return layers
