"""Kills a small real training again and again, and compares what it ends in with one that was never disturbed.

  python -m tests.helpers.crash_harness --kills 1000 --seed 1 --folder /tmp/crash

Each start is a fork of a process that has everything imported, so that it takes no time.  All moments are drawn from the
seed.  Half of the kills fall at an event, counted from the start: a checkpoint half written, not yet flushed, not yet
renamed, a line of a log, a batch that came, a step between its gradient and its average, ...; the run kills itself there, so
that the seed alone decides.  The others fall by the clock, anywhere in between.  Each start also draws free settings (loader
workers, whether every step is saved), which must change nothing.  A run that ends is compared; then the next one begins,
until all kills are spent.  `--sabotage` breaks the promise on purpose: the comparison must then fail.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import dataloader

from public.checkpoint_files import digest, load_checkpoint
from public.loading import workers
from public.parallel import reduce
from public.runs import run_folder
from public.tasks.base import BaseTask
from public.training import ema, loop
from public.transforms.flip import RandomFlip
from tests.helpers.changed_experiments import tiny_learned, tiny_pruned, tiny_quantised, tiny_slimmed
from tests.helpers.classification_experiments import TinyClassification
from tests.helpers.distilled_experiments import TinyDistilled, TinyMutual
from tests.helpers.experiments import read_manifest, read_metrics
from tests.helpers.forked_training import TIMEOUT, Training
from tests.helpers.mosaic_experiment import MosaicExperiment

EXPERIMENTS = {  # what can be killed: a function of a folder, for each task
    "detection": MosaicExperiment.create,
    "classification": TinyClassification.create,
    "distilled": TinyDistilled.create,
    "mutual": TinyMutual.create,
    "quantised": tiny_quantised,
    "learned": tiny_learned,
    "pruned": tiny_pruned,
    "slimmed": tiny_slimmed,
}
FIRST_KILLS = (  # for those that are told to begin with them: what a fast machine may never be killed in by chance
    "evaluation: a batch has come",
    "epoch 1 begins",  # where mosaics end
    "a file is flushed, not renamed",
)
FREE = (("--num_workers", ("0", "1")), ("--checkpoint_minutes", ("0", "10")))  # flags and values to draw from
LONGEST_PAUSE = 0.002  # seconds between two looks at a run that is to be killed by the clock


class Harness:
    """Runs of one experiment, killed at moments of one stream.

    Args:
        experiment: has `folder`, `runs` and `command(*flags)`, as `TinyExperiment`.
        rng: where all moments and settings come from.
        flags: of every start.
        change: called in each process before it trains (to break something on purpose).
        clock_share: of the kills, how many fall by the clock.
    """

    def __init__(self, experiment, rng: np.random.Generator, flags=(), change=None, clock_share: float = 0.5):
        self.experiment, self.rng, self.flags, self.change = experiment, rng, flags, change
        self.clock_share = clock_share
        self.kills: Counter = Counter()  # where they fell
        self.events = experiment.folder.parent / "events.txt"  # how many there were in the newest start, and the last
        self.num_events, self.seconds = 0, 0.0  # of an undisturbed run

    def start(self, *flags: str, kill_at: int | str = 0) -> Training:
        arguments = (str(self.events), kill_at, self.change)
        return Training(self.experiment, *self.flags, *flags, change=_tell_events, change_args=arguments)

    def undisturbed(self) -> Path:
        """A run without kills."""
        begin = time.monotonic()
        self._end(self.start("--resume", "none"))
        self.num_events, self.seconds = self._last_event()[0], time.monotonic() - begin
        return self.experiment.runs[-1]

    def killed_until_it_ends(self, budget: int, first: tuple[str, ...] = ()) -> tuple[Path, int]:
        """A run that was killed up to `budget` times and then went to its end; (the run, how often it was killed).

        Args:
            first: the events of the first kills; the others are drawn.
        """
        spent = 0
        free = (*FREE, *getattr(self.experiment, "free", ()))
        while True:
            drawn = [word for flag, values in free for word in (flag, str(self.rng.choice(values)))]
            by_clock = self.rng.random() < self.clock_share
            seconds = self.rng.uniform(0, self.seconds)
            event: int | str = int(self.rng.integers(1, self.num_events + 1))
            if spent < len(first):
                by_clock, event = False, first[spent]
            if spent == budget:
                self._end(self.start(*drawn))
                return self.experiment.runs[-1], spent
            training = self.start(*drawn, kill_at=0 if by_clock else event)
            if not self._is_killed(training, seconds if by_clock else TIMEOUT):
                return self.experiment.runs[-1], spent
            self.kills[self._last_event()[1]] += 1
            spent += 1

    def _is_killed(self, training: Training, seconds: float) -> bool:
        """Kills `training` after so many seconds, where it still lives; False where it has ended, which must be well."""
        (process,) = training.processes
        end = time.monotonic() + seconds
        while process.is_alive() and time.monotonic() < end:
            time.sleep(LONGEST_PAUSE)
        training.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL), training.log[-6000:]
        return process.exitcode != 0

    def _end(self, training: Training) -> None:
        assert training.wait() == [0], training.log[-6000:]

    def _last_event(self) -> tuple[int, str]:
        """How many events the newest start has told, and the name of the last."""
        number, _, name = (self.events.read_text() if self.events.exists() else "").strip().partition(" ")
        return int(number or 0), name or "before the first event"


# ---------------------------------------------------------------------------------------------- in the killed process


class _Events:
    """Counts what happens in this process, notes it in a file, and kills the process at the event `kill_at`.

    That is its number, or its name.
    """

    def __init__(self, path: str, kill_at: int | str) -> None:
        self.handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        self.kill_at, self.count, self.owner, self.where = kill_at, 0, os.getpid(), ""

    def tell(self, name: str) -> None:
        if os.getpid() != self.owner:  # a loader worker
            return
        self.count += 1
        os.pwrite(self.handle, f"{self.count} {self.where}{name}".ljust(120).encode(), 0)
        if self.kill_at in (self.count, name, self.where + name):
            os.killpg(0, signal.SIGKILL)  # with its loader workers, as a machine that goes down

    def around(self, owner: object, name: str, before: str | None, after: str | None = None) -> None:
        """Puts events around each call of a function."""
        function = getattr(owner, name)

        def told(*args, **kwargs):
            if before:
                self.tell(before)
            result = function(*args, **kwargs)
            if after:
                self.tell(after)
            return result

        setattr(owner, name, told)


def _tell_events(path: str, kill_at: int | str, change) -> None:
    """Called before the training: puts events into it, and breaks it by `change`."""
    events = _Events(path, kill_at)
    save, evaluate = torch.save, loop.Trainer.evaluate

    def save_with_a_half(value, file, **options):
        file.write(b"half of a checkpoint")
        file.flush()
        events.tell("a checkpoint is half written")
        file.seek(0)
        file.truncate()
        save(value, file, **options)

    def evaluate_and_say_so(self):
        events.where = "evaluation: "
        evaluate(self)
        events.where = ""

    on_epoch = BaseTask.on_epoch

    def on_epoch_and_say_so(self, model, epoch):
        on_epoch(self, model, epoch)
        events.tell(f"epoch {epoch} begins")

    torch.save, loop.Trainer.evaluate, BaseTask.on_epoch = save_with_a_half, evaluate_and_say_so, on_epoch_and_say_so
    events.around(os, "fsync", "a file is written, not flushed")
    events.around(os, "replace", "a file is flushed, not renamed", "a file is renamed")
    events.around(os, "truncate", "a log is not cut back yet", "a log is cut back")
    events.around(run_folder.RunFolder, "create", "before the run", "the run is made")
    events.around(run_folder.RunFolder, "append", "before a line of a log", "after a line of a log")
    events.around(dataloader._BaseDataLoaderIter, "__next__", None, "a batch has come")
    events.around(reduce.GradientReducer, "reduce", "a step has its gradient")
    events.around(ema.ModelEMA, "update", "a step has no average yet")
    if change:
        change()


# ---------------------------------------------------------------------------------------------- what must be equal


def differences(reference: Path, other: Path) -> list[str]:
    """What differs between an undisturbed run and another: digests, checkpoints, metrics, the logs but for their times."""
    found = []
    for name in ("digests", "metrics", "step", "best"):
        values = [read_manifest(run)["finished"][name] for run in (reference, other)]
        if name == "metrics":
            values = [{k: v for k, v in value.items() if not k.endswith("_ms")} for value in values]
        if values[0] != values[1]:
            found.append(f"{name}: {values[0]} and {values[1]}")
    for name in ("best.pth", "latest.pth"):
        if digest(load_checkpoint(reference / name)["model"]) != digest(load_checkpoint(other / name)["model"]):
            found.append(f"the weights in {name}")
    if read_metrics(reference) != read_metrics(other):
        found.append("metrics.jsonl")
    if (reference / "digests.jsonl").read_text() != (other / "digests.jsonl").read_text():
        found.append("digests.jsonl")
    steps = [_logged_steps(run) for run in (reference, other)]
    if steps[0] != steps[1]:
        found.append(f"the steps in train.log: {steps[0]} and {steps[1]}")
    return found


def _logged_steps(run: Path) -> list[str]:
    lines = (run / "train.log").read_text().splitlines()
    return [line.split("step ")[1].split("/")[0] for line in lines if "images/s" in line]


# ---------------------------------------------------------------------------------------------- broken on purpose


def _forget_ema_count() -> None:
    load = ema.ModelEMA.load_state_dict

    def load_without(self, state):
        load(self, state | {"num_updates": 0, "decay_product": 1.0})

    ema.ModelEMA.load_state_dict = load_without


def _draw_globally() -> None:
    workers._replace_global_draws = list
    flip = RandomFlip.__call__

    def from_the_global_generator(self, sample, random):
        is_picture = isinstance(sample, np.ndarray)  # classification's flip takes one number, detection's a stream
        return flip(self, sample, np.random.random(1) if is_picture else np.random)

    RandomFlip.__call__ = from_the_global_generator


def _repeat_lines() -> None:
    run_folder.RunFolder.truncate_logs = lambda self, sizes: []


SABOTAGE = {"ema": _forget_ema_count, "global_generator": _draw_globally, "repeated_lines": _repeat_lines}


# ---------------------------------------------------------------------------------------------- the command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True, help="an empty or new folder for data and runs")
    parser.add_argument("--experiment", choices=EXPERIMENTS, default="detection")
    parser.add_argument("--sabotage", choices=SABOTAGE)
    arguments = parser.parse_args()
    place = arguments.folder / "crash"
    shutil.rmtree(place, ignore_errors=True)
    experiment = EXPERIMENTS[arguments.experiment](place)
    harness = Harness(experiment, np.random.default_rng(arguments.seed), change=SABOTAGE.get(arguments.sabotage))
    reference = harness.undisturbed().rename(place / "reference")
    left, bad, runs = arguments.kills, [], 0
    while left > 0:
        run, spent = harness.killed_until_it_ends(left)
        left, runs = left - spent, runs + 1
        bad += [f"{run.name} after {spent} kills: {text}" for text in differences(reference, run)]
        shutil.rmtree(experiment.folder / "runs")
    result = {"kills": arguments.kills - left, "runs": runs, "moments": dict(harness.kills.most_common())}
    print(json.dumps(result | {"differences": bad}, indent=1))
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
