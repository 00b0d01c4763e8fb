"""The tests marked `numeric` under other kinds of CPU than this one, which torch and oneDNN can be told to be.

A test, not a line of the Makefile: so it runs beside the others, is told in the same summary, and says why it is skipped.
"""

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = next(folder for folder in Path(__file__).resolve().parents if (folder / "pyproject.toml").exists())
KINDS = {  # what the variables are set to, and what torch and oneDNN then call themselves
    "sse": ({"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}, ("DEFAULT", "Intel SSE4.1")),
    "avx2": ({"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}, ("AVX2", "Intel AVX2")),
}
CHILD = "ENCORE_EXPECTED_CPU"  # what a child of the test has to find: the two names, one a line


def environment(variables: dict[str, str]) -> dict[str, str]:
    """That of a child, without what pytest and its workers leave for theirs."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    return ours | {"OMP_NUM_THREADS": "1"} | variables


SEEN: list[str] = []  # what oneDNN has called this CPU


def kind_of_cpu(capfd) -> tuple[str, str]:
    """What torch and oneDNN take the CPU for in this process; oneDNN says it once, when it first tells what it computes."""
    with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
        torch.nn.functional.conv2d(torch.randn(4, 16, 64, 64), torch.randn(32, 16, 3, 3))
    said = capfd.readouterr().out
    SEEN.extend(re.findall(r"info,cpu,isa:(.*)", said))
    assert SEEN, said
    return torch.backends.cpu.get_cpu_capability(), SEEN[0]


@pytest.fixture(scope="module")
def files() -> list[str]:
    """The files of tests with a `numeric` one: to collect all the others would take longer than to run these."""
    mark = "mark.numeric"
    found = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if mark in path.read_text(encoding="utf-8")]
    return [str(path.relative_to(ROOT)) for path in found]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_numeric_tests_pass_on_another_kind_of_cpu(kind, files, capfd):
    variables, expected = KINDS[kind]
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip(f"a {platform.machine()} cannot stand for a CPU with {expected[0]}")
    if kind == "avx2" and torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        pytest.skip("this CPU has no AVX2")
    native = kind_of_cpu(capfd)
    if native == expected:
        pytest.skip(f"this CPU is of this kind itself ({', '.join(native)}): the numeric tests run on it anyway")
    assert "tests/promises/test_other_cpus.py" in files
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-m", "numeric", "-p", "no:cacheprovider", *files],
        cwd=ROOT,
        env=environment(variables | {CHILD: "\n".join(expected)}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-4000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed, done.stdout[-4000:]
    assert int(passed[1]) > 30


@pytest.mark.numeric
def test_the_kind_of_cpu_is_the_one_that_is_asked_for(capfd):
    """In the processes of the test above it holds that test to its word."""
    if expected := os.environ.get(CHILD):
        assert kind_of_cpu(capfd) == tuple(expected.split("\n"))
