"""Cross entropy over classes, for labels and for mixtures of labels.

Label smoothing: Rethinking the Inception Architecture for Computer Vision, arXiv 1512.00567, section 7: the target is
(1 - s) times the label's distribution plus s / K for each class.  Mixtures of labels are what mixup (arXiv 1710.09412) and
CutMix (arXiv 1905.04899) train on.

Legend: B images of this process, K classes.
"""

import torch
from torch.nn import functional

from public.parallel.collectives import share_of_sum
from public.precision import at_least_float32
from public.protocols import Progress


class CrossEntropyLoss:
    """Callable: `loss(logits, targets, progress)` is `{"loss_cls": ...}`, the mean over the images of all processes.

    Args:
        num_classes: K.
        label_smoothing: s, in [0, 1); 0: none.

    Raises:
        ValueError: another s.
    """

    def __init__(self, *, num_classes: int, label_smoothing: float):
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing is {label_smoothing}; it must be at least 0 and below 1")
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing

    def __call__(
        self, logits: torch.Tensor, targets: torch.Tensor | dict[str, torch.Tensor], progress: Progress
    ) -> dict[str, torch.Tensor]:
        """The loss in float32, whatever the autocast; of float64 logits in float64.

        Args:
            logits: (B, K).
            targets: labels int64 (B,) in 0..K-1; or the share of each class, floating point (B, K); or a dict, as
                batches have it: `labels` and `other_labels`, int64 (B,), which are mixed into each other, and `shares`, (B,),
                that of `labels`.

        Raises:
            ValueError: shapes that do not belong together, or a label outside 0..K-1, naming both values.
        """
        with torch.autocast(logits.device.type, enabled=False):
            logits = at_least_float32(logits)
            if isinstance(targets, torch.Tensor):
                losses = self._losses(logits, targets)
            else:
                shares = targets["shares"].to(logits.dtype)
                losses = shares * self._losses(logits, targets["labels"])
                losses = losses + (1 - shares) * self._losses(logits, targets["other_labels"])
            num_images = torch.full((), len(logits), dtype=logits.dtype, device=logits.device)
            return {"loss_cls": losses.sum() / share_of_sum(num_images)}

    def _losses(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The loss of each image (B,)."""
        self._check(logits, targets)
        targets = targets.to(logits.dtype) if targets.is_floating_point() else targets
        return functional.cross_entropy(logits, targets, label_smoothing=self.label_smoothing, reduction="none")

    def _check(self, logits: torch.Tensor, targets: torch.Tensor) -> None:
        if logits.ndim != 2 or logits.shape[1] != self.num_classes:
            raise ValueError(f"logits of shape {tuple(logits.shape)} are not (images, {self.num_classes} classes)")
        is_soft = targets.is_floating_point()
        expected = tuple(logits.shape) if is_soft else (len(logits),)
        if tuple(targets.shape) != expected:
            raise ValueError(
                f"{'class shares' if is_soft else 'labels'} of shape {tuple(targets.shape)} do not belong to logits of shape "
                f"{tuple(logits.shape)}; {expected} is needed"
            )
        if not is_soft and len(targets) and not targets.is_cuda:  # a GPU would have to be waited for
            lowest, highest = torch.stack(targets.aminmax()).tolist()
            if lowest < 0 or highest >= self.num_classes:
                raise ValueError(
                    f"labels from {lowest} to {highest} for {self.num_classes} classes (0 to {self.num_classes - 1}): the "
                    "data and the network disagree about the classes"
                )
