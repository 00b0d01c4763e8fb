"""What transforms of every kind share: the names of their streams and the checks of their fields."""

import math


def named(transforms):
    """(name of its numbers, transform) for each: the class name, with "#2" for the second of a class, and so on."""
    counts = {}
    for transform in transforms:
        name = type(transform).__name__
        counts[name] = counts.get(name, 0) + 1
        yield (name if counts[name] == 1 else f"{name}#{counts[name]}"), transform


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
