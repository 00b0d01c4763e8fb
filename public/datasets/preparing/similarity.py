"""Pictures that look alike, whatever their bytes: saved anew, resized, a little cropped, brightened, mirrored, turned.

The hash is that of the cosine transform (pHash; Zauner, "Implementation and Benchmarking of Perceptual Image Hash
Functions", 2010), with 16 x 16 coefficients of a 32 x 32 grey picture: which of them are above their median.  Of COCO's,
BCCD's and Imagenette's pictures, different ones are 86 or more of the 255 bits apart; copies saved anew at quality 30 or
at a quarter of the size at most 34, and copies that lack 2 % at each edge at most 50.  All ten pairs of CIFAR-10's training
and test pictures (10,000 and 2,000 of them) within 50 bits are of one picture.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

SIDE, NUM_WAVES = 32, 16  # of the grey picture, in pixels; coefficients that are kept in each direction
NUM_WORDS = NUM_WAVES * NUM_WAVES // 64
LARGEST_DISTANCE = 50  # bits by which pictures that are named as alike may differ
LEAST_SPREAD = 2.0  # of grey levels; a picture of less has nothing to be known by
_BLOCK = 4_000_000  # distances that are computed at once


class Near(NamedTuple):
    """A picture that looks like one of other pictures."""

    index: int  # type: ignore[assignment]  # a tuple's own `index` is hidden
    other: int  # the nearest of the others
    distance: int
    is_turned: bool  # one is the other mirrored, or turned by quarters


def perceptual_hash(image: np.ndarray) -> np.ndarray | None:
    """uint64 (8, 4) of a picture (H, W, 3) uint8 RGB: as it is, then mirrored and turned in all ways; None if it is flat."""
    grey = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    if grey.std() < LEAST_SPREAD:
        return None
    waves = cv2.dct(grey.astype(np.float32))[:NUM_WAVES, :NUM_WAVES]
    sign = np.where(np.arange(NUM_WAVES) % 2, -1, 1).astype(np.float32)  # mirrored, every other wave is turned over
    mirrored = [waves, waves * sign, waves * sign[:, None], waves * sign * sign[:, None]]
    forms = np.stack([form for one in mirrored for form in (one, one.T)]).reshape(8, -1)
    is_high = forms > np.median(forms[:, 1:], axis=1, keepdims=True)
    is_high[:, 0] = False  # the mean
    return np.packbits(is_high, axis=1).view(np.uint64)


def find_near(hashes: Sequence[np.ndarray | None], others: Sequence[np.ndarray | None]) -> list[Near]:
    """The pictures, by their hashes, that look like one of the others; each with the nearest of these."""
    known = {i: one for i, one in enumerate(hashes) if one is not None}
    rows = {i: one for i, one in enumerate(others) if one is not None}
    if not known or not rows:
        return []
    numbers, other_numbers = list(known), list(rows)
    upright = np.stack([one[0] for one in known.values()])  # (N, 4)
    forms = np.concatenate(list(rows.values()))  # (M * 8, 4)
    found = []
    step = max(1, _BLOCK // len(forms))
    for start in range(0, len(upright), step):
        block = upright[start : start + step]
        distances = np.zeros((len(block), len(forms)), dtype=np.uint16)
        for word in range(NUM_WORDS):
            distances += np.bitwise_count(block[:, word, None] ^ forms[None, :, word])
        nearest = distances.argmin(axis=1)
        for number, (form, distance) in enumerate(zip(nearest, distances.min(axis=1))):
            if distance <= LARGEST_DISTANCE:
                other, way = divmod(int(form), 8)
                found.append(Near(numbers[start + number], other_numbers[other], int(distance), way > 0))
    return found
