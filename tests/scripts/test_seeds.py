"""Several seeds of one page: trained once each, counted again, resumed as a whole; and the statistics."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest

from public.experiment_files import file_hashes
from public.runs.experiment import load_experiment
from public.runs.seed_spread import (
    FILE,
    Spread,
    least_difference,
    paired,
    read_spreads,
    t_quantile,
    verdict,
    write_spread,
)
from public.test_scripts import compare, seeds
from tests.helpers.classification_experiments import TinyClassification
from tests.helpers.experiments import read_manifest
from tests.helpers.forked_commands import run_python
from tests.helpers.forked_training import train

FLAGS = ("--max_steps", "2", "--num_pictures", "0", "--device", "cpu")


def spread_of(*values: float, name: str = "a", metric: str = "AP") -> Spread:
    count = len(values)
    return Spread(
        metric=metric, seeds=tuple(range(count)), runs=tuple(f"{name}{n}" for n in range(count)), values=values
    )


# ---------------------------------------------------------------------------------------------- the numbers


@pytest.mark.parametrize(
    ("freedom", "expected"),
    [(1, 12.7062047362), (2, 4.3026527297), (4, 2.7764451052), (8, 2.3060041352), (30, 2.0422724563)],
)
def test_the_quantiles_are_those_of_the_tables(freedom, expected):
    assert t_quantile(0.975, freedom) == pytest.approx(expected, rel=1e-9)


def test_mean_deviation_and_smallest_difference():
    spread = spread_of(0.80, 0.82, 0.81, 0.83, 0.79)
    assert spread.mean == pytest.approx(0.81)
    assert spread.std == pytest.approx(np.std(spread.values, ddof=1))
    assert spread.smallest_difference == pytest.approx(2.3060041352 * spread.std * (2 / 5) ** 0.5)
    assert str(spread) == "0.8100 +- 0.0158 (5)"
    assert spread_of(0.5, 0.5).smallest_difference == 0


def test_equal_pages_seem_to_differ_in_one_of_twenty_comparisons():
    """With the deviations unequal, too; the share of 4,000 comparisons lies within three deviations of 5 %, or is lower."""
    rng = np.random.default_rng(0)
    for scale in (1.0, 3.0):
        pairs = zip(rng.normal(size=(4000, 5)), scale * rng.normal(size=(4000, 5)))
        found = 0
        for one, other in pairs:
            a, b = one.var(ddof=1) / 5, other.var(ddof=1) / 5
            freedom = (a + b) ** 2 / ((a * a + b * b) / 4)
            found += abs(one.mean() - other.mean()) > QUANTILES[round(freedom, 1)] * (a + b) ** 0.5
        assert 0.03 < found / 4000 < 0.05 + 3 * (0.05 * 0.95 / 4000) ** 0.5


QUANTILES = {round(freedom, 1): t_quantile(0.975, freedom) for freedom in np.arange(4.0, 8.1, 0.1)}


def test_a_difference_inside_the_spread_is_called_so():
    one, near, far = (spread_of(0.80 + d, 0.82 + d, 0.81 + d) for d in (0.0, 0.01, 0.1))
    assert least_difference(one, near) == pytest.approx(one.smallest_difference)
    assert "+0.0100, within the seeds' spread (0.0227)" in verdict(one, near)
    assert "+0.1000, more than the seeds' spread (0.0227)" in verdict(one, far)


def test_what_the_seeds_have_in_common_drops_out_of_pairs():
    """The seeds matter by 0.1, the page by 0.01: means do not show it, pairs do; they are found by seed, not by place."""
    one = Spread(metric="AP", seeds=(0, 1, 2, 3), runs=tuple("abcd"), values=(0.50, 0.60, 0.70, 0.80))
    other = Spread(metric="AP", seeds=(3, 2, 1, 7), runs=tuple("efgh"), values=(0.81, 0.712, 0.608, 0.1))
    found = paired(one, other)
    gains = np.array([0.01, 0.012, 0.008])
    assert found == pytest.approx((0.01, 4.3026527297 * gains.std(ddof=1) / 3**0.5, 3, 3))  # Student's t, 2 degrees
    assert "within the seeds' spread" in verdict(one, other)
    assert verdict(one, other).endswith("; seed by seed +0.0100 +- 0.0050, 3 of 3 higher: no chance")
    worse = Spread(metric="AP", seeds=(0, 1), runs=tuple("ef"), values=(0.4, 0.59))
    assert verdict(one, worse).endswith("0 of 2 higher: may be chance")
    strange = Spread(metric="AP", seeds=(3, 9), runs=tuple("ef"), values=(0.4, 0.59))
    assert paired(one, strange) is None
    assert "seed by seed" not in verdict(one, strange)


# ---------------------------------------------------------------------------------------------- the file


def test_the_file_keeps_one_entry_for_each_set_of_flags(tmp_path):
    write_spread(tmp_path, [], spread_of(0.1, 0.2))
    write_spread(tmp_path, ["--epochs 2"], spread_of(0.3, 0.4))
    write_spread(tmp_path, [], spread_of(0.5, 0.7))
    assert read_spreads(tmp_path) == {"": spread_of(0.5, 0.7), "--epochs 2": spread_of(0.3, 0.4)}
    assert not read_spreads(tmp_path / "elsewhere")


@pytest.mark.parametrize("entry", [{}, [], {"metric": "AP", "seeds": [0], "runs": ["a"], "values": [1.0, 2.0]},
                                   {"metric": "AP", "seeds": [0, 1], "runs": ["a", "b"], "values": [1.0, None]}])  # fmt: skip
def test_a_damaged_file_is_named(tmp_path, entry):
    (tmp_path / FILE).write_text(json.dumps({"": entry}))
    with pytest.raises(ValueError, match=r"seeds\.json is damaged"):
        read_spreads(tmp_path)


def test_it_is_no_part_of_the_recipe(tmp_path):
    (tmp_path / "config.py").write_text("")
    before = file_hashes(tmp_path)
    write_spread(tmp_path, [], spread_of(0.1, 0.2))
    assert file_hashes(tmp_path) == before


# ---------------------------------------------------------------------------------------------- the command


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> TinyClassification:
    """A tiny experiment whose trainings are forked; `tiny.trained` has the seeds that were trained."""
    experiment = TinyClassification.create(tmp_path)
    experiment.trained = []

    def train_forked(_, seed, flags, processes):
        experiment.trained.append(seed)
        train(experiment, *flags, "--seed", str(seed))

    monkeypatch.setattr(seeds, "_train", train_forked)
    return experiment


def call(experiment, *words: str) -> Spread:
    arguments = seeds.argparse.Namespace(experiment=str(experiment.folder), number=2, first_seed=0, processes=None)
    return seeds.seeds(arguments, [*FLAGS, "--data_root", str(experiment.data_root), *words])


def test_finished_seeds_count_again_and_missing_ones_are_trained(tiny, capsys):
    first = call(tiny)
    assert tiny.trained == [0, 1]
    assert first.values == tuple(read_manifest(run)["finished"]["best"] for run in tiny.runs)
    assert first.seeds == tuple(read_manifest(run)["seed"] for run in tiny.runs)
    assert call(tiny) == first
    assert tiny.trained == [0, 1], "nothing is trained twice"
    shutil.rmtree(tiny.runs[1])
    assert call(tiny).values == first.values, "the same bits"
    assert tiny.trained == [0, 1, 1]
    assert list(read_spreads(tiny.folder)) == ["--max_steps 2"], "no device, no folder of data"
    assert "the smallest difference that the page can tell apart" in capsys.readouterr().out
    compare_prints(tiny, first, capsys)
    words = ["-m", "public.test_scripts.seeds", tiny.folder, "-n", "2", *FLAGS, "--data_root", tiny.data_root]
    done = run_python(words)
    assert done.stdout.splitlines()[-1] == f"written to {tiny.folder / FILE}", done.stderr
    (tiny.folder / "model.py").write_text((tiny.folder / "model.py").read_text() + "\n# changed\n")
    assert seeds.finished_run(load_experiment(tiny.folder), 0, FLAGS) is None, "other code is another result"


def compare_prints(tiny, spread: Spread, capsys) -> None:
    arguments = {"settings": False, "metrics": None, "sort": None, "reverse": False, "format": "text"}
    other = Path(shutil.copytree(tiny.folder, tiny.folder.parent / "other"))
    write_spread(other, ["--max_steps 2"], Spread(**{**vars(spread), "values": (99.0, 99.1)}))
    compare.compare(seeds.argparse.Namespace(experiments=[str(tiny.folder), str(other)], **arguments))
    printed = capsys.readouterr().out
    assert printed.count(str(spread)) == 3, "beside both runs, and in the verdict"
    assert f"tiny_classification against other: {spread.metric} {spread} and " in printed


def test_what_makes_no_spread_is_refused(tiny):
    with pytest.raises(ValueError, match=r"--seed: this command decides it itself"):
        call(tiny, "--seed", "3")
    arguments = seeds.argparse.Namespace(experiment=str(tiny.folder), number=1, first_seed=0, processes=None)
    with pytest.raises(ValueError, match="at least 2 seeds"):
        seeds.seeds(arguments, [])
    assert tiny.trained == []


@pytest.mark.parametrize(("script", "status"), [("import sys; sys.exit(3)", 3), (None, 143)], ids=["fails", "stopped"])
def test_a_training_that_fails_or_is_stopped_ends_the_command_with_its_status(
    tmp_path, monkeypatch, capsys, script, status
):
    """Of SIGTERM the training hears as well: here a stand-in, which says so in a file."""
    experiment = TinyClassification.create(tmp_path)
    heard = tmp_path / "heard"
    stand_in = f"""
import os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path({str(heard)!r}).write_text("x"), sys.exit(143)))
os.kill(os.getppid(), signal.SIGTERM)
time.sleep(20)
"""
    (experiment.folder / "train.py").write_text(script or stand_in)
    with pytest.raises(SystemExit) as end:
        call(experiment)
    assert end.value.code == status
    assert heard.exists() == (script is None)
    assert f"seed 0 ended with status {status}; the same command goes on" in capsys.readouterr().err


def test_a_signal_that_comes_while_the_training_is_started_ends_it_too(tmp_path, monkeypatch):
    experiment = TinyClassification.create(tmp_path)
    (experiment.folder / "train.py").write_text("import time; time.sleep(20)")
    start = subprocess.Popen

    def signalled_start(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return start(*arguments)

    monkeypatch.setattr(seeds.subprocess, "Popen", signalled_start)
    with pytest.raises(SystemExit) as end:
        call(experiment)
    assert end.value.code == 128 + signal.SIGTERM
