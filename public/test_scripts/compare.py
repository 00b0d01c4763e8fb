"""Prints one table over runs and experiments: metrics, size, speed, digest; or the settings in which they differ.

    python -m public.test_scripts.compare detection_experiments/*
    python -m public.test_scripts.compare detection_experiments/ppyoloe_xs_bccd --sort AP --format markdown
    python -m public.test_scripts.compare runs/20260101-120000 runs/20260102-120000 --settings

An experiment stands for all its runs, or, without any, for itself: then there are only its size and the number that its
recipe card expects.  The columns:

    best ..           the metrics of best.pth: the first evaluation with the highest metric that chooses the best
    last ..           those of the last evaluation
    parameters, GMACs of the network as it is trained, one image of the experiment's input size (see flops)
    images/s          of training, the median over the lines of the log
    digest            of the weights that are evaluated (averaged ones where there are), the first 16 digits; of a
                      finished run
    seeds             of a run that `seeds` counted: mean +- standard deviation (number) of the metric that chooses the best

Below the table it says of each experiment with such a spread whether it differs from the first by more than its seeds do: by
its mean, and seed by seed, where what one seed is better than another by drops out (both at 95 %).
"""

import argparse
import ast
import functools
import re
import sys
from pathlib import Path
from typing import Any, cast

from public import commands
from public.config import differences
from public.models.operations import count_operations, example_input
from public.reports.curves import METRIC_NAMES
from public.reports.tables import STYLES, Cell, format_table
from public.runs.experiment import Experiment, load_experiment
from public.runs.records import RunRecord, find_runs, read_run, short_names
from public.runs.seed_spread import Spread, read_spreads, verdict

Row = dict[str, Cell]
WIDEST = 60  # characters of a setting that are shown; csv has all


def main() -> None:
    parser = commands.make_parser("compare", __doc__, experiment="several")
    parser.add_argument("--settings", action="store_true", help="only the settings that differ, and decide a result")
    parser.add_argument(
        "--metrics",
        nargs="+",
        help="which metrics; without it AP and AP50, top-1 and top-5 errors, or what the runs have",
    )
    parser.add_argument("--sort", help="a column: numbers fall, texts rise; without it, as named")
    parser.add_argument("--reverse", action="store_true", help="the other way round")
    parser.add_argument("--format", default="text", choices=STYLES, help="text, markdown or csv with all digits (text)")
    parser.add_argument("--csv", dest="format", action="store_const", const="csv", help="the same as --format csv")
    commands.call(compare, parser.parse_args())


def compare(arguments: argparse.Namespace) -> list[Row]:
    """Prints the table; returns its rows."""
    paths = _expand(arguments.experiments)
    names = short_names(paths)
    experiments, notes = {}, {path: [] for path in paths}
    for path in paths:
        experiments[path] = _load(path, notes[path])
    if arguments.settings:
        rows = setting_rows({name: experiments[path] for name, path in zip(names, paths)})
        print(_settings_table(rows, names, arguments.format))
    else:
        records = {path: None if (path / "config.py").is_file() else read_run(path) for path in paths}
        metrics = _metric_names([record for record in records.values() if record], arguments.metrics)
        rows = [
            _row(name, path, records[path], experiments[path], metrics, notes[path]) for name, path in zip(names, paths)
        ]
        spreads = {path: _spread(path, notes[path]) for path in paths}
        if any(spreads.values()):
            rows = [row | {"seeds": str(spreads[path] or "") or None} for row, path in zip(rows, paths)]
        rows = _sorted(rows, arguments.sort, arguments.reverse)
        print(format_table(list(rows[0]), [list(row.values()) for row in rows], arguments.format))
        if arguments.format != "csv":
            print("\n".join(_verdicts(spreads)), end="\n" if _verdicts(spreads) else "")
    for name, path in zip(names, paths):
        for note in notes[path]:
            print(f"{name}: {note}", file=sys.stderr)
    return rows


def _expand(places: list[str]) -> list[Path]:
    """The folders to compare, each once: runs, and experiments that have none."""
    paths: dict[Path, None] = {}
    for place in places:
        paths |= dict.fromkeys(find_runs(place) or [Path(place).resolve()])
    return list(paths)


def _load(path: Path, notes: list[str]) -> Experiment | None:
    """The experiment or run with its settings; None, and a note, where they cannot be read any more."""
    try:
        return load_experiment(path)
    except Exception as error:  # config.py is any program
        notes.append(f"its settings cannot be read: {type(error).__name__}: {' '.join(str(error).split())}")
        return None


# ---------------------------------------------------------------------------------------------- the table


def _metric_names(records: list[RunRecord], wanted: list[str] | None) -> list[str]:
    """The metrics to show: the wanted ones, or the first two usual ones, or those that choose the best weights."""
    known = {name for record in records for name in record.metric_names}
    for name in wanted or []:
        if name not in known:
            raise ValueError(f"no run has the metric {name}; there are {', '.join(sorted(known)) or 'none'}")
    usual = [name for name in METRIC_NAMES if name in known][:2]
    choosing = [record.settings.get("best_metric") for record in records]
    return wanted or usual or sorted({name for name in choosing if name in known})


def _row(
    name: str,
    path: Path,
    record: RunRecord | None,
    experiment: Experiment | None,
    metrics: list[str],
    notes: list[str],
) -> Row:
    """What is known of a run, or of an experiment without runs; what is not known is said in `notes`."""
    row: Row = {"name": name, "state": record.state if record else "no run"}
    values = {metric: record.metric(metric) if record else (None, None) for metric in metrics}
    row |= {f"best {metric}": best for metric, (best, _) in values.items()}
    row |= {f"last {metric}": last for metric, (_, last) in values.items()}
    row |= dict(zip(("parameters", "GMACs"), _size(experiment, notes)))
    row["images/s"] = record.images_per_second()[0] if record else None
    row["epochs"] = _epochs(record) if record else None
    row["seed"] = record.settings.get("seed") if record else None
    row["commit"] = _commit(record) if record else None
    row["digest"] = _digest(record) if record else None
    row["expected"] = _expected(path)
    notes += record.notes if record else []
    return row


def _size(experiment: Experiment | None, notes: list[str]) -> tuple[int | None, float | None]:
    """Parameters, and 10^9 multiply-accumulates for one image."""
    if experiment is None:
        return None, None
    try:
        return _count(experiment.config.used_settings, experiment.config.input.usual_size)
    except Exception as error:  # a model of the experiment's own is any program
        notes.append(f"its network cannot be counted: {type(error).__name__}: {' '.join(str(error).split())}")
        return None, None


@functools.cache  # runs of one experiment have the same network
def _count(settings: Any, size: tuple[int, int]) -> tuple[int, float]:
    count = count_operations(settings.build_model().eval(), example_input(*size))
    return count.parameters, count.macs / 1e9


def _epochs(record: RunRecord) -> str | None:
    """Epochs evaluated, of those that the settings state."""
    done, planned = record.epochs_done, record.settings.get("epochs")
    return None if done is None and planned is None else f"{done or 0}/{'?' if planned is None else planned}"


def _commit(record: RunRecord) -> str | None:
    """The first 10 digits; "+" where something was not committed."""
    git = record.manifest.get("git") or {}
    return git["commit"][:10] + ("+" if git.get("diff") else "") if git.get("commit") else None


def _digest(record: RunRecord) -> str | None:
    digests = record.finished.get("digests") or {}
    value = digests.get("ema") or digests.get("weights")
    return value[:16] if value else None


def _expected(path: Path) -> str | None:
    """The first number that the recipe card expects, such as "AP 0.486" or "top-1 error 23.49"; None where it names none."""
    page = next((p for p in (path / "config.py", path / "experiment" / "config.py") if p.is_file()), None)
    if page is None:
        return None
    try:
        card = ast.get_docstring(ast.parse(page.read_text(encoding="utf-8", errors="replace"))) or ""
    except SyntaxError:
        return None
    found = re.search(r"^Expected: ([\w-]+(?: error)? \d+\.\d+)", card, flags=re.MULTILINE)
    return found[1] if found else None


def _spread(path: Path, notes: list[str]) -> Spread | None:
    """What `seeds` found of the experiment with this run among others; of an experiment without runs, with no flags."""
    is_run = not (path / "config.py").is_file()
    try:
        spreads = read_spreads(path.parent.parent if is_run else path)
    except ValueError as error:
        notes.append(str(error))
        return None
    found = [s for flags, s in spreads.items() if (path.name in s.runs if is_run else not flags)]
    return found[0] if found else None


def _verdicts(spreads: dict[Path, Spread | None]) -> list[str]:
    """A line for each spread of the metric of the first, other than the first."""
    named: dict[Spread, str] = {}
    for path, spread in spreads.items():
        if spread is not None:
            named.setdefault(spread, path.name if (path / "config.py").is_file() else path.parent.parent.name)
    first = next(iter(named), None)
    return [
        f"{named[first]} against {name}: {verdict(first, spread)}"
        for spread, name in named.items()
        if first is not None and spread is not first and spread.metric == first.metric
    ]


def _sorted(rows: list[Row], column: str | None, is_reversed: bool) -> list[Row]:
    """The rows by a column; those without a value come last."""
    if column is None:
        return rows[::-1] if is_reversed else rows
    name = column if column in rows[0] else f"best {column}"
    if name not in rows[0]:
        raise ValueError(f"--sort {column}: there is no such column; there are {', '.join(rows[0])}")
    present = [row for row in rows if row[name] is not None]
    is_number = all(isinstance(row[name], (int, float)) for row in present)
    present.sort(key=lambda row: cast(Any, row[name]), reverse=is_number != is_reversed)
    return present + [row for row in rows if row[name] is None]


# ---------------------------------------------------------------------------------------------- settings


def setting_rows(experiments: dict[str, Experiment | None]) -> list[Row]:
    """A row for each setting that decides a result and is not the same everywhere: its name, and its value in each.

    Raises:
        ValueError: fewer than two have settings that can be read.
    """
    configs = {name: experiment.config for name, experiment in experiments.items() if experiment is not None}
    if len(configs) < 2:
        raise ValueError(f"--settings compares at least two runs or experiments; {len(configs)} could be read")
    reference = next(iter(configs.values()))
    changed: dict[str, dict[str, Any]] = {}
    for name, config in list(configs.items())[1:]:
        for setting, old, new in differences(reference, config):
            changed.setdefault(setting, dict.fromkeys(configs, old))[name] = new
    rows: list[Row] = []
    for setting, values in changed.items():
        rows.append({"setting": setting, **{n: _as_text(v) for n, v in values.items()}})
    return sorted(rows, key=lambda row: str(row["setting"]))


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else repr(value)


def _settings_table(rows: list[Row], names: list[str], style: str) -> str:
    if not rows:
        return "no setting that decides a result differs"
    header = ["setting", *(name for name in names if name in rows[0])]
    cells = [[str(row[column]) for column in header] for row in rows]
    if style != "csv":
        cells = [[text if len(text) <= WIDEST else f"{text[: WIDEST - 2]}.." for text in line] for line in cells]
    return format_table(header, cells, style)


if __name__ == "__main__":
    main()
