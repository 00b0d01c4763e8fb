"""What transforms of every kind share: the names of their streams and the checks of their fields."""

import math
from dataclasses import dataclass
from typing import Annotated, Any

from public import settings


@dataclass(frozen=True, kw_only=True)
class Until:
    """Transforms of the epochs before `epoch`, counted from 0; from it on they are left out.

    The end comes with the epoch of a sample's key, so loader workers that have read ahead need no message, and a run that
    goes on after a stop sees the same samples.
    """

    epoch: Annotated[settings.Natural, settings.GoesWithEpochs()]
    transforms: Annotated[tuple[Annotated[Any, settings.IsSettings()], ...], settings.NotEmpty()]

    def __post_init__(self) -> None:
        settings.check(self)


def named(transforms: tuple, epoch: int) -> list[tuple[str, Any]]:
    """(name of its random stream, transform) for each that acts in `epoch`.

    The name is the class's, with "#2" for the second of a class, and so on.  Those that an `Until` has ended are counted
    all the same: no other transform draws other numbers because of an end.
    """
    counts: dict[str, int] = {}
    acting = []
    for transform, is_acting in _opened(transforms, epoch, True):
        name = type(transform).__name__
        counts[name] = counts.get(name, 0) + 1
        if is_acting:
            acting.append((name if counts[name] == 1 else f"{name}#{counts[name]}", transform))
    return acting


def _opened(transforms, epoch, is_acting):
    """(transform, whether it acts in `epoch`), those inside an `Until` in its place."""
    for transform in transforms:
        if isinstance(transform, Until):
            yield from _opened(transform.transforms, epoch, is_acting and epoch < transform.epoch)
        else:
            yield transform, is_acting


def all_of(transforms: tuple) -> list:
    """Every transform, those inside an `Until` too."""
    return [transform for transform, _ in _opened(transforms, 0, True)]


def check(transform, **limits):
    """Checks the types of all fields; and refuses a number, or several in rising order, that is not within its limits.

    Args:
        limits: (lowest, highest) by the field's name.

    Raises:
        TypeError: naming transform, field, value and type.
        ValueError: naming transform, field, value and limits.
    """
    settings.check(transform)
    for name, (low, high) in limits.items():
        value = getattr(transform, name)
        values = value if isinstance(value, tuple) else (value,)
        is_inside = all(math.isfinite(number) and low <= number <= high for number in values)
        if not is_inside or list(values) != sorted(values):
            rule = "has to be" if len(values) == 1 else "has to rise"
            raise ValueError(f"{type(transform).__name__}.{name} is {value!r}, {rule} within {low} .. {high}")


def reflect(positions, length: int):
    """Positions beyond the ends 0 and length - 1 mirrored at them, the end itself not repeated; numpy or torch."""
    positions = abs(positions)
    return (length - 1) - abs((length - 1) - positions)
