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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from tests.helpers.experiments import ENVIRONMENT, TinyExperiment
from tests.helpers.places import REPOSITORY
from tests.helpers.processes import CONTEXT, PRELOAD, free_port

TIMEOUT = 120.0  # seconds for one command; the machine may be busy


def run_python(
    words: Sequence[str | Path],
    *,
    cwd: Path = REPOSITORY,
    environment: dict[str, str] = ENVIRONMENT,
    timeout: float = TIMEOUT,
) -> subprocess.CompletedProcess:
    """Runs `python` with these words after it, a module with -m or a file, to its end.

    Returns:
        Exit status, stdout and stderr; a command that does not end within `timeout` seconds is killed, with a negative
        status.
    """
    CONTEXT.set_forkserver_preload(PRELOAD)
    command = [str(word) for word in words]
    with tempfile.TemporaryDirectory() as name:
        files = [Path(name) / stream for stream in ("stdout", "stderr")]
        process = CONTEXT.Process(target=_run, args=(command, cwd, environment, files))
        process.start()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            process.join()
        stdout, stderr = (file.read_text() if file.exists() else "" for file in files)
    return subprocess.CompletedProcess(["python", *command], process.exitcode, stdout, stderr)


def run_together(commands: Sequence[Sequence[str | Path]]) -> list[subprocess.CompletedProcess]:
    """`run_python` of each as the processes of one group, by rank, which meet by the variables that torchrun would set."""
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    world = {"WORLD_SIZE": str(len(commands)), "LOCAL_WORLD_SIZE": str(len(commands))}

    def run(rank: int) -> subprocess.CompletedProcess:
        numbers = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        return run_python(commands[rank], environment=ENVIRONMENT | meeting | world | numbers)

    with ThreadPoolExecutor(len(commands)) as pool:
        return list(pool.map(run, range(len(commands))))


def run_test_sh(experiment: TinyExperiment, *words: str) -> str:
    """What an experiment's `./test.sh` prints on the CPU; its one line, without bash.  It must end well."""
    place = ("--data_root", experiment.data_root, "--device", "cpu")
    done = run_python(["-m", "public.test_scripts.evaluate", experiment.folder, *place, *words])
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


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
