"""Nothing that is printed or drawn ends a run: not a stream that lacks letters or has gone, not a drawing that fails."""

import io
import os
import sys

import pytest
import torch

from public import commands, text
from public.runs.run_folder import RunFolder
from public.tasks.detection import DetectionTask
from public.training import loop
from public.training.reporter import Reporter
from tests.helpers.experiments import TinyExperiment, read_manifest
from tests.helpers.forked_training import train

NAMES = {"bird": "猫", "cat": "$5_$10", "dog": "caf\\u00e9"}


@pytest.fixture
def reporter(tmp_path):
    return Reporter(RunFolder(tmp_path), device=torch.device("cpu"))


def print_ascii_and_draw_nothing() -> None:
    """A `change` of a training: as PYTHONIOENCODING=ascii, and with every drawing failing."""
    sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", buffering=0, closefd=False), encoding="ascii", write_through=True)

    def fail(*_):
        raise RuntimeError("no\nink")

    loop.draw_curves = DetectionTask.draw_batch = DetectionTask.draw_predictions = fail


def test_a_run_whose_output_lacks_letters_and_whose_drawings_fail(tmp_path):
    """Classes that cannot be printed; the last table is printed after the run is finished."""
    experiment = TinyExperiment.create(tmp_path)
    for path in (experiment.data_root / "tiny/Annotations").iterdir():
        content = path.read_text()
        for name, other in NAMES.items():
            content = content.replace(f"<name>{name}<", f"<name>{other}<")
        path.write_text(content, encoding="utf-8")
    log = train(experiment, "--epochs", "1", change=print_ascii_and_draw_nothing)
    assert "\\u732b" in log
    assert "$5_$10" in log
    assert "drawing a batch failed, all else goes on without it: RuntimeError: no ink\n" in log
    assert "drawing predictions failed" in log
    assert "drawing the curves failed" in log
    (run,) = experiment.runs
    assert read_manifest(run)["finished"]
    assert "猫" in (run / "train.log").read_text(encoding="utf-8")


# ---------------------------------------------------------------------------------------------- a stream that has gone


class Gone(io.StringIO):
    """A pipe that nobody reads, a full disk, or a stream that was closed."""

    def __init__(self, error):
        super().__init__()
        self.error, self.calls = error, 0

    def write(self, text):
        self.calls += 1
        raise self.error


@pytest.mark.parametrize(
    "error", [BrokenPipeError("nobody reads"), OSError(28, "No space left on device"), ValueError("closed file")]
)
def test_a_stream_that_has_gone_is_told_of_once_and_the_log_goes_on(reporter, monkeypatch, error, tmp_path):
    stream = Gone(error)
    monkeypatch.setattr(sys, "stdout", stream)
    for number in range(3):
        reporter.line(f"line {number}")
    log = (tmp_path / "train.log").read_text(encoding="utf-8")
    assert [f"line {number}" in log for number in range(3)] == [True] * 3
    assert log.count("standard output cannot be written") == 1
    assert stream.calls == 1


def test_the_log_takes_every_text(reporter, tmp_path):
    text.let_everything_be_printed()
    reporter.line("caf\udce9 猫")
    assert "caf\\xe9 猫" in (tmp_path / "train.log").read_text(encoding="utf-8")


def test_tensorboard_that_fails_is_told_of_once(reporter, tmp_path, capsys):
    (tmp_path / "tensorboard").write_text("no folder")
    reporter.start(step=0, num_steps=2)
    for step in (1, 2):
        reporter.train(step=step, num_steps=2, epoch=0.0, lr=0.1, losses={"a": 1.0}, norm=None, images=4)
    reporter.evaluation(step=2, epoch=1, metrics={"AP": 0.5})
    reporter.close()
    assert capsys.readouterr().out.count("TensorBoard's record failed") == 1


# ---------------------------------------------------------------------------------------------- commands


@pytest.mark.parametrize(("encoding", "shown"), [("ascii", b"\\u732b \\xe9"), ("latin-1", b"\\u732b \\xe9"),
                                                 ("utf-8", "猫 \\xe9".encode())])  # fmt: skip
def test_commands_print_what_the_stream_lacks_as_codes(monkeypatch, encoding, shown):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding, write_through=True))
    commands.call(lambda arguments: print("猫 \udce9"), None)
    assert written.getvalue() == shown + b"\n"


def test_a_stream_of_another_kind_stays_as_it_is(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    text.let_everything_be_printed()
    print("猫")
