"""A student beside its teacher, from `python train.py` to its weights: exact, resumed, evaluated, and used alone."""

import os
import re
import shutil

import numpy as np
import pytest
import torch

import public
from public import random_streams
from public.checkpoint_files import digest, load_checkpoint, save_atomic
from public.inference.places import find_network
from public.models.operations import count_operations, example_input
from public.runs.experiment import load_experiment
from public.test_scripts.flops import build
from tests.helpers.distilled_experiments import TinyDistilled, TinyMutual, plain_state, write_teacher
from tests.helpers.experiments import read_manifest, read_metrics
from tests.helpers.forked_commands import run_test_sh
from tests.helpers.forked_training import signal_in_step, train
from tests.helpers.tiny_data import TINY_CLASSES

PICTURES_ALONE = f"""
from public.datasets.unlabelled import Unlabelled
where = dict(folder="tiny/JPEGImages", listing="tiny/ImageSets/Main/train.txt")
config = replace(config, train_data=Unlabelled(classes={TINY_CLASSES!r}, **where))
"""
SHORT = ("--epochs", "2", "--num_pictures", "0")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> TinyDistilled:
    """The tiny pair, trained once: an epoch beside the teacher, the second without it."""
    experiment = TinyDistilled.create(tmp_path_factory.mktemp("distilled"))
    experiment.log = train(experiment, *SHORT)
    return experiment


@pytest.fixture
def fresh(whole, tmp_path) -> TinyDistilled:
    return whole.copy(tmp_path)


def student_of(experiment):
    return load_experiment(experiment.folder).config.used_settings.build_model()


# ---------------------------------------------------------------------------------------------- what a run leaves


def test_best_and_latest_hold_the_student_alone(whole):
    (run,) = whole.runs
    own = student_of(whole).state_dict()
    for name in ("best.pth", "latest.pth"):
        checkpoint = load_checkpoint(run / name)
        assert {key: value.shape for key, value in checkpoint["model"].items()} == {k: v.shape for k, v in own.items()}
        assert checkpoint["model_name"] == "HalfPPYOLOE"
        assert list(checkpoint["detector"]) == ["HalfPPYOLOE"]
    training = load_checkpoint(run / "latest.pth")["training"]
    assert set(training["beside"]) == {f"adapters.{n}.align.{kind}" for n in range(3) for kind in ("weight", "bias")}
    assert not any(name.startswith("teacher") for name in training["raw_model"])
    assert digest(plain_state(run)) == load_checkpoint(run / "best.pth")["digest"]


def test_the_adapters_are_trained_and_the_teacher_is_asked_until_the_stop(whole):
    (run,) = whole.runs
    random_streams.seed_torch(0, "model")
    before = load_experiment(whole.folder).config.detector.build_model().adapters.state_dict()
    after = load_checkpoint(run / "latest.pth")["training"]["raw_model"]
    moves = [(after[f"adapters.{n}.align.weight"] - before[f"{n}.align.weight"]).abs().max() for n in range(3)]
    assert min(moves) > 1e-5
    losses = [line["losses"]["loss_feature"] for line in read_metrics(run) if line["kind"] == "train"]
    assert [loss > 0 for loss in losses] == [True] * 3 + [False] * 3
    assert "the teacher's weights:" in whole.log
    optimizer = load_checkpoint(run / "latest.pth")["training"]["optimizer"]
    assert len(optimizer["state"]) == len(list(student_of(whole).parameters())) + 6


def test_the_manifest_names_the_teacher_by_its_sums(whole):
    (run,) = whole.runs
    teacher = read_manifest(run)["identity"]["teacher"]
    assert teacher["file"] == "teacher.pth"
    assert teacher["digest"] == digest(load_checkpoint(whole.teacher)["model"])
    assert len(teacher["sha256"]) == 64


def test_the_student_alone_is_evaluated_detects_and_is_counted(whole):
    (run,) = whole.runs
    report = run_test_sh(whole, "--no_report")
    assert f"digest {digest(plain_state(run))[:16]}" in report
    assert f"voc_AP50: {read_manifest(run)['finished']['metrics']['voc_AP50']:.6f}" in report
    detector = public.load(run / "best.pth", device="cpu")
    assert type(detector.model).__name__ == "PPYOLOEModel"
    detector(np.zeros((32, 32, 3), np.uint8))
    with torch.device("meta"):
        model = build(find_network(str(whole.folder)), is_fused=False)
    count = count_operations(model, example_input(64, 64))
    assert count.parameters == sum(p.numel() for p in student_of(whole).parameters())


# ---------------------------------------------------------------------------------------------- exact


def test_again_with_workers_and_checkpoints_of_every_step_the_bits_are_the_same(whole, fresh):
    train(fresh, *SHORT, "--num_workers", "1", "--checkpoint_minutes", "0")
    assert fresh.digests() == whole.digests()
    assert (fresh.runs[0] / "digests.jsonl").read_text() == (whole.runs[0] / "digests.jsonl").read_text()


def test_killed_beside_the_teacher_and_after_it_the_bits_are_the_same(whole, fresh):
    flags = (*SHORT, "--checkpoint_minutes", "0")
    for step in (3, 6):
        train(fresh, *flags, status=-9, change=signal_in_step, change_args=(step, 9))
    log = train(fresh, *flags)
    assert log.startswith(f"resuming {fresh.runs[0]} from step 5")
    assert fresh.digests() == whole.digests()
    beside = [load_checkpoint(e.runs[0] / "latest.pth")["training"]["beside"] for e in (fresh, whole)]
    assert digest(beside[0]) == digest(beside[1])


def test_of_two_that_learn_from_each_other_one_is_used_and_both_are_kept(tmp_path):
    """That they go on with the same bits is held by test_crash."""
    experiment = TinyMutual.create(tmp_path)
    train(experiment, "--num_pictures", "0", "--max_steps", "2")
    (run,) = experiment.runs
    assert plain_state(run).keys() == student_of(experiment).state_dict().keys()
    training = load_checkpoint(run / "latest.pth")["training"]
    assert all(name.startswith("peer.") for name in training["beside"])
    assert len(training["optimizer"]["state"]) == 2 * len(list(student_of(experiment).parameters()))


# ---------------------------------------------------------------------------------------------- without labels


def test_without_its_own_loss_a_student_has_the_bits_it_has_on_pictures_alone(whole, tmp_path):
    """The same pictures with their objects, and as a folder of which nothing is known."""
    digests = []
    for name, body in (("labelled", ""), ("unlabelled", PICTURES_ALONE)):
        (tmp_path / name).mkdir()
        experiment = whole.copy(tmp_path / name)
        page = experiment.folder / "config.py"
        text = page.read_text().replace("stop_epoch=1", "stop_epoch=None, own_loss=False")
        soft = "logits=SoftLabels(weight=1.0, cls=1.0, box=1.0, beta=1.0)"
        page.write_text(text.replace("logits=None", soft) + body)
        log = train(experiment, *SHORT, "--max_steps", "3")
        assert set(re.findall(r"loss_(\w+) ", log)) == {"feature", "logits"}
        digests.append(experiment.digests())
    assert digests[0] == digests[1]
    assert "0 boxes" in log


# ---------------------------------------------------------------------------------------------- another teacher


def test_a_teacher_that_changed_since_the_start_is_refused_and_named(whole, fresh, tmp_path):
    (fresh.folder / "config.py").write_text(
        (fresh.folder / "config.py").read_text().replace(str(whole.teacher), str(tmp_path / "own.pth"))
    )
    shutil.copy(whole.teacher, tmp_path / "own.pth")
    train(fresh, *SHORT, "--checkpoint_minutes", "0", status=-9, change=signal_in_step, change_args=(2, 9))
    write_teacher(fresh.folder, tmp_path / "own.pth", names=TINY_CLASSES, seed=6)
    log = train(fresh, *SHORT, "--resume", fresh.runs[0].name, status=1)
    assert "teacher.digest of own.pth was " in log
    assert "teacher.sha256 of own.pth was " in log
    shutil.copy(whole.teacher, tmp_path / "own.pth")
    assert train(fresh, *SHORT, "--max_steps", "1").startswith("starting from scratch")


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ((TINY_CLASSES[1], TINY_CLASSES[0], TINY_CLASSES[2]), "in another order"),
        ((TINY_CLASSES[0], TINY_CLASSES[1], "zebra"), "zebra"),
        (None, "teacher_weights is"),
        ("shape", "does not fit the model"),
    ],
    ids=["order", "names", "missing", "shape"],
)
def test_a_teacher_of_other_classes_or_shape_or_none_is_refused(fresh, tmp_path, names, told):
    path, page = tmp_path / "other.pth", fresh.folder / "config.py"
    if names == "shape":
        save_atomic(
            {"model": student_of(fresh).state_dict(), "num_classes": 3, "class_names": list(TINY_CLASSES)}, path
        )
        state = load_checkpoint(path)
        del state["model"]["head.pred_cls.0.bias"]
        save_atomic(state, path)
    elif names is not None:
        write_teacher(fresh.folder, path, names=names)
    text = page.read_text()
    page.write_text(text.replace(text.split("teacher_weights='")[1].split("'")[0], str(path)))
    log = train(fresh, *SHORT, status=1)
    assert told in log
    assert str(path) in log
    assert not os.path.exists(fresh.folder / "runs")
