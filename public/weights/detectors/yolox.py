"""YOLOX's released weights: Megvii's names of the arrays -> ours, the two inputs, and the classes.

There were two releases of the same networks under the same file names.  Those of before August 2021 (0.0.1) take RGB
images, divided by 255 and normalised by ImageNet's statistics; those since (0.1.1rc0) take BGR images in 0 .. 255.  Nothing
in a file tells which of the two it is, so the command has to be told: the source "yolox" stands for the present ones,
"yolox_legacy" for the old.  The network, and with it its name, is the same.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from public.families.yolox import PUBLISHED, YOLOX
from public.input import InputSpec
from public.weights.backbones import csp_darknet, darknet
from public.weights.backbones.names import rename_layers
from public.weights.class_names import COCO_CLASSES
from public.weights.detectors.released import Released

NUM_LEVELS = 3
STEM = "backbone.stem.conv.weight"  # ours, of a CSPDarknet
# their layers of the neck -> ours; CSP layers are those that begin with C3
PAFPN_CONVS = {
    "lateral_conv0": "laterals.0",
    "reduce_conv1": "laterals.1",
    "bu_conv2": "downs.0",
    "bu_conv1": "downs.1",
}
PAFPN_CSP = {"C3_p4": "top_down.0", "C3_p3": "top_down.1", "C3_n3": "bottom_up.0", "C3_n4": "bottom_up.1"}


def _convs(names: dict[str, str]) -> dict[str, str]:
    """The two layers of each convolution with BatchNorm, which both projects call `conv` and `bn`."""
    return {f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in names.items() for kind in ("conv", "bn")}


def _conv_3x3(theirs: str, ours: str, *, use_depthwise: bool) -> dict[str, str]:
    if use_depthwise:
        return {f"{theirs}.dconv": f"{ours}.depthwise", f"{theirs}.pconv": f"{ours}.pointwise"}
    return {theirs: ours}


def _pafpn(settings: YOLOX) -> dict[str, str]:
    convs: dict[str, str] = {}
    for theirs, ours in PAFPN_CONVS.items():
        is_3x3 = theirs.startswith("bu")
        pair = f"backbone.{theirs}", f"neck.{ours}"
        convs |= _conv_3x3(*pair, use_depthwise=settings.use_depthwise and is_3x3)
    for theirs, ours in PAFPN_CSP.items():
        convs |= {f"backbone.{theirs}.conv{number}": f"neck.{ours}.conv{number}" for number in (1, 2, 3)}
        for block in range(settings.neck_blocks):
            inside, outside = f"backbone.{theirs}.m.{block}", f"neck.{ours}.blocks.{block}"
            convs[f"{inside}.conv1"] = f"{outside}.conv1"
            convs |= _conv_3x3(f"{inside}.conv2", f"{outside}.conv2", use_depthwise=settings.use_depthwise)
    return _convs(convs)


def _yolo_fpn() -> dict[str, str]:
    convs = {}
    for number, layer in enumerate((5, 6, 7, 8, 9)):  # behind the last residual block
        theirs, ours = f"backbone.backbone.dark5.{layer}", f"neck.deepest.{number}"
        parts = (".conv1", ".conv2") if layer == 7 else ("",)  # the spatial pyramid pooling
        convs |= {f"{theirs}{part}": f"{ours}{part}" for part in parts}
    for level in range(NUM_LEVELS - 1):
        convs[f"backbone.out{level + 1}_cbl"] = f"neck.routes.{level}"
        convs |= {f"backbone.out{level + 1}.{number}": f"neck.stages.{level}.{number}" for number in range(5)}
    return _convs(convs)


def _head(settings: YOLOX) -> dict[str, str]:
    convs, layers = {}, {}
    for level in range(NUM_LEVELS):
        convs[f"head.stems.{level}"] = f"head.stems.{level}"
        for theirs, ours in (("cls", "class"), ("reg", "box")):
            for number in range(2):
                pair = f"head.{theirs}_convs.{level}.{number}", f"head.{ours}_convs.{level}.{number}"
                convs |= _conv_3x3(*pair, use_depthwise=settings.use_depthwise)
        for theirs, ours in (("cls", "class"), ("reg", "box"), ("obj", "object")):
            layers[f"head.{theirs}_preds.{level}"] = f"head.{ours}_preds.{level}"
    return _convs(convs) | layers


def layer_names(name: str) -> dict[str, str]:
    """All layers of the published network `name`: their name, what stands before the last dot, -> ours."""
    settings = PUBLISHED[name]
    if settings.neck == "yolo_fpn":
        return darknet.yolox_layer_names(settings.backbone) | _yolo_fpn() | _head(settings)
    return csp_darknet.layer_names(settings.backbone) | _pafpn(settings) | _head(settings)


def _rename(name: str) -> Callable[[dict[str, np.ndarray]], dict[str, torch.Tensor]]:
    layers = layer_names(name)

    def rename(arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
        """Megvii's arrays with our names; the weight that follows their Focus becomes that of our stem.

        Raises:
            ValueError: an array whose name is not one of this network, or a stem of another shape.
        """
        renamed = rename_layers({key: torch.tensor(array) for key, array in arrays.items()}, layers, f"YOLOX's {name}")
        if STEM in renamed and PUBLISHED[name].neck == "pafpn":
            renamed[STEM] = csp_darknet.one_convolution(renamed[STEM])
        return renamed

    return rename


# ---------------------------------------------------------------------------------------------- the published names


def _input(side: int) -> InputSpec:
    """As YOLOX's `preproc` prepares an image: aspect kept, at the top left of a square of grey."""
    return InputSpec(
        size=(side, side),
        resize="letterbox_by_ratio",
        interpolation="linear",
        padding=114,
        color_order="bgr",
        scale=1.0,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )


def _legacy(spec: InputSpec) -> InputSpec:
    """The input of the weights of before August 2021: `preproc` with its option `legacy`."""
    return replace(spec, color_order="rgb", scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


SIDES = {"yolox_nano": 416, "yolox_tiny": 416}  # of the test input; 640 for the others
RELEASED = {
    name: Released(
        sources=("yolox", "yolox_legacy"),
        rename=_rename(name),
        input=_input(SIDES.get(name, 640)),
        class_names=COCO_CLASSES,
        inputs_by_source={"yolox_legacy": _legacy(_input(SIDES.get(name, 640)))},
        neck=darknet.YOLOX_REST if settings.neck == "yolo_fpn" else csp_darknet.REST,
    )
    for name, settings in PUBLISHED.items()
}
