"""Loading batches by processes: what these may do, and how the death of one is told.

Python's and numpy's global generators raise in them.
"""

import contextlib
import errno
import multiprocessing
import multiprocessing.queues
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
from public.files import OpenFilesError, allow_open_files

SIGNS = (
    RuntimeError,
    OSError,
    EOFError,
    pickle.UnpicklingError,
)  # by which a death shows: torch's, and broken connections
PATIENCE = 1.0  # seconds in which a worker whose connection broke is seen to be dead
BATCH_FILES = 4  # tensors of a batch at most; each keeps a file open on its way
WORKER_FILES = 5  # a worker's pipes, on either side
OUT_OF_FILES, CANNOT_HAND_OVER = errno.EMFILE, 70  # exit statuses of workers that end themselves
PATIENCE_OF_HANDING_OVER = 10  # errors of a worker's thread that hands tensors over, after which the worker ends
FEW_FILES = "--num_workers or --prefetch_factor takes fewer"


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
                    _check_open_files(error)
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
        codes = {worker.pid: worker.exitcode for worker in self._workers if worker.exitcode not in (None, 0)}
        reason = "Memory may have run out: --num_workers takes fewer"
        if OUT_OF_FILES in codes.values():
            reason = f"No more files may be opened (ulimit -n): raise the limit, or {FEW_FILES}"
        dead = ", ".join(f"process {number} {_end(code)}" for number, code in codes.items())
        raise DeadWorkerError(f"a loader worker has died: {dead}. {reason}") from error


def _check_open_files(error: Exception) -> None:
    """Raises OpenFilesError where `error` says in torch's or Python's words that this process may open no more files."""
    words = ("Too many open files", "received 0 items of ancdata")
    if not str(error).startswith("Caught ") and any(part in str(error) for part in words):
        raise OpenFilesError(
            f"this process may open no more files (ulimit -n), and cannot take a batch from its loader workers: raise the "
            f"limit, or {FEW_FILES}"
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
    _end_where_no_batch_can_be_handed_over()
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


def _end_where_no_batch_can_be_handed_over() -> None:
    """Lets a worker end where Python would print the error and lose the batch, or try again for ever.

    A batch leaves a worker by two threads of Python's.  One writes it into a queue; where that fails, Python prints why,
    and the parent waits for a batch that never comes.  The other hands the tensors' files over; where a connection cannot
    be opened, Python prints why through sys.excepthook and tries at once again, which fails again.
    """
    count = 0

    def tell_and_end(error: BaseException, status: int) -> None:
        is_files = getattr(error, "errno", None) == errno.EMFILE or "Too many open files" in str(error)
        line = " ".join(str(error).split())[:400]
        os.write(
            2, f"a loader worker cannot hand over a batch: {type(error).__name__}: {line}\n".encode(errors="replace")
        )
        os._exit(OUT_OF_FILES if is_files else status)

    def hand_over_failed(kind, error, trace) -> None:
        nonlocal count
        count += 1
        if getattr(error, "errno", None) == errno.EMFILE or count >= PATIENCE_OF_HANDING_OVER:
            tell_and_end(error, CANNOT_HAND_OVER)

    sys.excepthook = hand_over_failed  # in a worker nothing else calls it: multiprocessing reports its errors itself
    write_failed = staticmethod(lambda error, batch: tell_and_end(error, CANNOT_HAND_OVER))
    multiprocessing.queues.Queue._on_queue_feeder_error = write_failed  # type: ignore[attr-defined]  # no type knows it


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


def allow_workers(num_workers: int, prefetch_factor: int) -> None:
    """Makes sure that so many workers, each with so many batches ahead, may have their files open.

    Raises:
        OpenFilesError: they may not, naming the limit and what to do.
    """
    if not num_workers:
        return
    here = num_workers * (WORKER_FILES + BATCH_FILES * prefetch_factor) + BATCH_FILES
    inside_a_worker = num_workers * WORKER_FILES + 2 * BATCH_FILES * (
        prefetch_factor + 1
    )  # once its own, once on its way
    purpose = f"loading by {num_workers} workers, {prefetch_factor} batches each,"
    allow_open_files(max(here, inside_a_worker), purpose, FEW_FILES)


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
        collate_fn: its batches have BATCH_FILES tensors at most.

    Raises:
        OpenFilesError: as `allow_workers`.
    """
    allow_workers(num_workers, prefetch_factor)
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
