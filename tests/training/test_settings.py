"""Settings are checked when they are made: every field of every settings class, made wrong in each way its type allows."""

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import types
import typing
from typing import Annotated, Any, Literal

import pytest

import public
from public import settings
from public.config import ClassificationConfig, DetectionConfig, TrainingConfig, freeze
from public.datasets.balanced import Balanced
from public.datasets.combine import Joined, Split
from public.datasets.voc import Voc
from public.datasets.yolo import Yolo
from public.families import PUBLISHED
from public.families.distilled import MGD, PKD
from public.families.quantised import LargestRange, LearnedRange
from public.files import REPOSITORY
from public.resizing import KeepSize, ShorterSide
from public.runs.experiment import load_experiment
from public.settings import Within, check, what_is_needed
from public.training.ema import RampedEMA
from public.training.optimizers import SGD, Adam, AdamW
from public.training.schedules import QuadraticWarmupCosine, WarmupMultiStep
from public.transforms.classification import ColorJitter, RandomErasing
from public.transforms.copy_paste import CopyPaste
from public.transforms.detection import BatchRandomResizeEvery, DropThin, HSVJitter
from public.transforms.fitting import FitWhenRead
from public.transforms.flip import RandomFlip
from public.transforms.geometric import (
    Letterbox,
    RandomCenterCropPad,
    RandomCropKeepingObjects,
    RandomShift,
    RandomTranslate,
    ResizeShorterSide,
)
from public.transforms.mixing import CutMix, Mixup, MixupOrCutMix
from public.transforms.mosaic import BlendPartner, Mosaic, RandomAffine
from public.transforms.rand_augment import RandAugment
from public.transforms.rules import Until

ROOMS = (
    *("public.families", "public.datasets", "public.transforms", "public.training"),
    *("public.input", "public.resizing", "public.config"),
)
NO_SETTINGS = {"TrainingConfig", "Layout"}  # the base of the two that a page states; what was found in a folder
# fields whose values have no type that could be stated: what they hold is checked where it is used
OPEN_FIELDS = {("ImageClassifier", "options"), ("YOLOX", "backbone_options")}

VOC = Voc(sources=("a/b",), classes=None, use_difficult=False, keep_empty_images=True)
VALUES = [  # of classes that no page names
    LargestRange(),
    LearnedRange(momentum=0.9, observed_epochs=1, lr_factor=1.0),
    Joined(sets=(VOC, VOC)),
    Split(data=VOC, part="val", val_fraction=0.5, seed=0),
    Adam(betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, decay_normalisation=True, decay_bias=True),
    AdamW(betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, decay_normalisation=True, decay_bias=True,
          lr_factors=(("a.", 0.5),)),
    Yolo(data="a/data.yaml", split="train", classes=None, keep_empty_images=True),
    WarmupMultiStep(warmup_epochs=0, warmup_start=1.0, milestones=(1.5, 2), gamma=0.1),
    QuadraticWarmupCosine(warmup_epochs=5, warmup_start=0.0, horizon_epochs=285, min_factor=0.05),
    RampedEMA(decay=0.9998, ramp_updates=2000),
    BatchRandomResizeEvery(sizes=(320, 352), interpolations=("linear",), every=10),
    ColorJitter(brightness=0.1, contrast=0.1, saturation=0.1, hue=0.1),
    RandAugment(num_changes=2, magnitude=9, fill=(1, 2, 3)),
    Mixup(alpha=0.2, prob=1.0),
    CutMix(alpha=1.0, prob=1.0),
    MixupOrCutMix(mixup_alpha=0.2, cutmix_alpha=1.0, mixup_prob=0.5, cutmix_prob=0.5),
    RandomErasing(prob=0.5, area=(0.1, 0.3), aspect_ratio=(0.3, 3.3), fill=(1, 2, 3), num_attempts=5),
    Until(epoch=3, transforms=(RandomFlip(prob=0.5),)),
    ShorterSide(rounding="nearest", multiple=32), KeepSize(multiple=32),
    Letterbox(size=(667, 667), interpolation="linear", padding=0),
    ResizeShorterSide(shorter_sides=(640, 800), longer_side=1333, rounding="nearest", interpolation="linear"),
    RandomTranslate(prob=0.5, fill=(0, 0, 0)), RandomCropKeepingObjects(prob=0.5),
    RandomShift(prob=0.5, max_shift_px=32, filter_thr_px=1, fill=(0, 0, 0)),
    RandomCenterCropPad(crop_size=(512, 512), ratios=(0.6, 1.3), border=128, fill=(124, 116, 104), num_attempts=50),
    Balanced(data=VOC, threshold=0.001),
    FitWhenRead(size=(640, 640), interpolation="linear", use_reduced=True),
    Mosaic(size=(640, 640), prob=1.0, center=(0.5, 1.5), affine=RandomAffine(
        rotation=10.0, scale=(0.1, 2.0), shear=2.0, translate=0.1, fill=(114, 114, 114))),
    BlendPartner(prob=1.0, scale=(0.5, 1.5), flip_prob=0.5, fill=(114, 114, 114)),
    CopyPaste(prob=0.5, max_objects=3, max_covered=0.3),
    HSVJitter(hue=5, saturation=30, value=30, apply_prob=0.5), DropThin(min_side=1.0),
    PKD(weight=1.0), MGD(weight=2e-5, masked=0.65),
    *PUBLISHED.values(),
]  # fmt: skip


def parts_of(value: Any) -> list[Any]:
    """`value` and all settings inside it."""
    if isinstance(value, tuple):
        return [part for item in value for part in parts_of(item)]
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return []
    inner = [getattr(value, f.name) for f in dataclasses.fields(value)]
    return [value, *(part for item in inner for part in parts_of(item))]


def instances() -> dict[str, Any]:
    """One valid value of every settings class, by the class's name: from the pages, and VALUES."""
    pages = [load_experiment(path.parent).config for path in sorted(REPOSITORY.glob("*_experiments/*/config.py"))]
    return {type(part).__name__: part for value in (*VALUES, *pages) for part in parts_of(value)}


INSTANCES = instances()


def settings_classes() -> dict[str, type]:
    """Every frozen dataclass with keywords only in the rooms of settings: what a page may state."""
    found = {}
    for _, name, _ in pkgutil.walk_packages(public.__path__, "public."):
        if name.startswith(ROOMS) and not name.startswith("public.datasets.preparing"):
            for value in vars(importlib.import_module(name)).values():
                if inspect.isclass(value) and value.__module__ == name and dataclasses.is_dataclass(value):
                    parameters = value.__dataclass_params__
                    if parameters.frozen and all(f.kw_only for f in dataclasses.fields(value)):
                        found[value.__name__] = value
    return found


def test_no_class_is_left_out():
    """Every settings class of the library is tried here, and each looks at its fields when it is made."""
    missing = settings_classes().keys() - INSTANCES.keys() - NO_SETTINGS
    assert not missing, f"give a value of {sorted(missing)} in VALUES"
    assert {"PPYOLOE", "PPYOLOEAux", "ImageClassifier", "SGD", "EMA", "InputSpec", "Coco"} <= INSTANCES.keys()


FIELDS = [(name, f.name) for name, value in sorted(INSTANCES.items()) for f in dataclasses.fields(value)]
MANY = {  # values of many types, and the types that take them
    "text": ("text", {str}), "empty text": ("", {str}), "True": (True, {bool}), "None": (None, {type(None)}),
    "0.5": (0.5, {float}), "3": (3, {int, float}), "nan": (float("nan"), set()), "inf": (float("inf"), set()),
    "list": ([1, 2], set()), "dict": ({"a": 1}, set()), "bytes": (b"a", set()), "object": (object(), set()),
    "class": (RandomFlip, set()), "function": (len, set()), "empty list": ([], set()),
}  # fmt: skip


def hint_of(name: str, field: str) -> Any:
    return typing.get_type_hints(type(INSTANCES[name]), include_extras=True)[field]


def plain_kinds(hint: Any) -> set[Any]:
    """The types at the top of an annotation: of `Count | None`, int and None."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return plain_kinds(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return {kind for choice in arguments for kind in plain_kinds(choice)}
    if origin is Literal:
        return {("literal", arguments)}
    return {origin or hint}


def refuses(name: str, field: str, value: Any) -> str:
    """The message by which the class refuses `value` in the field; the test fails where it takes it."""
    with pytest.raises(settings.SettingError) as caught:
        dataclasses.replace(INSTANCES[name], **{field: value})
    return str(caught.value)


@pytest.mark.parametrize(("name", "field"), FIELDS)
def test_a_value_of_another_type_is_refused_by_class_field_and_value(name, field):
    kinds = plain_kinds(hint_of(name, field))
    tried = 0
    for value, fitting in MANY.values():
        if fitting & kinds or (Any in kinds and dataclasses.is_dataclass(value)):
            continue
        tried += 1
        message = refuses(name, field, value)
        assert message.startswith(
            (f"{name}.{field} is {value!r}; it must be ", f"{name}.{field} is the text {value!r}; ")
        )
    assert tried >= 9


@pytest.mark.parametrize(("name", "field"), [pair for pair in FIELDS if tuple in plain_kinds(hint_of(*pair))])
def test_a_tuple_is_looked_into(name, field):
    """Wrong entries, wrong lengths, and a list in place of the tuple."""
    value = getattr(INSTANCES[name], field)
    if (name, field) in OPEN_FIELDS:
        value = (("bn_eps", 1e-3),)
    for wrong in ((object(),), (*(value or ()), object()), list(value or ())):
        assert refuses(name, field, wrong).startswith(f"{name}.{field} is ")
    hint = hint_of(name, field)
    inner = typing.get_args(typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint)
    if value and inner and inner[-1] is not ... and type(None) not in inner:
        for wrong in ((*value, value[-1]), value[:-1]):
            assert refuses(name, field, wrong).startswith(f"{name}.{field} is ")


def ranges_of(hint: Any) -> list[Within]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    own = [rule for rule in arguments[1:] if isinstance(rule, Within)] if origin is Annotated else []
    if origin in (Annotated, typing.Union, types.UnionType):
        return own + [rule for choice in arguments for rule in ranges_of(choice)]
    return own


RANGED = [(name, field, rule) for name, field in FIELDS for rule in ranges_of(hint_of(name, field))]


@pytest.mark.parametrize(("name", "field", "rule"), RANGED)
def test_a_range_ends_where_it_says(name, field, rule):
    """Just outside is refused by the range; the ends belong to it or not."""
    hint = hint_of(name, field)
    step = 1e-9 if float in plain_kinds(hint) else 1
    for end, outwards, is_left_out in ((rule.low, -step, rule.without_low), (rule.high, step, rule.without_high)):
        if abs(end) == float("inf"):
            continue
        end = end if step < 1 else int(end)
        message = refuses(name, field, end + outwards)
        assert message.endswith(str(rule)) or str(rule) in message
        assert (what_is_needed(end, hint) is None) != is_left_out


@pytest.mark.parametrize(("name", "field"), [pair for pair in FIELDS if hint_of(*pair) == settings.Name])
def test_a_name_is_not_empty(name, field):
    assert refuses(name, field, "") == f"{name}.{field} is ''; it must be not empty"


def test_there_are_ranges():
    """Numbers without a range are those that may be any: the test of ranges is about nearly all."""
    numbers = [
        (name, field)
        for name, field in FIELDS
        if plain_kinds(hint_of(name, field)) & {int, float} and type(INSTANCES[name]).__module__.startswith("public.")
    ]
    assert len(RANGED) > 60
    free = {pair for pair in numbers if not ranges_of(hint_of(*pair))}
    checked_by_transforms = {pair for pair in free if "public.transforms" in type(INSTANCES[pair[0]]).__module__}
    assert free == checked_by_transforms, f"no range: {sorted(free - checked_by_transforms)}"


def test_a_field_that_may_be_anything_is_one_of_these():
    open_fields = {pair for pair in FIELDS if hint_of(*pair) is Any}
    assert not open_fields


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: SGD(momentum=0.9, nesterov="no", weight_decay=0, decay_normalisation=True, decay_bias=True),
            "SGD.nesterov is 'no'; it must be bool",
        ),
        (lambda: dataclasses.replace(PUBLISHED["ppyoloe_s"], nms_iou=7.0), "nms_iou is 7.0; it must be within 0 .. 1"),
        (
            lambda: dataclasses.replace(PUBLISHED["ppyoloe_s"], static_assigner_epochs="100"),
            "PPYOLOE.static_assigner_epochs is '100'; it must be int at least 0",
        ),
        (
            lambda: dataclasses.replace(PUBLISHED["ppyoloe_s"], strides=(32, 16, 16)),
            "PPYOLOE.strides is (32, 16, 16); it must be without repetition",
        ),
        (
            lambda: dataclasses.replace(INSTANCES["DetectionConfig"], schedule=INSTANCES["EMA"]),
            "it must be settings such as WarmupCosine(...)",
        ),
        (lambda: dataclasses.replace(INSTANCES["DetectionConfig"], input=INSTANCES["EMA"]), "it must be InputSpec(...)"),
    ],
)  # fmt: skip
def test_what_use_has_found(make, message):
    with pytest.raises(settings.SettingError) as caught:
        make()
    assert message in str(caught.value)


def test_an_experiments_own_settings_are_checked_by_the_same_line():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Own(type(PUBLISHED["ppyoloe_s"])):
        factor: settings.Probability

    values = dataclasses.asdict(PUBLISHED["ppyoloe_s"])
    assert Own(**values, factor=0.5).factor == 0.5
    with pytest.raises(settings.SettingError, match=r"Own\.factor is 1\.5; it must be within 0 \.\. 1"):
        Own(**values, factor=1.5)
    with pytest.raises(settings.SettingError, match=r"Own\.nms_iou"):
        Own(**(values | {"nms_iou": -0.1}), factor=0.5)


def test_the_error_is_both_of_the_kinds_that_callers_expect():
    assert issubclass(settings.SettingError, TypeError)
    assert issubclass(settings.SettingError, ValueError)


def test_the_values_themselves_pass():
    """What is tried is right before it is made wrong, and JSON holds it."""
    for value in INSTANCES.values():
        check(value)
        freeze(value)
    assert {DetectionConfig, ClassificationConfig} <= {type(value) for value in INSTANCES.values()}
    assert issubclass(DetectionConfig, TrainingConfig)


def test_no_settings_class_has_a_check_of_types_of_its_own():
    """isinstance in a __post_init__ would be a second rule."""
    for name, cls in settings_classes().items():
        source = inspect.getsource(inspect.getmodule(cls))
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ClassDef) and node.name == name:
                own = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__post_init__"]
                assert not [call for item in own for call in ast.walk(item) if ast.unparse(call) == "isinstance"], name
