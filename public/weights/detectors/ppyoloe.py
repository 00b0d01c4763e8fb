"""PaddleDetection's parameter names -> ours."""

import re

import numpy as np
import torch

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
