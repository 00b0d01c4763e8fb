"""A student that learns from a teacher, or two that learn from each other: their settings, for detectors and classifiers.

Papers: KD, arXiv 1503.02531, and those of the methods.  What the methods compute stands in `public/losses/distillation*.py`,
what stands between the two networks in `public/models/distilled.py`.

    detector=Distilled(
        student=PPYOLOE(...), teacher=PPYOLOE(...), teacher_weights="pretrained/ppyoloe_plus_l_coco.pth", ...
        feature=CWD(weight=..., temperature=..., normalise=True), logits=None,
    )

A run's best.pth, and whatever is made of it, is the student alone.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from torch import nn

from public.losses.distillation import CWDLoss, DistilledLoss, FGDLoss, MGDLoss, MutualLoss, PKDLoss
from public.losses.distillation_classes import DKDLoss, KDLoss
from public.losses.distillation_heads import CrossKDLoss, LDLoss, PPYOLOELogitsLoss, SoftLabelsLoss
from public.models.distilled import Aligned, DistilledModel, Masked, MutualModel, Related
from public.protocols import Progress
from public.settings import (
    Count,
    Fraction,
    GoesWithEpochs,
    Name,
    Natural,
    NonNegative,
    Offers,
    Positive,
    Probability,
    check,
)

Network = Annotated[Any, Offers("build_model", "PPYOLOE(...) or ImageClassifier(...)")]

# ---------------------------------------------------------------------------------------------- on the maps of the necks


@dataclass(frozen=True, kw_only=True)
class CWD:
    """Channel-wise distillation, arXiv 2011.13256."""

    weight: Positive
    temperature: Positive
    normalise: bool  # both maps in each channel first

    needs_labels = False

    def __post_init__(self) -> None:
        check(self)

    def build_adapter(self, in_channels: int, out_channels: int) -> nn.Module:
        return Aligned(in_channels, out_channels, normalise=self.normalise)

    def build_method(self) -> CWDLoss:
        return CWDLoss(weight=self.weight, temperature=self.temperature)


@dataclass(frozen=True, kw_only=True)
class PKD:
    """Pearson's correlation of the channels, arXiv 2207.02039; maps of other sizes are resized."""

    weight: Positive

    is_resized = True
    needs_labels = False

    def __post_init__(self) -> None:
        check(self)

    def build_adapter(self, in_channels: int, out_channels: int) -> nn.Module:
        return Aligned(in_channels, out_channels, normalise=True, resize=True)

    def build_method(self) -> PKDLoss:
        return PKDLoss(weight=self.weight)


@dataclass(frozen=True, kw_only=True)
class MGD:
    """Masked generative distillation, arXiv 2205.01529."""

    weight: Positive
    masked: Fraction  # share of the places that are hidden

    needs_labels = False

    def __post_init__(self) -> None:
        check(self)

    def build_adapter(self, in_channels: int, out_channels: int) -> nn.Module:
        return Masked(in_channels, out_channels, share=self.masked)

    def build_method(self) -> MGDLoss:
        return MGDLoss(weight=self.weight)


@dataclass(frozen=True, kw_only=True)
class FGD:
    """Focal and global distillation, arXiv 2111.11837."""

    weight: Positive
    foreground: NonNegative  # alpha
    background: NonNegative  # beta
    attention: NonNegative  # gamma
    relation: NonNegative  # lambda
    temperature: Positive
    normalise: bool  # both maps in each channel first, as PaddleDetection does

    def __post_init__(self) -> None:
        check(self)

    def build_adapter(self, in_channels: int, out_channels: int) -> nn.Module:
        return Related(in_channels, out_channels, normalise=self.normalise)

    def build_method(self) -> FGDLoss:
        weights = {name: getattr(self, name) for name in ("foreground", "background", "attention", "relation")}
        return FGDLoss(weight=self.weight, temperature=self.temperature, **weights)


# ---------------------------------------------------------------------------------------------- on the outputs


@dataclass(frozen=True, kw_only=True)
class LD:
    """Localisation distillation, arXiv 2102.12252, for heads that predict distributions of distances."""

    weight: Positive
    temperature: Positive
    region: Probability  # gamma, of the valuable region around positive points; 1: there is none

    families = ("PPYOLOE", "PicoDet")  # whose heads it fits
    fields_alike = ("strides", "reg_max", "grid_cell_offset")  # in which student and teacher have to agree

    def __post_init__(self) -> None:
        check(self)

    def build_method(self, teacher: Any) -> LDLoss:
        return LDLoss(weight=self.weight, temperature=self.temperature, region=self.region)


@dataclass(frozen=True, kw_only=True)
class PPYOLOELogits:
    """PaddleDetection's terms on classes, boxes and distributions; the teacher decides which points learn an object."""

    weight: Positive
    cls: NonNegative
    iou: NonNegative
    dfl: NonNegative
    # of the class scores of positive points.  Of a score that is wrong by d among K the term is about d ** 2 / (2 K ** 2), so
    # that PaddleDetection's 20,000, for COCO's 80 classes, is 3.125 K ** 2 for K: 28 for 3, 1,250 for 20
    kl: NonNegative
    beta: NonNegative  # of the quality focal loss
    temperature: Positive  # of kl

    families = ("PPYOLOE", "PicoDet")
    fields_alike = ("strides", "reg_max", "grid_cell_offset")
    is_assigned_by_teacher = True

    def __post_init__(self) -> None:
        check(self)

    def build_method(self, teacher: Any) -> PPYOLOELogitsLoss:
        weights = {name: getattr(self, name) for name in ("cls", "iou", "dfl", "kl")}
        return PPYOLOELogitsLoss(weight=self.weight, beta=self.beta, temperature=self.temperature, **weights)


@dataclass(frozen=True, kw_only=True)
class CrossKD:
    """Cross-head distillation, arXiv 2306.11369, for heads with towers."""

    weight: Positive
    cls: NonNegative
    box: NonNegative
    beta: NonNegative  # of the quality focal loss
    layers: Count  # of the towers, from their beginning, in which the student's stand for the teacher's

    families = ("RetinaNet", "FCOS")
    fields_alike = ("neck_channels", "strides", "anchor_scales", "anchor_ratios")

    def __post_init__(self) -> None:
        check(self)

    def build_method(self, teacher: Any) -> CrossKDLoss:
        decode = teacher.build_decoder().decode
        return CrossKDLoss(decode=decode, weight=self.weight, cls=self.cls, box=self.box, beta=self.beta)


@dataclass(frozen=True, kw_only=True)
class SoftLabels:
    """The teacher's scores and boxes at all points, which needs no labels; the terms are those of CrossKD."""

    weight: Positive
    cls: NonNegative
    box: NonNegative
    beta: NonNegative  # of the quality focal loss

    families = ("PPYOLOE", "PicoDet", "RetinaNet", "YOLOX", "YOLOF")
    fields_alike = ("strides", "reg_max", "grid_cell_offset", "anchor_scales", "anchor_ratios")
    needs_labels = False

    def __post_init__(self) -> None:
        check(self)

    def build_method(self, teacher: Any) -> SoftLabelsLoss:
        decode = teacher.build_decoder().decode
        return SoftLabelsLoss(decode=decode, weight=self.weight, cls=self.cls, box=self.box, beta=self.beta)


@dataclass(frozen=True, kw_only=True)
class KD:
    """Knowledge distillation of classes, arXiv 1503.02531."""

    weight: Positive
    temperature: Positive

    families = ("ImageClassifier",)
    fields_alike = ("num_classes",)
    needs_labels = False

    def __post_init__(self) -> None:
        check(self)

    def build_method(self, teacher: Any = None) -> KDLoss:
        return KDLoss(weight=self.weight, temperature=self.temperature)


@dataclass(frozen=True, kw_only=True)
class DKD:
    """Decoupled knowledge distillation, arXiv 2203.08679."""

    weight: Positive
    target: NonNegative  # alpha
    others: NonNegative  # beta
    temperature: Positive
    warmup_epochs: Annotated[NonNegative, GoesWithEpochs()]

    families = ("ImageClassifier",)
    fields_alike = ("num_classes",)

    def __post_init__(self) -> None:
        check(self)

    def build_method(self, teacher: Any = None) -> DKDLoss:
        parts = {name: getattr(self, name) for name in ("target", "others", "temperature", "warmup_epochs")}
        return DKDLoss(weight=self.weight, **parts)


# ---------------------------------------------------------------------------------------------- the pairs


@dataclass(frozen=True, kw_only=True)
class Distilled:
    """A student and its teacher, detectors or classifiers."""

    student: Network
    teacher: Network
    teacher_weights: (
        Name | None
    )  # as `starting_weights`: a checkpoint, an experiment, a run; None: initial values, to try
    teacher_precision: Literal["float32", "bf16", "fp16"]
    feature: Annotated[Any, Offers("build_adapter", "CWD(...)")] | None  # on the maps of the necks
    logits: Annotated[Any, Offers("build_method", "LD(...) or KD(...)")] | None  # on the outputs
    factor: Positive  # of all terms of the loss, the student's own too
    stop_epoch: Annotated[Natural | None, GoesWithEpochs()]  # from then on the student learns alone; None: never
    own_loss: bool = (
        True  # False: the student learns from the teacher alone, and what the data say of objects is not used
    )

    def __post_init__(self) -> None:
        """
        Raises:
            ValueError: student and teacher do not belong together, or not to the method, naming what differs; without the
                student's own loss a method needs labels, or nothing is learnt after `stop_epoch`.
        """
        check(self)
        check_pair(self.student, self.teacher, "teacher")
        if self.feature is None and self.logits is None:
            raise ValueError("Distilled: feature and logits are None, so nothing is learnt from the teacher")
        if self.feature is not None:
            check_levels(self.feature, self.student, self.teacher)
        if self.logits is not None:
            check_method(self.logits, self.student, self.teacher)
        if not self.own_loss:
            self._check_without_labels()

    def _check_without_labels(self) -> None:
        for field in ("feature", "logits"):
            method = getattr(self, field)
            if method is not None and getattr(method, "needs_labels", True):
                raise ValueError(
                    f"Distilled: own_loss is False, so there are no labels, but {field}={type(method).__name__}(...) asks "
                    "where objects are; CWD, PKD, MGD, SoftLabels and KD do not"
                )
        if self.stop_epoch is not None:
            raise ValueError(
                f"Distilled: own_loss is False and stop_epoch is {self.stop_epoch}: nothing would be learnt from then on"
            )

    @property
    def used(self) -> Any:
        """The settings of the network that is used in the end."""
        return self.student

    @property
    def num_classes(self) -> int:
        return self.student.num_classes

    @property
    def ready_epoch(self) -> int:
        """As of the student's settings."""
        return getattr(self.student, "ready_epoch", 0)

    def build_model(self) -> DistilledModel:
        """Both networks and what stands between them, in train mode; the student has the initial values that it has alone.

        The teacher's weights are loaded by who trains.

        Raises:
            ValueError: maps of necks are to be compared, but a network has none, or not as many levels as the other.
        """
        student, teacher = self.student.build_model(), self.teacher.build_model()
        adapters: list[nn.Module] = []
        if self.feature is not None:
            adapters = [self.feature.build_adapter(*channels) for channels in level_channels(self, student, teacher)]
        return DistilledModel(
            student=student,
            teacher=teacher,
            adapters=adapters,
            cross=getattr(self.logits, "layers", None),
            needs_outputs=self.logits is not None,
            teacher_precision=self.teacher_precision,
        )

    def build_loss(self) -> DistilledLoss:
        methods: list[Any] = [] if self.feature is None else [self.feature.build_method()]
        methods += [] if self.logits is None else [self.logits.build_method(self.teacher)]
        return DistilledLoss(
            base=self.student.build_loss(),
            methods=tuple(methods),
            factor=self.factor,
            stop_epoch=self.stop_epoch,
            assigned_by_teacher=getattr(self.logits, "is_assigned_by_teacher", False),
            own=self.own_loss,
        )

    def build_decoder(self) -> Any:
        return self.student.build_decoder()

    def on_epoch(self, model: Any, epoch: int) -> None:
        """Called before each epoch, counted from 0, and when a run is resumed."""
        model.is_resting = self.stop_epoch is not None and epoch >= self.stop_epoch
        self.student.on_epoch(model.student, epoch)

    def after_step(self, model: Any, average: Any, progress: Progress) -> None:
        """Called after each optimizer step: what the student's settings do then, such as pruning."""
        if change := getattr(self.student, "after_step", None):
            change(model.student, None if average is None else average.student, progress)


@dataclass(frozen=True, kw_only=True)
class Mutual:
    """Two classifiers that learn together, arXiv 1706.00384; `student` is the one that is evaluated and used."""

    student: Network
    peer: Network
    weight: Positive  # of what each learns of the other
    temperature: Positive

    def __post_init__(self) -> None:
        """
        Raises:
            ValueError: the two do not belong together, naming what differs.
        """
        check(self)
        check_pair(self.student, self.peer, "peer")
        check_method(KD(weight=self.weight, temperature=self.temperature), self.student, self.peer)

    @property
    def used(self) -> Any:
        return self.student

    @property
    def num_classes(self) -> int:
        return self.student.num_classes

    def build_model(self) -> MutualModel:
        return MutualModel(student=self.student.build_model(), peer=self.peer.build_model())

    def build_loss(self) -> MutualLoss:
        method = KD(weight=self.weight, temperature=self.temperature).build_method()
        return MutualLoss(base=self.student.build_loss(), method=method, weight=self.weight)

    def on_epoch(self, model: Any, epoch: int) -> None:
        self.student.on_epoch(model.student, epoch)
        self.peer.on_epoch(model.peer, epoch)

    def after_step(self, model: Any, average: Any, progress: Progress) -> None:
        """As of `Distilled`, for both."""
        for name in ("student", "peer"):
            if change := getattr(getattr(self, name), "after_step", None):
                change(getattr(model, name), getattr(average, name, None), progress)


def check_pair(student: Any, other: Any, name: str) -> None:
    """Raises ValueError where the two are no pair: a detector and a classifier, or other numbers of classes."""
    kinds = ["detector" if hasattr(settings, "build_decoder") else "classifier" for settings in (student, other)]
    if kinds[0] != kinds[1]:
        raise ValueError(f"the student is a {kinds[0]}, the {name} a {kinds[1]}")
    if student.num_classes != other.num_classes:
        raise ValueError(f"the student has num_classes = {student.num_classes}, the {name} {other.num_classes}")


def check_method(method: Any, student: Any, other: Any) -> None:
    """Raises ValueError where a method does not fit the heads of the two, naming both."""
    families = getattr(method, "families", ())
    bare = [s.network if hasattr(s, "prepare") else s for s in (student, other)]  # before one is quantised or pruned
    kinds = [{kind.__name__ for kind in type(settings).__mro__} for settings in bare]
    common = kinds[0] & kinds[1] & set(families)
    names = [type(settings).__name__ for settings in (student, other)]
    if families and not common:
        raise ValueError(
            f"{type(method).__name__} compares the heads of two {' or of two '.join(families)}; the student is a {names[0]}, "
            f"the teacher a {names[1]}"
        )
    if "PPYOLOEAux" in kinds[0] and getattr(method, "is_assigned_by_teacher", False):
        raise ValueError(f"{type(method).__name__}: the student is a {names[0]}, whose second head assigns its points")
    for field in getattr(method, "fields_alike", ()):
        own, others = (getattr(settings, field, None) for settings in (student, other))
        if own != others:
            raise ValueError(f"{type(method).__name__}: the student has {field} = {own}, the teacher {others}")
    layers = getattr(method, "layers", None)
    convs = [getattr(settings, "head_convs", None) for settings in (student, other)]
    if layers is not None and any(count is not None and layers > count for count in convs):
        raise ValueError(f"CrossKD.layers is {layers}, but the towers have {convs[0]} and {convs[1]} layers")


def check_levels(method: Any, student: Any, other: Any) -> None:
    """Raises ValueError where the strides of the necks' maps are known and do not fit, naming both."""
    own, others = (getattr(settings, "strides", None) for settings in (student, other))
    is_resized = getattr(method, "is_resized", False)
    if own is None or others is None or own == others or (is_resized and len(own) == len(others)):
        return
    raise ValueError(
        f"{type(method).__name__} compares the maps of the necks level by level; the student's strides are {own}, the "
        f"teacher's {others}"
    )


def level_channels(pair: "Distilled", student: Any, teacher: Any) -> list[tuple[int, int]]:
    """The channels of each level: (the student's, the teacher's).

    Raises:
        ValueError: a network has no neck, or the numbers of levels differ.
    """
    found = []
    for name, settings, model in (("student", pair.student, student), ("teacher", pair.teacher, teacher)):
        channels = getattr(getattr(model, "neck", None), "out_channels", None)
        if channels is None:
            raise ValueError(f"feature compares the maps of two necks; the {name}, a {type(model).__name__}, has none")
        levels = len(getattr(settings, "strides", (None,)))  # CenterNet and YOLOF have one
        found.append((channels,) * levels if isinstance(channels, int) else tuple(channels))
    if len(found[0]) != len(found[1]):
        raise ValueError(f"the student's neck has {len(found[0])} levels, the teacher's {len(found[1])}")
    return list(zip(*found))
