"""Counts and pictures of what a data set holds, for `check_dataset`."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from public import drawing
from public.datasets.annotations import Annotations
from public.datasets.defects import Defect
from public.input import ImageError, read_image
from public.reports.figures import label, new_figure, save_figure
from public.text import shown

SMALL, LARGE = 32**2, 96**2  # square pixels: COCO's limits of small, medium and large objects
COLORS = ("#0072B2", "#D55E00", "#009E73")  # of the splits; Okabe and Ito's
SHEET_PICTURES, SHEET_COLUMNS = 12, 4
SHEET_LEAST_SIDE = 0.03  # of the picture: smaller boxes are enlarged to it on the sheet, to be seen


def describe(annotations: Annotations) -> list[str]:
    """Lines with the counts of images, boxes and classes, and the spread of the boxes' sizes."""
    counts = np.diff(annotations.offsets)
    owners = np.repeat(np.arange(len(annotations)), counts)
    num_trained = np.bincount(owners[annotations.is_trained()], minlength=len(annotations))
    sizes = Counter(zip(annotations.widths.tolist(), annotations.heights.tolist()))
    common = ", ".join(f"{w} x {h} ({number})" for (w, h), number in sizes.most_common(3))
    lines = [
        f"images   {len(annotations)}, of {len(sizes)} sizes: {common}{', ...' if len(sizes) > 3 else ''}",
        f"         {int((counts == 0).sum())} without objects, {int((num_trained == 0).sum())} without objects to train on",
        f"boxes    {len(owners)}: {int(annotations.difficult.sum())} difficult, {int(annotations.crowd.sum())} crowd, "
        f"{len(annotations.dropped)} more were dropped, {len(annotations.clipped)} are clipped",
        f"         an image has {counts.min()} to {counts.max()}, {counts.mean():.1f} on average",
    ]
    return lines + (_box_lines(annotations) if len(owners) else []) + _class_table(annotations, owners)


def _box_lines(annotations):
    sides = annotations.boxes[:, 2:] - annotations.boxes[:, :2]
    spreads = {
        "width": sides[:, 0],
        "height": sides[:, 1],
        "side": np.sqrt(sides.prod(axis=1)),  # of a square of the same area
        "width / height": sides[:, 0] / sides[:, 1],
    }
    areas = annotations.areas
    parts = {"small": areas < SMALL, "medium": (areas >= SMALL) & (areas < LARGE), "large": areas >= LARGE}
    lines = [f"         {'':>16}{'least':>10}{'5 %':>10}{'median':>10}{'95 %':>10}{'most':>10}   (pixels)"]
    for name, values in spreads.items():
        quantiles = np.quantile(values, (0, 0.05, 0.5, 0.95, 1))
        lines.append(f"         {name:>16}" + "".join(f"{value:>10.4g}" for value in quantiles))
    sizes = ", ".join(f"{name} {int(part.sum())} ({100 * part.mean():.1f} %)" for name, part in parts.items())
    return [*lines, f"         {sizes} (COCO's limits: areas of 32 x 32 and 96 x 96)"]


def _class_table(annotations, owners):
    names = list(map(shown, annotations.class_names))
    width = max(len("class"), *map(len, names))
    lines = [
        f"classes  {len(names)}",
        f"         {'class':<{width}}{'boxes':>10}{'images':>10}{'difficult':>11}{'crowd':>8}",
    ]
    pairs = np.unique(np.stack([annotations.labels, owners]), axis=1)  # a class and an image that has it
    columns = [
        annotations.labels,
        pairs[0],
        annotations.labels[annotations.difficult],
        annotations.labels[annotations.crowd],
    ]
    counts = np.stack([np.bincount(column, minlength=len(names)) for column in columns], axis=1)  # (K, 4)
    for name, (boxes, images, difficult, crowd) in zip(names, counts.tolist()):
        lines.append(f"         {name:<{width}}{boxes:>10}{images:>10}{difficult:>11}{crowd:>8}")
    return lines


# -------------------------------------------------------------------------------------------------------- pictures


def draw_classes(sets: dict[str, Annotations], path: Path, what: str = "boxes") -> None:
    """Writes a bar for each class and split: how often `labels` has it, on a logarithmic scale; `what` is counted."""
    from matplotlib.ticker import NullFormatter  # here, see `public.reports.figures`

    names = next(iter(sets.values())).class_names
    figure = new_figure(9, 1.6 + len(names) * max(0.22, 0.14 * len(sets)), layout="constrained")
    axes = figure.subplots()
    rows = np.arange(len(names))
    for number, (split, annotations) in enumerate(sets.items()):
        counts = np.bincount(annotations.labels, minlength=len(names))[: len(names)]
        height = 0.8 / len(sets)
        places = rows - 0.4 + (number + 0.5) * height
        axes.barh(places, np.maximum(counts, 0.5), height=height, color=COLORS[number % len(COLORS)], label=split)
        for place, count in zip(places, counts):
            axes.text(max(count, 0.5) * 1.05, place, f"{count:,}", va="center", fontsize=7)
    axes.set_yticks(rows, [label(name) for name in names], fontsize=8)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xscale("log")
    axes.set_xlim(left=0.5)
    axes.margins(x=0.12)
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(what)
    axes.set_title(f"{what} of each class", loc="left", fontweight="bold")
    if len(sets) > 1:
        axes.legend(loc="lower right", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    save_figure(path, figure)


def draw_boxes(sets: dict[str, Annotations], path: Path) -> None:
    """Writes the spread of the boxes: width against height, sides, aspect ratios, boxes an image."""
    from matplotlib.ticker import NullFormatter  # here, see `public.reports.figures`

    figure = new_figure(12, 8.5, layout="constrained")
    (plane, sides), (aspects, numbers) = figure.subplots(2, 2)
    everything = np.concatenate([a.boxes[:, 2:] - a.boxes[:, :2] for a in sets.values()])  # (M, 2)
    largest = max(float(everything.max()), 2.0) * 1.1
    smallest = max(float(everything.min()), 0.1) / 1.1
    extent = np.log10([smallest, largest, smallest, largest])
    density = plane.hexbin(
        *everything.T, gridsize=60, xscale="log", yscale="log", bins="log", mincnt=1, cmap="viridis", extent=extent
    )
    figure.colorbar(density, ax=plane, label="boxes", format="{x:,g}")
    plane.set(xlabel="width in pixels", ylabel="height in pixels", aspect="equal")
    for number, (split, annotations) in enumerate(sets.items()):
        width, height = (annotations.boxes[:, 2:] - annotations.boxes[:, :2]).T
        style = {"color": COLORS[number % len(COLORS)], "histtype": "step", "linewidth": 1.6, "label": split}
        weights = np.full(len(width), 1 / max(len(width), 1))
        sides.hist(np.sqrt(width * height), np.geomspace(smallest, largest, 41), weights=weights, **style)
        aspects.hist(width / height, np.geomspace(1 / 16, 16, 41), weights=weights, **style)
        counts = np.diff(annotations.offsets)
        numbers.hist(
            counts, np.arange(-0.5, max(counts.max(), 1) + 1.5), weights=np.full(len(counts), 1 / len(counts)), **style
        )
    for limit, name in ((32, "small | medium"), (96, "medium | large")):
        sides.axvline(limit, color="0.6", linestyle=":")
        sides.text(
            limit, 0.99, name, transform=sides.get_xaxis_transform(), fontsize=7, rotation=90, va="top", ha="right"
        )
    sides.set(xscale="log", xlabel="square root of the area, in pixels", ylabel="share of the boxes")
    aspects.set(xscale="log", xlabel="width / height", ylabel="share of the boxes")
    aspects.minorticks_off()
    aspects.set_xticks([1 / 16, 1 / 4, 1, 4, 16], ["1/16", "1/4", "1", "4", "16"])
    for axis in (plane.xaxis, plane.yaxis, sides.xaxis):
        axis.set_major_locator(_places_of_numbers(smallest, largest))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    numbers.set(xlabel="boxes in an image", ylabel="share of the images")
    titles = {plane: "width and height", sides: "size", aspects: "aspect ratio", numbers: "boxes an image"}
    for axes, title in titles.items():
        axes.set_title(title, loc="left", fontweight="bold")
        axes.spines[["top", "right"]].set_visible(False)
    if len(sets) > 1:
        sides.legend(fontsize=8)
    save_figure(path, figure)


def _places_of_numbers(smallest, largest):
    """Where a logarithmic axis has numbers: few enough that they do not lie on each other, and at least two."""
    from matplotlib.ticker import LogLocator, MaxNLocator

    decades = np.log10(largest / smallest)
    if decades < 0.5:
        return MaxNLocator(4)
    return LogLocator(subs=(1, 2, 5) if decades < 2.5 else (1,))


def draw_suspicious(defects: Sequence[Defect], path: Path) -> int:
    """Writes a sheet of the first pictures with wrong boxes, these drawn as they are written; returns how many it shows.

    An inverted box is drawn with its corners in order, a very small one larger than it is, what lies outside at the edge;
    one that is not finite is left out.
    """
    by_picture: dict[str, list[Defect]] = {}
    for defect in defects:
        if defect.picture is not None and np.isfinite(defect.box).all():  # type: ignore[arg-type]  # of a picture there is a box
            by_picture.setdefault(defect.picture, []).append(defect)
    panels = []
    for picture, wrong in by_picture.items():
        if len(panels) == SHEET_PICTURES:
            break
        try:
            image = read_image(picture)
        except ImageError:
            continue
        corners = np.sort(np.array([defect.box for defect in wrong]).reshape(-1, 2, 2), axis=1)
        least = SHEET_LEAST_SIDE * max(image.shape)
        middle, half = corners.mean(axis=1), np.maximum(np.diff(corners, axis=1)[:, 0], least) / 2
        boxes = np.concatenate([middle - half, middle + half], axis=1)
        texts = [f"{defect.kind}, object {defect.number}" for defect in wrong]
        panels.append((picture, drawing.draw_detections(image, boxes, np.arange(len(wrong)), texts, min_side=480)))
    if panels:
        _draw_sheet(panels, path)
    return len(panels)


def _draw_sheet(panels, path):
    columns = min(SHEET_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(5.2 * columns, 4.4 * rows, layout="constrained")
    for axes in figure.subplots(rows, columns, squeeze=False).flat:
        axes.axis("off")
    for axes, (picture, image) in zip(figure.axes, panels):
        axes.imshow(image, interpolation="antialiased")
        axes.set_title(label(Path(picture).name), fontsize=9)
    save_figure(path, figure)
