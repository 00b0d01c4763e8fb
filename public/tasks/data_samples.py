"""The pages of `show_data` for a folder of data: pictures as they lie, with what is annotated about them."""

from typing import Any, NamedTuple

import numpy as np

from public.datasets.classification_set import ClassificationSet
from public.datasets.pictures import load_sample
from public.reports.titles import titled
from public.tasks.classification_samples import scaled
from public.tasks.detection_samples import draw_sample, with_title


class ShownPicture(NamedTuple):
    """One picture of the page."""

    index: int  # type: ignore[assignment]  # a tuple's own `index` is hidden
    image_id: str | int
    text: str  # its size, and its objects or its class
    drawing: np.ndarray  # (h, w, 3) uint8 RGB


def pictures_of(data: Any, num_images: int, indices: list[int] | None, side: int) -> list[ShownPicture]:
    """`num_images` pictures at even distances, or those of `indices`.

    Args:
        data: `Annotations` or a `ClassificationSet`.
        side: the longer side of a picture on the page, in pixels.

    Raises:
        ImageError: a picture cannot be read.
        ValueError: the set has no such picture.
    """
    for index in indices or ():
        if not 0 <= index < len(data):
            raise ValueError(f"--index {index}: the data set has images 0 to {len(data) - 1}")
    count = min(num_images, len(data))
    chosen = [number * len(data) // count for number in range(count)] if indices is None else dict.fromkeys(indices)
    show = _labelled if isinstance(data, ClassificationSet) else _annotated
    return [show(data, index, side) for index in chosen]


def _annotated(annotations, index, side):
    sample = load_sample(annotations, index)
    text = f"{sample.width} x {sample.height}, {len(sample.boxes)} objects"
    drawing = with_title(draw_sample(sample, annotations.class_names, side), (str(sample.image_id), text))
    return ShownPicture(index, sample.image_id, text, drawing)


def _labelled(pictures, index, side):
    image, name = pictures.load_picture(index), pictures.class_names[pictures.labels[index]]
    text = f"{image.shape[1]} x {image.shape[0]}, {name}"
    return ShownPicture(
        index, pictures.image_id(index), text, titled(scaled(image, side), [name], side=1, longest=side)
    )
