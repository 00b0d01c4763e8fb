"""Draws curves of several runs into one picture, and prints a summary of each run.

    python -m public.test_scripts.analyze_logs detection_experiments/ppyoloe_xs_bccd --keys loss AP AP50
    python -m public.test_scripts.analyze_logs runs/20260101-120000 runs/20260102-120000 --smooth -o two.png
    python -m public.test_scripts.analyze_logs runs/20260101-120000 --list

An experiment stands for all its runs.  A key is anything that metrics.jsonl holds: loss, lr, gradient_norm,
images_per_second, memory_gib; a loss term such as loss_cls; a metric such as AP50; class_AP.<class>.

In the summary the best value is that of the evaluation whose weights are best.pth; s/step is the median over the lines
of the log, images/s its median and its mean without evaluations.
"""

import argparse
import difflib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from public import commands
from public.reports.curves import COLORS, smoothed
from public.reports.figures import label, new_figure, save_figure
from public.reports.tables import STYLES, format_table
from public.runs.records import RunRecord, find_runs, read_run, short_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINE_STYLES = ("-", "--", ":", "-.")  # with COLORS: 28 runs that look different


def main() -> None:
    parser = commands.make_parser("analyze_logs", __doc__, experiment="several")
    parser.add_argument("--keys", nargs="+", help="what to draw; without it loss, the runs' best metric, and lr")
    parser.add_argument("--list", action="store_true", help="only say which keys each run has")
    parser.add_argument("-x", choices=("epoch", "step"), default="epoch", help="what the curves run over (epoch)")
    parser.add_argument(
        "--smooth", action="store_true", help="draw moving averages over a 25th of each run, and the values faintly"
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("curves.png"), help="the picture (curves.png)")
    parser.add_argument("--format", default="text", choices=STYLES, help="of the summary (text)")
    commands.call(analyze, parser.parse_args())


def analyze(arguments: argparse.Namespace) -> list[RunRecord]:
    """Draws and prints; returns the runs."""
    records = _open(arguments.experiments)
    names = short_names([record.path for record in records])
    if arguments.list:
        for name, record in zip(names, records):
            print(f"{name}: {' '.join(record.keys) or 'nothing logged'}")
        return records
    print(summary(records, names, arguments.format))
    for name, record in zip(names, records):
        for note in record.notes:
            print(f"{name}: {note}", file=sys.stderr)
    keys = list(dict.fromkeys(arguments.keys or _default_keys(records)))
    _check_keys(keys, records, names)
    draw(arguments.output, records, names, keys, x=arguments.x, is_smooth=arguments.smooth)
    print(f"curves of {', '.join(keys)} drawn to {arguments.output.resolve()}", file=sys.stderr)
    return records


def _open(places: Sequence[str]) -> list[RunRecord]:
    paths: dict[Path, None] = {}
    for place in places:
        runs = find_runs(place)
        if runs is None:
            raise FileNotFoundError(f"{place} has no run yet: run its train.py first")
        paths |= dict.fromkeys(runs)
    return [read_run(path) for path in paths]


def _default_keys(records: Sequence[RunRecord]) -> list[str]:
    """Of loss, the metrics that choose the best weights, and lr, those that a run has."""
    best = [record.settings.get("best_metric") for record in records]
    wanted = dict.fromkeys(["loss", *filter(None, best), "lr"])
    present = {key for record in records for key in record.keys}
    keys = [key for key in wanted if key in present]
    if not keys:
        raise ValueError("nothing to draw: no run has logged a loss or an evaluation yet")
    return keys


def _check_keys(keys: Sequence[str], records: Sequence[RunRecord], names: Sequence[str]) -> None:
    """Names the runs without a key; raises ValueError for a key that none has."""
    for key in keys:
        without = [name for name, record in zip(names, records) if key not in record.keys]
        if len(without) == len(records):
            known = list(dict.fromkeys(k for record in records for k in record.keys))
            near = difflib.get_close_matches(key, known, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else "--list says what there is"
            raise ValueError(f"no run has the key {key}; {hint}")
        if without:
            print(f"{key} is not in {', '.join(without)}", file=sys.stderr)


# ---------------------------------------------------------------------------------------------- the summary


def summary(records: Sequence[RunRecord], names: Sequence[str], style: str = "text") -> str:
    """A table with a row for each run."""
    metrics = list(dict.fromkeys(filter(None, (record.settings.get("best_metric") for record in records))))
    header = ["run", "state", "epochs", "step"]
    header += [column for name in metrics for column in (f"best {name}", f"last {name}")]
    header += ["best epoch", "loss", "s/step", "images/s", "mean images/s", "GiB"]
    rows = []
    for name, record in zip(names, records):
        best = record.best_evaluation()
        row: list[Any] = [name, record.state, record.epochs_done, record.step]
        row += [value for metric in metrics for value in record.metric(metric)]
        row += [best and best["epoch"], _last(record, "loss"), record.seconds_per_step(), *record.images_per_second()]
        rows.append([*row, _last(record, "memory_gib")])
    return format_table(header, rows, style)


def _last(record: RunRecord, key: str) -> float | None:
    return record.train[-1].get(key) if record.train else None


# ---------------------------------------------------------------------------------------------- the picture


def draw(
    path: Path, records: Sequence[RunRecord], names: Sequence[str], keys: Sequence[str], *, x: str, is_smooth: bool
) -> None:
    """Draws a panel for each key, with a line for each run that has it.

    Values that are not finite leave a gap.  Those far above all others, as of a run that diverges, are cut off; the
    panel says how many.

    Raises:
        OSError: the picture cannot be written; it is named.
    """
    columns = 1 if len(keys) == 1 else 2
    num_rows = -(-len(keys) // columns)
    legend_columns = max(1, min(len(names), 60 * columns // (max(map(len, names)) + 8)))
    legend_inches = 0.3 + 0.24 * -(-len(names) // legend_columns)
    height = 4.3 * num_rows + legend_inches
    figure = new_figure(6.5 * columns + 0.5, height)
    panels = figure.subplots(num_rows, columns, squeeze=False).ravel()
    handles = {}
    for axes, key in zip(panels, keys):
        handles |= _draw_panel(axes, key, records, names, x, is_smooth)
    for axes in panels[len(keys) :]:
        axes.remove()
    handles = {name: handles[name] for name in names if name in handles}
    figure.legend(handles.values(), map(label, handles), loc="upper center", ncols=legend_columns, frameon=False)
    figure.set_layout_engine("tight", rect=(0, 0, 1, 1 - legend_inches / height))
    save_figure(path, figure)


def _draw_panel(
    axes: "Axes", key: str, records: Sequence[RunRecord], names: Sequence[str], x: str, is_smooth: bool
) -> dict[str, Any]:
    """The curves of one key; returns the line of each run, for the legend."""
    found = [record.curve(key, x) for record in records]
    finite = np.concatenate([curve[1][np.isfinite(curve[1])] for curve in found if curve is not None])
    most = max(len(curve[0]) for curve in found if curve is not None)
    top = _top(key, records, found)
    lines = {}
    for number, (name, curve) in enumerate(zip(names, found)):
        if curve is None:
            continue
        places, values = curve[0], np.where(np.isfinite(curve[1]), curve[1], np.nan)
        color, style = COLORS[number % len(COLORS)], LINE_STYLES[number // len(COLORS) % len(LINE_STYLES)]
        if is_smooth:
            axes.plot(places, values, color=color, alpha=0.2, linewidth=1)
            values = smoothed(np.minimum(values, top))
        marker = "o" if most < 30 or len(values) == 1 else None  # few values are dots as well
        (lines[name],) = axes.plot(
            places, values, color=color, linestyle=style, linewidth=1.6, marker=marker, markersize=3.5
        )
    axes.set_title(label(key), loc="left", fontweight="bold")
    axes.set_xlabel(x)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    is_above = finite > top
    if is_above.any():
        low = min(finite.min(), 0.0)
        axes.set_ylim(low, top + 0.05 * (top - low))
        text = f"not shown: {is_above.sum()} above {top:.3g}, up to {finite.max():.3g}"
        axes.set_title(text, loc="right", color="#B00000", fontsize=9)
    return lines


def _top(key: str, records: Sequence[RunRecord], curves: Sequence[tuple[np.ndarray, np.ndarray] | None]) -> float:
    """The highest value worth showing: above it are the spikes and the divergence of a loss, which would press all else
    flat.  It is half more than the 99th percentile of the run that lies in the middle of the runs, if the highest value
    of all is more than ten times that.  Of other keys, and of losses that keep together, everything is shown.
    """
    is_loss = key in ("loss", "gradient_norm") or any(key in line["losses"] for r in records for line in r.train)
    parts = [curve[1][np.isfinite(curve[1])] for curve in curves if curve is not None]
    parts = [part for part in parts if len(part)]
    if not is_loss or not parts:
        return np.inf
    top = 1.5 * float(np.median([np.percentile(part, 99) for part in parts]))
    return top if max(part.max() for part in parts) > 10 * top > 0 else np.inf


if __name__ == "__main__":
    main()
