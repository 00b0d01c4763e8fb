"""What the commands of this folder share: the arguments they have in common, and how they fail.

Every command takes an experiment's folder or a run first, is called as `python -m public.test_scripts.<name>`, and ends
with one line, not a traceback, where its input is wrong.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from public.text import let_everything_be_printed


def make_parser(name: str, description: str, *, experiment: str | None = "one") -> argparse.ArgumentParser:
    """A parser for the command `name`, whose --help begins with `description`.

    Args:
        experiment: "one" adds the argument `experiment`, "several" adds `experiments` (one or more), None adds neither.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m public.test_scripts.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if experiment == "one":
        parser.add_argument("experiment", help="an experiment's folder, or a run")
    elif experiment == "several":
        parser.add_argument("experiments", nargs="+", help="experiments' folders, or runs")
    return parser


def add_weights(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("weights", nargs="?", help="a checkpoint; without one, best.pth of the (newest) run")


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="auto (a GPU where there is one), cpu, cuda, cuda:1")


def add_data_root(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data_root", help="folder of the data sets; else $ENCORE_DATA_ROOT, else <repository>/data")


def add_output(parser: argparse.ArgumentParser, description: str) -> None:
    parser.add_argument("--output", type=Path, help=description)


def call(function: Callable, arguments: argparse.Namespace) -> object:
    """`function(arguments)`; an error of the input ends the program with one line and status 1."""
    let_everything_be_printed()
    try:
        return function(arguments)
    except BrokenPipeError:  # `... | head` has read enough
        sys.stderr.close()
        raise SystemExit(1) from None
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
