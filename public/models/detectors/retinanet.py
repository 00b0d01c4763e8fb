"""RetinaNet, a one-stage detector: every anchor of every cell predicts its classes and the offsets of its box.

Paper: Focal Loss for Dense Object Detection, arXiv 1708.02002.
Weights: torchvision's retinanet_resnet50_fpn and retinanet_resnet50_fpn_v2 and MMDetection's retinanet_r50_fpn, by
`public.weights.detectors.retinanet`.
The originals differ in the GroupNorm of the towers, whose convolutions then have no bias: an argument; and in the neck, see
`public.models.necks.fpn`.
Deviations:
- The head returns raw outputs in training and inference alike; decoding stands in `public.decoders.retinanet`.

Legend: B batch, C channels, H W height and width, L levels, N anchors of a cell, A anchors of all levels, K classes.
"""

from typing import NamedTuple

import torch
from torch import nn

from public.models.dense import points_of_levels, set_prior, sizes_of_levels
from public.models.towers import prediction, tower


class RetinaNetOutputs(NamedTuple):
    """Raw outputs of the head; anchors level by level from the smallest stride on, rows before columns, a cell's together.

    `class_logits` (B, A, K); `box_deltas` (B, A, 4), offsets from the anchors: shift of the centre in x and y, log of width
    and height; `level_sizes`, the (height, width) of each level in cells; `image_size`, the (height, width) of the
    network's images in pixels.
    """

    class_logits: torch.Tensor
    box_deltas: torch.Tensor
    level_sizes: tuple[tuple[int, int], ...]
    image_size: tuple[int, int]


class RetinaNetHead(nn.Module):
    """Two towers that all levels share, one for the classes and one for the offsets.

    Args:
        channels: of the neck's maps and of the towers.
        num_classes: K.
        num_in_cell: N.
        num_convs: convolutions of each tower.
        groups: of GroupNorm in the towers, whose convolutions then have no bias; None: a bias and no normalisation.
    """

    def __init__(self, *, channels: int, num_classes: int, num_in_cell: int, num_convs: int, groups: int | None):
        super().__init__()
        self.num_in_cell = num_in_cell
        self.cls_tower = tower(channels, num_layers=num_convs, groups=groups, use_bias=groups is None)
        self.reg_tower = tower(channels, num_layers=num_convs, groups=groups, use_bias=groups is None)
        self.pred_cls = prediction(channels, num_in_cell * num_classes)
        set_prior(self.pred_cls)
        self.pred_reg = prediction(channels, num_in_cell * 4)

    def forward(self, maps: list[torch.Tensor], image_size: tuple[int, int]) -> RetinaNetOutputs:
        class_maps = [self.pred_cls(self.cls_tower(x)) for x in maps]  # (B, N * K, H, W) each
        delta_maps = [self.pred_reg(self.reg_tower(x)) for x in maps]  # (B, N * 4, H, W) each
        return RetinaNetOutputs(
            self._of_anchors(class_maps), self._of_anchors(delta_maps), sizes_of_levels(maps), image_size
        )

    def _of_anchors(self, levels: list[torch.Tensor]) -> torch.Tensor:
        """The maps (B, N * X, H, W) of all levels as anchors, (B, A, X)."""
        return points_of_levels(levels).unflatten(2, (self.num_in_cell, -1)).flatten(1, 2)
