"""`python train.py --help` without torch, whose import takes longer than all the rest.

A page names settings, and the help shows their values: numbers, which no network has to be built for.  But a family of
settings knows the classes that it builds, and their files import torch.  While the help is made, and only then, `torch` and
`torchvision` are stand-ins: anything can be asked of them, derived from them and decorated by them, and nothing can be
computed.  Where a page does more than that when it is read, it fails here, everything is forgotten, and the help is made in
the ordinary way.  `tests/training/test_help.py` compares the two.
"""

import importlib.abc
import importlib.machinery
import sys
import sysconfig
from abc import ABCMeta
from pathlib import Path
from types import ModuleType
from typing import Any

ROOTS = ("torch", "torchvision")


def print_help(file: str) -> None:
    """Prints the help of the experiment in whose folder `file` lies, and ends the process; returns where that takes torch."""
    if "torch" in sys.modules:
        return
    before, finder = set(sys.modules), _Finder()
    sys.meta_path.insert(0, finder)
    try:
        from public.command_line import parse
        from public.runs.experiment import load_experiment, recipe_card
        from public.text import let_everything_be_printed

        let_everything_be_printed()
        experiment = load_experiment(Path(file).resolve().parent)
        parse(experiment.config, recipe_card(experiment), sys.argv[1:])
    except Exception:  # whatever it is, the ordinary way will meet it again, or will not
        pass
    finally:
        sys.meta_path.remove(finder)
        for name in set(sys.modules) - before:
            if _knows_stand_ins(name):
                del sys.modules[name]


def _knows_stand_ins(name: str) -> bool:
    """Whether the module is one, or one of ours or of a page, which may have imported one."""
    if name.split(".")[0] in (*ROOTS, "public"):
        return True
    file = getattr(sys.modules[name], "__file__", None)
    return file is not None and not {"site-packages", "dist-packages"} & set(Path(file).parts) and not _is_pythons(file)


def _is_pythons(file: str) -> bool:
    return file.startswith((sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")))


class _AnythingType(ABCMeta):
    """Of a class whose attributes, parts and alternatives are the class itself."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything

    def __getitem__(cls, item: Any) -> Any:
        return _Anything

    def __or__(cls, other: Any) -> Any:
        return _Anything

    __ror__ = __or__

    def __call__(cls, *arguments: Any, **keywords: Any) -> Any:
        """As a decorator it gives back what it decorates."""
        return arguments[0] if len(arguments) == 1 and callable(arguments[0]) and not keywords else cls


class _Anything(metaclass=_AnythingType):
    """Stands for whatever a stand-in is asked for."""


class _StandIn(ModuleType):
    __path__: list[str] = []  # noqa: RUF012  # it has modules in it

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds stand-ins for all modules of ROOTS."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if fullname.split(".")[0] not in ROOTS:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing in it."""
