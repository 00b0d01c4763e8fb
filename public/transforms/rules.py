"""What transforms of every kind share: the names of their streams and the checks of their fields."""

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Until:
    """Transforms of the epochs before `epoch`, counted from 0; from it on they are left out.

    The end comes with the epoch of a sample's key, so loader workers that have read ahead need no message, and a run that
    goes on after a stop sees the same samples.
    """

    epoch: int
    transforms: tuple

    def __post_init__(self):
        if isinstance(self.epoch, bool) or not isinstance(self.epoch, int) or self.epoch < 0:
            raise ValueError(f"Until.epoch is {self.epoch!r}, has to be the number of an epoch, at least 0")
        if not isinstance(self.transforms, tuple) or not self.transforms:
            raise ValueError(f"Until.transforms is {self.transforms!r}, has to be a tuple of at least one transform")


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
    """Refuses a field, a number or several in rising order, that is not within its (lowest, highest) limits.

    Raises:
        ValueError: naming transform, field, value and limits.
    """
    for name, (low, high) in limits.items():
        value = getattr(transform, name)
        values = value if isinstance(value, tuple) else (value,)
        is_inside = all(math.isfinite(number) and low <= number <= high for number in values)
        if not is_inside or list(values) != sorted(values):
            rule = "has to be" if len(values) == 1 else "has to rise"
            raise ValueError(f"{type(transform).__name__}.{name} is {value!r}, {rule} within {low} .. {high}")


def check_size(transform):
    """Refuses a size that is not (height, width) in whole pixels."""
    size = transform.size
    if not isinstance(size, tuple) or len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
        raise ValueError(f"{type(transform).__name__}.size is {size!r}, has to be (height, width) in whole pixels")


def check_color(transform, name):
    """Refuses a colour that is not three whole levels."""
    color = getattr(transform, name)
    if len(color) != 3 or not all(isinstance(level, int) and 0 <= level <= 255 for level in color):
        raise ValueError(f"{type(transform).__name__}.{name} is {color!r}, has to be three whole levels 0 .. 255")


def reflect(positions, length: int):
    """Positions beyond the ends 0 and length - 1 mirrored at them, the end itself not repeated; numpy or torch."""
    positions = abs(positions)
    return (length - 1) - abs((length - 1) - positions)
