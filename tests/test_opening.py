"""How a run begins: its record is complete, and it goes on only where code, data, settings and packages are equal."""

import json
import os
import platform
import shutil
import signal
import socket
import subprocess

import numpy as np
import pytest
import torch

from public.experiment import REPOSITORY, load_experiment
from public.training import manifest
from public.training.checkpoint import load_checkpoint
from tests.experiments import TinyExperiment, read_manifest
from tests.forked_training import signal_in_step, train

KILLED = {"change": signal_in_step, "change_args": (5, signal.SIGKILL), "status": -signal.SIGKILL}


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> TinyExperiment:
    """The tiny experiment with a run that was killed in its step 5."""
    experiment = TinyExperiment.create(tmp_path_factory.mktemp("killed"))
    train(experiment, "--lr", "0.02", "--checkpoint_minutes", "0", **KILLED)
    return experiment


@pytest.fixture
def fresh(killed, tmp_path) -> TinyExperiment:
    """A copy of it, with its run."""
    folder = tmp_path / killed.folder.name
    shutil.copytree(killed.folder, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return TinyExperiment(folder, killed.data_root)


def resume(experiment: TinyExperiment, *flags: str, **how) -> str:
    return train(experiment, "--lr", "0.02", "--resume", experiment.runs[0].name, *flags, **how)


# ---------------------------------------------------------------------------------------------- the record


def test_the_manifest_is_complete(killed, fresh):
    before = read_manifest(fresh.runs[0])
    resume(fresh)
    record = read_manifest(fresh.runs[0])
    config = load_experiment(fresh.runs[0]).config
    assert record["experiment"] == "tiny_experiment"
    assert record["seed"] == config.seed
    assert record["config"]["DetectionConfig"]["train_transforms"][0] == {"RandomFlip": {"prob": 0.5}}
    assert record["overrides"] == {"lr": [0.01, 0.02], "checkpoint_minutes": [10.0, 0.0]}
    assert record["identity"]["packages"]["python"] == platform.python_version()
    assert record["identity"]["packages"]["numpy"] == np.__version__
    assert record["identity"]["packages"]["torch"] == torch.__version__.split("+")[0]
    assert {len(record["identity"][name]) for name in ("library", "experiment")} == {64}
    assert record["identity"]["data"].keys() == {"train", "val"}
    assert any("14 images" in line for line in record["data"])
    assert record["git"].keys() == {"commit", "diff", "status"}
    first, second = record["starts"]
    assert [first["step"], second["step"]] == [0, 5 - 1]
    for start in (first, second):
        assert start["host"] == socket.gethostname()
        assert start["threads"] == config.threads == 1
        assert start["command"].endswith(("--checkpoint_minutes 0", f"--resume {fresh.runs[0].name}"))
        assert {"time", "pid", "processes", "device", "cpu", "driver", "system", "digest"} <= start.keys()
    assert first == before["starts"][0], "the record of the first start stays"
    assert first["digest"] != second["digest"], "digests at every start"
    finished = record["finished"]
    assert (finished["step"], finished["digests"].keys()) == (9, {"weights", "ema"})
    assert finished["metrics"].keys() >= {"AP", "voc_AP50"}


@pytest.mark.skipif(not (REPOSITORY / ".git").exists(), reason="needs the git repository")
def test_the_commit_and_what_is_not_committed_are_those_of_git():
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=REPOSITORY, capture_output=True, text=True).stdout.strip()

    state = manifest.git_state()
    assert state["commit"] == git("rev-parse", "HEAD")
    assert state["status"] == git("status", "--porcelain")
    assert state["diff"] == git("diff", "HEAD")


# ---------------------------------------------------------------------------------------------- refusals


def refused(experiment: TinyExperiment, *flags: str, **how) -> str:
    """The line by which the run is refused; nothing in it may change."""
    (run,) = experiment.runs
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    log = resume(experiment, *flags, status=1, **how)
    (line,) = [line for line in log.splitlines() if line.startswith("error: ")]
    assert f"{run} cannot go on" in line
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert experiment.runs == [run]
    return line


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--lr", "0.5"), "lr was 0.02, now 0.5"),
        (("--threads", "2"), "threads was 1, now 2"),
        (("--deterministic", "false"), "deterministic was True, now False"),
        (("--limit_images", "9"), "limit_images was None, now 9"),
        (("--max_steps", "7"), "max_steps was None, now 7"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_other_settings_are_refused(fresh, flags, reason):
    assert reason in refused(fresh, *flags)


def test_other_data_are_refused(killed, fresh, tmp_path):
    """One picture has another size in bytes, one box another corner."""
    fresh.data_root = shutil.copytree(killed.data_root, tmp_path / "data")
    with open(fresh.data_root / "tiny" / "JPEGImages" / "val_0001.png", "ab") as picture:
        picture.write(b"\0")
    line = refused(fresh)
    assert "data.val was" in line
    assert "data.train" not in line
    annotation = fresh.data_root / "tiny" / "Annotations" / "train_0001.xml"
    text = annotation.read_text()
    corner = text.split("<xmin>")[1].split("</xmin>")[0]
    annotation.write_text(text.replace(f"<xmin>{corner}<", f"<xmin>{int(corner) + 1}<", 1))
    assert "data.train was" in refused(fresh)


def another_numpy() -> None:
    found = manifest.packages
    manifest.packages = lambda: found() | {"numpy": "0.0.1"}


def test_other_packages_are_refused(fresh):
    assert f"packages.numpy was {np.__version__}, now 0.0.1" in refused(fresh, change=another_numpy)


def another_library() -> None:
    manifest.library_hash = lambda: "f" * 64


def test_other_code_is_refused(fresh):
    recorded = read_manifest(fresh.runs[0])["identity"]
    line = refused(fresh, change=another_library)
    assert f"library was {recorded['library']}, now {'f' * 64}" in line
    assert "--allow_code_change" in line
    with open(fresh.folder / "loss.py", "a") as file:
        file.write("# changed\n")
    assert f"experiment was {recorded['experiment']}, now" in refused(fresh)


def test_other_code_that_is_allowed_is_recorded_and_copied(fresh):
    (run,) = fresh.runs
    recorded = read_manifest(run)["identity"]
    old = (run / "experiment" / "loss.py").read_text()
    with open(fresh.folder / "loss.py", "a") as file:
        file.write("# changed\n")
    log = resume(fresh, "--allow_code_change", change=another_library)
    assert "the code has changed (library, experiment), as --allow_code_change lets it: recorded" in log
    record = read_manifest(run)
    change = record["starts"][1]["code_change"]
    assert change["library"] == [recorded["library"], "f" * 64]
    assert change["experiment"] == [recorded["experiment"], record["identity"]["experiment"]]
    assert change["experiment"][0] != change["experiment"][1]
    assert (run / "experiment" / "loss.py").read_text() == old + "# changed\n"
    assert (run / "experiment_until_step4" / "loss.py").read_text() == old
    assert load_experiment(run).config.lr == 0.02


def test_the_flag_lets_nothing_else_differ(fresh):
    assert "threads was 1, now 2" in refused(fresh, "--allow_code_change", "--threads", "2")


def test_by_itself_such_a_run_is_passed_over_with_the_reason_and_stays(fresh):
    (run,) = fresh.runs
    log = train(fresh, "--lr", "0.03", "--max_steps", "1")
    assert log.startswith("starting from scratch: no unfinished run to go on with")
    assert f"not resuming {run.name}: lr was 0.02, now 0.03 (+1)" in log
    assert len(fresh.runs) == 2
    assert load_checkpoint(run / "latest.pth")["training"]["step"] == 4


def test_a_damaged_manifest_is_named(fresh):
    (run,) = fresh.runs
    os.truncate(run / "manifest.json", 100)
    log = train(fresh, "--lr", "0.02", status=1)
    assert f"error: {run / 'manifest.json'} is damaged" in log
    with pytest.raises(json.JSONDecodeError):
        read_manifest(run)
