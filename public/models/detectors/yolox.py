"""YOLOX, an anchor-free one-stage detector with separate branches for class and box.

Paper: YOLOX: Exceeding YOLO Series in 2021, arXiv 2107.08430.
Weights: Megvii's yolox_{nano,tiny,s,m,l,x} and yolox_darknet, by `public.weights.detectors.yolox`.
Deviations:
- The head returns raw outputs in training and inference alike; decoding stands in `public.decoders.yolox`.
- What the backbone and the necks state in their files, none of which changes a number.

Legend: B batch, C channels, H W height and width, A points of all levels, K classes.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from public.models.backbones.csp_darknet import conv_3x3
from public.models.dense import check_multiple, points_of_levels, set_prior, sizes_of_levels
from public.models.detectors.one_stage import OneStageDetector
from public.models.layers import ConvBNAct


class YOLOXOutputs(NamedTuple):
    """Raw outputs of the head; points level by level from the smallest stride on, rows before columns.

    `class_logits` (B, A, K); `object_logits` (B, A, 1); `box_codes` (B, A, 4), see `public.points.codes_to_boxes`;
    `level_sizes`, the (height, width) of each level.
    """

    class_logits: torch.Tensor
    object_logits: torch.Tensor
    box_codes: torch.Tensor
    level_sizes: tuple[tuple[int, int], ...]


class YOLOXHead(nn.Module):
    """Each level by layers of its own: a 1x1 convolution, then two branches of two 3x3 ones.

    One branch predicts the classes, the other the box and whether there is an object at all.

    Args:
        in_channels: of the neck's maps, finest first.
        channels: of all layers but the predictions.
        num_classes: K.
        use_depthwise: see `public.models.backbones.csp_darknet.conv_3x3`.
        options: of every ConvBNAct: activation, bn_eps, bn_momentum.
    """

    def __init__(self, *, in_channels: Sequence[int], channels: int, num_classes: int, use_depthwise: bool, **options):
        super().__init__()

        def branch() -> nn.Sequential:
            return nn.Sequential(
                *(conv_3x3(channels, channels, use_depthwise=use_depthwise, **options) for _ in range(2))
            )

        self.stems = nn.ModuleList(ConvBNAct(inside, channels, 1, **options) for inside in in_channels)
        self.class_convs = nn.ModuleList(branch() for _ in in_channels)
        self.box_convs = nn.ModuleList(branch() for _ in in_channels)
        self.class_preds = nn.ModuleList(nn.Conv2d(channels, num_classes, 1) for _ in in_channels)
        self.box_preds = nn.ModuleList(nn.Conv2d(channels, 4, 1) for _ in in_channels)
        self.object_preds = nn.ModuleList(nn.Conv2d(channels, 1, 1) for _ in in_channels)
        for conv in cast(Iterable[nn.Conv2d], (*self.class_preds, *self.object_preds)):
            set_prior(conv)

    def forward(self, maps: Sequence[torch.Tensor], image_size: tuple[int, int]) -> YOLOXOutputs:
        class_maps, object_maps, box_maps = [], [], []
        for i, feature in enumerate(maps):
            x = self.stems[i](feature)
            class_maps.append(self.class_preds[i](self.class_convs[i](x)))
            boxes = self.box_convs[i](x)
            object_maps.append(self.object_preds[i](boxes))
            box_maps.append(self.box_preds[i](boxes))
        return YOLOXOutputs(
            points_of_levels(class_maps),
            points_of_levels(object_maps),
            points_of_levels(box_maps),
            sizes_of_levels(maps),
        )


class YOLOXModel(OneStageDetector):
    """Images (B, in_chans, H, W), H and W multiples of the largest stride -> YOLOXOutputs.

    Initial values are torch's own for every layer, but for the prior of classes and objects.

    Args:
        strides: of the backbone's maps.
        others: see OneStageDetector.
    """

    def __init__(self, *, backbone: Any, neck: nn.Module, head: YOLOXHead, strides: tuple[int, ...], num_classes: int):
        super().__init__(
            backbone=backbone,
            neck=neck,
            head=head,
            num_classes=num_classes,
            class_layers=("head.class_preds.",),
            rows_per_class=1,
            backbone_batchnorm="trained",
        )
        self.strides = tuple(strides)

    def forward(self, images: torch.Tensor) -> YOLOXOutputs:
        check_multiple(images, max(self.strides))
        return super().forward(images)
