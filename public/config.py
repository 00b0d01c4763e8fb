"""The settings of an experiment as values, and how they are written to JSON and read back.

An experiment's `config.py` states one `DetectionConfig(...)` or `ClassificationConfig(...)`.  A field that decides a result
has no default here: the experiment's page states it, so a change of the library cannot alter an old experiment.  Fields
made by `free(...)` are machinery (workers, print interval, ...): no bit of the weights depends on them, and only they may
differ on resume.

`freeze` turns a value into plain JSON, `{"RandomFlip": {"prob": 0.5}}`; `thaw` turns it back with classes that the caller
provides.  JSON never names a class to be imported.
"""

import dataclasses
import typing
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Annotated, Any, Literal

from public.settings import (
    Count,
    Different,
    GoesWithEpochs,
    IsA,
    Name,
    Natural,
    NonNegative,
    NotEmpty,
    Offers,
    Positive,
    check,
    hints_of,
)
from public.text import brief, shorten

DataSet = Annotated[Any, Offers("read", "Voc(...) or ImageFolder(...)")]
Ending = Annotated[Any, IsA("Until")]  # transforms of the first epochs: public.transforms.rules
Transform = Annotated[Any, Offers("__call__", "RandomFlip(...)")] | Ending
Metric = Literal["coco", "voc", "voc07"]  # 12 numbers by pycocotools, AP by area, AP at 11 points
BatchTransform = Annotated[Any, Offers("draw", "BatchRandomResize(...) or MixupOrCutMix(...)")] | Ending


def free(default: Any) -> Any:
    """A field that no result depends on: it has a default and may differ on resume."""
    return field(default=default, metadata={"free": True})


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """What detection and classification have in common, from the decisive to the rest.

    Steps are optimizer steps; an epoch has images // batch_size.
    """

    train_data: DataSet  # public.datasets
    val_data: DataSet  # the set that chooses the best weights
    test_data: DataSet | None  # scored once, by `./test.sh --split test`; None: there is none
    epochs: Count
    batch_size: Count  # images in one optimizer step, over all processes and micro-batches
    lr: Positive  # the peak learning rate, for exactly this batch_size
    accumulate: Count  # micro-batches that a process makes of its share; each is normalised by its own objects
    optimizer: Annotated[Any, Offers("build", "SGD(...) or AdamW(...)")]  # public.training.optimizers
    schedule: Annotated[Any, Offers("factor", "WarmupCosine(...) or WarmupMultiStep(...)")]  # public.training.schedules
    clip_norm: Positive | None  # largest gradient norm, None: no clipping
    ema: Annotated[Any, Offers("build", "EMA(...)")] | None  # public.training.ema
    starting_weights: Name | None  # a checkpoint, or an experiment, whose best weights are meant; None: initial values
    backbone_only: bool  # take the backbone alone from the starting weights
    freeze: tuple[Name, ...]  # modules or parameters that are not trained, such as "backbone.stem"
    freeze_batchnorm: tuple[Name, ...]  # modules whose BatchNorm layers keep their running statistics
    sync_batchnorm: bool  # with several processes: statistics of the whole batch
    seed: Natural
    input: Any  # how a picture becomes the network's input: public.input
    train_transforms: tuple[Transform, ...]  # on a sample, in this order
    batch_transforms: tuple[BatchTransform, ...]  # drawn once for a global batch
    on_bad_sample: Literal["error", "skip"]  # a picture or annotation that cannot be used: stop, or go on without it
    best_metric: Name  # the metric that decides which weights are the best; higher is better
    evaluation_interval: Count  # epochs between evaluations; the last epoch is always evaluated
    evaluation_batch_size: Count
    early_stop: Count | None  # stop after so many evaluations in a row without a new best; None: never
    precision: Literal["float32", "bf16", "fp16"]
    channels_last: bool
    compile: bool
    deterministic: bool
    threads: Count  # compute threads of each process
    tf32: bool  # in cuDNN's convolutions
    matmul_precision: Literal["highest", "high", "medium"]  # of float32 matrix products, in torch's words

    recompute_activations: bool = free(False)  # those inside a backbone's stages, in the backward pass: less memory
    num_workers: Natural | None = free(None)  # loader processes; None: the cores that the compute threads leave
    prefetch_factor: Count = free(4)  # batches that each worker prepares ahead
    pin_memory: bool = free(True)
    print_interval: Count = free(20)  # steps between two lines of the log
    checkpoint_minutes: NonNegative = free(10.0)  # minutes between two checkpoints within an epoch
    digest_interval: Count = free(100)  # steps between two digests of the weights in digests.jsonl
    num_pictures: Natural = free(4)  # training batches, and validation images, that are drawn

    def __post_init__(self) -> None:
        check(self)
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"{type(self).__name__}.batch_size {self.batch_size} is not divisible by accumulate {self.accumulate}"
            )

    @property
    def network_settings(self) -> Any:
        """What builds model and loss."""
        raise NotImplementedError(f"{type(self).__name__} has to say which of its fields is the network")

    @property
    def used_settings(self) -> Any:
        """What builds the network that is used: of a student with its teacher those of the student alone."""
        return getattr(self.network_settings, "used", self.network_settings)


@dataclass(frozen=True, kw_only=True)
class DetectionConfig(TrainingConfig):
    """A detection experiment."""

    input: Annotated[Any, IsA("InputSpec")]  # public.input
    metrics: Annotated[tuple[Metric, ...], NotEmpty(), Different()]
    detector: Annotated[Any, Offers("build_model", "PPYOLOE(...)")]  # public.families

    picture_cache: Literal["none", "memory", "disk"] = free("none")  # keep training pictures decoded and resized
    picture_cache_gb: Positive = free(8.0)  # gigabytes that they may take

    @property
    def network_settings(self) -> Any:
        """What builds model and loss."""
        return self.detector


@dataclass(frozen=True, kw_only=True)
class ClassificationConfig(TrainingConfig):
    """A classification experiment.  Its metrics are those of public/evaluation/topk.py."""

    input: Annotated[Any, IsA("ClassificationInput")]  # public.input
    repeats: Count  # how often a global batch shows each of its pictures: repeated augmentation; 1: once
    best_metric: Literal[
        "top1_accuracy", "top5_accuracy"
    ]  # in percent; the errors, which are printed, are 100 minus it
    classifier: Annotated[Any, Offers("build_model", "ImageClassifier(...)")]  # public.families

    data_on_device: bool = free(False)  # keep a set that is in memory on the device; the same pixels

    @property
    def network_settings(self) -> Any:
        """What builds model and loss."""
        return self.classifier


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
        ValueError: naming an unknown class, the fields that are missing or unknown, or a value that makes no sense.
    """
    try:
        return _thaw(frozen, classes)
    except RecursionError as error:
        raise ValueError("the settings are nested deeper than any settings are") from error
    except (TypeError, ArithmeticError) as error:  # of a class that computes with its fields
        raise ValueError(f"the settings make no sense: {error}") from error


def _thaw(frozen: Any, classes: dict[str, type]) -> Any:
    if isinstance(frozen, list):
        return tuple(_thaw(item, classes) for item in frozen)
    if not isinstance(frozen, dict):
        return frozen
    if len(frozen) != 1:
        found = shorten(str(sorted(map(str, frozen))))
        raise ValueError(f"the settings must name one class with its fields where they have {found}")
    ((name, values),) = frozen.items()
    if name not in classes:
        others = ", ".join(sorted(classes))
        raise ValueError(f"the settings name the class {shorten(str(name))}, which is not among {others}")
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ValueError(f"the settings name the class {name} with {brief(values)}, not with its fields")
    known = {f.name: f.default is not dataclasses.MISSING for f in fields(classes[name])}
    missing = sorted(field for field, has_default in known.items() if field not in values and not has_default)
    unknown = sorted(values.keys() - known.keys())
    if missing or unknown:
        lists = ", ".join(
            f"{kind} {[shorten(field) for field in names[:40]]}{'' if len(names) <= 40 else f' and {len(names) - 40} more'}"
            for kind, names in (("missing", missing), ("unknown", unknown))
        )
        raise ValueError(f"the settings of {name} do not fit its class: {lists}")
    return classes[name](**{key: _thaw(item, classes) for key, item in values.items()})


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


# ---------------------------------------------------------------------------------------------- the length of a run


def scale_epochs(value: Any, factor: float, name: str = "") -> tuple[Any, list[tuple[str, Any, Any]]]:
    """`value`, settings or a tuple of them, with every number that is marked as `GoesWithEpochs` multiplied by `factor`.

    Whole numbers stay whole, and at least 1 where they were.

    Returns:
        The new settings, and (name, old, new) of each number that was changed; `name` goes before its own.
    """
    if isinstance(value, tuple):
        parts = [scale_epochs(item, factor, f"{name}[{i}]") for i, item in enumerate(value)]
        return tuple(part for part, _ in parts), [move for _, moves in parts for move in moves]
    if not is_dataclass(value) or isinstance(value, type):
        return value, []
    hints = hints_of(type(value))
    changes, found = {}, []
    for f in fields(value):
        old, path = getattr(value, f.name), f"{name}.{f.name}" if name else f.name
        if GoesWithEpochs() in typing.get_args(hints[f.name])[1:]:
            new = tuple(_scaled(number, factor) for number in old) if isinstance(old, tuple) else _scaled(old, factor)
            moves = [(path, old, new)] if new != old else []
        else:
            new, moves = scale_epochs(old, factor, path)
        if moves:
            changes[f.name] = new
            found += moves
    return dataclasses.replace(value, **changes) if changes else value, found


def _scaled(number: Any, factor: float) -> Any:
    if number is None:  # a phase that never comes
        return None
    if isinstance(number, int):
        return max(round(number * factor), min(number, 1))
    return number * factor
