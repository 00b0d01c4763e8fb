"""FCOS, a detector without anchors: every point inside an object predicts its class and the distances to its four sides.

Papers: FCOS: Fully Convolutional One-Stage Object Detection, arXiv 1904.01355; FCOS: A Simple and Strong Anchor-free Object
Detector, arXiv 2006.09214, the improved form.
Weights: torchvision's fcos_resnet50_fpn and MMDetection's fcos_r50-caffe_fpn_gn-head, by `public.weights.detectors.fcos`.
The originals differ in the branch of the centre-ness, in the learnt factor of each level, and in how the raw distances
become pixels: the first two are arguments here, the third one of loss and decoder.
Deviations:
- The head returns raw outputs in training and inference alike; decoding stands in `public.decoders.fcos`.

Legend: B batch, C channels, H W height and width, L levels, A points of all levels, K classes.
"""

from typing import NamedTuple

import torch
from torch import nn

from public.models.dense import points_of_levels, set_prior, sizes_of_levels
from public.models.towers import prediction, tower

CENTRENESS_BRANCHES = ("class", "box")


class FCOSOutputs(NamedTuple):
    """Raw outputs of the head; points level by level from the smallest stride on, rows before columns.

    `class_logits` (B, A, K); `raw_distances` (B, A, 4), left, top, right, bottom, times the factor of the level, before
    exponential or ReLU; `centreness_logits` (B, A); `level_sizes`, the (height, width) of each level in cells;
    `image_size`, the (height, width) of the network's images in pixels.
    """

    class_logits: torch.Tensor
    raw_distances: torch.Tensor
    centreness_logits: torch.Tensor
    level_sizes: tuple[tuple[int, int], ...]
    image_size: tuple[int, int]


class FCOSHead(nn.Module):
    """Two towers that all levels share, one for the classes and one for the distances; centre-ness on one of them.

    Args:
        channels: of the neck's maps and of the towers.
        num_classes: K.
        num_convs: convolutions of each tower.
        groups: of GroupNorm in the towers.
        use_bias: whether the towers' convolutions, which GroupNorm follows, have a bias.
        num_levels: L.
        use_scales: a learnt factor of the raw distances of each level.
        centreness_on: the branch that predicts it, one of CENTRENESS_BRANCHES.
    """

    def __init__(
        self,
        *,
        channels: int,
        num_classes: int,
        num_convs: int,
        groups: int,
        use_bias: bool,
        num_levels: int,
        use_scales: bool,
        centreness_on: str,
    ):
        super().__init__()
        if centreness_on not in CENTRENESS_BRANCHES:
            raise ValueError(f"centreness_on={centreness_on!r}: write {' or '.join(CENTRENESS_BRANCHES)}")
        self.centreness_on = centreness_on
        self.cls_tower = tower(channels, num_layers=num_convs, groups=groups, use_bias=use_bias)
        self.reg_tower = tower(channels, num_layers=num_convs, groups=groups, use_bias=use_bias)
        self.pred_cls = prediction(channels, num_classes)
        set_prior(self.pred_cls)
        self.pred_reg = prediction(channels, 4)
        self.pred_centreness = prediction(channels, 1)
        self.scales = nn.ParameterList(torch.ones(()) for _ in range(num_levels)) if use_scales else None

    def forward(self, maps: list[torch.Tensor], image_size: tuple[int, int]) -> FCOSOutputs:
        class_maps, distance_maps, centreness_maps = [], [], []
        for level, x in enumerate(maps):
            class_features, box_features = self.cls_tower(x), self.reg_tower(x)
            class_maps.append(self.pred_cls(class_features))
            raw = self.pred_reg(box_features)
            # four dimensions let the product be float32 where `raw` is half precision, whose limit it might pass
            distance_maps.append(raw if self.scales is None else raw * self.scales[level].view(1, 1, 1, 1))
            on_class = self.centreness_on == "class"
            centreness_maps.append(self.pred_centreness(class_features if on_class else box_features))
        return FCOSOutputs(
            points_of_levels(class_maps),
            points_of_levels(distance_maps),
            points_of_levels(centreness_maps).squeeze(2),
            sizes_of_levels(maps),
            image_size,
        )
