"""The pictures of a detection set with their objects, as they lie on disk."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from public.datasets.annotations import Annotations
from public.datasets.defects import Defect, OnDefect
from public.datasets.sample import Sample
from public.input import ImageError, read_image, read_size


def load_picture(annotations: Annotations, index: int) -> np.ndarray:
    """The picture `index` (H, W, 3) uint8 RGB, which has the annotated size.

    Raises:
        ImageError: the picture cannot be read, or its size, turned by its EXIF orientation, is not the annotated one.
    """
    path = annotations.image_path(index)
    image = read_image(path)
    actual = image.shape[1], image.shape[0]
    if actual != _annotated_size(annotations, index):
        check_size(annotations, index, actual, read_image(path, turn=False).shape[1::-1])
    return image


def load_reduced_picture(annotations: Annotations, index: int, reduction: int) -> np.ndarray:
    """The picture `index` at 1 / reduction (1, 2, 4 or 8) of its sides, rounded up; one that is no JPEG at its full size.

    Raises:
        ImageError: as `load_picture`.
    """
    path = annotations.image_path(index)
    if reduction == 1 or os.path.splitext(path)[1].lower() not in (".jpg", ".jpeg"):
        return load_picture(annotations, index)
    image = read_image(path, reduction=reduction)
    # A reduced side tells of the picture's own only to the pixel count of a block: the header has it exactly.
    if read_size(path)[0] != _annotated_size(annotations, index):
        return load_picture(annotations, index)  # which says what is wrong
    return image


def measure(files: Sequence[str], on_defect: OnDefect) -> list[tuple[int, int] | None]:
    """(width, height) of each picture by its header, turned by the EXIF orientation; None, told, where it cannot be read."""

    def size_of(file):
        try:
            return read_size(file)[0]
        except ImageError as error:
            return error

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(size_of, files))
    for file, size in zip(files, found):
        if isinstance(size, ImageError):
            on_defect(Defect(size.kind, file, str(size)))
    return [None if isinstance(size, ImageError) else size for size in found]


def _annotated_size(annotations, index):
    return int(annotations.widths[index]), int(annotations.heights[index])


def check_size(annotations: Annotations, index: int, actual: tuple[int, int], stored: tuple[int, int]) -> None:
    """Compares the annotated (width, height) with that of the picture, turned by its EXIF orientation.

    Args:
        actual: of the picture as it is turned.
        stored: before that.

    Raises:
        ImageError: they differ.
    """
    annotated = _annotated_size(annotations, index)
    if annotated == actual:
        return
    remedy = "Correct one of them."
    if annotated == stored:
        remedy = (
            "That is its size as it is stored, before it is turned: annotate the turned picture, or take the orientation "
            "out of the file."
        )
    raise ImageError(
        f"{annotations.image_path(index)}: the picture has {actual[0]} x {actual[1]} pixels (width x height, turned by its "
        f"EXIF orientation), the annotation of {annotations.description} says {annotated[0]} x {annotated[1]}. {remedy}",
        "wrong size",
    )


def load_sample(annotations: Annotations, index: int) -> Sample:
    """The picture `index` and all its objects, in pixels of the original.

    Raises:
        ImageError: as `load_picture`.
    """
    return make_sample(annotations, index, load_picture(annotations, index))


def make_sample(annotations, index, image):
    boxes, labels, difficult, crowd = annotations.objects(index)
    return Sample(
        image=image,
        boxes=boxes,
        labels=labels,
        difficult=difficult,
        crowd=crowd,
        image_id=annotations.image_id(index),
        index=index,
        height=image.shape[0],
        width=image.shape[1],
    )
