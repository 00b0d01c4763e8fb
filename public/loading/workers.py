"""Loading batches by processes: what these may do, and how the death of one is told.

Python's and numpy's global generators raise in them.
"""

import contextlib
import multiprocessing
import os
import pickle
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from public.experiment_files import add_packages_again, added_packages

SIGNS = (
    RuntimeError,
    OSError,
    EOFError,
    pickle.UnpicklingError,
)  # by which a death shows: torch's, and broken connections
PATIENCE = 1.0  # seconds in which a worker whose connection broke is seen to be dead


class DeadWorkerError(RuntimeError):
    """A worker ended before its time."""


class WatchedLoader(DataLoader):
    """A DataLoader that raises DeadWorkerError where a batch is asked for and a worker has died.

    torch's own report comes from a signal handler that raises in whatever line the program is at: in a step, in a
    checkpoint, in the report itself.  And where the death breaks a connection first, the error is that of the connection.
    So the handler is taken away again, and the workers are looked at when a batch does not come; torch tries every five
    seconds.
    """

    _workers: tuple = ()

    def __iter__(self):
        before = set(multiprocessing.active_children())
        with _without_torchs_handler():
            batches = super().__iter__()
        self._workers += tuple(set(multiprocessing.active_children()) - before)
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except Exception as error:
                try:
                    self._check_workers(error)
                finally:
                    _end_workers(batches)
                    self._iterator = None  # asked again, the loader starts new ones
                raise
            yield batch

    def _check_workers(self, error: Exception) -> None:
        """Raises DeadWorkerError if one is why `error` was raised."""
        if not isinstance(error, SIGNS) or str(error).startswith("Caught "):  # a worker that tells of an error lives
            return
        given_up = time.monotonic() + PATIENCE
        while all(worker.exitcode in (None, 0) for worker in self._workers):
            if time.monotonic() > given_up or not self._workers:
                return
            time.sleep(0.01)
        dead = [f"process {w.pid} {_end(w.exitcode)}" for w in self._workers if w.exitcode not in (None, 0)]
        raise DeadWorkerError(
            f"a loader worker has died: {', '.join(dead)}. Memory may have run out: --num_workers takes fewer"
        ) from error


def _end_workers(batches) -> None:
    """Ends the workers of torch's iterator `batches` now.

    Left to the garbage collector, which finds them in a circle of torch's error and its traceback, their queues are closed
    before they are told to end, and each is waited for five seconds in vain.
    """
    if hasattr(batches, "_shutdown_workers"):
        batches._shutdown_workers()


def _end(exitcode: int) -> str:
    if exitcode > 0:
        return f"ended with exit code {exitcode}"
    return f"was killed by {signal.Signals(-exitcode).name}"


@contextlib.contextmanager
def _without_torchs_handler():
    """A handler of SIGCHLD that torch sets within it does not stay; only a main thread can have one."""
    before = signal.getsignal(signal.SIGCHLD)
    yield
    if threading.current_thread() is threading.main_thread() and _is_torchs(signal.getsignal(signal.SIGCHLD)):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL if before is None or _is_torchs(before) else before)


def _is_torchs(handler) -> bool:
    return getattr(handler, "__module__", "").startswith("torch.utils.data")


def start_worker(worker: int) -> None:
    """One thread, no global generator, no signals but its parent's: what every loader worker begins with."""
    _listen_to_the_parent_only()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    _replace_global_draws()


def _listen_to_the_parent_only() -> None:
    """Leaves Ctrl-C, and a SIGTERM that comes from elsewhere, to the parent.

    A terminal sends them to the workers as well, and so do schedulers; the run still needs its workers for the step it is
    in, and ends them itself.  Only a thread that waits for a signal learns who has sent it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):  # macOS
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_when_the_parent_says_so, args=(os.getppid(),), daemon=True).start()


def _end_when_the_parent_says_so(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


@contextlib.contextmanager
def forbid_global_random():
    """Within it, drawing from Python's or numpy's global generator raises RuntimeError."""
    originals = _replace_global_draws()
    try:
        yield
    finally:
        for module, name, function in originals:
            setattr(module, name, function)


def _replace_global_draws():
    """Makes every function that draws from a global generator raise; returns the originals (module, name, function)."""
    generators = {random: random._inst, np.random: np.random.mtrand._rand}
    not_draws = ("seed", "getstate", "setstate", "get_state", "set_state")
    originals = [
        (module, name, function)
        for module, generator in generators.items()
        for name, function in vars(module).items()
        if getattr(function, "__self__", None) is generator and name not in not_draws
    ]
    # Two names of numpy are plain functions around its generator.
    originals += [(np.random, name, getattr(np.random, name)) for name in ("ranf", "sample")]
    for module, name, _ in originals:
        setattr(module, name, _Forbidden(f"{module.__name__}.{name}"))
    return originals


class _Forbidden:
    def __init__(self, name: str):
        self.name = name

    def __call__(self, *args, **kwargs):
        raise RuntimeError(
            f"{self.name} draws from a global generator, which workers and restarts do not repeat; "
            "take a stream of public.random_streams"
        )


def make_loader(
    dataset: Dataset,
    batches: Iterable[list],
    *,
    num_workers: int,
    prefetch_factor: int,
    pin_memory: bool,
    collate_fn: Callable,
) -> WatchedLoader:
    """A torch DataLoader of what `collate_fn` makes of samples, that draws from no global generator.

    Args:
        batches: lists of keys of `dataset`, one list a batch.
        num_workers: processes that read and transform; 0 does it in this process.  They live as long as the loader.
        prefetch_factor: batches that each worker prepares ahead; without workers it has no effect.
        pin_memory: copy batches into page-locked memory, from which a GPU can fetch them without waiting.
    """
    method = start_method()
    if num_workers and method != "fork":
        dataset, collate_fn = Portable(dataset), Portable(collate_fn)  # type: ignore[assignment]  # it stands for either
    return WatchedLoader(
        dataset,
        batch_sampler=batches,
        num_workers=num_workers,
        collate_fn=collate_fn,
        pin_memory=pin_memory,
        worker_init_fn=start_worker,
        generator=torch.Generator(),  # the loader numbers its workers from it; none of our streams does
        prefetch_factor=prefetch_factor if num_workers else None,
        persistent_workers=num_workers > 0,
        multiprocessing_context=method if num_workers else None,
    )


def start_method() -> str:
    """How loader workers are started: "fork" on Linux, where it takes no time and copies nothing, else "spawn".

    A program that has called `multiprocessing.set_start_method("spawn")` gets that on Linux too.
    """
    wants_spawn = multiprocessing.get_start_method(allow_none=True) == "spawn"
    return "fork" if sys.platform == "linux" and not wants_spawn else "spawn"


class Portable:
    """A data set, or a function, that travels to a process which has imported nothing: with an experiment's own classes.

    Such a process cannot import what an experiment's folder states, because the folder is no module on Python's path; so
    the packages that this process has made of such folders are made there before the content is unpacked.
    """

    def __init__(self, content: Any) -> None:
        self.content = content

    def __getitem__(self, key: Any) -> Any:
        return self.content[key]

    def __call__(self, *args: Any) -> Any:
        return self.content(*args)

    def __getstate__(self) -> dict:
        content = pickle.dumps(self.content)
        used = {name: folder for name, folder in added_packages().items() if name.encode() in content}
        return {"packages": used, "content": content}

    def __setstate__(self, state: dict) -> None:
        add_packages_again(state["packages"])
        self.content = pickle.loads(state["content"])
