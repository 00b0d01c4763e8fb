"""PicoDet's loss: that of PPYOLOE on PicoDet's scores and bins.

Paper: PP-PicoDet: A Better Real-Time Object Detector on Mobile Devices, arXiv 2111.00902.  Follows PaddleDetection's
PicoHeadV2 of 2022: varifocal loss on the classes, GIoU and distribution focal loss on the boxes, ATSS and then task-aligned
assignment.  It differs from PPYOLOE's in four facts: scores are made of two branches, bins are part of the network, the
class loss is weighed by its target where that is above 0 (there: at every label), and true distances end 0.1 strides
(there: 0.01) before the last bin.
Deviation: with one process the original divides by the sum of the scores, also where it is below 1, which without any object
is 0; here the divisor is at least 1 for any number of processes.

Legend: B batch, A points of all levels, K classes, R = reg_max + 1 bins.
"""

from typing import Any

import torch

from public.losses.ppyoloe import PPYOLOELoss
from public.points import expected_distances
from public.precision import at_least_float32


class PicoDetLoss(PPYOLOELoss):
    """Callable: `loss(outputs, targets, progress)`, as PPYOLOELoss; takes PicoDetOutputs."""

    last_bin_margin = 0.1

    def scores(self, outputs: Any) -> torch.Tensor:
        """See `PicoDetOutputs.scores`."""
        return outputs.scores()

    def distances(self, outputs: Any, box_logits: torch.Tensor) -> torch.Tensor:
        """The predicted distances (..., 4), in strides, by the bins of the outputs."""
        return expected_distances(at_least_float32(box_logits), outputs.bins)

    def is_positive(self, is_label: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Where the class loss is weighed by its target: where that is above 0; a label with score 0 is background."""
        return targets > 0
