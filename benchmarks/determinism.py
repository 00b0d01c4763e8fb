"""What determinism costs: training steps with `deterministic` on against off, in turns in one process.

    python -m benchmarks.determinism                                          # ppyoloe_xs at 128 px on the CPU
    python -m benchmarks.determinism --model ppyoloe_s --size 640 --batch 32 --device cuda

On, torch may take deterministic algorithms only; each step's losses go into the run's chain of digests, and every
`--digest_interval` steps the weights are hashed.  A step is that of `benchmarks.train_step` in bf16, channels-last.
"""

import argparse
import os
import statistics
import time

import torch

from benchmarks.train_step import Step
from public.checkpoint_files import digest
from public.runs import chain

MODE = "bf16 channels-last"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ppyoloe_xs")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--objects", type=int, default=5, help="of an image (%(default)s)")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--digest_interval", type=int, default=100)
    arguments = parser.parse_args()
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.set_num_threads(1)
    torch.backends.cudnn.benchmark = False
    steps = {True: Step(arguments, MODE), False: Step(arguments, MODE)}
    times: dict[bool, list[float]] = {True: [], False: []}
    for number in range(arguments.rounds + 3):
        for deterministic, step in steps.items():  # in turns: A B A B ...
            torch.use_deterministic_algorithms(deterministic)
            torch.utils.deterministic.fill_uninitialized_memory = False
            seconds = step.seconds()
            if number >= 3:
                times[deterministic].append(seconds)
    on, off = (statistics.median(times[value]) for value in (True, False))
    start = time.perf_counter()
    chain.extended("", 1, 0.1, {"loss_cls": 1.0, "loss_iou": 1.0, "loss_dfl": 1.0})
    link = time.perf_counter() - start
    start = time.perf_counter()
    digest(steps[True].model.state_dict())
    weights = time.perf_counter() - start
    print(f"{arguments.model}, {arguments.size} px, batch {arguments.batch}, {arguments.device}, one thread, {MODE}")
    print(
        f"deterministic algorithms: {on / off:.3f} times the step without ({1e3 * on:.1f} against {1e3 * off:.1f} ms)"
    )
    share = (link + weights / arguments.digest_interval) / on
    print(
        f"digests: {1e6 * link:.0f} us a step for the chain, {1e3 * weights:.1f} ms for the weights every "
        f"{arguments.digest_interval} steps: {100 * share:.2f} % of a step"
    )


if __name__ == "__main__":
    main()
