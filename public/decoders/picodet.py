"""PicoDet's raw outputs -> boxes and scores -> detections.

Paper: PP-PicoDet: A Better Real-Time Object Detector on Mobile Devices, arXiv 2111.00902; box distribution of arXiv
2006.04388.  Follows PaddleDetection's PicoHeadV2 (PicoHead for the models of 2021) and MultiClassNMS; several classes may
keep the same box.
Deviations: detections come by falling score, not class by class; equal scores have a fixed order (see `nms.py`).

Legend: B batch, A points of all levels, K classes.
"""

from typing import Any

import torch

from public.decoders.ppyoloe import PPYOLOEDecoder
from public.points import expected_distances
from public.precision import at_least_float32


class PicoDetDecoder(PPYOLOEDecoder):
    """The decoder of PicoDetOutputs: PPYOLOE's, on scores of two branches and bins that are part of the network."""

    def scores(self, outputs: Any) -> torch.Tensor:
        """See `PicoDetOutputs.scores`."""
        return outputs.scores()

    def distances(self, outputs: Any) -> torch.Tensor:
        """The distances (B, A, 4), in strides, by the bins of the outputs."""
        return expected_distances(at_least_float32(outputs.box_logits), outputs.bins)
