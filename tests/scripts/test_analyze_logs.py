"""Reading runs and drawing several of them: values, names, and runs that are young, killed or damaged."""

import csv
import json

import cv2
import numpy as np
import pytest

from public.runs.records import find_runs, read_run, short_names
from public.test_scripts import analyze_logs
from tests.helpers.made_runs import eval_line, train_line, write_experiment, write_run


@pytest.fixture
def analyze(monkeypatch, capsys, tmp_path):
    """The command; (what it printed, what it said on stderr or its error)."""

    def call(*arguments):
        output = ("-o", str(tmp_path / "curves.png"))
        monkeypatch.setattr("sys.argv", ["analyze_logs", *map(str, arguments), *output])
        error = ""
        try:
            analyze_logs.main()
        except SystemExit as end:
            error = end.code
        printed = capsys.readouterr()
        return printed.out, printed.err + error

    return call


@pytest.fixture
def experiment(tmp_path):
    """Two runs: one finished with its best evaluation in the middle, one under way."""
    folder = write_experiment(tmp_path / "net_data")
    lines = [train_line(step, 4 / step, speed=8.0 if step < 30 else 2.0) for step in (10, 20, 30)]
    evals = [eval_line(epoch, ap) for epoch, ap in ((1, 0.25), (2, 0.5), (3, 0.375))]
    write_run(folder / "runs" / "20260101-000000", lines + evals, finished={"step": 30, "best": 0.5, "digests": {}})
    write_run(folder / "runs" / "20260102-000000", [train_line(10, 2.0, lr=0.02, loss_new=2.0), eval_line(1, 0.125)])
    return folder


def rows_of(text):
    header, *rows = csv.reader(text.splitlines())
    return [dict(zip(header, row)) for row in rows]


def test_the_summary_by_closed_form(analyze, experiment):
    output, _ = analyze(experiment, "--format", "csv")
    first, second = rows_of(output)
    assert (first["run"], first["state"], first["epochs"], first["step"]) == ("20260101-000000", "finished", "3", "30")
    assert (first["best AP"], first["last AP"], first["best epoch"]) == ("0.5", "0.375", "2")
    # batches of 4: ten steps at 8 images/s take 5 s, ten at 2 images/s 20 s
    assert (float(first["s/step"]), float(first["images/s"])) == (0.5, 8.0)
    assert float(first["mean images/s"]) == pytest.approx(120 / 30)
    assert (second["state"], second["step"], second["loss"]) == ("unfinished", "10", "2.0")


def test_the_curves_hold_the_values_of_the_logs(analyze, experiment, figures, tmp_path):
    _, said = analyze(experiment, "--keys", "loss", "AP50", "class_AP.cat", "loss_new", "-x", "step")
    panels = {axes.get_title(loc="left"): axes for axes in figures[0].axes}
    assert list(panels) == ["loss", "AP50", "class_AP.cat", "loss_new"]
    np.testing.assert_allclose(panels["loss"].lines[0].get_xydata(), [[10, 0.4], [20, 0.2], [30, 4 / 30]])
    np.testing.assert_allclose(panels["AP50"].lines[0].get_xydata(), [[10, 0.375], [20, 0.75], [30, 0.5625]])
    np.testing.assert_allclose(panels["class_AP.cat"].lines[1].get_xydata(), [[10, 0.125]])
    np.testing.assert_allclose(panels["loss_new"].lines[0].get_xydata(), [[10, 2.0]])
    assert panels["loss_new"].lines[0].get_color() == panels["loss"].lines[1].get_color()  # a run keeps its colour
    assert "loss_new is not in 20260101-000000" in said
    legend = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert legend == ["20260101-000000", "20260102-000000"]
    assert cv2.imread(str(tmp_path / "curves.png")) is not None


def test_epochs_are_those_of_the_log(analyze, experiment, figures):
    analyze(experiment)
    panels = {axes.get_title(loc="left"): axes for axes in figures[0].axes}
    assert list(panels) == ["loss", "AP", "lr"]
    assert panels["loss"].lines[0].get_xdata().tolist() == [0.9, 1.9, 2.9]
    assert panels["AP"].lines[0].get_xdata().tolist() == [1, 2, 3]


def test_values_that_are_no_number_leave_a_gap(analyze, tmp_path, figures):
    lines = [train_line(step, float("nan") if step == 3 else 1.0) for step in range(1, 6)]
    run = write_run(tmp_path / "x" / "runs" / "1", [*lines, eval_line(1, None), eval_line(2, 0.5)])
    analyze(run, "--keys", "loss", "AP", "gradient_norm")
    loss, ap, norm = (axes.lines[0].get_ydata() for axes in figures[0].axes)
    assert np.isnan(loss).tolist() == [False, False, True, False, False]
    assert np.isnan(ap).tolist() == [True, False]
    assert np.isnan(norm).all()


def test_smoothing_averages_and_keeps_the_values_faintly(analyze, tmp_path, figures):
    values = np.where(np.arange(100) % 2, 1.0, 3.0)
    run = write_run(tmp_path / "x" / "runs" / "1", [train_line(n + 1, v) for n, v in enumerate(values.tolist())])
    analyze(run, "--keys", "loss", "--smooth")
    raw, smooth = figures[0].axes[0].lines
    assert raw.get_ydata().tolist() == values.tolist()
    inner = smooth.get_ydata()[5:-5]
    assert (np.abs(inner - 2) < 0.25).all()  # a window of 5: three of one and two of the other
    assert raw.get_alpha() < 0.5


def test_a_diverging_run_does_not_press_the_others_flat(analyze, tmp_path, figures):
    for number in range(3):
        lines = [train_line(step, 1e6 if number == 2 and step > 50 else 2.0) for step in range(1, 101)]
        lines.append(eval_line(10, 0.9 if number == 2 else 0.01))
        write_run(tmp_path / "x" / "runs" / str(number), lines)
    analyze(*sorted((tmp_path / "x" / "runs").iterdir()), "--keys", "loss", "AP")
    loss, ap = figures[0].axes
    assert loss.get_ylim()[1] < 10
    assert "50 above 3, up to 1e+06" in loss.get_title(loc="right")
    assert ap.get_ylim()[1] > 0.9  # a good run is no outlier
    assert ap.get_title(loc="right") == ""


def test_keys_are_listed_and_a_wrong_one_is_told_its_neighbours(analyze, experiment, tmp_path):
    output, _ = analyze(experiment, "--list")
    listed = dict(line.split(": ") for line in output.splitlines())
    assert listed["20260102-000000"].split()[-4:] == ["loss_new", "AP", "AP50", "class_AP.cat"]
    assert not (tmp_path / "curves.png").exists()
    _, error = analyze(experiment, "--keys", "los_cls")
    assert error.splitlines()[-1] == "error: no run has the key los_cls; did you mean loss_cls or loss?"
    assert not (tmp_path / "curves.png").exists()


def test_runs_without_anything_to_draw(analyze, tmp_path):
    folder = write_experiment(tmp_path / "net")
    _, error = analyze(folder)
    assert error == f"error: {folder} has no run yet: run its train.py first"
    write_run(folder / "runs" / "1", [])
    output, error = analyze(folder)
    assert error.startswith("error: nothing to draw")
    assert "unfinished" in output
    _, error = analyze(tmp_path)
    assert "neither an experiment's folder (config.py) nor a run" in error


def test_a_damaged_run_is_named_and_the_others_are_drawn(analyze, experiment, figures):
    bad = experiment / "runs" / "20260102-000000"
    with open(bad / "metrics.jsonl", "a") as file:
        file.write("garbage\n" + json.dumps(train_line(20, 1.0)) + "\n")
    output, said = analyze(experiment, "--keys", "loss")
    assert "20260102-000000: metrics.jsonl, line 3 is not JSON" in said
    assert len(figures[0].axes[0].lines) == 1
    assert len(output.splitlines()) == 3


# Records


def test_a_last_line_that_was_broken_off_is_passed_over(tmp_path):
    run = write_run(tmp_path / "x" / "runs" / "1", [train_line(1, 2.0)])
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"kind": "tra')
    record = read_run(run)
    assert (record.step, record.notes) == (1, [])


@pytest.mark.parametrize(
    ("name", "content", "note"),
    [
        ("config.json", "{", "config.json cannot be read"),
        ("config.json", "[]", "config.json holds no object"),
        ("config.json", None, "no config.json"),
        ("config.json", '{"DetectionConfig": 3}', None),
        ("manifest.json", None, "no manifest.json"),
        ("manifest.json", '{"finished": null}', None),
        ("metrics.jsonl", None, "nothing logged yet"),
        ("metrics.jsonl", "3\n", "line 1 is not an entry of a run"),
        ("metrics.jsonl", '{"kind": "train", "step": 1}\n', "without step, epoch or losses"),
        ("metrics.jsonl", '{"kind": "eval", "step": 1, "epoch": 1, "metrics": 3}\n', "without step, epoch or metrics"),
        ("metrics.jsonl", json.dumps(train_line(1, "high", loss_cls=1.0)) + "\n", "is not a number"),
        ("metrics.jsonl", b"\xff\xfe\n".decode("latin-1"), "line 1 is not JSON"),
        ("metrics.jsonl", '{"kind": "other"}\n', None),
    ],
)
def test_whatever_is_damaged_the_rest_is_read(name, content, note, tmp_path, capsys):
    run = write_run(tmp_path / "x" / "runs" / "1", [train_line(1, 2.0), eval_line(1, 0.5)], finished={"step": 1})
    (run / name).unlink()
    if content is not None:
        (run / name).write_text(content)
    record = read_run(run)
    assert any(note in text for text in record.notes) if note else record.notes == []
    assert analyze_logs.summary([record], ["x"]).splitlines()[1].startswith("x")
    if name != "manifest.json":
        assert record.state == "finished"
    if name != "metrics.jsonl":
        assert record.curve("AP", "epoch")[1].tolist() == [0.5]


def test_what_is_unusual_about_a_run_is_said(tmp_path):
    run = write_run(
        tmp_path / "x" / "runs" / "1",
        [eval_line(4, 0.25)],
        finished={"step": 40, "best": 0.75},
        identity={"limit_images": 16, "max_steps": None},
        extends={"run": "0", "step": 30},
    )
    assert read_run(run).notes == [
        "--limit_images 16",
        "extends 0 from step 30; its log begins there",
        "best.pth has AP 0.7500, which is not in this log",
    ]


def test_of_equal_evaluations_the_first_is_the_best(tmp_path):
    """As in training, where only a higher value replaces best.pth."""
    run = write_run(tmp_path / "x" / "runs" / "1", [eval_line(1, None), eval_line(2, 0.5), eval_line(3, 0.5)])
    record = read_run(run)
    assert record.best_evaluation()["epoch"] == 2
    assert record.metric("AP50") == (0.75, 0.75)


def test_short_names_are_short_and_different(tmp_path):
    def name(*places):
        return short_names([tmp_path / place for place in places])

    assert name("a/runs/1", "a/runs/2") == ["1", "2"]
    assert name("a/runs/1", "b/runs/1") == ["a", "b"]
    assert name("a/runs/1", "a/runs/2", "b/runs/1") == ["a/1", "a/2", "b"]
    assert name("p/a/runs/1", "q/a/runs/1") == ["p/a", "q/a"]
    assert name("a", "b/runs/1") == ["a", "b"]
    assert name("a/runs/1") == ["a"]
    assert name("moved/1", "moved/2") == ["1", "2"]
    assert name("a", "a/runs/1") == ["a", "a/1"]


def test_an_experiment_stands_for_all_its_runs(experiment):
    (experiment / "runs" / "notes").mkdir()
    runs = [experiment / "runs" / "20260101-000000", experiment / "runs" / "20260102-000000"]
    assert find_runs(experiment) == runs
    assert find_runs(runs[1]) == runs[1:]
