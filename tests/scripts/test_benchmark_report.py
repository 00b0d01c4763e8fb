"""`make benchmark` writes a page of every figure, of what it missed, and of what failed."""

import json
import re
import sys

import pytest

from benchmarks import figures, report
from tests.helpers.places import REPOSITORY


def test_the_page_holds_figures_limits_and_what_failed(tmp_path, monkeypatch, capsys):
    """Programs of which one keeps a limit, one misses it, and one fails."""
    monkeypatch.setattr(report, "PROGRAMS", {"figures": ["good"], "none_such": []})
    monkeypatch.setattr(report, "PEERS", ("torch", "no-such-package"))
    real = report.run

    def run(name, arguments, folder):
        if name == "none_such":
            return real(name, arguments, folder)
        monkeypatch.setenv(figures.FILE, str(folder / "rows.jsonl"))
        figures.figure("the quick part", 12.345, "times", peer="a peer", least=10)
        figures.figure("the slow part", 3.0, "s of CPU", most=2)
        figures.figure("no limit", 3.0, "MiB")
        rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
        return capsys.readouterr().out.strip(), rows, 4.2

    monkeypatch.setattr(report, "run", run)
    monkeypatch.setattr(sys, "argv", ["report", "--output", str(tmp_path / "page.md")])
    report.main()
    page = (tmp_path / "page.md").read_text()
    assert "| the quick part | 12.3 times | a peer | at least 10 | figures |" in page
    assert "| the slow part | 3 s of CPU |  | at most 2: **missed** | figures |" in page
    assert "| no limit | 3 MiB |  |  | figures |" in page
    assert "Not installed, and so not compared: no-such-package." in page
    assert re.search(r"ended with status 1: .*none_such", page)
    assert capsys.readouterr().out.strip().endswith('missed: ["the slow part"]')


def test_make_benchmark_runs_the_report():
    assert re.search(
        r"^benchmark: setup\n\t\$\(PYTHON\) -m benchmarks\.report$", (REPOSITORY / "Makefile").read_text(), re.M
    )


@pytest.mark.parametrize("name", report.PROGRAMS)
def test_every_program_is_there_and_knows_its_flags(name):
    source = (REPOSITORY / "benchmarks" / f"{name}.py").read_text()
    assert all(f'"{flag}"' in source for flag in report.PROGRAMS[name] if flag.startswith("--"))
