"""A place where a reader of the documentation types commands: as the pages write them, on tiny data.

`python ...` is forked from a server that has everything imported, which saves its start of seconds; all else goes to bash.
"""

import os
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import torch

from tests.helpers.experiments import ENVIRONMENT
from tests.helpers.places import REPOSITORY
from tests.helpers.processes import CONTEXT, PRELOAD

TIMEOUT = 120.0  # seconds for one command; the machine may be busy


class Clone:
    """The folders of a clone that a walk needs, and data beside them.

    Args:
        root: is made; `folder` is where the next command is typed, at first `root`.
        data_root: $ENCORE_DATA_ROOT.

    Fields:
        fill: a text of a page -> what stands for it here, such as a run's name for `<time>`.
        shorten: the beginning of a command -> flags that make it short.
    """

    def __init__(self, root: Path, data_root: Path) -> None:
        root.mkdir(parents=True)
        self.root = self.folder = root
        self.data_root = data_root
        self.fill: dict[str, str] = {}
        self.shorten: dict[str, str] = {}
        (root / "public").symlink_to(REPOSITORY / "public")
        programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = ENVIRONMENT | {"ENCORE_DATA_ROOT": str(data_root), "PATH": programs}

    def copy(self, experiment: str) -> Path:
        """An experiment's folder, without runs."""
        folder = self.root / experiment
        shutil.copytree(REPOSITORY / experiment, folder, ignore=shutil.ignore_patterns("runs", "__pycache__"))
        return folder

    def type(self, command: str) -> str:
        """Runs a command as a page writes it, which must end well; what it printed."""
        words = command
        for old, new in self.fill.items():
            words = words.replace(old, new)
        for beginning, flags in self.shorten.items():
            words += f" {flags}" if command.startswith(beginning) else ""
        assert not set("<>[]") & set(words), f"{words}: say what stands for it, in `fill`"
        if words.startswith("cd "):
            self.folder = self.root / words.removeprefix("cd ")
            assert self.folder.is_dir(), words
            return ""
        status, said = self._fork(words) if words.startswith("python ") else self._start(words)
        assert status == 0, f"{words}\nends with {status}:\n{said}"
        return said

    def _start(self, words: str) -> tuple[int, str]:
        done = subprocess.run(
            ["bash", "-c", words],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT,
        )
        return done.returncode, done.stdout

    def _fork(self, words: str) -> tuple[int, str]:
        CONTEXT.set_forkserver_preload(PRELOAD)
        output = self.root.parent / "said.txt"
        output.unlink(missing_ok=True)
        process = CONTEXT.Process(target=_python, args=(words, self.folder, self.environment, output))
        process.start()
        process.join(TIMEOUT)
        if process.is_alive():
            process.kill()
            process.join()
        return process.exitcode, output.read_text()


def _python(words: str, folder: Path, environment: dict[str, str], output: Path) -> None:
    """What `python ...` does: a module with -m, or a file."""
    handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(handle, stream)
    os.environ.update(environment)
    os.chdir(folder)
    torch.set_num_threads(1)
    sys.orig_argv = shlex.split(words)
    if sys.orig_argv[1] == "-m":
        sys.path.insert(0, str(folder))
        sys.argv = sys.orig_argv[2:]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = sys.orig_argv[1:]
        runpy.run_path(sys.argv[0], run_name="__main__")
