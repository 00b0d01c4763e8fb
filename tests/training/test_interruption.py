"""SIGTERM and Ctrl-C: all processes end after one step, with a checkpoint of it, and the run goes on with the same bits."""

import os
import signal
import subprocess

import pytest
import torch

from public.checkpoint_files import load_checkpoint
from public.parallel import collectives
from public.training.interruption import InterruptedRun, Interruption
from tests.helpers.experiments import ENVIRONMENT, TinyExperiment, read_manifest, read_metrics
from tests.helpers.forked_training import Training, signal_in_evaluation, signal_in_step, train
from tests.helpers.processes import run_processes

STATUS = {signal.SIGTERM: 143, signal.SIGINT: 130}
CPU = torch.device("cpu")


# ---------------------------------------------------------------------------------------------- noting signals


@pytest.mark.parametrize("number", STATUS)
def test_a_signal_is_noted_and_the_old_handlers_come_back(number):
    before = [signal.getsignal(n) for n in STATUS]
    interruption = Interruption()
    with interruption.listening():
        assert interruption.agreed(CPU) == 0
        os.kill(os.getpid(), number)
        assert interruption.agreed(CPU) == number
    assert [signal.getsignal(n) for n in STATUS] == before


def test_a_second_ctrl_c_ends_at_once_a_second_sigterm_does_not():
    interruption = Interruption()
    with interruption.listening():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(InterruptedRun, match="SIGINT"):
            os.kill(os.getpid(), signal.SIGINT)


def test_where_there_is_nothing_to_save_a_signal_ends_at_once():
    interruption = Interruption()
    with interruption.listening():
        with pytest.raises(InterruptedRun, match="SIGTERM"), interruption.ends_at_once():
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(InterruptedRun), interruption.ends_at_once():
            pytest.fail("a signal that came before ends it at its beginning")
        os.kill(os.getpid(), signal.SIGTERM)  # behind it, a signal is noted again
        assert interruption.number == signal.SIGTERM


def agreement_on_this_rank(numbers: list[int]) -> int:
    interruption = Interruption()
    with interruption.listening(), interruption.ends_at_once():  # several processes do not leave at once
        if numbers[collectives.rank()]:
            os.kill(os.getpid(), numbers[collectives.rank()])
        return interruption.agreed(CPU)


@pytest.mark.parametrize("numbers", [[0, 15, 0], [2, 0, 15], [0, 0, 0]], ids=str)
def test_all_processes_agree(numbers):
    assert run_processes(agreement_on_this_rank, 3, numbers) == [max(numbers)] * 3


# ---------------------------------------------------------------------------------------------- whole runs


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> TinyExperiment:
    """The tiny experiment, never disturbed."""
    experiment = TinyExperiment.create(tmp_path_factory.mktemp("whole"))
    train(experiment)
    return experiment


@pytest.fixture
def fresh(whole, tmp_path) -> TinyExperiment:
    return whole.copy(tmp_path)


def check_message(log: str, number: int, saved: str, run) -> None:
    """The last line says what came, what is saved, and what to type."""
    assert "Traceback" not in log
    (line,) = [line for line in log.splitlines() if "stopped by" in line]
    assert line.startswith(f"stopped by {signal.Signals(number).name}. saved: {saved} of {run}. To resume: ")
    assert line.endswith(f"--resume {run.name}")


@pytest.mark.parametrize("number", STATUS)
def test_in_training_the_step_is_finished_and_saved(whole, fresh, number):
    log = train(fresh, change=signal_in_step, change_args=(5, number), status=STATUS[number])
    (run,) = fresh.runs
    check_message(log, number, "step 5 (training)", run)
    assert load_checkpoint(run / "latest.pth")["training"]["step"] == 5
    assert read_manifest(run)["finished"] is None
    assert (run / "curves.png").read_text() == "1"
    log = train(fresh)
    assert (run / "curves.png").read_text() == "3"
    assert log.startswith(f"resuming {run} from step 5 (training)")
    assert fresh.digests() == whole.digests()
    assert read_metrics(run) == read_metrics(whole.runs[0])
    assert (run / "digests.jsonl").read_text() == (whole.runs[0] / "digests.jsonl").read_text()


@pytest.mark.parametrize("number", STATUS)
def test_in_an_evaluation_it_ends_at_once_and_evaluates_again(whole, fresh, number):
    log = train(fresh, change=signal_in_evaluation, change_args=(2, number), status=STATUS[number])
    (run,) = fresh.runs
    check_message(log, number, "step 6 (evaluating)", run)
    assert [line["epoch"] for line in read_metrics(run) if line["kind"] == "eval"] == [1]
    assert (run / "curves.png").read_text() == "1", "stopped, it draws the evaluations that it had not drawn yet"
    assert train(fresh).startswith(f"resuming {run} from step 6 (evaluating)")
    assert fresh.digests() == whole.digests()
    assert read_metrics(run) == read_metrics(whole.runs[0])


@pytest.mark.parametrize("number", STATUS)
def test_the_loader_workers_hear_it_too_and_finish_their_part(whole, fresh, number):
    """As from a terminal, or a scheduler that signals every process of a job."""
    training = Training(fresh, "--num_workers", "2", change=signal_in_step, change_args=(4, number, 0, True))
    assert training.wait() == [STATUS[number]], training.log
    check_message(training.log, number, "step 4 (training)", fresh.runs[0])
    train(fresh, "--num_workers", "2")
    assert fresh.digests() == whole.digests()


def test_the_command_of_the_message_goes_on(whole, fresh):
    """Typed as it stands in the message, after a start that said --resume none."""
    flags = ("--resume", "none", "--print_interval", "2")
    log = train(fresh, *flags, change=signal_in_step, change_args=(4, signal.SIGTERM), status=143)
    command = log.split("To resume: ")[1].strip()
    done = subprocess.run(command, shell=True, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.stdout.startswith(f"resuming {fresh.runs[0]} from step 4"), done.stderr
    assert len(fresh.runs) == 1
    assert fresh.digests() == whole.digests()


@pytest.fixture(scope="module")
def whole_of_two(whole, tmp_path_factory) -> TinyExperiment:
    """The same by two processes."""
    experiment = whole.copy(tmp_path_factory.mktemp("whole_of_two"))
    train(experiment, world_size=2)
    return experiment


@pytest.mark.parametrize("rank", [0, 1])
def test_one_of_two_processes_hears_it_and_both_end_after_one_step(whole_of_two, fresh, rank):
    how = {"world_size": 2, "change": signal_in_step, "change_args": (4, signal.SIGTERM, rank)}
    log = train(fresh, status=143, **how)
    check_message(log, signal.SIGTERM, "step 4 (training)", fresh.runs[0])
    assert train(fresh, world_size=2).startswith(f"resuming {fresh.runs[0]} from step 4")
    assert fresh.digests() == whole_of_two.digests()


def test_two_processes_finish_an_evaluation_before_they_end(fresh):
    how = {"world_size": 2, "change": signal_in_evaluation, "change_args": (1, signal.SIGTERM, 1)}
    log = train(fresh, status=143, **how)
    check_message(log, signal.SIGTERM, "step 3 (training)", fresh.runs[0])
    assert "after epoch 1" in log


# ---------------------------------------------------------------------------------------------- checkpoints by time


@pytest.mark.parametrize(("minutes", "step"), [("0", 5), ("10", 3)])
def test_checkpoints_by_time(whole, fresh, minutes, step):
    """Killed in step 5: every step is saved, or only the end of the epoch; either way the same bits in the end."""
    flags = ("--checkpoint_minutes", minutes)
    train(fresh, *flags, change=signal_in_step, change_args=(6, signal.SIGKILL), status=-signal.SIGKILL)
    assert load_checkpoint(fresh.runs[0] / "latest.pth")["training"]["step"] == step
    train(fresh, *flags)
    assert fresh.digests() == whole.digests()
