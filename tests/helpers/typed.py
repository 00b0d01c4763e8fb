"""A place where a reader of the documentation types commands: as the pages write them, on tiny data.

`python ...` is forked from a server that has everything imported, which saves its start of seconds; all else goes to bash.
"""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from tests.helpers.experiments import ENVIRONMENT
from tests.helpers.forked_commands import TIMEOUT, run_python
from tests.helpers.places import REPOSITORY


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
        done = run_python(shlex.split(words)[1:], cwd=self.folder, environment=self.environment)
        return done.returncode, done.stdout + done.stderr
