"""What the losses of all dense detectors share: their arguments are checked, autocast is left, terms are weighted.

Legend: B batch, G ground truths of one image, K classes.
"""

from typing import Any

import torch

from public.losses.targets import check_targets
from public.protocols import Progress

Targets = list[dict[str, torch.Tensor]]


class DenseLoss:
    """Callable: `loss(outputs, targets, progress)` is a dict of weighted scalars whose sum is what is trained.

    A detector's loss derives from it and gives `terms`.

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
        check_targets(
            targets,
            num_images=len(outputs.class_logits),
            predicted=outputs.class_logits.shape[-1],
            num_classes=self.num_classes,
        )
        with torch.autocast(outputs.class_logits.device.type, enabled=False):
            terms = self.terms(outputs, targets, progress)
        return {f"loss_{name}": term for name, term in terms.items()}

    def terms(self, outputs: Any, targets: Targets, progress: Progress) -> dict[str, torch.Tensor]:
        """The unweighted terms by their names, of arguments that have been checked, with autocast off."""
        raise NotImplementedError(f"{type(self).__name__} has to say what its terms are")
