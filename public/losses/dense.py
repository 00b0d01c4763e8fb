"""What the losses of all dense detectors share: their arguments are checked, autocast is left, terms are weighted.

Legend: B batch, G ground truths of one image, K classes.
"""

from typing import Any

import torch

from public.losses.assigners.assignment import Matches
from public.losses.targets import check_targets
from public.protocols import Progress

Targets = list[dict[str, torch.Tensor]]


class DenseLoss:
    """Callable: `loss(outputs, targets, progress)` is a dict of weighted scalars whose sum is what is trained.

    A detector's loss derives from it and gives `terms`, and, so that assignments can be looked at, `points` and `objects`.

    Args:
        num_classes: K.
        weights: of the terms, by their names: `{"cls": ..., "box": ...}`.
    """

    def __init__(self, *, num_classes: int, weights: dict[str, float]):
        self.num_classes = num_classes
        self.weights = dict(weights)

    def __call__(self, outputs: Any, targets: Targets, progress: Progress) -> dict[str, torch.Tensor]:
        """`loss_<name>` of each name in `weights`, weighted, float32 at least.

        Args:
            outputs: of the detector's model, with `class_logits` (B, ..., K).
            targets: for each of the B images `boxes` float32 (G, 4) in network pixels and `labels` int64 (G,), on the
                device of the outputs; G may be 0, also for all images.

        Raises:
            ValueError: another number of targets than images, another K in the outputs, or a label outside 0..K-1.
        """
        terms = self.unweighted(outputs, targets, progress)
        return {f"loss_{name}": weight * terms[f"loss_{name}"] for name, weight in self.weights.items()}

    def unweighted(self, outputs: Any, targets: Targets, progress: Progress) -> dict[str, torch.Tensor]:
        """The same terms before their weights, and those that are reported but never trained."""
        self._check(outputs, targets)
        with torch.autocast(outputs.class_logits.device.type, enabled=False):
            terms = self.terms(outputs, targets, progress)
        return {f"loss_{name}": term for name, term in terms.items()}

    @torch.no_grad()
    def matches(self, outputs: Any, targets: Targets, progress: Progress) -> Matches:
        """Which points learn which object, as the terms of the same arguments have it; raises as they do."""
        self._check(outputs, targets)
        with torch.autocast(outputs.class_logits.device.type, enabled=False):
            return Matches(self.objects(outputs, targets, progress), self.points(outputs), outputs.level_sizes)

    def assigner_name(self, progress: Progress) -> str:
        """The class that decides the matches, for a person who wants to read it: the assigner's, or the loss itself."""
        return type(getattr(self, "assigner", self)).__name__

    def _check(self, outputs: Any, targets: Targets) -> None:
        check_targets(
            targets,
            num_images=len(outputs.class_logits),
            predicted=outputs.class_logits.shape[-1],
            num_classes=self.num_classes,
        )

    def terms(self, outputs: Any, targets: Targets, progress: Progress) -> dict[str, torch.Tensor]:
        """The unweighted terms by their names, of arguments that have been checked, with autocast off."""
        raise NotImplementedError(f"{type(self).__name__} has to say what its terms are")

    def points(self, outputs: Any) -> torch.Tensor:
        """Where the points lie, or the middles of the anchors: (A, 2), x y in network pixels."""
        raise NotImplementedError(f"{type(self).__name__} has to say where its points lie")

    def objects(self, outputs: Any, targets: Targets, progress: Progress) -> torch.Tensor:
        """The number of the object in its image that each point learns, BACKGROUND or IGNORED: (B, A) int64."""
        raise NotImplementedError(f"{type(self).__name__} has to say what its points learn")
