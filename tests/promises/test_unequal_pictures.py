"""Every user of an input rule on pictures of unequal sizes: training, evaluation, detection, video, commands."""

import dataclasses
import sys

import numpy as np
import pytest
import torch

import public
from public.config import freeze
from public.input import normalise, prepare, read_image
from public.resizing import KeepSize, ShorterSide
from public.runs.experiment import load_experiment
from public.tasks.detection import DetectionTask
from public.test_scripts import benchmark, compare, flops, show_data
from tests.helpers import forked_training
from tests.helpers.experiments import TinyExperiment, read_metrics
from tests.helpers.processes import run_processes
from tests.helpers.tiny_data import write_picture, write_voc
from tests.helpers.tiny_detector import (
    SPEC,
    assert_same,
    picture,
    run_detect,
    tiny_settings,
    tolerances,
    write_checkpoint,
    write_video,
)

RULES = {
    "shorter side": dataclasses.replace(
        SPEC, size=(50, 96), resize=ShorterSide(rounding="nearest", multiple=32), padding="mean"
    ),
    "keep": dataclasses.replace(SPEC, resize=KeepSize(multiple=32), padding="mean"),
    "longest side": dataclasses.replace(SPEC, size=(96, 96), resize="letterbox", padding=0),
}
SIZES = ((48, 64), (40, 80), (70, 50), (30, 90), (33, 33))
TRANSFORMS = (
    'ResizeShorterSide(shorter_sides=(50, 60), longer_side=96, rounding="nearest", interpolation="linear")',
    "RandomCropKeepingObjects(prob=0.5)",
    "RandomTranslate(prob=0.5, fill=(0, 0, 0))",
    "RandomShift(prob=0.5, max_shift_px=8, filter_thr_px=1, fill=(0, 0, 0))",
)


@pytest.fixture(scope="module")
def unequal(tmp_path_factory) -> TinyExperiment:
    """The tiny experiment with the rule of the shorter side, on 15 pictures of five sizes, and 5 for validation."""
    torch.set_num_threads(1)
    experiment = TinyExperiment.create(tmp_path_factory.mktemp("unequal"))
    sources = {"train": [], "val": []}
    for number, size in enumerate(SIZES):
        for split, count in (("train", 3), ("val", 1)):
            write_voc(
                experiment.data_root, folder="sizes", split=f"{split}{number}", num_images=count, size=size, seed=number
            )
            sources[split].append(f"sizes/{split}{number}")
    page = experiment.folder / "config.py"
    text = page.read_text()
    names = ", ".join(sorted(part.partition("(")[0] for part in TRANSFORMS))
    imports = f"from public.resizing import ShorterSide\nfrom public.transforms.geometric import {names}"
    for old, new in (
        ('sources=("tiny/train",)', f"sources={tuple(sources['train'])}"),
        ('sources=("tiny/val",)', f"sources={tuple(sources['val'])}"),
        ('size=(64, 64),\n        resize="stretch"', "size=(50, 96),\n        resize=SHORTER"),
        ("padding=0", 'padding="mean"'),
        ('Resize(size=(64, 64), interpolation="linear")', ", ".join(TRANSFORMS)),
        ('BatchRandomResize(sizes=(64, 96), interpolations=("linear", "nearest")),', ""),
        ("import BatchRandomResize, Resize", "import Resize  # noqa: F401"),
        ("from .loss", f"{imports}\n\nfrom .loss"),
        ("@dataclass", 'SHORTER = ShorterSide(rounding="nearest", multiple=32)\n\n\n@dataclass'),
    ):  # fmt: skip
        assert old in text, old
        text = text.replace(old, new, 1)
    page.write_text(text)
    return experiment


def open_task(experiment, **changes):
    config = dataclasses.replace(load_experiment(experiment.folder).config, **changes)
    return DetectionTask(config=config, data_root=experiment.data_root, device=torch.device("cpu"), limit_images=None)


@pytest.fixture(scope="module", params=RULES)
def rule(request):
    return RULES[request.param]


@pytest.fixture(scope="module")
def checkpoint(rule, tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("weights") / "tiny.pth", input=freeze(rule)["InputSpec"])


@pytest.fixture(scope="module")
def detector(checkpoint):
    torch.set_num_threads(1)
    return public.load(checkpoint, device="cpu")


def assert_found(found, expected, limits):
    np.testing.assert_array_equal(found["labels"], expected["labels"])
    for part, limit in limits.items():
        np.testing.assert_allclose(found[part], expected[part], rtol=0, atol=limit)


# ------------------------------------------------------------------------------------------------ detection


@pytest.mark.numeric
def test_many_pictures_are_each_what_it_is_alone(detector, rule):
    """No picture is padded for its neighbours' sake; some of them share a size and go through the network together."""
    assert detector.spec == rule, "the rule comes back from the file"
    images = [picture(number, *SIZES[number % 3]) for number in range(5)]
    alone = [detector(image, 0.01) for image in images]
    for image, one, other in zip(images, alone, detector.many(images, 0.01, batch_size=5), strict=True):
        assert_found(other, one, tolerances(detector, image))
    assert len({tuple(found["labels"]) for found in alone}) > 1
    for image, found in zip(images, alone):
        height, width = image.shape[:2]
        assert len(found["boxes"])
        assert (found["boxes"] >= 0).all()
        assert (found["boxes"] <= [width, height, width, height]).all()


@pytest.mark.numeric
def test_the_command_on_one_image_on_a_folder_and_on_a_video(checkpoint, detector, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, size in enumerate(SIZES[:3]):
        write_picture(tmp_path / "photos" / f"{number}.png", picture(number, *size))
    for source in ("photos", "photos/2.png"):
        entries = run_detect(checkpoint, tmp_path / source, "--score_threshold", 0.01, "--batch_size", 4).entries
        assert len(entries) == (3 if source == "photos" else 1)
        for entry in entries:
            assert_same(entry, detector, tmp_path / "photos" / entry["file"].rpartition("/")[2])
    write_video(tmp_path / "clip.mp4", num_frames=3)
    entries = run_detect(checkpoint, tmp_path / "clip.mp4", "--score_threshold", 0.01, "--batch_size", 2).entries
    assert len(entries) == 3
    assert all(entry["detections"] for entry in entries)


@pytest.mark.numeric
def test_an_evaluation_in_batches_of_one_is_detection(unequal, rule, checkpoint, detector):
    task = open_task(unequal, input=rule, evaluation_batch_size=1, detector=tiny_settings(12, 0.5), channels_last=True)
    annotations = task.annotations("val")
    metrics = task.evaluate(detector.model)
    assert 0 <= metrics["AP"] <= 1
    assert sum(len(found.scores) for found in task.detections) > 10
    for found in task.detections:
        expected = detector(annotations.image_path(found.index))
        for name in ("boxes", "scores", "labels"):
            np.testing.assert_array_equal(getattr(found, name), expected[name])


def test_an_evaluation_batch_is_padded_to_its_largest(unequal, rule):
    task = open_task(unequal, input=rule, evaluation_batch_size=5)
    (batch,) = task.evaluation_batches("val")
    alone = [prepare(read_image(task.annotations("val").image_path(index)), rule)[0].shape for index in range(5)]
    assert batch.images.shape == (5, *np.max(alone, axis=0))
    inputs = task.inputs(batch)
    assert torch.equal(inputs, normalise(batch.images, rule, batch.regions).contiguous())
    for image, (x1, y1, x2, y2) in zip(inputs, batch.regions):
        if rule.padding == "mean":
            assert image.count_nonzero() <= 3 * (x2 - x1) * (y2 - y1)
            assert not image[:, :, x2:].any()
            assert not image[:, y2:].any()
            assert not image[:, :y1].any()
            assert not image[:, :, :x1].any()


def test_a_network_names_its_stride_where_the_size_does_not_fit(tmp_path):
    """PPYOLOE needs multiples of 32: a longest side of 67 is refused with both numbers."""
    odd = dataclasses.replace(SPEC, size=(67, 67))
    loaded = public.load(write_checkpoint(tmp_path / "odd.pth", input=freeze(odd)["InputSpec"]), device="cpu")
    with pytest.raises(ValueError, match=r"images of 67 x 67 pixels: .* multiples of 32"):
        loaded(picture(0))


# ------------------------------------------------------------------------------------------------ training


def batches_and_detections(experiment) -> tuple[list, list]:
    """On this rank: what its training batches of an epoch are, and what an evaluation finds on all ranks."""
    torch.set_num_threads(1)
    task = open_task(experiment)
    seen = []
    for batch in task.train_batches(first_step=0, num_steps=3):
        inputs = task.inputs(batch)
        for index, image, region in zip(batch.indices, inputs, batch.regions):
            seen.append((index, tuple(image.shape), tuple(region), image.numpy().tobytes()))
    torch.manual_seed(0)
    model = task.config.detector.build_model()
    task.evaluate(model)
    return seen, [(found.index, found.boxes.tobytes(), found.scores.tobytes()) for found in task.detections]


def test_no_padding_depends_on_the_number_of_processes(unequal):
    """The inputs of training are the same bits from one process and from two; so is what an evaluation finds."""
    batches, detections = batches_and_detections(unequal)
    assert len({shape for _, shape, _, _ in batches}) > 1, "the batches differ in size"
    assert any(region[2:] != shape[2:0:-1] for _, shape, region, _ in batches), "some are padded"
    first, second = run_processes(batches_and_detections, 2, unequal)
    both = [entry for step in range(3) for part in (first[0], second[0]) for entry in part[2 * step : 2 * step + 2]]
    assert both == batches
    assert sorted(first[1]) == sorted(detections)


def test_a_training_and_its_run_opened_again(unequal, tmp_path):
    """Steps, evaluation and checkpoints; the run's JSON and checkpoint give the rule back; micro-batches change no input."""
    copied = unequal.copy(tmp_path)
    forked_training.train(copied, "--max_steps", "4", "--num_workers", "1", "--accumulate", "2")
    lines = read_metrics(copied.runs[0])
    assert [line["step"] for line in lines if line["kind"] == "train"] == [1, 2, 3, 4]
    assert all(np.isfinite(line["loss"]) for line in lines if line["kind"] == "train")
    assert [line["epoch"] for line in lines if line["kind"] == "eval"]
    again = load_experiment(copied.runs[0]).config
    assert again.input == load_experiment(copied.folder).config.input
    assert public.load(copied.runs[0] / "best.pth", device="cpu").spec == again.input


# ------------------------------------------------------------------------------------------------ commands


def run_command(module, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [module.__name__.rpartition(".")[2], *map(str, arguments)])
    module.main()


def test_commands_on_a_page_with_the_rule(unequal, monkeypatch, tmp_path, capsys):
    """Operations are counted for the largest input, 64 x 96; times are taken of pictures as they come."""
    monkeypatch.chdir(tmp_path)
    run_command(flops, monkeypatch, unequal.folder, "--depth", 0)
    assert "one image of 64 x 96 pixels" in capsys.readouterr().out
    run_command(compare, monkeypatch, unequal.folder)
    run_command(show_data, monkeypatch, unequal.folder, "--data_root", unequal.data_root, "--num_images", 5)
    run_command(
        show_data, monkeypatch, unequal.folder, "--data_root", unequal.data_root, "--split", "val", "--output", "v.png"
    )
    capsys.readouterr()
    quick = ("--repeats", 1, "--warmup", 0, "--batch_sizes", 1, 3, "--device", "cpu")
    run_command(benchmark, monkeypatch, unequal.folder, "--val_images", "--data_root", unequal.data_root, *quick)
    assert "shorter side 50, longer at most 96 pixels, padded to multiples of 32" in capsys.readouterr().out
    run_command(benchmark, monkeypatch, unequal.folder, "--shape", 96, 32, *quick)
    assert "96 x 32 pixels" in capsys.readouterr().out
    run_command(benchmark, monkeypatch, unequal.folder, *quick)
    assert "random pixels" in capsys.readouterr().out
