"""Where a run computes: its processes, its device, its threads and the modes that decide bits."""

import os
from contextlib import contextmanager
from datetime import timedelta

import cv2
import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from public.config import TrainingConfig
from public.parallel.collectives import local_rank, local_world_size

COLLECTIVE_TIMEOUT = timedelta(minutes=30)  # an evaluation on rank 0 may take so long while the others wait


def choose_device(name: str) -> torch.device:
    """The device of this process: `auto` takes the GPU of this process's local rank where there is one.

    Raises:
        ValueError: the device is not there, naming what is.
    """
    num_gpus = torch.cuda.device_count()
    if name == "auto":
        name = "cuda" if num_gpus else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"--device {name} is not a device: auto, cpu, cuda, cuda:1") from error
    if device.type == "cuda":
        index = local_rank() if device.index is None else device.index
        if index >= num_gpus:
            raise ValueError(
                f"device cuda:{index} was asked for, but this machine shows {num_gpus} GPUs; --device cpu works"
            )
        return torch.device("cuda", index)
    return device


def check_launcher() -> None:
    """Raises ValueError where a number of processes is set, but not all that a launcher would set with it."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ValueError(
            f"the environment says WORLD_SIZE={os.environ['WORLD_SIZE']} but not {', '.join(missing)}: start several "
            "processes by torchrun, or take WORLD_SIZE out of the environment"
        )


@contextmanager
def process_group(device: torch.device):
    """Joins the processes that torchrun or torch.distributed.launch started; alone, does nothing.

    After a restart (torchrun --max_restarts) the launcher's store still holds the addresses of the processes that died, so
    each attempt has names of its own in it.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    store, rank, world_size = next(rendezvous("env://", timeout=COLLECTIVE_TIMEOUT))
    store = dist.PrefixStore(f"attempt_{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=COLLECTIVE_TIMEOUT)
    try:
        yield
    finally:
        dist.destroy_process_group()


def apply_modes(config: TrainingConfig, device: torch.device) -> None:
    """Sets what the configuration says about threads, TF32, matmul precision and determinism.

    Always, because plain python, torchrun with one process and torchrun with two start with different thread counts.
    """
    torch.set_flush_denormal(True)  # before any thread starts, which inherits it: numbers below 1e-38 cost a CPU dearly
    torch.set_num_threads(config.threads)
    cv2.setNumThreads(config.threads)  # for loading without workers
    torch.set_float32_matmul_precision(config.matmul_precision)
    torch.backends.cudnn.allow_tf32 = config.tf32
    torch.backends.cudnn.benchmark = False
    if config.deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.use_deterministic_algorithms(config.deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # nothing here reads such memory; filling it costs 6 %
    if device.type == "cuda":
        torch.cuda.set_device(device)


def worker_count(config: TrainingConfig) -> tuple[int, str | None]:
    """Loader workers of this process, and a line for the log where the machine is asked for more than it has.

    Without a number in the configuration: the cores of this process's share that the compute threads leave.
    """
    cores = max(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 1)
    share = max(cores // local_world_size(), 1)
    if config.num_workers is None:
        return max(min(share - config.threads, 8), 0), None
    if config.threads + config.num_workers > share:
        return config.num_workers, (
            f"{config.threads} compute threads and {config.num_workers} workers on {share} cores of this process: "
            "this can be a hundred times slower than threads + workers <= cores"
        )
    return config.num_workers, None
