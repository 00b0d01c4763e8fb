"""Replacing names: what the renames of several families share."""

import torch

# kinds of array, the last part of a name: torch's are ours
TORCH_KINDS = {kind: kind for kind in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}
TIMM_STEM = "conv_stem.weight"  # of the networks here, only timm's checkpoints have an array of this name


def rename_layers(
    state: dict[str, torch.Tensor], layers: dict[str, str], network: str, *, kinds: dict[str, str] = TORCH_KINDS
) -> dict[str, torch.Tensor]:
    """`state` with both parts of each name replaced.

    Args:
        layers: their name of a layer, all before the last dot, -> ours.
        network: whose arrays they should be, for the error.
        kinds: their name of what the layer's array is, behind the last dot, -> ours.

    Raises:
        ValueError: an array that is not in `layers` and `kinds`, or two arrays for one of our names.
    """
    renamed = {}
    for name, value in state.items():
        layer, _, kind = name.rpartition(".")
        if layer not in layers or kind not in kinds:
            raise ValueError(f"array {name!r} belongs to no {network}; convert the file as the network that it is of")
        ours = f"{layers[layer]}.{kinds[kind]}"
        if ours in renamed:
            raise ValueError(f"array {name!r} and another one both become {ours!r}; the file is not a plain {network}")
        renamed[ours] = value
    return renamed


def torchvision_conv(theirs: str, ours: str) -> dict[str, str]:
    """The two layers of a convolution with BatchNorm."""
    return {f"{theirs}.0": f"{ours}.conv", f"{theirs}.1": f"{ours}.bn"}


def timm_squeeze(theirs: str, ours: str) -> dict[str, str]:
    """The two layers of a block's squeeze and excitation."""
    return {f"{theirs}.se.conv_reduce": f"{ours}.squeeze.fc1", f"{theirs}.se.conv_expand": f"{ours}.squeeze.fc2"}


def flat_linear(state: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """`state` with the array called `name`, where it is there, as a matrix: (F, C, 1, 1) -> (F, C)."""
    return state | {name: state[name].flatten(1)} if name in state and state[name].ndim > 1 else state
