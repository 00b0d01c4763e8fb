"""RetinaNet: its settings, and how network, loss and decoder are built from them.

Paper: Focal Loss for Dense Object Detection, arXiv 1708.02002.
"""

from dataclasses import dataclass, replace
from typing import Annotated

from torch import nn

from public.anchors import ANCHOR_STEPS, MAX_LOG_SIZE, AnchorCoding
from public.decoders.retinanet import RetinaNetDecoder
from public.families.named_backbone import Options, build_backbone
from public.losses.assigners.max_iou import LOW_QUALITY, MaxIoUAssigner
from public.losses.retinanet import BOX_LOSSES, NORMALISERS, RetinaNetLoss
from public.models.backbone import Backbone
from public.models.detectors.one_stage import BatchNormMode, OneStageDetector
from public.models.detectors.retinanet import RetinaNetHead
from public.models.necks.fpn import EXTRA_FROM, FPN
from public.models.towers import check_groups
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
    Within,
    check,
)

OCTAVE_SCALES = (4.0, 4 * 2 ** (1 / 3), 4 * 2 ** (2 / 3))  # section 4: three sizes an octave, of 4 strides and more


@dataclass(frozen=True, kw_only=True)
class RetinaNet:
    """Every number of a RetinaNet that decides a result."""

    # network
    backbone: Name  # of public.models.backbones.NETWORKS
    backbone_options: Options  # keywords of its family's `build`, such as (("bn_eps", 0.0),)
    backbone_batchnorm: BatchNormMode
    num_classes: Count
    backbone_strides: Annotated[Counts, Different(), Rising()]  # of the backbone's maps that the neck takes
    num_extra_levels: Natural  # coarser ones that the neck adds, each of twice the stride
    extra_from: Annotated[str, OneOf(EXTRA_FROM)]  # what the first of them is made of: C5 or P5
    relu_before_extra: bool  # between P6 and P7
    neck_channels: Count  # of the neck's maps and of the head's towers
    head_convs: Layers  # of each of the two towers
    head_groups: Count | None  # of their GroupNorm; None: a bias and no normalisation

    # anchors
    anchor_scales: Annotated[tuple[Positive, ...], NotEmpty()]  # square roots of their areas, in strides
    anchor_ratios: Annotated[tuple[Positive, ...], NotEmpty()]  # height to width
    anchors_rounded: bool  # to whole pixels: the square roots down, then the corners to the nearest
    anchor_offset: Probability  # place of their centre in its cell: 0 the upper left corner, 0.5 the centre
    anchor_steps: Annotated[
        str, OneOf(ANCHOR_STEPS)
    ]  # from cell to cell: strides, or image by level size, rounded down
    box_std: tuple[
        Positive, Positive, Positive, Positive
    ]  # of the offsets from an anchor in x, y, log width, log height
    min_log_size: (
        Annotated[float, Within(high=0)] | None
    )  # smallest log of a box's side to its anchor's that is decoded; None: any

    # assigner and loss
    positive_iou: Probability  # from here on an anchor learns its best object
    negative_iou: Probability  # below it an anchor is background; between them it learns nothing
    low_quality: Annotated[str, OneOf(LOW_QUALITY)]  # what an object's best anchors learn, below the threshold too
    focal_alpha: Probability
    focal_gamma: NonNegative
    box_loss: Annotated[str, OneOf(BOX_LOSSES)]
    smooth_l1_beta: NonNegative  # where the squared part ends; 0: L1
    normaliser: Annotated[str, OneOf(NORMALISERS)]  # positives of the batch, or of each image
    loss_weight_cls: NonNegative
    loss_weight_box: NonNegative

    # decoder
    drop_empty: bool  # leave boxes out that have no area within the network's image
    score_threshold: Probability
    nms_iou: Probability
    nms_top_k: Count  # candidates a level
    keep_top_k: Count  # detections an image

    def __post_init__(self) -> None:
        check(self)
        if self.head_groups is not None:
            check_groups(
                self.neck_channels,
                self.head_groups,
                channels_field="RetinaNet.neck_channels",
                groups_field="RetinaNet.head_groups",
            )
        if self.negative_iou > self.positive_iou:
            raise ValueError(
                f"RetinaNet.negative_iou is {self.negative_iou}, above positive_iou, {self.positive_iou}; exchange them"
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
        num_in_cell = self._coding().num_in_cell
        head = RetinaNetHead(
            channels=self.neck_channels,
            num_classes=self.num_classes,
            num_in_cell=num_in_cell,
            num_convs=self.head_convs,
            groups=self.head_groups,
        )
        return OneStageDetector(
            backbone=body,
            neck=neck,
            head=head,
            num_classes=self.num_classes,
            class_layers=("head.pred_cls.",),
            rows_per_class=num_in_cell,
            backbone_batchnorm=self.backbone_batchnorm,
        )

    def _coding(self) -> AnchorCoding:
        return AnchorCoding(
            strides=self.strides,
            scales=self.anchor_scales,
            ratios=self.anchor_ratios,
            is_rounded=self.anchors_rounded,
            offset=self.anchor_offset,
            steps=self.anchor_steps,
            std=self.box_std,
            min_log_size=self.min_log_size,
        )

    def build_loss(self) -> RetinaNetLoss:
        return RetinaNetLoss(
            coding=self._coding(),
            num_classes=self.num_classes,
            assigner=MaxIoUAssigner(
                positive_iou=self.positive_iou, negative_iou=self.negative_iou, low_quality=self.low_quality
            ),
            focal_alpha=self.focal_alpha,
            focal_gamma=self.focal_gamma,
            box_loss=self.box_loss,
            smooth_l1_beta=self.smooth_l1_beta,
            normaliser=self.normaliser,
            weights={"cls": self.loss_weight_cls, "box": self.loss_weight_box},
        )

    def build_decoder(self) -> RetinaNetDecoder:
        return RetinaNetDecoder(
            coding=self._coding(),
            drops_empty=self.drop_empty,
            score_threshold=self.score_threshold,
            nms_iou=self.nms_iou,
            nms_top_k=self.nms_top_k,
            keep_top_k=self.keep_top_k,
        )

    def on_epoch(self, model: nn.Module, epoch: int) -> None:
        """Called before each epoch; RetinaNet changes nothing in its network."""


GENERIC = RetinaNet(  # the paper's form, with Detectron2's box loss and its best anchors of each object
    backbone="resnet50",
    backbone_options=(),
    backbone_batchnorm="trained",
    num_classes=80,
    backbone_strides=(8, 16, 32),
    num_extra_levels=2,
    extra_from="backbone",
    relu_before_extra=True,
    neck_channels=256,
    head_convs=4,
    head_groups=None,
    anchor_scales=OCTAVE_SCALES,
    anchor_ratios=(0.5, 1.0, 2.0),
    anchors_rounded=False,
    anchor_offset=0.0,
    anchor_steps="strides",
    box_std=(1.0, 1.0, 1.0, 1.0),
    min_log_size=None,
    positive_iou=0.5,
    negative_iou=0.4,
    low_quality="own_object",
    focal_alpha=0.25,
    focal_gamma=2.0,
    box_loss="smooth_l1",
    smooth_l1_beta=0.1,
    normaliser="batch",
    loss_weight_cls=1.0,
    loss_weight_box=1.0,
    drop_empty=True,
    score_threshold=0.05,
    nms_iou=0.5,
    nms_top_k=1000,
    keep_top_k=100,
)
TORCHVISION = replace(
    GENERIC,
    num_classes=91,  # COCO's category ids; those that are free, and 0, are never a target
    anchors_rounded=True,
    anchor_steps="whole",
    smooth_l1_beta=0.0,
    normaliser="image",
    drop_empty=False,
    keep_top_k=300,
)
PUBLISHED = {
    "retinanet": GENERIC,
    "retinanet_r50_torchvision": replace(  # retinanet_resnet50_fpn
        TORCHVISION,
        backbone_options=(("bn_eps", 0.0),),  # which torchvision sets once the published weights are loaded
        backbone_batchnorm="frozen",
        extra_from="neck",
    ),
    "retinanet_r50_torchvision_v2": replace(TORCHVISION, head_groups=32, box_loss="giou"),  # retinanet_resnet50_fpn_v2
    "retinanet_r50_mmdet": replace(  # retinanet_r50_fpn_1x_coco
        GENERIC,
        backbone_batchnorm="fixed_statistics",
        relu_before_extra=False,
        min_log_size=-MAX_LOG_SIZE,
        low_quality="that_object",
        smooth_l1_beta=0.0,
        normaliser="batch_of_images",
    ),
}
