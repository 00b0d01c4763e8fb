"""What a run's manifest says about the moment it was started: code, packages, machine, data."""

import contextlib
import importlib.metadata
import os
import platform
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import torch

from public.config import freeze
from public.experiment_files import file_hashes, library_hash
from public.files import REPOSITORY
from public.parallel import collectives
from public.runs.experiment import Experiment

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
ARITHMETIC_VARIABLES = (  # how the names of variables begin that choose kernels or their precision
    "ATEN_", "CUBLAS_", "CUBLASLT_", "CUDNN_", "DNNL_", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "NCCL_ALGO", "NCCL_PROTO",
    "NVIDIA_TF32_OVERRIDE", "ONEDNN_", "OPENCV_CPU_DISABLE", "OPENCV_IPP", "TORCHINDUCTOR_MAX_AUTOTUNE",
    "TORCH_ALLOW_TF32", "TORCH_CUDNN",
)  # fmt: skip


def identity(experiment: Experiment, data_fingerprint: dict[str, str], options) -> dict[str, Any]:
    """What must be equal for a run to go on, beside the settings: code, data, packages, options that cut a run short."""
    return {
        "library": library_hash(),
        "experiment": file_hashes(experiment.source),
        "data": data_fingerprint,
        "packages": {"python": platform.python_version()} | packages(),
        "limit_images": options.limit_images,
        "max_steps": options.max_steps,
    }


def code_change(old: dict, new: dict) -> dict[str, list[str | None]]:
    """The hashes of code that differ between two identities: "library" or "experiment/<file>" -> [old, new].

    Of the files that have come since, only Python's count, since others may import them.  What else lies in the folder by
    now (tables and notes, what a tool wrote) is not read by code that is as it was.
    """
    change = {} if old["library"] == new["library"] else {"library": [old["library"], new["library"]]}
    before, now = old.get("experiment", {}), new.get("experiment", {})
    if isinstance(before, str):  # recorded by an older version of this library: one hash for all files
        return change | {"experiment": [before, "a hash for each file"]}
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name) and (name in before or name.endswith(".py")):
            change[f"experiment/{name}"] = [before.get(name), now.get(name)]
    return change


def new_manifest(experiment: Experiment, identity_: dict, parsed) -> dict[str, Any]:
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


def start_record(device: torch.device, config, step: int) -> dict[str, Any]:
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
        "environment": environment(),
    }


def machine_change(old: dict, new: dict) -> list[str]:
    """A line for the log where two starts of a run differ in something of the machine that decides bits; else none."""
    names = [name for name in ("device", "cpu", "driver") if old[name] != new[name]]
    if old["device"] == old["cpu"] and new["device"] == new["cpu"]:  # the CPU is what computes: named once
        names = [name for name in names if name != "device"]
    changes = [f"{name} was {old[name]}, now {new[name]}" for name in names]
    before, now = old.get("environment", {}), new["environment"]  # older versions recorded none
    changes += [
        f"the variable {name} was {before.get(name, 'not set')}, now {now.get(name, 'not set')}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    return [f"{'; '.join(changes)}: weights equal to those of an undisturbed run to rounding only"] if changes else []


def environment() -> dict[str, str]:
    """The variables that are set and choose between ways to compute, on which the bits of a run may depend."""
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith(ARITHMETIC_VARIABLES)}


def gpu_libraries(device: torch.device) -> dict[str, Any] | None:
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
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def git_state() -> dict[str, Any]:
    """The commit of the repository and what is not committed; None where there is no git.

    `untracked` holds the text of each file of the library that git does not know yet, which no diff shows.

    `git apply` takes the diff as it is, unless a changed file is not in UTF-8: its other bytes stand as \\xe9.
    """
    with _copied_index() as variables:
        diff = _git("diff", "--no-color", "--no-ext-diff", "--src-prefix=a/", "--dst-prefix=b/", "HEAD", **variables)
        status = _git("status", "--porcelain", **variables)
    names = (_git("ls-files", "--others", "--exclude-standard", "-z", "--", "public/*.py") or "").split("\0")
    untracked = {
        name: (REPOSITORY / name).read_text(encoding="utf-8", errors="backslashreplace") for name in names if name
    }
    commit = (_git("rev-parse", "HEAD") or "").strip() or None
    return {"commit": commit, "diff": diff, "status": status, "untracked": untracked}


@contextlib.contextmanager
def _copied_index() -> Iterator[dict[str, str]]:
    """The variables by which git works on a copy of the repository's index.

    `git diff` and `git status` renew it where a file's time is another, under a lock that a killed run would leave behind.
    """
    place = (_git("rev-parse", "--git-path", "index") or "").strip()
    with tempfile.TemporaryDirectory() as folder:
        try:
            copy = shutil.copy2(REPOSITORY / place, folder) if place else None
        except OSError:  # nothing was ever added
            copy = None
        yield {"GIT_INDEX_FILE": copy} if copy else {}


def _git(*arguments: str, **variables: str) -> str | None:
    command = ["git", "--no-optional-locks", "-C", str(REPOSITORY), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=20, env=os.environ | variables)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="backslashreplace") if done.returncode == 0 else None
