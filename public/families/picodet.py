"""PicoDet of 2022: its settings, and how network, loss and decoder are built from them.

Paper: PP-PicoDet: A Better Real-Time Object Detector on Mobile Devices, arXiv 2111.00902.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from torch import nn

from public.decoders.picodet import PicoDetDecoder
from public.families.named_backbone import Options, build_backbone
from public.losses.assigners.atss import ATSSAssigner
from public.losses.assigners.task_aligned import TaskAlignedAssigner
from public.losses.picodet import PicoDetLoss
from public.models.backbone import Backbone
from public.models.detectors.one_stage import BatchNormMode
from public.models.detectors.picodet import PicoDetHead, PicoDetModel
from public.models.layers import Activation
from public.models.necks.lc_pan import NECKS, LightPAN
from public.settings import (
    Count,
    Counts,
    GoesWithEpochs,
    Layers,
    Name,
    Natural,
    NonNegative,
    OneOf,
    Positive,
    Probability,
    Rising,
    check,
)

STRIDES = (8, 16, 32, 64)  # of all published models


@dataclass(frozen=True, kw_only=True)
class PicoDet:
    """Every number of a PicoDet that decides a result."""

    # network
    backbone: Name  # a name of `public.models.backbones.NETWORKS`
    backbone_options: Options  # further keywords of its family's `build`
    backbone_batchnorm: BatchNormMode
    neck: Annotated[
        str, OneOf(NECKS)
    ]  # what mixes two levels: separable convolutions (lc_pan) or a CSP stage (csp_pan)
    neck_blocks: Layers  # of each mixer
    channels: Count  # of the neck's levels and of the head
    head_convs: Layers  # depthwise separable convolutions before each level's predictions
    activation: Activation  # of neck and head
    num_classes: Count
    strides: Annotated[Counts, Rising()]  # the last level is made by the neck, the others by the backbone
    reg_max: Count  # largest distance from a point to a side, in strides

    # assigners and loss
    grid_cell_scale: Positive  # side of the static assigner's cells, in strides
    grid_cell_offset: Probability  # place of a point in its cell
    static_assigner_epochs: Annotated[
        Natural, GoesWithEpochs()
    ]  # epochs of ATSS before the task-aligned assigner takes over
    atss_top_k: Count  # candidates a level
    tal_top_k: Count
    tal_alpha: NonNegative
    tal_beta: NonNegative
    varifocal_alpha: NonNegative
    varifocal_gamma: NonNegative
    loss_weight_cls: NonNegative
    loss_weight_iou: NonNegative
    loss_weight_dfl: NonNegative

    # decoder
    score_threshold: Probability
    nms_iou: Probability
    nms_top_k: Count  # candidates a class
    keep_top_k: Count  # detections an image

    def __post_init__(self) -> None:
        check(self)

    def build_model(self, *, in_chans: int = 3, backbone: Backbone | None = None) -> PicoDetModel:
        """A new network in train mode; its initial values come from torch's global generator.

        Args:
            in_chans: channels of the images, which an experiment leaves at the 3 of its InputSpec.
            backbone: one that has maps of all `strides` but the last, with its own initial values; None: that of these
                settings.

        Raises:
            ValueError: a backbone that lacks one of the strides.
        """
        return build_picodet(self, in_chans=in_chans, backbone=backbone, is_aligned=True)

    def build_loss(self) -> PicoDetLoss:
        return PicoDetLoss(
            strides=self.strides,
            num_classes=self.num_classes,
            reg_max=self.reg_max,
            grid_cell_scale=self.grid_cell_scale,
            grid_cell_offset=self.grid_cell_offset,
            static_assigner_epochs=self.static_assigner_epochs,
            static_assigner=ATSSAssigner(top_k=self.atss_top_k),
            assigner=TaskAlignedAssigner(
                top_k=self.tal_top_k, alpha=self.tal_alpha, beta=self.tal_beta, centre_radius=None
            ),
            weights={"cls": self.loss_weight_cls, "iou": self.loss_weight_iou, "dfl": self.loss_weight_dfl},
            varifocal_alpha=self.varifocal_alpha,
            varifocal_gamma=self.varifocal_gamma,
        )

    def build_decoder(self) -> PicoDetDecoder:
        return build_picodet_decoder(self)

    def on_epoch(self, model: nn.Module, epoch: int) -> None:
        """Called before each epoch; PicoDet changes nothing in its network."""


def build_picodet(settings, *, in_chans: int, backbone: Backbone | None, is_aligned: bool) -> PicoDetModel:
    """The network of `settings`, a PicoDet or a PicoDetLegacy; `is_aligned`: see PicoDetHead."""
    body = build_backbone(
        settings.backbone,
        settings.backbone_options,
        backbone_strides(settings.strides),
        in_chans=in_chans,
        given=backbone,
    )
    neck = LightPAN(
        kind=settings.neck,
        in_channels=body.out_channels,
        channels=settings.channels,
        num_blocks=settings.neck_blocks,
        activation=settings.activation,
    )
    head = PicoDetHead(
        channels=settings.channels,
        num_levels=len(settings.strides),
        num_convs=settings.head_convs,
        num_classes=settings.num_classes,
        reg_max=settings.reg_max,
        activation=settings.activation,
        is_aligned=is_aligned,
    )
    return PicoDetModel(
        backbone=body,
        neck=neck,
        head=head,
        num_classes=settings.num_classes,
        backbone_batchnorm=settings.backbone_batchnorm,
    )


def backbone_strides(strides: Sequence[int]) -> tuple[int, ...]:
    """Those of `strides` that come from the backbone; the last is made by the neck.

    Raises:
        ValueError: fewer than two, or one that is not twice the one before, as the neck makes them.
    """
    expected = [strides[0] * 2**level for level in range(len(strides))]
    if len(strides) < 2 or list(strides) != expected:
        raise ValueError(
            f"strides are {tuple(strides)}; write at least two, each twice the one before, such as {STRIDES}"
        )
    return tuple(strides[:-1])


def build_picodet_decoder(settings) -> PicoDetDecoder:
    """The decoder of `settings`, a PicoDet or a PicoDetLegacy."""
    return PicoDetDecoder(
        strides=settings.strides,
        grid_cell_offset=settings.grid_cell_offset,
        score_threshold=settings.score_threshold,
        nms_iou=settings.nms_iou,
        nms_top_k=settings.nms_top_k,
        keep_top_k=settings.keep_top_k,
    )


def lcnet_coco(*, backbone: str, channels: int, head_convs: int) -> PicoDet:
    """PaddleDetection's picodet_*_coco_lcnet, which differ in backbone, width and head convolutions only."""
    return PicoDet(
        backbone=backbone,
        backbone_options=(),
        backbone_batchnorm="trained",
        neck="lc_pan",
        neck_blocks=1,
        channels=channels,
        head_convs=head_convs,
        activation="hardswish",
        num_classes=80,
        strides=STRIDES,
        reg_max=7,
        grid_cell_scale=5.0,
        grid_cell_offset=0.5,
        static_assigner_epochs=100,
        atss_top_k=9,
        tal_top_k=13,
        tal_alpha=1.0,
        tal_beta=6.0,
        varifocal_alpha=0.75,
        varifocal_gamma=2.0,
        loss_weight_cls=1.0,
        loss_weight_iou=2.5,
        loss_weight_dfl=0.5,
        score_threshold=0.025,
        nms_iou=0.6,
        nms_top_k=1000,
        keep_top_k=100,
    )


_SIZES = {
    "xs": lcnet_coco(backbone="lcnet_035", channels=96, head_convs=2),
    "s": lcnet_coco(backbone="lcnet_075", channels=96, head_convs=2),
    "m": lcnet_coco(backbone="lcnet_150", channels=128, head_convs=4),
    "l": lcnet_coco(backbone="lcnet_200", channels=160, head_convs=4),
}
# Whose released weights differ by the size of their images has a name for each size, for the same network.
IMAGE_SIDES = {"xs": (320, 416), "s": (320, 416), "m": (320, 416), "l": (320, 416, 640)}
_NPU = replace(
    _SIZES["s"],
    backbone_options=(("activation", "relu6"),),
    neck="csp_pan",
    head_convs=4,
    activation="relu6",
)

PUBLISHED = {
    **{f"picodet_{size}": settings for size, settings in _SIZES.items()},
    **{f"picodet_{size}_{side}": _SIZES[size] for size, sides in IMAGE_SIDES.items() for side in sides},
    "picodet_s_416_npu": _NPU,
    "picodet_s_192_pedestrian": replace(_SIZES["s"], num_classes=1, atss_top_k=4),
    "picodet_s_320_pedestrian": replace(_SIZES["s"], num_classes=1),
}
