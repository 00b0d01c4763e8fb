"""PPYOLOE's and PPYOLOE+'s released weights: PaddleDetection's parameter names -> ours, their inputs and classes."""

import re

import numpy as np
import torch

from public.input import InputSpec
from public.weights.class_names import COCO_CLASSES
from public.weights.detectors.released import Released

BOOKKEEPING_KEY = "StructuredToParameterName@@"  # Paddle's table of internal names, the last entry of a state dict
PPYOLOE_NAME = re.compile(
    r"(backbone|neck|aux_neck|yolo_head)\..*\.(weight|bias|_mean|_variance|alpha)"
    r"|aux_head\.((cls|reg)_convs\.0\.(conv|norm)|gfl_(cls|reg)|proj_conv)\.(weight|bias)"
    r"|aux_head\.scales\.\d+\.scale"
)
PPYOLOE_RENAMES = (
    (re.compile(r"^yolo_head\."), "head."),
    (re.compile(r"^((?:aux_)?neck\.(?:fpn|pan)_stages\.\d+)\.0\."), r"\1."),  # each is a sequence of one stage
    (re.compile(r"^((?:aux_)?neck\.(?:fpn|pan)_stages\.\d+)\.convs\."), r"\1.blocks."),
    (re.compile(r"^aux_head\.(cls|reg)_convs\.0\."), r"aux_head.stem_\1."),  # a list of one convolution
    (re.compile(r"^aux_head\.gfl_(cls|reg)\."), r"aux_head.pred_\1."),
    (re.compile(r"^(aux_head\.scales\.\d+)\.scale$"), r"\1"),
    (re.compile(r"\._mean$"), ".running_mean"),
    (re.compile(r"\._variance$"), ".running_var"),
)


def rename_ppyoloe(state: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """The state dict of a PaddleDetection PPYOLOE or PPYOLOE+ with our names, the tiny model's auxiliary head included.

    Left out: Paddle's table of names, and the fixed projection 0..reg_max after a check of its values.  Added:
    `num_batches_tracked`, 0, which torch's BatchNorm has and Paddle's has not.  The auxiliary head's scales lose the
    dimension of one element that older versions of Paddle gave them.

    Raises:
        ValueError: an array whose name is not one of a PPYOLOE, two arrays for one name, or another projection.
    """
    renamed: dict[str, torch.Tensor] = {}
    for name, array in state.items():
        if name == BOOKKEEPING_KEY:
            continue
        if not PPYOLOE_NAME.fullmatch(name):
            raise ValueError(f"array {name!r} belongs to no PPYOLOE; convert it with the rules of its own network")
        if name in ("yolo_head.proj_conv.weight", "aux_head.proj_conv.weight"):
            _check_projection(name, array)
            continue
        ours = name
        for pattern, replacement in PPYOLOE_RENAMES:
            ours = pattern.sub(replacement, ours)
        if ours in renamed:
            raise ValueError(f"array {name!r} and another one both become {ours!r}; the file is not a plain PPYOLOE")
        is_scale = name.endswith(".scale") and array.size == 1
        renamed[ours] = torch.tensor(array.reshape(()) if is_scale else array)
        if name.endswith("._mean"):
            renamed[ours.removesuffix("running_mean") + "num_batches_tracked"] = torch.tensor(0)
    return renamed


def _check_projection(name: str, array: np.ndarray) -> None:
    """The decoder computes the expectation over the bins 0, 1, 2, ...; a model with other bins would decode wrongly."""
    expected = np.arange(array.size)
    if not np.array_equal(array.ravel(), expected):
        raise ValueError(f"array {name!r} holds {array.ravel()}, not the bins {expected} that our decoder uses")


# ---------------------------------------------------------------------------------------------- the published names


def _input(mean: tuple[float, float, float], std: tuple[float, float, float]) -> InputSpec:
    """As PaddleDetection's evaluation readers prepare an image: stretched to 640 x 640."""
    return InputSpec(
        size=(640, 640),
        resize="stretch",
        interpolation="cubic",
        padding=0,
        color_order="rgb",
        scale=1 / 255,
        mean=mean,
        std=std,
    )


WITH_STATISTICS = _input((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # configs/ppyoloe/_base_/ppyoloe_reader.yml
WITHOUT_STATISTICS = _input((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))  # configs/ppyoloe/_base_/ppyoloe_plus_reader.yml
INPUTS = {
    "ppyoloe_xs": WITH_STATISTICS,
    "ppyoloe_s": WITH_STATISTICS,
    "ppyoloe_m": WITH_STATISTICS,
    "ppyoloe_l": WITH_STATISTICS,
    "ppyoloe_x": WITH_STATISTICS,
    "ppyoloe_plus_t": WITHOUT_STATISTICS,
    "ppyoloe_plus_s": WITHOUT_STATISTICS,
    "ppyoloe_plus_m": WITHOUT_STATISTICS,
    "ppyoloe_plus_l": WITHOUT_STATISTICS,
    "ppyoloe_plus_x": WITHOUT_STATISTICS,
}
RELEASED = {
    name: Released(sources=("paddle",), rename=rename_ppyoloe, input=spec, class_names=COCO_CLASSES)
    for name, spec in INPUTS.items()
}
