"""Paddle's and timm's names of PP-LCNet -> ours."""

import torch

from public.models.backbones.lcnet import DROPOUT, STAGES
from public.weights.backbones.names import TIMM_STEM, flat_linear, rename_layers, timm_squeeze

HIDDEN = "final.hidden.weight"  # a 1x1 convolution in theirs
DETECTOR = "backbone."  # how the names begin inside a detector of PaddleDetection
PADDLE_KINDS = {"weight": "weight", "bias": "bias", "_mean": "running_mean", "_variance": "running_var"}
TIMM_STAGES = ((0,), (1,), (2,), (3, 4), (5,))  # those of timm that make each of ours
TIMM_BLOCKS = (1, 2, 2, 2, 4, 2)  # blocks in each of timm's


def keywords(state: dict[str, torch.Tensor]) -> dict[str, bool]:
    """The keywords of `build` that the network with these arrays needs: timm's has a bias where Paddle's has none."""
    return {"head_bias": True} if TIMM_STEM in state else {}


def rename(state: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """The state dict of a PP-LCNet with our names: PaddleClas's network, a detector's backbone, or timm's network.

    Paddle's matrix of the last layer is turned, and multiplied by 1 - DROPOUT: in PaddleClas the features are scaled by
    that in inference.  The backbone alone may be given, its names with or without `backbone.` in front.  Added to
    Paddle's arrays: `num_batches_tracked`, 0, which torch's BatchNorm has and Paddle's has not.

    Raises:
        ValueError: an array whose name is not one of a PP-LCNet (all widths have the same names), or that is there twice,
            with and without `backbone.`.
    """
    return _rename_timm(state, name) if TIMM_STEM in state else _rename_paddle(state, name)


def _rename_paddle(state: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    layers = {"conv1.conv": "backbone.stem.conv", "conv1.bn": "backbone.stem.bn"}
    layers |= {"last_conv": "final.hidden", "fc": "fc"}
    for stage, blocks in enumerate(STAGES):
        for block in range(len(blocks)):
            theirs, ours = f"blocks{stage + 2}.{block}", f"backbone.stages.{stage}.{block}"
            for their_part, our_part in (("dw_conv", "depthwise"), ("pw_conv", "pointwise")):
                layers |= {f"{theirs}.{their_part}.{kind}": f"{ours}.{our_part}.{kind}" for kind in ("conv", "bn")}
            layers |= {f"{theirs}.se.conv{number}": f"{ours}.squeeze.fc{number}" for number in (1, 2)}
    layers |= {DETECTOR + theirs: ours for theirs, ours in layers.items() if ours.startswith("backbone.")}
    renamed = rename_layers(state, layers, f"Paddle's {name}", kinds=PADDLE_KINDS)
    for array_name in [array_name for array_name in renamed if array_name.endswith(".running_mean")]:
        renamed[array_name.removesuffix("running_mean") + "num_batches_tracked"] = torch.tensor(0)
    if "fc.weight" in renamed:
        renamed["fc.weight"] = renamed["fc.weight"].t() * (1 - DROPOUT)
    return flat_linear(renamed, HIDDEN)


def _rename_timm(state: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    layers = {"conv_stem": "backbone.stem.conv", "bn1": "backbone.stem.bn"}
    layers |= {"conv_head": "final.hidden", "classifier": "fc"}
    for stage, parts in enumerate(TIMM_STAGES):
        places = [f"blocks.{part}.{block}" for part in parts for block in range(TIMM_BLOCKS[part])]
        for block, theirs in enumerate(places):
            ours = f"backbone.stages.{stage}.{block}"
            layers |= {f"{theirs}.conv_dw": f"{ours}.depthwise.conv", f"{theirs}.bn1": f"{ours}.depthwise.bn"}
            layers |= {f"{theirs}.conv_pw": f"{ours}.pointwise.conv", f"{theirs}.bn2": f"{ours}.pointwise.bn"}
            layers |= timm_squeeze(theirs, ours)
    return flat_linear(rename_layers(state, layers, f"timm's {name}"), HIDDEN)
