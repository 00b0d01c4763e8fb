"""The clock of `benchmarks.step_parts`: the time of a part is without that of the parts inside it."""

import pytest
import torch

from benchmarks.step_parts import PARTS, PartsClock, measure, report


def test_inner_parts_are_not_counted_twice(monkeypatch):
    """A loss of 5 seconds with two assignments of 1 and 2 in it, in a step of 8; data before it takes 4."""
    clock, time = PartsClock(torch.device("cpu")), [0.0]
    monkeypatch.setattr(clock, "now", lambda: time[0])

    def spend(seconds, *inner):
        def function():
            time[0] += seconds
            for call in inner:
                call()
            return "done"

        return function

    assigns = [clock.timed("assign", spend(seconds)) for seconds in (1, 2)]
    step = clock.timed("everything else", spend(3, clock.timed("loss", spend(2, *assigns))))
    assert clock.timed("data", spend(4))() == "done"
    step()
    seconds = clock.step()
    assert seconds == dict.fromkeys(PARTS, 0.0) | {"data": 4, "assign": 3, "loss": 2, "everything else": 3}
    assert set(clock.step().values()) == {0.0}
    lines = report(seconds).splitlines()
    assert lines[0].split() == ["data", "4000.0", "ms", "50.0", "%"]
    assert lines[-1].split()[-4:] == ["8000.0", "ms", "100.0", "%"]


def test_a_teacher_is_a_part_of_the_step():
    """Of a taught network alone; its forward is not counted as the student's."""
    options = {"size": 64, "batch": 2, "objects": 3, "device": torch.device("cpu"), "steps": 1, "warmup": 1}
    alone, taught = measure("ppyoloe_xs", **options), measure("ppyoloe_xs", teacher="ppyoloe_xs", **options)
    assert list(alone) == [part for part in PARTS if part != "teacher"]
    assert list(taught) == list(PARTS)
    assert all(seconds > 0 for seconds in taught.values()), "the assigner of the student's own loss is found, too"


def test_what_fails_is_counted_too(monkeypatch):
    clock = PartsClock(torch.device("cpu"))
    monkeypatch.setattr(clock, "now", iter(range(9)).__next__)
    with pytest.raises(ZeroDivisionError):
        clock.timed("loss", lambda: 1 / 0)()
    assert clock.step()["loss"] == 1
    assert clock.inner == [1.0]
