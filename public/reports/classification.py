"""What the evaluation of a classifier leaves behind.

    predictions.csv      every image: its class, and the best classes with their probabilities
    classes.csv          images and top-1 error of each class
    worst_images.jpg     the images whose true class had the smallest probability: true class above what was found

The same results give the same bytes.
"""

from pathlib import Path

import numpy as np

from public import drawing
from public.evaluation.topk import Classified, class_errors
from public.files import write_text
from public.input import ImageError
from public.reports.attempts import attempted
from public.reports.tables import format_table
from public.reports.titles import titled

WORST_CLASSES = 5  # that are printed
COLUMNS = 4  # of the sheet of the worst images


def write_class_report(folder: Path, data, found: Classified, *, num_worst: int) -> str:
    """Writes the files above into `folder`, which is made where it is missing; returns what to print.

    Args:
        data: a `ClassificationSet`.
        found: one entry for each of its images, in its order, as `merge` gives it.
        num_worst: how many images are drawn; 0: no picture.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "predictions.csv", _predictions(data, found))
    names = data.class_names
    errors = class_errors(found, data.labels, len(names))
    rows = [(name, *error) for name, error in zip(names, errors)]
    write_text(folder / "classes.csv", format_table(("class", "images", "top1_error"), rows, "csv") + "\n")
    notes: list[str] = []
    if num_worst:
        attempted(notes, "worst_images.jpg", _draw_worst, folder / "worst_images.jpg", data, found, num_worst)
    wrong = sorted((row for row in rows if row[2]), key=lambda row: (-(row[2] or 0), row[0]))
    if not wrong:
        return "\n".join(["every image is right in the top 1", *notes])
    table = format_table(("class", "images", "top1_error"), wrong[:WORST_CLASSES])
    return "\n".join(["the classes with the largest errors:", table, *notes])


def _predictions(data, found: Classified) -> str:
    count = found.classes.shape[1]
    header = [
        "image",
        "class",
        "rank",
        *(f"{what}_{place}" for place in range(1, count + 1) for what in ("class", "score")),
    ]
    rows = []
    for position, (classes, scores) in enumerate(zip(found.classes, found.scores)):
        best = [cell for label, score in zip(classes, scores) for cell in (data.class_names[label], float(score))]
        true = data.class_names[data.labels[position]]
        rows.append([data.image_id(position), true, int(found.ranks[position]) + 1, *best])
    return format_table(header, rows, "csv") + "\n"


def _draw_worst(path: Path, data, found: Classified, num_worst: int) -> None:
    pictures = []
    for position in np.argsort(-found.losses, kind="stable")[:num_worst].tolist():
        try:
            image = data.load_picture(position)
        except ImageError:  # the evaluation has named it
            continue
        names = data.class_names
        best = f"{names[found.classes[position, 0]]} {found.scores[position, 0]:.2f}"
        true = f"true: {names[data.labels[position]]} {np.exp(-found.losses[position]):.2g}"
        pictures.append(titled(image, [data.image_id(position), true, f"found: {best}"]))
    if pictures:
        drawing.save_image(path, drawing.contact_sheet(pictures, COLUMNS))
