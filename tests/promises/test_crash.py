"""Killed at any moment, a run ends in the same bits: the crash harness, and that it can fail."""

import shutil

import numpy as np
import pytest

from tests.helpers.classification_experiments import TinyClassification
from tests.helpers.crash_harness import EXPERIMENTS, FIRST_KILLS, SABOTAGE, Harness, differences

SHORT = {"detection": ("--epochs", "2", "--num_pictures", "0"), "mutual": ("--epochs", "2")}  # flags of every start


def on(*names: str):
    return pytest.mark.parametrize("undisturbed", names, indirect=True)


@pytest.fixture(scope="module")
def undisturbed(request, tmp_path_factory):
    """An experiment, a run of it that nothing disturbed, and a harness that knows how long it takes."""
    experiment = EXPERIMENTS[request.param](tmp_path_factory.mktemp("crash"))
    harness = Harness(experiment, np.random.default_rng(0), flags=SHORT.get(request.param, ()))
    return harness, harness.undisturbed().rename(experiment.folder.parent / "reference")


def kill_and_compare(undisturbed, kills: int, seed: int, change=None, clock_share=0.5, first: tuple[str, ...] = ()):
    """`kills` kills in as many runs as they last for; where they fell, and what then differs."""
    known, reference = undisturbed
    harness = Harness(known.experiment, np.random.default_rng(seed), known.flags, change, clock_share)
    harness.num_events, harness.seconds = known.num_events, known.seconds
    found, left = [], kills
    while left > 0:
        run, spent = harness.killed_until_it_ends(left, first if left == kills else ())
        found += differences(reference, run)
        shutil.rmtree(run.parent)
        left -= spent
    assert sum(harness.kills.values()) == kills
    return harness.kills, found


@on("classification", "mutual")
def test_a_few_kills_change_no_bit_and_no_line(undisturbed):
    moments, found = kill_and_compare(undisturbed, kills=2, seed=1)
    assert found == [], dict(moments)


@pytest.mark.slow
@on("detection", "classification")
def test_many_kills_change_no_bit_and_no_line(undisturbed):
    """The longer a run takes, the fewer of them; `python -m tests.helpers.crash_harness` takes any number."""
    kills, least = (30, 8) if isinstance(undisturbed[0].experiment, TinyClassification) else (12, 6)
    moments, found = kill_and_compare(undisturbed, kills=kills, seed=2, first=FIRST_KILLS)
    assert found == [], dict(moments)
    assert len(moments) >= least, "the kills reach different moments"
    assert all(any(moment.endswith(name) for moment in moments) for name in FIRST_KILLS), dict(moments)


@pytest.mark.slow
@on("classification")
@pytest.mark.parametrize("name", SABOTAGE)
def test_the_harness_can_fail(undisturbed, name):
    """A checkpoint without the EMA's count, numbers from a global generator, lines that are repeated: each is found."""
    _, found = kill_and_compare(undisturbed, kills=4, seed=3, change=SABOTAGE[name], clock_share=0.0)
    assert found
