"""What the assigners have in common: their result, and small steps.

Legend: B batch, A anchor points of all levels, G ground truths of one image, K classes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from public.precision import at_least_float32

BACKGROUND, IGNORED = -1, -2  # in place of an object's number: no object; neither object nor background
MOST_PAIRS = 2**24  # of an object and a point, in one tensor: 64 MB of float32


class Assignment(NamedTuple):
    """What each point of one image has to learn.

    `labels` (A,) int64, the number of classes for background; `boxes` (A, 4) in network pixels, arbitrary for
    background; `scores` (A,), the target of the label's class, in [0, 1], 0 for background; `objects` (A,) int64, the number
    of the object, or BACKGROUND.
    """

    labels: torch.Tensor
    boxes: torch.Tensor
    scores: torch.Tensor
    objects: torch.Tensor


class Matches(NamedTuple):
    """Which points of a batch learn which object, of any loss: what is drawn for a person.

    `objects` (B, A) int64, the number of the object in its image, BACKGROUND or IGNORED; `points` (A, 2), x y in network
    pixels, of an anchor its middle; `level_sizes`: (height, width) of the levels in cells.  Points follow each other level
    after level, rows before columns, and of a cell with several (anchors) these together.
    """

    objects: torch.Tensor
    points: torch.Tensor
    level_sizes: tuple[tuple[int, int], ...]

    @property
    def num_in_cell(self) -> int:
        return len(self.points) // sum(height * width for height, width in self.level_sizes)


class ObjectTargets(NamedTuple):
    """What each anchor or point of a batch has to learn.

    `objects` (B, A) int64, the number of the object in its image, BACKGROUND or IGNORED; `labels` (B, A) int64, K where
    there is no object; `boxes` (B, A, 4) in network pixels, 0 where there is none.
    """

    objects: torch.Tensor
    labels: torch.Tensor
    boxes: torch.Tensor


def targets_of_objects(objects: torch.Tensor, given: "PaddedObjects", num_classes: int) -> ObjectTargets:
    """Labels and boxes of the objects (B, A) that each image's anchors learn."""
    row = objects.clamp(min=BACKGROUND) % (given.labels.shape[1] + 1)  # -1: the last row, which is added, of no object
    labels = F.pad(given.labels, (0, 1), value=num_classes).gather(1, row)
    return ObjectTargets(objects, labels, boxes_of(row, F.pad(given.boxes, (0, 0, 0, 1))))


class PaddedObjects(NamedTuple):
    """The objects of B images in tensors of one size: G is the largest number in an image.

    `boxes` (B, G, 4) in pixels, at least float32, and `labels` (B, G) int64 are 0 where an image has fewer; `is_real` (B, G).
    """

    boxes: torch.Tensor
    labels: torch.Tensor
    is_real: torch.Tensor


def padded_objects(targets: list[dict[str, torch.Tensor]]) -> PaddedObjects:
    """The objects of a batch, `targets` as a loss takes them; the real ones of an image come first.

    They are taken from one list of all, so that no image needs a copy of its own.
    """
    counts = np.array([len(target["labels"]) for target in targets])
    is_real = np.arange(counts.max()) < counts[:, None]  # (B, G)
    places = np.where(is_real, np.cumsum(is_real).reshape(is_real.shape) - 1, counts.sum())  # the last row is that of 0
    boxes = at_least_float32(torch.cat([target["boxes"] for target in targets]))
    labels = torch.cat([target["labels"] for target in targets])
    index = torch.from_numpy(places).to(labels.device, non_blocking=True)
    return PaddedObjects(F.pad(boxes, (0, 0, 0, 1))[index], F.pad(labels, (0, 1))[index], index != int(counts.sum()))


def computes_images_alone(device: torch.device) -> bool:
    """Whether what does not round alike in tensors of any size is computed for each image: on CPUs, see `image_by_image`.

    On a GPU each image would cost launches of its own.
    """
    return device.type == "cpu"


def image_by_image(
    function: Callable[..., torch.Tensor], *values: torch.Tensor, is_real: torch.Tensor | None = None
) -> torch.Tensor:
    """`function` of tensors (..., G, A), which computes each number by itself, of what is real; 0 elsewhere.

    On CPUs torch computes the last few numbers of a tensor in another way than the others, with other roundings of powers,
    logarithms and the like.  There each image is computed alone, so that its bits do not depend on the images beside it.

    Args:
        is_real: (..., G); None: all are.
    """
    if values[0].dim() < 3 or not computes_images_alone(values[0].device):
        return function(*values)
    result = torch.zeros_like(values[0])
    counts = [result.shape[1]] * len(result) if is_real is None else is_real.sum(1).tolist()
    for place, *own, count in zip(result, *values, counts):
        place[:count] = function(*(part[:count] for part in own))
    return result


def image_after_image(
    function: Callable[[torch.Tensor], torch.Tensor], values: torch.Tensor, counts: list[int]
) -> torch.Tensor:
    """As `image_by_image`, of values (N, ...) of which each image has so many, one image after the other."""
    if not computes_images_alone(values.device):
        return function(values)
    return torch.cat([function(own) for own in values.split(counts)])


def sums_of_images(values: torch.Tensor, is_real: torch.Tensor) -> torch.Tensor:
    """The sum of each image's `values` (B, P), which are 0 where they are not real, (B,).

    On CPUs of what is real alone: how many numbers there are decides in which order they are added.
    """
    if not computes_images_alone(values.device):
        return values.sum(1)
    return torch.stack([own[is_own].sum() for own, is_own in zip(values, is_real)])


def assigned_in_parts(
    assign: Callable[[slice, PaddedObjects], Any], targets: list[dict[str, torch.Tensor]], num_points: int
) -> list[Any]:
    """What `assign` gives of the images of each part of a batch, and of their objects; see `parts_of_batch`."""
    parts = parts_of_batch([len(target["labels"]) for target in targets], num_points)
    return [assign(images, padded_objects(targets[images])) for images in parts]


def joined(parts: list[Any]) -> Any:
    """NamedTuples of tensors, one a part of a batch, as one of the whole batch."""
    return type(parts[0])(*map(torch.cat, zip(*parts)))


def parts_of_batch(counts: list[int], num_points: int) -> list[slice]:
    """Neighbouring images that are assigned together: as many as MOST_PAIRS allows of padded objects and points, or one."""
    parts, begin = [], 0
    for end in range(1, len(counts) + 1):
        is_last = end == len(counts)
        if is_last or max(counts[begin : end + 1]) * num_points * (end + 1 - begin) > MOST_PAIRS:
            parts.append(slice(begin, end))
            begin = end
    return parts


def all_background(num_points: int, num_classes: int, like: torch.Tensor) -> Assignment:
    """The assignment of images without objects, in the type and on the device of `like` (..., A, 4), predicted boxes."""
    shape = (*like.shape[:-2], num_points)
    return Assignment(
        labels=torch.full(shape, num_classes, dtype=torch.int64, device=like.device),
        boxes=like.new_zeros(*shape, 4),
        scores=like.new_zeros(shape),
        objects=torch.full(shape, BACKGROUND, device=like.device),
    )


def assignment_of(
    objects: torch.Tensor,
    is_positive: torch.Tensor,
    scores: torch.Tensor,
    *,
    boxes: torch.Tensor,
    labels: torch.Tensor,
    num_classes: int,
) -> Assignment:
    """The assignment of an image with objects, or of several, of what `one_object_each` gives.

    Args:
        objects: (..., A) int64; `is_positive`: (..., A) bool; `scores`: (..., A), arbitrary where not positive.
        boxes: (..., G, 4) in pixels, the objects; `labels`: (..., G) int64.
        num_classes: the label of background.
    """
    return Assignment(
        labels=torch.where(is_positive, labels.gather(-1, objects), num_classes),
        boxes=boxes_of(objects, boxes),
        scores=torch.where(is_positive, scores, 0.0),
        objects=torch.where(is_positive, objects, BACKGROUND),
    )


def boxes_of(objects: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """The boxes (..., A, 4) of the objects (..., A), of boxes (..., G, 4)."""
    return boxes.gather(-2, objects[..., None].expand(*objects.shape, 4))


def points_inside(points: torch.Tensor, boxes: torch.Tensor, *, margin: float) -> torch.Tensor:
    """True where a point (A, 2) lies more than `margin` inside a box (..., G, 4), as (..., G, A)."""
    x, y = points[:, 0], points[:, 1]
    left, top, right, bottom = boxes[..., None].unbind(-2)  # (..., G, 1) each
    return (x - left > margin) & (y - top > margin) & (right - x > margin) & (bottom - y > margin)


def points_near_centre(points: torch.Tensor, boxes: torch.Tensor, *, radii: torch.Tensor) -> torch.Tensor:
    """True where a point (A, 2) lies nearer than its radius (A,), in pixels, to the centre of (..., G, 4), as (..., G, A)."""
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    dx = centres[..., :1] - points[:, 0]  # (..., G, A)
    dy = centres[..., 1:] - points[:, 1]
    return dx.square_().add_(dy.square_()).sqrt_() < radii


def top_k_mask(values: torch.Tensor, k: int) -> torch.Tensor:
    """True at the `k` largest of each row of `values` (..., G, A), or at all where a row has fewer.

    Of equal values the one further left comes first, on every device; `torch.topk` leaves that open.
    """
    k = min(k, values.shape[-1])
    return _mask_of_largest(values, values.topk(k, dim=-1).values.amin(-1, keepdim=True), k)


def top_counts_mask(values: torch.Tensor, counts: torch.Tensor, *, most: int) -> torch.Tensor:
    """True at the `counts[g]` largest of each row g of `values` (..., G, A), with the ties of `top_k_mask`.

    counts: (..., G, 1) int64, each from 1 to the smaller of `most` and A; `most` is known without looking at the device.
    """
    best = values.topk(min(most, values.shape[-1]), dim=-1).values  # by falling value
    return _mask_of_largest(values, best.gather(-1, counts - 1), counts)


def _mask_of_largest(values: torch.Tensor, kth_value: torch.Tensor, k: int | torch.Tensor) -> torch.Tensor:
    """True at the `k` largest of each row, given the smallest of these, (..., G, 1); of equal ones those further left."""
    is_larger = values > kth_value
    is_equal = values == kth_value
    num_free = k - is_larger.sum(-1, keepdim=True)
    return is_larger | (is_equal & (is_equal.cumsum(-1, dtype=torch.int32) <= num_free))


def one_object_each(is_claimed: torch.Tensor, ious: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Settles which object a point learns when several claim it: the one of the highest IoU.

    As in the originals, that is the highest over all objects of the image, also one that did not claim the point.
    Of equal IoUs the first object wins.

    Args:
        is_claimed: (..., G, A), object g claims point a.
        ious: (..., G, A).

    Returns:
        the object of each point (..., A), int64, and whether it has one (..., A), bool.
    """
    num_claims = is_claimed.sum(-2)
    only_claim = is_claimed.to(torch.uint8).argmax(-2)  # argmax returns the first of equal values
    return torch.where(num_claims > 1, ious.argmax(-2), only_claim), num_claims > 0
