"""A run's folder: what was run, on what, what came out, and the lock that keeps a second process out.

runs/<time>/
    config.json  overrides.json  experiment/   the resolved settings, what the command line changed, a copy of the folder
    experiment_from_step<N>/                   the copy from that step on, where --allow_code_change let the code differ
    manifest.json                              command, code, packages, hardware, data, every start, digests, result
    train.log  metrics.jsonl  tensorboard/     the log, one JSON object a line, events
    digests.jsonl                              a chain of digests, by which another run can be compared step by step
    latest.pth  previous.pth  best.pth         the state to go on from, the one before it; the weights with the best metric
    curves.png  pictures/                      curves, training batches as the network saw them, predictions
"""

import contextlib
import fcntl
import json
import os
import shutil
import time
from pathlib import Path
from typing import IO

from public.config import TrainingConfig, differences, freeze
from public.experiment_files import experiment_files
from public.files import read_json_object, write_text
from public.runs.checkpoint import has_checkpoint
from public.runs.experiment import Experiment, load_experiment, run_copy
from public.runs.manifest import CODE, code_change
from public.text import ESCAPED, brief

LOG_FILES = ("train.log", "metrics.jsonl", "digests.jsonl")


class RunFolder:
    """The folder of one run, opened for writing by one process (rank 0) at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: IO[bytes] | None = None

    # ------------------------------------------------------------------------------------------ making and locking

    @classmethod
    def create(cls, experiment: Experiment, config: TrainingConfig, overrides: dict) -> "RunFolder":
        """A new folder under the experiment's runs/, named by the time, with the settings and a copy of the code."""
        try:
            experiment.runs.mkdir(exist_ok=True)
        except OSError as error:
            raise OSError(f"the folder of the runs, {experiment.runs}, cannot be made ({error})") from error
        name = time.strftime("%Y%m%d-%H%M%S")
        path = experiment.runs / name
        for number in range(2, 1000):
            try:
                path.mkdir()
                break
            except FileExistsError:
                path = experiment.runs / f"{name}-{number}"
        run = cls(path)
        run.lock()
        run._copy_experiment(experiment, "experiment")
        (path / "pictures").mkdir()
        run.write_json("overrides.json", {name: [freeze(v) for v in pair] for name, pair in overrides.items()})
        run.write_json("config.json", freeze(config))
        return run

    def _copy_experiment(self, experiment: Experiment, name: str) -> None:
        source = experiment.source
        for file in experiment_files(source):
            copy = self.path / name / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, copy)

    def replace_experiment(self, experiment: Experiment, step: int, **entries: object) -> None:
        """Copies the experiment's folder anew, where its code has changed, to experiment_from_step<step>/.

        The old copy stays beside it.  The manifest says which of them is in force, and is written once, with `entries`: a
        process that is killed on the way leaves the old code in force, or the new.
        """
        name = f"experiment_from_step{step}"
        if name == run_copy(self.path).name:  # the code has changed again before a step was saved
            name += "_again"
        if (self.path / name).exists():  # of a process that was killed on the way
            shutil.rmtree(self.path / name)
        self._copy_experiment(experiment, name)
        self.update_manifest(experiment_copy=name, **entries)

    def lock(self) -> bool:
        """Takes the folder for this process; False where another process has it.  A process that dies lets go.

        A forked loader worker gets a copy of the open file, which would keep the folder locked as long as it outlives a
        killed run; so it closes its copy.
        """
        self._lock = open(self.path / "lock", "ab")  # noqa: SIM115 - held as long as the run
        try:
            fcntl.flock(self._lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            return False
        os.register_at_fork(after_in_child=self.close)
        return True

    def close(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    # ------------------------------------------------------------------------------------------ small files

    def write_json(self, name: str, value: object) -> None:
        """Writes `value` whole or not at all."""
        write_text(self.path / name, json.dumps(value, indent=2) + "\n")

    def read_json(self, name: str) -> dict:
        """Raises ValueError, naming the file, where it is damaged."""
        return read_json_object(self.path / name)

    @property
    def manifest(self) -> dict:
        return self.read_json("manifest.json")

    def update_manifest(self, **entries: object) -> None:
        self.write_json("manifest.json", self.manifest | entries)

    def append(self, name: str, line: str) -> None:
        """Adds `line` to one of LOG_FILES, flushed at once.  Raises OSError, naming the file and the reason."""
        try:
            with open(self.path / name, "a", encoding="utf-8", errors=ESCAPED) as file:
                file.write(line + "\n")
        except OSError as error:
            raise OSError(f"{self.path / name} could not be written ({error})") from error

    def append_metrics(self, **entries: object) -> None:
        self.append("metrics.jsonl", json.dumps(entries, allow_nan=False))

    def log_sizes(self) -> dict[str, int]:
        """The present sizes of the log files in bytes; a checkpoint keeps them."""
        return {name: (self.path / name).stat().st_size if (self.path / name).exists() else 0 for name in LOG_FILES}

    def truncate_logs(self, sizes: dict[str, int]) -> list[str]:
        """Cuts the log files back to `sizes`, so that a resumed run writes no line twice.

        Returns:
            A line for each file that is shorter than that: its last lines are lost (a disk, a machine that went down).  It
            stays as it is but for a part of a line at its end, to which the next line would be joined.

        Raises:
            ValueError: `sizes` lacks a log file, naming it.
        """
        lacking = sorted(set(LOG_FILES) - sizes.keys())
        if lacking:
            raise ValueError(
                f"the checkpoint {self.path / 'latest.pth'}, or previous.pth in its place, lacks the size of {lacking[0]}; "
                "the run cannot resume"
            )
        lost = []
        for name, present in self.log_sizes().items():
            if sizes[name] < present:
                os.truncate(self.path / name, sizes[name])
            elif sizes[name] > present:
                lost.append(
                    f"{name} has {present} bytes, at the checkpoint it had {sizes[name]}: its last lines are lost"
                )
                if present:
                    os.truncate(self.path / name, (self.path / name).read_bytes().rfind(b"\n") + 1)
        return lost


# ---------------------------------------------------------------------------------------------- which run to go on with


def newest_weights(experiment: Experiment) -> Path | None:
    """The best weights of the newest run of `experiment` that has any.

    A finished run none of whose evaluations could measure the best has its last weights instead.
    """
    folders = [experiment.run] if experiment.run is not None else experiment.runs.glob("*")
    found = [weights for weights in map(_weights_of, folders) if weights is not None]
    return max(found, key=lambda path: (path.stat().st_mtime, path.parent.name), default=None)


def _weights_of(run: Path) -> Path | None:
    best, last = run / "best.pth", run / "latest.pth"
    if best.is_file() or not last.is_file():
        return best if best.is_file() else None
    with contextlib.suppress(OSError, ValueError):
        finished = read_json_object(run / "manifest.json").get("finished")
        if isinstance(finished, dict) and finished and finished.get("best") is None:
            return last
    return None


def find_unfinished(
    experiment: Experiment, config: TrainingConfig, identity: dict, allow_code_change: bool = False
) -> tuple[RunFolder | None, list[str]]:
    """The newest run that is unfinished, unlocked, and equal in settings, code and data; locked for this process.

    Also returns a line for each unfinished run that was passed over, with the reason.
    """
    passed = []
    for path in sorted(experiment.runs.glob("*/manifest.json"), key=lambda p: p.parent.name, reverse=True):
        run = RunFolder(path.parent)
        if run.manifest.get("finished") or not has_checkpoint(run.path):
            continue
        reasons = refusals(run, config, identity, allow_code_change)
        if not reasons and not run.lock():
            reasons = ["another process is working on it"]
        if not reasons:
            return run, passed
        passed.append(
            f"not resuming {run.path.name}: {reasons[0]}" + (f" (+{len(reasons) - 1})" if reasons[1:] else "")
        )
    return None, passed


def refusals(run: RunFolder, config: TrainingConfig, identity: dict, allow_code_change: bool = False) -> list[str]:
    """Why a run must not be gone on with under these settings, code, data and packages: names, old and new values."""
    try:
        recorded = load_experiment(run.path).config
    except Exception as error:  # its copy of config.py is any program
        return [f"its settings no longer fit the library: {type(error).__name__}: {' '.join(str(error).split())}"]
    reasons = [f"{name} was {old!r}, now {new!r}" for name, old, new in differences(recorded, config)]
    recorded_identity = run.manifest.get("identity")
    if not isinstance(recorded_identity, dict) or "library" not in recorded_identity:
        return [f"its manifest.json is damaged: the identity is {brief(recorded_identity)}"]
    if not allow_code_change:
        hint = "--allow_code_change resumes all the same, and records it"
        for name, hashes in code_change(recorded_identity, identity).items():
            before, after = (value[:12] if value else "absent" for value in hashes)
            reasons.append(f"{name} was {before}, now {after} ({hint})")
    for name in sorted((recorded_identity.keys() | identity.keys()) - set(CODE)):
        old, new = recorded_identity.get(name), identity.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            changed = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
            of = f" of {new['file']}" if "file" in new and "file" not in changed else ""
            reasons += [
                f"{name}.{key}{of} was {old.get(key)}, now {new.get(key)}{_how_read(key, old)}" for key in changed
            ]
        elif old != new:
            reasons.append(f"{name} was {old}, now {new}")
    return reasons


def _how_read(key: str, old: dict) -> str:
    """What to do where one of two fingerprints of the data was made without reading the pictures."""
    if not key.endswith("_pictures"):
        return ""
    return " (it was started with --fingerprint full)" if key in old else " (it was started without --fingerprint full)"


def named_run(experiment: Experiment, name: str) -> RunFolder:
    """The run that `--resume <name>` means: a path, or a folder's name under the experiment's runs/.

    Raises:
        FileNotFoundError: it is not there, naming where was looked.
    """
    for path in (experiment.runs / name, Path(name)):
        if (path / "manifest.json").is_file():
            return RunFolder(path.resolve())
    raise FileNotFoundError(
        f"--resume {name}: there is no run {experiment.runs / name} and no run {Path(name).resolve()}"
    )
