"""The check of settings: the type of every field, and its range where its annotation states one.

    @dataclass(frozen=True, kw_only=True)
    class SGD:
        momentum: Fraction  # at least 0 and below 1
        nesterov: bool

        def __post_init__(self) -> None:
            check(self)

`check` looks at each field as deep as its annotation goes: into tuples, unions, literals and ranges.  Settings inside
settings have been checked when they were made.  A subclass in an experiment's own page is checked by the same line.
"""

import functools
import math
import types
import typing
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, Literal

from public.text import shorten

BITS = 64  # of the largest whole number that a setting may be


class SettingError(TypeError, ValueError):
    """A setting of a wrong type, or out of its range; who expects either of the two errors gets it."""


# ---------------------------------------------------------------------------------------------- ranges


@dataclass(frozen=True)
class Within:
    """Numbers from `low` to `high`, both included unless they are said to be left out."""

    low: float = -math.inf
    high: float = math.inf
    without_low: bool = False
    without_high: bool = False

    def holds(self, value: float) -> bool:
        above = value > self.low if self.without_low else value >= self.low
        below = value < self.high if self.without_high else value <= self.high
        return above and below

    def __str__(self) -> str:
        low = f"{'above' if self.without_low else 'at least'} {self.low:g}" if self.low > -math.inf else ""
        high = f"{'below' if self.without_high else 'at most'} {self.high:g}" if self.high < math.inf else ""
        if low and high and not (self.without_low or self.without_high):
            return f"within {self.low:g} .. {self.high:g}"
        return " and ".join(part for part in (low, high) if part)


@dataclass(frozen=True)
class Rising:
    """A tuple of numbers none of which is smaller than the one before."""

    def holds(self, value: tuple) -> bool:
        return list(value) == sorted(value)

    def __str__(self) -> str:
        return "in rising order"


@dataclass(frozen=True)
class NotEmpty:
    """A tuple with at least one entry, or a text with at least one letter."""

    def holds(self, value: tuple | str) -> bool:
        return len(value) > 0

    def __str__(self) -> str:
        return "not empty"


@dataclass(frozen=True)
class Different:
    """A tuple in which nothing stands twice."""

    def holds(self, value: tuple) -> bool:
        return len(set(value)) == len(value)

    def __str__(self) -> str:
        return "without repetition"


@dataclass(frozen=True)
class OneOf:
    """One of some names."""

    names: tuple[str, ...]

    def holds(self, value: str) -> bool:
        return value in self.names

    def __str__(self) -> str:
        return f"one of {', '.join(self.names)}"


@dataclass(frozen=True)
class Offers:
    """Settings that have a method, such as a detector's `build_model`."""

    method: str
    example: str  # what is to be written, for the message

    def holds(self, value: Any) -> bool:
        return IsSettings().holds(value) and callable(getattr(value, self.method, None))

    def __str__(self) -> str:
        return f"settings such as {self.example}"


@dataclass(frozen=True)
class IsSettings:
    """Settings of any kind."""

    def holds(self, value: Any) -> bool:
        return is_dataclass(value) and not isinstance(value, type)

    def __str__(self) -> str:
        return "settings"


@dataclass(frozen=True)
class IsA:
    """Settings of a class or of one derived from it, told by name: a page of settings is read without its module."""

    name: str

    def holds(self, value: Any) -> bool:
        return self.name in {kind.__name__ for kind in type(value).__mro__}

    def __str__(self) -> str:
        return f"{self.name}(...)"


@dataclass(frozen=True)
class GoesWithEpochs:
    """No range: a number of epochs, or several, chosen for the length of the run; `scale_epochs` moves them with it."""

    def holds(self, value: Any) -> bool:
        return True

    def __str__(self) -> str:
        return ""


Count = Annotated[int, Within(1)]
Natural = Annotated[int, Within(0)]
Positive = Annotated[float, Within(0, without_low=True)]
NonNegative = Annotated[float, Within(0)]
Probability = Annotated[float, Within(0, 1)]
Fraction = Annotated[float, Within(0, 1, without_high=True)]
Counts = Annotated[tuple[Count, ...], NotEmpty()]
Layers = Annotated[int, Within(1, 1000)]  # one behind the other: a number from a damaged file must not build for hours
LayersOrNone = Annotated[int, Within(0, 1000)]
DepthFactor = Annotated[float, Within(0, 100, without_low=True)]  # of numbers of layers
Side = Annotated[int, Within(1, 2**15)]  # of a picture, in pixels; OpenCV resizes none that is longer
Name = Annotated[str, NotEmpty()]
Level = Annotated[int, Within(0, 255)]
Color = tuple[Level, Level, Level]  # RGB


# ---------------------------------------------------------------------------------------------- the check


@functools.cache
def hints_of(kind: type) -> dict[str, Any]:
    """The annotations of a class of settings; a multi-scale resize makes settings for every sample."""
    return typing.get_type_hints(kind, include_extras=True)


def check(settings: Any) -> None:
    """Compares every field of the dataclass `settings` with its annotation.

    Raises:
        SettingError: naming class, field and value, and what it must be.
    """
    hints = hints_of(type(settings))  # type: ignore[arg-type]  # a class is hashable
    for f in fields(settings):
        value = getattr(settings, f.name)
        needed = what_is_needed(value, hints[f.name])
        if needed is None:
            continue
        name = f"{type(settings).__name__}.{f.name}"
        is_text = isinstance(value, str) and what_is_needed((value,), hints[f.name]) is None
        told = _is_text(value) if is_text else f"is {shorten(repr(value), 300)}"
        raise SettingError(f"{name} {told}; it must be {needed}")


def refuse_text(what: str, **names: Any) -> None:
    """Refuses a text where names in a tuple have to stand: ("cat") is one, and would be read letter by letter.

    For arguments of functions; the fields of settings are checked by `check`.

    Raises:
        SettingError: naming the argument and its value.
    """
    for name, value in names.items():
        if isinstance(value, str):
            raise SettingError(f"{what}: {name} {_is_text(value)}")


def _is_text(value: str) -> str:
    return f"is the text {shorten(repr(value), 300)}; a tuple of one name has a comma: ({shorten(repr(value), 300)},)"


def what_is_needed(value: Any, hint: Any) -> str | None:
    """What `value` must be, in words, where it is not what `hint` asks for; None where it is."""
    if hint is Any:
        return None
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _needed_by_annotated(value, hint)
    if origin is Literal:
        is_one = any(value == choice and type(value) is type(choice) for choice in arguments)
        return None if is_one else describe_type(hint)
    if origin in (typing.Union, types.UnionType):
        is_one = any(what_is_needed(value, choice) is None for choice in arguments)
        return None if is_one else describe_type(hint)
    if hint is tuple or origin is tuple:
        return _needed_by_tuple(value, hint)
    if hint is float and isinstance(value, int | float) and not _is_finite(value):
        return "a finite number"
    if hint is int and isinstance(value, int) and abs(value) >= 2**BITS:
        return f"a whole number of at most {BITS} bits"
    return None if _is_plain(value, hint) else describe_type(hint)


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float can be
        return False


def _is_plain(value: Any, kind: Any) -> bool:
    """Whether `value` is of a type that is no container; an int is a float too, but True is not a number."""
    if kind in (float, int):
        kinds = (int, float) if kind is float else int
        return isinstance(value, kinds) and not isinstance(value, bool)
    return isinstance(value, kind)


def _needed_by_annotated(value: Any, hint: Any) -> str | None:
    kind, *rules = typing.get_args(hint)
    needed = what_is_needed(value, kind)
    if needed is not None:
        return needed if needed.startswith(("a finite number", "a whole number of at most")) else describe_type(hint)
    return next((str(rule) for rule in rules if not rule.holds(value)), None)


def _needed_by_tuple(value: Any, hint: Any) -> str | None:
    inner = typing.get_args(hint)
    if not isinstance(value, tuple):
        return describe_type(hint)
    if not inner:
        return None
    each = [inner[0]] * len(value) if inner[1:] == (...,) else list(inner)
    is_fitting = len(each) == len(value) and all(what_is_needed(i, kind) is None for i, kind in zip(value, each))
    return None if is_fitting else describe_type(hint)


def describe_type(hint: Any) -> str:
    """A type hint in a user's words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        ranges = [str(rule) for rule in arguments[1:] if str(rule)]
        if any(isinstance(rule, Offers | IsA | IsSettings) for rule in arguments[1:]):
            return ", ".join(ranges)
        return " ".join([describe_type(arguments[0]), *ranges])
    if origin is Literal:
        return " or ".join(map(str, arguments))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe_type(choice) for choice in arguments)
    if origin is tuple:
        if arguments[1:] == (...,):
            return f"a tuple of {describe_type(arguments[0])}"
        return f"({', '.join(describe_type(inner) for inner in arguments)})"
    return "none" if hint is type(None) else getattr(hint, "__name__", str(hint))


def plain_type(hint: Any) -> Any:
    """`hint` without its ranges, also inside unions."""
    if typing.get_origin(hint) is Annotated:
        return plain_type(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return typing.Union[tuple(plain_type(choice) for choice in typing.get_args(hint))]  # noqa: UP007
    return hint
