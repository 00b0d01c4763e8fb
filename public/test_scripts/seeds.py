"""Trains an experiment with several seeds, and says how far its results lie apart.

    python -m public.test_scripts.seeds detection_experiments/ppyoloe_xs_shapes -n 5
    python -m public.test_scripts.seeds cifar100_experiments/resnet18_mini -n 3 --epochs 4 --data_root DATA

Each training is `python train.py --seed S` and can be repeated exactly; flags that this command does not know are handed to
it.  Stopped or killed, the same command goes on: finished runs of the same settings, code, packages and limits count, an
unfinished one is resumed.  Printed are the best values, mean, standard deviation (of the sample) and the smallest difference
that the page can tell apart: that of the means of two pages with as many seeds and this spread, which equal pages exceed in
one of twenty comparisons (Student's t).  seeds.json in the experiment's folder keeps them, and `compare` shows them.
"""

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import fields

from public import command_line, commands
from public.config import differences
from public.experiment_files import file_hashes, library_hash
from public.runs.experiment import Experiment, load_experiment
from public.runs.manifest import code_change, packages
from public.runs.run_folder import RunFolder
from public.runs.seed_spread import CONFIDENCE, Spread, write_spread

OWN = ("--seed", "--resume", "--extend_epochs", "--allow_code_change")  # flags that this command decides


def main() -> None:
    parser = commands.make_parser("seeds", __doc__)
    parser.add_argument("-n", "--number", type=int, default=5, help="how many seeds (5)")
    parser.add_argument("--first_seed", type=int, default=0, help="the first of them; they follow one another (0)")
    parser.add_argument("--processes", type=int, help="of each training, by torchrun (one, without it)")
    arguments, flags = parser.parse_known_args()
    commands.call(lambda known: seeds(known, flags), arguments)


def seeds(arguments: argparse.Namespace, flags: Sequence[str]) -> Spread:
    """Trains what is not trained yet, prints the spread and keeps it.

    Raises:
        ValueError: fewer than two seeds, a run instead of an experiment, or a flag that this command decides itself.
        SystemExit: a training failed or was stopped, with its status.
    """
    experiment = load_experiment(arguments.experiment)
    _check(experiment, arguments, flags)
    numbers = range(arguments.first_seed, arguments.first_seed + arguments.number)
    runs = {}
    for seed in numbers:
        run = finished_run(experiment, seed, flags)
        if run is None:
            print(f"seed {seed}: training", flush=True)
            _train(experiment, seed, flags, arguments.processes)
            run = finished_run(experiment, seed, flags)
        if run is None:
            raise ValueError(f"the training with seed {seed} ended, but {experiment.runs} has no finished run of it")
        runs[seed] = run
        print(f"seed {seed}: {experiment.config.best_metric} {_best(run)}  ({run.path.name})", flush=True)
    _check_same_data(runs)
    spread = Spread(
        metric=experiment.config.best_metric,
        seeds=tuple(numbers),
        runs=tuple(run.path.name for run in runs.values()),
        values=tuple(_best(run) for run in runs.values()),
    )
    started, finished = next(iter(runs.values())).manifest, [run.manifest["finished"] for run in runs.values()]
    path = write_spread(
        experiment.folder,
        recipe_flags(experiment, flags),
        spread,
        library=started["identity"]["library"],
        commit=started["git"]["commit"],
        digests=[end["digests"] for end in finished],
        time=time.strftime("%Y-%m-%d %H:%M:%S %z"),
    )
    print(f"mean {spread.mean:.6f}, standard deviation {spread.std:.6f}, {len(spread.values)} seeds")
    print(
        f"the smallest difference that the page can tell apart, with as many seeds on the other side: "
        f"{spread.smallest_difference:.6f} ({CONFIDENCE:.0%})"
    )
    print(f"written to {path}")
    return spread


def _check(experiment: Experiment, arguments: argparse.Namespace, flags: Sequence[str]) -> None:
    if experiment.run is not None:
        raise ValueError(f"{arguments.experiment} is a run; name its experiment, {experiment.folder}")
    if arguments.number < 2:
        raise ValueError(f"-n is {arguments.number}; a spread needs at least 2 seeds")
    if arguments.processes is not None and arguments.processes < 1:
        raise ValueError(f"--processes is {arguments.processes}; it must be at least 1")
    for flag in flags:
        if flag.split("=")[0].replace("-", "_").replace("__", "--", 1) in OWN:
            raise ValueError(f"{flag.split('=')[0]}: this command decides it itself; --first_seed names the first seed")
    command_line.parse(experiment.config, "", flags)  # an unknown one ends the program here


def recipe_flags(experiment: Experiment, flags: Sequence[str]) -> list[str]:
    """Those of `flags` that decide a result, as they would be typed: no device and no folder of data."""
    parsed = command_line.parse(experiment.config, "", flags)
    free = {field.name for field in fields(parsed.config) if field.metadata.get("free")}
    values = {name: new for name, (_, new) in parsed.overrides.items() if name not in free}
    values |= {name: getattr(parsed.options, name) for name in ("limit_images", "max_steps")}
    return [f"--{name} {value}" for name, value in values.items() if value is not None]


def finished_run(experiment: Experiment, seed: int, flags: Sequence[str]) -> RunFolder | None:
    """The newest finished run of the experiment with this seed and these flags, by the present code and packages."""
    parsed = command_line.parse(experiment.config, "", [*flags, "--seed", str(seed)])
    own = {"library": library_hash(), "experiment": file_hashes(experiment.source)}
    for path in sorted(experiment.runs.glob("*/manifest.json"), reverse=True):
        run = RunFolder(path.parent)
        manifest = run.manifest
        if not manifest.get("finished") or "extends" in manifest:
            continue
        identity = manifest["identity"]
        limits = [getattr(parsed.options, name) for name in ("limit_images", "max_steps")]
        is_same = (
            not differences(load_experiment(run.path).config, parsed.config)
            and not code_change(identity, own)
            and [identity["limit_images"], identity["max_steps"]] == limits
            and {k: v for k, v in identity["packages"].items() if k != "python"} == packages()
            and not any("code_change" in start for start in manifest["starts"])
        )
        if is_same:
            return run
    return None


def _train(experiment: Experiment, seed: int, flags: Sequence[str], processes: int | None) -> None:
    """`python train.py --seed SEED`, to its end; a signal that ends this program ends it too, and it saves its step."""
    launcher = (
        [] if processes is None else ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    )
    command = [sys.executable, *launcher, str(experiment.folder / "train.py"), *flags, "--seed", str(seed)]
    early: list[int] = []  # what comes before there is a process to hand it to
    before = signal.signal(signal.SIGTERM, lambda number, _frame: early.append(number))
    try:
        training = subprocess.Popen(command)
        signal.signal(signal.SIGTERM, lambda number, _frame: training.send_signal(number))
        for number in early:
            training.send_signal(number)
        try:
            status = training.wait()
        except KeyboardInterrupt:  # the training has heard it too
            status = training.wait()
    finally:
        signal.signal(signal.SIGTERM, before)
    if status:
        print(
            f"seed {seed} ended with status {status}; the same command goes on from its last checkpoint",
            file=sys.stderr,
        )
        raise SystemExit(status if status > 0 else 128 - status)


def _best(run: RunFolder) -> float:
    """The best value of a finished run.  Raises ValueError where no evaluation could measure it."""
    best = run.manifest["finished"]["best"]
    if best is None:
        raise ValueError(f"{run.path}: no evaluation could measure the best metric")
    return best


def _check_same_data(runs: dict[int, RunFolder]) -> None:
    """Raises ValueError where the runs were not made with the same data and teacher, naming two of them."""
    first, *others = runs.values()
    for run in others:
        for part in ("data", "teacher"):
            found = [r.manifest["identity"].get(part) for r in (first, run)]
            if found[0] != found[1]:
                raise ValueError(
                    f"{first.path} and {run.path} had another {part}: {found[0]} and {found[1]}; put the older run away"
                )


if __name__ == "__main__":
    main()
