"""CI's first line: the CPU and its instruction sets, by the system's own Python."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = next(folder for folder in Path(__file__).resolve().parents if (folder / "pyproject.toml").exists())


@pytest.fixture(scope="module")
def cpu():
    spec = importlib.util.spec_from_file_location("cpu", ROOT / ".ci/cpu.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_epyc_without_avx512_on_linux(cpu):
    text = "processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: fpu avx avx2 f16c fma sse4_1\nbogomips\t: 4890.80\n"
    line = cpu.describe("x86_64", 2, *cpu.from_cpuinfo(text))
    assert line == "CPU: AMD EPYC, 2 cores; avx2 fma f16c; no avx512f, avx512_bf16, amx_bf16"


def test_an_arm_server_on_linux(cpu):
    text = "processor\t: 0\nBogoMIPS\t: 243.75\nFeatures\t: fp asimd fphp bf16 i8mm\nCPU part\t: 0xd40\n"
    assert cpu.describe("aarch64", 4, *cpu.from_cpuinfo(text)) == "CPU: aarch64, 4 cores; asimd fphp bf16 i8mm; no sve"


def test_macs(cpu):
    intel = (
        "machdep.cpu.brand_string: Intel(R) Core(TM) i7\n"
        "machdep.cpu.features: FPU SSE4.1 FMA F16C AVX1.0\nmachdep.cpu.leaf7_features: RDWRFSGS AVX2 BMI2\n"
    )
    line = cpu.describe("x86_64", 8, *cpu.from_sysctl(intel))
    assert line == "CPU: Intel(R) Core(TM) i7, 8 cores; avx2 fma f16c; no avx512f, avx512_bf16, amx_bf16"
    apple = (
        "machdep.cpu.brand_string: Apple M2\nhw.optional.AdvSIMD: 1\nhw.optional.arm.FEAT_FP16: 1\n"
        "hw.optional.arm.FEAT_BF16: 1\nhw.optional.arm.FEAT_I8MM: 0\nhw.ncpu: 8\n"
    )
    line = cpu.describe("arm64", 8, *cpu.from_sysctl(apple))
    assert line == "CPU: Apple M2, 8 cores; asimd fphp bf16; no i8mm, sve"


def test_an_unknown_system(cpu):
    assert cpu.describe("riscv64", 4, "", set()) == "CPU: riscv64, 4 cores; instruction sets unknown"


def test_this_machine_before_anything_else():
    """As CI calls it: isolated, so with no package; and in CI nothing comes before it."""
    done = subprocess.run([sys.executable, "-I", "-S", ROOT / ".ci/cpu.py"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("CPU: ")
    assert done.stdout.count("\n") == 1
    commands = [line for line in (ROOT / ".ci/run").read_text().splitlines() if not line.startswith(("#", "set", "cd"))]
    assert (commands[0], commands[-1]) == ('"${SYSTEM_PYTHON:-python3}" .ci/cpu.py', "make test")
