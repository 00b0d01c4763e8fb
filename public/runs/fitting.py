"""Choices for a page of a user's own data, each with the reason that is written beside it: split, batch, rate, size.

They are a start that trains, by simple rules that a person can follow; what is best, only trying tells.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from public.datasets.annotations import Annotations
from public.datasets.combine import Split, are_held_back
from public.datasets.layouts import Layout
from public.datasets.yolo_places import ALL

STRIDE = 32  # of the coarsest level: sides of a detector's input are multiples of it
LEAST_SIDE, SMALLEST_LONG_SIDE, LARGEST_LONG_SIDE = 128, 416, 640  # of a detector's input
SEEN = 16  # pixels, two cells of the finest level: what the smallest tenth of the objects should measure
STEPS_OF_AN_EPOCH, LEAST_BATCH = 4, 4  # that a batch should leave; below it BatchNorm sees too little
MOST_IMAGES = 16  # of a detector's step, for one device
FEW, MANY = 1000, 10_000  # pictures: how large a share is held back to judge by
NUM_SEEDS = 100  # of a split that are tried
SMALL_PICTURES = 48  # pixels: up to here a network for CIFAR's pictures of 32 sees all of them


class Choice(NamedTuple):
    """A value, and why."""

    value: Any
    why: str


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What is trained on, what chooses the best weights, what is scored once."""

    settings: dict[str, Any]  # "train", "val", "test" -> the settings of a set; None: there is none
    read: dict[str, Any]  # the sets that were read, by split
    split: Choice | None  # val_fraction and seed, where the data have no part to judge by


def choose_parts(layout: Layout, read: dict[str, Any]) -> Parts:
    """The data's own parts; where there is none to judge by, a part of the training pictures is held back.

    Args:
        read: the sets of `layout`, read.

    Raises:
        ValueError: there is nothing to train on, or too little to hold something back.
    """
    whole = next((split for split in ("train", ALL) if split in layout.sets), None)
    if whole is None:
        raise ValueError(f"found {layout.found}: nothing says which part is to be trained on; name its folder train/")
    test = layout.sets.get("test")
    if "val" in layout.sets:
        sets = {"train": layout.sets[whole], "val": layout.sets["val"], "test": test}
        return Parts(settings=sets, read={k: read[whole if k == "train" else k] for k in sets if sets[k]}, split=None)
    num_images = len(read[whole])
    fraction = 0.2 if num_images < FEW else 0.1 if num_images < MANY else 0.05
    seed = _choose_seed(read[whole], fraction, layout.found)
    is_val = are_held_back(read[whole].image_ids.tolist(), fraction, seed)
    found = {
        part: read[whole].take(np.flatnonzero(is_val == (part == "val")), f"{part} part of {read[whole].description}")
        for part in ("train", "val")
    }
    parts = {
        part: Split(data=layout.sets[whole], part=part, val_fraction=fraction, seed=seed) for part in ("train", "val")
    }
    share = f"{100 * fraction:g} %"
    why = (
        f"the data have no part to judge by, so {share} of the pictures are held back by a rule that moves none when others "
        f"are added: {len(found['train'])} to train on, {len(found['val'])} to choose the best weights by"
    )
    sets = {**parts, "test": test}
    tested = {"test": read["test"]} if test else {}
    return Parts(settings=sets, read={**found, **tested}, split=Choice((fraction, seed), why))


def _choose_seed(whole: Any, fraction: float, found: str) -> int:
    """The first seed of a split whose parts are about as large as `fraction` says, and whose training part has every class.

    Where there is none, the first that leaves no part empty.
    """
    ids, classes = whole.image_ids.tolist(), set(np.unique(whole.labels))
    wanted, first = fraction * len(ids), None
    for seed in range(NUM_SEEDS):
        is_val = are_held_back(ids, fraction, seed)
        if is_val.all() or not is_val.any():
            continue
        first = seed if first is None else first
        is_near = abs(int(is_val.sum()) - wanted) <= max(1.0, 0.2 * wanted)
        if is_near and set(np.unique(whole.take(np.flatnonzero(~is_val), "").labels)) == classes:
            return seed
    if first is None:
        raise ValueError(f"{found}: {len(whole)} pictures are too few to hold some back and train on the others")
    return first


# ---------------------------------------------------------------------------------------------- batch and rate


def choose_batch(num_images: int, of_page: int, page: str, most: int | None = None) -> Choice:
    """Images of a step: the page's, halved until one device holds them and an epoch has enough steps.

    Args:
        most: images that one device is asked to hold.
    """
    batch = of_page
    while most is not None and batch > most:
        batch //= 2
    held = batch
    while batch > LEAST_BATCH and num_images // batch < STEPS_OF_AN_EPOCH:
        batch = max(LEAST_BATCH, batch // 2)
    batch = min(batch, num_images)
    steps = num_images // batch
    if batch == of_page:
        return Choice(batch, f"as in {page}: {num_images} pictures are {steps} steps an epoch")
    if batch == held:
        return Choice(batch, f"{page} has {of_page}, over several GPUs; {batch} for one: {steps} steps an epoch")
    return Choice(batch, f"{page} has {of_page}, too many for {num_images} pictures; so an epoch has {steps} steps")


def choose_lr(of_page: float, batch: int, batch_of_page: int, page: str) -> Choice:
    """The rate of the page, in proportion to the images of a step."""
    if batch == batch_of_page:
        return Choice(of_page, f"as in {page}, whose batch it is")
    rate = float(f"{of_page * batch / batch_of_page:.3g}")
    return Choice(rate, f"{page}'s {of_page:g} for {batch_of_page} images, in proportion to {batch}")


# ---------------------------------------------------------------------------------------------- sizes


def choose_size(train: Annotations, *, is_square: bool) -> Choice:
    """(height, width) of a detector's input: so large that most of the small objects can be seen, and not larger.

    Args:
        is_square: the page draws square sizes.
    """
    width, height = float(np.median(train.widths)), float(np.median(train.heights))
    longer, ratio = max(width, height), min(max(width / height, 0.5), 2.0)
    sides = np.sqrt((train.boxes[:, 2:] - train.boxes[:, :2]).prod(axis=1))
    small = float(np.quantile(sides, 0.1)) if len(sides) else longer
    wanted = longer * SEEN / max(small, 1.0)
    highest = min(LARGEST_LONG_SIDE, max(_rounded(longer), LEAST_SIDE))
    long_side = min(max(wanted, SMALLEST_LONG_SIDE), highest)
    size = (_rounded(long_side / max(ratio, 1)), _rounded(long_side * min(ratio, 1)))
    if is_square:
        size = (_rounded(long_side), _rounded(long_side))
    scale = math.sqrt(size[0] * size[1] / (width * height))
    why = (
        f"height and width, multiples of {STRIDE}: the pictures have {height:g} x {width:g} pixels (median), and the "
        f"smallest tenth of the objects {small:.0f}, here {small * scale:.0f}; larger sees more and takes longer"
    )
    return Choice(size, why)


def choose_sizes(size: int, sizes: tuple[int, ...], of_page: int) -> Choice:
    """The sizes that are drawn in training: as far around `size` as the page's around its own."""
    low, high = (_rounded(limit * size / of_page) for limit in (min(sizes), max(sizes)))
    drawn = tuple(range(low, high + 1, STRIDE))
    return Choice(drawn, f"as far around {size} as the page's {min(sizes)} to {max(sizes)} are around {of_page}")


def choose_crop(train: Any, spec: Any, *, is_for_small: bool) -> Choice:
    """((height, width), shorter side before the crop) of a classifier's input.

    Args:
        spec: the page's `ClassificationInput`.
        is_for_small: the page's network is made for pictures of CIFAR's size.
    """
    shown = train.evenly(20)
    sides = [min(train.load_picture(int(index)).shape[:2]) for index in shown]
    side = float(np.median(sides))
    own = spec.size[0]
    size = own
    if is_for_small and side > SMALL_PICTURES:
        size = 64
    elif not is_for_small and side < 0.6 * own:
        size = max(64, _rounded(side))
    reason = "the page's size does"
    if size != own:
        reason = (
            f"the network is made for pictures of {own}" if is_for_small else f"the page's {own} would enlarge them"
        )
    why = f"the shorter side of the pictures has {side:g} pixels (median); {reason}"
    return Choice(((size, size), max(size, round(size * spec.shorter_side / own))), why)


def _rounded(side: float) -> int:
    """The nearest multiple of STRIDE, at least one."""
    return max(STRIDE, STRIDE * math.floor(side / STRIDE + 0.5))
