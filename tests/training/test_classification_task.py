"""The classification task: the same bits again, evaluation against a plain one, what is drawn, skipped and refused."""

import dataclasses
import json
import signal

import numpy as np
import pytest
import torch

import public
from public import command_line
from public.checkpoint_files import load_checkpoint
from public.config import differences, freeze, replace, thaw
from public.datasets.image_folder import ImageFolder
from public.families import SETTINGS_CLASSES
from public.families.image_classifier import ImageClassifier
from public.input import ImageError, normalise
from public.models import create_model
from public.models.layers import StochasticDepth
from public.parallel import collectives
from public.protocols import Progress
from public.runs.experiment import load_experiment
from public.tasks import make_task
from public.training import guards
from public.training.loop import micro_batches
from public.transforms.classification import ColorJitter, RandomResizedCrop
from public.transforms.mixing import CutMix, Mixup
from tests.helpers.classification_experiments import NUM_VAL, TinyClassification
from tests.helpers.experiments import read_manifest, read_metrics
from tests.helpers.forked_training import signal_in_step, train
from tests.helpers.numerics import assert_same_in_float64, assert_within_rounding, in_float64
from tests.helpers.processes import run_processes
from tests.helpers.tiny_cifar import write_class_folders
from tests.promises.test_exactness import results

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> TinyClassification:
    """The tiny experiment, trained once."""
    experiment = TinyClassification.create(tmp_path_factory.mktemp("whole"))
    experiment.log = train(experiment)
    return experiment


@pytest.fixture
def fresh(whole, tmp_path) -> TinyClassification:
    return whole.copy(tmp_path)


def task_of(whole, **changes):
    config = replace(load_experiment(whole.folder).config, **changes)
    return make_task(config, data_root=whole.data_root, device=CPU, limit_images=None)


# ---------------------------------------------------------------------------------------------- the same bits


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_two_runs_are_equal_in_every_loss_metric_and_digest(whole, fresh, precision):
    flags = ("--precision", precision, "--digest_interval", "2", "--resume", "none")
    train(fresh, *flags)
    train(fresh, *flags)
    first, second = map(results, fresh.runs)
    assert first == second
    assert (first["finished"]["digests"] == whole.digests()) == (precision == "float32"), "the precision is in use"


@pytest.mark.parametrize(
    "flags",
    [
        ("--num_workers", "1", "--checkpoint_minutes", "0"),
        ("--num_workers", "2", "--prefetch_factor", "1"),
        ("--data_on_device", "true"),
    ],
    ids=" ".join,
)
def test_workers_checkpoints_and_the_place_of_the_data_change_no_bit(whole, fresh, flags):
    train(fresh, *flags)
    assert results(fresh.runs[0]) == results(whole.runs[0])


def test_stopped_and_resumed_ends_in_the_same_bits(whole, fresh):
    log = train(fresh, change=signal_in_step, change_args=(5, signal.SIGTERM), status=128 + signal.SIGTERM)
    assert "stopped by SIGTERM" in log
    assert "resuming" in train(fresh)
    assert results(fresh.runs[0]) == results(whole.runs[0])


def test_two_processes_repeat_and_their_images_are_those_of_one(whole, fresh):
    for _ in range(2):
        train(fresh, "--resume", "none", world_size=2)
    first, second = map(results, fresh.runs)
    assert first == second
    assert first["start"] == results(whole.runs[0])["start"], "the same initial weights"
    train(fresh, "--resume", "none", "--sync_batchnorm", "false", world_size=2)
    assert fresh.digests() != first["finished"]["digests"], "BatchNorm was synchronised"


def batches_of_this_rank(whole) -> list:
    return list(task_of(whole).train_batches(first_step=0, num_steps=6))


def test_the_global_batches_do_not_depend_on_the_processes(whole):
    """Pictures, mixed ones too, and targets."""
    ranks = run_processes(batches_of_this_rank, 2, whole)
    mixed = 0
    for alone, *parts in zip(batches_of_this_rank(whole), *ranks):
        assert torch.equal(torch.cat([part.images for part in parts]), alone.images)
        for name, values in alone.targets.items():
            assert torch.equal(torch.cat([part.targets[name] for part in parts]), values)
        mixed += int((alone.targets["shares"] < 1).any())
    assert 0 < mixed < 6, "some batches are mixed, some are not"


def test_parts_of_a_batch_are_the_batch(whole):
    task = task_of(whole)
    (batch,) = task.train_batches(first_step=0, num_steps=1)
    parts = micro_batches(batch, 4)
    assert [len(part.images) for part in parts] == [4] * 4
    assert torch.equal(torch.cat([part.images for part in parts]), batch.images)
    assert [index for part in parts for index in part.indices] == batch.indices
    for name, values in batch.targets.items():
        assert torch.equal(torch.cat([part.targets[name] for part in parts]), values)
    logits = torch.randn(16, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    progress = Progress(0, 0, 0, 1, 1)
    losses = [task.loss(own, part.targets, progress)["loss_cls"] for own, part in zip(logits.split(4), parts)]
    assert_same_in_float64(sum(losses) / 4, task.loss(logits, batch.targets, progress)["loss_cls"])


def test_repeated_augmentation_shows_each_picture_so_often(whole):
    (batch,) = task_of(whole, repeats=4, batch_transforms=()).train_batches(first_step=0, num_steps=1)
    indices, counts = np.unique(batch.indices, return_counts=True)
    assert len(indices) == 4
    assert counts.tolist() == [4] * 4
    assert len({image.numpy().tobytes() for image in batch.images}) > 4, "each copy has its own numbers"


# ---------------------------------------------------------------------------------------------- evaluation


def test_the_errors_are_those_of_a_plain_evaluation(whole):
    """All validation pictures at once, by torch's own sorting, from the checkpoint that the door opens."""
    (run,) = whole.runs
    classifier = public.load(run / "best.pth", "cpu")
    data = task_of(whole).data("val")
    with torch.no_grad():
        images = normalise(torch.from_numpy(data.images), classifier.spec)
        logits, precise = classifier.model(images), in_float64(classifier.model)(images)
    labels = torch.from_numpy(data.labels)
    is_hit = logits.topk(5).indices == labels[:, None]
    metrics = load_checkpoint(run / "best.pth")["metrics"]
    assert metrics["top1_error"] == pytest.approx(100 * (1 - is_hit[:, 0].double().mean().item()))
    assert metrics["top5_error"] == pytest.approx(100 * (1 - is_hit.any(1).double().mean().item()))
    single, double = (torch.nn.functional.cross_entropy(x, labels) for x in (logits, precise))
    assert_within_rounding(metrics["eval_loss"], double, single=single, double=double, cap=1e-5, what="eval_loss")
    assert metrics["top1_accuracy"] == read_manifest(run)["finished"]["best"]
    assert 0 < metrics["top5_error"] < metrics["top1_error"] <= 100
    text = f"top-1 error {metrics['top1_error']:.3f} %  top-5 error {metrics['top5_error']:.3f} %  (the best so far)"
    assert text in whole.log


def evaluate_on_this_rank(whole):
    task = task_of(whole)
    (run,) = whole.runs
    model = task.config.classifier.build_model()
    model.load_state_dict(load_checkpoint(run / "best.pth")["model"])
    metrics = task.evaluate(model)
    count = len(task.found.indices) if collectives.rank() == 0 else None
    return {name: value for name, value in metrics.items() if not name.endswith("_ms")}, count


def test_evaluation_over_processes_gives_the_same_digits(whole):
    """Batches of 7 of 25 pictures on 1, 2 and 5 processes, one of which has nothing to do; each picture counts once."""
    alone, count = evaluate_on_this_rank(whole)
    assert count == NUM_VAL
    for world_size in (2, 5):
        found = run_processes(evaluate_on_this_rank, world_size, whole)
        assert [metrics for metrics, _ in found] == [alone] * world_size
        assert found[0][1] == NUM_VAL


def test_evaluation_has_the_batches_and_the_precision_of_the_settings(whole):
    task = task_of(whole)
    assert [len(batch.images) for batch in task.evaluation_batches("val")] == [7, 7, 7, 4]
    model = public.load(whole.runs[0] / "best.pth", "cpu").model
    losses = {precision: task_of(whole, precision=precision).evaluate(model) for precision in ("float32", "bf16")}
    assert losses["bf16"]["eval_loss"] != losses["float32"]["eval_loss"]
    assert losses["bf16"]["eval_loss"] == pytest.approx(losses["float32"]["eval_loss"], rel=0.02)  # 5 steps of bf16


# ---------------------------------------------------------------------------------------------- class folders


@pytest.fixture
def folders(whole, tmp_path) -> dict:
    """Changes of the settings that make the experiment read class folders of pictures of many sizes."""
    write_class_folders(tmp_path / "pictures", num_classes=12, num_images=2)
    data = ImageFolder(folder=str(tmp_path / "pictures"), classes=None, num_classes=12)
    crop = RandomResizedCrop(
        size=(32, 32), area=(0.3, 1.0), aspect_ratio=(0.75, 4 / 3), interpolation="linear", num_attempts=10
    )
    jitter = ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.0)
    return {"train_data": data, "val_data": data, "train_transforms": (crop, jitter)}


def test_a_corrupt_picture_is_named_or_skipped_and_counts_as_wrong(whole, folders, tmp_path):
    model = load_experiment(whole.folder).config.classifier.build_model()
    with torch.no_grad():
        model.fc.weight.zero_()
        model.fc.bias.copy_(torch.arange(12) == 3)  # answers class 3, whatever it sees
    broken = tmp_path / "pictures" / "n003" / "a1.png"
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(ImageError, match=r"n003/a1\.png"):
        task_of(whole, **folders).evaluate(model)
    task = task_of(whole, on_bad_sample="skip", **folders)
    metrics = task.evaluate(model)
    assert metrics["top1_accuracy"] == pytest.approx(100 * 1 / 24), "one of the two of class 3; the other is black"
    assert "1 pictures could not be used; they count as wrong:" in task.report(metrics)
    task.write_bad_samples(tmp_path)
    assert str(broken) in (tmp_path / "bad_samples.txt").read_text()
    batches = list(task.train_batches(first_step=0, num_steps=2))
    assert all(batch.images.shape == (16, 32, 32, 3) for batch in batches)


# ---------------------------------------------------------------------------------------------- what is left behind


def test_the_pictures_of_predictions_are_taken_evenly(whole, folders, tmp_path, monkeypatch):
    """The first images of class folders are all of one class."""
    task = task_of(whole, num_pictures=4, **folders)
    task.evaluate(load_experiment(whole.folder).config.classifier.build_model())
    positions = []
    monkeypatch.setattr(task, "prediction_lines", lambda position: positions.append(position) or ["", ""])
    task.draw_predictions(tmp_path)
    assert positions == [0, 6, 12, 18]
    assert len({int(task.data("val").labels[position]) for position in positions}) == 4
    assert (tmp_path / "predictions.jpg").is_file()


def test_the_run_has_pictures_curves_and_losses(whole):
    (run,) = whole.runs
    assert {p.name for p in (run / "pictures").iterdir()} == {"train_batch_0.jpg", "predictions.jpg"}
    assert not (run / "bad_boxes.txt").exists()
    lines = read_metrics(run)
    assert [line["step"] for line in lines if line["kind"] == "train"] == list(range(1, 10))
    rates = [line["lr"] for line in lines if line["kind"] == "train"]
    assert min(rates[:3]) > 0, "no idle first epoch"
    assert rates[3] == max(rates) == 0.1


def test_a_broken_loss_saves_the_batch(whole, tmp_path):
    (batch,) = task_of(whole).train_batches(first_step=0, num_steps=1)
    terms = {"loss_cls": torch.tensor(float("nan"))}
    losses = guards.StepLosses()
    losses.add(terms, batch)
    with pytest.raises(guards.NonFiniteLossError, match="train_0000"):
        losses.read(None, 4, tmp_path)
    (saved,) = tmp_path.glob("not_finite_*.pth")
    content = torch.load(saved, weights_only=True)
    assert torch.equal(content["images"], batch.images)
    assert torch.equal(content["targets"]["labels"], batch.targets["labels"])


# ---------------------------------------------------------------------------------------------- settings


SETTINGS = ImageClassifier(
    network="resnet18_cifar",
    num_classes=7,
    in_chans=3,
    dropout=0.25,
    drop_path=0.1,
    zero_init=True,
    label_smoothing=0.1,
    options=(("bn_eps", 1e-3), ("activation", "silu")),
)


def test_the_settings_build_what_they_say_and_come_back_from_json():
    again = thaw(json.loads(json.dumps(freeze(SETTINGS))), SETTINGS_CLASSES)
    assert again == SETTINGS
    torch.manual_seed(0)
    model = again.build_model()
    torch.manual_seed(0)
    direct = create_model(
        "resnet18_cifar", num_classes=7, dropout=0.25, drop_path=0.1, zero_init=True, bn_eps=1e-3, activation="silu"
    )
    state, expected = model.state_dict(), direct.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in state)
    assert model.dropout.p == 0.25
    assert max(m.p for m in model.modules() if isinstance(m, StochasticDepth)) == pytest.approx(0.1)
    assert {m.eps for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {1e-3}
    assert again.build_loss().label_smoothing == 0.1


def test_unknown_networks_and_options_are_refused():
    with pytest.raises(ValueError, match="resnet18_cifar"):
        dataclasses.replace(SETTINGS, network="resnet18_cifr").build_model()
    with pytest.raises(TypeError, match="depht"):
        dataclasses.replace(SETTINGS, options=(("depht", 3),)).build_model()


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"best_metric": "top1_error"}, TypeError, "best_metric is 'top1_error'"),
        ({"repeats": 0}, ValueError, "repeats is 0; it must be at least 1"),
        ({"repeats": 3}, ValueError, "batch_size 16 cannot be made of 3 copies"),
        ({"batch_size": 15}, ValueError, "a batch of 15 images cannot be mixed two by two"),
        ({"batch_transforms": (CutMix(alpha=1.0, prob=1.0), Mixup(alpha=1.0, prob=1.0))}, ValueError, "one at most"),
        ({"batch_size": 64}, ValueError, "52 images, fewer than one batch of 64"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_settings_that_do_not_fit_are_refused_before_a_run(whole, changes, error, words):
    with pytest.raises(error, match=words):
        task_of(whole, **changes).check_batches()


def test_what_cannot_live_on_the_device_is_refused(whole, folders):
    with pytest.raises(ValueError, match="RandomResizedCrop cannot be done in batches"):
        task_of(whole, data_on_device=True, **folders).check_batches()
    with pytest.raises(ValueError, match="are files: --data_on_device false"):
        task_of(whole, data_on_device=True, **folders | {"train_transforms": ()}).check_batches()


def test_another_number_of_classes_is_refused(whole):
    settings = load_experiment(whole.folder).config.classifier
    with pytest.raises(ValueError, match=r"has 12 classes .* the classifier of the configuration has num_classes = 10"):
        task_of(whole, classifier=dataclasses.replace(settings, num_classes=10))


def test_the_command_line_has_flags_for_the_settings(whole, capsys):
    config = load_experiment(whole.folder).config
    parsed = command_line.parse(config, "", ["--data_on_device", "true", "--best_metric", "top5_accuracy"])
    assert (parsed.config.data_on_device, parsed.config.best_metric) == (True, "top5_accuracy")
    assert differences(config, parsed.config) == [("best_metric", "top1_accuracy", "top5_accuracy")], (
        "the other is free"
    )
    with pytest.raises(SystemExit):
        command_line.parse(config, "", ["--best_metric", "top1_error"])
    assert "invalid top1_accuracy or top5_accuracy value: 'top1_error'" in capsys.readouterr().err


def test_the_best_is_told_as_an_error(whole):
    task = task_of(whole, best_metric="top1_accuracy")
    assert task.best_text(75.0) == "top-1 error 25.000 %"
    assert task.best_text(None) == "top-1 error -"
    assert task_of(whole, best_metric="top5_accuracy").best_text(100.0) == "top-5 error 0.000 %"
