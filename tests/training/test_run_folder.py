"""Run folders: what they hold, their lock, and which run is gone on with."""

import dataclasses
import json
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from public.config import differences, replace
from public.runs import manifest
from public.runs.experiment import Experiment, load_experiment
from public.runs.run_folder import LOG_FILES, RunFolder, find_unfinished, named_run, newest_weights, refusals
from public.training import reporter
from public.training.reporter import Reporter
from tests.helpers.processes import CONTEXT, start_process

IDENTITY = {"library": "abc", "data": {"train": "1", "val": "2"}, "max_steps": None}


@pytest.fixture
def experiment(experiment_folder) -> Experiment:
    return load_experiment(experiment_folder)


def make_run(experiment: Experiment, *, finished=None, checkpoint: bool = True, identity=IDENTITY, **changes) -> Path:
    """A run as a killed or a finished process leaves it."""
    run = RunFolder.create(experiment, replace(experiment.config, **changes), {})
    run.write_json("manifest.json", {"identity": identity, "finished": finished, "starts": []})
    if checkpoint:
        (run.path / "latest.pth").write_bytes(b"")
    run.close()
    return run.path


# ---------------------------------------------------------------------------------------------- making


def test_a_new_run_holds_settings_overrides_and_a_copy_of_the_folder(experiment):
    config = replace(experiment.config, epochs=9)
    run = RunFolder.create(experiment, config, {"epochs": [experiment.config.epochs, 9]})
    run.close()
    assert run.path.parent == experiment.folder / "runs"
    assert differences(load_experiment(run.path).config, config) == []
    assert run.read_json("overrides.json") == {"epochs": [experiment.config.epochs, 9]}
    for file in experiment.folder.glob("*.*"):
        assert (run.path / "experiment" / file.name).read_bytes() == file.read_bytes()
    assert (run.path / "pictures").is_dir()


def test_runs_of_the_same_second_have_folders_of_their_own(experiment, monkeypatch):
    monkeypatch.setattr(time, "strftime", lambda *_: "20300101-000000")
    names = [make_run(experiment).name for _ in range(3)]
    assert names == ["20300101-000000", "20300101-000000-2", "20300101-000000-3"]


def test_a_new_run_is_locked(experiment):
    run = RunFolder.create(experiment, experiment.config, {})
    assert not is_free(run.path)
    run.close()
    assert is_free(run.path)


# ---------------------------------------------------------------------------------------------- the lock


def is_free(path: Path) -> bool:
    """Whether a run can be locked now; lets go of it again."""
    run = RunFolder(path)
    free = run.lock()
    run.close()
    return free


def hold_lock(path: Path, answer) -> None:
    run = RunFolder(path)
    answer.send(run.lock())
    time.sleep(300)


def hold_lock_with_a_worker(path: Path, answer) -> None:
    """Holds the lock beside a forked process, as a loader worker is; the process answers with its id."""
    run = RunFolder(path)
    assert run.lock()
    if os.fork() == 0:
        answer.send(os.getpid())
    time.sleep(300)


def test_the_lock_keeps_a_second_process_out_until_the_first_one_dies(experiment):
    path = make_run(experiment)
    question, answer = CONTEXT.Pipe(duplex=False)
    process = start_process(hold_lock, path, answer)
    assert question.poll(60)
    assert question.recv() is True
    assert not is_free(path)
    process.kill()
    process.join()
    assert is_free(path)


def test_a_worker_that_outlives_a_killed_run_does_not_hold_its_lock(experiment):
    path = make_run(experiment)
    question, answer = CONTEXT.Pipe(duplex=False)
    process = start_process(hold_lock_with_a_worker, path, answer)
    assert question.poll(60)
    worker = question.recv()
    try:
        assert not is_free(path), "the worker must not let go of it for its parent either"
        process.kill()
        process.join()
        os.kill(worker, 0)  # it lives
        assert is_free(path)
    finally:
        os.kill(worker, signal.SIGKILL)


def test_closing_a_run_lets_go_of_it(experiment):
    first = RunFolder(make_run(experiment))
    assert first.lock()
    assert not is_free(first.path)
    first.close()
    first.close()
    assert is_free(first.path)


# ---------------------------------------------------------------------------------------------- logs and small files


def test_logs_are_cut_back_to_a_checkpoint(experiment):
    run = RunFolder(make_run(experiment))
    assert run.log_sizes() == dict.fromkeys(LOG_FILES, 0)
    run.append("train.log", "zwölf — 12")
    run.append_metrics(step=12, loss=0.5)
    run.append("digests.jsonl", "{}")
    sizes = run.log_sizes()
    before = {name: (run.path / name).read_bytes() for name in sizes}
    run.append("train.log", "thirteen")
    run.append_metrics(step=13, loss=0.25)
    run.truncate_logs(sizes)
    assert {name: (run.path / name).read_bytes() for name in sizes} == before
    run.append_metrics(step=13, loss=0.25)
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": 12, "loss": 0.5}, {"step": 13, "loss": 0.25}]


def test_logs_that_began_after_the_checkpoint_become_empty(experiment):
    run = RunFolder(make_run(experiment))
    sizes = run.log_sizes()
    run.append("train.log", "one")
    run.truncate_logs(sizes)
    assert (run.path / "train.log").read_bytes() == b""
    assert not (run.path / "metrics.jsonl").exists()


def test_a_log_that_is_shorter_than_at_the_checkpoint_is_not_filled_up(experiment):
    run = RunFolder(make_run(experiment))
    run.append("train.log", "one")
    (run.path / "metrics.jsonl").write_bytes(b'{"step": 1}\n{"st')
    lost = run.truncate_logs(dict.fromkeys(LOG_FILES, 1000))
    assert (run.path / "train.log").read_bytes() == b"one\n"
    assert (run.path / "metrics.jsonl").read_bytes() == b'{"step": 1}\n', "no line is joined to a part of one"
    assert [line.split(" has ")[0] for line in lost] == list(LOG_FILES)
    assert run.truncate_logs(run.log_sizes()) == []


@pytest.mark.parametrize("name", LOG_FILES)
def test_a_size_that_the_checkpoint_lacks_is_named_before_anything_is_cut(experiment, name):
    run = RunFolder(make_run(experiment))
    run.append("train.log", "one")
    sizes = {log: 0 for log in LOG_FILES if log != name}
    with pytest.raises(ValueError, match=f"lacks the size of {name}"):
        run.truncate_logs(sizes)
    assert (run.path / "train.log").read_bytes() == b"one\n"


def test_a_log_that_cannot_be_written_and_a_damaged_file_are_named(experiment):
    run = RunFolder(make_run(experiment))
    (run.path / "metrics.jsonl").mkdir()
    with pytest.raises(OSError, match=rf"{run.path}/metrics\.jsonl could not be written \(.*Is a directory"):
        run.append_metrics(step=1)
    (run.path / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match=rf"{run.path}/manifest\.json is damaged"):
        run.manifest  # noqa: B018


def test_a_folder_of_runs_that_cannot_be_made_is_named(experiment):
    experiment.runs.write_text("no folder")
    with pytest.raises(OSError, match=rf"{experiment.runs}, cannot be made"):
        make_run(experiment)


def test_small_files_are_replaced_whole_or_not_at_all(experiment, monkeypatch):
    run = RunFolder(make_run(experiment))
    run.update_manifest(finished="now")
    assert run.manifest == {"identity": IDENTITY, "finished": "now", "starts": []}
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run.update_manifest(finished="later")
    assert run.manifest["finished"] == "now"


# ---------------------------------------------------------------------------------------------- which run to go on with


def test_the_newest_equal_run_is_gone_on_with_and_locked(experiment):
    older, newest = make_run(experiment), make_run(experiment)
    run, passed = find_unfinished(experiment, experiment.config, IDENTITY)
    assert run.path == newest != older
    assert passed == []
    assert not is_free(newest), "it is locked for this process"
    run.close()


def test_without_runs_there_is_none(experiment):
    assert find_unfinished(experiment, experiment.config, IDENTITY) == (None, [])


def test_what_is_passed_over_has_a_reason(experiment):
    good = make_run(experiment)
    other_lr = make_run(experiment, lr=0.125)
    other_data = make_run(experiment, identity=IDENTITY | {"data": {"train": "9", "val": "2"}})
    locked = RunFolder(make_run(experiment))
    assert locked.lock()
    make_run(experiment, finished={"step": 5})
    make_run(experiment, checkpoint=False)
    run, passed = find_unfinished(experiment, experiment.config, IDENTITY)
    run.close()
    locked.close()
    assert run.path == good
    assert passed == [
        f"not resuming {locked.path.name}: another process is working on it",
        f"not resuming {other_data.name}: data.train was 9, now 1",
        f"not resuming {other_lr.name}: lr was 0.125, now {experiment.config.lr}",
    ]


def test_more_reasons_are_counted_and_a_refused_run_is_not_locked(experiment):
    path = make_run(experiment, lr=0.125, epochs=77, seed=123)
    run, (line,) = find_unfinished(experiment, experiment.config, IDENTITY)
    assert run is None
    assert line.endswith("(+2)")
    assert is_free(path)


def test_free_fields_may_differ(experiment):
    path = make_run(experiment)
    config = replace(experiment.config, num_workers=3, print_interval=999, prefetch_factor=99)
    run, passed = find_unfinished(experiment, config, IDENTITY)
    run.close()
    assert (run.path, passed) == (path, [])


def test_a_refusal_names_the_field_the_old_and_the_new_value(experiment):
    run = RunFolder(make_run(experiment, lr=0.125))
    optimizer = dataclasses.replace(experiment.config.optimizer, weight_decay=0.375)
    config = replace(experiment.config, optimizer=optimizer)
    reasons = refusals(run, config, IDENTITY | {"library": "xyz", "limit_images": 10})
    old = experiment.config.optimizer.weight_decay
    assert sorted(reasons) == sorted(
        [
            f"lr was 0.125, now {config.lr}",
            f"optimizer.SGD.weight_decay was {old}, now 0.375",
            "library was abc, now xyz (--allow_code_change resumes all the same, and records it)",
            "limit_images was None, now 10",
        ]
    )
    assert refusals(run, replace(experiment.config, lr=0.125), IDENTITY) == []
    changed = IDENTITY | {"library": "xyz", "data": {"train": "1"}}
    reasons = refusals(run, replace(experiment.config, lr=0.125), changed, allow_code_change=True)
    assert reasons == ["data.val was 2, now None"], "allowed is another code, nothing else"


def drop_a_setting(path: Path) -> None:
    frozen = json.loads((path / "config.json").read_text())
    del frozen["DetectionConfig"]["epochs"]
    (path / "config.json").write_text(json.dumps(frozen))


DAMAGES = {
    "a setting of an older library": (drop_a_setting, "epochs"),
    "no settings": (lambda path: (path / "config.json").unlink(), "config.json"),
    "broken settings": (lambda path: (path / "config.json").write_text("{"), "Expecting"),
    "a copy that uses what is gone": (
        lambda path: (path / "experiment" / "config.py").write_text("import public\npublic.gone()"),
        "AttributeError",
    ),
    "a copy that imports what is gone": (
        lambda path: (path / "experiment" / "config.py").write_text("from public.nowhere import X"),
        "public.nowhere",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_run_that_can_no_longer_be_opened_is_passed_over(experiment, name):
    damage, reason = DAMAGES[name]
    good, path = make_run(experiment), make_run(experiment)
    damage(path)
    run, (line,) = find_unfinished(experiment, experiment.config, IDENTITY)
    run.close()
    assert run.path == good
    assert line.startswith(f"not resuming {path.name}: its settings no longer fit the library")
    assert reason in line


def test_a_run_is_named_by_its_folder_or_its_path(experiment, tmp_path, monkeypatch):
    path = make_run(experiment)
    assert named_run(experiment, path.name).path == path
    assert named_run(experiment, str(path)).path == path
    monkeypatch.chdir(path.parent)
    assert named_run(experiment, f"../runs/{path.name}").path == path
    with pytest.raises(FileNotFoundError, match=r"--resume absent: .*runs/absent"):
        named_run(experiment, "absent")


def test_the_newest_weights_are_those_written_last(experiment):
    assert newest_weights(experiment) is None
    first, second, without = make_run(experiment), make_run(experiment), make_run(experiment)
    for number, path in enumerate((second, first)):  # the older run got its best weights later
        (path / "best.pth").write_bytes(b"")
        os.utime(path / "best.pth", (1000 + number, 1000 + number))
    assert newest_weights(experiment) == first / "best.pth"
    assert newest_weights(load_experiment(second)) == second / "best.pth"
    assert newest_weights(load_experiment(without)) is None


# ---------------------------------------------------------------------------------------------- the manifest


def test_the_identity_holds_code_data_and_what_cuts_a_run_short(experiment):
    options = SimpleNamespace(limit_images=None, max_steps=5)
    before = manifest.identity(experiment, {"train": "1"}, options)
    assert before == manifest.identity(experiment, {"train": "1"}, options)
    assert (before["data"], before["limit_images"], before["max_steps"]) == ({"train": "1"}, None, 5)
    run = load_experiment(make_run(experiment))
    assert manifest.identity(run, {"train": "1"}, options) == before, "a run's copy is the same code"
    with open(experiment.folder / "loss.py", "a") as file:
        file.write("# another comment\n")
    after = manifest.identity(experiment, {"train": "1"}, options)
    assert {name for name in before if before[name] != after[name]} == {"experiment"}
    hashes = [before["experiment"]["loss.py"], after["experiment"]["loss.py"]]
    assert manifest.code_change(before, after) == {"experiment/loss.py": hashes}
    assert manifest.code_change(before, before) == {}


def test_the_records_of_a_run_are_json_and_name_command_packages_and_machine(experiment):
    record = manifest.start_record(torch.device("cpu"), experiment.config, 17)
    assert json.loads(json.dumps(record)) == record
    assert (record["step"], record["pid"], record["threads"]) == (17, os.getpid(), experiment.config.threads)
    assert record["packages"]["torch"] == torch.__version__.split("+")[0]
    parsed = SimpleNamespace(config=experiment.config, overrides={"epochs": [3, 9]})
    new = manifest.new_manifest(experiment, IDENTITY, parsed)
    assert json.loads(json.dumps(new)) == new
    assert (new["experiment"], new["identity"], new["finished"]) == ("tiny_experiment", IDENTITY, None)
    assert (new["seed"], new["overrides"]) == (experiment.config.seed, {"epochs": [3, 9]})


# ---------------------------------------------------------------------------------------------- the reporter


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(reporter.time, "perf_counter", clock)
    return clock


def told(run: RunFolder) -> list[dict]:
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("first_step", [0, 500])
def test_images_per_second_leave_evaluations_out_also_right_after_a_resume(experiment, clock, first_step):
    run = RunFolder(make_run(experiment))
    report = Reporter(run, device=torch.device("cpu"))
    report.start(step=first_step, num_steps=1000)
    clock.now += 1000
    report.evaluation(step=first_step, epoch=1, metrics={"AP": 0.5, "AP75": None})
    report.skip_time()
    for step in range(first_step + 1, first_step + 21):
        clock.now += 0.5
        report.advance(step)
    values = {"num_steps": 1000, "epoch": 1.5, "lr": 0.1, "losses": {"cls": 1.0, "iou": 2.0}, "norm": None, "images": 8}
    report.train(step=first_step + 20, **values)
    clock.now += 10
    report.train(step=first_step + 25, **values)
    report.close()
    evaluation, first, second = told(run)
    assert evaluation == {"kind": "eval", "step": first_step, "epoch": 1, "metrics": {"AP": 0.5, "AP75": None}}
    assert first["images_per_second"] == pytest.approx(8 / 0.5)
    assert second["images_per_second"] == pytest.approx(8 / 2)
    assert (first["loss"], first["losses"], first["lr"]) == (3.0, {"cls": 1.0, "iou": 2.0}, 0.1)


def test_a_gradient_that_is_not_finite_is_logged_as_null(experiment, clock):
    """fp16 meets such steps and skips them; JSON has no number for them."""
    run = RunFolder(make_run(experiment))
    report = Reporter(run, device=torch.device("cpu"))
    report.start(step=0, num_steps=2)
    clock.now += 1
    for step, norm in enumerate((float("inf"), 0.5), 1):
        report.train(step=step, num_steps=2, epoch=0.5, lr=0.1, losses={"cls": 1.0}, norm=norm, images=8)
        clock.now += 1
    report.close()
    assert [line["gradient_norm"] for line in told(run)] == [None, 0.5]


def test_lines_go_to_the_terminal_and_the_log_and_without_a_run_nowhere(experiment, capsys):
    run = RunFolder(make_run(experiment))
    Reporter(run, device=torch.device("cpu")).line("resuming from step 5")
    assert capsys.readouterr().out == "resuming from step 5\n"
    assert (run.path / "train.log").read_text().endswith("resuming from step 5\n")
    silent = Reporter(None, device=torch.device("cpu"))
    silent.line("nothing")
    silent.start(step=0, num_steps=1)
    silent.advance(1)
    silent.skip_time()
    silent.evaluation(step=0, epoch=0, metrics={})
    silent.close()
    assert capsys.readouterr().out == ""
