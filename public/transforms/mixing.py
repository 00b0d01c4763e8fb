"""Mixup (Zhang et al., 1710.09412) and CutMix (Yun et al., 1905.04899): batch transforms that mix pictures two by two.

Place p of a batch is mixed with place p ^ 1: 0 with 1, 2 with 3.  The order of an epoch is random, so this is a random
pairing, and it is the same over one process or several.  One mix is drawn for a global batch, as in torchvision, from the
stream (seed, "batch", epoch, batch, name); its share is a whole number of 65536ths, so pixels are the same on every device.

B images of a batch, K classes.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from public.random_streams import stream
from public.transforms.rules import check, named

WHOLE = 1 << 16  # of which a share is a whole number


class Mix(NamedTuple):
    """What is done to a batch: a part of each picture stays, the rest is its partner's."""

    kind: str  # "none", "mixup" or "cutmix"
    share: int  # of 65536: what stays, of the pixels' values (mixup) or of their number (cutmix)
    box: tuple[int, int, int, int]  # cutmix: x1 y1 x2 y2 that comes from the partner


NO_MIX = Mix("none", WHOLE, (0, 0, 0, 0))


@dataclass(frozen=True, kw_only=True)
class Mixup:
    """With probability `prob`, a picture becomes s * itself + (1 - s) * its partner, s ~ Beta(alpha, alpha)."""

    alpha: float
    prob: float

    def __post_init__(self):
        check(self, alpha=(1e-6, 1e6), prob=(0, 1))

    def draw(self, rng: np.random.Generator, height: int, width: int) -> Mix:
        """The mix of one batch."""
        is_done, share = rng.random() < self.prob, rng.beta(self.alpha, self.alpha)
        return Mix("mixup", round(share * WHOLE), NO_MIX.box) if is_done else NO_MIX


@dataclass(frozen=True, kw_only=True)
class CutMix:
    """With probability `prob`, a box of each picture is replaced by its partner's.

    The box has the share 1 - s of the area, s ~ Beta(alpha, alpha), the picture's aspect ratio and a random middle; what
    reaches over the edge is cut off, and the labels' share is that of the pixels that are left.
    """

    alpha: float
    prob: float

    def __post_init__(self):
        check(self, alpha=(1e-6, 1e6), prob=(0, 1))

    def draw(self, rng: np.random.Generator, height: int, width: int) -> Mix:
        """The mix of one batch."""
        is_done, share, middle_x, middle_y = rng.random() < self.prob, rng.beta(self.alpha, self.alpha), *rng.random(2)
        if not is_done:
            return NO_MIX
        half = np.sqrt(1 - share) / 2
        x1, x2 = _span(middle_x, half, width)
        y1, y2 = _span(middle_y, half, height)
        covered = (x2 - x1) * (y2 - y1) / (height * width)
        return Mix("cutmix", round((1 - covered) * WHOLE), (x1, y1, x2, y2))


def _span(middle, half, length):
    """First pixel and the one after the last, of the part of `length` within `half` on both sides of `middle` (shares)."""
    middle, half = int(middle * length), int(half * length)
    return max(middle - half, 0), min(middle + half, length)


@dataclass(frozen=True, kw_only=True)
class MixupOrCutMix:
    """One of the two for each batch, or neither: mixup with probability `mixup_prob`, CutMix with `cutmix_prob`."""

    mixup_alpha: float
    cutmix_alpha: float
    mixup_prob: float
    cutmix_prob: float

    def __post_init__(self):
        check(self, mixup_alpha=(1e-6, 1e6), cutmix_alpha=(1e-6, 1e6), mixup_prob=(0, 1), cutmix_prob=(0, 1))
        if self.mixup_prob + self.cutmix_prob > 1:
            raise ValueError(f"{self}: the probabilities are those of one choice, and add up to more than 1")

    def draw(self, rng: np.random.Generator, height: int, width: int) -> Mix:
        """The mix of one batch."""
        choice = rng.random()
        if choice < self.mixup_prob:
            return Mixup(alpha=self.mixup_alpha, prob=1).draw(rng, height, width)
        if choice < self.mixup_prob + self.cutmix_prob:
            return CutMix(alpha=self.cutmix_alpha, prob=1).draw(rng, height, width)
        return NO_MIX


def draw_mix(batch_transforms: tuple, seed: int, epoch: int, batch: int, height: int, width: int) -> Mix:
    """What the batch transform draws for a global batch; `NO_MIX` without one.

    Raises:
        ValueError: there are several: the labels of a picture are mixed once.
    """
    acting = named(batch_transforms, epoch)
    if len(acting) > 1:
        raise ValueError(f"batch_transforms {batch_transforms}: one at most; MixupOrCutMix chooses between the two")
    for name, transform in acting:
        return transform.draw(stream(seed, "batch", epoch, batch, name), height, width)
    return NO_MIX


def mix_images(images: torch.Tensor, mix: Mix) -> torch.Tensor:
    """The mixed batch, uint8 (B, H, W, 3); the same bits on every device.

    Raises:
        ValueError: the number of images is odd.
    """
    if mix.kind == "none":
        return images
    partners = images[partner_places(len(images)).to(images.device)]
    if mix.kind == "mixup":
        # at most 255 * 65536 + 32768, which int32 holds
        mixed = images.int() * mix.share + partners.int() * (WHOLE - mix.share)
        return ((mixed + WHOLE // 2) >> 16).to(torch.uint8)
    x1, y1, x2, y2 = mix.box
    mixed = images.clone()
    mixed[:, y1:y2, x1:x2] = partners[:, y1:y2, x1:x2]
    return mixed


def partner_places(num_images: int) -> torch.Tensor:
    """(B,) the place of each image's partner.

    Raises:
        ValueError: the number is odd.
    """
    if num_images % 2:
        raise ValueError(
            f"a batch of {num_images} images cannot be mixed two by two; take a batch_size that is even for each process"
        )
    return torch.arange(num_images) ^ 1
