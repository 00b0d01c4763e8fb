"""Assignment by overlap: an anchor learns the object that it overlaps most, if it overlaps it enough.

Papers: Faster R-CNN, arXiv 1506.01497, section 3.1.2; RetinaNet, arXiv 1708.02002, section 4, for the thresholds.
Follows torchvision's Matcher and MMDetection's MaxIoUAssigner, which differ in what an anchor learns that is the best one of
an object: `low_quality`.
Deviations:
- An object that overlaps no anchor at all, such as one without area, takes none.  In both originals every anchor that
  does not overlap it is one of its best.
- Of equal overlaps with an anchor the first object wins, on every device.

Legend: A anchors of all levels, G ground truths of one image.
"""

import torch

from public.losses.assigners.assignment import BACKGROUND, IGNORED
from public.losses.box import pairwise_iou

# What the anchors learn that overlap an object more than all others do, below the threshold too: nothing special; the
# object that they overlap most (torchvision); that object, the last one where there are several (MMDetection).
LOW_QUALITY = ("off", "own_object", "that_object")
MOST_PAIRS = 2**22  # of an anchor and an object that are looked at together: 16 MB a matrix


class MaxIoUAssigner:
    """An anchor learns its best object from `positive_iou` on, is background below `negative_iou`, else is ignored.

    Args:
        positive_iou, negative_iou: IoU of anchor and object; the first is not the smaller one.
        low_quality: one of LOW_QUALITY.
    """

    def __init__(self, *, positive_iou: float, negative_iou: float, low_quality: str):
        if negative_iou > positive_iou:
            raise ValueError(f"negative_iou={negative_iou} is above positive_iou={positive_iou}: exchange them")
        if low_quality not in LOW_QUALITY:
            raise ValueError(f"low_quality={low_quality!r}: write one of {', '.join(LOW_QUALITY)}")
        self.positive_iou = positive_iou
        self.negative_iou = negative_iou
        self.low_quality = low_quality

    def __call__(self, *, anchors: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        """The number of the object that each anchor learns, (..., A) int64, or BACKGROUND or IGNORED.

        Args:
            anchors: (A, 4) in pixels, with an area.
            boxes: (..., G, 4) in pixels, the objects of one image, or of several; one without area takes no anchor.
        """
        shape = (*boxes.shape[:-2], len(anchors))
        best_iou = anchors.new_zeros(shape)
        best_object = torch.zeros(shape, dtype=torch.int64, device=anchors.device)
        wanted_by = torch.full_like(best_object, BACKGROUND)  # the last object of which the anchor is a best one
        rows = max(MOST_PAIRS // max(best_iou.numel(), 1), 1)
        for start in range(0, boxes.shape[-2], rows):  # some objects at a time: memory does not grow with all of them
            ious = pairwise_iou(boxes[..., start : start + rows, :], anchors, eps=0.0)  # (..., rows, A)
            iou, number = ious.amax(-2), ious.argmax(-2)  # argmax returns the first of equal values
            is_better = iou > best_iou
            best_object = torch.where(is_better, start + number, best_object)
            best_iou = torch.maximum(iou, best_iou)
            if self.low_quality != "off":
                is_best = (ious == ious.amax(-1, keepdim=True)) & (ious > 0)
                numbers = torch.arange(start, start + ious.shape[-2], device=anchors.device)[:, None]
                wanted_by = torch.maximum(wanted_by, torch.where(is_best, numbers, BACKGROUND).amax(-2))

        below = torch.where(best_iou < self.negative_iou, BACKGROUND, IGNORED)
        objects = torch.where((best_iou >= self.positive_iou) & (best_iou > 0), best_object, below)
        if self.low_quality == "off":
            return objects
        low_quality_object = best_object if self.low_quality == "own_object" else wanted_by
        return torch.where(wanted_by != BACKGROUND, low_quality_object, objects)
