"""From detections and annotations to numbers: the COCO metric in `coco.py`, the Pascal VOC metric in `voc.py`.

This file holds what both share: the form of a detection set, the check that every image counts once, and the table of
the classes.

A detection set is a list of `ImageDetections`, one for each evaluated image, also for an image in which nothing was
found.  Each process of a run makes such a list for its own images, and `merge` joins the lists.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from public.text import shown


class ImageDetections(NamedTuple):
    """The detections of one image, as numpy arrays; n may be 0.

    index:  position of the image in the `Annotations` it is compared with
    boxes:  float32 (n, 4), x1 y1 x2 y2 in pixels of the original image
    scores: float32 (n,)
    labels: int64 (n,), positions in `Annotations.class_names`
    """

    index: int  # type: ignore[assignment]  # a tuple's own `index` is hidden
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


def merge(parts: Iterable[Sequence[ImageDetections]]) -> list[ImageDetections]:
    """The detection sets of all processes as one, by rising index.

    Raises:
        ValueError: the parts together do not hold the images 0, 1, 2, ... once each.
    """
    merged = sorted((image for part in parts for image in part), key=lambda image: image.index)
    for position, image in enumerate(merged):
        if image.index == position:
            continue
        problem = "is there more than once" if image.index < position else f"follows {position - 1}: some are missing"
        raise ValueError(
            f"Image number {image.index} {problem}.  Each image belongs to exactly one process, and the sampler of the "
            "evaluation must neither repeat images to fill a batch nor drop the last batch."
        )
    return merged


def check_detections(annotations, detections: Sequence[ImageDetections]) -> None:
    """Checks that `detections`, in any order, is a well-formed detection set for `annotations`.

    Raises:
        ValueError: an image is missing, there twice or unknown; shapes disagree; a box or score is not finite; a label
            is not a class.  The image is named.
    """
    counts = np.zeros(len(annotations), dtype=np.int64)
    for image in detections:
        if not 0 <= image.index < len(annotations):
            raise ValueError(
                f"There are detections for image number {image.index}, but the data set has {len(annotations)} images, "
                "numbered from 0.  Evaluate with the annotations the detections were made for."
            )
        counts[image.index] += 1
        _check_image(image, annotations.image_ids[image.index], len(annotations.class_names))
    for index in np.flatnonzero(counts != 1)[:1]:
        raise ValueError(
            f"Image {annotations.image_ids[index]} (number {index}) has {counts[index]} entries among the detections "
            f"instead of one; {np.count_nonzero(counts != 1)} of {len(annotations)} images are wrong in this way.  "
            "An image without detections needs an entry with empty arrays."
        )


def _check_image(image: ImageDetections, image_id, num_classes: int) -> None:
    num_detections = len(image.scores)
    shapes = (np.shape(image.boxes), np.shape(image.scores), np.shape(image.labels))
    if shapes != ((num_detections, 4), (num_detections,), (num_detections,)):
        raise ValueError(
            f"Image {image_id}: boxes, scores and labels have the shapes {shapes}; expected (n, 4), (n,) and (n,)."
        )
    if not (np.isfinite(image.boxes).all() and np.isfinite(image.scores).all()):
        raise ValueError(
            f"Image {image_id}: some boxes or scores are NaN or infinite.  The network's outputs are broken; metrics "
            "made from them would mean nothing."
        )
    if num_detections and not 0 <= image.labels.min() <= image.labels.max() < num_classes:
        raise ValueError(
            f"Image {image_id}: labels from {image.labels.min()} to {image.labels.max()}, but the data set has "
            f"{num_classes} classes (0 to {num_classes - 1}).  The network and the data disagree about the classes."
        )


def format_class_table(metrics: dict, num_columns: int = 3) -> str:
    """`metrics["class_AP"]` as a text table, read column by column; "-" where a class has no object to find."""
    class_ap = {shown(name): value for name, value in metrics["class_AP"].items()}
    name_width = max([len("class"), *map(len, class_ap)])
    cells = [
        f"{name:<{name_width}}  {'-' if value is None else format(value, '.3f'):>5}" for name, value in class_ap.items()
    ]
    num_columns = max(1, min(num_columns, len(cells)))
    num_rows = -(-len(cells) // num_columns)
    header = " | ".join([f"{'class':<{name_width}}  {'AP':>5}"] * num_columns)
    rows = [" | ".join(cells[row::num_rows]) for row in range(num_rows)]
    return "\n".join([header, *rows])
