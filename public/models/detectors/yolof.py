"""YOLOF, a one-stage detector on one feature map.

Paper: You Only Look One-level Feature, arXiv 2103.09460.
Weights: MMDetection's yolof_r50-c5_8xb8-1x_coco, by `public.weights.detectors.yolof.rename_yolof`.
Deviations:
- The head returns raw outputs in training and inference alike; decoding stands in `public.decoders.yolof`.
- A logit above LOGIT_LIMIT is cut before its exponential, where MMDetection cuts the exponential at 1e8: the same values,
  and no infinite exponential, whose gradient would be NaN.

Legend: B batch, C channels, H W height and width, N anchors of a cell, A = H * W * N anchors, K classes.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from public.models.dense import as_points, set_prior, sizes_of_levels
from public.models.layers import ConvBNAct
from public.models.towers import initialise, prediction

LOGIT_LIMIT = math.log(1e8)  # of the logits inside the joint score's denominator


class YOLOFOutputs(NamedTuple):
    """Raw outputs of the head; anchors row by row, those of a cell together.

    `class_logits` (B, A, K), objectness included, float32 whatever the autocast; `box_deltas` (B, A, 4), see
    `public.anchors.decode_boxes`; `level_sizes`, the (height, width) of the one map; `image_size` (height, width) in pixels.
    """

    class_logits: torch.Tensor
    box_deltas: torch.Tensor
    level_sizes: tuple[tuple[int, int], ...]
    image_size: tuple[int, int]


def with_objectness(class_logits: torch.Tensor, objectness: torch.Tensor) -> torch.Tensor:
    """The logit whose sigmoid is sigmoid(class_logits) * sigmoid(objectness); shapes broadcast.

    From logits c and o that is c + o - log(1 + e^c + e^o): implicit objectness, which no loss looks at on its own.
    """
    denominator = class_logits.clamp(max=LOGIT_LIMIT).exp() + objectness.clamp(max=LOGIT_LIMIT).exp()
    return class_logits + objectness - denominator.log1p()


class YOLOFHead(nn.Module):
    """One branch for the classes, a longer one for boxes and objectness, both on the encoder's one map.

    Args:
        in_channels: C of the map, and of all inner convolutions.
        num_classes: K; num_anchors: N.
        num_class_convs, num_box_convs: inner convolutions of each branch.
        activation: a name of `public.models.layers`.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        num_anchors: int,
        num_class_convs: int,
        num_box_convs: int,
        activation: str,
    ):
        super().__init__()
        self.num_anchors = num_anchors
        self.num_classes = num_classes
        self.class_tower = _tower(in_channels, num_class_convs, activation)
        self.box_tower = _tower(in_channels, num_box_convs, activation)
        self.pred_cls = prediction(in_channels, num_anchors * num_classes)
        self.pred_box = prediction(in_channels, num_anchors * 4)
        self.pred_object = prediction(in_channels, num_anchors)
        set_prior(self.pred_cls)

    def forward(self, maps: Sequence[torch.Tensor], image_size: tuple[int, int]) -> YOLOFOutputs:
        (x,) = maps
        class_feature, box_feature = self.class_tower(x), self.box_tower(x)
        batch = x.shape[0]
        class_logits = _wide(as_points(self.pred_cls(class_feature))).reshape(batch, -1, self.num_classes)  # (B, A, K)
        objectness = _wide(as_points(self.pred_object(box_feature))).reshape(batch, -1, 1)  # (B, A, 1)
        box_deltas = as_points(self.pred_box(box_feature)).reshape(batch, -1, 4)  # (B, A, 4)
        return YOLOFOutputs(with_objectness(class_logits, objectness), box_deltas, sizes_of_levels(maps), image_size)


def _tower(channels: int, num_convs: int, activation: str) -> nn.Sequential:
    """`num_convs` 3x3 convolutions with BatchNorm, with initial values."""
    layers = [ConvBNAct(channels, channels, 3, activation=activation) for _ in range(num_convs)]
    for layer in layers:
        initialise(layer.conv)
    return nn.Sequential(*layers)


def _wide(logits: torch.Tensor) -> torch.Tensor:
    """In float32 where autocast has made them half precision: a sum of two logits needs more than its range."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
