"""The loss of a student beside its teacher: its own terms, and those of what it learns from the teacher's maps and outputs.

Papers: CWD, Channel-wise Knowledge Distillation for Dense Prediction, arXiv 2011.13256; FGD, Focal and Global Knowledge
Distillation for Detectors, arXiv 2111.11837; MGD, Masked Generative Distillation, arXiv 2205.01529; PKD, arXiv 2207.02039.
What two networks' maps go through before they are compared stands in `public.models.distilled`; methods on the outputs in
`distillation_heads.py` and `distillation_classes.py`.
Deviations:
- Means over images are those over the images of all processes.
- FGD: an image without objects counts in the relations alone, as in PaddleDetection; the originals have none such.

Legend: B images of this process, N those of all, C channels, H W height and width, G ground truths of one image.
"""

import copy
from typing import Any, Protocol

import torch
from torch.nn import functional as F

from public.losses.dense import Targets
from public.parallel.collectives import share_of_sum
from public.precision import at_least_float32, without_autocast
from public.protocols import Progress


class Method(Protocol):
    """What a student learns from its teacher: of the maps of the necks, or of the outputs."""

    name: str  # of its term
    weight: float

    def __call__(self, outputs: Any, targets: Any, context: Any) -> torch.Tensor:
        """The term before its weight: outputs as DistilledOutputs, targets as the student's own loss takes them."""


class DistilledLoss:
    """Callable: `loss(outputs, targets, progress)`: the terms of the student's own loss, and those of the methods.

    Args:
        base: the student's own loss.
        methods: what is learnt from the teacher; 0 from `stop_epoch` on.
        factor: of all terms; PaddleDetection's pairs have 0.125.
        stop_epoch: from this epoch on, counted from 0, the student learns alone; None: never.
        assigned_by_teacher: a base with assigners: whether the teacher's predictions decide which points learn an object,
            while it is asked and the task-aligned assigner is in use.
        own: whether the base's terms are learnt as well; False: the targets are not looked at.

    Raises:
        ValueError: a method needs the assigners that a PPYOLOELoss has, and the base has none.
    """

    def __init__(
        self,
        *,
        base: Any,
        methods: tuple[Method, ...],
        factor: float,
        stop_epoch: int | None,
        assigned_by_teacher: bool = False,
        own: bool = True,
    ):
        self.base = base
        self.own = own
        self.methods = methods
        self.factor = factor
        self.stop_epoch = stop_epoch
        self.assigned_by_teacher = assigned_by_teacher
        self.needs_assignment = any(getattr(method, "needs_assignment", False) for method in methods)
        if self.needs_assignment and not hasattr(base, "static_assigner_epochs"):
            raise ValueError(
                f"the method learns at the points that an assigner chooses; {type(base).__name__} has none"
            )

    def __call__(self, outputs: Any, targets: Any, progress: Progress) -> dict[str, torch.Tensor]:
        """`loss_<name>` of each term, weighted, float32 at least.

        Args:
            outputs: DistilledOutputs of train mode; targets and progress: as the student's own loss takes them.

        Raises:
            ValueError: outputs of another kind, such as those of eval mode; and as the student's own loss.
        """
        if not hasattr(outputs, "resting"):
            raise ValueError(
                "the outputs are the student's alone, those of eval mode; call model.train() for this loss"
            )
        is_over = self.stop_epoch is not None and progress.epoch >= self.stop_epoch
        context = {"base": self.base, "progress": progress}
        if self.needs_assignment and not is_over:
            is_teachers = self.assigned_by_teacher and progress.epoch >= self.base.static_assigner_epochs
            known = Assigned(self.base, outputs.teacher if is_teachers else outputs.student)
            terms = known(outputs.student, targets, progress)
            context["assignment"] = known.assignment
        else:
            terms = self.base(outputs.student, targets, progress) if self.own else {}
        with without_autocast(outputs.resting.device):
            for method in self.methods:
                term = at_least_float32(outputs.resting) if is_over else method(outputs, targets, context)
                terms[f"loss_{method.name}"] = method.weight * term
        return {name: self.factor * term for name, term in terms.items()}


class Assigned:
    """Calls a PPYOLOELoss once, with the assignment that the predictions of `source` lead to, and keeps it."""

    def __init__(self, base: Any, source: Any):
        self.source = source
        self.assignment: Any = None
        self.loss = copy.copy(base)
        self.loss.assign = self._assign
        self._assign_by = base.assign

    def _assign(self, outputs: Any, targets: Targets, progress: Progress) -> Any:
        self.assignment = self._assign_by(self.source, targets, progress)
        return self.assignment

    def __call__(self, outputs: Any, targets: Targets, progress: Progress) -> dict[str, torch.Tensor]:
        return self.loss(outputs, targets, progress)


class MutualLoss:
    """Two networks that learn together: `loss(outputs, targets, progress)`, the terms of both, and what each learns of the
    other's.

    Source: Deep Mutual Learning, arXiv 1706.00384, equations 6 and 7, both updated in the same step.

    Args:
        base: the loss of each alone.
        method: (one's logits, the other's logits) -> a term, such as that of KD; the other gets no gradient.
        weight: of these terms.
    """

    def __init__(self, *, base: Any, method: Any, weight: float):
        self.base, self.method, self.weight = base, method, weight

    def __call__(self, outputs: Any, targets: Any, progress: Progress) -> dict[str, torch.Tensor]:
        """`loss_<name>` of the student, `loss_peer_<name>` of its peer, `loss_mutual` and `loss_peer_mutual`.

        Raises:
            ValueError: the outputs are those of eval mode.
        """
        if not hasattr(outputs, "peer"):
            raise ValueError(
                "the outputs are the student's alone, those of eval mode; call model.train() for this loss"
            )
        terms = {}
        pairs = {"": (outputs.student, outputs.peer), "peer_": (outputs.peer, outputs.student)}
        for start, (own, other) in pairs.items():
            for name, term in self.base(own, targets, progress).items():
                terms[f"loss_{start}{name.removeprefix('loss_')}"] = term
            with without_autocast(own.device):
                terms[f"loss_{start}mutual"] = self.weight * self.method.of_logits(
                    own, other.detach(), targets, progress
                )
        return terms


# ---------------------------------------------------------------------------------------------- the maps of the necks


class FeatureMethod:
    """A method on maps: the sum over the levels of `of_level`.

    Args:
        weight: of the term.
    """

    name = "feature"

    def __init__(self, *, weight: float):
        self.weight = weight

    def __call__(self, outputs: Any, targets: Any, context: Any) -> torch.Tensor:
        return sum((self.of_level(*level) for level in outputs.levels), start=outputs.resting)

    def of_level(self, *maps: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError(f"{type(self).__name__} has to say what it compares")


class CWDLoss(FeatureMethod):
    """Each channel's map as a distribution over its places: KL of the teacher's from the student's.

    Source: arXiv 2011.13256, equations 2 to 4: times temperature ** 2, divided by channels and images.
    """

    def __init__(self, *, weight: float, temperature: float):
        super().__init__(weight=weight)
        self.temperature = temperature

    def of_level(self, *maps: torch.Tensor) -> torch.Tensor:
        student, teacher = (F.log_softmax(x.flatten(2) / self.temperature, -1) for x in maps)  # (B, C, H * W)
        divergences = (teacher.exp() * (teacher - student)).sum(-1)  # (B, C)
        return self.temperature**2 * divergences.mean()


class PKDLoss(FeatureMethod):
    """Half the mean square of the difference of normalised maps: 1 - Pearson's correlation, mean over channels.

    Source: arXiv 2207.02039, equation 5; the maps are normalised by the adapter.
    """

    def of_level(self, *maps: torch.Tensor) -> torch.Tensor:
        student, teacher = maps
        return F.mse_loss(student, teacher) / 2


class MGDLoss(FeatureMethod):
    """The sum of the squares of the difference between what is generated and the teacher's map, mean over images.

    Source: arXiv 2205.01529, equation 5.
    """

    def of_level(self, *maps: torch.Tensor) -> torch.Tensor:
        generated, teacher = maps
        return F.mse_loss(generated, teacher, reduction="sum") / len(generated)


class FGDLoss:
    """The four terms of FGD.

    Source: arXiv 2111.11837, equations 4 to 11.

    Args:
        weight: of the whole term.
        foreground, background, attention, relation: the weights alpha, beta, gamma and lambda.
        temperature: of the attentions.
    """

    name = "feature"

    def __init__(
        self,
        *,
        weight: float,
        foreground: float,
        background: float,
        attention: float,
        relation: float,
        temperature: float,
    ):
        self.weight = weight
        self.foreground, self.background = foreground, background
        self.attention, self.relation = attention, relation
        self.temperature = temperature

    def __call__(self, outputs: Any, targets: Targets, context: Any) -> torch.Tensor:
        total = outputs.resting
        for level in outputs.levels:
            terms = self.of_level(*level, targets=targets, image_size=outputs.image_size)
            total = total + sum(getattr(self, name) * term for name, term in terms.items())
        return total

    def of_level(
        self,
        student: torch.Tensor,
        teacher: torch.Tensor,
        related_student: torch.Tensor,
        related_teacher: torch.Tensor,
        *,
        targets: Targets,
        image_size: tuple[int, int],
    ) -> dict[str, torch.Tensor]:
        """The four terms of one level, all maps (B, C, H, W)."""
        masks = [box_masks(target["boxes"], student.shape[2:], image_size) for target in targets]
        inside, outside = (torch.stack(parts)[:, None] for parts in zip(*masks))  # (B, 1, H, W) each
        has_objects = torch.tensor([len(target["boxes"]) > 0 for target in targets], device=student.device)
        count = share_of_sum(has_objects.to(student.dtype).sum())
        (places, channels), (own_places, own_channels) = (self.attentions(x) for x in (teacher, student))
        squares = (student - teacher).square() * places * channels
        attention = (own_places - places).abs().sum((1, 2, 3)) + (own_channels - channels).abs().sum((1, 2, 3))
        return {
            "foreground": (squares * inside).sum() / count,
            "background": (squares * outside).sum() / count,
            "attention": (attention * has_objects).sum() / count,
            "relation": F.mse_loss(related_student, related_teacher, reduction="sum") / len(student),
        }

    def attentions(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of maps (B, C, H, W): the attention to their places (B, 1, H, W), mean 1, and to their channels (B, C, 1, 1)."""
        sizes = x.abs()
        places = (sizes.mean(1, keepdim=True) / self.temperature).flatten(2).softmax(-1).view(len(x), 1, *x.shape[2:])
        channels = (sizes.mean((2, 3), keepdim=True) / self.temperature).softmax(1)
        return places * places[0].numel(), channels * x.shape[1]


def box_masks(
    boxes: torch.Tensor, size: tuple[int, int] | torch.Size, image_size: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Foreground and background of one image's map, (H, W) each; both 0 without a box.

    Source: FGD, arXiv 2111.11837, equation 4 and its code: in a box, from the cell of its first side to that of its last,
    both included, 1 / number of these cells, the larger where boxes overlap; elsewhere 1 / number of the cells outside.

    Args:
        boxes: (G, 4) in network pixels; size: (H, W) of the map; image_size: (height, width) in network pixels.
    """
    height, width = size
    if not len(boxes):
        nothing = torch.zeros(height, width, device=boxes.device)
        return nothing, nothing
    scale = boxes.new_tensor([width / image_size[1], height / image_size[0]]).repeat(2)
    left, top, right, bottom = (at_least_float32(boxes) * scale).unbind(-1)
    first_x, last_x, first_y, last_y = left.floor(), right.ceil(), top.floor(), bottom.ceil()
    x = torch.arange(width, device=boxes.device)
    y = torch.arange(height, device=boxes.device)
    in_columns = (x >= first_x[:, None]) & (x <= last_x[:, None])  # (G, W)
    in_rows = (y >= first_y[:, None]) & (y <= last_y[:, None])  # (G, H)
    shares = 1 / ((last_y - first_y + 1) * (last_x - first_x + 1))  # (G,)
    inside = (in_rows[:, :, None] & in_columns[:, None]) * shares[:, None, None]  # (G, H, W)
    foreground = inside.amax(0)
    is_outside = (foreground == 0).to(foreground.dtype)
    return foreground, is_outside / is_outside.sum().clamp(min=1)
