"""Formats whose packages need an environment of their own: another Python writes and runs their files, by pipes.

ExecuTorch and LiteRT want other versions of packages than the rest here does.  Their environments see this one's torch
(`make setup-executorch`, `make setup-litert`); what is done there stands in `runners.other_side`, one file without imports of
this project.
"""

import json
import os
import re
import subprocess
import tempfile
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from public.export.graph import ExportGraph
from public.export.runners import other_side
from public.export.runners.network import Session
from public.export.torch_file import write_torch
from public.files import REPOSITORY
from public.models.deformable import DeformableConv2d
from public.text import shorten

KINDS = {"executorch": "ExecuTorch", "litert": "LiteRT"}


def find_python(kind: str) -> str:
    """The Python of the environment of a format.

    Raises:
        ValueError: there is none, saying what to type.
    """
    variable, usual = f"ENCORE_{kind.upper()}_PYTHON", REPOSITORY / f".venv-{kind}/bin/python"
    path = Path(os.environ.get(variable) or usual)
    if not path.is_file():
        raise ValueError(
            f"the format {kind} needs an environment of its own, and {path} is not there: make setup-{kind}, or let "
            f"${variable} name its Python"
        )
    return str(path)


def versions_of(kind: str) -> dict[str, str]:
    """Versions of the packages of a format, in its environment."""
    return json.loads(_run(kind, "versions"))


def write_elsewhere(kind: str, graph: ExportGraph, path: Path, *, batch: int | None, card: str, precision: str) -> None:
    """Writes `graph` to `path` by the Python of `kind`, from a program of `torch.export`; arguments as of `write_onnx`.

    Raises:
        ValueError: there is no such Python, or the network cannot be exported, with the exporter's reason; also one with
            deformable convolutions, which neither of the two runtimes has.
    """
    if any(isinstance(module, DeformableConv2d) for module in graph.modules()):
        raise ValueError(
            f"{KINDS[kind]} has no deformable convolution, which this network has; the nearest is --format onnx"
        )
    with tempfile.TemporaryDirectory() as folder:
        program, made = Path(folder) / "program.pt2", Path(folder) / path.name
        write_torch(graph, program, batch=batch or 1, card=card, precision=precision)
        _run(kind, "convert", str(program), str(made))
        made.replace(path) if made.stat().st_dev == path.parent.stat().st_dev else path.write_bytes(made.read_bytes())


def open_elsewhere(kind: str, path: Path) -> tuple[Session, str | None]:
    """The file as a function of its inputs, run by the Python of `kind` until it is let go; its card lies beside it.

    Raises:
        ValueError: there is no such Python, or its runtime cannot open the file.
    """
    words = [*_words(kind), "run", str(path), str(torch.get_num_threads())]
    errors = tempfile.TemporaryFile()  # noqa: SIM115 (as long as the session)
    child = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=_environment())
    assert child.stdin is not None
    assert child.stdout is not None
    if other_side.receive(child.stdout) is None:  # type: ignore[arg-type]
        child.wait()
        raise ValueError(f"{path} cannot be opened by {KINDS[kind]}: {_last_line(errors)}")

    def run(inputs: list[np.ndarray]) -> list[np.ndarray]:
        other_side.send(child.stdin, inputs)  # type: ignore[arg-type]
        found = other_side.receive(child.stdout)  # type: ignore[arg-type]
        if found is None:
            raise ValueError(f"{path}: {KINDS[kind]} cannot compute it: {_last_line(errors)}")
        return found

    weakref.finalize(run, _end, child)
    return run, None


def writer(kind: str) -> Callable[..., None]:
    return partial(write_elsewhere, kind)


def opener(kind: str) -> Callable[[Path], tuple[Session, str | None]]:
    return partial(open_elsewhere, kind)


def _words(kind: str) -> list[str]:
    # -P: beside the file lie torch.py and onnx.py, which are not what it imports
    return [find_python(kind), "-P", "-B", other_side.__file__, kind]


def _environment() -> dict[str, str]:
    """This process's, so that the other Python finds its own packages and no file of this project."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}


def _run(kind: str, *words: str) -> str:
    done = subprocess.run([*_words(kind), *words], capture_output=True, env=_environment())
    if done.returncode:
        raise ValueError(f"{KINDS[kind]} cannot do it: {_reason(done.stderr)}")
    return done.stdout.decode()


def _last_line(errors) -> str:
    errors.seek(0)
    return _reason(errors.read())


def _reason(errors: bytes) -> str:
    """The line that names the exception, or else the last one."""
    lines = errors.decode(errors="replace").strip().splitlines() or ["it ended without a word"]
    named = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Unsupported)\w*\b", line)]
    return shorten((named or lines)[-1], 300)


def _end(child: subprocess.Popen) -> None:
    """Closes the pipe, at which the other Python ends."""
    if child.stdin is not None:
        child.stdin.close()
    try:
        child.wait(timeout=5)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
