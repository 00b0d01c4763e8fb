"""CenterNet: its settings, and how network, loss and decoder are built from them.

Paper: Objects as Points, arXiv 1904.07850.
"""

from dataclasses import dataclass, replace
from typing import Annotated

from torch import nn

from public.decoders.centernet import CenterNetDecoder
from public.families.named_backbone import Options, build_backbone
from public.losses.centernet import BOX_NORMALISERS, SHARED_CELLS, CenterNetLoss
from public.losses.heatmap import RADIUS_RULES
from public.models.backbone import Backbone
from public.models.deformable import DeformableForm
from public.models.detectors.centernet import CenterNetHead, CenterNetModel, CenterNetNeck
from public.models.detectors.one_stage import BatchNormMode
from public.settings import Count, Counts, Name, NonNegative, OneOf, Probability, Within, check


@dataclass(frozen=True, kw_only=True)
class CenterNet:
    """Every number of a CenterNet that decides a result."""

    # network
    backbone: Name
    backbone_options: Options  # keywords of the backbone's family
    backbone_batchnorm: BatchNormMode
    backbone_stride: Count  # of the backbone's map that is enlarged
    neck_channels: Counts  # of each enlargement by two
    deformable: DeformableForm  # of the convolutions before them: "none", or how a deformable one is computed
    head_channels: Count
    num_classes: Count

    # heat map and loss
    radius_overlap: Annotated[float, Within(0, 1, without_low=True, without_high=True)]
    radius_rule: Annotated[str, OneOf(RADIUS_RULES)]
    focal_alpha: NonNegative
    focal_beta: NonNegative
    shared_cell: Annotated[str, OneOf(SHARED_CELLS)]  # which objects of one cell teach their size and offset
    box_normaliser: Annotated[str, OneOf(BOX_NORMALISERS)]
    loss_weight_heatmap: NonNegative
    loss_weight_size: NonNegative
    loss_weight_offset: NonNegative

    # decoder
    score_threshold: Probability
    nms_iou: Probability | None  # None: no NMS, as in the paper
    keep_top_k: Count  # detections an image

    def __post_init__(self) -> None:
        check(self)
        if self.backbone_stride % 2 ** len(self.neck_channels):
            raise ValueError(
                f"CenterNet.backbone_stride is {self.backbone_stride}, which {len(self.neck_channels)} enlargements by two "
                f"(neck_channels) do not divide: leave some out"
            )

    @property
    def stride(self) -> int:
        """Pixels a cell of the heat map."""
        return self.backbone_stride // 2 ** len(self.neck_channels)

    def build_model(self, *, in_chans: int = 3, backbone: Backbone | None = None) -> CenterNetModel:
        """A new network in train mode; its initial values come from torch's global generator.

        Args:
            in_chans: channels of the images, which an experiment leaves at the 3 of its InputSpec.
            backbone: one that has a map of `backbone_stride`, for images of `in_chans` channels, with its own initial
                values; None: the one that these settings name.

        Raises:
            ValueError: a backbone that lacks the stride.
        """
        built = build_backbone(
            self.backbone, self.backbone_options, (self.backbone_stride,), in_chans=in_chans, given=backbone
        )
        neck = CenterNetNeck(
            in_channels=built.out_channels[-1], channels=self.neck_channels, deformable=self.deformable
        )
        head = CenterNetHead(
            in_channels=neck.out_channels,
            channels=self.head_channels,
            num_classes=self.num_classes,
            stride=self.stride,
        )
        return CenterNetModel(
            backbone=built,
            neck=neck,
            head=head,
            num_classes=self.num_classes,
            backbone_batchnorm=self.backbone_batchnorm,
        )

    def build_loss(self) -> CenterNetLoss:
        return CenterNetLoss(
            stride=self.stride,
            num_classes=self.num_classes,
            radius_overlap=self.radius_overlap,
            radius_rule=self.radius_rule,
            focal_alpha=self.focal_alpha,
            focal_beta=self.focal_beta,
            shared_cell=self.shared_cell,
            box_normaliser=self.box_normaliser,
            weights={
                "heatmap": self.loss_weight_heatmap,
                "size": self.loss_weight_size,
                "offset": self.loss_weight_offset,
            },
        )

    def build_decoder(self) -> CenterNetDecoder:
        return CenterNetDecoder(
            stride=self.stride,
            score_threshold=self.score_threshold,
            nms_iou=self.nms_iou,
            keep_top_k=self.keep_top_k,
        )

    def on_epoch(self, model: nn.Module, epoch: int) -> None:
        """Called before each epoch; CenterNet changes nothing in its network."""


MMDET_R18_DCN = CenterNet(  # configs/centernet/centernet_r18-dcnv2_8xb16-crop512-140e_coco.py
    backbone="resnet18",
    backbone_options=(),
    backbone_batchnorm="trained",
    backbone_stride=32,
    neck_channels=(256, 128, 64),
    deformable="gather",
    head_channels=64,
    num_classes=80,
    radius_overlap=0.3,
    radius_rule="solved",
    focal_alpha=2.0,
    focal_beta=4.0,
    shared_cell="last",
    box_normaliser="peaks",
    loss_weight_heatmap=1.0,
    loss_weight_size=0.1,
    loss_weight_offset=1.0,
    score_threshold=0.0,
    nms_iou=None,
    keep_top_k=100,
)
PUBLISHED = {
    # the original's radius and its sum over objects, each of which counts, also where two share a cell
    "centernet": replace(
        MMDET_R18_DCN, radius_overlap=0.7, radius_rule="original", shared_cell="each", box_normaliser="objects"
    ),
    "centernet_r18_dcn_mmdet": MMDET_R18_DCN,
    "centernet_r18_mmdet": replace(MMDET_R18_DCN, deformable="none"),
}
