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

from public.checkpoint_files import load_checkpoint
from public.files import REPOSITORY
from public.runs import manifest
from public.runs.experiment import load_experiment
from public.runs.run_folder import RunFolder
from tests.helpers.experiments import TinyExperiment, read_manifest
from tests.helpers.forked_training import signal_in_step, train
from tests.helpers.processes import start_process

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
    assert record["identity"]["experiment"].keys() == {"config.py", "loss.py", "test.sh", "train.py"}
    assert {len(value) for value in [record["identity"]["library"], *record["identity"]["experiment"].values()]} == {64}
    assert record["identity"]["data"].keys() == {"train", "val"}
    assert any("14 images" in line for line in record["data"])
    assert record["git"].keys() == {"commit", "diff", "status", "untracked"}
    first, second = record["starts"]
    assert [first["step"], second["step"]] == [0, 5 - 1]
    for start in (first, second):
        assert start["host"] == socket.gethostname()
        assert start["threads"] == config.threads == 1
        assert start["command"].endswith(("--checkpoint_minutes 0", f"--resume {fresh.runs[0].name}"))
        machine = {"device", "cpu", "driver", "system", "environment"}
        assert machine | {"time", "pid", "processes", "digest"} <= start.keys()
    assert first == before["starts"][0], "the record of the first start stays"
    assert first["digest"] != second["digest"], "digests at every start"
    finished = record["finished"]
    assert (finished["step"], finished["digests"].keys()) == (9, {"weights", "ema"})
    assert finished["metrics"].keys() >= {"AP", "voc_AP50"}


@pytest.mark.skipif(not (REPOSITORY / ".git").exists(), reason="needs the git repository")
def test_the_commit_and_what_is_not_committed_are_those_of_git():
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=REPOSITORY, capture_output=True, text=True).stdout

    state = manifest.git_state()
    assert state["commit"] == git("rev-parse", "HEAD").strip()
    assert state["status"] == git("status", "--porcelain")
    assert state["diff"] == git("diff", "HEAD")


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A git repository, of which the manifest tells, with a function that calls git in it."""
    place = tmp_path / "repository"

    def git(*words: str) -> None:
        who = ("-c", "user.name=A", "-c", "user.email=a@b.c")
        subprocess.run(["git", "-C", str(place), *who, *words], check=True, capture_output=True)

    (place / "public").mkdir(parents=True)
    (place / "public" / "a.py").write_text("one\n\ntwo\n\n")
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    monkeypatch.setattr(manifest, "REPOSITORY", place)
    return place, git


def test_the_repository_is_only_read(repository):
    """git would renew its index where a file's time is another, under a lock that a killed run leaves behind."""
    place, git = repository
    os.utime(place / "public" / "a.py", (1, 1))
    index = (place / ".git" / "index").read_bytes()
    assert manifest.git_state()["status"] == ""
    assert (place / ".git" / "index").read_bytes() == index
    git("status")
    assert (place / ".git" / "index").read_bytes() != index, "else the test would not notice"


def test_the_recorded_diff_can_be_applied(repository, tmp_path):
    """Also where it ends in an empty line, and whatever the user's git shows him."""
    place, git = repository
    git("config", "color.ui", "always")
    git("config", "diff.noprefix", "true")
    (place / "public" / "a.py").write_text("ONE\n\ntwo\n\n")
    (place / "public" / "new.py").write_text("a file that git does not know\n")
    state = manifest.git_state()
    assert state["untracked"] == {"public/new.py": "a file that git does not know\n"}
    assert state["status"] == " M public/a.py\n?? public/new.py\n"
    git("checkout", "--", ".")
    (tmp_path / "patch").write_text(state["diff"])
    git("apply", str(tmp_path / "patch"))
    assert (place / "public" / "a.py").read_text() == "ONE\n\ntwo\n\n"


def test_a_changed_file_that_is_not_utf8_stops_no_training(repository):
    place, _ = repository
    (place / "public" / "a.py").write_bytes(b"caf\xe9\n")
    assert "+caf\\xe9" in manifest.git_state()["diff"]


# ---------------------------------------------------------------------------------------------- refusals


def refused(experiment: TinyExperiment, *flags: str, **how) -> str:
    """The line by which the run is refused; nothing in it may change."""
    (run,) = experiment.runs
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    log = resume(experiment, *flags, status=1, **how)
    (line,) = [line for line in log.splitlines() if line.startswith("error: ")]
    assert f"{run} cannot resume" in line
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
    assert f"library was {recorded['library'][:12]}, now {'f' * 12}" in line
    assert "--allow_code_change" in line
    with open(fresh.folder / "loss.py", "a") as file:
        file.write("# changed\n")
    assert f"experiment/loss.py was {recorded['experiment']['loss.py'][:12]}, now" in refused(fresh)
    (fresh.folder / "test.sh").unlink()
    (fresh.folder / "other.py").write_text("")
    line = refused(fresh)
    assert f"experiment/test.sh was {recorded['experiment']['test.sh'][:12]}, now absent" in line
    assert "experiment/other.py was absent, now e3b0c44298fc" in line


def test_what_tools_leave_in_the_folder_is_no_other_code(fresh):
    """`detect` writes a table into the folder it is called in, a user his notes."""
    (fresh.folder / "street_detections").mkdir()
    (fresh.folder / "street_detections" / "detections.json").write_text("{}")
    (fresh.folder / "notes.txt").write_text("to be tried: lr 0.02")
    log = train(fresh, "--lr", "0.02")
    assert log.startswith(f"resuming {fresh.runs[0]} from step 4")
    assert "code_change" not in read_manifest(fresh.runs[0])["starts"][1]


def test_a_fingerprint_of_another_kind_is_explained(fresh):
    line = refused(fresh, "--fingerprint", "full")
    assert "data.train_pictures was None, now " in line
    assert "(it was started without --fingerprint full)" in line


def test_other_code_that_is_allowed_is_recorded_and_copied(fresh):
    (run,) = fresh.runs
    recorded = read_manifest(run)["identity"]
    old = (run / "experiment" / "loss.py").read_text()
    with open(fresh.folder / "loss.py", "a") as file:
        file.write("# changed\n")
    log = resume(fresh, "--allow_code_change", change=another_library)
    assert "the code has changed (library, experiment/loss.py), as --allow_code_change lets it: recorded" in log
    record = read_manifest(run)
    change = record["starts"][1]["code_change"]
    assert change["library"] == [recorded["library"], "f" * 64]
    hashes = [recorded["experiment"]["loss.py"], record["identity"]["experiment"]["loss.py"]]
    assert change["experiment/loss.py"] == hashes
    assert hashes[0] != hashes[1]
    assert record["starts"][1]["git"].keys() == record["git"].keys(), "the commit and the diff of the new code"
    assert load_experiment(run).source == run / "experiment_from_step4"
    assert (run / "experiment_from_step4" / "loss.py").read_text() == old + "# changed\n"
    assert (run / "experiment" / "loss.py").read_text() == old
    assert load_experiment(run).config.lr == 0.02


def kill_itself_after(function: str, call: int) -> None:
    """The process dies right after call number `call` of one of the functions by which files are made."""
    module, name = {"copy2": (shutil, "copy2"), "replace": (os, "replace"), "mkdir": (os, "mkdir")}[function]
    original, calls = getattr(module, name), []

    def counted(*args, **kwargs):
        result = original(*args, **kwargs)
        calls.append(args)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(module, name, counted)


def take_in_other_code(folder, run, function: str, call: int) -> None:
    if function:
        kill_itself_after(function, call)
    RunFolder(run).replace_experiment(load_experiment(folder), 4, identity="new")


def test_killed_at_any_point_while_other_code_is_taken_in(fresh):
    """The copy in force and what the manifest says belong together, and a second try goes to its end."""
    (run,) = fresh.runs
    identity, old = read_manifest(run)["identity"], (fresh.folder / "loss.py").read_text()
    (fresh.folder / "loss.py").write_text(old + "# changed\n")
    points = [("mkdir", 1), *(("copy2", call) for call in (1, 2, 3, 4)), ("replace", 1), ("", 0)]
    for function, call in points:
        process = start_process(take_in_other_code, fresh.folder, run, function, call)
        process.join()
        assert process.exitcode == (-signal.SIGKILL if function else 0), (function, call)
        is_new = function in ("replace", "")
        assert read_manifest(run)["identity"] == ("new" if is_new else identity)
        assert load_experiment(run).config.lr == 0.02
        assert (load_experiment(run).source / "loss.py").read_text() == old + "# changed\n" * is_new


def test_killed_while_other_code_is_taken_in_and_started_again_by_the_same_command(fresh):
    (run,) = fresh.runs
    with open(fresh.folder / "loss.py", "a") as file:
        file.write("# changed\n")
    resume(fresh, "--allow_code_change", change=kill_itself_after, change_args=("copy2", 3), status=-signal.SIGKILL)
    log = resume(fresh, "--allow_code_change")
    assert log.startswith(f"resuming {run} from step 4")
    assert "the code has changed (experiment/loss.py)" in log
    record = read_manifest(run)
    assert (record["finished"]["step"], record["experiment_copy"]) == (9, "experiment_from_step4")


def test_code_that_changes_twice_before_a_step_is_saved(fresh):
    """Nothing was trained by the code between, so its copy goes."""
    (run,) = fresh.runs
    for number in range(3):
        (fresh.folder / "extra.py").write_text(f"NUMBER = {number}\n")
        experiment, opened = load_experiment(fresh.folder), RunFolder(run)
        opened.replace_experiment(experiment, 4, identity=opened.manifest["identity"] | {"number": number})
        assert (load_experiment(run).source / "extra.py").read_text() == f"NUMBER = {number}\n"
        assert opened.manifest["identity"]["number"] == number
    assert not (run / "experiment" / "extra.py").exists(), "what trained the first steps stays"


def test_a_run_of_an_older_version_is_refused_by_name(fresh):
    """It kept one hash for the whole folder, and no variables."""
    (run,) = fresh.runs
    record = read_manifest(run)
    record["identity"] |= {"experiment": "0" * 64, "library": "1" * 64}
    del record["starts"][0]["environment"]
    (run / "manifest.json").write_text(json.dumps(record))
    line = refused(fresh)
    assert f"library was {'1' * 12}, now" in line
    assert f"experiment was {'0' * 12}, now" in line
    assert "the code has changed (library, experiment)" in resume(fresh, "--allow_code_change")


def test_the_flag_lets_nothing_else_differ(fresh):
    assert "threads was 1, now 2" in refused(fresh, "--allow_code_change", "--threads", "2")


def test_another_machine_is_said(fresh):
    (run,) = fresh.runs
    record = read_manifest(run)
    start = record["starts"][0]
    cpu = start["cpu"]
    start |= {"cpu": "Abacus", "device": "Abacus"}
    start["environment"] |= {"ATEN_CPU_CAPABILITY": "abacus"}
    (run / "manifest.json").write_text(json.dumps(record))
    log = resume(fresh)
    (line,) = [line for line in log.splitlines() if "rounding" in line]
    here = os.environ.get("ATEN_CPU_CAPABILITY", "not set")
    assert line.startswith(
        f"cpu was Abacus, now {cpu}; the variable ATEN_CPU_CAPABILITY was abacus, now {here}: weights equal"
    )


def test_an_undisturbed_machine_is_not(fresh):
    assert "rounding" not in resume(fresh)


def lines_that_fit(lines: list[str], size: int) -> int:
    """How many whole lines there are in the first `size` bytes."""
    return sum(len("".join(lines[: i + 1]).encode()) <= size for i in range(len(lines)))


def test_lines_of_a_log_that_are_lost_are_told_of(fresh):
    """A machine went down before its disk had them; the last is in parts.  The log stays one that can be read."""
    (run,) = fresh.runs
    path = run / "metrics.jsonl"
    size = path.stat().st_size
    lines = path.read_text().splitlines(keepends=True)
    os.truncate(path, size // 2)
    (run / "digests.jsonl").unlink()
    log = resume(fresh)
    assert f"metrics.jsonl has {size // 2} bytes, at the checkpoint it had " in log
    assert "digests.jsonl has 0 bytes, at the checkpoint it had " in log
    assert "its last lines are lost" in log
    whole = [json.loads(line) for line in path.read_text().splitlines()]
    kept = lines[: lines_that_fit(lines, size // 2)]
    assert 0 < len(kept) < len(lines)
    assert path.read_text().startswith("".join(kept))
    assert [line["step"] for line in whole[len(kept) :] if line["kind"] == "train"] == [5, 6, 7, 8, 9]


def test_a_run_that_early_stop_ended_can_be_trained_longer(fresh):
    """The patience begins anew, else the new run would be over before its first step."""
    flags = ("--lr", "0.02", "--early_stop", "1")
    train(fresh, *flags)
    old = fresh.runs[-1]
    ended = read_manifest(old)["finished"]["step"]
    assert ended == 6
    train(fresh, *flags, "--resume", old.name, "--extend_epochs", "1")
    assert read_manifest(fresh.runs[-1])["extends"] == {"run": old.name, "step": ended}
    assert read_manifest(fresh.runs[-1])["finished"]["step"] > ended


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--best_metric", "mAP"), "best_metric is 'mAP', but metrics = ('coco', 'voc', 'voc07') measures AP, AP50"),
        (("--device", "gpu"), "--device gpu is not a device: auto, cpu, cuda, cuda:1"),
    ],
    ids=["best_metric", "device"],
)
def test_a_mistaken_flag_stops_before_a_run_is_made(fresh, flags, reason):
    log = train(fresh, *flags, status=1)
    assert log.startswith(f"error: {reason}")
    assert len(log.splitlines()) == 1
    assert len(fresh.runs) == 1


def test_by_itself_such_a_run_is_passed_over_with_the_reason_and_stays(fresh):
    (run,) = fresh.runs
    log = train(fresh, "--lr", "0.03", "--max_steps", "1")
    assert log.startswith("starting from scratch: no unfinished run to resume")
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
