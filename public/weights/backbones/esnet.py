"""Paddle's names of ESNet -> ours."""

import torch

from public.models.backbones.esnet import NUM_BLOCKS
from public.weights.backbones.lcnet import DETECTOR, PADDLE_KINDS
from public.weights.backbones.names import rename_layers

UNIT = {"_conv_pw": "expand", "_conv_dw": "depthwise", "_conv_linear": "project"}
DOWN_UNIT = {
    "_conv_dw_1": "left.0",
    "_conv_linear_1": "left.1",
    "_conv_pw_2": "right.0",
    "_conv_dw_2": "right.1",
    "_conv_linear_2": "right.3",
    "_conv_dw_mv1": "mix.0",
    "_conv_pw_mv1": "mix.1",
}
KINDS = {"_conv": "conv", "_batch_norm": "bn"}


def rename(state: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """The state dict of an ESNet's backbone with our names, theirs with or without `backbone.` in front.

    Added: `num_batches_tracked`, 0, which torch's BatchNorm has and Paddle's has not.

    Raises:
        ValueError: an array whose name is not one of an ESNet's backbone (all widths have the same names), or that is there
            twice, with and without `backbone.`.
    """
    layers = {f"_conv1.{theirs}": f"backbone.stem.conv.{ours}" for theirs, ours in KINDS.items()}
    for stage, num_blocks in enumerate(NUM_BLOCKS):
        for block in range(num_blocks):
            theirs, ours = f"{stage + 2}_{block + 1}", f"backbone.stages.{stage}.{block}"
            for their_part, our_part in (UNIT if block else DOWN_UNIT).items():
                layers |= {f"{theirs}.{their_part}.{k}": f"{ours}.{our_part}.{kind}" for k, kind in KINDS.items()}
            squeeze = "squeeze" if block else "right.2"
            layers |= {f"{theirs}._se.conv{number}": f"{ours}.{squeeze}.fc{number}" for number in (1, 2)}
    layers |= {DETECTOR + theirs: ours for theirs, ours in layers.items()}
    renamed = rename_layers(state, layers, f"Paddle's {name}", kinds=PADDLE_KINDS)
    for array_name in [array_name for array_name in renamed if array_name.endswith(".running_mean")]:
        renamed[array_name.removesuffix("running_mean") + "num_batches_tracked"] = torch.tensor(0)
    return renamed
