"""One, two, three and four processes: the same global batches; weights equal to rounding; resume exact with each."""

import hashlib
import signal
import subprocess
import time

import pytest
import torch

from public import random_streams
from public.checkpoint_files import load_checkpoint
from public.runs.experiment import load_experiment
from tests.helpers.distilled_experiments import TinyDistilled
from tests.helpers.experiments import ENVIRONMENT, TinyExperiment, read_manifest
from tests.helpers.forked_training import Training, signal_in_step, train
from tests.helpers.numerics import allowed
from tests.helpers.plain_steps import make_task, plain_steps
from tests.helpers.processes import run_processes

WORLDS = (1, 2, 4)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory) -> TinyExperiment:
    return TinyExperiment.create(tmp_path_factory.mktemp("worlds"))


@pytest.fixture
def fresh(experiment, tmp_path) -> TinyExperiment:
    return experiment.copy(tmp_path)


# ---------------------------------------------------------------------------------------------- batches


def batches_on_this_rank(experiment: TinyExperiment) -> list[list[str]]:
    """The digests of the images, with their boxes, of each batch of two epochs."""

    def sha(image, target):
        parts = (image, target["boxes"], target["labels"])
        return hashlib.sha256(b"".join(part.numpy().tobytes() for part in parts)).hexdigest()

    batches = make_task(experiment).train_batches(first_step=0, num_steps=6)
    return [[sha(image, target) for image, target in zip(b.images, b.targets)] for b in batches]


def test_every_world_sees_the_same_global_batches(experiment):
    whole = batches_on_this_rank(experiment)
    assert [len(batch) for batch in whole] == [4] * 6
    for world_size in WORLDS[1:]:
        ranks = run_processes(batches_on_this_rank, world_size, experiment)
        joined = [[image for part in parts for image in part] for parts in zip(*ranks)]
        assert joined == whole, "bit for bit, in the same order"


# ---------------------------------------------------------------------------------------------- weights


def distance(state: dict, other: dict) -> float:
    """The norm of the difference of all weights, by the norm of all weights."""
    names = [name for name, value in state.items() if value.is_floating_point()]
    difference = sum(float((state[name].double() - other[name].double()).square().sum()) for name in names)
    return (difference / sum(float(other[name].double().square().sum()) for name in names)) ** 0.5


def rounding_after(experiment: TinyExperiment, num_steps: int, *, cap: float) -> float:
    """The distance that rounding explains after so many steps, by training them in float32 and in float64 here."""
    single, double = (plain_steps(experiment, num_steps, dtype)[0] for dtype in (torch.float32, torch.float64))
    return allowed(distance(single, double), cap=cap, what=f"the weights after {num_steps} steps")


def test_three_steps_in_float32_agree_to_rounding(fresh):
    states, limit = [], rounding_after(fresh, 3, cap=1e-5)
    for world_size in WORLDS:
        train(fresh, "--max_steps", "3", "--resume", "none", world_size=world_size)
        states.append(load_checkpoint(fresh.runs[-1] / "latest.pth")["training"]["raw_model"])
    start = load_experiment(fresh.folder).config
    random_streams.seed_torch(start.seed, "model")
    assert distance(start.detector.build_model().state_dict(), states[0]) > 1e-4, "the steps changed something"
    assert distance(states[1], states[0]) < limit
    assert distance(states[2], states[0]) < limit


def test_a_student_beside_its_teacher_agrees_as_well(tmp_path):
    """Maps are normalised over all processes; without that the distance is 400 times as large."""
    pair, states = TinyDistilled.create(tmp_path), []
    for world_size in (1, 2):
        train(pair, "--max_steps", "2", "--resume", "none", "--num_pictures", "0", world_size=world_size)
        states.append(load_checkpoint(pair.runs[-1] / "latest.pth")["training"]["raw_model"])
    assert distance(states[1], states[0]) < rounding_after(pair, 2, cap=1e-5)


def four_steps_in_float64(experiment: TinyExperiment) -> dict[str, torch.Tensor]:
    return plain_steps(experiment, 4, torch.float64, lr=0.01)[0]


@pytest.mark.slow
def test_four_steps_in_float64_agree(experiment):
    """Of two epochs: the assigner is another one in the second."""
    alone = four_steps_in_float64(experiment)
    for world_size in WORLDS[1:]:
        states = run_processes(four_steps_in_float64, world_size, experiment, timeout=200)
        for state in states:
            assert distance(state, alone) < 1e-9, "1e-15 after one step; training multiplies it, to 2e-9 after 20"
            assert all(torch.equal(value, states[0][name]) for name, value in state.items()), "on every rank"


# ---------------------------------------------------------------------------------------------- resume


def test_resume_is_exact(fresh):
    """With three processes: two-term sums cannot show what another layout of the gradients does, sums of three can.

    One process is resumed in test_whole_path and test_crash, two below and in test_interruption.
    """
    world_size = 3
    flags = (
        "--batch_size",
        "6",
        "--checkpoint_minutes",
        "0",
        "--epochs",
        "2",
        "--num_pictures",
        "0",
    )  # 2 steps an epoch
    train(fresh, *flags, world_size=world_size)
    undisturbed = fresh.digests()
    kill_after_step(fresh, 3, *flags, "--resume", "none", world_size=world_size)
    log = train(fresh, *flags, world_size=world_size)
    assert log.startswith(f"resuming {fresh.runs[-1]} from step 3")
    assert len(fresh.runs) == 2
    assert fresh.digests() == undisturbed


def kill_after_step(experiment: TinyExperiment, step: int, *flags: str, world_size: int) -> None:
    """A training that is killed once rank 0 has saved `step`: all its processes, as by a machine that goes down."""
    how = {"change": signal_in_step, "change_args": (step + 1, signal.SIGKILL)}
    training = Training(experiment, *flags, world_size=world_size, **how)
    training.processes[0].join(60)
    training.kill()
    assert training.processes[0].exitcode == -signal.SIGKILL, training.log


def test_another_number_of_processes_goes_on_and_is_recorded(fresh):
    train(fresh, "--resume", "none")
    whole = load_checkpoint(fresh.runs[-1] / "latest.pth")["training"]["raw_model"]
    kill_after_step(fresh, 4, "--resume", "none", "--checkpoint_minutes", "0", world_size=2)
    log = train(fresh)
    run = fresh.runs[-1]
    assert log.startswith(f"resuming {run} from step 4")
    assert "1 processes resume what 2 began" in log
    assert "1 processes resume what 2 began" in (run / "train.log").read_text()
    starts = read_manifest(run)["starts"]
    assert [(start["processes"], start["step"]) for start in starts] == [(2, 0), (1, 4)]
    ours = load_checkpoint(run / "latest.pth")["training"]["raw_model"]
    assert 0 < distance(ours, whole) < rounding_after(fresh, 9, cap=1e-3), "the same batches, other sums"


@pytest.mark.slow
def test_torchrun_restarts_a_killed_rank_and_hands_on_a_signal(fresh):
    """Rank 1 kills itself in step 4, once: the restarted processes find a mark.  Then the launcher is sent SIGTERM.

    The undisturbed run, and the one that goes on where these stopped, are forked.
    """
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    train(fresh, "--resume", "none", world_size=2)
    undisturbed = fresh.digests()
    mark, standing = fresh.folder.parent / "killed", fresh.folder.parent / "standing"
    loss = fresh.folder / "loss.py"
    change = (
        f"        mark, standing = Path({str(mark)!r}), Path({str(standing)!r})\n"
        "        if progress.step == 4 and os.environ['RANK'] == '1' and not mark.exists():\n"
        "            mark.touch()\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        while progress.step == 5 and not signal.getsignal(signal.SIGTERM).__self__.number:\n"
        "            (standing / os.environ['RANK']).touch()\n"
        "            time.sleep(0.01)\n"
        "        return {"
    )
    imports = "import os\nimport signal\nimport time\nfrom pathlib import Path\n"
    loss.write_text(imports + loss.read_text().replace("        return {", change))
    standing.mkdir()
    process = subprocess.Popen(
        fresh.command(launcher=(*launcher, "--max_restarts=1")),
        env=ENVIRONMENT, cwd=fresh.folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    log = ""
    for line in process.stdout:
        log += line
        if "step 5/" in line:
            while len(list(standing.iterdir())) < 2 and process.poll() is None:
                time.sleep(0.01)
            process.send_signal(signal.SIGTERM)  # both stand in step 6 until the launcher has handed it on to them
    assert process.wait() != 0
    run = fresh.runs[-1]
    assert mark.exists()
    assert f"resuming {run} from step 3" in log
    step = load_checkpoint(run / "latest.pth")["training"]["step"]
    assert step == 6
    assert "stopped by SIGTERM. saved: step 6" in log
    assert train(fresh, world_size=2).startswith(f"resuming {run} from step {step}")
    assert len(fresh.runs) == 2
    assert fresh.digests() == undisturbed
