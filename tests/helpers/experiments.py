"""Running a whole experiment in a test: a copy of helpers/tiny_experiment on a tiny data set, in its own processes."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.places import HELPERS, REPOSITORY
from tests.helpers.tiny_data import write_voc

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}


@dataclass
class TinyExperiment:
    """A folder with an experiment, and the data it reads."""

    folder: Path
    data_root: Path

    @classmethod
    def create(cls, root: Path) -> "TinyExperiment":
        """14 training images (3 steps of 4 an epoch, two images left over) and 5 validation images."""
        folder = root / "tiny_experiment"
        shutil.copytree(HELPERS / "tiny_experiment", folder, ignore=shutil.ignore_patterns("__pycache__"))
        data_root = root / "data"
        write_voc(data_root, folder="tiny", split="train", num_images=14, seed=1)
        write_voc(data_root, folder="tiny", split="val", num_images=5, seed=2)
        return cls(folder, data_root)

    def copy(self, root: Path) -> "TinyExperiment":
        """Its folder in `root`, without runs, beside the same data."""
        folder = root / self.folder.name
        shutil.copytree(self.folder, folder, ignore=shutil.ignore_patterns("runs", "reproductions", "__pycache__"))
        return TinyExperiment(folder, self.data_root)

    def command(self, *flags: str, launcher: tuple[str, ...] = ()) -> list[str]:
        device = ("--device", "cpu", "--data_root", str(self.data_root))
        return [sys.executable, *launcher, str(self.folder / "train.py"), *device, *flags]

    def train(self, *flags: str, launcher: tuple[str, ...] = (), fails: bool = False, cwd: Path | None = None) -> str:
        """Runs train.py to its end; what it printed.  `fails`: it must exit with an error."""
        done = subprocess.run(
            self.command(*flags, launcher=launcher),
            cwd=cwd or self.folder,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        assert (done.returncode != 0) == fails, done.stdout
        return done.stdout

    @property
    def runs(self) -> list[Path]:
        return sorted(p.parent for p in self.folder.glob("runs/*/manifest.json"))

    def digests(self, run: Path | None = None) -> dict[str, str]:
        """The digests of a finished run's weights; of the newest without a name."""
        return read_manifest(run or self.runs[-1])["finished"]["digests"]


def read_manifest(run: Path) -> dict:
    return json.loads((run / "manifest.json").read_text())


def read_metrics(run: Path) -> list[dict]:
    """The lines of metrics.jsonl without what depends on time and machine."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        for name in ("images_per_second", "memory_gib"):
            line.pop(name, None)
        for name in ("forward_ms", "nms_ms"):
            line.get("metrics", {}).pop(name, None)
    return lines
