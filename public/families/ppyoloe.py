"""PPYOLOE: its settings, and how network, loss and decoder are built from them.

Paper: PP-YOLOE: An evolved version of YOLO, arXiv 2203.16250.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Any

from torch import nn

from public.decoders.ppyoloe import PPYOLOEDecoder
from public.losses.assigners.atss import ATSSAssigner
from public.losses.assigners.task_aligned import TaskAlignedAssigner
from public.losses.ppyoloe import PPYOLOELoss
from public.models.backbone import Backbone
from public.models.backbones.cspresnet import BLOCKS, CHANNELS, CSPResNet, scaled
from public.models.detectors.ppyoloe import PPYOLOEHead, PPYOLOEModel
from public.models.layers import Activation
from public.models.necks.csp_pan import CSPPAN
from public.settings import (
    Count,
    Counts,
    DepthFactor,
    Different,
    GoesWithEpochs,
    Layers,
    Natural,
    NonNegative,
    Positive,
    Probability,
    check,
)


@dataclass(frozen=True, kw_only=True)
class PPYOLOE:
    """Every number of a PPYOLOE that decides a result."""

    # network
    depth: DepthFactor  # factor of the block counts
    width: Positive  # factor of the channel counts
    use_alpha: bool  # a learnt factor on the 1x1 branches of the backbone: PPYOLOE+
    activation: Activation
    backbone_channels: tuple[Count, Count, Count, Count, Count]  # of the stem and the four stages at width 1
    backbone_blocks: tuple[Layers, Layers, Layers, Layers]  # of the four stages at depth 1
    neck_channels: tuple[Count, Count, Count]  # of the strides 32, 16, 8 at width 1
    neck_blocks: Layers  # at depth 1
    num_classes: Count
    strides: Annotated[Counts, Different()]  # in the order of the outputs
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

    def build_model(self, *, in_chans: int = 3, backbone: Backbone | None = None) -> PPYOLOEModel:
        """A new network in train mode; its initial values come from torch's global generator.

        Args:
            in_chans: channels of the images, which an experiment leaves at the 3 of its InputSpec.
            backbone: one that has maps of `strides`, for images of `in_chans` channels, with its own initial values; None:
                the CSPResNet of these settings.

        Raises:
            ValueError: a backbone that lacks one of the strides.
        """
        return PPYOLOEModel(**self._parts(in_chans, attention="conv", backbone=backbone))

    def _parts(self, in_chans: int, *, attention: str, backbone: Backbone | None) -> dict[str, Any]:
        """What a PPYOLOEModel is made of; `attention` is the convolution of the head's attention."""
        initialise_backbone = backbone is None
        if backbone is None:
            backbone = CSPResNet(
                in_chans=in_chans,
                channels=tuple(scaled(count, self.width) for count in self.backbone_channels),
                num_blocks=tuple(scaled(count, self.depth) for count in self.backbone_blocks),
                use_alpha=self.use_alpha,
                activation=self.activation,
            )
        backbone.select(self.strides)
        neck = CSPPAN(
            in_channels=backbone.out_channels,
            out_channels=tuple(scaled(count, self.width) for count in self.neck_channels),
            num_blocks=scaled(self.neck_blocks, self.depth),
            activation=self.activation,
        )
        head = PPYOLOEHead(
            in_channels=neck.out_channels,
            num_classes=self.num_classes,
            reg_max=self.reg_max,
            activation=self.activation,
            attention=attention,
        )
        return {
            "backbone": backbone,
            "neck": neck,
            "head": head,
            "strides": self.strides,
            "num_classes": self.num_classes,
            "initialise_backbone": initialise_backbone,
        }

    def build_loss(self) -> PPYOLOELoss:
        return PPYOLOELoss(**self._loss_settings(centre_radius=None))

    def _loss_settings(self, *, centre_radius: float | None) -> dict[str, Any]:
        """The arguments of a PPYOLOELoss; for `centre_radius` see TaskAlignedAssigner."""
        assigner = TaskAlignedAssigner(
            top_k=self.tal_top_k, alpha=self.tal_alpha, beta=self.tal_beta, centre_radius=centre_radius
        )
        return {
            "strides": self.strides,
            "num_classes": self.num_classes,
            "reg_max": self.reg_max,
            "grid_cell_scale": self.grid_cell_scale,
            "grid_cell_offset": self.grid_cell_offset,
            "static_assigner_epochs": self.static_assigner_epochs,
            "static_assigner": ATSSAssigner(top_k=self.atss_top_k),
            "assigner": assigner,
            "weights": {"cls": self.loss_weight_cls, "iou": self.loss_weight_iou, "dfl": self.loss_weight_dfl},
            "varifocal_alpha": self.varifocal_alpha,
            "varifocal_gamma": self.varifocal_gamma,
        }

    def build_decoder(self) -> PPYOLOEDecoder:
        return PPYOLOEDecoder(
            strides=self.strides,
            grid_cell_offset=self.grid_cell_offset,
            score_threshold=self.score_threshold,
            nms_iou=self.nms_iou,
            nms_top_k=self.nms_top_k,
            keep_top_k=self.keep_top_k,
        )

    def on_epoch(self, model: nn.Module, epoch: int) -> None:
        """Called before each epoch; PPYOLOE changes nothing in its network."""


def crn_coco(*, depth: float, width: float) -> PPYOLOE:
    """PaddleDetection's ppyoloe_crn_*_300e_coco, which differ in depth and width only."""
    return PPYOLOE(
        depth=depth,
        width=width,
        use_alpha=False,
        activation="silu",
        backbone_channels=CHANNELS,
        backbone_blocks=BLOCKS,
        neck_channels=(768, 384, 192),
        neck_blocks=3,
        num_classes=80,
        strides=(32, 16, 8),
        reg_max=16,
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
        score_threshold=0.01,
        nms_iou=0.7,
        nms_top_k=1000,
        keep_top_k=300,
    )


def crn_plus_coco(*, depth: float, width: float) -> PPYOLOE:
    """PaddleDetection's ppyoloe_plus_crn_*_80e_coco: a learnt alpha, and an earlier change of the assigner."""
    return replace(crn_coco(depth=depth, width=width), use_alpha=True, static_assigner_epochs=30)


PUBLISHED = {
    "ppyoloe_xs": crn_coco(depth=0.16, width=0.25),  # a size of miemiedetection's; no published weights
    "ppyoloe_s": crn_coco(depth=0.33, width=0.50),
    "ppyoloe_m": crn_coco(depth=0.67, width=0.75),
    "ppyoloe_l": crn_coco(depth=1.00, width=1.00),
    "ppyoloe_x": crn_coco(depth=1.33, width=1.25),
    "ppyoloe_plus_s": crn_plus_coco(depth=0.33, width=0.50),
    "ppyoloe_plus_m": crn_plus_coco(depth=0.67, width=0.75),
    "ppyoloe_plus_l": crn_plus_coco(depth=1.00, width=1.00),
    "ppyoloe_plus_x": crn_plus_coco(depth=1.33, width=1.25),
}
