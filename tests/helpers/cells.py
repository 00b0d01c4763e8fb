"""A detector of one layer a level, which exporters take in seconds."""

import torch
from torch import nn

from public.models.detectors.ppyoloe import PPYOLOEOutputs


class Cells(nn.Module):
    """Of each cell of each level a linear function of its pixels, as PPYOLOE's outputs."""

    def __init__(self, settings) -> None:
        super().__init__()
        self.num_classes = settings.num_classes
        count = settings.num_classes + 4 * (settings.reg_max + 1)
        self.levels = nn.ModuleList(nn.Conv2d(3, count, stride, stride) for stride in settings.strides)
        generator = torch.Generator().manual_seed(0)
        for level in self.levels:
            nn.init.normal_(level.weight, std=1.5 / level.weight[0].numel() ** 0.5, generator=generator)

    def forward(self, images: torch.Tensor) -> PPYOLOEOutputs:
        maps = [level(images) for level in self.levels]
        values = torch.cat([one.flatten(2).transpose(1, 2) for one in maps], dim=1)
        classes, boxes = values.split([self.num_classes, values.shape[2] - self.num_classes], dim=2)
        return PPYOLOEOutputs(classes, boxes, tuple((one.shape[2], one.shape[3]) for one in maps))
