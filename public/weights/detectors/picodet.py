"""PicoDet's released weights: PaddleDetection's parameter names -> ours, their inputs and classes."""

import functools
import re

import numpy as np
import torch

from public.families import picodet, picodet_legacy
from public.input import InputSpec
from public.weights import backbones
from public.weights.backbones.lcnet import PADDLE_KINDS
from public.weights.class_names import COCO_CLASSES
from public.weights.detectors.released import Released

# how the names in a file of the backbone alone begin, by the first letters of the network
PARTS = {
    "lcnet": ("conv1", "blocks2", "blocks3", "blocks4", "blocks5", "blocks6"),
    "esnet": (
        "_conv1",
        *(f"{stage + 2}_{block + 1}" for stage, count in enumerate((3, 7, 3)) for block in range(count)),
    ),
}
DEAD = re.compile(r"head\.p[3-6]_feat\.scale_reg")
JOINT = re.compile(r"head\.head_cls(\d)\.(weight|bias)")  # of 2021: the classes' filters, then those of the distances
NUM_DISTANCES = 4 * 8  # sides times bins
COPY = re.compile(r"head\.head_(cls|reg)_list\.(\d)\.(weight|bias)")
# their layer inside neck and head -> ours; what the backbone's file renames is not here
RULES: tuple[tuple[str, str], ...] = (
    (r"neck\.conv_t\.convs\.(\d)\.(conv|bn)", r"neck.reduce.\1.\2"),
    (r"neck\.(top_down|bottom_up)_blocks\.(\d)\.(\d)\.dw_conv\.(conv|bn)", r"neck.\1.\2.\3.depthwise.\4"),
    (r"neck\.(top_down|bottom_up)_blocks\.(\d)\.(\d)\.pw_conv\.(conv|bn)", r"neck.\1.\2.\3.pointwise.\4"),
    (r"neck\.(top_down|bottom_up)_blocks\.(\d)\.(main|short|final)_conv\.(conv|bn)", r"neck.\1.\2.\3.\4"),
    (r"neck\.(top_down|bottom_up)_blocks\.(\d)\.blocks\.(\d)\.conv1\.(conv|bn)", r"neck.\1.\2.blocks.\3.0.\4"),
    (r"neck\.(top_down|bottom_up)_blocks\.(\d)\.blocks\.(\d)\.conv2", r"neck.\1.\2.blocks.\3.1"),
    (r"neck\.downsamples\.(\d)", r"neck.down.\1"),
    (r"neck\.first_top_conv", "neck.extra_before"),
    (r"neck\.second_top_conv", "neck.extra_after"),
    (r"head\.conv_feat\.cls_conv_dw(\d)\.(\d)\.(conv|norm)", r"head.towers.\1.\2.depthwise.\3"),
    (r"head\.conv_feat\.cls_conv_pw(\d)\.(\d)\.(conv|norm)", r"head.towers.\1.\2.pointwise.\3"),
    (r"head\.conv_feat\.se\.(\d)\.fc", r"head.squeeze.\1.fc"),
    (r"head\.conv_feat\.se\.(\d)\.conv\.(conv|norm)", r"head.squeeze.\1.conv.\2"),
    (r"head\.head_(cls|reg)(?:_list\.)?(\d)", r"head.pred_\1.\2"),
)
# the two convolutions of their depthwise separable module, in layers that RULES leaves open
SEPARABLE = {
    "dwconv": ("depthwise.conv", "0.conv"),
    "bn1": ("depthwise.bn", "0.bn"),
    "pwconv": ("pointwise.conv", "1.conv"),
    "bn2": ("pointwise.bn", "1.bn"),
}


def copies_and_dead(arrays: dict[str, np.ndarray]) -> dict[str, str]:
    """The arrays that are not converted, and why: predictions that the file holds twice, and scales that nothing reads.

    Raises:
        ValueError: two copies of one array differ.
    """
    left_out = {name: "never used by the original, and not trained" for name in arrays if DEAD.fullmatch(name)}
    for name, array in arrays.items():
        copy = COPY.fullmatch(name)
        twin = f"head.head_{copy[1]}{copy[2]}.{copy[3]}" if copy else None
        if twin is None or twin not in arrays:
            continue
        if not np.array_equal(array, arrays[twin]):
            raise ValueError(f"{name!r} and {twin!r} are one array under two names, but their values differ")
        left_out[name] = f"the same as {twin}"
    return left_out


def rename_picodet(arrays: dict[str, np.ndarray], *, network: str, is_joint: bool = False) -> dict[str, torch.Tensor]:
    """The arrays of a PicoDet of PaddleDetection, without those of `copies_and_dead`, with our names.

    Added: `num_batches_tracked`, 0, which torch's BatchNorm has and Paddle's has not.

    Args:
        network: the name of its backbone here, such as lcnet_075.
        is_joint: one convolution predicts classes and distances, in the models of 2021; here they are two.

    Raises:
        ValueError: an array whose name is not one of a PicoDet, or two arrays for one name.
    """
    renamed: dict[str, torch.Tensor] = {}
    for name, array in arrays.items():
        value = torch.tensor(array)
        if name.startswith("backbone."):
            parts = backbones.released(network, "paddle").rename({name: value}, network)
        elif name == "head.distribution_project.project":
            parts = {"head.bins": value}
        elif is_joint and (joint := JOINT.fullmatch(name)):
            parts = _apart(joint[1], joint[2], value)
        else:
            parts = _neck_or_head(name, value)
        for ours, part in parts.items():
            if ours in renamed:
                raise ValueError(
                    f"array {name!r} and another one both become {ours!r}; the file is not a plain PicoDet"
                )
            renamed[ours] = part
    return renamed


def _apart(level: str, kind: str, value: torch.Tensor) -> dict[str, torch.Tensor]:
    """The predictions of classes and of distances out of the one convolution of both."""
    return {
        f"head.pred_cls.{level}.{kind}": value[:-NUM_DISTANCES],
        f"head.pred_reg.{level}.{kind}": value[-NUM_DISTANCES:],
    }


def _neck_or_head(name: str, value: torch.Tensor) -> dict[str, torch.Tensor]:
    layer, _, kind = name.rpartition(".")
    ours = _layer(layer)
    if ours is None or kind not in PADDLE_KINDS:
        raise ValueError(f"array {name!r} belongs to no PicoDet; convert it with the rules of its own network")
    renamed = {f"{ours}.{PADDLE_KINDS[kind]}": value}
    if kind == "_mean":
        renamed[f"{ours}.num_batches_tracked"] = torch.tensor(0)
    return renamed


def _layer(theirs: str) -> str | None:
    """Our name of a layer of theirs, of neck or head; None where there is none."""
    before, _, part = theirs.rpartition(".")
    align = re.fullmatch(r"head\.cls_align\.(\d)", before)
    if align and part in SEPARABLE:
        return f"head.align.{align[1]}.{SEPARABLE[part][1]}"
    if part in SEPARABLE:
        ours = _by_rules(before)
        return None if ours is None else f"{ours}.{SEPARABLE[part][0]}"
    ours = _by_rules(theirs)
    return None if ours is None else re.sub(r"\.norm$", ".bn", ours)


def _by_rules(theirs: str) -> str | None:
    for pattern, replacement in RULES:
        found = re.fullmatch(pattern, theirs)
        if found:
            return found.expand(replacement)
    return None


# ---------------------------------------------------------------------------------------------- the published names


def _input(side: int, *, has_statistics: bool = True) -> InputSpec:
    """As PaddleDetection's evaluation readers prepare an image (configs/picodet/_base_): stretched to a square."""
    return InputSpec(
        size=(side, side),
        resize="stretch",
        interpolation="cubic",
        padding=0,
        color_order="rgb",
        scale=1 / 255,
        mean=(0.485, 0.456, 0.406) if has_statistics else (0.0, 0.0, 0.0),
        std=(0.229, 0.224, 0.225) if has_statistics else (1.0, 1.0, 1.0),
    )


def _inputs() -> dict[str, InputSpec]:
    """The input of each published name: its number is the side of the square; names without one have 416."""
    found = {}
    for name in (*picodet.PUBLISHED, *picodet_legacy.PUBLISHED):
        side = re.search(r"_(\d+)", name)
        found[name] = _input(int(side[1]) if side else 416, has_statistics=not name.endswith("_npu"))
    return found


def _released(name: str, spec: InputSpec) -> Released:
    settings = picodet.PUBLISHED.get(name) or picodet_legacy.PUBLISHED[name]
    class_names: tuple[str, ...] = COCO_CLASSES
    if settings.num_classes == 1:
        class_names = ("person",) if name.endswith("pedestrian") else ("foreground",)
    return Released(
        sources=("paddle",),
        rename=functools.partial(rename_picodet, network=settings.backbone, is_joint=name in picodet_legacy.PUBLISHED),
        input=spec,
        class_names=class_names,
        left_out=copies_and_dead,
        backbone_parts=PARTS[settings.backbone.partition("_")[0]],
    )


RELEASED = {name: _released(name, spec) for name, spec in _inputs().items()}
