"""Starting processes in tests: a gloo group that runs a function on every rank, and single ones that may be killed.

The processes come from a fork server that has imported torch once, so starting one takes a fraction of a second and
inherits no threads, locks or generators of the test process.  Functions must stand at the top level of a test module.
"""

import multiprocessing
import os
import socket
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

CONTEXT = multiprocessing.get_context("forkserver")
PRELOAD = [  # what the fork server imports, once for all its processes
    "torch.distributed",
    "torch.utils.tensorboard",
    "matplotlib.pyplot",
    "pycocotools.cocoeval",
    "public.training.run",
    "torch._dynamo",  # seconds; the first optimizer of a process imports it
    "torchvision.ops",
    "public.families.ppyoloe",
]
GRACE = 5.0  # seconds that the others get to end by themselves after one has failed


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start_process(function: Callable, *args) -> multiprocessing.process.BaseProcess:
    """A started process that runs `function(*args)` with one torch thread and no process group."""
    CONTEXT.set_forkserver_preload(PRELOAD)
    process = CONTEXT.Process(target=_with_one_thread, args=(function, args), daemon=True)
    process.start()
    return process


def _with_one_thread(function: Callable, args: tuple) -> None:
    torch.set_num_threads(1)
    function(*args)


def run_processes(function: Callable, world_size: int, *args, timeout: float = 60.0) -> list:
    """What `function(*args)` returns on each of `world_size` gloo processes, by rank.

    Raises:
        AssertionError: a process failed, with the traceback of each that did, or `timeout` seconds passed.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        processes = [
            start_process(_run_rank, function, args, rank, world_size, folder, timeout) for rank in range(world_size)
        ]
        _wait(processes, time.monotonic() + timeout)
        errors = [file.read_text() for file in sorted(folder.glob("error*.txt"))]
        codes = [process.exitcode for process in processes]
        shown = f"exit codes {codes} by rank (-9: ended here, after a failure or {timeout:g} s)\n" + "\n".join(errors)
        assert codes == [0] * world_size, shown
        return [torch.load(folder / f"result{rank}.pth", weights_only=False) for rank in range(world_size)]


def _run_rank(function: Callable, args: tuple, rank: int, world_size: int, folder: Path, timeout: float) -> None:
    """One rank, with the environment that torchrun would give it; leaves its result or its error as a file."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
    os.environ.update({name: str(number) for name, number in numbers.items()})
    try:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{folder}/rendezvous",
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=timeout),
        )
        torch.save(function(*args), folder / f"result{rank}.pth")
        dist.destroy_process_group()
    except BaseException:
        (folder / f"error{rank}.txt").write_text(f"rank {rank}: {traceback.format_exc()}")
        os._exit(1)  # at once: the others may be waiting for this rank


def _wait(processes: list, deadline: float) -> None:
    """Waits for all to end; ends them where one has failed or the time is over."""
    while any(process.is_alive() for process in processes) and time.monotonic() < deadline:
        if any(process.exitcode for process in processes):
            deadline = min(deadline, time.monotonic() + GRACE)
        time.sleep(0.01)
    for process in processes:
        if process.is_alive():
            process.kill()
        process.join()
