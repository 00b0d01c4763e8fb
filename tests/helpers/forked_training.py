"""Trainings in processes of their own that start in no time: forked from a server that has everything imported.

What a user types, `python train.py ...`, runs as it is, with the same command line, exit status and output, except for

- the start of Python,
- curves.png, whose drawing takes half a second: a text stands in its place, which says how many evaluations it would show,
- the waiting for the disk.  What a killed process has written is there without it; only a machine that goes down, which
  no test can bring about, would lose it.

Several processes meet by the variables that torchrun would set.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.data import dataloader

from public.parallel import collectives
from public.training import loop, main
from tests.helpers.experiments import REPOSITORY, TinyExperiment
from tests.helpers.processes import CONTEXT, PRELOAD, free_port

TIMEOUT = 90.0  # seconds for a training of a test; the machine may be busy


class Training:
    """A running training of `experiment`, in a process group of its own.

    Args:
        flags: of the command line.
        world_size: processes, which meet by gloo.
        change: called in each process before it trains, with `change_args`; a function at the top of a module.
    """

    def __init__(self, experiment, *flags: str, world_size: int = 1, change: Callable | None = None, change_args=()):
        CONTEXT.set_forkserver_preload(PRELOAD)
        self.output = experiment.folder.parent / f"output_{time.monotonic_ns()}.txt"
        command = experiment.command(*flags)
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(world_size)}
        self.processes = []
        for rank in range(world_size):
            numbers = {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(world_size)}
            environment = meeting | numbers if world_size > 1 else {}
            arguments = (command, str(self.output), environment, change, change_args)
            self.processes.append(CONTEXT.Process(target=_train, args=arguments))  # no daemon: it has workers
            self.processes[-1].start()

    @property
    def log(self) -> str:
        """What it has printed so far, all processes together."""
        return self.output.read_text() if self.output.exists() else ""

    def wait(self, timeout: float = TIMEOUT) -> list[int]:
        """The exit statuses by rank, of a signal that ended it minus its number; killed after `timeout` seconds."""
        end = time.monotonic() + timeout
        for process in self.processes:
            process.join(max(end - time.monotonic(), 0.01))
        hung = [rank for rank, process in enumerate(self.processes) if process.is_alive()]
        self.kill()
        assert not hung, f"ranks {hung} did not end within {timeout:g} s:\n{self.log[-3000:]}"
        return [process.exitcode for process in self.processes]

    def until(self, text: str, timeout: float = TIMEOUT) -> None:
        """Waits until it has printed `text`."""
        end = time.monotonic() + timeout
        while text not in self.log:
            assert time.monotonic() < end, f"it does not say {text!r}:\n{self.log[-3000:]}"
            assert self.processes[0].is_alive(), f"it ended before it said {text!r}:\n{self.log[-3000:]}"
            time.sleep(0.005)

    def send(self, number: int, rank: int = 0) -> None:
        """Sends a signal to one process, without its loader workers."""
        os.kill(self.processes[rank].pid, number)

    def send_to_group(self, number: int, rank: int = 0) -> None:
        """Sends a signal to one process and its loader workers, as a terminal or a scheduler does."""
        os.killpg(self.processes[rank].pid, number)

    def kill(self) -> None:
        """Ends every process and its loader workers by SIGKILL, as a machine that goes down."""
        for rank, process in enumerate(self.processes):
            try:
                self.send_to_group(signal.SIGKILL, rank)
            except ProcessLookupError:
                continue
            process.join()


def train(experiment: TinyExperiment, *flags: str, status: int = 0, timeout: float = TIMEOUT, **how) -> str:
    """Trains to the end, which must have the exit status `status`; what it printed.  `how`: as of `Training`."""
    training = Training(experiment, *flags, **how)
    statuses = training.wait(timeout)
    assert statuses == [status] * len(statuses), f"exit statuses {statuses}:\n{training.log[-6000:]}"
    return training.log


def _train(command: list[str], output: str, environment: dict, change, change_args) -> None:
    os.setsid()
    handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(handle, stream)
    os.environ.update(environment)
    os.environ["PYTHONPATH"] = str(REPOSITORY)
    torch.set_num_threads(1)
    loop.draw_curves = _draw_a_number
    os.fsync = _do_not_wait
    sys.argv, sys.orig_argv = command[1:], command
    if change:
        change(*change_args)
    main(sys.argv[0])


def _draw_a_number(metrics_path: Path, out_path: Path, best_metric: str | None) -> None:
    out_path.write_text(str(metrics_path.read_text().count('"kind": "eval"')))


def _do_not_wait(handle: int) -> None:
    pass


# ---------------------------------------------------------------------------------------------- signals at a moment


def signal_in_step(step: int, number: int, rank: int = 0, to_group: bool = False) -> None:
    """A `change` of `Training`: process `rank` sends itself the signal once it has computed step `step`, from 1.

    `to_group`: its loader workers get it too.
    """
    original = loop.Trainer.step

    def step_and_signal(self, batch):
        original(self, batch)
        if self.state.step == step and collectives.rank() == rank:
            os.killpg(0, number) if to_group else os.kill(os.getpid(), number)

    loop.Trainer.step = step_and_signal


def signal_in_evaluation(epoch: int, number: int, rank: int = 0) -> None:
    """A `change` of `Training`: process `rank` sends itself the signal while it evaluates after epoch `epoch`, from 1."""
    evaluate, count = loop.Trainer.evaluate, {"evaluations": 0}
    batch_comes = dataloader._BaseDataLoaderIter.__next__

    def next_and_signal(self):
        batch = batch_comes(self)
        if count.pop("due", False):
            os.kill(os.getpid(), number)
        return batch

    def count_and_evaluate(self):
        count["evaluations"] += 1
        if count["evaluations"] == epoch and collectives.rank() == rank:
            count["due"] = True
        evaluate(self)

    loop.Trainer.evaluate, dataloader._BaseDataLoaderIter.__next__ = count_and_evaluate, next_and_signal
