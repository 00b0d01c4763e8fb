"""PicoDet of 2021: its settings, and how network, loss and decoder are built from them.

Paper: PP-PicoDet: A Better Real-Time Object Detector on Mobile Devices, arXiv 2111.00902.
"""

from dataclasses import dataclass, replace
from typing import Annotated

from torch import nn

from public.decoders.picodet import PicoDetDecoder
from public.families.named_backbone import Options
from public.families.picodet import STRIDES, build_picodet, build_picodet_decoder
from public.losses.assigners.sim_ota_quality import QualitySimOTAAssigner
from public.losses.picodet_legacy import PicoDetLegacyLoss
from public.models.backbone import Backbone
from public.models.detectors.one_stage import BatchNormMode
from public.models.detectors.picodet import PicoDetModel
from public.models.layers import Activation
from public.models.necks.lc_pan import NECKS
from public.settings import Count, Counts, Layers, Name, NonNegative, OneOf, Positive, Probability, Rising, check


@dataclass(frozen=True, kw_only=True)
class PicoDetLegacy:
    """Every number of a PicoDet of 2021 that decides a result."""

    # network: as those of PicoDet
    backbone: Name
    backbone_options: Options
    backbone_batchnorm: BatchNormMode
    neck: Annotated[str, OneOf(NECKS)]
    neck_blocks: Layers
    channels: Count
    head_convs: Layers
    activation: Activation
    num_classes: Count
    strides: Annotated[Counts, Rising()]
    reg_max: Count

    # assigner and loss
    grid_cell_offset: Probability  # place of a point in its cell
    simota_centre_radius: Positive  # half the side of the square around an object's centre, in strides
    simota_top_k: Count
    simota_iou_weight: NonNegative  # of the GIoU in the cost
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
        """A new network in train mode; see `PicoDet.build_model`."""
        return build_picodet(self, in_chans=in_chans, backbone=backbone, is_aligned=False)

    def build_loss(self) -> PicoDetLegacyLoss:
        varifocal = {"varifocal_alpha": self.varifocal_alpha, "varifocal_gamma": self.varifocal_gamma}
        assigner = QualitySimOTAAssigner(
            centre_radius=self.simota_centre_radius,
            top_k=self.simota_top_k,
            iou_weight=self.simota_iou_weight,
            **varifocal,
        )
        return PicoDetLegacyLoss(
            strides=self.strides,
            num_classes=self.num_classes,
            reg_max=self.reg_max,
            grid_cell_offset=self.grid_cell_offset,
            assigner=assigner,
            weights={"cls": self.loss_weight_cls, "iou": self.loss_weight_iou, "dfl": self.loss_weight_dfl},
            **varifocal,
        )

    def build_decoder(self) -> PicoDetDecoder:
        return build_picodet_decoder(self)

    def on_epoch(self, model: nn.Module, epoch: int) -> None:
        """Called before each epoch; PicoDet changes nothing in its network."""


def esnet_coco(*, backbone: str, channels: int, head_convs: int) -> PicoDetLegacy:
    """PaddleDetection's legacy picodet_*_coco, which differ in backbone, width and head convolutions only."""
    return PicoDetLegacy(
        backbone=backbone,
        backbone_options=(),
        backbone_batchnorm="trained",
        neck="csp_pan",
        neck_blocks=1,
        channels=channels,
        head_convs=head_convs,
        activation="hardswish",
        num_classes=80,
        strides=STRIDES,
        reg_max=7,
        grid_cell_offset=0.5,
        simota_centre_radius=2.5,
        simota_top_k=10,
        simota_iou_weight=6.0,
        varifocal_alpha=0.75,
        varifocal_gamma=2.0,
        loss_weight_cls=1.0,
        loss_weight_iou=2.0,
        loss_weight_dfl=0.25,
        score_threshold=0.025,
        nms_iou=0.6,
        nms_top_k=1000,
        keep_top_k=100,
    )


_SIZES = {
    "s": esnet_coco(backbone="esnet_075", channels=96, head_convs=2),
    "m": esnet_coco(backbone="esnet_100", channels=128, head_convs=4),
    "l": esnet_coco(backbone="esnet_125", channels=160, head_convs=4),
}
IMAGE_SIDES = {"s": (320, 416), "m": (320, 416), "l": (320, 416, 640)}

PUBLISHED = {
    **{f"picodet_{size}_esnet": settings for size, settings in _SIZES.items()},
    **{f"picodet_{size}_{side}_esnet": _SIZES[size] for size, sides in IMAGE_SIDES.items() for side in sides},
    "picodet_s_192_esnet_pedestrian": replace(_SIZES["s"], num_classes=1),
    "picodet_s_320_esnet_pedestrian": replace(_SIZES["s"], num_classes=1),
    # PP-ShiTu's: what is in front, of any class; on the widest LCNet
    "picodet_640_mainbody": replace(_SIZES["m"], backbone="lcnet_250", num_classes=1),
}
