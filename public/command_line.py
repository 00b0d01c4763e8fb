"""The command line of `train.py`: one typed flag for each scalar setting, and the options of a run.

Flags change settings for a try; a result worth keeping gets a folder of its own.
"""

import argparse
import difflib
import typing
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from public import config as settings
from public.settings import describe_type, plain_type

SCALARS = (bool, int, float, str)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What concerns one call of `train.py` and is no part of the recipe."""

    device: str
    data_root: str | None
    resume: str
    extend_epochs: int | None
    limit_images: int | None
    max_steps: int | None
    allow_code_change: bool
    fingerprint: str
    no_annotation_cache: bool = False


@dataclass(frozen=True, kw_only=True)
class Parsed:
    config: settings.TrainingConfig
    options: Options
    overrides: dict[str, list]  # name -> [old, new]
    notes: tuple[str, ...]  # lines for the log


def parse(config: settings.TrainingConfig, description: str, argv: Sequence[str]) -> Parsed:
    """Reads the command line `argv` over `config`.

    Exits with status 2, naming the nearest flag, where a flag is unknown or a value does not fit.
    """
    parser = _parser(config, description)
    argv = [_underscored(word) for word in argv]
    values, unknown = parser.parse_known_args(argv)
    if unknown:
        parser.error(_unknown(unknown[0], parser))
    given = vars(values)
    options = Options(**{f.name: given.pop(f.name) for f in fields(Options)})
    lr_scaling, epochs_scaling = given.pop("lr_scaling"), given.pop("epochs_scaling")
    given.pop("local_rank")
    changes = {name: value for name, value in given.items() if value is not _KEEP}
    try:
        changed, notes = _apply(config, changes, lr_scaling)
        changed, more = _follow_epochs(config, changed, epochs_scaling)
    except (TypeError, ValueError) as error:
        parser.error(str(error))
    overrides = {
        f.name: [getattr(config, f.name), getattr(changed, f.name)]
        for f in fields(config)
        if getattr(config, f.name) != getattr(changed, f.name)
    }
    _check_options(options, parser)
    return Parsed(config=changed, options=options, overrides=overrides, notes=(*notes, *more))


def _apply(config: settings.TrainingConfig, changes: dict[str, Any], lr_scaling: str) -> tuple[Any, list[str]]:
    """The changed configuration, with the learning rate scaled where that was asked for."""
    factor = changes.get("batch_size", config.batch_size) / config.batch_size
    notes = []
    if lr_scaling == "linear":
        if "lr" in changes:
            raise ValueError("--lr and --lr_scaling linear contradict each other: give one of them")
        changes = changes | {"lr": config.lr * factor}
        notes.append(f"lr {config.lr:g} -> {changes['lr']:g}, scaled with the batch by --lr_scaling linear")
    elif factor != 1 and "lr" not in changes:
        notes.append(
            f"lr stays {config.lr:g}, which is meant for batch_size {config.batch_size}; the linear rule "
            f"(--lr_scaling linear) would make it {config.lr * factor:g} for {changes['batch_size']}"
        )
    return settings.replace(config, **changes), notes


def _follow_epochs(config: Any, changed: Any, epochs_scaling: str) -> tuple[Any, list[str]]:
    """The changed configuration, with what was chosen for the page's epochs moved too where that was asked for."""
    if changed.epochs == config.epochs:
        return changed, []
    moved, moves = settings.scale_epochs(changed, changed.epochs / config.epochs)
    if not moves:
        return changed, []
    names = ", ".join(f"{name} {_shown(old)} -> {_shown(new)}" for name, old, new in moves)
    if epochs_scaling == "linear":
        return moved, [f"with the epochs, by --epochs_scaling linear: {names}"]
    there, here, then = (_end_of(c) for c in (config, changed, moved))
    return changed, [
        f"{config.epochs} epochs became {changed.epochs}, nothing else did: the learning rate ends at {here} of lr, "
        f"the page's at {there}; --epochs_scaling linear makes that {then} and moves {names}"
    ]


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _end_of(config: Any) -> str:
    """The share of `lr` that the last of 1,000 steps of the last epoch has."""
    return f"{100 * config.schedule.factor(config.epochs * 1000 - 1, 1000):.1f} %"


def _check_options(options: Options, parser: argparse.ArgumentParser) -> None:
    if options.extend_epochs is not None and options.resume in ("auto", "none"):
        parser.error("--extend_epochs needs --resume <run>: the finished run that is to be trained longer")
    for name in ("extend_epochs", "limit_images", "max_steps"):
        value = getattr(options, name)
        if value is not None and value < 1:
            parser.error(f"--{name} is {value}; it must be at least 1")


class _Keep:
    def __repr__(self) -> str:
        return "unchanged"


_KEEP = _Keep()


def _parser(config: settings.TrainingConfig, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="train.py",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    run = parser.add_argument_group("this call")
    run.add_argument("--device", default="auto", help="auto (a GPU where there is one), cpu, cuda, cuda:1")
    run.add_argument("--data_root", help="folder of the data sets; else $ENCORE_DATA_ROOT, else <repository>/data")
    run.add_argument(
        "--resume", default="auto", metavar="auto|none|RUN", help="auto: the newest unfinished run like this"
    )
    run.add_argument("--extend_epochs", type=int, metavar="N", help="with --resume RUN: a new run, N epochs longer")
    run.add_argument("--limit_images", type=int, metavar="N", help="for trying: the first N images of each set")
    run.add_argument("--max_steps", type=int, metavar="N", help="for trying: end after N steps")
    run.add_argument(
        "--allow_code_change", action="store_true", help="resume a run although its code has changed; recorded"
    )
    run.add_argument(
        "--fingerprint", default="names", choices=("names", "full"), help="full: read every picture of the data (names)"
    )
    run.add_argument(
        "--no_annotation_cache",
        action="store_true",
        help="read large json files anew, not what an earlier start has kept of them; the result is the same",
    )
    run.add_argument(
        "--lr_scaling", default="none", choices=("none", "linear"), help="linear: scale lr with --batch_size"
    )
    run.add_argument(
        "--epochs_scaling",
        default="none",
        choices=("none", "linear"),
        help="linear: with --epochs, move what goes with the length of the run, as the schedule's horizon",
    )
    run.add_argument(
        "--local_rank", help=argparse.SUPPRESS
    )  # torch.distributed.launch passes it; the environment has it

    group = parser.add_argument_group("settings of the experiment, with their present values")
    hints = {n: plain_type(h) for n, h in typing.get_type_hints(type(config), include_extras=True).items()}
    for f in fields(config):
        convert = _converter(hints[f.name])
        if convert is not None:
            free = " (no result depends on it)" if f.metadata.get("free") else ""
            alone: dict[str, Any] = (
                {"nargs": "?", "const": True} if hints[f.name] is bool else {}
            )  # --backbone_only means true
            group.add_argument(
                f"--{f.name}",
                type=convert,
                **alone,
                default=_KEEP,
                metavar=describe_type(hints[f.name]).replace(" or ", "|"),
                help=f"{getattr(config, f.name)}{free}".replace("%", "%%"),
            )
    return parser


def _converter(hint: Any) -> Any:
    """A function from a word of the command line to a value of the type `hint`; None for types without a flag."""
    choices = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        return _named(lambda word: _one_of(word, choices), describe_type(hint))
    if hint in SCALARS:
        return _named(lambda word: _scalar(word, hint), describe_type(hint))
    if type(None) in choices and all(c in (*SCALARS, type(None)) for c in choices):
        (inner,) = (c for c in choices if c is not type(None))
        return _named(lambda word: None if word.lower() == "none" else _scalar(word, inner), describe_type(hint))
    return None


def _named(function: Any, name: str) -> Any:
    function.__name__ = name  # argparse says "invalid <name> value"
    return function


def _one_of(word: str, choices: tuple) -> Any:
    if word not in choices:
        raise ValueError(word)
    return word


def _scalar(word: str, kind: type) -> Any:
    if kind is bool:
        if word.lower() not in ("true", "false"):
            raise ValueError(word)
        return word.lower() == "true"
    return kind(word)


def _underscored(word: str) -> str:
    """--batch-size as --batch_size: both spellings are usual."""
    flag, equals, value = word.partition("=")
    return flag.replace("-", "_").replace("__", "--", 1) + equals + value if flag.startswith("--") else word


def _unknown(word: str, parser: argparse.ArgumentParser) -> str:
    known = [flag for action in parser._actions for flag in action.option_strings if flag.startswith("--")]
    nearest = difflib.get_close_matches(word.split("=")[0], known, n=1, cutoff=0.5)
    hint = f"; did you mean {nearest[0]}?" if nearest else "; --help lists the flags"
    return f"unknown argument {word}{hint}"
