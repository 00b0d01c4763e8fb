"""YOLOX: its settings, and how network, loss and decoder are built from them.

Paper: YOLOX: Exceeding YOLO Series in 2021, arXiv 2107.08430.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from torch import nn

from public.decoders.yolox import YOLOXDecoder
from public.families.named_backbone import Options, build_backbone
from public.losses.assigners.sim_ota import SimOTAAssigner
from public.losses.yolox import YOLOXLoss
from public.models.backbone import Backbone
from public.models.detectors.yolox import YOLOXHead, YOLOXModel
from public.models.layers import Activation
from public.models.necks.pafpn import PAFPN
from public.models.necks.yolo_fpn import YOLOFPN
from public.settings import (
    Count,
    Counts,
    Different,
    GoesWithEpochs,
    LayersOrNone,
    Name,
    Natural,
    NonNegative,
    Positive,
    Probability,
    Rising,
    SettingError,
    check,
)


@dataclass(frozen=True, kw_only=True)
class YOLOX:
    """Every number of a YOLOX that decides a result."""

    # network
    backbone: Name  # a name of `public.models.backbones.NETWORKS`
    backbone_options: Options  # keywords of its family's `build`; the activation and BatchNorm of the rest stand below
    neck: Literal["pafpn", "yolo_fpn"]
    neck_blocks: LayersOrNone  # bottlenecks in each CSP layer of pafpn; 0 for yolo_fpn, which has none
    head_channels: Count
    use_depthwise: bool  # neck and head: 3x3 convolutions become a depthwise and a 1x1 one
    activation: Activation  # of neck and head
    bn_eps: Positive
    bn_momentum: Positive
    num_classes: Count
    strides: Annotated[Counts, Different(), Rising()]  # of the backbone's maps, in the order of the outputs

    # assigner and loss
    centre_radius: Positive  # half the side of the square around an object's centre that its points lie in, in strides
    ota_top_k: Count  # predictions of an object whose IoUs are summed, and the most points it gets
    ota_iou_weight: NonNegative  # of -log IoU in the cost of a point, beside the class cost
    l1_from_epoch: Annotated[Natural, GoesWithEpochs()]  # from then on the box codes are trained by L1 as well
    loss_weight_iou: NonNegative
    loss_weight_obj: NonNegative
    loss_weight_cls: NonNegative
    loss_weight_l1: NonNegative

    # decoder
    one_class_a_box: bool  # a box is a candidate for its best class only
    clip_to_picture: bool  # boxes are cut off at the borders of the original picture
    score_threshold: Probability
    nms_iou: Probability
    nms_top_k: Count | None  # candidates a class; None: all
    keep_top_k: Count | None  # detections an image; None: all

    def __post_init__(self) -> None:
        check(self)
        if (self.neck == "pafpn") != (self.neck_blocks > 0):
            raise SettingError(
                f"YOLOX.neck_blocks is {self.neck_blocks} with neck {self.neck!r}; it must be at least 1 with pafpn and 0 "
                "with yolo_fpn, which has no CSP layers"
            )

    def build_model(self, *, in_chans: int = 3, backbone: Backbone | None = None) -> YOLOXModel:
        """A new network in train mode; its initial values come from torch's global generator.

        Args:
            in_chans: channels of the images, which an experiment leaves at the 3 of its InputSpec.
            backbone: one that has maps of `strides`, for images of `in_chans` channels, with its own initial values; None:
                the one that these settings name, with torch's initial values of a convolution, as all of YOLOX has them.

        Raises:
            ValueError: an unknown backbone, a value that its family refuses, or a stride that it has not.
            TypeError: an option that the backbone's family does not know.
        """
        is_own = backbone is None
        backbone = build_backbone(self.backbone, self.backbone_options, self.strides, in_chans=in_chans, given=backbone)
        if is_own:
            for module in backbone.modules():
                if isinstance(module, nn.Conv2d):
                    module.reset_parameters()
        options: dict[str, Any] = {
            "activation": self.activation,
            "bn_eps": self.bn_eps,
            "bn_momentum": self.bn_momentum,
        }
        neck: PAFPN | YOLOFPN
        if self.neck == "pafpn":
            neck = PAFPN(
                in_channels=backbone.out_channels,
                num_blocks=self.neck_blocks,
                use_depthwise=self.use_depthwise,
                **options,
            )
        else:
            neck = YOLOFPN(in_channels=backbone.out_channels, **options)
        head = YOLOXHead(
            in_channels=neck.out_channels,
            channels=self.head_channels,
            num_classes=self.num_classes,
            use_depthwise=self.use_depthwise,
            **options,
        )
        return YOLOXModel(backbone=backbone, neck=neck, head=head, strides=self.strides, num_classes=self.num_classes)

    def build_loss(self) -> YOLOXLoss:
        return YOLOXLoss(
            strides=self.strides,
            num_classes=self.num_classes,
            assigner=SimOTAAssigner(
                centre_radius=self.centre_radius, top_k=self.ota_top_k, iou_weight=self.ota_iou_weight
            ),
            weights={
                "iou": self.loss_weight_iou,
                "obj": self.loss_weight_obj,
                "cls": self.loss_weight_cls,
                "l1": self.loss_weight_l1,
            },
            l1_from_epoch=self.l1_from_epoch,
        )

    def build_decoder(self) -> YOLOXDecoder:
        return YOLOXDecoder(
            strides=self.strides,
            one_class_a_box=self.one_class_a_box,
            clips_to_picture=self.clip_to_picture,
            score_threshold=self.score_threshold,
            nms_iou=self.nms_iou,
            nms_top_k=self.nms_top_k,
            keep_top_k=self.keep_top_k,
        )

    def on_epoch(self, model: nn.Module, epoch: int) -> None:
        """Called before each epoch; YOLOX changes nothing in its network."""


def coco(
    *,
    backbone: str,
    head_channels: int,
    neck: Literal["pafpn", "yolo_fpn"] = "pafpn",
    neck_blocks: int,
    use_depthwise: bool = False,
    activation: str = "silu",
) -> YOLOX:
    """Megvii's yolox_* on COCO, which differ in the network only; the score threshold is that of its README's commands."""
    return YOLOX(
        backbone=backbone,
        backbone_options=(("activation", activation), ("bn_eps", 1e-3), ("bn_momentum", 0.03)),
        neck=neck,
        neck_blocks=neck_blocks,
        head_channels=head_channels,
        use_depthwise=use_depthwise,
        activation=activation,
        bn_eps=1e-3,
        bn_momentum=0.03,
        num_classes=80,
        strides=(8, 16, 32),
        centre_radius=1.5,
        ota_top_k=10,
        ota_iou_weight=3.0,
        l1_from_epoch=284,
        loss_weight_iou=5.0,
        loss_weight_obj=1.0,
        loss_weight_cls=1.0,
        loss_weight_l1=1.0,
        one_class_a_box=True,
        clip_to_picture=False,
        score_threshold=0.001,
        nms_iou=0.65,
        nms_top_k=None,
        keep_top_k=None,
    )


PUBLISHED = {
    "yolox_nano": coco(backbone="csp_darknet_nano", head_channels=64, neck_blocks=1, use_depthwise=True),
    "yolox_tiny": coco(backbone="csp_darknet_tiny", head_channels=96, neck_blocks=1),
    "yolox_s": coco(backbone="csp_darknet_s", head_channels=128, neck_blocks=1),
    "yolox_m": coco(backbone="csp_darknet_m", head_channels=192, neck_blocks=2),
    "yolox_l": coco(backbone="csp_darknet_l", head_channels=256, neck_blocks=3),
    "yolox_x": coco(backbone="csp_darknet_x", head_channels=320, neck_blocks=4),
    "yolox_darknet53": coco(
        backbone="darknet53", head_channels=256, neck="yolo_fpn", neck_blocks=0, activation="leaky_relu_0.1"
    ),
}
