"""Prints the CPU's name, its cores and which of the instruction sets it has that decide how torch rounds and how fast it is.

    python3 .ci/cpu.py      # CPU: AMD EPYC, 2 cores; avx2 fma f16c; no avx512f, avx512_bf16, amx_bf16

On Linux from /proc/cpuinfo, on macOS from sysctl; where neither is there, only what Python itself knows.
"""

from __future__ import annotations  # an older Python, too, gets as far as the message of `make setup`

import os
import platform
import subprocess
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
SETS = {
    "x86": ("avx2", "fma", "f16c", "avx512f", "avx512_bf16", "amx_bf16"),
    "arm": ("asimd", "fphp", "bf16", "i8mm", "sve"),
}
MACOS_NAMES = {"AdvSIMD": "asimd", "FEAT_FP16": "fphp", "FEAT_BF16": "bf16", "FEAT_I8MM": "i8mm", "FEAT_SVE": "sve"}


def from_cpuinfo(text: str) -> tuple[str, set[str]]:
    """The name and the features in a /proc/cpuinfo; on ARM it has no name."""
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    return fields.get("model name", ""), set(fields.get("flags", fields.get("Features", "")).split())


def from_sysctl(text: str) -> tuple[str, set[str]]:
    """The name and the features in the output of `sysctl -a`."""
    fields = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
    features = " ".join(fields.get(f"machdep.cpu.{part}", "") for part in ("features", "leaf7_features")).lower()
    arm = {
        MACOS_NAMES[key.rsplit(".", 1)[-1]]
        for key, value in fields.items()
        if key.startswith("hw.optional.") and value.strip() == "1" and key.rsplit(".", 1)[-1] in MACOS_NAMES
    }
    return fields.get("machdep.cpu.brand_string", "").strip(), set(features.split()) | arm


def describe(machine: str, cores: int | None, name: str, features: set[str]) -> str:
    sets = SETS["arm" if machine.lower() in ("arm64", "aarch64") else "x86"]
    has, lacks = ([one for one in sets if (one in features) == wanted] for wanted in (True, False))
    if not features:
        return f"CPU: {name or machine}, {cores} cores; instruction sets unknown"
    missing = f"; no {', '.join(lacks)}" if lacks else ""
    return f"CPU: {name or machine}, {cores} cores; {' '.join(has) or 'none of the looked-for sets'}{missing}"


def main() -> None:
    name, features = platform.processor(), set()
    if CPUINFO.exists():
        name, features = from_cpuinfo(CPUINFO.read_text())
    elif platform.system() == "Darwin":
        done = subprocess.run(["/usr/sbin/sysctl", "-a"], capture_output=True, text=True, check=False)
        name, features = from_sysctl(done.stdout)
    print(describe(platform.machine(), os.cpu_count(), name, features), flush=True)


if __name__ == "__main__":
    main()
