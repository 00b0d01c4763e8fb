"""What starting costs, in CPU time: `import public`, `python train.py --help`, and the first step at epoch 299 of 300.

    python -m benchmarks.start [--rounds 5] [--short]

Each program is a process of its own, in turns with an interpreter that does nothing and one that imports torch; medians of
the children's CPU time.  The first step is the sampler's, over COCO's 118,287 images, as in a run that is resumed.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.figures import figure
from public.files import REPOSITORY

PAGE = REPOSITORY / "detection_experiments" / "ppyoloe_s_coco"
PROGRAMS = {
    "nothing": [sys.executable, "-c", "pass"],
    "import torch": [sys.executable, "-c", "import torch"],
    "import public": [sys.executable, "-c", "import public"],
    "train.py --help": [sys.executable, "train.py", "--help"],
}
NUM_IMAGES, BATCH, EPOCHS = 118_287, 64, 300


def seconds_of(command: list[str], folder: Path) -> float:
    """CPU time of the process."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    before = os.times()
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def first_step() -> float:
    """CPU seconds until the sampler has the first batch of the last epoch."""
    from public.loading.samplers import TrainBatches

    steps = NUM_IMAGES // BATCH
    start = time.process_time()
    next(
        iter(
            TrainBatches(
                num_images=NUM_IMAGES,
                batch_size=BATCH,
                seed=0,
                first_step=(EPOCHS - 1) * steps,
                num_steps=EPOCHS * steps,
                rank=0,
                world_size=1,
            )
        )
    )
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--short", action="store_true", help="one round")
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for _ in range(1 if options.short else options.rounds):
        for name, command in PROGRAMS.items():
            seconds[name].append(seconds_of(command, PAGE))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(", ".join(f"{name} {median:.2f} s" for name, median in medians.items()))
    figure("import public", medians["import public"], "s of CPU", most=0.3)
    figure("python train.py --help", medians["train.py --help"], "s of CPU", most=1.5)
    figure("python train.py --help", medians["train.py --help"] / medians["import torch"], "times", peer="import torch")
    figure("the sampler's first batch at epoch 299 of 300", first_step(), "s of CPU", most=2)


if __name__ == "__main__":
    main()
