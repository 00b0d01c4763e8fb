"""What an evaluation leaves behind: curves, confusion matrix, a table of the classes, and the worst images.

    pr_curves.png                          precision over recall at an IoU of 0.50 and 0.75 (`curves.py`)
    classes.csv                            AP, AP50, AP75, recall and best score threshold of each class (`curves.py`)
    confusion_matrix.png  .csv             what objects were called, by the rule of `matching.py`
    worst_images.csv                       every image with an error, the worst first, by the same rule
    worst_images.jpg  worst_images/        the first of them: ground truth beside predictions (`pictures.py`)
    report.json                            the threshold of the last two, where it comes from, and the totals

The curves and the classes' numbers are COCO's: detections meet objects of their own class only, and difficult objects
count.  The confusion matrix and the images compare classes after the match, at one score threshold, without difficult
objects.  The same detections give the same bytes.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from public.evaluation.curves import CURVE_IOUS, Curves, compute_curves
from public.evaluation.detections import ImageDetections
from public.evaluation.matching import MATCH_IOU, ImageMatches, confusion_matrix, match_images, worst_first
from public.files import write_text
from public.reports.attempts import attempted
from public.reports.evaluation_plots import draw_confusion_matrix, draw_pr_curves
from public.reports.tables import format_table
from public.reports.worst_images import draw_worst

NO_THRESHOLD = 0.5  # taken, and said, where no detection at all is right and so no threshold is better than another

CLASS_HEADER = (
    "class", "objects", "detections", "AP", "AP50", "AP75", "max_recall", "best_score", "precision", "recall", "F1",
)  # fmt: skip
IMAGE_HEADER = ("rank", "image", "F1", "objects", "right", "wrong_class", "false_positives", "missed", "picture")


class Threshold(NamedTuple):
    """The score threshold of the confusion matrix and the images, and where it comes from."""

    score: float
    source: str


def write_report(
    folder: Path,
    annotations,
    detections: Sequence[ImageDetections],
    *,
    score_threshold: float | None = None,
    num_worst: int = 12,
) -> str:
    """Writes the files above into `folder`, which is made where it is missing; returns what to print.

    Args:
        annotations: an `Annotations`.
        detections: one entry for each image of `annotations`, in any order.
        score_threshold: of the confusion matrix and the images; None: the one with the best F1 over all classes.
        num_worst: how many images are drawn.

    Raises:
        ValueError: the detection set is malformed.
        OSError: a file cannot be written; it is named.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    curves = compute_curves(annotations, detections)
    threshold = _choose(curves, score_threshold)
    matches = match_images(annotations, detections, score_threshold=threshold.score)
    matrix = confusion_matrix(matches, len(annotations.class_names))
    worst = worst_first(matches)
    rule = f"score >= {threshold.score:.4g} ({threshold.source}), IoU >= {MATCH_IOU}, classes compared after the match"

    notes: list[str] = []
    names, chosen = annotations.class_names, worst[:num_worst]
    attempted(notes, "pr_curves.png", draw_pr_curves, folder / "pr_curves.png", curves)
    file = folder / "confusion_matrix.png"
    attempted(notes, file.name, draw_confusion_matrix, file, matrix, names, rule)
    drawn = attempted(notes, "worst_images", draw_worst, folder / "worst_images", annotations, detections, chosen)
    pictures = drawn or []
    write_text(folder / "classes.csv", format_table(CLASS_HEADER, class_rows(curves), "csv") + "\n")
    write_text(folder / "confusion_matrix.csv", _matrix_csv(matrix, names) + "\n")
    rows = _image_rows(annotations, worst, [path.relative_to(folder).as_posix() for path in pictures])
    write_text(folder / "worst_images.csv", format_table(IMAGE_HEADER, rows, "csv") + "\n")
    summary = _summary(threshold, matrix, curves, len(annotations), len(worst))
    write_text(folder / "report.json", json.dumps(summary, indent=2, allow_nan=False) + "\n")
    text = _text(curves, matrix, names, rule, rows[:num_worst], len(annotations), len(worst))
    return "\n".join([text, *notes])


def class_rows(curves: Curves) -> list[list]:
    """A row of CLASS_HEADER for each class; precision, recall and F1 are those at the best score, at an IoU of 0.50."""
    rows = []
    for curve in curves.classes:
        best = curve.best[0]
        point = [best.threshold, best.precision, best.recall, best.f1] if best else [None] * 4
        rows.append(
            [curve.name, curve.num_objects, curve.num_detections, curve.ap, *curve.ap_at, curve.max_recall, *point]
        )
    return rows


def _choose(curves: Curves, given: float | None) -> Threshold:
    if given is not None:
        return Threshold(given, "as given")
    best = curves.best[0]
    if best is None:
        return Threshold(NO_THRESHOLD, "no detection is right, so no threshold is the best")
    return Threshold(best.threshold, f"the best F1 over all classes, {best.f1:.3f}")


def _matrix_csv(matrix: np.ndarray, class_names: Sequence[str]) -> str:
    names = [*class_names, "background"]
    return format_table(["object \\ called", *names], [[n, *row] for n, row in zip(names, matrix.tolist())], "csv")


def _image_rows(annotations, worst: Sequence[ImageMatches], pictures: list[str]) -> list[list]:
    """A row of IMAGE_HEADER for each image of `worst`."""
    shown: list[str | None] = [*pictures, *[None] * (len(worst) - len(pictures))]
    return [
        [
            rank,
            annotations.image_id(image.index),
            image.f1,
            int(image.is_counted.sum()),
            int(image.is_right.sum()),
            int(image.is_wrong_class.sum()),
            int(image.is_false_positive.sum()),
            int(image.is_missed.sum()),
            picture,
        ]
        for rank, (image, picture) in enumerate(zip(worst, shown), start=1)
    ]


def _summary(threshold: Threshold, matrix: np.ndarray, curves: Curves, num_images: int, num_wrong: int) -> dict:
    best = {f"IoU {iou:.2f}": point and point._asdict() for iou, point in zip(CURVE_IOUS, curves.best)}
    right = int(np.trace(matrix[:-1, :-1]))
    return {
        "score_threshold": threshold.score,
        "score_threshold_is": threshold.source,
        "match_iou": MATCH_IOU,
        "best_of_all_classes": best,
        "objects": int(matrix[:-1].sum()),
        "right": right,
        "wrong_class": int(matrix[:-1, :-1].sum()) - right,
        "missed": int(matrix[:-1, -1].sum()),
        "false_positives": int(matrix[-1, :-1].sum()),
        "images": num_images,
        "images_with_errors": num_wrong,
    }


def _text(
    curves: Curves,
    matrix: np.ndarray,
    class_names: Sequence[str],
    rule: str,
    worst_rows: list[list],
    num_images: int,
    num_wrong: int,
) -> str:
    """The table of the classes, the commonest confusions and the worst images, as text."""
    lines = [format_table(CLASS_HEADER, class_rows(curves))]
    confused = matrix[:-1, :-1] * (1 - np.eye(len(class_names), dtype=int))
    order = np.argsort(-confused, axis=None, kind="stable")[:5]
    pairs = [np.unravel_index(i, confused.shape) for i in order if confused.flat[i]]
    right = int(np.trace(matrix[:-1, :-1]))
    lines += [
        "",
        f"with {rule}:",
        f"  {int(matrix[:-1].sum())} objects: {right} right, {int(confused.sum())} called by another class, "
        f"{int(matrix[:-1, -1].sum())} missed; {int(matrix[-1].sum())} false positives",
    ]
    if pairs:
        named = (f"{class_names[r]} called {class_names[c]} {confused[r, c]}x" for r, c in pairs)
        lines.append("  most often confused: " + ", ".join(named))
    lines.append(f"  {num_wrong} of {num_images} images have an error" + ("; the worst:" if worst_rows else ""))
    if worst_rows:
        table = format_table(IMAGE_HEADER[:-1], [row[:-1] for row in worst_rows], digits=2)
        lines += ["    " + line for line in table.splitlines()]
    return "\n".join(lines)
