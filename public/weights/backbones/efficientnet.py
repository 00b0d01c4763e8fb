"""torchvision's and timm's names of EfficientNet -> ours."""

import torch

from public.models.backbones.efficientnet import paper_stages
from public.weights.backbones.mobilenetv3 import our_blocks, timm_block, torchvision_block
from public.weights.backbones.names import TIMM_STEM, rename_layers, torchvision_conv


def rename(state: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """The state dict of torchvision's or timm's network called `name` with our names.

    Raises:
        ValueError: an array whose name is not one of that network.
    """
    stages = paper_stages(name)
    shapes = [shape for stage in stages for shape in stage]
    places = [(number, position) for number, stage in enumerate(stages) for position in range(len(stage))]
    blocks = list(zip(places, our_blocks(shapes), shapes, strict=True))
    if TIMM_STEM in state:
        layers = {"conv_stem": "backbone.stem.conv", "bn1": "backbone.stem.bn"}
        for (number, position), ours, shape in blocks:
            layers |= timm_block(f"blocks.{number}.{position}", ours, shape)
        layers |= {"conv_head": "final.conv.conv", "bn2": "final.conv.bn", "classifier": "fc"}
        return rename_layers(state, layers, f"timm's {name}")
    layers = torchvision_conv("features.0", "backbone.stem")
    for (number, position), ours, shape in blocks:
        layers |= torchvision_block(f"features.{number + 1}.{position}", ours, shape)
    layers |= torchvision_conv(f"features.{len(stages) + 1}", "final.conv")
    layers["classifier.1"] = "fc"
    return rename_layers(state, layers, f"torchvision's {name}")
