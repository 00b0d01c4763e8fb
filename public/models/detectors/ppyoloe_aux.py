"""PPYOLOE with an auxiliary neck and head, which help a small network to learn and are no part of inference: PPYOLOE+ t.

Paper: PP-YOLOE: An evolved version of YOLO, arXiv 2203.16250, for the network; a second head that guides the
assignment after NanoDet-Plus's "assign guidance module" (no paper; github.com/RangiLyu/nanodet).
Weights: PaddleDetection's ppyoloe_plus_crn_t_auxhead, by `public.weights.detectors.ppyoloe.rename_ppyoloe`.
Deviations: those of `public.models.detectors.ppyoloe`.

Legend: B batch, C channels, H W height and width, K classes, R = reg_max + 1 bins.
"""

import copy
import math
from typing import NamedTuple, cast

import torch
from torch import nn

from public.models.dense import check_multiple, points_of_levels, set_prior, sizes_of_levels
from public.models.detectors.ppyoloe import PPYOLOEHead, PPYOLOEModel, PPYOLOEOutputs

NUM_GROUPS = 32  # of GroupNorm in the auxiliary head
NEGATIVE_SLOPE = 0.1  # of its leaky ReLU


class PPYOLOEAuxOutputs(NamedTuple):
    """What the model returns in train mode: the fields of PPYOLOEOutputs, and `auxiliary`, those of the second head."""

    class_logits: torch.Tensor
    box_logits: torch.Tensor
    level_sizes: tuple[tuple[int, int], ...]
    auxiliary: PPYOLOEOutputs


class ConvGNAct(nn.Module):
    """3x3 convolution without bias, GroupNorm, leaky ReLU.  (B, in_channels, H, W) -> (B, out_channels, H, W)"""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(NUM_GROUPS, out_channels, eps=1e-5)
        self.act = nn.LeakyReLU(NEGATIVE_SLOPE)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.norm(self.conv(x)))


class PPYOLOEAuxHead(nn.Module):
    """One convolution a branch and one prediction, the same for every level, and a learnt factor a level on the boxes.

    Args:
        in_channels: of each level's feature.
        channels: of the two branches.
        num_levels: levels.
        num_classes: K.
        reg_max: the largest distance, in strides, that a bin stands for.
    """

    def __init__(self, *, in_channels: int, channels: int, num_levels: int, num_classes: int, reg_max: int):
        super().__init__()
        self.stem_cls = ConvGNAct(in_channels, channels)
        self.stem_reg = ConvGNAct(in_channels, channels)
        self.pred_cls = nn.Conv2d(channels, num_classes, 3, padding=1)
        self.pred_reg = nn.Conv2d(channels, 4 * (reg_max + 1), 3, padding=1)
        self.scales = nn.ParameterList(torch.ones(()) for _ in range(num_levels))

    def initialise(self) -> None:
        """Every class starts near the prior probability, every distribution nearly flat."""
        for stem in (self.stem_cls, self.stem_reg):
            nn.init.normal_(stem.conv.weight, std=math.sqrt(2 / stem.conv.weight[0].numel()))  # 2 / fan-in
        for conv in (self.pred_cls, self.pred_reg):
            nn.init.normal_(conv.weight, std=0.01)
        set_prior(self.pred_cls)
        nn.init.zeros_(cast(torch.Tensor, self.pred_reg.bias))

    def forward(self, features: list[torch.Tensor]) -> PPYOLOEOutputs:
        class_maps = [self.pred_cls(self.stem_cls(feature)) for feature in features]
        box_maps = [scale * self.pred_reg(self.stem_reg(feature)) for feature, scale in zip(features, self.scales)]
        return PPYOLOEOutputs(points_of_levels(class_maps), points_of_levels(box_maps), sizes_of_levels(features))


class PPYOLOEAuxModel(PPYOLOEModel):
    """Normalised images (B, in_chans, H, W) -> PPYOLOEOutputs in eval mode, PPYOLOEAuxOutputs in train mode.

    The auxiliary neck begins as a copy of the neck; the auxiliary head reads the features of both, side by side.  While
    `is_detached`, no gradient of the auxiliary branch reaches the backbone and the neck: the family sets it from the
    epoch alone, so no checkpoint has to hold it.
    """

    def __init__(
        self,
        *,
        backbone: nn.Module,
        neck: nn.Module,
        head: PPYOLOEHead,
        aux_head: PPYOLOEAuxHead,
        strides: tuple[int, ...],
        num_classes: int,
        initialise_backbone: bool,
    ):
        super().__init__(
            backbone=backbone,
            neck=neck,
            head=head,
            strides=strides,
            num_classes=num_classes,
            initialise_backbone=initialise_backbone,
        )
        self.aux_neck = copy.deepcopy(self.neck)
        self.aux_head = aux_head
        self.aux_head.initialise()
        self.class_layers = (*self.class_layers, "aux_head.pred_cls.")
        self.training_only = ("aux_neck", "aux_head")
        self.is_detached = False

    def forward(self, images: torch.Tensor) -> PPYOLOEOutputs | PPYOLOEAuxOutputs:
        check_multiple(images, max(self.strides))
        features = self.backbone(images)
        mixed = self.neck(features)
        outputs = self.head(mixed)
        if not self.training:
            return outputs
        if self.is_detached:
            features, mixed = ([feature.detach() for feature in level] for level in (features, mixed))
        pairs = zip(mixed, self.aux_neck(features))
        auxiliary = self.aux_head([torch.cat(pair, dim=1) for pair in pairs])  # (B, 2C, H, W)
        return PPYOLOEAuxOutputs(outputs.class_logits, outputs.box_logits, outputs.level_sizes, auxiliary)
