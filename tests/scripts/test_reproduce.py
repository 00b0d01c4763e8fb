"""`reproduce`: a run repeated and compared step by step; what differs is named."""

import dataclasses
import json
import signal
import subprocess

import pytest
import torch

from public.config import replace
from public.runs import chain
from public.runs.experiment import load_experiment
from public.tasks.detection import DetectionTask
from public.test_scripts.reproduce import SHOWN, _check_whole, manifest_differences
from tests.helpers.experiments import TinyExperiment, read_manifest
from tests.helpers.forked_commands import run_python, run_together
from tests.helpers.forked_training import signal_in_step, train


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> TinyExperiment:
    """The tiny experiment, once interrupted, with a setting of the command line and digests of every third step."""
    experiment = TinyExperiment.create(tmp_path_factory.mktemp("recorded"))
    flags = ("--lr", "0.02", "--digest_interval", "3")
    train(experiment, *flags, change=signal_in_step, change_args=(5, signal.SIGTERM), status=143)
    train(experiment, *flags)
    return experiment


@pytest.fixture
def fresh(recorded, tmp_path) -> TinyExperiment:
    """A copy with its run, of which something may be changed."""
    copy = recorded.copy(tmp_path)
    run = recorded.runs[0]
    subprocess.run(["cp", "-r", str(run.parent), str(copy.folder)], check=True)
    return copy


def words_of(experiment: TinyExperiment, *flags: str) -> list[str]:
    place = ("--data_root", str(experiment.data_root), "--device", "cpu")
    return ["-m", "public.test_scripts.reproduce", str(experiment.runs[0]), *place, *flags]


def reproduce(experiment: TinyExperiment, *flags: str) -> subprocess.CompletedProcess:
    return run_python(words_of(experiment, *flags))


def test_a_run_that_was_interrupted_is_reproduced_to_the_last_digest(recorded):
    runs, before = recorded.runs, read_manifest(recorded.runs[0])
    done = reproduce(recorded)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "equal: 9 digests, steps 1 to 9" in done.stdout
    assert "final digests and metrics are equal" in done.stdout
    assert recorded.runs == runs, "the new run lies beside them"
    assert read_manifest(recorded.runs[0]) == before
    (again,) = recorded.folder.glob("reproductions/*/runs/*")
    assert read_manifest(again)["finished"]["digests"] == recorded.digests()


def first_step_with_other_pictures(experiment: TinyExperiment, prob: float) -> int:
    """The step, from 1, whose batch is another one when pictures are flipped with `prob`."""
    batches = []
    config = load_experiment(experiment.folder).config
    flip, *others = config.train_transforms
    for transforms in (config.train_transforms, (dataclasses.replace(flip, prob=prob), *others)):
        changed = replace(config, train_transforms=transforms)
        where = {"data_root": experiment.data_root, "device": torch.device("cpu"), "limit_images": None}
        batches.append(DetectionTask(config=changed, **where).train_batches(first_step=0, num_steps=9))
    return next(step for step, (a, b) in enumerate(zip(*batches), 1) if not torch.equal(a.images, b.images))


def test_a_changed_augmentation_is_found_at_its_first_step_and_named(fresh):
    """The flip is made certain in the settings that the run keeps."""
    (run,) = fresh.runs
    step = first_step_with_other_pictures(fresh, prob=1.0)
    settings = json.loads((run / "config.json").read_text())
    settings["DetectionConfig"]["train_transforms"][0]["RandomFlip"]["prob"] = 1.0
    (run / "config.json").write_text(json.dumps(settings))
    done = reproduce(fresh)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"DIFFERENT at step {step} (batch" in done.stdout
    assert f"equal up to step {step - 1}." in done.stdout
    assert "config.DetectionConfig.train_transforms.0.RandomFlip.prob: 0.5 -> 1.0" in done.stdout
    assert f"step {step + 1}/" not in done.stdout, "it stops at the difference"


def test_steps_that_the_new_run_lacks_are_not_called_equal(tmp_path):
    (tmp_path / chain.FILE).write_text('{"step": 1, "chain": "a"}\n{"step": 2, "chain": "b"}\n')
    _check_whole(tmp_path, [1, 2])
    with pytest.raises(ValueError, match="without digests of 2 recorded steps, the first is step 3"):
        _check_whole(tmp_path, [1, 2, 3, 100])


def test_the_comparison_ends_where_it_is_told_to(recorded):
    done = reproduce(recorded, "--until", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "equal: 2 digests, steps 1 to 2" in done.stdout
    for step in ("0", "10"):
        done = reproduce(recorded, "--until", step)
        assert done.returncode == 1
        assert done.stderr.strip().endswith(f"--until {step}: the run recorded digests from step 1 to step 9")


def test_what_cannot_be_repeated_is_refused_in_one_line(fresh):
    (run,) = fresh.runs
    manifest = read_manifest(run)

    def refusal(**first_start) -> str:
        changed = manifest | {"starts": [manifest["starts"][0] | first_start, *manifest["starts"][1:]]}
        (run / "manifest.json").write_text(json.dumps(changed))
        done = reproduce(fresh)
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        return line

    line = refusal(processes=2)
    assert "was made by 2 processes, this is 1: torchrun --nproc_per_node 2 -m public.test_scripts.reproduce" in line
    (run / "digests.jsonl").unlink()
    assert f"{run / 'digests.jsonl'} is not there" in refusal()
    assert not (fresh.folder / "reproductions").exists()


def test_two_processes_are_repeated_by_two(fresh):
    """Which meet by the variables that torchrun would set."""
    subprocess.run(["rm", "-r", str(fresh.folder / "runs")], check=True)
    train(fresh, "--max_steps", "4", world_size=2)
    both = run_together([words_of(fresh)] * 2)
    said = "".join(done.stdout + done.stderr for done in both)
    assert [done.returncode for done in both] == [0, 0], said
    assert said.count("equal: 4 digests") == 1, "rank 0 alone prints"


# ---------------------------------------------------------------------------------------------- differences


def manifest_with(**changes) -> dict:
    start = {"time": "now", "step": 0, "processes": 1, "cpu": "A", "threads": 1}
    record = {
        "config": {"Settings": {"lr": 0.1, "transforms": [{"Flip": {"prob": 0.5}}]}},
        "identity": {"library": "abc", "packages": {"numpy": "2.4"}, "max_steps": None},
        "git": {"commit": "1", "status": "", "diff": "x"},
        "starts": [start],
    }
    return record | changes


def test_every_difference_is_one_line():
    status = "\n".join(f" M public/file{i}.py" for i in range(100))
    new = manifest_with(
        config={"Settings": {"lr": 0.1, "transforms": [{"Flip": {"prob": 0.6}}]}},
        git={"commit": "1", "status": status, "diff": "y"},
        starts=[{"time": "later", "step": 5, "processes": 1, "cpu": "B", "threads": 1}],
        identity={"library": "abc", "packages": {"numpy": "2.5", "torch": "2.15"}, "max_steps": 7},
    )
    lines = manifest_differences(manifest_with(), new)
    assert [line.strip().split(":")[0] for line in lines] == [
        "config.Settings.transforms.0.Flip.prob",
        "git.changed_files",
        "identity.packages.numpy",
        "identity.packages.torch",
        "start.cpu",
    ]
    assert "0.5 -> 0.6" in lines[0]
    assert "(absent) -> 2.15" in lines[3]
    assert all("\n" not in line and len(line) < 2 * SHOWN + 100 for line in lines)
    assert "characters more" in lines[1]
    assert manifest_differences(new, new) == []


def test_chains_are_equal_up_to_the_first_number_that_differs():
    numbers = [{"cls": 0.5, "iou": 1.25}, {"cls": 0.25, "iou": 1.0}, {"cls": 0.125, "iou": 0.5}]

    def chained(numbers) -> list[dict]:
        text, lines = "", []
        for step, losses in enumerate(numbers, 1):
            text = chain.extended(text, step, 0.1, losses)
            lines.append({"step": step, "chain": text})
        return lines

    whole = chained(numbers)
    assert chain.first_difference(whole, chained(numbers)) is None
    other = [numbers[0], {"cls": 0.25, "iou": 1.0 + 2**-52}, numbers[2]]
    assert chain.first_difference(whole, chained(other)) == (1, 2, ["chain"]), "one bit of a loss"
    assert chained(other)[2] != whole[2], "and all that follow"
    assert chain.first_difference(whole, whole[:2]) is None, "as far as both go"
    marked = [line | {"weights": "a"} for line in whole]
    assert chain.first_difference(marked, whole) is None, "compared is what both hold"
    assert chain.first_difference(marked, [line | {"weights": "b"} for line in whole]) == (0, 1, ["weights"])


def test_an_unfinished_last_line_is_left_out_a_damaged_one_is_named(tmp_path):
    (tmp_path / chain.FILE).write_text('{"step": 1, "chain": "a"}\n{"step": 2, "ch')
    assert chain.read_digests(tmp_path) == [{"step": 1, "chain": "a"}]
    (tmp_path / chain.FILE).write_text('{"step": 1, "ch\n{"step": 2, "chain": "b"}\n')
    with pytest.raises(ValueError, match=r"digests\.jsonl, line 1, is damaged"):
        chain.read_digests(tmp_path)
