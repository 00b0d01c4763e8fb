"""Moving the objects of a sample with its picture."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from public.datasets.annotations import Objects
from public.datasets.sample import Sample


def with_objects(sample: Sample, image: np.ndarray, boxes: np.ndarray, is_kept: np.ndarray | None = None) -> Sample:
    """`sample` with a new image and moved boxes, clipped to it; objects without size or not in `is_kept` are dropped."""
    height, width = image.shape[:2]
    boxes = np.clip(boxes, 0, np.array([width, height, width, height])).astype(np.float32)
    has_size: Any = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    is_kept = has_size if is_kept is None else has_size & is_kept
    return replace(
        sample,
        image=image,
        boxes=boxes[is_kept],
        labels=sample.labels[is_kept],
        difficult=sample.difficult[is_kept],
        crowd=sample.crowd[is_kept],
    )


def joined(parts: Sequence[Objects]) -> Objects:
    """The objects of several pictures as those of one."""
    return Objects(*(np.concatenate(values) for values in zip(*parts)))


def with_all_objects(sample: Sample, image: np.ndarray, objects: Objects) -> Sample:
    """`sample` with a new image and other objects, boxes clipped to it; those without size are dropped."""
    return with_objects(replace(sample, **objects._asdict()), image, objects.boxes)
