"""What can go wrong in a run: each has one line that names it, keeps the last good state, and lets the run go on."""

import multiprocessing
import os
import re
import resource
import shutil
import signal

import pytest
import torch

from public.checkpoint_files import load_checkpoint
from public.input import ImageError
from public.runs.checkpoint import DAMAGED, LATEST, PREVIOUS, load_latest, save_latest
from public.runs.run_folder import RunFolder
from public.training import failures, loop
from tests.helpers.experiments import TinyExperiment, read_manifest, read_metrics
from tests.helpers.forked_training import signal_in_step, train

KILLED = {"change": signal_in_step, "change_args": (5, signal.SIGKILL), "status": -signal.SIGKILL}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> TinyExperiment:
    experiment = TinyExperiment.create(tmp_path_factory.mktemp("whole"))
    train(experiment)
    return experiment


@pytest.fixture
def fresh(whole, tmp_path) -> TinyExperiment:
    return whole.copy(tmp_path)


def error_line(log: str) -> str:
    """The one line that says what went wrong; no traceback stands on the terminal."""
    assert "Traceback" not in log, log
    (line,) = [line for line in log.splitlines() if line.startswith("error: ")]
    return line


def goes_on_to_the_same_end(whole: TinyExperiment, fresh: TinyExperiment, *flags: str) -> str:
    """Starts the run again, which must end as the undisturbed one; what it printed."""
    log = train(fresh, *flags)
    assert log.startswith("resuming ")
    (run,) = fresh.runs
    assert fresh.digests() == whole.digests()
    assert read_metrics(run) == read_metrics(whole.runs[0])
    return log


# ---------------------------------------------------------------------------------------------- the disk


def fill_the_disk_after(step: int) -> None:
    """No file may grow above 100 kB any more: logs fit, checkpoints do not."""
    original = loop.Trainer.step

    def step_and_fill(self, batch):
        original(self, batch)
        if self.state.step == step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    loop.Trainer.step = step_and_fill


def test_a_full_disk_in_the_middle_of_a_checkpoint(whole, fresh):
    flags = ("--checkpoint_minutes", "0")
    log = train(fresh, *flags, change=fill_the_disk_after, change_args=(5,), status=1)
    (run,) = fresh.runs
    line = error_line(log)
    for part in (str(run / LATEST), "could not be written", "File too large", "saved: step 4 (training)", "--resume"):
        assert part in line
    assert load_checkpoint(run / LATEST)["training"]["step"] == 4
    assert not list(run.glob(".*.tmp"))
    assert "File too large" in (run / "error_rank0.txt").read_text(), "the traceback is kept"
    goes_on_to_the_same_end(whole, fresh, *flags)


def test_a_place_that_cannot_be_written_to(fresh):
    (fresh.folder / "runs").write_text("no folder")
    line = error_line(train(fresh, status=1))
    assert str(fresh.folder / "runs") in line
    assert "cannot be made" in line


def forbid_the_log(step: int) -> None:
    """From `step` on the log is a folder, which cannot be written to by anyone."""
    original = loop.Trainer.log

    def log(self, *args):
        if self.state.step == step:
            os.rename(self.run.path / "metrics.jsonl", self.run.path / "kept")
            os.mkdir(self.run.path / "metrics.jsonl")
        original(self, *args)

    loop.Trainer.log = log


def test_a_log_that_cannot_be_written_to(whole, fresh):
    log = train(fresh, change=forbid_the_log, change_args=(5,), status=1)
    (run,) = fresh.runs
    line = error_line(log)
    assert f"{run / 'metrics.jsonl'} could not be written" in line
    assert "saved: step 3 (training)" in line
    os.rmdir(run / "metrics.jsonl")
    os.rename(run / "kept", run / "metrics.jsonl")
    goes_on_to_the_same_end(whole, fresh)


# ---------------------------------------------------------------------------------------------- checkpoints


def spoil_a_gradient(step: int) -> None:
    """In step `step`, from 1, one gradient is infinite, though the loss is finite."""
    original = loop.Trainer.clip

    def spoil_and_clip(self):
        if self.state.step == step - 1:
            next(p for p in self.state.model.parameters() if p.grad is not None).grad.fill_(float("inf"))
        return original(self)

    loop.Trainer.clip = spoil_and_clip


def test_weights_that_are_not_finite_do_not_take_the_place_of_good_ones(whole, fresh):
    log = train(fresh, "--checkpoint_minutes", "0", change=spoil_a_gradient, change_args=(5,), status=1)
    line = error_line(log)
    assert re.search(r"after step 5 [\w.]+ and 0 more parameters are not finite, though the loss was", line)
    assert "saved: step 4 (training)" in line
    goes_on_to_the_same_end(whole, fresh)


def test_a_truncated_checkpoint_gives_way_to_the_one_before_it(whole, fresh):
    train(fresh, "--checkpoint_minutes", "0", **KILLED)
    (run,) = fresh.runs
    data = (run / LATEST).read_bytes()
    (run / LATEST).write_bytes(data[: len(data) // 2])
    log = goes_on_to_the_same_end(whole, fresh)
    assert log.startswith(f"resuming {run} from step 3")
    assert "resuming from the checkpoint before the last" in log
    assert f"{run / LATEST} is not a checkpoint" in log
    assert (run / DAMAGED).read_bytes() == data[: len(data) // 2], "it is put aside, not thrown away"


def test_where_both_are_damaged_it_is_refused_and_nothing_is_started_anew(fresh):
    train(fresh, "--checkpoint_minutes", "0", **KILLED)
    (run,) = fresh.runs
    for name in (LATEST, PREVIOUS):
        (run / name).write_bytes(b"half")
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    line = error_line(train(fresh, status=1))
    for part in (str(run / LATEST), str(run / PREVIOUS), "--resume none"):
        assert part in line
    assert fresh.runs == [run]
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before


def checkpoint(number: int) -> dict:
    return {"model": {"w": torch.full((3,), float(number))}, "training": {"step": number}}


def test_the_checkpoint_before_the_last_is_kept(tmp_path):
    for number in (1, 2, 3):
        save_latest(checkpoint(number), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [LATEST, PREVIOUS]
    assert load_latest(tmp_path)[0]["training"]["step"] == 3
    assert load_checkpoint(tmp_path / PREVIOUS)["training"]["step"] == 2
    (tmp_path / LATEST).unlink()  # killed between two renames
    found, (line,) = load_latest(tmp_path)
    assert found["training"]["step"] == 2
    assert "there is no checkpoint" in line
    assert [path.name for path in tmp_path.iterdir()] == [LATEST]
    (tmp_path / LATEST).unlink()
    with pytest.raises(ValueError, match=rf"no checkpoint .*{LATEST}, and there is no {PREVIOUS}"):
        load_latest(tmp_path)


@pytest.mark.parametrize("part", ["chain", "ema", "log_sizes", "optimizer"])
def test_a_checkpoint_that_lacks_a_part_is_refused_by_its_name(fresh, part):
    train(fresh, "--checkpoint_minutes", "0", **KILLED)
    (run,) = fresh.runs
    content = load_checkpoint(run / LATEST)
    del content["training"][part]
    torch.save(content, run / LATEST)
    logs = {name: (run / name).read_bytes() for name in ("train.log", "metrics.jsonl", "digests.jsonl")}
    line = error_line(train(fresh, status=1))
    assert f"the checkpoint lacks '{part}', a part of the state" in line
    assert {name: (run / name).read_bytes() for name in logs} == logs, "refused before anything is touched"
    assert fresh.runs == [run]


# ---------------------------------------------------------------------------------------------- data and workers


def test_a_picture_that_vanishes_during_the_run(whole, fresh, tmp_path):
    """It is moved away before it is read for the second time; put back, the run goes on."""
    fresh.data_root = shutil.copytree(whole.data_root, tmp_path / "data")
    pictures = fresh.data_root / "tiny" / "JPEGImages"
    flags = ("--num_workers", "1", "--prefetch_factor", "1")
    log = train(fresh, *flags, change=move_away_after, change_args=(4, str(pictures)), status=1)
    line = error_line(log)
    assert f"{pictures}/train_" in line
    assert "saved: step 3 (training)" in line
    os.rename(f"{pictures}_away", pictures)
    goes_on_to_the_same_end(whole, fresh)


def move_away_after(step: int, folder: str) -> None:
    original = loop.Trainer.step

    def step_and_move(self, batch):
        original(self, batch)
        if self.state.step == step:
            os.rename(folder, f"{folder}_away")

    loop.Trainer.step = step_and_move


def kill_a_worker_after(step: int) -> None:
    """A loader worker of this process dies by SIGKILL, as one does whose machine has no memory left."""
    original = loop.Trainer.step

    def step_and_kill(self, batch):
        original(self, batch)
        if self.state.step == step:
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)

    loop.Trainer.step = step_and_kill


def test_a_loader_worker_that_dies(whole, fresh):
    """Batches that were ready are still trained on; one batch ahead a worker, so that some never were."""
    flags = ("--num_workers", "2", "--prefetch_factor", "1")
    log = train(fresh, *flags, change=kill_a_worker_after, change_args=(4,), status=1)
    line = error_line(log)
    assert re.search(r"a loader worker has died: process \d+ was killed by SIGKILL", line)
    assert "--num_workers" in line
    assert re.search(r"saved: step [36] \(training\)", line)
    goes_on_to_the_same_end(whole, fresh)


# ---------------------------------------------------------------------------------------------- a second process


def test_a_second_process_in_the_same_run(fresh, tmp_path):
    """The first is held in its step 4; the second names the run and what to do, and touches nothing."""
    train(fresh, **KILLED)
    (run,) = fresh.runs
    first = RunFolder(run)
    assert first.lock()
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    line = error_line(train(fresh, "--resume", run.name, status=1))
    assert f"another process is working on {run}" in line
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before
    first.close()
    train(fresh, "--resume", run.name)
    assert read_manifest(run)["finished"]["step"] == 9


# ---------------------------------------------------------------------------------------------- the words


def test_a_mistake_in_the_code_keeps_its_traceback(fresh):
    loss = fresh.folder / "loss.py"
    loss.write_text(loss.read_text().replace("self.factor * term", "self.fcator * term"))
    log = train(fresh, status=1)
    assert "Traceback" in log
    assert "fcator" in log


def test_causes_in_one_line():
    wrapped = (
        "Caught ImageError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
        '  File "x.py", line 1, in f\npublic.input.ImageError: /data/a.jpg: missing\n'
    )
    assert failures.cause(ImageError(wrapped)) == "/data/a.jpg: missing"
    assert failures.cause(OSError("a\nb")) == "a b"
    assert failures.cause(RuntimeError("shapes differ")) is None
    assert failures.cause(KeyError("x")) is None


@pytest.mark.parametrize(
    ("typed", "command"),
    [
        ("python train.py", "python train.py --resume R"),
        ("python train.py --resume none --lr 0.5", "python train.py --lr 0.5 --resume R"),
        ("python train.py --resume=old --epochs 2", "python train.py --epochs 9 --resume R"),
        ("python train.py --resume old --extend-epochs 7 --lr 1", "python train.py --lr 1 --epochs 9 --resume R"),
    ],
)
def test_the_command_that_goes_on(monkeypatch, tmp_path, typed, command):
    monkeypatch.setattr(failures.sys, "orig_argv", typed.split())
    text = failures.how_to_go_on("step 4 (training)", tmp_path / "R", 9)
    assert text == f"saved: step 4 (training) of {tmp_path / 'R'}. To resume: {command}"
    assert "starts anew" in failures.how_to_go_on(None, tmp_path / "R", 9)
