"""PicoDet, an anchor-free one-stage detector for phones and CPUs: that of 2022, and its predecessor of 2021.

Paper: PP-PicoDet: A Better Real-Time Object Detector on Mobile Devices, arXiv 2111.00902; its head of 2021 is that of
Generalized Focal Loss, arXiv 2006.04388.  The head of 2022, with its squeeze and its alignment branch (after TOOD, arXiv
2108.07755), is PaddleDetection's PicoHeadV2.
Weights: PaddleDetection's picodet_*_coco_lcnet, picodet_s_416_coco_npu, the pedestrian models, and the ESNet models of 2021,
by `public.weights.detectors.picodet`.
Deviations:
- The head returns raw outputs in training and inference alike; decoding stands in `public.decoders.picodet`.
- The head of 2021 predicts classes and distances by one convolution; here they are two, of the same filters.
- BatchNorm's running variance, as in `public.models.backbones.lcnet`.

Legend: B batch, C channels, H W height and width, L levels, A points of all levels, K classes, R = reg_max + 1 bins.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from public.models.dense import check_multiple, points_of_levels, set_prior, sizes_of_levels
from public.models.detectors.one_stage import OneStageDetector
from public.models.detectors.ppyoloe import ESEAttention
from public.models.layers import ConvBNAct
from public.models.necks.lc_pan import separable
from public.precision import at_least_float32

SMALLEST_SQUARE = 1e-9  # below the root of a score, so that its gradient stays finite
PREDICTION_STD = 0.01  # of the initial weights of the head's convolutions
GATE_STD = 0.001  # of those of the squeeze's linear layer
IMAGE_MULTIPLE = 32  # the neck doubles maps from this stride on; the level of stride 64 is rounded up


class PicoDetOutputs(NamedTuple):
    """Raw outputs of the head; points level by level from the smallest stride on, rows before columns.

    `class_logits` (B, A, K); `align_logits` (B, A, 1), of the alignment branch, or None in the head of 2021; `box_logits`
    (B, A, 4 * R), sides left, top, right, bottom, the bins of a side beside each other; `bins` (R,), the distance, in
    strides, that each bin stands for; `level_sizes`, the (height, width) of each level.
    """

    class_logits: torch.Tensor
    align_logits: torch.Tensor | None
    box_logits: torch.Tensor
    bins: torch.Tensor
    level_sizes: tuple[tuple[int, int], ...]

    def scores(self) -> torch.Tensor:
        """The probability of each class at each point, (B, A, K) in [0, 1], at least float32.

        With an alignment branch, the geometric mean of the class's and the alignment's probability.
        """
        probabilities = at_least_float32(self.class_logits).sigmoid()
        if self.align_logits is None:
            return probabilities
        alignment = at_least_float32(self.align_logits).sigmoid()  # (B, A, 1)
        return (probabilities * alignment + SMALLEST_SQUARE).sqrt().clamp(max=1)


class PicoDetHead(nn.Module):
    """One tower of depthwise separable convolutions a level; classes and distances are read off its end.

    Args:
        channels: C, of the neck's levels and of the towers.
        num_levels: L; num_convs: depthwise separable convolutions of a tower.
        num_classes: K.
        reg_max: the largest distance, in strides, that a bin stands for.
        activation: a name of `public.models.layers`.
        is_aligned: with squeeze and alignment branch, the head of 2022; without, that of 2021.
    """

    def __init__(
        self,
        *,
        channels: int,
        num_levels: int,
        num_convs: int,
        num_classes: int,
        reg_max: int,
        activation: str,
        is_aligned: bool,
    ):
        super().__init__()
        levels = range(num_levels)
        self.towers = nn.ModuleList(
            nn.Sequential(*(separable(channels, channels, activation=activation) for _ in range(num_convs)))
            for _ in levels
        )
        self.pred_cls = nn.ModuleList(nn.Conv2d(channels, num_classes, 1) for _ in levels)
        self.pred_reg = nn.ModuleList(nn.Conv2d(channels, 4 * (reg_max + 1), 1) for _ in levels)
        self.squeeze: nn.ModuleList | None = None
        self.align: nn.ModuleList | None = None
        if is_aligned:
            self.squeeze = nn.ModuleList(ESEAttention(channels, activation=activation, kind="conv") for _ in levels)
            self.align = nn.ModuleList(
                nn.Sequential(ConvBNAct(channels, 1, 5, activation=activation), ConvBNAct(1, 1, 1, activation="none"))
                for _ in levels
            )
        # The bins of released weights are not quite whole numbers: the original averaged them with its weights.
        self.bins: torch.Tensor
        self.register_buffer("bins", torch.arange(reg_max + 1, dtype=torch.float32))
        self._initialise()

    def _initialise(self) -> None:
        """As in PaddleDetection; every class starts with the prior probability, every distribution nearly flat."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=PREDICTION_STD)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for gate in cast(Iterable[Any], self.squeeze or ()):
            nn.init.normal_(gate.fc.weight, std=GATE_STD)
        for module in self.align.modules() if self.align is not None else ():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight)
        for conv in cast(Iterable[nn.Conv2d], self.pred_cls):
            set_prior(conv)

    def forward(self, levels: Sequence[torch.Tensor], image_size: tuple[int, int]) -> PicoDetOutputs:
        class_maps, align_maps, box_maps = [], [], []
        for i, level in enumerate(levels):
            x = self.towers[i](level)  # (B, C, H, W)
            if self.align is not None and self.squeeze is not None:
                align_maps.append(self.align[i](x))
                x = self.squeeze[i](x, x.mean((2, 3), keepdim=True))
            class_maps.append(self.pred_cls[i](x))
            box_maps.append(self.pred_reg[i](x))
        return PicoDetOutputs(
            class_logits=points_of_levels(class_maps),
            align_logits=points_of_levels(align_maps) if align_maps else None,
            box_logits=points_of_levels(box_maps),
            bins=self.bins,
            level_sizes=sizes_of_levels(levels),
        )


class PicoDetModel(OneStageDetector):
    """Normalised images (B, in_chans, H, W), H and W multiples of 32 -> PicoDetOutputs."""

    def __init__(self, *, backbone: Any, neck: nn.Module, head: PicoDetHead, num_classes: int, backbone_batchnorm: str):
        super().__init__(
            backbone=backbone,
            neck=neck,
            head=head,
            num_classes=num_classes,
            class_layers=("head.pred_cls.",),
            rows_per_class=1,
            backbone_batchnorm=backbone_batchnorm,
        )

    def forward(self, images: torch.Tensor) -> PicoDetOutputs:
        check_multiple(images, IMAGE_MULTIPLE)
        return super().forward(images)
