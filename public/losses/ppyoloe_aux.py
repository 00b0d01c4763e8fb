"""The loss of PPYOLOE with an auxiliary head: both heads learn the same assignment, and their terms are added.

Follows PaddleDetection's PPYOLOEHead with auxiliary predictions.  The task-aligned assigner looks at the auxiliary
predictions; the static one scores its points by the main ones.
Deviations: none beyond those of `public.losses.ppyoloe`.

Legend: B batch, A anchor points of all levels, K classes.
"""

import torch

from public.losses.assigners.assignment import Assignment
from public.losses.dense import Targets
from public.losses.ppyoloe import PPYOLOELoss
from public.parallel.collectives import share_of_sum
from public.protocols import Progress


class PPYOLOEAuxLoss(PPYOLOELoss):
    """Callable: `loss(outputs, targets, progress)`, as PPYOLOELoss; takes PPYOLOEAuxOutputs, those of train mode."""

    def terms(self, outputs, targets: Targets, progress: Progress) -> dict[str, torch.Tensor]:
        """The sum of both heads' terms.

        Raises:
            ValueError: the outputs hold no auxiliary head's.
        """
        if not hasattr(outputs, "auxiliary"):
            raise ValueError(
                "the outputs are of the main head only, those of eval mode; call model.train() for this loss"
            )
        assignment = self.assign(outputs, targets, progress)
        normaliser = share_of_sum(assignment.scores.sum())
        main = self._terms_of_head(outputs, assignment, normaliser)
        auxiliary = self._terms_of_head(outputs.auxiliary, assignment, normaliser)
        return {name: main[name] + auxiliary[name] for name in main}

    def assign(self, outputs, targets: list[dict[str, torch.Tensor]], progress: Progress) -> Assignment:
        """What each point of either head has to learn: labels (B, A), boxes (B, A, 4), scores (B, A)."""
        is_static = progress.epoch < self.static_assigner_epochs
        return super().assign(outputs if is_static else outputs.auxiliary, targets, progress)
