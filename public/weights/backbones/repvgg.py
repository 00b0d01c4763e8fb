"""timm's names of RepVGG -> ours."""

import torch

from public.models.backbones.repvgg import NETWORKS
from public.weights.backbones.names import rename_layers


def rename(state: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """The state dict of timm's network, in its training form, with our names; `name` is both ours and timm's.

    Raises:
        ValueError: an array whose name is not one of that network, such as `stem.reparam_conv.weight` of a
            re-parameterised one, whose branches cannot be told apart any more.
    """
    fused = [key for key in state if ".reparam_conv." in key]
    if fused:
        raise ValueError(
            f"array {fused[0]!r} is a re-parameterised block's, where {name} has three branches; "
            "convert the file of the training form"
        )
    layers = {"head.fc": "fc", **_block("stem", "backbone.stem", has_identity=False)}
    for stage, count in enumerate(NETWORKS[name]["num_blocks"]):
        for position in range(count):
            block = f"stages.{stage}.{position}"
            layers |= _block(block, f"backbone.{block}", has_identity=position > 0)
    return rename_layers(state, layers, f"timm's {name}")


def _block(theirs: str, ours: str, *, has_identity: bool) -> dict[str, str]:
    """The layers of a block; the identity branch is a BatchNorm alone."""
    layers = {f"{theirs}.identity": f"{ours}.identity"} if has_identity else {}
    for branch, our_branch in (("conv_kxk", "dense"), ("conv_1x1", "pointwise")):
        layers |= {f"{theirs}.{branch}.{layer}": f"{ours}.{our_branch}.{layer}" for layer in ("conv", "bn")}
    return layers
