"""YOLOX's names of CSPDarknet -> ours."""

import torch

from public.models.backbones.csp_darknet import NETWORKS, NUM_BLOCKS, scaled_blocks
from public.weights.backbones.names import rename_layers

PREFIX = "backbone.backbone."  # how the names of the backbone begin inside YOLOX
STEM = f"{PREFIX}stem.conv"
# what a YOLOX checkpoint holds beside the backbone: the neck and the head
NECK = ("lateral_conv0", "reduce_conv1", "bu_conv1", "bu_conv2", "C3_p3", "C3_p4", "C3_n3", "C3_n4")
REST = (*(f"backbone.{layer}." for layer in NECK), "head.")


def rename(state: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """The backbone in the state dict of a YOLOX with our names; `name` is ours, such as csp_darknet_s.

    The neck and the head, REST, are left out.  YOLOX has no class layer, so `fc` is not among what comes back.

    Raises:
        ValueError: an array whose name is not one of that network, or a stem of another shape.
    """
    backbone = {array: value for array, value in state.items() if not array.startswith(REST)}
    renamed = rename_layers(backbone, layer_names(name), f"YOLOX network with the backbone {name}")
    if "backbone.stem.conv.weight" in renamed:
        renamed["backbone.stem.conv.weight"] = one_convolution(renamed["backbone.stem.conv.weight"])
    return renamed


def one_convolution(weight: torch.Tensor) -> torch.Tensor:
    """The weight (O, 4 I, 3, 3) that follows YOLOX's Focus -> that of the 6x6 convolution of stride 2, (O, I, 6, 6).

    Focus gives the pixels of (row, column) 0 0, 1 0, 0 1, 1 1 of each 2x2 square, in this order, I channels each.

    Raises:
        ValueError: a weight of another shape.
    """
    if weight.ndim != 4 or weight.shape[1] % 4 or weight.shape[2:] != (3, 3):
        raise ValueError(
            f"the array behind Focus, {STEM}.conv.weight, has shape {tuple(weight.shape)}, not (.., 4 x channels, 3, 3); the "
            "file is not plainly YOLOX's"
        )
    out_channels, in_channels = weight.shape[0], weight.shape[1] // 4
    parts = weight.reshape(out_channels, 2, 2, in_channels, 3, 3)  # O, column, row, I, 3 squares down, 3 across
    return parts.permute(0, 3, 4, 2, 5, 1).reshape(out_channels, in_channels, 6, 6)


def layer_names(name: str) -> dict[str, str]:
    """The names that a YOLOX with the backbone `name` has for the backbone's layers -> ours."""
    network = NETWORKS[name]
    convs = {STEM: "backbone.stem"}

    def add_3x3(theirs: str, ours: str) -> None:
        if network["use_depthwise"]:
            convs.update({f"{theirs}.dconv": f"{ours}.depthwise", f"{theirs}.pconv": f"{ours}.pointwise"})
        else:
            convs[theirs] = ours

    counts = scaled_blocks(NUM_BLOCKS, network["depth"])
    for stage, count in enumerate(counts):
        theirs, ours = f"{PREFIX}dark{stage + 2}", f"backbone.stages.{stage}"
        is_last = stage == len(counts) - 1
        csp = f"{theirs}.{2 if is_last else 1}"  # behind the spatial pyramid pooling in the last stage
        add_3x3(f"{theirs}.0", f"{ours}.down")
        if is_last:
            convs |= {f"{theirs}.1.conv{number}": f"{ours}.spp.conv{number}" for number in (1, 2)}
        convs |= {f"{csp}.conv{number}": f"{ours}.csp.conv{number}" for number in (1, 2, 3)}
        for block in range(count):
            convs[f"{csp}.m.{block}.conv1"] = f"{ours}.csp.blocks.{block}.conv1"
            add_3x3(f"{csp}.m.{block}.conv2", f"{ours}.csp.blocks.{block}.conv2")
    return {f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in convs.items() for kind in ("conv", "bn")}
