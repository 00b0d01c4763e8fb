"""Classification losses that weigh easy negatives down."""

import torch

LOG_OF_ZERO = -100.0  # stands for log(0), as in Paddle's and torch's binary cross-entropy


def varifocal_loss(
    probabilities: torch.Tensor, targets: torch.Tensor, is_positive: torch.Tensor, *, alpha: float, gamma: float
) -> torch.Tensor:
    """Binary cross-entropy weighed by the target where positive and by alpha * probability ** gamma elsewhere.

    The gradient flows through the weight too, as in PaddleDetection.  Source: VarifocalNet, arXiv 2008.13367, eq. 2.

    Args:
        probabilities: in [0, 1], any shape; a probability rounded to 0 or 1 has a finite loss and no gradient.
        targets: in [0, 1], the same shape, without gradient.
        is_positive: bool, the same shape.

    Returns:
        the loss of each element.
    """
    weights = torch.where(is_positive, targets, alpha * probabilities.pow(gamma))
    log_likelihood = targets * _finite_log(probabilities) + (1 - targets) * _finite_log(1 - probabilities)
    return -weights * log_likelihood


def _finite_log(x: torch.Tensor) -> torch.Tensor:
    """log(x) for x >= 0, and LOG_OF_ZERO with a gradient of 0 at x = 0.  NaN stays NaN."""
    smallest = torch.finfo(x.dtype).tiny
    return torch.where(x == 0, LOG_OF_ZERO, x.clamp(min=smallest).log())
