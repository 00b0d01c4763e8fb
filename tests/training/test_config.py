"""Settings: their checks, freezing to JSON and back, differences."""

import dataclasses
import json
import subprocess
import sys
from dataclasses import dataclass

import pytest

from public.config import DetectionConfig, classes_of, differences, freeze, replace, thaw
from public.settings import check


@dataclass(frozen=True, kw_only=True)
class Leaf:
    number: float
    pair: tuple

    def build(self):
        """So that it may stand where an average may."""

    def __call__(self):
        """And where a transform may."""


@dataclass(frozen=True, kw_only=True)
class Branch:
    children: tuple
    other: object

    def __call__(self):
        """As of Leaf."""


@dataclass(frozen=True, kw_only=True)
class Empty:
    pass


CLASSES = {"Leaf": Leaf, "Branch": Branch, "Empty": Empty}
VALUES = [
    None,
    True,
    0,
    1.0,
    1e-17,
    "text",
    (),
    (1, (2, (3,)), ()),
    (True, 1, 1.0, "1", None),
    Empty(),
    Leaf(number=0.1, pair=(1, 2)),
    Branch(children=(Leaf(number=3, pair=()), Empty(), (Empty(), None)), other=Branch(children=(), other=False)),
]


def with_types(value):
    """`value` with the type of every part written out, so that 1, 1.0 and True, or (1,) and [1], are not equal."""
    if dataclasses.is_dataclass(value):
        return type(value), [(f.name, with_types(getattr(value, f.name))) for f in dataclasses.fields(value)]
    if isinstance(value, (tuple, list)):
        return type(value), [with_types(item) for item in value]
    return type(value), value


def through_json(value):
    return json.loads(json.dumps(freeze(value)))


# ---------------------------------------------------------------------------------------------- freeze and thaw


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_what_was_frozen_thaws_to_an_equal_value_of_the_same_types(value):
    thawed = thaw(through_json(value), CLASSES)
    assert thawed == value
    assert with_types(thawed) == with_types(value)


def test_a_whole_configuration_comes_back_equal(config):
    thawed = thaw(through_json(config), classes_of(config))
    assert thawed == config
    assert with_types(thawed) == with_types(config)
    assert isinstance(thawed.train_data.sources, tuple)


def test_a_transform_freezes_to_its_name_and_its_fields():
    assert freeze((Leaf(number=0.5, pair=(1, 2)),)) == [{"Leaf": {"number": 0.5, "pair": [1, 2]}}]


@pytest.mark.parametrize(
    "value",
    [[1, 2], {"a": 1}, {1}, object(), Leaf, Leaf(number=1, pair=[1, 2])],
    ids=lambda value: type(value).__name__,
)
def test_what_json_would_not_give_back_is_not_frozen(value):
    with pytest.raises(TypeError, match=r"not (list|dict|set|object|type)$"):
        freeze(value)


@pytest.mark.parametrize(
    ("frozen", "message"),
    [
        ({"Leaf": {"number": 1}}, r"Leaf.*missing \['pair'\], unknown \[\]"),
        ({"Leaf": {"number": 1, "pair": [], "size": 2}}, r"Leaf.*missing \[\], unknown \['size'\]"),
        ([{"Branch": {"children": [{"Twig": {}}], "other": None}}], "the class Twig, .* Branch, Empty, Leaf"),
        ({"Leaf": {"number": 1, "pair": []}, "Empty": {}}, "one class"),
        ({}, "one class"),
    ],
)
def test_settings_that_do_not_fit_are_named(frozen, message):
    with pytest.raises(ValueError, match=message):
        thaw(frozen, CLASSES)


def test_json_names_no_class_that_is_imported():
    with pytest.raises(ValueError, match=r"os\.system"):
        thaw({"os.system": {"command": "true"}}, CLASSES)


def test_two_classes_of_one_name_cannot_be_told_apart():
    @dataclass(frozen=True, kw_only=True)
    class Leaf:  # another one than above
        number: float

    with pytest.raises(ValueError, match="two classes called Leaf"):
        classes_of((Leaf(number=1), VALUES[-2]))


# ---------------------------------------------------------------------------------------------- differences


@pytest.fixture
def settings(config):
    """The configuration with nested values of this file."""
    transforms = (Leaf(number=0.5, pair=(1, 2)), Branch(children=(Leaf(number=1, pair=()),), other=None))
    return replace(config, train_transforms=transforms, lr=0.02, ema=Leaf(number=1, pair=()), starting_weights=None)


def test_differences_name_the_path_the_old_and_the_new_value(settings):
    leaf, branch = settings.train_transforms
    other = replace(
        settings,
        lr=0.5,
        ema=None,
        starting_weights="a.pth",
        train_transforms=(
            dataclasses.replace(leaf, pair=(1, 2, 3)),
            dataclasses.replace(branch, children=(Leaf(number=2, pair=()),)),
        ),
    )
    assert set(map(repr, differences(settings, other))) == {
        repr(("lr", 0.02, 0.5)),
        repr(("ema", "(absent)", None)),
        repr(("ema.Leaf.number", 1, "(absent)")),
        repr(("ema.Leaf.pair", [], "(absent)")),
        repr(("starting_weights", None, "a.pth")),
        repr(("train_transforms[0].Leaf.pair", [1, 2], [1, 2, 3])),
        repr(("train_transforms[1].Branch.children[0].Leaf.number", 1, 2)),
    }


def test_another_number_of_transforms_is_a_difference(settings):
    fewer = replace(settings, train_transforms=settings.train_transforms[:1])
    found = {name: (old, new) for name, old, new in differences(settings, fewer)}
    assert found["train_transforms.length"] == (2, 1)
    none = replace(settings, train_transforms=())
    assert {name for name, _, _ in differences(none, fewer)} >= {"train_transforms[0].Leaf.number"}


def test_the_order_of_transforms_is_a_difference(settings):
    assert differences(settings, replace(settings, train_transforms=settings.train_transforms[::-1]))


def test_equal_settings_differ_in_nothing_and_free_fields_do_not_count(config):
    changes = {"num_workers": 3, "prefetch_factor": 9, "pin_memory": False, "print_interval": 77}
    changes |= {"checkpoint_minutes": 0.125, "num_pictures": 99, "digest_interval": 7}
    changes |= {"picture_cache": "disk", "picture_cache_gb": 0.5, "recompute_activations": True}
    other = replace(config, **changes)
    free_fields = {f.name for f in dataclasses.fields(DetectionConfig) if f.metadata.get("free")}
    assert changes.keys() == free_fields  # this test changes every free field
    assert other != config
    assert differences(config, other) == []


def test_each_field_that_is_not_free_is_compared(config):
    for f in dataclasses.fields(config):
        if not f.metadata.get("free"):
            other = dataclasses.replace(config)
            object.__setattr__(other, f.name, "another value")
            assert {name.split(".")[0].split("[")[0] for name, _, _ in differences(config, other)} == {f.name}


# ---------------------------------------------------------------------------------------------- checks


def test_only_free_fields_have_a_default():
    for f in dataclasses.fields(DetectionConfig):
        has_default = f.default is not dataclasses.MISSING or f.default_factory is not dataclasses.MISSING
        assert has_default == bool(f.metadata.get("free")), f.name


def test_a_missing_setting_and_a_misspelt_one_are_named(config):
    values = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    with pytest.raises(TypeError, match="'clip_norm'"):
        DetectionConfig(**{name: value for name, value in values.items() if name != "clip_norm"})
    with pytest.raises(TypeError, match="'learning_rate'"):
        DetectionConfig(**values, learning_rate=1.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", 1.0),
        ("epochs", "3"),
        ("batch_size", True),
        ("lr", "0.1"),
        ("lr", True),
        ("lr", None),
        ("clip_norm", "none"),
        ("clip_norm", False),
        ("starting_weights", 5),
        ("freeze", ["backbone"]),
        ("freeze_batchnorm", "backbone"),
        ("sync_batchnorm", 1),
        ("precision", "fp8"),
        ("matmul_precision", "lowest"),
        ("early_stop", 2.5),
        ("train_transforms", []),
        ("metrics", "coco"),
        ("num_workers", 1.5),
        ("checkpoint_minutes", "10"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_by_name(config, name, value):
    with pytest.raises(TypeError, match=rf"^DetectionConfig\.{name} is .*; it must be "):
        replace(config, **{name: value})


@pytest.mark.parametrize(
    ("name", "value"), [("lr", 1), ("clip_norm", 10), ("clip_norm", 0.1), ("early_stop", None), ("precision", "bf16")]
)
def test_values_that_fit_are_taken(config, name, value):
    changed = replace(config, **{name: value})
    check(changed)
    assert getattr(changed, name) == value


@pytest.mark.parametrize(
    "name",
    [
        "epochs",
        "batch_size",
        "accumulate",
        "threads",
        "evaluation_interval",
        "evaluation_batch_size",
        "digest_interval",
    ],
)
def test_counts_start_at_one(config, name):
    with pytest.raises(ValueError, match=f"{name} is 0; it must be at least 1"):
        replace(config, **{name: 0})


def test_micro_batches_must_divide_the_batch(config):
    with pytest.raises(ValueError, match="batch_size 8 is not divisible by accumulate 3"):
        replace(config, batch_size=8, accumulate=3)


def test_settings_cannot_be_changed_in_place(config):
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.lr = 1.0


def test_importing_the_settings_imports_no_torch_and_opens_no_file_but_sources():
    program = """
import sys
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
import public.config
heavy = {"torch", "numpy", "cv2", "torchvision"} & set(sys.modules)
assert not heavy, heavy
data = [name for name in opened if not name.endswith((".py", ".pyc")) and ".pyc." not in name]
assert not data, data
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
