"""The demo: draws a small data set, trains a detector on it, evaluates it and finds the objects of one picture.

`make demo` is this after the installation.  Each part is a command that can be typed alone; it is printed before it runs.
All run in one process, whose imports would otherwise be made four times.
"""

import contextlib
import os
import runpy
import shlex
import sys
import threading
import time
from pathlib import Path

from public import commands
from public.files import REPOSITORY
from public.runs.metrics import read_metrics

EXPERIMENT = "detection_experiments/ppyoloe_xs_shapes"
PICTURE = "data/shapes/JPEGImages/val_000000.jpg"
FOUND = f"{EXPERIMENT}/runs/detected.jpg"
PARTS = (  # what it is for, the share of the demo's time, the command
    ("draws 2,400 pictures of six shapes", 0.04, "python -m public.datasets.shapes"),
    ("trains a detector on 2,000 of them, from scratch", 0.91, f"python {EXPERIMENT}/train.py"),
    ("evaluates its best weights on the other 400", 0.04, f"{EXPERIMENT}/test.sh"),
    (
        "finds the shapes of one picture",
        0.01,
        f"public/test_scripts/detect_single_image.sh {EXPERIMENT} {PICTURE} --output {FOUND}",
    ),
)
SPEED = 82.0  # images a second of the first epochs, at 96 pixels, on an AMD EPYC with nothing beside it
SLOW = 0.7  # of that speed
PATIENCE = 1.0  # seconds between two looks at the log of the training


def main() -> None:
    commands.make_parser("demo", __doc__, experiment=None).parse_args()
    begin = time.monotonic()
    os.chdir(REPOSITORY)
    for number, (purpose, share, command) in enumerate(PARTS, 1):
        rest = sum(part[1] for part in PARTS[number:])
        print(f"\n[{number}/{len(PARTS)}] {purpose}: about {share:.0%} of the time, {rest:.0%} are left after it")
        print(f"$ {command}", flush=True)
        _run(command)
    seconds = round(time.monotonic() - begin)
    print(
        f"\nThe demo is done, in {seconds // 60} min {seconds % 60} s.  In {EXPERIMENT}/runs/: the newest folder is its run,"
    )
    print("  curves.png     losses, learning rate and AP")
    print("  pictures/      training batches as the network saw them, predictions beside ground truth")
    print(f"  best.pth       the weights;  {FOUND} is the picture just detected")


def _run(command: str) -> None:
    """What a shell would run for `command`, in this process."""
    program, *words = [word for word in shlex.split(command) if word not in ("python", "-m")]
    if program.endswith("/test.sh"):
        program, words = "public.test_scripts.evaluate", [str(Path(program).parent), *words]
    elif program.endswith(".sh"):
        program = program.removesuffix(".sh").replace("/", ".")
    before, sys.argv = sys.argv, [program, *words]
    try:
        if program.endswith("train.py"):
            threading.Thread(target=_watch, args=(Path(program).parent / "runs",), daemon=True).start()
            runpy.run_path(program, run_name="__main__")
        else:
            runpy.run_module(program, run_name="__main__")
    finally:
        sys.argv = before


def _watch(runs: Path) -> None:
    """Waits for the second line of the training that begins now, in a new run or one that goes on, and says if it is slow."""
    with contextlib.suppress(OSError, ValueError):  # a log that vanishes or is broken: the training itself says more
        before = _speeds(runs)
        while True:
            time.sleep(PATIENCE)
            for log, speeds in _speeds(runs).items():
                new = speeds[len(before.get(log, ())) :]
                if len(new) > 1:
                    if said := slow(new[1]):
                        print(said, flush=True)
                    return


def _speeds(runs: Path) -> dict[Path, list[float]]:
    """The images a second of each line of training, by log."""
    return {log: [line["images_per_second"] for line in read_metrics(log)[0]] for log in runs.glob("*/metrics.jsonl")}


def slow(speed: float) -> str | None:
    """What to say of a training at `speed` images a second; None where that is as expected."""
    if speed > SLOW * SPEED:
        return None
    return (
        f"this machine is slow, or busy: it trains {speed:.0f} images a second, that of the card {SPEED:.0f}; the demo takes "
        f"about {SPEED / speed:.1f} times as long as the card says"
    )


if __name__ == "__main__":
    main()
