"""torchvision's and timm's names of RegNetY -> ours."""

import functools
import re

import torch

from public.models.backbones.regnet import build, stage_shapes

BLOCK = re.compile(r"backbone\.stages\.(\d+)\.(\d+)\.(.*)")
TORCHVISION_LAYERS = {
    "conv1.conv": "f.a.0",
    "conv1.bn": "f.a.1",
    "conv2.conv": "f.b.0",
    "conv2.bn": "f.b.1",
    "se.fc1": "f.se.fc1",
    "se.fc2": "f.se.fc2",
    "conv3.conv": "f.c.0",
    "conv3.bn": "f.c.1",
    "shortcut.conv": "proj.0",
    "shortcut.bn": "proj.1",
    "backbone.stem.conv": "stem.0",
    "backbone.stem.bn": "stem.1",
    "fc": "fc",
}
LAST_STAGE = "backbone.stages.3.0.conv1.conv.weight"  # an array of which the first size is the last stage's channels


def rename(state: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """The state dict of torchvision's or timm's network called `name` with our names; nothing is left out or added.

    Raises:
        ValueError: an array whose name is not one of that network, or two arrays for one name.
    """
    ours = _our_names(name)
    renamed: dict[str, torch.Tensor] = {}
    for theirs, array in state.items():
        if theirs not in ours:
            raise ValueError(f"array {theirs!r} belongs to no {name}, neither torchvision's nor timm's")
        if ours[theirs] in renamed:
            raise ValueError(f"array {theirs!r} and another one both become {ours[theirs]!r}; two networks are mixed")
        renamed[ours[theirs]] = array
    return renamed


def build_keywords(state: dict[str, torch.Tensor], name: str) -> dict[str, str]:
    """What `build` must be told for the renamed weights `state`: {"rounding": "up"} where only that gives their widths.

    Among the released networks that is torchvision's regnet_y_800mf.  Widths of neither rounding: {}, so that loading
    the weights reports them.
    """
    channels = next(iter(state[LAST_STAGE].shape), None) if LAST_STAGE in state else None
    fitting = [rounding for rounding in ("even", "up") if stage_shapes(name, rounding=rounding)[0][-1] == channels]
    return {"rounding": "up"} if fitting == ["up"] else {}


@functools.cache
def _our_names(name: str) -> dict[str, str]:
    """timm's name and torchvision's of each array of the network -> ours."""
    with torch.device("meta"):
        arrays = build(name, num_classes=1).state_dict()
    return {theirs: ours for ours in arrays for theirs in (_timm_name(ours), _torchvision_name(ours))}


def _timm_name(ours: str) -> str:
    """backbone.stages.0.1.shortcut.bn.bias -> s1.b2.downsample.bn.bias, and so on."""
    if match := BLOCK.fullmatch(ours):
        stage, block, rest = match.groups()
        return f"s{int(stage) + 1}.b{int(block) + 1}.{rest.replace('shortcut.', 'downsample.')}"
    return ours.removeprefix("backbone.") if ours.startswith("backbone.") else f"head.{ours}"


def _torchvision_name(ours: str) -> str:
    """backbone.stages.0.1.conv3.bn.bias -> trunk_output.block1.block1-1.f.c.1.bias, and so on."""
    prefix, rest = "", ours
    if match := BLOCK.fullmatch(ours):
        stage, block, rest = match.groups()
        number = int(stage) + 1
        prefix = f"trunk_output.block{number}.block{number}-{block}."
    layer, _, kind = rest.rpartition(".")
    return f"{prefix}{TORCHVISION_LAYERS[layer]}.{kind}"
