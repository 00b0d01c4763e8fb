"""timm's names of VoVNet -> ours."""

import functools
import re

import torch

from public.models.backbones.vovnet import build

BLOCK = re.compile(r"backbone\.stages\.(\d+)\.block(\d+)\.(.*)")
TIMM_LAYERS = {
    "reduce": "conv_reduction",
    "layers": "conv_mid",
    "concat": "conv_concat",
    "depthwise": "conv_dw",
    "pointwise": "conv_pw",
}


def rename(state: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """The state dict of timm's network for our `name` with our names; nothing is left out or added.

    vovnet19_slim_dw_se is timm's ese_vovnet19b_slim_dw, vovnet39_se its ese_vovnet39b, and so on.

    Raises:
        ValueError: an array whose name is not one of that network.
    """
    ours = _our_names(name)
    unknown = [theirs for theirs in state if theirs not in ours]
    if unknown:
        raise ValueError(f"array {unknown[0]!r} belongs to no {name} of timm")
    return {ours[theirs]: array for theirs, array in state.items()}


@functools.cache
def _our_names(name: str) -> dict[str, str]:
    """timm's name of each array of the network -> ours."""
    with torch.device("meta"):
        arrays = build(name, num_classes=1).state_dict()
    return {_timm_name(ours): ours for ours in arrays}


def _timm_name(ours: str) -> str:
    """backbone.stages.1.block1.layers.0.depthwise.weight -> stages.1.blocks.0.conv_mid.0.conv_dw.weight, and so on."""
    if ours.startswith("fc."):
        return f"head.{ours}"
    theirs = ours.removeprefix("backbone.")
    if match := BLOCK.fullmatch(ours):
        stage, block, rest = match.groups()
        theirs = f"stages.{stage}.blocks.{int(block) - 1}.{rest}"
    return ".".join(TIMM_LAYERS.get(part, part) for part in theirs.split("."))
