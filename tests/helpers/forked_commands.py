"""`python ...` as it is typed, forked from a server that has everything imported, which saves its start of seconds.

Command line, folder, environment, output and exit status are those of a command that was started in a shell; that it starts
there too is held by tests of their own (test_typed_commands, and those that start test.sh).
"""

import contextlib
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from tests.helpers.experiments import ENVIRONMENT
from tests.helpers.places import REPOSITORY
from tests.helpers.processes import CONTEXT, PRELOAD

TIMEOUT = 120.0  # seconds for one command; the machine may be busy


def run_python(
    words: Sequence[str | Path], *, cwd: Path = REPOSITORY, environment: dict[str, str] = ENVIRONMENT
) -> subprocess.CompletedProcess:
    """Runs `python` with these words after it, a module with -m or a file, to its end.

    Returns:
        Exit status, stdout and stderr; a command that does not end within TIMEOUT is killed, with a negative status.
    """
    CONTEXT.set_forkserver_preload(PRELOAD)
    command = [str(word) for word in words]
    with tempfile.TemporaryDirectory() as name:
        files = [Path(name) / stream for stream in ("stdout", "stderr")]
        process = CONTEXT.Process(target=_run, args=(command, cwd, environment, files))
        process.start()
        process.join(TIMEOUT)
        if process.is_alive():
            process.kill()
            process.join()
        stdout, stderr = (file.read_text() if file.exists() else "" for file in files)
    return subprocess.CompletedProcess(["python", *command], process.exitcode, stdout, stderr)


def _run(words: list[str], cwd: Path, environment: dict[str, str], files: list[Path]) -> None:
    for stream, file in zip((1, 2), files):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    torch.set_num_threads(1)
    sys.orig_argv = [sys.executable, *words]
    with contextlib.suppress(ValueError):
        sys.path.remove("")
    if words[0] == "-m":
        sys.path.insert(0, str(cwd))
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")
