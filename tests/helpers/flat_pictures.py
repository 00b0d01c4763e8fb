"""A set of pictures of one colour each, by which one sees which of them a sample is made of."""

from pathlib import Path

import cv2
import numpy as np

from public.datasets.annotations import Annotations

GREY = 114  # of no picture
CLASSES = ("a", "b", "c")


def color_of(index: int) -> tuple[int, int, int]:
    """RGB of picture `index`; no two are alike, and no mixture of two is another."""
    return 10 + 20 * index, 250 - 20 * index, 7


def write_flat(root: Path, *, sides: list[tuple[int, int]], extension: str = ".png") -> Annotations:
    """One picture of each (height, width), with a box over its middle half, of the class index % 3."""
    root.mkdir(parents=True, exist_ok=True)
    boxes = []
    for index, (height, width) in enumerate(sides):
        picture = np.full((height, width, 3), color_of(index)[::-1], dtype=np.uint8)  # BGR
        is_written, encoded = cv2.imencode(extension, picture)
        assert is_written
        (root / f"{index}{extension}").write_bytes(encoded.tobytes())
        boxes.append([width / 4, height / 4, 3 * width / 4, 3 * height / 4])
    count = len(sides)
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in boxes]
    return Annotations(
        image_root=str(root),
        image_names=[f"{index}{extension}" for index in range(count)],
        image_ids=list(range(count)),
        heights=[height for height, _ in sides],
        widths=[width for _, width in sides],
        offsets=np.arange(count + 1),
        boxes=np.array(boxes),
        labels=np.arange(count) % 3,
        difficult=np.zeros(count, dtype=bool),
        crowd=np.zeros(count, dtype=bool),
        areas=np.array(areas),
        class_names=CLASSES,
        category_ids=(0, 1, 2),
        use_difficult=False,
        description="flat pictures",
    )
