"""YOLOF: its settings, and how network, loss and decoder are built from them.

Paper: You Only Look One-level Feature, arXiv 2103.09460.
"""

import functools
from dataclasses import dataclass, replace
from typing import Annotated, Any

from torch import nn

from public.anchors import anchors_of_levels, cell_anchors, decode_boxes, nominal_steps
from public.decoders.yolof import YOLOFDecoder
from public.families.named_backbone import Options, build_backbone
from public.losses.assigners.uniform import UniformAssigner
from public.losses.yolof import YOLOFLoss
from public.models.backbone import Backbone
from public.models.detectors.one_stage import BatchNormMode, OneStageDetector
from public.models.detectors.yolof import YOLOFHead
from public.models.layers import Activation
from public.models.necks.dilated_encoder import DilatedEncoder
from public.settings import (
    Count,
    Counts,
    Different,
    LayersOrNone,
    Name,
    NonNegative,
    NotEmpty,
    Positive,
    Probability,
    check,
)

DELTA_STD = (1.0, 1.0, 1.0, 1.0)  # of the coding of boxes: none


@dataclass(frozen=True, kw_only=True)
class YOLOF:
    """Every number of a YOLOF that decides a result."""

    # network
    backbone: Name  # of public.models.backbones
    backbone_options: Options  # keywords of its family
    backbone_batchnorm: BatchNormMode
    stride: Count  # of the one map that is read, 32 or 16
    encoder_channels: Count
    encoder_block_channels: Count  # inside its residual blocks
    encoder_dilations: Counts  # one a block
    num_class_convs: LayersOrNone
    num_box_convs: LayersOrNone
    activation: Activation  # of encoder and head
    num_classes: Count
    anchor_sizes: Annotated[tuple[Positive, ...], NotEmpty(), Different()]  # sides of a cell's square anchors, pixels
    anchor_offset: Probability  # place of an anchor's centre in its cell
    max_shift: Positive  # of a box's centre against its anchor's, pixels

    # assigner and loss
    num_matches: Count  # anchors of an object by their predictions, and as many by themselves
    min_positive_iou: Probability  # matched anchors below it are ignored
    max_negative_iou: Probability  # unmatched predictions above it are ignored
    focal_alpha: Probability
    focal_gamma: NonNegative
    loss_weight_cls: NonNegative
    loss_weight_box: NonNegative
    empty_image_counts: bool  # as one positive anchor, in the normaliser

    # decoder
    score_threshold: Probability
    nms_iou: Probability
    nms_top_k: Count  # candidates an image, of all classes together
    keep_top_k: Count  # detections an image

    def __post_init__(self) -> None:
        check(self)

    def build_model(self, *, in_chans: int = 3, backbone: Backbone | None = None) -> OneStageDetector:
        """A new network in train mode; its initial values come from torch's global generator.

        Args:
            in_chans: channels of the images, which an experiment leaves at the 3 of its InputSpec.
            backbone: one that has a map of `stride`, for images of `in_chans` channels, with its own initial values; None:
                the one that these settings name.

        Raises:
            ValueError: an unknown backbone, a value that it refuses, or one that lacks the stride.
            TypeError: an option that it does not know.
        """
        built = build_backbone(self.backbone, self.backbone_options, (self.stride,), in_chans=in_chans, given=backbone)
        neck = DilatedEncoder(
            in_channels=built.out_channels[0],
            out_channels=self.encoder_channels,
            block_channels=self.encoder_block_channels,
            dilations=self.encoder_dilations,
            activation=self.activation,
        )
        head = YOLOFHead(
            in_channels=self.encoder_channels,
            num_classes=self.num_classes,
            num_anchors=len(self.anchor_sizes),
            num_class_convs=self.num_class_convs,
            num_box_convs=self.num_box_convs,
            activation=self.activation,
        )
        return OneStageDetector(
            backbone=built,
            neck=neck,
            head=head,
            num_classes=self.num_classes,
            class_layers=("head.pred_cls.",),
            rows_per_class=len(self.anchor_sizes),
            backbone_batchnorm=self.backbone_batchnorm,
        )

    def _boxes(self) -> tuple[Any, Any]:
        """How anchors are made, (level_sizes, device=...), and boxes from them, (anchors, deltas): loss and decoder alike."""
        make_anchors = functools.partial(
            anchors_of_levels,
            steps=nominal_steps((self.stride,)),
            cells=(cell_anchors(self.anchor_sizes, (1.0,), is_rounded=False),),
            offset=self.anchor_offset,
        )
        return make_anchors, functools.partial(decode_boxes, std=DELTA_STD, max_shift=self.max_shift)

    def build_loss(self) -> YOLOFLoss:
        make_anchors, decode = self._boxes()
        return YOLOFLoss(
            num_classes=self.num_classes,
            make_anchors=make_anchors,
            decode=decode,
            assigner=UniformAssigner(
                num_matches=self.num_matches,
                min_positive_iou=self.min_positive_iou,
                max_negative_iou=self.max_negative_iou,
            ),
            focal_alpha=self.focal_alpha,
            focal_gamma=self.focal_gamma,
            weights={"cls": self.loss_weight_cls, "box": self.loss_weight_box},
            empty_image_counts=self.empty_image_counts,
        )

    def build_decoder(self) -> YOLOFDecoder:
        make_anchors, decode = self._boxes()
        return YOLOFDecoder(
            make_anchors=make_anchors,
            decode_boxes=decode,
            score_threshold=self.score_threshold,
            nms_iou=self.nms_iou,
            nms_top_k=self.nms_top_k,
            keep_top_k=self.keep_top_k,
        )

    def on_epoch(self, model: nn.Module, epoch: int) -> None:
        """Called before each epoch; YOLOF changes nothing in its network."""


GENERIC = YOLOF(
    backbone="resnet50",
    backbone_options=(),
    backbone_batchnorm="trained",
    stride=32,
    encoder_channels=512,
    encoder_block_channels=128,
    encoder_dilations=(2, 4, 6, 8),
    num_class_convs=2,
    num_box_convs=4,
    activation="relu",
    num_classes=80,
    anchor_sizes=(32.0, 64.0, 128.0, 256.0, 512.0),
    anchor_offset=0.0,
    max_shift=32.0,
    num_matches=4,
    min_positive_iou=0.15,
    max_negative_iou=0.7,
    focal_alpha=0.25,
    focal_gamma=2.0,
    loss_weight_cls=1.0,
    loss_weight_box=1.0,
    empty_image_counts=False,
    score_threshold=0.05,
    nms_iou=0.6,
    nms_top_k=1000,
    keep_top_k=100,
)

PUBLISHED = {
    "yolof": GENERIC,  # the paper's, for any backbone; there, as in its released weights, BatchNorm is frozen
    # MMDetection's yolof_r50-c5_8xb8-1x_coco
    "yolof_r50_mmdet": replace(
        GENERIC, backbone_options=(("style", "caffe"),), backbone_batchnorm="frozen", empty_image_counts=True
    ),
}
