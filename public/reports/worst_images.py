"""Pictures of the images in which most went wrong: ground truth beside predictions, with the errors marked.

Boxes have the colours of their classes, as in all pictures.  What is wrong has a disc, at the middle of its box or, if
that is small, at its lower right corner: a cross on red for an object that was missed and for a false positive, an
unequal sign on orange for an object that was given another class.  What has no disc is right, or does not count
(crowds, difficult objects, and detections of them).
"""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from public import drawing
from public.evaluation.detections import ImageDetections
from public.evaluation.matching import ImageMatches
from public.input import ImageError, read_image

SINGLE_SIDE = 720  # pixels of the longer side of an image in its own picture
SHEET_SIDE = 480  # and in the sheet of all
_RED, _ORANGE, _WHITE = (214, 31, 31), (240, 130, 0), (255, 255, 255)


def draw_worst(
    folder: Path, annotations, detections: Sequence[ImageDetections], worst: Sequence[ImageMatches]
) -> list[Path]:
    """Writes <rank>_<image>.jpg for each image of `worst` into `folder`, and all of them as the sheet `<folder>.jpg`.

    Pictures of an earlier evaluation in `folder` are removed.  With no image in `worst` there is no sheet.

    Returns:
        The single pictures, in the order of `worst`.

    Raises:
        OSError: a picture cannot be written; it is named.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sheet = folder.with_suffix(".jpg")
    for old in [*folder.glob("[0-9]*_*.jpg"), sheet]:
        old.unlink(missing_ok=True)
    by_index = {image.index: image for image in detections}
    paths, small = [], []
    for rank, matches in enumerate(worst, start=1):
        image = _picture(annotations, matches.index)
        found = by_index[matches.index]
        name = Path(annotations.image_name(matches.index)).stem
        paths.append(folder / f"{rank:0{len(str(len(worst)))}d}_{name}.jpg")
        drawing.save_image(paths[-1], draw_matches(image, annotations, found, matches, side=SINGLE_SIDE))
        small.append(draw_matches(image, annotations, found, matches, side=SHEET_SIDE))
    if small:
        drawing.save_image(sheet, drawing.contact_sheet(small, columns=2 if len(small) > 3 else 1))
    return paths


def _picture(annotations, index: int) -> np.ndarray:
    """The image, or the black one that was evaluated in its place where it cannot be read (on_bad_sample = "skip")."""
    try:
        return read_image(annotations.image_path(index))
    except ImageError:
        return np.zeros((annotations.heights[index], annotations.widths[index], 3), dtype=np.uint8)


def draw_matches(
    image: np.ndarray, annotations, found: ImageDetections, matches: ImageMatches, *, side: int
) -> np.ndarray:
    """Ground truth | predictions of one image, the errors marked.

    Args:
        image: uint8 RGB (H, W, 3), at its original size.
        annotations: an `Annotations`.
        found: its detections; drawn are those that `matches` keeps.
        side: the image is drawn with its longer side of so many pixels.
    """
    scale = side / max(image.shape[:2])
    size = tuple(max(1, round(length * scale)) for length in image.shape[1::-1])
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    objects, names = annotations.objects(matches.index), annotations.class_names
    boxes, kept_boxes = objects.boxes * scale, found.boxes[matches.kept] * scale

    left = drawing.draw_detections(image, boxes, objects.labels, names)
    is_misnamed = matches.is_counted & (matches.called >= 0) & (matches.called != matches.object_labels)
    _mark(left, boxes[is_misnamed], _ORANGE, "unequal")
    _mark(left, boxes[matches.is_missed], _RED, "cross")
    right = drawing.draw_detections(image, kept_boxes, matches.found_labels, names, found.scores[matches.kept])
    _mark(right, kept_boxes[matches.is_wrong_class], _ORANGE, "unequal")
    _mark(right, kept_boxes[matches.is_false_positive], _RED, "cross")

    wrong, missed, false = (int(m.sum()) for m in (is_misnamed, matches.is_missed, matches.is_false_positive))
    truth_title = f"{annotations.image_id(matches.index)}: objects {int(matches.is_counted.sum())}, missed {missed}"
    found_title = f"F1 {matches.f1:.2f}: right {int(matches.is_right.sum())}, misnamed {wrong}, false {false}"
    return drawing.side_by_side(left, right, (truth_title, found_title))


def _mark(image: np.ndarray, boxes: np.ndarray, color: tuple[int, int, int], sign: str) -> None:
    """Draws a disc with a sign at the middle of each box, or at the lower right corner of a small one."""
    height, width = image.shape[:2]
    for x1, y1, x2, y2 in np.clip(boxes, 0, [width, height, width, height]).tolist():
        radius = float(np.clip(0.18 * min(x2 - x1, y2 - y1), 5, max(5, max(height, width) / 40)))
        center = np.array([(x1 + x2) / 2, (y1 + y2) / 2])
        if min(x2 - x1, y2 - y1) < 5 * radius:  # a disc in the middle would hide what is in the box, or its label
            center = np.minimum([x2, y2], [width - radius, height - radius])
        _disc(image, center, radius + 1.5, _WHITE)
        _disc(image, center, radius, color)
        arm = 0.5 * radius
        if sign == "cross":
            lines = [((-arm, -arm), (arm, arm)), ((-arm, arm), (arm, -arm))]
        else:
            lines = [((-arm, -0.4 * arm), (arm, -0.4 * arm)), ((-arm, 0.4 * arm), (arm, 0.4 * arm))]
            lines.append(((-0.5 * arm, arm), (0.5 * arm, -arm)))
        for start, end in lines:
            _line(image, center + start, center + end, max(1, round(radius / 4.5)))


_SHIFT = 4  # OpenCV takes coordinates in sixteenths of a pixel


def _disc(image: np.ndarray, center: np.ndarray, radius: float, color: tuple[int, int, int]) -> None:
    x, y = np.rint(center * 2**_SHIFT).astype(int).tolist()
    cv2.circle(image, (x, y), round(radius * 2**_SHIFT), color, -1, cv2.LINE_AA, _SHIFT)


def _line(image: np.ndarray, start: np.ndarray, end: np.ndarray, thickness: int) -> None:
    ends = [tuple(np.rint(point * 2**_SHIFT).astype(int).tolist()) for point in (start, end)]
    cv2.line(image, ends[0], ends[1], _WHITE, thickness, cv2.LINE_AA, _SHIFT)
