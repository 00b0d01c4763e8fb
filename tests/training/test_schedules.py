"""Learning-rate schedules against their closed forms, and against the end rates of the published recipes."""

import math
from itertools import pairwise

import numpy as np
import pytest

from public.training.schedules import QuadraticWarmupCosine, WarmupCosine, WarmupMultiStep
from tests.helpers.places import SHARED


def cosine(**changes) -> WarmupCosine:
    values = {"warmup_epochs": 2, "warmup_start": 0.1, "horizon_epochs": 10, "min_factor": 0.02}
    return WarmupCosine(**(values | changes))


def test_warm_up_is_a_line_from_its_start_to_one():
    schedule = cosine()
    assert schedule.factor(0, 50) == pytest.approx(0.1, rel=1e-12)
    assert schedule.factor(50, 50) == pytest.approx(0.55, rel=1e-12)
    assert schedule.factor(99, 50) == pytest.approx(0.1 + 0.9 * 0.99, rel=1e-12)
    assert schedule.factor(100, 50) == pytest.approx(1.0, rel=1e-12)


def test_the_first_step_may_have_no_learning_rate_at_all():
    assert cosine(warmup_start=0.0).factor(0, 50) == 0.0


def test_the_cosine_starts_at_one_and_ends_at_the_lowest_factor():
    schedule = cosine()
    middle = 0.02 + 0.98 / 2
    quarter = 0.02 + 0.98 * (1 + math.sqrt(0.5)) / 2
    assert schedule.factor(100, 50) == pytest.approx(1.0, rel=1e-12)
    assert schedule.factor(200, 50) == pytest.approx(quarter, rel=1e-12)
    assert schedule.factor(300, 50) == pytest.approx(middle, rel=1e-12)
    assert schedule.factor(500, 50) == pytest.approx(0.02, rel=1e-12)
    assert schedule.factor(501, 50) == pytest.approx(0.02, rel=1e-12)
    assert schedule.factor(10**6, 50) == pytest.approx(0.02, rel=1e-12)


def test_the_cosine_falls_at_every_step():
    factors = [cosine().factor(step, 50) for step in range(100, 501)]
    assert all(before > after for before, after in pairwise(factors))


def test_a_run_without_warm_up_starts_at_one():
    schedule = cosine(warmup_epochs=0)
    assert schedule.factor(0, 50) == pytest.approx(1.0, rel=1e-12)
    assert schedule.factor(250, 50) == pytest.approx(0.02 + 0.98 / 2, rel=1e-12)


def test_warm_up_may_be_a_part_of_an_epoch():
    schedule = cosine(warmup_epochs=0.5, warmup_start=0.0)
    assert schedule.factor(3, 5) == pytest.approx(1 - 0.98 * (1 - math.cos(math.pi * 0.5 / 47.5)) / 2, rel=1e-12)
    assert schedule.factor(2, 5) == pytest.approx(0.8, rel=1e-12)


@pytest.mark.parametrize(
    ("epochs", "horizon", "warmup", "end"),
    [(300, 360, 5, 0.0688), (80, 96, 5, 0.0744), (16, 20, 1, 0.1054), (30, 40, 1, 0.154)],
)
def test_the_published_recipes_end_at_their_rates(epochs, horizon, warmup, end):
    """recipes/miemiedetection.md, C2: the last learning rate as a fraction of the peak."""
    schedule = cosine(warmup_epochs=warmup, warmup_start=0.0, horizon_epochs=horizon, min_factor=0.0)
    digits = len(str(end)) - 2
    assert round(schedule.factor(epochs * 1000, 1000), digits) == end


YOLOX = QuadraticWarmupCosine(warmup_epochs=5, warmup_start=0.0, horizon_epochs=285, min_factor=0.05)


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        (0, 0.0),
        (1, 4e-6),
        (10, 4e-4),
        (250, 0.25),
        (499, 0.996004),
        (500, 1.0),
        (14_500, 0.525),  # halfway down
        (28_500, 0.05),
        (30_000, 0.05),
    ],
)
def test_yolox_rises_by_the_square_and_ends_constant(step, factor):
    """300 epochs of 100 steps: 5 of warm-up, 15 at the floor."""
    assert YOLOX.factor(step, 100) == pytest.approx(factor, rel=1e-12)


def test_yolox_has_the_original_learning_rates():
    folder = SHARED / "oracles/yolox/preprocess"
    if not folder.exists():
        pytest.skip(f"the oracle is not at {folder}")
    oracle = np.load(folder / "out.npz")
    ours = [0.01 * YOLOX.factor(step, 100) for step in oracle["lr.iters_i64"].tolist()]
    np.testing.assert_allclose(ours, oracle["lr.values_f64"], rtol=1e-12)


def test_a_quadratic_warm_up_may_start_above_zero():
    schedule = QuadraticWarmupCosine(warmup_epochs=2, warmup_start=0.1, horizon_epochs=10, min_factor=0.02)
    assert schedule.factor(0, 50) == pytest.approx(0.1, rel=1e-12)
    assert schedule.factor(50, 50) == pytest.approx(0.1 + 0.9 / 4, rel=1e-12)
    assert schedule.factor(100, 50) == pytest.approx(1.0, rel=1e-12)
    assert schedule.factor(300, 50) == cosine().factor(300, 50)


@pytest.mark.parametrize(
    "schedule", [cosine(), WarmupMultiStep(**{"warmup_epochs": 2, "warmup_start": 0.1}, milestones=(6, 8.5), gamma=0.1)]
)
def test_epochs_do_not_depend_on_how_many_steps_they_have(schedule):
    for epoch in (0, 1, 2, 5, 6, 8, 9, 10, 12):
        assert schedule.factor(epoch * 10, 10) == pytest.approx(schedule.factor(epoch * 1000, 1000), rel=1e-12)


def test_multi_step_multiplies_by_gamma_at_each_milestone():
    schedule = WarmupMultiStep(warmup_epochs=1, warmup_start=0.25, milestones=(6, 8.5), gamma=0.1)
    expected = {
        0: 0.25,
        25: 0.625,
        49: 0.25 + 0.75 * 0.98,
        50: 1.0,
        299: 1.0,
        300: 0.1,
        424: 0.1,
        425: 0.01,
        9999: 0.01,
    }
    for step, factor in expected.items():
        assert schedule.factor(step, 50) == pytest.approx(factor, rel=1e-12), step
