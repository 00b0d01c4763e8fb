"""Paddle's names of CSPResNet -> ours."""

import torch

from public.weights.detectors.ppyoloe import rename_ppyoloe

BACKBONE = "backbone."  # how the names begin inside a detector; the files of the backbone alone lack it


def rename(state: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """The state dict of PaddleDetection's CSPResNet, names with or without `backbone.` in front, with our names.

    The rules are those of PPYOLOE, whose backbone it is; the same for each `name`.

    Raises:
        ValueError: an array whose name is not one of a CSPResNet.
    """
    prefixed = {key if key.startswith(BACKBONE) else BACKBONE + key: value.numpy() for key, value in state.items()}
    if len(prefixed) < len(state):
        raise ValueError(f"arrays of {name} are there twice, with and without {BACKBONE!r} in front")
    return rename_ppyoloe(prefixed)


def keywords(ours: dict[str, torch.Tensor]) -> dict[str, bool]:
    """The keywords of `build` that the renamed arrays need: the learnt factors of PPYOLOE+, where they are there."""
    return {"use_alpha": True} if any(name.endswith(".alpha") for name in ours) else {}
