"""All benchmarks, one after the other, and a page of their figures: `make benchmark`.

    python -m benchmarks.report [--output docs/performance.md] [--whole] [--only postprocess start]

Each program runs in its short mode, which takes a minute or two; `--whole` runs them as they are meant.  A figure that has a
limit stands in the table, beside what its program has measured of a peer in the same run; below it stands what the programs
printed.  A program that fails is named, with the end of what it said.  Peers that are not installed are named as well.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.figures import FILE
from public.files import REPOSITORY, write_text
from public.text import as_json

PROGRAMS: dict[str, list[str]] = {  # name: what makes it short
    "start": ["--short"],
    "postprocess": ["--short"],
    "annotations": ["--short"],
    "evaluation": ["--short"],
    "read_image": ["--most", "20", "--rounds", "3"],
    "data_pipeline": ["--pictures", "32", "--samples", "20"],
    "pipelines": ["--pictures", "16", "--samples", "400"],
    "train_step": ["--rounds", "3", "--warmup", "1"],
    "reduction": ["--rounds", "5"],
    "peers": ["--short"],
    "determinism": ["--rounds", "3"],
    "distilled_step": ["--rounds", "2"],
    "deformable": ["--rounds", "2"],
    "classification": ["--images", "1000", "--rounds", "1", "--workers", "0"],
}
PACKAGES = ("torch", "torchvision", "numpy", "opencv-python", "pycocotools")
PEERS = ("hotcoco", "faster-coco-eval", "timm", "ultralytics")


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def run(name: str, arguments: list[str], folder: Path) -> tuple[str, list[dict], float]:
    """What `benchmarks.<name>` printed, its figures, and the seconds it took."""
    figures = folder / f"{name}.jsonl"
    environment = os.environ | {FILE: str(figures), "OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}
    start = time.monotonic()
    command = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    text = done.stdout.strip()
    if done.returncode:
        text += f"\nended with status {done.returncode}: " + "\n".join(done.stderr.strip().splitlines()[-3:])
    rows = [json.loads(line) for line in figures.read_text().splitlines()] if figures.exists() else []
    return text, rows, time.monotonic() - start


def machine() -> str:
    """The CPU, and how busy it is: ratios hold on one kind of machine, seconds on an idle one."""
    cpuinfo = Path("/proc/cpuinfo")
    names = [
        line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
    ]
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return f"{(names or [platform.processor()])[0]}, {os.cpu_count()} cores, load {load}, Python {platform.python_version()}"


def page(results: dict[str, tuple[str, list[dict], float]], options: dict[str, list[str]], where: str) -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in (*PACKAGES, *PEERS) if version(name))
    missing = [name for name in PEERS if not version(name)]
    lines = [
        "# Performance",
        "",
        f"Written by `make benchmark` on {time.strftime('%Y-%m-%d')}; one thread.  {where}.",
        f"{packages}." + (f"  Not installed, and so not compared: {', '.join(missing)}." if missing else ""),
        "A ratio is of two programs that took turns.  What was measured at other times stands in [measured](measured.md).",
        "",
        "| what | measured | peer | wanted | benchmark |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, (_, rows, _) in results.items():
        for row in rows:
            wanted = row["limit"] + ("" if row["is_kept"] else ": **missed**")
            lines.append(f"| {row['what']} | {row['value']:.3g} {row['unit']} | {row['peer']} | {wanted} | {name} |")
    for name, (text, _, seconds) in results.items():
        command = " ".join(["python -m", f"benchmarks.{name}", *options[name]])
        lines += ["", f"## {name}", "", f"{command}, {seconds:.0f} s", "", "```text", text, "```"]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=REPOSITORY / "docs" / "performance.md")
    parser.add_argument("--whole", action="store_true", help="the programs as they are meant, which takes an hour")
    parser.add_argument("--only", nargs="+", choices=list(PROGRAMS), default=list(PROGRAMS), metavar="PROGRAM")
    arguments = parser.parse_args()
    where, results, options = machine(), {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.only:
            options[name] = [] if arguments.whole else PROGRAMS[name]
            print(f"{name} ...", flush=True)
            results[name] = run(name, options[name], Path(folder))
            print(results[name][0], flush=True)
            write_text(arguments.output, page(results, options, where))  # so that what is there stays, if it is stopped
    missed = [row["what"] for _, rows, _ in results.values() for row in rows if not row["is_kept"]]
    print(f"written to {arguments.output}" + (f"; missed: {as_json(missed)}" if missed else ""))


if __name__ == "__main__":
    main()
