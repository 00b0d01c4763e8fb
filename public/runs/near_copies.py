"""Pages that are nearly the same: what differs, by the names that a reader finds on the page.

A card of a near copy says so in its third line: `Differs from ppyoloe_s_coco: starting_weights, depth, width.`
"""

import ast
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from public.config import TrainingConfig, differences, freeze
from public.runs.experiment import load_experiment

NEAR = 6  # a page of which so many settings differ, or fewer, is a near copy
LINE = "Differs from"


def line_of_near_copy(folder: Path, order: Sequence[str], place: Path) -> str | None:
    """What the card of the experiment in `folder` has to say of the page that it is a near copy of; None: it is of none.

    Args:
        order: the settings in the order of a page.
        place: the folder of experiments whose other pages count.
    """
    config = load_experiment(folder).config
    others = {page.parent: load_experiment(page.parent).config for page in sorted(place.glob("*/config.py"))}
    counts = {
        other: len(differences(theirs, config))
        for other, theirs in others.items()
        if other != folder and f"\n{LINE} " not in card_of(other)
    }
    if not counts or min(counts.values()) > NEAR:
        return None
    nearest = min(counts, key=lambda other: counts[other])
    names = names_of_differences(others[nearest], config, order)
    return f"{LINE} {nearest.name}: {', '.join(names) or 'nothing but the command'}."


def card_of(folder: Path) -> str:
    """The docstring of an experiment's page."""
    return ast.get_docstring(ast.parse((folder / "config.py").read_text(encoding="utf-8"))) or ""


def names_of_differences(old: TrainingConfig, new: TrainingConfig, order: Sequence[str]) -> list[str]:
    """What differs, as a reader finds it on the page: `width`, but `input.size` where the page has several sizes."""
    owners = Counter(name for _, name in set(_settings_of(new)))
    pairs = dict.fromkeys(_different(old, new, order))
    return [f"{owner}.{name}" if owner and owners[name] > 1 else name for owner, name in pairs]


def _settings_of(value: Any, owner: str = "", name: str = "") -> Iterator[tuple[str, str]]:
    """(the word that its settings object goes by on the page, its own name) of every setting below `value`."""
    if is_dataclass(value):
        for f in fields(value):
            yield from _settings_of(getattr(value, f.name), name, f.name)
    elif isinstance(value, tuple) and any(map(is_dataclass, value)):
        for item in value:
            yield from _settings_of(item, owner, type(item).__name__)
    else:
        yield owner, name


def _different(old: Any, new: Any, order: Sequence[str], owner: str = "", name: str = "") -> list[tuple[str, str]]:
    """The settings of `new`, as in `_settings_of`, that decide a result and have another value in `old`."""
    if freeze(old) == freeze(new):
        return []
    if is_dataclass(old) and type(old).__name__ == type(new).__name__:
        names = [f.name for f in fields(new) if not f.metadata.get("free")]
        if isinstance(new, TrainingConfig):
            names.sort(key=list(order).index)
        return [pair for n in names for pair in _different(getattr(old, n), getattr(new, n), order, name, n)]
    if isinstance(old, tuple) and isinstance(new, tuple) and any(map(is_dataclass, new)):
        classes = [[type(item).__name__ for item in side] for side in (old, new)]
        if classes[0] == classes[1]:
            return [p for a, b, kind in zip(old, new, classes[1]) for p in _different(a, b, order, owner, kind)]
    return [(owner, name)]
