"""timm's and YOLOX's names of Darknet-53 -> ours."""

import torch

from public.models.backbones.darknet import NETWORKS
from public.weights.backbones.names import rename_layers

YOLOX_STEM = "backbone.backbone.stem.0.conv.weight"  # only YOLOX's checkpoints have an array of this name
# what a YOLOX checkpoint with this backbone holds beside it: neck, layers behind the last residual block, and head
YOLOX_NECK = ("backbone.out1.", "backbone.out2.", "backbone.out1_cbl.", "backbone.out2_cbl.")
YOLOX_DARK5 = tuple(f"backbone.backbone.dark5.{number}." for number in range(5, 10))
YOLOX_REST = (*YOLOX_NECK, *YOLOX_DARK5, "head.")


def rename(state: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """The state dict of timm's darknet53, or of YOLOX's yolox_darknet, with our names; `name` is "darknet53".

    Of YOLOX's only the arrays of Darknet-53 come back, without a class layer; YOLOX_REST is left out.  They fit
    `build(name, activation="leaky_relu_0.1", bn_eps=1e-3, bn_momentum=0.03)`.

    Raises:
        ValueError: an array whose name is not one of that network; darknet19, which has no released weights.
    """
    if "num_blocks" not in NETWORKS[name]:
        raise ValueError(f"neither torchvision, timm nor YOLOX has released weights of {name}")
    if YOLOX_STEM in state:
        backbone = {array: value for array, value in state.items() if not array.startswith(YOLOX_REST)}
        return rename_layers(backbone, yolox_layer_names(name), f"YOLOX network with the backbone {name}")
    return rename_layers(state, _conv_layers(_timm_convs(name)) | {"head.fc": "fc"}, f"timm's {name}")


def yolox_layer_names(name: str) -> dict[str, str]:
    """The names that a YOLOX with the backbone `name` has for the backbone's layers -> ours."""
    return _conv_layers(_yolox_convs(name))


def _conv_layers(convs: dict[str, str]) -> dict[str, str]:
    """The two layers of each convolution with BatchNorm, which all three call `conv` and `bn`."""
    return {f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in convs.items() for kind in ("conv", "bn")}


def _timm_convs(name: str) -> dict[str, str]:
    convs = {"stem.conv1": "backbone.stem"}
    for stage, count in enumerate(NETWORKS[name]["num_blocks"]):
        theirs, ours = f"stages.{stage}", f"backbone.stages.{stage}"
        convs[f"{theirs}.conv_down"] = f"{ours}.down"
        for block in range(count):
            for part in ("conv1", "conv2"):
                convs[f"{theirs}.blocks.{block}.{part}"] = f"{ours}.blocks.{block}.{part}"
    return convs


def _yolox_convs(name: str) -> dict[str, str]:
    """YOLOX counts the first stage into its stem, behind the first convolution; dark2 to dark5 are the others."""
    convs = {"backbone.backbone.stem.0": "backbone.stem"}
    for stage, count in enumerate(NETWORKS[name]["num_blocks"]):
        theirs, first = (f"backbone.backbone.dark{stage + 1}", 0) if stage else ("backbone.backbone.stem", 1)
        ours = f"backbone.stages.{stage}"
        convs[f"{theirs}.{first}"] = f"{ours}.down"
        for block in range(count):
            for number in (1, 2):
                convs[f"{theirs}.{first + 1 + block}.layer{number}"] = f"{ours}.blocks.{block}.conv{number}"
    return convs
