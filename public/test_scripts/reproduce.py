"""Runs a recorded run again, in a fresh folder, and compares the two step by step.

  python -m public.test_scripts.reproduce detection_experiments/ppyoloe_xs_shapes/runs/20261120-101500
  python -m public.test_scripts.reproduce RUN --until 200

The recorded settings, the recorded copy of the experiment's folder and the present library are used.  Compared is the chain
of digests that every run writes (digests.jsonl: each of the first 10 steps, then every `digest_interval` steps, and the last
one), while the new run goes on; at the first difference it stops, names the step, and prints every entry of the manifest
that differs.  Exit status: 0 where all digests are equal, 1 where not.  A run of several processes is repeated by as many:
torchrun --nproc_per_node N -m public.test_scripts.reproduce RUN
"""

import argparse
import dataclasses
import os
import sys
import time
from pathlib import Path
from typing import Any, cast

from public import command_line, commands
from public.loading.workers import forbid_global_random
from public.parallel import collectives, processes
from public.runs import chain
from public.runs.experiment import Experiment, load_experiment
from public.runs.run_folder import RunFolder
from public.training.run import train

FOLDER = "reproductions"  # beside an experiment's runs/: no training goes on with what lies here
MOMENTS = (
    "time",
    "step",
    "command",
    "pid",
    "host",
    "code_change",
)  # entries of a start that say when, not what
SHOWN = 160  # characters of a value in the list of differences


class _Difference(Exception):  # noqa: N818 - a finding
    """The new run left the recorded one."""

    def __init__(self, last_equal: int, step: int, names: list[str]) -> None:
        self.last_equal, self.step, self.names = last_equal, step, names


def main() -> None:
    parser = commands.make_parser("reproduce", __doc__, experiment=None)
    parser.add_argument("run", help="a run's folder")
    parser.add_argument("--until", type=int, metavar="STEP", help="compare up to this step (the recorded run's last)")
    commands.add_data_root(parser)
    commands.add_device(parser)
    arguments = parser.parse_args()
    sys.exit(cast(int, commands.call(reproduce, arguments)))


def reproduce(arguments: argparse.Namespace) -> int:
    """Repeats and compares a run; the exit status: 0 where all digests are equal.

    Raises:
        ValueError: this is no run, it holds no digest, or `--until` lies before its first or after its last step.
    """
    experiment = load_experiment(arguments.run)
    if experiment.run is None:
        raise ValueError(f"{arguments.run} is an experiment; name one of its runs: {experiment.runs}/<time>")
    recorded = chain.read_digests(experiment.run)
    if not recorded:
        raise ValueError(f"{experiment.run / chain.FILE} is empty: the run ended before its first step")
    last = recorded[-1]["step"]
    until = last if arguments.until is None else arguments.until
    if not recorded[0]["step"] <= until <= last:
        raise ValueError(f"--until {until}: the run recorded digests from step {recorded[0]['step']} to step {last}")
    _check_repeatable(experiment.run, until)
    device = processes.choose_device(arguments.device)
    with processes.process_group(device), forbid_global_random():
        processes.apply_modes(experiment.config, device)
        return _repeat(experiment, recorded, until, arguments, device)


def _check_repeatable(run: Path, until: int) -> None:
    """Raises ValueError where the run did not begin at its first step, by this number of processes, and go on so."""
    manifest = RunFolder(run).manifest
    if "extends" in manifest:
        raise ValueError(f"{run} continues where {manifest['extends']['run']} ended: reproduce that one")
    recorded, present = manifest["starts"][0]["processes"], int(os.environ.get("WORLD_SIZE", 1))
    if recorded != present:
        raise ValueError(
            f"{run} was made by {recorded} processes, this is {present}: torchrun --nproc_per_node {recorded} -m "
            f"public.test_scripts.reproduce {run}"
        )
    for start in manifest["starts"][1:]:
        if "code_change" in start:
            raise ValueError(f"{run} was resumed with other code from step {start['step']}: no single code made it")
        if start["processes"] != recorded and start["step"] < until:
            raise ValueError(
                f"{run} was resumed by {start['processes']} processes from step {start['step']}, where {recorded} had "
                f"begun: --until {start['step']} compares what those made"
            )


def _repeat(experiment: Experiment, recorded: list[dict], until: int, arguments, device) -> int:
    assert experiment.run is not None, "reproduce refuses an experiment's folder"
    old = RunFolder(experiment.run).manifest
    fresh = collectives.from_rank_0(_fresh_folder(experiment) if collectives.rank() == 0 else None)
    again = dataclasses.replace(experiment, folder=fresh)
    parsed = _command_line(experiment, old, until, arguments)
    difference = None
    try:
        # with several processes none may leave early: the others would wait for it
        watch = None if collectives.is_distributed() else lambda run: _stop(recorded, run)
        train(again, parsed, device, watch=watch, is_resumable=False)
    except _Difference as found:
        difference = found
    if collectives.rank() != 0:
        return int(difference is not None)
    (run,) = (path.parent for path in fresh.glob("runs/*/manifest.json"))
    if difference is None:
        difference = _compare(recorded, run)
    if difference is None:
        compared = [line["step"] for line in recorded if line["step"] <= until]
        _check_whole(run, compared)
        print(f"equal: {len(compared)} digests, steps {compared[0]} to {compared[-1]}, of {experiment.run} and {run}")
        return _compare_results(old, RunFolder(run).manifest)
    print(
        f"DIFFERENT at step {difference.step} ({', '.join(difference.names)}); equal up to step {difference.last_equal}. "
        f"{experiment.run} against {run}"
    )
    lines = manifest_differences(old, RunFolder(run).manifest)
    print("\n".join(["what the manifests say:", *lines] if lines else ["the manifests do not differ"]))
    return 1


def _check_whole(run: Path, steps: list[int]) -> None:
    """Raises ValueError where the new run has no digest of a step that was recorded: then it was not compared."""
    lacking = sorted(set(steps) - {line["step"] for line in chain.read_digests(run)})
    if lacking:
        raise ValueError(
            f"{run} ended without digests of {len(lacking)} recorded steps, the first is step {lacking[0]}"
        )


def _compare_results(old: dict, new: dict) -> int:
    """Prints whether final digests and metrics are equal, where both runs ended after the same step; the exit status."""
    ends = [manifest["finished"] for manifest in (old, new)]
    if not all(ends) or ends[0]["step"] != ends[1]["step"]:
        return 0
    results = [{"digests": end["digests"], "metrics": _without_times(end["metrics"])} for end in ends]
    different = [
        f"  {name}: {a} -> {b}" for (name, a), b in zip(_flat(results[0]).items(), _flat(results[1]).values()) if a != b
    ]
    print("\n".join(["final digests and metrics are " + ("DIFFERENT:" if different else "equal"), *different]))
    return int(bool(different))


def _without_times(metrics: dict) -> dict:
    return {name: value for name, value in metrics.items() if not name.endswith("_ms")}


def _fresh_folder(experiment: Experiment) -> Path:
    """A folder of its own, so that the experiment's runs stay as they are."""
    assert experiment.run is not None
    path = experiment.folder / FOLDER / f"{experiment.run.name}-again-{time.strftime('%Y%m%d-%H%M%S')}"
    path.mkdir(parents=True)
    return path


def _command_line(experiment: Experiment, old: dict, until: int, arguments) -> command_line.Parsed:
    """What the command line of the recorded run came to, ending after step `until`."""
    options = command_line.Options(
        device=arguments.device,
        data_root=arguments.data_root,
        resume="none",
        extend_epochs=None,
        limit_images=old["identity"]["limit_images"],
        max_steps=until,
        allow_code_change=False,
        fingerprint="full" if "train_pictures" in old["identity"]["data"] else "names",
    )
    return command_line.Parsed(config=experiment.config, options=options, overrides={}, notes=())


def _stop(recorded: list[dict], run: Path) -> None:
    """Called after each line of the new run's digests; ends it where they differ."""
    found = _compare(recorded, run)
    if found:
        raise found


def _compare(recorded: list[dict], run: Path) -> _Difference | None:
    found = chain.first_difference(recorded, chain.read_digests(run))
    return _Difference(*found) if found else None


def manifest_differences(old: dict, new: dict) -> list[str]:
    """Every entry that says what was run, and differs: name, recorded value, present value.

    Left out: times, names of files, what cuts the new run short, and the texts of git beside the commit and whether the
    tree was clean.
    """
    sides = [_comparable(manifest) for manifest in (old, new)]
    names = sorted(sides[0].keys() | sides[1].keys())
    return [
        f"  {name}: {_short(sides[0].get(name, '(absent)'))} -> {_short(sides[1].get(name, '(absent)'))}"
        for name in names
        if sides[0].get(name, "(absent)") != sides[1].get(name, "(absent)")
    ]


def _short(value: object) -> str:
    """`value` in one line of at most SHOWN characters; of a list of files, say, the first and how much is left out."""
    text = "; ".join(line.strip() for line in str(value).splitlines())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text) - SHOWN} characters more)"


def _comparable(manifest: dict) -> dict[str, Any]:
    start = {name: value for name, value in manifest["starts"][0].items() if name not in MOMENTS}
    identity = {name: value for name, value in manifest["identity"].items() if name != "max_steps"}
    git = {"commit": manifest["git"]["commit"], "changed_files": manifest["git"]["status"]}
    return _flat({"config": manifest["config"], "identity": identity, "git": git, "start": start})


def _flat(value: object, path: str = "") -> dict[str, Any]:
    items: Any
    if isinstance(value, dict) and value:
        items = value.items()
    elif isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        items = enumerate(value)
    else:
        return {path: value}
    return {
        name: leaf for key, item in items for name, leaf in _flat(item, f"{path}.{key}" if path else f"{key}").items()
    }


if __name__ == "__main__":
    main()
