"""What a run's manifest says about the moment it was started: code, packages, machine, data."""

import importlib.metadata
import os
import platform
import shlex
import socket
import subprocess
import sys
import time

import torch

from public import collectives
from public.config import freeze
from public.experiment import REPOSITORY, Experiment, experiment_files, hash_files, library_hash

PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "opencv-python",
    "opencv-python-headless",
    "pycocotools",
    "tqdm",
    "matplotlib",
)


CODE = ("library", "experiment")  # the entries of an identity that --allow_code_change lets differ


def identity(experiment: Experiment, data_fingerprint: dict[str, str], options) -> dict[str, object]:
    """What must be equal for a run to go on, beside the settings: code, data, packages, options that cut a run short."""
    source = experiment.run / "experiment" if experiment.run else experiment.folder
    return {
        "library": library_hash(),
        "experiment": hash_files(experiment_files(source), source),
        "data": data_fingerprint,
        "packages": {"python": platform.python_version()} | packages(),
        "limit_images": options.limit_images,
        "max_steps": options.max_steps,
    }


def code_change(old: dict, new: dict) -> dict[str, list[str]]:
    """The hashes of code that differ between two identities: name -> [old, new]."""
    return {name: [old.get(name), new[name]] for name in CODE if old.get(name) != new[name]}


def new_manifest(experiment: Experiment, identity_: dict, parsed) -> dict[str, object]:
    """The manifest of a run that starts now; `parsed` is its command line."""
    return {
        "experiment": experiment.name,
        "seed": parsed.config.seed,
        "config": freeze(parsed.config),
        "overrides": {name: [freeze(value) for value in pair] for name, pair in parsed.overrides.items()},
        "identity": identity_,
        "git": git_state(),
        "starts": [],
        "finished": None,
    }


def start_record(device: torch.device, config, step: int) -> dict[str, object]:
    """One start or resume of a run: when, where, by which command, from which step."""
    return {
        "time": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "step": step,
        "command": shlex.join(sys.orig_argv),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "processes": collectives.world_size(),
        "device": device_name(device),
        "cpu": device_name(torch.device("cpu")),
        "driver": gpu_libraries(device),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "packages": packages(),
        "system": platform.platform(),
    }


def gpu_libraries(device: torch.device) -> dict[str, object] | None:
    """Versions of CUDA and cuDNN, on which the bits of a GPU run depend; None on a CPU."""
    if device.type != "cuda":
        return None
    return {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}


def packages() -> dict[str, str]:
    """Versions of the packages that compute or read data, of those that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def device_name(device: torch.device) -> str:
    """The GPU's name, or the CPU's model as the system gives it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def git_state() -> dict[str, str | None]:
    """The commit of the repository and what is not committed; None where there is no git."""
    return {"commit": _git("rev-parse", "HEAD"), "diff": _git("diff", "HEAD"), "status": _git("status", "--porcelain")}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(REPOSITORY), *arguments], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
