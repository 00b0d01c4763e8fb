"""A student that learns beside a teacher, or beside another student, and what stands between the two.

Papers: FGD, arXiv 2111.11837 (its relation blocks are those of GCNet, arXiv 1904.11492); MGD, arXiv 2205.01529; PKD, arXiv
2207.02039; CrossKD, arXiv 2306.11369; DML, arXiv 1706.00384.  What is compared, and how, stands in `public.losses`:
`distillation.py`, `distillation_heads.py` and `distillation_classes.py`.
Deviations:
- Maps are normalised by the statistics of the whole batch, over all processes.
- FGD's adapters are trained.  miemiedetection hands the optimizer the student alone, so that its own keep their initial
  values.

Legend: B batch, C channels, H W height and width, L levels.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from public.parallel.collectives import gather_over_ranks
from public.parts import decide_lent, lent_parts
from public.precision import at_least_float32, autocast, without_autocast

EPS = 1e-6  # beside the variance of a channel


class DistilledOutputs(NamedTuple):
    """What a student beside its teacher returns in train mode.

    `student` and `teacher`, raw outputs of both; `levels`, of each level of the necks what its adapter makes of the two maps;
    `cross`, raw outputs of the teacher's head on what is in the middle of the student's; `image_size`, (height, width) in
    pixels; `resting`, 0, which holds on to the adapters while the teacher rests.  Then, and where no method asks for them,
    `teacher` and `cross` are None and `levels` is empty.
    """

    student: Any
    teacher: Any
    levels: tuple[tuple[torch.Tensor, ...], ...]
    cross: Any
    image_size: tuple[int, int]
    resting: torch.Tensor


class MutualOutputs(NamedTuple):
    """What a student beside its peer returns in train mode: raw outputs of both."""

    student: Any
    peer: Any


class DistilledModel(nn.Module):
    """Images (B, in_chans, H, W) -> the student's outputs in eval mode, DistilledOutputs in train mode.

    The teacher stays in eval mode and gets no gradient.  Its forward is one a step, on the same images, in its own precision.

    Args:
        student: the network that is used in the end.
        teacher: one with its weights.
        adapters: of each level of the necks, (student's map, teacher's map) -> what is compared; none: no maps are.
        cross: the first layers of the teacher's towers that the student's own stand for; None: no head is crossed.
        needs_outputs: whether the teacher's outputs are compared, and not its maps alone.
        teacher_precision: float32, bf16 or fp16.

    Attributes:
        used: the part that is used in the end.  `teacher` and `adapters` are for training only.
        is_resting: the teacher is not asked any more: the family sets it by the epoch alone, so no checkpoint holds it.
        teacher_file: where the teacher's weights come from, for the manifest; None: initial values.
    """

    used = "student"
    training_only = ("adapters", "teacher")

    def __init__(
        self,
        *,
        student: Any,
        teacher: Any,
        adapters: Sequence[nn.Module],
        cross: int | None,
        needs_outputs: bool,
        teacher_precision: str,
    ):
        super().__init__()
        self.student = student
        decide_lent(student)  # its own parts for training stay state, whatever is frozen later
        self.adapters = nn.ModuleList(adapters)
        self.teacher: Any = teacher.eval().requires_grad_(False)
        self.cross = cross
        self.needs_outputs = needs_outputs
        self.teacher_precision = teacher_precision
        self.num_classes = student.num_classes
        self.class_layers = tuple(f"student.{name}" for name in student.class_layers)
        self.input_layer = f"student.{student.input_layer}"
        self.is_resting = False
        self.teacher_file: dict[str, str] | None = None

    def train(self, mode: bool = True) -> "DistilledModel":
        """As for any module; the teacher, which a copy for the average has not, stays in eval mode."""
        super().train(mode)
        for name in lent_parts(self):
            getattr(self, name).eval()
        return self

    def forward(self, images: torch.Tensor) -> Any:
        """
        Raises:
            ValueError: the maps or the outputs of the two differ in number or shape, naming both.
        """
        if not self.training:
            return self.student(images)
        size = (images.shape[2], images.shape[3])
        if self.is_resting:
            held = [p.sum() for p in self.adapters.parameters()]
            resting = 0 * torch.stack(held).sum() if held else images.new_zeros(())
            return DistilledOutputs(self.student(images), None, (), None, size, resting)
        maps, middle = [], Middle([], [])
        with ExitStack() as hooks:
            if self.adapters:
                hooks.enter_context(noted(self.student.neck, maps))
            if self.cross is not None:
                hooks.enter_context(noted(self.student.head.cls_tower[self.cross - 1], middle.classes))
                hooks.enter_context(noted(self.student.head.reg_tower[self.cross - 1], middle.boxes))
            outputs = self.student(images)
        taught, teacher_maps = self._teach(images)
        levels: tuple[tuple[torch.Tensor, ...], ...] = ()
        if self.adapters:
            check_maps(maps[0], teacher_maps[0], len(self.adapters))
            levels = tuple(
                adapter(*pair) for adapter, pair in zip(self.adapters, zip(maps[0], teacher_maps[0], strict=True))
            )
        crossed = None if self.cross is None else cross_outputs(self.teacher.head, self.cross, middle, size)
        return DistilledOutputs(outputs, taught, levels, crossed, size, images.new_zeros(()))

    @torch.no_grad()
    def _teach(self, images: torch.Tensor) -> tuple[Any, list]:
        """The teacher's outputs, None where nobody asks for them, and the maps of its neck."""
        notes: list = []
        with autocast(self.teacher_precision, images.device) if images.device.type != "meta" else ExitStack():
            if not self.needs_outputs:
                return None, [self.teacher.neck(self.teacher.backbone(images))]
            with noted(self.teacher.neck, notes) if self.adapters else ExitStack():
                return self.teacher(images), notes


class MutualModel(nn.Module):
    """Images (B, in_chans, H, W) -> the student's outputs in eval mode, MutualOutputs of it and its peer in train mode.

    Both are trained; the peer is for training only.
    """

    used = "student"
    training_only = ("peer",)

    def __init__(self, *, student: Any, peer: nn.Module):
        super().__init__()
        self.student = student
        self.peer = peer
        decide_lent(student)
        self.num_classes = student.num_classes
        self.class_layers = tuple(f"student.{name}" for name in student.class_layers)
        self.input_layer = f"student.{student.input_layer}"

    def forward(self, images: torch.Tensor) -> Any:
        outputs = self.student(images)
        return MutualOutputs(outputs, self.peer(images)) if self.training else outputs


@contextmanager
def noted(module: nn.Module, notes: list) -> Iterator[None]:
    """Within it, `notes` gets the output of each call of `module`; nothing stays on the module."""
    handle = module.register_forward_hook(lambda _module, _inputs, output: notes.append(output))
    try:
        yield
    finally:
        handle.remove()


def check_maps(student: Sequence[torch.Tensor], teacher: Sequence[torch.Tensor], num_levels: int) -> None:
    """Raises ValueError where the maps (B, C, H, W) of the two necks differ in number, naming both."""
    if not len(student) == len(teacher) == num_levels:
        raise ValueError(
            f"the student's neck has {len(student)} levels, the teacher's {len(teacher)}; maps can be compared where both "
            f"have as many, here {num_levels}"
        )


# ---------------------------------------------------------------------------------------------- the crossed head


class Middle(NamedTuple):
    """What is in the middle of a student's head: of each level the maps (B, C, H, W) of both towers."""

    classes: list[torch.Tensor]
    boxes: list[torch.Tensor]


def cross_outputs(head: Any, layers: int, middle: Middle, image_size: tuple[int, int]) -> Any:
    """What the rest of a teacher's head makes of the middle of a student's, as raw outputs of the head.

    Source: CrossKD, arXiv 2306.11369, section 3.2.  The gradient goes through the teacher's layers, which are not trained.

    Args:
        head: with `cls_tower` and `reg_tower`, of RetinaNet or FCOS.
        layers: of the towers that are left out.
    """
    rest = copy.copy(head)  # the same layers, without a place in any network
    rest._modules = head._modules | {
        "cls_tower": head.cls_tower[layers:],
        "reg_tower": head.reg_tower[layers:],
    }
    classes, boxes = rest(middle.classes, image_size), rest(middle.boxes, image_size)
    return boxes._replace(class_logits=classes.class_logits)


# ---------------------------------------------------------------------------------------------- adapters of a level


def normalised(x: torch.Tensor) -> torch.Tensor:
    """`x` (B, C, H, W) with mean 0 and deviation 1 in each channel, over B, H, W and all processes, at least float32."""
    x = at_least_float32(x)
    with without_autocast(x.device):
        centred = x - gather_over_ranks(x.mean((0, 2, 3))).mean(0)[:, None, None]
        variance = gather_over_ranks(centred.square().mean((0, 2, 3))).mean(0)  # (C,)
        return centred * torch.rsqrt(variance + EPS)[:, None, None]


class Aligned(nn.Module):
    """(student's map, teacher's map) -> both, with as many channels, and normalised where that is asked for.

    Where the channels differ, a 1x1 convolution brings the student's to the teacher's.

    Args:
        in_channels: of the student's map; out_channels: of the teacher's.
        normalise: see `normalised`.
        resize: where the maps differ in size, the student's is resized to the teacher's, bilinearly; else that is an error.
    """

    def __init__(self, in_channels: int, out_channels: int, *, normalise: bool, resize: bool = False):
        super().__init__()
        self.align = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)
        self.normalise = normalise
        self.resize = resize

    def forward(self, student: torch.Tensor, teacher: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """
        Raises:
            ValueError: the maps differ in height or width, naming both shapes.
        """
        if student.shape[2:] != teacher.shape[2:]:
            if not self.resize:
                raise ValueError(
                    f"a map of the student's neck has the shape {tuple(student.shape)}, the teacher's "
                    f"{tuple(teacher.shape)}: their strides differ, and this method compares cell by cell; PKD resizes"
                )
            student = functional.interpolate(student, teacher.shape[2:], mode="bilinear")
        student = self.align(student)
        if self.normalise:
            return normalised(student), normalised(teacher)
        return at_least_float32(student), at_least_float32(teacher)


class Masked(nn.Module):
    """(student's map, teacher's map) -> what two convolutions generate of the masked student's map, and the teacher's.

    Source: MGD, arXiv 2205.01529, section 3.1; one mask of places for all channels, drawn anew in each step.

    Args:
        share: of the places that are masked.
    """

    def __init__(self, in_channels: int, out_channels: int, *, share: float):
        super().__init__()
        self.aligned = Aligned(in_channels, out_channels, normalise=False)
        self.share = share
        self.generate = nn.Sequential(
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )

    def forward(self, student: torch.Tensor, teacher: torch.Tensor) -> tuple[torch.Tensor, ...]:
        student, teacher = self.aligned(student, teacher)
        draws = torch.rand(len(student), 1, *student.shape[2:], device=student.device)  # of the step's own stream
        return at_least_float32(self.generate(student * (draws >= self.share))), teacher


class Related(nn.Module):
    """(student's map, teacher's map) -> both, and both with their global relations added: what FGD compares.

    Source: FGD, arXiv 2111.11837, sections 3.2 and 3.3, with a block of relations for each side.

    Args:
        normalise: see `normalised`.
    """

    def __init__(self, in_channels: int, out_channels: int, *, normalise: bool):
        super().__init__()
        self.aligned = Aligned(in_channels, out_channels, normalise=normalise)
        self.student_relations = Relations(out_channels)
        self.teacher_relations = Relations(out_channels)

    def forward(self, student: torch.Tensor, teacher: torch.Tensor) -> tuple[torch.Tensor, ...]:
        student, teacher = self.aligned(student, teacher)
        with without_autocast(student.device):
            return student, teacher, self.student_relations(student), self.teacher_relations(teacher)


class Relations(nn.Module):
    """A map plus what its places say together: a global-context block.  (B, C, H, W) -> (B, C, H, W)

    Source: GCNet, arXiv 1904.11492, section 3.3.  It starts as the map itself: its last convolution is 0.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.attention = nn.Conv2d(channels, 1, 1)
        nn.init.kaiming_normal_(self.attention.weight, mode="fan_in")
        last = nn.Conv2d(channels // 2, channels, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.change = nn.Sequential(
            nn.Conv2d(channels, channels // 2, 1), nn.LayerNorm([channels // 2, 1, 1]), nn.ReLU(), last
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = self.attention(x).flatten(2).softmax(-1)  # (B, 1, H * W)
        context = (x.flatten(2) * weights).sum(-1)  # (B, C)
        return x + self.change(context[..., None, None])
