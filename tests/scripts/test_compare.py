"""One table over runs and experiments, and the settings in which they differ; with real runs and with damaged ones."""

import csv
import json
import shutil

import pytest

from public.checkpoint_files import load_checkpoint
from public.runs.experiment import load_experiment
from public.test_scripts import compare as command
from tests.helpers import forked_training
from tests.helpers.experiments import TinyExperiment, read_manifest
from tests.helpers.forked_commands import run_python
from tests.helpers.made_runs import eval_line, train_line, write_experiment, write_run


@pytest.fixture
def compare(monkeypatch, capsys):
    """The command; (what it printed, what it said on stderr or its error)."""

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["compare", *map(str, arguments)])
        error = ""
        try:
            command.main()
        except SystemExit as end:
            error = end.code
        printed = capsys.readouterr()
        return printed.out, printed.err + error

    return call


def rows_of(text):
    header, *rows = csv.reader(text.splitlines())
    return [dict(zip(header, row)) for row in rows]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The tiny experiment after a run of one epoch."""
    experiment = TinyExperiment.create(tmp_path_factory.mktemp("compare"))
    forked_training.train(experiment, "--epochs", "1", "--seed", "5")
    return experiment


def test_a_real_run(trained, compare):
    """What the table says is what training wrote into the manifest and into best.pth."""
    output, _ = compare(trained.folder, "--csv")
    (row,) = rows_of(output)
    (run,) = trained.runs
    best, manifest = load_checkpoint(run / "best.pth"), read_manifest(run)
    assert (row["name"], row["state"], row["epochs"], row["seed"]) == ("tiny_experiment", "finished", "1/1", "5")
    assert float(row["best AP"]) == float(row["last AP"]) == best["metrics"]["AP"]
    assert float(row["best AP50"]) == best["metrics"]["AP50"]
    assert row["digest"] == best["digest"][:16] == manifest["finished"]["digests"]["ema"][:16]
    assert row["commit"].rstrip("+") == (manifest["git"]["commit"] or "")[:10]
    model = load_experiment(run).config.detector.build_model()
    assert int(row["parameters"]) == sum(parameter.numel() for parameter in model.parameters())
    assert float(row["GMACs"]) > 0
    assert float(row["images/s"]) > 0


def test_a_real_run_in_the_curves_of_analyze_logs(trained, tmp_path):
    """The log that the reporter writes is the log that the commands read."""
    done = run_python(["-m", "public.test_scripts.analyze_logs", trained.folder, "-o", "a.png"], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"curves of loss, AP, lr drawn to {tmp_path / 'a.png'}\n"
    assert done.stdout.splitlines()[1].split()[:4] == ["tiny_experiment", "finished", "1", "3"]


def test_settings_that_differ(trained, compare, tmp_path):
    (run,) = trained.runs
    other = tmp_path / "runs" / "other"
    shutil.copytree(run, other)
    settings = json.loads((other / "config.json").read_text())
    fields = settings["DetectionConfig"]
    fields["lr"], fields["print_interval"] = 0.125, 77  # the second decides no result
    fields["detector"]["HalfPPYOLOE"]["loss_factor"] = 0.25
    (other / "config.json").write_text(json.dumps(settings))
    output, _ = compare(run, other, trained.folder, "--settings", "--csv")
    mine, theirs = trained.folder.name, tmp_path.name
    assert rows_of(output) == [
        {"setting": "detector.HalfPPYOLOE.loss_factor", mine: "0.5", theirs: "0.25"},
        {"setting": "lr", mine: "0.01", theirs: "0.125"},
    ]
    output, _ = compare(run, trained.folder, run, other.parent / "other", "--settings")
    assert len(output.splitlines()) == 3
    shutil.copy(run / "config.json", other / "config.json")
    output, _ = compare(run, other, "--settings")
    assert output == "no setting that decides a result differs\n"
    _, error = compare(run, "--settings")
    assert error == "error: --settings compares at least two runs or experiments; 1 could be read"


def test_an_experiment_without_runs(compare, experiment_folder):
    page = experiment_folder / "config.py"
    page.write_text(page.read_text().replace('"""A very small', '"""Expected: AP 0.625, guessed.\n\nA very small', 1))
    output, said = compare(experiment_folder, "--csv")
    (row,) = rows_of(output)
    assert (row["name"], row["state"], row["expected"]) == ("tiny_experiment", "no run", "AP 0.625")
    assert int(row["parameters"]) > 0
    assert not {row[name] for name in ("images/s", "epochs", "seed", "commit", "digest")} - {""}
    assert not any("AP" in name for name in row)
    assert said == ""


def made(folder, name, ap, **changes):
    lines = [train_line(10, 1.0, speed=ap * 100), eval_line(1, ap), eval_line(2, ap / 2)]
    return write_run(folder / "runs" / name, lines, **changes)


def test_sorting(compare, tmp_path):
    folder = write_experiment(tmp_path / "net")
    for name, ap in (("c", 0.25), ("a", 0.5), ("b", 0.125)):
        made(folder, name, ap)
    write_run(folder / "runs" / "young", [])

    def order(*options):
        return [row["name"] for row in rows_of(compare(folder, "--csv", *options)[0])]

    assert order() == ["a", "b", "c", "young"]
    assert order("--sort", "AP") == ["a", "c", "b", "young"]
    assert order("--sort", "last AP50", "--reverse") == ["b", "c", "a", "young"]
    assert order("--sort", "name") == ["a", "b", "c", "young"]
    _, error = compare(folder, "--sort", "speed")
    assert error.splitlines()[-1].startswith(
        "error: --sort speed: there is no such column; there are name, state, best AP"
    )


def test_metrics_are_those_the_runs_have(compare, tmp_path):
    folder = write_experiment(tmp_path / "net")
    lines = [{"kind": "eval", "step": 1, "epoch": 1, "metrics": {"top1": 0.5, "top5": 0.75}}]
    write_run(folder / "runs" / "1", lines, settings={"best_metric": "top1"})
    (row,) = rows_of(compare(folder, "--csv")[0])
    assert (row["best top1"], row["last top1"]) == ("0.5", "0.5")
    (row,) = rows_of(compare(folder, "--csv", "--metrics", "top5")[0])
    assert row["best top5"] == "0.75"
    assert "best top1" not in row
    _, error = compare(folder, "--metrics", "top3")
    assert error.splitlines()[-1] == "error: no run has the metric top3; there are top1, top5"


def test_the_metric_of_a_class(compare, tmp_path):
    """By the name that analyze_logs has for it; the dict of all classes is no metric."""
    folder = write_experiment(tmp_path / "net")
    write_run(folder / "runs" / "1", [eval_line(1, 0.25), eval_line(2, 0.125)])
    (row,) = rows_of(compare(folder, "--csv", "--metrics", "class_AP.cat")[0])
    assert (row["best class_AP.cat"], row["last class_AP.cat"]) == ("0.25", "0.125")
    _, error = compare(folder, "--metrics", "class_AP")
    assert error.splitlines()[-1] == "error: no run has the metric class_AP; there are AP, AP50, class_AP.cat"


def test_damaged_and_unfinished_runs_are_shown_with_what_is_known(compare, tmp_path):
    folder = write_experiment(tmp_path / "net")
    made(folder, "1", 0.5, finished={"step": 20, "best": 0.5, "digests": {"weights": "ab" * 32}})
    (made(folder, "2", 0.25) / "config.json").write_text("{")
    (made(folder, "3", 0.25) / "metrics.jsonl").write_text("x\n")
    (made(folder, "4", 0.25) / "manifest.json").unlink()
    broken = made(folder, "5", 0.25)
    (broken / "experiment").mkdir()
    (broken / "experiment" / "config.py").write_text("import no_such_package\n")
    output, said = compare(folder, "--format", "csv")
    rows = {row["name"]: row for row in rows_of(output)}
    assert (rows["1"]["state"], rows["1"]["digest"], rows["1"]["best AP"]) == ("finished", "ab" * 8, "0.5")
    assert [rows[name]["best AP"] for name in "2345"] == ["", "", "0.25", "0.25"]
    assert [rows[name]["seed"] for name in "2345"] == ["", "7", "7", "7"]
    assert {rows[name]["state"] for name in "2345"} == {"unfinished"}
    for name, note in {
        "2": "config.json cannot be read",
        "3": "metrics.jsonl, line 1 is not JSON",
        "4": "no manifest.json",
        "5": "its settings cannot be read: ModuleNotFoundError: No module named 'no_such_package'",
    }.items():
        assert any(line.startswith(f"{name}: {note}") for line in said.splitlines())


def test_a_place_that_is_nothing_is_named(compare, tmp_path):
    assert compare(tmp_path)[1].startswith(f"error: {tmp_path} is neither an experiment's folder")


def test_markdown_is_a_table(compare, tmp_path):
    folder = write_experiment(tmp_path / "net")
    made(folder, "1", 0.5)
    made(folder, "2", 0.25)
    header, rule, *rows = compare(folder, "--format", "markdown")[0].splitlines()
    assert header.startswith("| name ")
    assert len(rows) == 2
    assert {line.count("|") for line in (header, rule, *rows)} == {header.count("|")}
    assert set(rule) == set("|-: ")
