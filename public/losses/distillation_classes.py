"""What a classifier learns from another one's logits.

Papers: KD, Distilling the Knowledge in a Neural Network, arXiv 1503.02531; DKD, Decoupled Knowledge Distillation, arXiv
2203.08679.
Deviations: none; means over images are those over the images of all processes.

Legend: B images of this process, K classes.
"""

from typing import Any

import torch
from torch.nn import functional as F

from public.parallel.collectives import share_of_sum
from public.precision import at_least_float32
from public.protocols import Progress

FAR = -1e4  # a logit whose probability is 0


class LogitMethod:
    """A method on the logits (B, K) of two classifiers: the mean over all images of `of_images`.

    Args:
        weight: of the term; temperature: by which logits are divided.
    """

    name = "logits"

    def __init__(self, *, weight: float, temperature: float):
        self.weight = weight
        self.temperature = temperature

    def __call__(self, outputs: Any, targets: Any, context: Any) -> torch.Tensor:
        return self.of_logits(outputs.student, outputs.teacher, targets, context["progress"])

    def of_logits(self, student: torch.Tensor, teacher: torch.Tensor, targets: Any, progress: Progress) -> torch.Tensor:
        """The term before its weight.

        Raises:
            ValueError: the logits differ in shape, naming both.
        """
        if student.shape != teacher.shape:
            raise ValueError(
                f"the student's logits have the shape {tuple(student.shape)}, the teacher's {tuple(teacher.shape)}"
            )
        losses = self.of_images(at_least_float32(student), at_least_float32(teacher), targets)  # (B,)
        return losses.sum() / share_of_sum(losses.new_full((), len(losses)))

    def of_images(self, student: torch.Tensor, teacher: torch.Tensor, targets: Any) -> torch.Tensor:
        raise NotImplementedError(f"{type(self).__name__} has to say what it compares")


class KDLoss(LogitMethod):
    """KL of the teacher's classes from the student's, both at a temperature T, times T ** 2.

    Source: arXiv 1503.02531, section 2.
    """

    def of_images(self, student: torch.Tensor, teacher: torch.Tensor, targets: Any) -> torch.Tensor:
        own, taught = (F.log_softmax(logits / self.temperature, -1) for logits in (student, teacher))
        return self.temperature**2 * divergence(taught, own)


class DKDLoss(LogitMethod):
    """KL of whether it is the target's class, and of which other class it is, with weights of their own.

    Source: arXiv 2203.08679, equations 5 to 7.  Of a mixture of two labels, the terms of both in their shares.

    Args:
        weight: of both; target, others: the weights alpha and beta.
        temperature: T; both terms are multiplied by T ** 2.
        warmup_epochs: over which the weight rises from 0, by the epoch, as in the paper's code; 0: it is whole at once.
    """

    def __init__(self, *, weight: float, target: float, others: float, temperature: float, warmup_epochs: float):
        super().__init__(weight=weight, temperature=temperature)
        self.target, self.others, self.warmup_epochs = target, others, warmup_epochs

    def of_logits(self, student: torch.Tensor, teacher: torch.Tensor, targets: Any, progress: Progress) -> torch.Tensor:
        share = min(progress.epoch / self.warmup_epochs, 1.0) if self.warmup_epochs else 1.0
        return share * super().of_logits(student, teacher, targets, progress)

    def of_images(self, student: torch.Tensor, teacher: torch.Tensor, targets: Any) -> torch.Tensor:
        if isinstance(targets, torch.Tensor):
            return self.of_labels(student, teacher, targets)
        shares = targets["shares"].to(student.dtype)
        losses = shares * self.of_labels(student, teacher, targets["labels"])
        return losses + (1 - shares) * self.of_labels(student, teacher, targets["other_labels"])

    def of_labels(self, student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The term of each image (B,), of labels int64 (B,)."""
        pairs = [self.parts(logits / self.temperature, labels) for logits in (student, teacher)]
        (own_binary, own_others), (binary, others) = pairs
        losses = self.target * divergence(binary, own_binary) + self.others * divergence(others, own_others)
        return self.temperature**2 * losses

    @staticmethod
    def parts(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Log probabilities of the target's class and of all others together, (B, 2); of the others alone, (B, K)."""
        is_label = torch.arange(logits.shape[1], device=logits.device) == labels[:, None]  # (B, K)
        others = logits.masked_fill(is_label, FAR)
        target = logits.masked_fill(~is_label, 0.0).sum(1)  # (B,)
        binary = torch.stack([target, others.logsumexp(1)], dim=1)
        return F.log_softmax(binary, 1), F.log_softmax(others, 1)


def divergence(expected: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """KL(expected || found) of log probabilities (..., K), -> (...)."""
    return (expected.exp() * (expected - found)).sum(-1)
