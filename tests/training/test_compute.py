"""Where and how a run computes: device, workers, modes, precision."""

import os

import pytest
import torch
from torch import nn

from public.config import replace
from public.parallel import collectives, processes
from public.parallel.processes import apply_modes, choose_device, process_group, worker_count
from public.precision import X86_INSTRUCTIONS, autocast, place, slow_on
from tests.helpers.processes import CONTEXT, run_processes, start_process

CPU = torch.device("cpu")


@pytest.fixture
def gpus(monkeypatch):
    """Sets the number of GPUs that torch finds, and this process's local rank."""

    def set_them(count: int, local_rank: int) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setenv("LOCAL_RANK", str(local_rank))

    return set_them


def test_auto_takes_the_gpu_of_the_local_rank_where_there_is_one(gpus):
    gpus(0, 0)
    assert choose_device("auto") == CPU
    gpus(2, 0)
    assert choose_device("auto") == torch.device("cuda", 0)
    gpus(2, 1)
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda", 1)
    assert choose_device("cuda:0") == torch.device("cuda", 0)
    assert choose_device("cpu") == CPU


@pytest.mark.parametrize(("name", "count", "local_rank"), [("cuda", 0, 0), ("cuda:2", 2, 0), ("auto", 2, 2)])
def test_a_gpu_that_is_not_there_is_an_error_that_says_what_is(gpus, name, count, local_rank):
    gpus(count, local_rank)
    with pytest.raises(ValueError, match=rf"cuda:{2 if count else 0} .* shows {count} GPUs"):
        choose_device(name)


def test_a_device_that_is_none_is_named():
    with pytest.raises(ValueError, match="--device gpu is not a device"):
        choose_device("gpu")


def test_a_number_of_processes_without_a_launcher_is_named(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    processes.check_launcher()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ValueError, match=r"WORLD_SIZE=2 but not LOCAL_RANK, MASTER_ADDR, MASTER_PORT: .*torchrun"):
        processes.check_launcher()


@pytest.mark.parametrize(
    ("cores", "processes_here", "threads", "asked", "workers", "is_warned"),
    [
        (8, 1, 1, None, 7, False),
        (8, 1, 3, None, 5, False),
        (64, 1, 1, None, 8, False),
        (2, 1, 1, None, 1, False),
        (1, 1, 1, None, 0, False),
        (8, 4, 1, None, 1, False),
        (8, 4, 2, None, 0, False),
        (2, 4, 1, None, 0, False),
        (8, 1, 1, 7, 7, False),
        (8, 1, 1, 8, 8, True),
        (8, 1, 1, 0, 0, False),
        (8, 4, 1, 2, 2, True),
    ],
)
def test_workers_take_the_cores_that_threads_leave(
    config, monkeypatch, cores, processes_here, threads, asked, workers, is_warned
):
    monkeypatch.setattr(processes.os, "sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes_here))
    count, note = worker_count(replace(config, threads=threads, num_workers=asked))
    assert count == workers
    assert (note is not None) == is_warned


class Settings:
    """The part of a configuration that `apply_modes` reads; unlike an experiment's it can be sent to a process."""

    def __init__(self, *, threads: int, matmul_precision: str, tf32: bool, deterministic: bool) -> None:
        self.threads, self.matmul_precision = threads, matmul_precision
        self.tf32, self.deterministic = tf32, deterministic


SETTINGS = [
    Settings(threads=2, matmul_precision="medium", tf32=True, deterministic=False),
    Settings(threads=1, matmul_precision="highest", tf32=False, deterministic=False),
    Settings(threads=3, matmul_precision="high", tf32=True, deterministic=True),
]


def modes_after(answer) -> None:
    """Sends the modes of a new process after each of SETTINGS was applied."""
    torch.backends.cudnn.benchmark = True
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)  # of a test before this one that trained in its own process
    for settings in SETTINGS:
        apply_modes(settings, CPU)
        modes = vars(settings) | {
            "threads": torch.get_num_threads(),
            "matmul_precision": torch.get_float32_matmul_precision(),
            "tf32": torch.backends.cudnn.allow_tf32,
            "deterministic": torch.are_deterministic_algorithms_enabled(),
        }
        answer.send((modes, torch.backends.cudnn.benchmark, os.environ.get("CUBLAS_WORKSPACE_CONFIG")))


def test_the_modes_are_those_of_the_configuration(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    question, answer = CONTEXT.Pipe(duplex=False)
    process = start_process(modes_after, answer)
    for settings in SETTINGS:
        assert question.poll(60)
        modes, benchmark, cublas = question.recv()
        assert modes == vars(settings)
        assert benchmark is False
        assert cublas == (":4096:8" if settings.deterministic else None)
    process.join(60)


def test_one_process_needs_no_group(monkeypatch):
    for value in (None, "1"):
        monkeypatch.delenv("WORLD_SIZE", raising=False)
        if value is not None:
            monkeypatch.setenv("WORLD_SIZE", value)
        with process_group(CPU):
            assert not torch.distributed.is_initialized()


def fail_on_rank_1() -> None:
    if collectives.rank() == 1:
        raise ValueError("a made-up mistake")
    collectives.barrier()


def test_a_rank_that_fails_in_a_test_is_shown_and_ends_the_others():
    """Of tests/helpers/processes.py: a test of several processes neither hangs nor passes when one of them fails."""
    with pytest.raises(AssertionError, match=r"rank 1: (.|\n)*ValueError: a made-up mistake"):
        run_processes(fail_on_rank_1, 2)


@pytest.mark.parametrize(
    ("precision", "dtype"), [("float32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_autocast_follows_the_precision(config, precision, dtype):
    layer, x = nn.Linear(4, 4), torch.ones(2, 4)
    with autocast(precision, CPU):
        assert layer(x).dtype == dtype
    assert layer(x).dtype == torch.float32


@pytest.mark.parametrize("channels_last", [True, False])
def test_the_model_is_placed_in_its_memory_format(config, channels_last):
    model = nn.Conv2d(3, 4, 3)
    assert place(model, CPU, channels_last=channels_last) is model
    assert model.weight.is_contiguous(memory_format=torch.channels_last) == channels_last


# ---------------------------------------------------------------------------------------------- emulated precisions


@pytest.mark.parametrize(
    ("precision", "instructions", "is_slow"),
    [
        ("float32", (), False),
        ("bf16", (), True),
        ("bf16", ("avx512_fp16", "avx512_f"), True),
        ("bf16", ("avx512_bf16",), False),
        ("bf16", ("amx_bf16",), False),
        ("fp16", ("avx512_bf16", "amx_bf16"), True),
        ("fp16", ("amx_fp16",), False),
    ],
)
def test_a_precision_that_the_cpu_emulates_is_named(monkeypatch, precision, instructions, is_slow):
    known = dict.fromkeys(instructions, True) | {"architecture": "x86_64", "cpu_name": "Some CPU"}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known)
    line = slow_on(precision, torch.device("cpu"))
    assert (line is not None) == is_slow
    if is_slow:
        assert f"cpu (Some CPU) has no instructions for {precision}" in line
        assert "--precision float32" in line


def test_the_instructions_are_those_that_torch_names():
    """A name that torch does not know would say of every CPU that it emulates."""
    if torch.cpu.get_capabilities()["architecture"] != "x86_64":
        pytest.skip("torch names the instructions of x86 only there")
    assert {name for names in X86_INSTRUCTIONS.values() for name in names} <= torch.cpu.get_capabilities().keys()
