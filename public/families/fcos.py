"""FCOS: its settings, and how network, loss and decoder are built from them.

Papers: FCOS, arXiv 1904.01355; FCOS: A Simple and Strong Anchor-free Object Detector, arXiv 2006.09214.
"""

from dataclasses import dataclass, replace
from typing import Annotated

from torch import nn

from public.decoders.fcos import CANDIDATES_BY, SCORES, FCOSDecoder
from public.families.named_backbone import Options, build_backbone
from public.losses.assigners.size_ranges import RANGE_ENDS, SizeRangeAssigner
from public.losses.fcos import BOX_LOSSES, BOX_NORMALISERS, FCOSLoss
from public.models.backbone import Backbone
from public.models.detectors.fcos import CENTRENESS_BRANCHES, FCOSHead
from public.models.detectors.one_stage import BatchNormMode, OneStageDetector
from public.models.necks.fpn import EXTRA_FROM, FPN
from public.models.towers import check_groups
from public.points import POINT_STEPS, RAW_DISTANCES, PointCoding
from public.settings import (
    Count,
    Counts,
    Different,
    Layers,
    Name,
    Natural,
    NonNegative,
    NotEmpty,
    OneOf,
    Positive,
    Probability,
    Rising,
    check,
)


@dataclass(frozen=True, kw_only=True)
class FCOS:
    """Every number of an FCOS that decides a result."""

    # network
    backbone: Name  # of public.models.backbones.NETWORKS
    backbone_options: Options  # keywords of its family's `build`, such as (("style", "caffe"),)
    backbone_batchnorm: BatchNormMode
    num_classes: Count
    backbone_strides: Annotated[Counts, Different(), Rising()]  # of the backbone's maps that the neck takes
    num_extra_levels: Natural  # coarser ones that the neck adds, each of twice the stride
    extra_from: Annotated[str, OneOf(EXTRA_FROM)]  # what the first of them is made of: C5 or P5
    relu_before_extra: bool  # between P6 and P7
    neck_channels: Count  # of the neck's maps and of the head's towers
    head_convs: Layers  # of each of the two towers
    head_groups: Count  # of their GroupNorm
    head_conv_bias: bool  # whether the towers' convolutions have one, although GroupNorm follows
    use_scales: bool  # a learnt factor of the distances of each level
    centreness_on: Annotated[str, OneOf(CENTRENESS_BRANCHES)]  # the branch that predicts it

    # points
    point_offset: Probability  # place of a point in its cell: 0 the upper left corner, 0.5 the centre
    point_steps: Annotated[
        str, OneOf(POINT_STEPS)
    ]  # from point to point: strides, or image by level size, rounded down
    raw_distances: Annotated[str, OneOf(RAW_DISTANCES)]  # what the network predicts: logarithms of pixels, or strides

    # assigner and loss
    range_limits: Annotated[
        tuple[Positive, ...], NotEmpty(), Rising()
    ]  # of the farthest side, in pixels, between levels
    range_ends: Annotated[str, OneOf(RANGE_ENDS)]  # whether a side of exactly a limit is of neither level or of both
    centre_radius: Positive | None  # of centre sampling, in strides; None: anywhere inside the object
    area_rounding: (
        Positive | None
    )  # square pixels by which areas are rounded before they are compared; None: not at all
    focal_alpha: Probability
    focal_gamma: NonNegative
    box_loss: Annotated[str, OneOf(BOX_LOSSES)]
    box_weighted_by_centreness: bool
    box_normaliser: Annotated[str, OneOf(BOX_NORMALISERS)]
    loss_weight_cls: NonNegative
    loss_weight_box: NonNegative
    loss_weight_centreness: NonNegative

    # decoder
    score: Annotated[str, OneOf(SCORES)]  # class probability times centre-ness, or the square root of it
    candidates_by: Annotated[str, OneOf(CANDIDATES_BY)]  # what threshold and nms_top_k look at: score, or class alone
    drop_empty: bool  # leave boxes out that have no area within the network's image
    score_threshold: Probability
    nms_iou: Probability
    nms_top_k: Count  # candidates a level
    keep_top_k: Count  # detections an image

    def __post_init__(self) -> None:
        check(self)
        check_groups(
            self.neck_channels, self.head_groups, channels_field="FCOS.neck_channels", groups_field="FCOS.head_groups"
        )
        if len(self.range_limits) != len(self.strides) - 1:
            raise ValueError(
                f"FCOS.range_limits are {self.range_limits}, for {len(self.range_limits) + 1} levels, but backbone_strides "
                f"and num_extra_levels make {len(self.strides)}, of strides {self.strides}; give one limit fewer than levels"
            )

    @property
    def strides(self) -> tuple[int, ...]:
        """Of all levels, in the order of the outputs."""
        last = self.backbone_strides[-1]
        return (*self.backbone_strides, *(last * 2**level for level in range(1, self.num_extra_levels + 1)))

    def build_model(self, *, in_chans: int = 3, backbone: Backbone | None = None) -> OneStageDetector:
        """A new network in train mode; its initial values come from torch's global generator.

        Args:
            in_chans: channels of the images, which an experiment leaves at the 3 of its InputSpec.
            backbone: one that has maps of `backbone_strides`, for images of `in_chans` channels, with its own initial
                values; None: that of these settings.

        Raises:
            ValueError: a backbone that lacks one of the strides, or an unknown one.
        """
        body = build_backbone(
            self.backbone, self.backbone_options, self.backbone_strides, in_chans=in_chans, given=backbone
        )
        neck = FPN(
            in_channels=body.out_channels,
            out_channels=self.neck_channels,
            num_extra=self.num_extra_levels,
            extra_from=self.extra_from,
            relu_before_extra=self.relu_before_extra,
        )
        head = FCOSHead(
            channels=self.neck_channels,
            num_classes=self.num_classes,
            num_convs=self.head_convs,
            groups=self.head_groups,
            use_bias=self.head_conv_bias,
            num_levels=len(self.strides),
            use_scales=self.use_scales,
            centreness_on=self.centreness_on,
        )
        return OneStageDetector(
            backbone=body,
            neck=neck,
            head=head,
            num_classes=self.num_classes,
            class_layers=("head.pred_cls.",),
            rows_per_class=1,
            backbone_batchnorm=self.backbone_batchnorm,
        )

    def _coding(self) -> PointCoding:
        return PointCoding(
            strides=self.strides, offset=self.point_offset, steps=self.point_steps, raw=self.raw_distances
        )

    def build_loss(self) -> FCOSLoss:
        return FCOSLoss(
            coding=self._coding(),
            num_classes=self.num_classes,
            assigner=SizeRangeAssigner(
                limits=self.range_limits,
                ends=self.range_ends,
                centre_radius=self.centre_radius,
                area_rounding=self.area_rounding,
            ),
            focal_alpha=self.focal_alpha,
            focal_gamma=self.focal_gamma,
            box_loss=self.box_loss,
            is_weighted_by_centreness=self.box_weighted_by_centreness,
            box_normaliser=self.box_normaliser,
            weights={
                "cls": self.loss_weight_cls,
                "box": self.loss_weight_box,
                "centreness": self.loss_weight_centreness,
            },
        )

    def build_decoder(self) -> FCOSDecoder:
        return FCOSDecoder(
            coding=self._coding(),
            score=self.score,
            candidates_by=self.candidates_by,
            drops_empty=self.drop_empty,
            score_threshold=self.score_threshold,
            nms_iou=self.nms_iou,
            nms_top_k=self.nms_top_k,
            keep_top_k=self.keep_top_k,
        )

    def on_epoch(self, model: nn.Module, epoch: int) -> None:
        """Called before each epoch; FCOS changes nothing in its network."""


IMPROVED = FCOS(  # the form of arXiv 2006.09214
    backbone="resnet50",
    backbone_options=(),
    backbone_batchnorm="trained",
    num_classes=80,
    backbone_strides=(8, 16, 32),
    num_extra_levels=2,
    extra_from="neck",
    relu_before_extra=True,
    neck_channels=256,
    head_convs=4,
    head_groups=32,
    head_conv_bias=True,
    use_scales=True,
    centreness_on="box",
    point_offset=0.5,
    point_steps="strides",
    raw_distances="relu_strides",
    range_limits=(64.0, 128.0, 256.0, 512.0),
    range_ends="closed",
    centre_radius=1.5,
    area_rounding=None,
    focal_alpha=0.25,
    focal_gamma=2.0,
    box_loss="giou",
    box_weighted_by_centreness=True,
    box_normaliser="centreness",
    loss_weight_cls=1.0,
    loss_weight_box=1.0,
    loss_weight_centreness=1.0,
    score="sqrt",
    candidates_by="score",
    drop_empty=True,
    score_threshold=0.05,
    nms_iou=0.6,
    nms_top_k=1000,
    keep_top_k=100,
)
PUBLISHED = {
    "fcos": IMPROVED,
    "fcos_r50_torchvision": replace(  # fcos_resnet50_fpn
        IMPROVED,
        backbone_batchnorm="frozen",
        num_classes=91,  # COCO's category ids; those that are free, and 0, are never a target
        use_scales=False,
        point_offset=0.0,
        point_steps="whole",
        range_ends="open",
        area_rounding=8.0,  # torchvision compares 1e8 - area in float32, whose numbers lie 8 apart there
        box_weighted_by_centreness=False,
        box_normaliser="positives",
        drop_empty=False,
        score_threshold=0.2,
    ),
    "fcos_r50_mmdet": replace(  # fcos_r50-caffe_fpn_gn-head_1x_coco
        IMPROVED,
        backbone_options=(("style", "caffe"),),
        backbone_batchnorm="frozen",
        head_conv_bias=False,
        centreness_on="class",
        raw_distances="exp_pixels",
        centre_radius=None,
        box_loss="iou_log",
        score="product",
        candidates_by="class",
        nms_iou=0.5,
    ),
}
