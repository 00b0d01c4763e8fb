"""The pictures of an evaluation: precision over recall, and the confusion matrix."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from public.drawing import class_colors
from public.evaluation.curves import CURVE_IOUS, Curves
from public.lettering import text_width
from public.reports.figures import label, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_NAMED_CURVES = 12  # with more classes only the best and the worst have a colour and a name
MANY_CLASSES = 25  # from here on the confusion matrix has its names at all four sides
MAX_DRAWN_CLASSES = 150  # of the confusion matrix; its table holds all
MAX_LETTERS = 60  # of a name beside the confusion matrix
_DPI = 100
_CELL = 0.26  # inches


def draw_pr_curves(path: str | Path, curves: Curves) -> None:
    """Draws precision over recall, a panel for each of CURVE_IOUS, with the mean over the classes in black.

    Up to MAX_NAMED_CURVES classes are named, in the colours that they have in pictures.  Of more, the half with the
    highest and the half with the lowest AP of this panel are named (of equal ones those with more objects), and the others
    are grey.  A dot stands at the
    score threshold with the best F1.

    Raises:
        OSError: the picture cannot be written; it is named.
    """
    figure = new_figure(15, 9, dpi=_DPI)
    figure.subplots_adjust(left=0.05, right=0.985, top=0.95, bottom=0.28, wspace=0.12)
    colors = class_colors(len(curves.classes)) / 255
    mean = curves.mean_precision()
    for i, axes in enumerate(figure.subplots(1, len(CURVE_IOUS), sharey=True)):
        named, others = _named_classes(curves, i)
        defined = [ap for c in curves.classes if (ap := c.ap_at[i]) is not None]
        if defined:
            text = f"mean of {len(defined)} classes  AP {np.mean(defined):.3f}"
            axes.plot(curves.recall_levels, _until_zero(mean[i]), color="black", linewidth=2.6, label=text, zorder=2.5)
        else:
            axes.text(0.5, 0.5, "no object to find", transform=axes.transAxes, ha="center", color="0.5")
        for k in others:
            axes.plot(curves.recall_levels, _until_zero(curves.classes[k].precision[i]), color="0.82", linewidth=0.8)
        for number, k in enumerate(named):
            if others and number == MAX_NAMED_CURVES // 2:
                axes.plot([], [], " ", label="lowest AP:")
            _draw_class(axes, curves, k, i, colors[k])
        _finish_panel(axes, curves, i)
    save_figure(path, figure)


def _named_classes(curves: Curves, i: int) -> tuple[list[int], list[int]]:
    """The classes to name, in the order of the legend, and the others; classes without objects are in neither."""
    defined = [k for k, curve in enumerate(curves.classes) if curve.num_objects]
    if len(defined) <= MAX_NAMED_CURVES:
        return defined, []
    half = MAX_NAMED_CURVES // 2
    ap, size = ([getattr(c, name) for c in curves.classes] for name in ("ap_at", "num_objects"))
    highest = sorted(defined, key=lambda k: (-ap[k][i], -size[k], k))[:half]
    lowest = sorted(set(defined) - set(highest), key=lambda k: (ap[k][i], -size[k], k))[:half]
    return highest + lowest, sorted(set(defined) - set(highest) - set(lowest))


def _until_zero(precision: np.ndarray) -> np.ndarray:
    """`precision` with NaN after the first 0: recall that is not reached is no part of the drawn line."""
    is_zero = precision == 0
    return np.where(np.cumsum(is_zero) > 1, np.nan, precision)


def _draw_class(axes: "Axes", curves: Curves, k: int, i: int, color: np.ndarray) -> None:
    curve = curves.classes[k]
    best = curve.best[i]
    text = f"{curve.name}  AP {curve.ap_at[i]:.3f}" + (f", score {best.threshold:.2f}" if best else "")
    axes.plot(curves.recall_levels, _until_zero(curve.precision[i]), color=color, linewidth=1.6, label=label(text))
    if best:
        axes.plot(best.recall, best.precision, "o", color=color, markersize=6, markeredgecolor="white", zorder=3)


def _finish_panel(axes: "Axes", curves: Curves, i: int) -> None:
    axes.set_title(f"IoU {CURVE_IOUS[i]:.2f}", loc="left", fontweight="bold")
    best = curves.best[i]
    if best:
        text = f"one score for all classes: {best.threshold:.3f} (F1 {best.f1:.3f})"
        axes.set_title(text, loc="right", fontsize=10)
    axes.set(xlim=(0, 1.01), ylim=(0, 1.03), xlabel="recall", ylabel="precision")
    axes.tick_params(labelleft=True)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.09), ncols=2, frameon=False, fontsize=9.5)


def draw_confusion_matrix(path: str | Path, matrix: np.ndarray, class_names: Sequence[str], subtitle: str) -> None:
    """Draws a confusion matrix: counts, on the share of their row as colour.  The picture grows with the classes.

    Of more than MAX_DRAWN_CLASSES classes, those with the most errors are drawn, and the title says so.

    Args:
        matrix: int (K + 1, K + 1), see `public.evaluation.matching.confusion_matrix`.
        subtitle: the line below the title.

    Raises:
        OSError: the picture cannot be written; it is named.
    """
    title = "objects (rows) and what they were called (columns)"
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    chosen = _chosen_classes(matrix)
    if len(chosen) < len(matrix):
        title += f"; the {len(chosen) - 1} of {len(matrix) - 1} classes with the most errors"
    matrix, shares = matrix[np.ix_(chosen, chosen)], shares[np.ix_(chosen, chosen)]
    names = [*class_names, "background"]
    names = [_shortened(label(names[k])) for k in chosen]

    digits = len(str(matrix.max()))
    enlargement = float(np.clip(20 / len(names), 1, 2.5))  # a few classes have room
    cell = max(_CELL, 0.07 * digits + 0.06) * enlargement
    margin = max(max(0.1 * len(name), text_width(name, 10) / _DPI) for name in names) + 0.7  # inches, for the names
    side = cell * len(names)
    far_margin = margin if len(names) > MANY_CLASSES else 0.3
    width, height = max(margin + side + far_margin, 9.0), margin + side + far_margin + 0.7
    figure = new_figure(width, height, dpi=_DPI)
    axes = figure.add_axes((margin / width, margin / height, side / width, side / height))
    axes.imshow(np.ma.masked_equal(shares, 0), cmap="Blues", vmin=0, vmax=1, aspect="equal")
    for row, column in zip(*np.nonzero(matrix)):
        color = "white" if shares[row, column] > 0.55 else "black"
        axes.text(
            column, row, str(matrix[row, column]), ha="center", va="center", color=color, fontsize=7 * enlargement**0.5
        )
    _label_cells(axes, names, fontsize=8 * enlargement**0.25)
    figure.text(0.1 / width, 1 - 0.3 / height, title, fontsize=11, fontweight="bold", va="center")
    figure.text(0.1 / width, 1 - 0.6 / height, subtitle, fontsize=9, va="center")
    save_figure(path, figure)


def _shortened(name: str) -> str:
    return name if len(name) <= MAX_LETTERS else f"{name[: MAX_LETTERS - 2]}.."


def _chosen_classes(matrix: np.ndarray) -> np.ndarray:
    """The rows to draw, in their order; the background is always among them."""
    num_classes = len(matrix) - 1
    if num_classes <= MAX_DRAWN_CLASSES:
        return np.arange(num_classes + 1)
    errors = (matrix.sum(axis=0) + matrix.sum(axis=1) - 2 * np.diag(matrix))[:-1]
    most = np.argsort(-errors, kind="stable")[:MAX_DRAWN_CLASSES]
    return np.append(np.sort(most), num_classes)


def _label_cells(axes: "Axes", names: list[str], fontsize: float) -> None:
    places = np.arange(len(names))
    far_too = len(names) > MANY_CLASSES  # names at all four sides
    axes.set_xticks(places, [*names[:-1], "background (missed)"], rotation=90, fontsize=fontsize)
    axes.set_yticks(places, [*names[:-1], "background (false)"], fontsize=fontsize)
    axes.tick_params(labeltop=far_too, labelright=far_too)
    axes.set_xticks(places[:-1] + 0.5, minor=True)
    axes.set_yticks(places[:-1] + 0.5, minor=True)
    axes.grid(which="minor", color="0.85", linewidth=0.5)
    axes.tick_params(which="both", length=0)
    axes.axhline(len(names) - 1.5, color="0.3", linewidth=1)
    axes.axvline(len(names) - 1.5, color="0.3", linewidth=1)
