"""How a page reads: every page in one order, and near copies that say what differs.

The card of a near copy says, in its third line, `Differs from ppyoloe_s_coco: starting_weights, depth, width.`: the page
that it is a copy of (one of the same folder of experiments, which states no such line itself), and every setting that
differs, in the order of the page.
"""

import ast
import functools
import re
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import pytest

from public.config import ClassificationConfig, DetectionConfig, TrainingConfig, differences, freeze
from public.runs import near_copies
from public.runs.experiment import load_experiment
from public.training.optimizers import AdamW
from tests.helpers.places import HELPERS, REPOSITORY

ORDER = {  # heading on the page: the settings below it; a page states those that its kind has, in this order
    "data and training": (
        *("train_data", "val_data", "test_data", "epochs", "batch_size", "lr", "accumulate", "optimizer", "schedule"),
        *("clip_norm", "ema", "starting_weights", "backbone_only", "freeze", "freeze_batchnorm", "sync_batchnorm"),
        "seed",
    ),
    "pictures": ("input", "train_transforms", "batch_transforms", "repeats", "on_bad_sample"),
    "evaluation": ("metrics", "best_metric", "evaluation_interval", "evaluation_batch_size", "early_stop"),
    "network": ("detector", "classifier"),
    "machinery": (
        *("precision", "channels_last", "compile", "deterministic", "threads", "tf32", "matmul_precision"),
        *(
            "recompute_activations",
            "data_on_device",
            "picture_cache",
            "picture_cache_gb",
            "num_workers",
            "prefetch_factor",
            "pin_memory",
            "print_interval",
            "checkpoint_minutes",
        ),
        *("digest_interval", "num_pictures"),
    ),
}
SETTINGS = [name for names in ORDER.values() for name in names]
NEAR = 6  # a page of which so many settings differ, or fewer, is a near copy
NOTHING = "nothing but the command"  # that is what the line says where no setting differs

EXPERIMENTS = sorted(p.parent for p in REPOSITORY.glob("*_experiments/*/config.py"))
PAGES = [*EXPERIMENTS, *sorted(p.parent for p in HELPERS.glob("tiny_*/config.py"))]


def name_of(folder: Path) -> str:
    return str(folder.relative_to(REPOSITORY))


@functools.cache
def config_of(folder: Path) -> TrainingConfig:
    return load_experiment(folder).config


# ---------------------------------------------------------------------------------------------- one order


def outline(page: str) -> list[str]:
    """The headings, as `# network`, and the names of the settings that the text of a page states, from top to bottom."""
    (call,) = [
        node.value
        for node in ast.parse(page).body
        if isinstance(node, ast.Assign) and [t.id for t in node.targets if isinstance(t, ast.Name)] == ["config"]
    ]
    assert isinstance(call, ast.Call)
    assert not call.args
    places = [(keyword.lineno, str(keyword.arg)) for keyword in call.keywords]
    for number, line in enumerate(page.splitlines(), 1):
        if call.lineno < number < call.end_lineno and line.strip() in [f"# {heading}" for heading in ORDER]:
            places.append((number, line.strip()))
    return [name for _, name in sorted(places)]


def expected_outline(stated: set[str]) -> list[str]:
    return [line for heading, names in ORDER.items() for line in (f"# {heading}", *[n for n in names if n in stated])]


@pytest.mark.parametrize("folder", PAGES, ids=name_of)
def test_a_page_reads_from_the_decisive_to_the_rest(folder):
    found = outline((folder / "config.py").read_text())
    assert found == expected_outline({name for name in found if not name.startswith("#")})


def test_a_page_in_another_order_is_noticed():
    page = (PAGES[0] / "config.py").read_text()
    for old, new in (("    lr=", "    seed="), ("    # network\n", ""), ("    epochs=", "    batch_size=")):
        swapped = page.replace(old, "SWAP").replace(new, old).replace("SWAP", new) if new else page.replace(old, "")
        found = outline(swapped)
        assert found != expected_outline(set(found)), old


def test_the_order_names_every_setting_once():
    stated = {f.name for kind in (DetectionConfig, ClassificationConfig) for f in fields(kind)}
    assert sorted(SETTINGS) == sorted(stated)


@pytest.mark.parametrize("kind", [TrainingConfig, DetectionConfig, ClassificationConfig])
def test_a_configuration_lists_its_fields_in_the_same_order(kind):
    """So do `--help` and config.json; what both kinds have comes first, as a base class's fields do."""
    base = kind.__mro__[1]
    inherited = {f.name for f in fields(base)} if is_dataclass(base) else set()
    own = [f.name for f in fields(kind) if f.name not in inherited]
    assert own == sorted(own, key=SETTINGS.index)


# ---------------------------------------------------------------------------------------------- near copies


def names_of_differences(old: TrainingConfig, new: TrainingConfig) -> list[str]:
    return near_copies.names_of_differences(old, new, SETTINGS)


def command_of(folder: Path) -> str:
    return re.search(r"^Command: (.*)$", card_of(folder), re.MULTILINE).group(1)


def line_for(original: str, names: list[str]) -> str:
    return f"Differs from {original}: {', '.join(names) or NOTHING}."


def card_of(folder: Path) -> str:
    return ast.get_docstring(ast.parse((folder / "config.py").read_text()))


def original_of(folder: Path) -> str | None:
    """The page that the card says it is a copy of.

    Raises:
        AssertionError: the line is not the third of the card, or is there twice.
    """
    card = card_of(folder).splitlines()
    lines = [number for number, line in enumerate(card) if line.startswith("Differs from")]
    assert lines in ([], [2]), f"{name_of(folder)}: the line `Differs from ...` stands third, and once"
    return re.match(r"Differs from (\w+): ", card[2]).group(1) if lines else None


def originals_beside(folder: Path) -> dict[str, int]:
    """The other pages of its folder of experiments that are copies of none: how many settings differ from each."""
    others = [other for other in EXPERIMENTS if other.parent == folder.parent and other != folder]
    return {
        other.name: len(differences(config_of(other), config_of(folder)))
        for other in others
        if original_of(other) is None
    }


@pytest.mark.parametrize("folder", EXPERIMENTS, ids=name_of)
def test_a_near_copy_says_what_differs(folder):
    """And no other page says anything."""
    original, counts = original_of(folder), originals_beside(folder)
    nearest = min(counts, key=counts.get)
    due = line_for(nearest, names_of_differences(config_of(folder.parent / nearest), config_of(folder)))
    if original is None:
        assert counts[nearest] > NEAR, f"{name_of(folder)} is a near copy; its card must say: {due}"
        return
    assert original in counts, f"{original} is no original beside {name_of(folder)}; its card must say: {due}"
    assert counts[original] == counts[nearest], f"{nearest} is nearer to {name_of(folder)}: {due}"
    assert counts[original] <= NEAR, f"{name_of(folder)} is no near copy of any page; the line must go"
    names = names_of_differences(config_of(folder.parent / original), config_of(folder))
    assert card_of(folder).splitlines()[2] == line_for(original, names)
    if not names:
        assert freeze(config_of(folder)) == freeze(config_of(folder.parent / original)), "a free setting differs"
        assert command_of(folder) != command_of(folder.parent / original)


def test_differences_go_by_the_names_on_the_page():
    config = config_of(REPOSITORY / "imagenet_experiments" / "efficientnet_b0")
    crop, *others = config.train_transforms
    adamw = AdamW(betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05, decay_normalisation=False, decay_bias=False)
    for changes, names in [
        ({"lr": 0.5, "epochs": 7}, ["epochs", "lr"]),
        ({"classifier": replace(config.classifier, dropout=0.9)}, ["dropout"]),
        ({"input": replace(config.input, size=(9, 9), shorter_side=9)}, ["input.size", "shorter_side"]),
        ({"train_transforms": (replace(crop, size=(9, 9)), *others)}, ["RandomResizedCrop.size"]),
        ({"train_transforms": (crop,)}, ["train_transforms"]),
        ({"val_data": replace(config.val_data, folder="elsewhere")}, ["val_data.folder"]),
        ({"optimizer": adamw}, ["optimizer"]),
        ({"print_interval": 3}, []),
    ]:
        assert names_of_differences(config, replace(config, **changes)) == names


@pytest.mark.parametrize("folder", EXPERIMENTS, ids=name_of)
def test_nothing_differs_where_a_resumed_run_would_find_nothing(folder):
    """The names are made here; `public.config.differences`, which guards a resume, knows of a difference as well."""
    for other in EXPERIMENTS:
        if other.parent == folder.parent:
            found = differences(config_of(other), config_of(folder))
            assert bool(found) == bool(names_of_differences(config_of(other), config_of(folder)))
