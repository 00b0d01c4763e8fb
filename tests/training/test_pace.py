"""A machine that is busy is named over the first steps of a training."""

import time

import pytest

from public.test_scripts import demo
from public.training import pace
from public.training.pace import LAST, Pace


def line_after(
    monkeypatch, *, passed: float, computed: float, steps: int = LAST, is_measured: bool = True
) -> str | None:
    """What is said after so many steps, each of `passed` seconds of which this thread computes `computed`."""
    clock = {"perf_counter": 0.0, "thread_time": 0.0}
    for name in clock:
        monkeypatch.setattr(pace.time, name, lambda name=name: clock[name])
    measure = Pace(is_measured=is_measured)
    for _ in range(steps):
        with measure.of_step():
            clock["perf_counter"] += passed
            clock["thread_time"] += computed
        clock["perf_counter"] += 10.0  # waiting for a batch
    return measure.line()


@pytest.mark.parametrize(("computed", "is_busy"), [(0.4, False), (0.31, False), (0.29, True), (0.1, True)])
def test_others_that_take_more_than_a_quarter_of_the_core_are_told_of(monkeypatch, computed, is_busy):
    line = line_after(monkeypatch, passed=0.4, computed=computed)
    assert (line is not None) == is_busy
    if is_busy:
        assert f"a step takes 0.40 s, and only {computed:.2f} s of it are this training's" in line
        assert f"would end in {computed / 0.4:.0%} of the time" in line


def test_it_is_said_once_and_only_where_it_can_be_known(monkeypatch):
    assert line_after(monkeypatch, passed=1.0, computed=0.1) is not None
    for steps in (LAST - 1, LAST + 1):
        assert line_after(monkeypatch, passed=1.0, computed=0.1, steps=steps) is None
    assert line_after(monkeypatch, passed=1.0, computed=0.1, is_measured=False) is None


def test_a_step_that_sleeps_is_one_that_does_not_compute():
    """With the real clocks: what the thread waits for is not its own."""
    measure = Pace()
    for _ in range(LAST):
        with measure.of_step():
            time.sleep(0.002)
    assert "this machine is busy" in measure.line()


def test_the_demo_says_how_much_slower_than_its_card_a_machine_is():
    assert demo.slow(demo.SPEED) is None
    assert demo.slow(demo.SLOW * demo.SPEED + 0.1) is None
    assert "about 4.0 times as long as the card says" in demo.slow(demo.SPEED / 4)
