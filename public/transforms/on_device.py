"""A small data set on the device: gathered, flipped, cropped, erased and mixed there in batches, same pixels as by workers.

The random numbers of a batch are drawn and turned into whole pixels on the CPU, by the `plan` of each transform, as they
are for a single picture; the device only moves pixels.  All of it is indexing, which is exact and repeatable anywhere.

B images of a batch, P whole numbers that plan a transform.
"""

from typing import Any

import numpy as np
import torch

from public.transforms.classification import RandomErasing, ReflectPadCrop
from public.transforms.counter_stream import stream_key, uniforms
from public.transforms.flip import RandomFlip
from public.transforms.rules import all_of, named, reflect


def flip_batch(images: torch.Tensor, plan: torch.Tensor, transform: RandomFlip) -> torch.Tensor:
    """The batch with some of its pictures mirrored."""
    return torch.where(plan[:, :, None, None].bool(), images.flip(2), images)


def crop_batch(images: torch.Tensor, plan: torch.Tensor, transform: ReflectPadCrop) -> torch.Tensor:
    """A cut of each picture, mirrored over its edges; by indexing, no padded batch is made."""
    height, width = images.shape[1:3]
    rows = torch.arange(transform.size[0], device=images.device) - transform.padding + plan[:, :1]  # (B, h)
    columns = torch.arange(transform.size[1], device=images.device) - transform.padding + plan[:, 1:]  # (B, w)
    pictures = torch.arange(len(images), device=images.device)[:, None, None]
    return images[pictures, reflect(rows, height)[:, :, None], reflect(columns, width)[:, None, :]]


def erase_batch(images: torch.Tensor, plan: torch.Tensor, transform: RandomErasing) -> torch.Tensor:
    """The batch with a rectangle of each picture in an even colour; an empty one changes nothing."""
    x1, y1, x2, y2 = plan.unbind(1)
    height, width = images.shape[1:3]
    is_row = _is_between(height, y1, y2)[:, :, None, None]
    is_column = _is_between(width, x1, x2)[:, None, :, None]
    fill = torch.tensor(transform.fill, dtype=torch.uint8).to(images.device, non_blocking=True)
    return torch.where(is_row & is_column, fill, images)


def _is_between(length, first, end):
    """(B, length) whether a position is one from `first` to `end` - 1, both (B,)."""
    positions = torch.arange(length, device=first.device)
    return (positions >= first[:, None]) & (positions < end[:, None])


IN_BATCHES: dict[type, Any] = {RandomFlip: flip_batch, ReflectPadCrop: crop_batch, RandomErasing: erase_batch}


def check_transforms(transforms: tuple) -> None:
    """Refuses a transform that cannot be done in batches.

    Raises:
        ValueError: naming it and those that can.
    """
    for transform in all_of(transforms):
        if type(transform) not in IN_BATCHES:
            raise ValueError(
                f"{type(transform).__name__} cannot be done in batches on a device, only "
                f"{', '.join(kind.__name__ for kind in IN_BATCHES)}; leave the data on the CPU"
            )


def transform_batch(
    images: torch.Tensor, transforms: tuple, seed: int, epoch: int, samples: np.ndarray
) -> torch.Tensor:
    """uint8 (B, H, W, 3) after all of `transforms`; picture i is what `apply_transforms` makes of it for samples[i].

    Args:
        samples: (B,) int64, `sample_number` of each.

    Raises:
        ValueError: a transform cannot be done in batches.
    """
    check_transforms(transforms)
    for name, transform in named(transforms, epoch):
        draws = uniforms(stream_key(seed, epoch, name), samples, transform.num_draws)  # (B, D)
        plan = torch.from_numpy(transform.plan(draws, *images.shape[1:3]))  # (B, P)
        images = IN_BATCHES[type(transform)](images, send(plan, images.device), transform)
    return images


def send(tensor, device):
    """`tensor` on the device, without waiting for what the device does."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
