"""Widths by which a network has a share of its MACs: one fraction for all, as FPGM (arXiv 1811.00250) prunes.

The fraction is found by halving, and each try is counted as `public.models.operations` counts a network for inference.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from torch import nn

from public.models.channels import Channels, Group
from public.models.fuse import fuse
from public.models.operations import count_operations, example_input
from public.models.quantised import is_part
from public.models.slimmed import slim

STEPS = 1000  # fractions are whole numbers of these


class Found(NamedTuple):
    """Widths, and the MACs of an image before and after; `widths` names what has become narrower alone."""

    widths: dict[str, int]
    dense_macs: int
    macs: int


def width(count: int, fraction: int, multiple: int) -> int:
    """About `fraction` of STEPS of `count` channels: the nearest multiple, at least one, and never more than `count`."""
    nearest = (2 * count * fraction + multiple * STEPS) // (2 * multiple * STEPS) * multiple
    return min(count, max(multiple, nearest))


def find_widths(
    model: nn.Module,
    channels: Channels,
    share: float,
    *,
    size: tuple[int, int],
    multiple: int,
    spared: Sequence[str],
) -> Found:
    """The largest widths by which `model` has at most `share` of its MACs for a picture of `size`, (height, width).

    Args:
        multiple: of which widths are multiples, where they are not what they were.
        spared: beginnings of names of widths that stay.

    Raises:
        ValueError: `spared` names none, or the share cannot be reached.
    """
    groups = _groups(channels, spared)
    shadow = copy.deepcopy(model).to("meta")

    def macs(widths: Mapping[str, int]) -> int:
        small = copy.deepcopy(shadow)
        slim(small, widths, criterion="magnitude", channels=channels)
        return count_operations(fuse(small), example_input(*size)).macs

    def widths_of(fraction: int) -> dict[str, int]:
        new = {group.name: width(len(group.channels), fraction, multiple) for group in groups}
        return {group.name: new[group.name] for group in groups if new[group.name] < len(group.channels)}

    dense = macs({})
    fraction = _largest(lambda tried: macs(widths_of(tried)) <= share * dense)
    if fraction is None:
        least = macs(widths_of(1)) / dense
        raise ValueError(
            f"{share:.1%} of the MACs cannot be reached: with {multiple} channels in every width {least:.1%} are left"
        )
    widths = widths_of(fraction)
    return Found(widths, dense, macs(widths))


def _groups(channels: Channels, spared: Sequence[str]) -> list[Group]:
    for name in spared:
        if not any(is_part(group.name, name) for group in channels.groups):
            raise ValueError(f"spared names {name!r}, but no width is called so; there is {channels.groups[0].name!r}")
    left = [group for group in channels.groups if not any(is_part(group.name, name) for name in spared)]
    if not left:
        raise ValueError("nothing is left to make narrower")
    return left


def _largest(fits: Callable[[int], bool]) -> int | None:
    """The largest of 1 .. STEPS that fits, where all below one that fits do as well; None: not even 1."""
    low, high = 0, STEPS + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low or None
