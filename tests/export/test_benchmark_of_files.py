"""benchmarks/inference.py: ways in turns, and what a process of its own tells."""

import os
import sys

import pytest

from benchmarks import inference


def test_a_round_of_turns(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["inference", "ppyoloe_xs", "--formats", "--rounds", "1", "--size", "64"])
    inference.main()
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ppyoloe_xs 64")]
    assert [row[1] for row in rows] == [inference.EAGER, inference.FUSED]
    assert rows[0][5] == "1.00"
    assert all(len(row) == 9 for row in rows)


def test_ways_take_turns():
    """Each round times every way once; a round before them is not counted."""
    order = []
    parts = {way: {"end to end": lambda way=way: order.append(way)} for way in "ab"}
    seconds = inference.in_turns(parts, 2, iter(range(100)).__next__)
    assert order == list("ababab")
    assert seconds == {"a": {"end to end": [1, 1]}, "b": {"end to end": [1, 1]}}


def test_what_is_run_aside_leaves_nothing_here():
    assert inference.run_aside(os.getpid) != os.getpid()
    with pytest.raises(SystemExit, match="a part of the measurement failed"):
        inference.run_aside(lambda: 1 / 0)
