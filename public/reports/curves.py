"""The curves of a run in one picture: losses, learning rate and metrics over the epochs, drawn from its metrics.jsonl.

What its lines are: `public.runs.metrics`.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from public.reports.figures import label, new_figure, save_figure
from public.runs.metrics import metrics_to_choose, numbers, read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, told apart by colour-blind readers too; the yellow is left out, being too pale for lines.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
METRIC_NAMES = ("AP", "AP50", "voc_AP50", "voc07_AP50", "top1_error", "top5_error")  # those a run has are drawn
ERRORS = ("top1_error", "top5_error")  # in percent, the lower the better
# Fixed, in shares of the picture: to find margins that fit, matplotlib measures every text twice, as long as it draws.
MARGINS = {"left": 0.06, "right": 0.985, "bottom": 0.07, "top": 0.945, "wspace": 0.13, "hspace": 0.3}


class Redrawing:
    """Keeps a picture of a run up to date: drawn when it changes, but only now and then where that comes often.

    A run of a few seconds would spend a third of its time on its curves.

    Args:
        draw: draws the picture as things stand.
        clock: seconds; a test's own.
    """

    COST = 0.5  # seconds that a drawing is taken to last until one has been measured
    SHARE = 50  # a drawing may be renewed when so many times its cost have passed since

    def __init__(self, draw: Callable[[], object], clock: Callable[[], float] = time.monotonic) -> None:
        self._draw, self._clock = draw, clock
        self._cost, self._ended = self.COST, clock()
        self._is_due = False

    def changed(self) -> None:
        """There is something new to draw: at once where the last drawing is long ago, else later."""
        self._is_due = True
        if self._clock() - self._ended > self.SHARE * self._cost:
            self.finish()

    def finish(self) -> None:
        """Draws what is not drawn yet: at the end of a run, or where it is stopped."""
        if self._is_due:
            begun = self._clock()
            self._is_due = False
            self._draw()
            self._ended = self._clock()
            self._cost = self._ended - begun


def draw_curves(metrics_path: str | Path, out_path: str | Path, best_metric: str | None = None) -> None:
    """Draws the curves of a run that is finished, under way or killed.

    Losses are drawn twice: every logged value as a light line, and their moving average over a 25th of the run as a
    strong one.  The best evaluation by `best_metric` is marked (an error's is the lowest).
    A last line that a killed process left unfinished is passed over.

    Args:
        metrics_path: a run's metrics.jsonl.
        out_path: the picture, .png.
        best_metric: the metric that chooses the best weights, drawn beside METRIC_NAMES where it is none of them; None, or
            one that was never measured: the first of METRIC_NAMES that the run has.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is broken, naming file and line.
        OSError: the picture cannot be written, naming it.
    """
    train_lines, eval_lines = read_metrics(metrics_path)
    figure = new_figure(12, 7.5)
    (total_axes, terms_axes), (metric_axes, lr_axes) = figure.subplots(2, 2, sharex=True, gridspec_kw=MARGINS)

    epochs = numbers(train_lines, "epoch")
    _draw_losses(total_axes, epochs, {"total": numbers(train_lines, "loss")})
    term_names = dict.fromkeys(name for line in train_lines for name in line["losses"])  # in order, each once
    terms = {name: numbers([line["losses"] for line in train_lines], name) for name in term_names}
    _draw_losses(terms_axes, epochs, terms)
    _draw_learning_rate(lr_axes, epochs, numbers(train_lines, "lr"))
    _draw_metrics(metric_axes, eval_lines, best_metric)

    titles = {
        total_axes: "loss",
        terms_axes: "loss terms",
        metric_axes: _metric_title(eval_lines),
        lr_axes: "learning rate",
    }
    for axes, title in titles.items():
        axes.set_title(title, loc="left", fontweight="bold")
        axes.set_xlabel("epoch")
        axes.tick_params(labelbottom=True)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    save_figure(out_path, figure)


def _draw_losses(axes: "Axes", epochs: np.ndarray, curves: dict[str, np.ndarray]) -> None:
    values = np.concatenate([*curves.values(), []])
    finite = values[np.isfinite(values)]
    if not len(finite):
        _say(axes, "no finite loss logged" if len(values) else "no loss logged")
        return
    # One spike must not press the rest of the curve flat: values are cut off here, and the picture says so.
    top = max(1.5 * np.percentile(finite, 99), finite.min())
    for number, (name, curve) in enumerate(curves.items()):
        color = COLORS[number % len(COLORS)]
        marker = "o" if len(curve) == 1 else None  # a line of one point cannot be seen
        axes.plot(epochs, np.where(np.isfinite(curve), curve, np.nan), color=color, alpha=0.25, linewidth=1)
        average = smoothed(np.where(np.isfinite(curve), np.minimum(curve, top), np.nan))
        axes.plot(epochs, average, color=color, linewidth=1.8, marker=marker, label=label(name))
    if len(curves) > 1:
        axes.legend(frameon=False)
    notes = []
    if finite.max() > top:
        notes.append(f"{np.count_nonzero(finite > top)} above {top:.3g}, up to {finite.max():.3g}")
    if len(finite) < len(values):
        notes.append(f"{len(values) - len(finite)} not finite")
    if notes:
        text = "not shown: " + "; ".join(notes)
        axes.text(0.98, 0.02, text, transform=axes.transAxes, ha="right", va="bottom", color="#B00000")
    highest = min(top, finite.max())
    lowest = min(0.0, finite.min())
    axes.set_ylim(lowest, highest + 0.05 * (highest - lowest or 1.0))


def smoothed(values: np.ndarray) -> np.ndarray:
    """Centred moving average over a 25th of `values` (n,), at the ends over what there is of it.

    Values that are not finite are left out of the averages; the result there is NaN, which shows as a gap.
    """
    window = 2 * (len(values) // 50) + 1
    is_finite = np.isfinite(values)
    sums = np.convolve(np.where(is_finite, values, 0.0), np.ones(window), mode="same")
    counts = np.convolve(is_finite, np.ones(window), mode="same")
    return np.divide(sums, counts, out=np.full(len(values), np.nan), where=is_finite)


def _draw_learning_rate(axes: "Axes", epochs: np.ndarray, rates: np.ndarray) -> None:
    if not np.isfinite(rates).any():
        _say(axes, "no learning rate logged")
        return
    axes.plot(epochs, rates, color=COLORS[0], linewidth=1.8, marker="o" if len(rates) == 1 else None)
    axes.set_ylim(bottom=0)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))


def _draw_metrics(axes: "Axes", eval_lines: list[dict], best_metric: str | None) -> None:
    epochs = numbers(eval_lines, "epoch")
    metrics = [line["metrics"] for line in eval_lines]
    chosen = (best_metric or "").replace("_accuracy", "_error")  # what is drawn of an accuracy is its error
    curves = {name: numbers(metrics, name) for name in dict.fromkeys((*METRIC_NAMES, chosen))}
    curves = {name: values for name, values in curves.items() if np.isfinite(values).any()}
    if not curves:
        _say(axes, "no evaluation logged")
        return
    for number, (name, values) in enumerate(curves.items()):
        axes.plot(epochs, values, color=COLORS[number], linewidth=1.8, marker="o", markersize=3, label=name)
    name = chosen if chosen in curves else next(iter(curves))
    values = numbers(metrics_to_choose(eval_lines), name)
    if np.isfinite(values).any():
        best = int(np.nanargmin(values) if name in ERRORS else np.nanargmax(values))
        text = f"best {name} {values[best]:.4f}, epoch {epochs[best]:g}"
        color = COLORS[list(curves).index(name)]
        axes.plot(epochs[best], values[best], "*", color=color, markersize=15, markeredgecolor="white", label=text)
    axes.set_ylim(0, 100 if name in ERRORS else 1)
    axes.legend(frameon=False, loc="best")


def _metric_title(eval_lines: list[dict]) -> str:
    is_classification = any(name in line["metrics"] for line in eval_lines for name in ERRORS)
    return "errors in percent" if is_classification else "average precision"


def _say(axes: "Axes", text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color="0.5")
