"""The settings of an experiment as values, and how they are written to JSON and read back.

An experiment's `config.py` states one `DetectionConfig(...)` or `ClassificationConfig(...)`.  A field that decides a result
has no default here: the experiment's page states it, so a change of the library cannot alter an old experiment.  Fields
made by `free(...)` are machinery (workers, print interval, ...): no bit of the weights depends on them, and only they may
differ on resume.

`freeze` turns a value into plain JSON, `{"RandomFlip": {"prob": 0.5}}`; `thaw` turns it back with classes that the caller
provides.  JSON never names a class to be imported.
"""

import dataclasses
import math
import typing
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal


def free(default: Any) -> Any:
    """A field that no result depends on: it has a default and may differ on resume."""
    return field(default=default, metadata={"free": True})


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """What detection and classification have in common.  Steps are optimizer steps; an epoch has images // batch_size."""

    seed: int
    epochs: int
    batch_size: int  # images in one optimizer step, over all processes and micro-batches
    accumulate: int  # micro-batches that a process makes of its share; each is normalised by its own objects
    lr: float  # the peak learning rate, for exactly this batch_size
    optimizer: Any  # public.training.optimizers: SGD(...), AdamW(...)
    schedule: Any  # public.training.schedules: WarmupCosine(...), WarmupMultiStep(...)
    clip_norm: float | None  # largest gradient norm, None: no clipping
    ema: Any  # public.training.ema: EMA(...), or None
    starting_weights: str | None  # a checkpoint, relative to the repository; None: the model's own initial values
    backbone_only: bool  # take the backbone alone from the starting weights
    freeze: tuple[str, ...]  # modules or parameters that are not trained, such as "backbone.stem"
    freeze_batchnorm: tuple[str, ...]  # modules whose BatchNorm layers keep their running statistics
    sync_batchnorm: bool  # with several processes: statistics of the whole batch
    precision: Literal["float32", "bf16", "fp16"]
    channels_last: bool
    compile: bool
    deterministic: bool
    threads: int  # compute threads of each process
    tf32: bool  # in cuDNN's convolutions
    matmul_precision: Literal["highest", "high", "medium"]  # of float32 matrix products, in torch's words
    evaluation_interval: int  # epochs between evaluations; the last epoch is always evaluated
    evaluation_batch_size: int
    best_metric: str  # the metric that decides which weights are the best; higher is better
    early_stop: int | None  # stop after so many evaluations in a row without a new best; None: never

    num_workers: int | None = free(None)  # loader processes; None: the cores that the compute threads leave
    prefetch_factor: int = free(4)  # batches that each worker prepares ahead
    pin_memory: bool = free(True)
    print_interval: int = free(20)  # steps between two lines of the log
    checkpoint_minutes: float = free(10.0)  # minutes between two checkpoints within an epoch
    digest_interval: int = free(100)  # steps between two digests of the weights in digests.jsonl
    num_pictures: int = free(4)  # training batches, and validation images, that are drawn

    def __post_init__(self) -> None:
        check_types(self)
        lowest = {
            **dict.fromkeys(("epochs", "batch_size", "accumulate", "threads", "evaluation_interval"), 1),
            **dict.fromkeys(("evaluation_batch_size", "early_stop", "prefetch_factor", "print_interval"), 1),
            "digest_interval": 1,
            **dict.fromkeys(("seed", "num_workers", "checkpoint_minutes", "num_pictures"), 0),
        }
        for name, least in lowest.items():
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise ValueError(f"{name} is {value}; it must be at least {least}")
        for name in ("lr", "clip_norm"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} is {value}; it must be a positive number")
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} is not divisible by accumulate {self.accumulate}")


@dataclass(frozen=True, kw_only=True)
class DetectionConfig(TrainingConfig):
    """A detection experiment."""

    detector: Any  # public.families: PPYOLOE(...), ...
    input: Any  # public.input.InputSpec
    train_data: Any  # public.datasets: Voc(...), Coco(...)
    val_data: Any  # the set that chooses the best weights
    test_data: Any  # scored once, by `./test.sh --split test`; None: there is none
    train_transforms: tuple  # on a sample, in this order
    batch_transforms: tuple  # drawn once for a global batch
    on_bad_sample: Literal["error", "skip"]  # a picture or annotation that cannot be used: stop, or go on without it
    metrics: tuple[str, ...]  # "coco" (12 numbers, by pycocotools), "voc" (area) and "voc07" (11 points)

    @property
    def network_settings(self) -> Any:
        """What builds model and loss."""
        return self.detector


@dataclass(frozen=True, kw_only=True)
class ClassificationConfig(TrainingConfig):
    """A classification experiment.  Its metrics are those of public/evaluation/topk.py."""

    classifier: Any  # public.families: ImageClassifier(...)
    input: Any  # public.classification_input.ClassificationInput
    train_data: Any  # public.datasets: Cifar(...), ImageFolder(...)
    val_data: Any  # the set that chooses the best weights
    test_data: Any  # scored once, by `./test.sh --split test`; None: there is none
    train_transforms: tuple  # on a sample, in this order
    batch_transforms: tuple  # drawn once for a global batch: public.transforms.mixing, one at most
    repeats: int  # how often a global batch shows each of its pictures: repeated augmentation; 1: once
    on_bad_sample: Literal["error", "skip"]  # a picture that cannot be used: stop, or go on without it
    best_metric: Literal[
        "top1_accuracy", "top5_accuracy"
    ]  # in percent; the errors, which are printed, are 100 minus it

    data_on_device: bool = free(False)  # keep a set that is in memory on the device; the same pixels

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.repeats < 1:
            raise ValueError(f"repeats is {self.repeats}; it must be at least 1")

    @property
    def network_settings(self) -> Any:
        """What builds model and loss."""
        return self.classifier


def check_types(config: TrainingConfig) -> None:
    """Compares every field of a plain type with its annotation.

    Raises:
        TypeError: naming the field, its value and the type it must have.
    """
    hints = typing.get_type_hints(type(config))
    for f in fields(config):
        value, hint = getattr(config, f.name), hints[f.name]
        if not _fits(value, hint):
            raise TypeError(f"{f.name} is {value!r}; it must be {describe_type(hint)}")


def _fits(value: Any, hint: Any) -> bool:
    if hint is Any:
        return True
    if typing.get_origin(hint) is Literal:
        return value in typing.get_args(hint)
    if hint is tuple or typing.get_origin(hint) is tuple:
        return isinstance(value, tuple)
    if typing.get_args(hint):  # a union
        return any(_fits(value, choice) for choice in typing.get_args(hint))
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def describe_type(hint: Any) -> str:
    """A type hint in a user's words."""
    if typing.get_origin(hint) is Literal:
        return " or ".join(map(str, typing.get_args(hint)))
    if typing.get_args(hint) and typing.get_origin(hint) is not tuple:
        return " or ".join(describe_type(choice) for choice in typing.get_args(hint))
    return "none" if hint is type(None) else getattr(hint, "__name__", str(hint))


# ---------------------------------------------------------------------------------------------- freeze and thaw


def freeze(value: Any) -> Any:
    """`value` as plain JSON: a dataclass becomes {class name: {field: value}}, a tuple a list.

    Raises:
        TypeError: for a value that JSON would not give back as it is; a list is one, since it would come back as a tuple.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {type(value).__name__: {f.name: freeze(getattr(value, f.name)) for f in fields(value)}}
    if isinstance(value, tuple):
        return [freeze(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a setting must be made of numbers, strings, tuples and dataclasses, not {type(value).__name__}")


def thaw(frozen: Any, classes: dict[str, type]) -> Any:
    """The value that `freeze` wrote, built with `classes` {name: dataclass}.

    A field with a default that is not there, because it is younger than the run, takes it.

    Raises:
        ValueError: naming an unknown class, or the fields that are missing or unknown.
    """
    if isinstance(frozen, list):
        return tuple(thaw(item, classes) for item in frozen)
    if not isinstance(frozen, dict):
        return frozen
    if len(frozen) != 1:
        raise ValueError(f"the settings must name one class with its fields where they have {sorted(frozen)}")
    ((name, values),) = frozen.items()
    if name not in classes:
        raise ValueError(f"the settings name the class {name}, which is not among {', '.join(sorted(classes))}")
    known = {f.name: f.default is not dataclasses.MISSING for f in fields(classes[name])}
    missing = sorted(field for field, has_default in known.items() if field not in values and not has_default)
    unknown = sorted(values.keys() - known.keys())
    if missing or unknown:
        raise ValueError(f"the settings of {name} do not fit its class: missing {missing}, unknown {unknown}")
    return classes[name](**{key: thaw(item, classes) for key, item in values.items()})


def classes_of(value: Any) -> dict[str, type]:
    """Every dataclass that `value` is made of, by name.

    Raises:
        ValueError: two of them have the same name, so that JSON could not tell them apart.
    """
    found: dict[str, type] = {}
    parts: tuple = value if isinstance(value, tuple) else ()
    if is_dataclass(value) and not isinstance(value, type):
        found[type(value).__name__] = type(value)
        parts = tuple(getattr(value, f.name) for f in fields(value))
    for part in parts:
        for name, cls in classes_of(part).items():
            if found.setdefault(name, cls) is not cls:
                raise ValueError(
                    f"the settings use two classes called {name}, of {found[name].__module__} and {cls.__module__}; "
                    "rename one of them"
                )
    return found


def _flatten(frozen: Any, path: str) -> dict[str, Any]:
    if isinstance(frozen, dict) and frozen:
        parts = [_flatten(item, f"{path}.{key}" if path else key) for key, item in frozen.items()]
    elif isinstance(frozen, list) and any(isinstance(item, (dict, list)) for item in frozen):
        parts = [_flatten(item, f"{path}[{i}]") for i, item in enumerate(frozen)] + [{f"{path}.length": len(frozen)}]
    else:
        return {path: frozen}
    return {key: value for part in parts for key, value in part.items()}


def differences(old: TrainingConfig, new: TrainingConfig) -> list[tuple[str, Any, Any]]:
    """Every setting that decides a result and differs: (name, old value, new value), by name."""
    absent = "(absent)"
    found = []
    free_fields = {f.name for f in fields(new) if f.metadata.get("free")}
    for f in fields(new):
        if f.name in free_fields:
            continue
        before = _flatten(freeze(getattr(old, f.name, absent)), f.name)
        after = _flatten(freeze(getattr(new, f.name)), f.name)
        for name in sorted(before.keys() | after.keys()):
            if before.get(name, absent) != after.get(name, absent):
                found.append((name, before.get(name, absent), after.get(name, absent)))
    return found


def replace(config: TrainingConfig, **changes: Any) -> TrainingConfig:
    """`config` with some fields changed, checked again."""
    return dataclasses.replace(config, **changes)
