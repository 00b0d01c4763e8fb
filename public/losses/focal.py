"""Classification losses that weigh easy negatives down."""

import torch
from torch.nn import functional as F

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
    log_likelihood = targets * finite_log(probabilities) + (1 - targets) * finite_log(1 - probabilities)
    return -weights * log_likelihood


def sigmoid_focal_loss(logits: torch.Tensor, is_positive: torch.Tensor, *, alpha: float, gamma: float) -> torch.Tensor:
    """Binary cross-entropy of each element, weighed down where the network is right already.

    Source: Focal Loss for Dense Object Detection, arXiv 1708.02002, equation 5.  Computed from logits, so that it and its
    gradient are finite for any of them.  torchvision's function of this name computes the same and takes three seconds
    of CPU to import.

    Args:
        logits: any shape; is_positive: bool, the same shape.
        alpha: weight of the positives; the negatives have 1 - alpha.
        gamma: power by which well classified elements count less.

    Returns:
        the loss of each element.
    """
    targets = is_positive.to(logits.dtype)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    probabilities = logits.sigmoid()
    wrongness = torch.where(is_positive, 1 - probabilities, probabilities)
    wrongness = wrongness.clamp(min=torch.finfo(logits.dtype).tiny)  # a power below 1 has no finite slope at 0
    return torch.where(is_positive, alpha, 1 - alpha) * cross_entropy * wrongness.pow(gamma)


def focal_loss_of_labels(logits: torch.Tensor, labels: torch.Tensor, *, alpha: float, gamma: float) -> torch.Tensor:
    """The focal loss of logits (..., K), of which the label's (...) alone is positive, or none where it is not 0..K-1."""
    classes = torch.arange(logits.shape[-1], device=logits.device)
    return sigmoid_focal_loss(logits, labels[..., None] == classes, alpha=alpha, gamma=gamma)


def penalty_reduced_focal_loss(
    logits: torch.Tensor, targets: torch.Tensor, *, alpha: float, beta: float
) -> torch.Tensor:
    """The focal loss of a heat map, whose negatives count less the nearer they are to a peak.

    Source: Objects as Points, arXiv 1904.07850, equation 1; from logits, so that it and its gradient are finite for any of
    them.  (The original keeps probabilities 1e-4 away from 0 and 1, MMDetection adds 1e-12 to them.)

    Args:
        logits: any shape; targets: in [0, 1], the same shape, 1 at the peaks.
        alpha: power by which well classified elements count less.
        beta: power by which elements near a peak count less.

    Returns:
        the loss of each element.
    """
    is_peak = targets == 1
    signed = torch.where(is_peak, logits, -logits)
    penalty = torch.where(is_peak, 1.0, (1 - targets).pow(beta))
    return -penalty * (-signed).sigmoid().pow(alpha) * F.logsigmoid(signed)


def finite_log(x: torch.Tensor) -> torch.Tensor:
    """log(x) for x >= 0, and LOG_OF_ZERO with a gradient of 0 at x = 0.  NaN stays NaN."""
    smallest = torch.finfo(x.dtype).tiny
    return torch.where(x == 0, LOG_OF_ZERO, x.clamp(min=smallest).log())
