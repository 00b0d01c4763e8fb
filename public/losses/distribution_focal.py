"""Distribution focal loss.

Source: Generalized Focal Loss, arXiv 2006.04388, equation 6.  Legend: N boxes, R regression bins.
"""

import torch
from torch.nn import functional as F


def distribution_focal_loss(box_logits: torch.Tensor, distances: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each side's distribution with its true distance, mean over the four sides.

    A distance between two bins is shared between them in proportion to nearness: bin i gets max(0, 1 - |i - distance|).

    Args:
        box_logits: (N, 4 * R), the bins of a side beside each other.
        distances: (N, 4) in bins, in [0, R - 1].

    Returns:
        (N,).
    """
    log_probabilities = F.log_softmax(box_logits.unflatten(-1, (4, -1)), dim=-1)  # (N, 4, R)
    bins = torch.arange(log_probabilities.shape[-1], device=distances.device, dtype=distances.dtype)
    targets = (1 - (bins - distances[..., None]).abs()).clamp(min=0)  # (N, 4, R)
    return -(targets * log_probabilities).sum(-1).mean(-1)
