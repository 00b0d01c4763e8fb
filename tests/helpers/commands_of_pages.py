"""Asks the parser of a command whether it takes what a page of documentation writes, without doing what it says."""

import argparse
import contextlib
import importlib.util
import io
import runpy
import sys
import warnings
from pathlib import Path
from unittest import mock


class ParsedError(Exception):
    """The command line was understood; the command is not to go on."""


def parse_module(module: str, words: list[str], *, is_mention: bool = False) -> str | None:
    """What is wrong with `python -m module words`, or None.  A mention names the command alone.

    The module runs as it would, up to the moment when its parser has read the command line.
    """
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        spec = None
    if spec is None:
        return f"there is no module {module}"
    if 'if __name__ == "__main__":' not in Path(spec.origin).read_text():
        return f"{module} is no command"
    if is_mention:
        return None
    understood, known = argparse.ArgumentParser.parse_args, argparse.ArgumentParser.parse_known_args
    is_whole = False  # a command that hands the rest of its flags on calls parse_known_args itself

    def parse_args(self, *arguments, **keywords):
        nonlocal is_whole
        is_whole = True
        understood(self, *arguments, **keywords)
        raise ParsedError

    def parse_known_args(self, *arguments, **keywords):
        found = known(self, *arguments, **keywords)
        if not is_whole:
            raise ParsedError
        return found

    told = io.StringIO()
    with (
        mock.patch.object(argparse.ArgumentParser, "parse_args", parse_args),
        mock.patch.object(argparse.ArgumentParser, "parse_known_args", parse_known_args),
        mock.patch.object(sys, "argv", [module, *words]),
        contextlib.redirect_stderr(told),
        contextlib.redirect_stdout(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", RuntimeWarning)  # runpy: the module has been imported before
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except ParsedError:
            return None
        except SystemExit as error:
            return None if not error.code else told.getvalue().strip().splitlines()[-1]
    return f"{module} never looks at its command line"
