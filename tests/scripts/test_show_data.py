"""The gallery of samples: the same bits as the training's loader, the right boxes on the page, what it refuses."""

import dataclasses
import sys

import cv2
import numpy as np
import pytest
import torch

from public import drawing
from public.datasets.pictures import load_sample
from public.input import prepare, read_image
from public.runs.experiment import load_experiment
from public.runs.run_folder import RunFolder
from public.tasks.detection import DetectionTask
from public.test_scripts import show_data
from tests.helpers.experiments import TinyExperiment
from tests.helpers.tiny_data import TINY_CLASSES


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> TinyExperiment:
    """14 training images in batches of 4, sizes 64 and 96 by batch; 5 validation images."""
    return TinyExperiment.create(tmp_path_factory.mktemp("show_data"))


@pytest.fixture
def gallery(tiny, tmp_path, monkeypatch):
    """Runs the command in an empty folder; what it shows.  `gallery.drawn`: the arguments of each drawing."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, experiment=tiny.folder):
        run.drawn.clear()
        command = ["show_data", experiment, "--data_root", tiny.data_root, *arguments]
        monkeypatch.setattr(sys, "argv", [str(part) for part in command])
        show_data.main()
        return run.shown

    def show(arguments):
        run.shown = original_show(arguments)

    def draw(image, boxes, labels, names, **options):
        run.drawn.append((image, boxes, [names[label] for label in labels]))
        return original_draw(image, boxes, labels, names, **options)

    run.drawn = []
    original_show, original_draw = show_data.show, drawing.draw_detections
    monkeypatch.setattr(show_data, "show", show)
    monkeypatch.setattr(drawing, "draw_detections", draw)
    return run


def open_task(tiny, limit_images=None, **changes):
    config = dataclasses.replace(load_experiment(tiny.folder).config, **changes)
    return DetectionTask(config=config, data_root=tiny.data_root, device=torch.device("cpu"), limit_images=limit_images)


def trained_on(task, epoch):
    """(index, image, boxes, labels) of every sample of an epoch, out of the training's loader."""
    batches = task.train_batches(first_step=3 * epoch, num_steps=3 * epoch + 3)
    return [
        (index, image.numpy(), target["boxes"].numpy(), target["labels"].numpy())
        for batch in batches
        for index, image, target in zip(batch.indices, batch.images, batch.targets)
    ]


def assert_same(shown, expected):
    assert len(shown) == len(expected)
    for item, (index, image, boxes, labels) in zip(shown, expected):
        assert item.key.index == index
        np.testing.assert_array_equal(item.sample.image, image)
        np.testing.assert_array_equal(item.sample.boxes, boxes)
        np.testing.assert_array_equal(item.sample.labels, labels)


@pytest.mark.parametrize(("epoch", "workers"), [(0, 0), (1, 2)])
def test_the_samples_are_those_of_the_training(tiny, gallery, epoch, workers):
    expected = trained_on(open_task(tiny, num_workers=workers), epoch)
    assert {image.shape[0] for _, image, _, _ in expected} == {64, 96}
    assert_same(gallery("--epoch", epoch, "--num_images", 10), expected[:10])


def test_more_images_than_an_epoch_holds_go_on_in_the_next(tiny, gallery):
    task = open_task(tiny)
    assert_same(gallery("--num_images", 20), trained_on(task, 0) + trained_on(task, 1)[:8])
    assert_same(gallery("--epoch", 2, "--num_images", 20), trained_on(task, 2))  # the last epoch has 12


def test_an_image_is_followed_over_the_epochs(tiny, gallery, capsys):
    task = open_task(tiny)
    epochs = [trained_on(task, epoch) for epoch in range(3)]
    left_out = [set(range(14)) - {sample[0] for sample in epoch} for epoch in epochs]
    missing = min(left_out[1])
    shown = gallery("--index", missing, 6, missing, "--num_images", 3)
    expected = [sample for index in (missing, 6) for epoch in epochs for sample in epoch if sample[0] == index]
    assert_same(shown, expected)
    assert len({item.sample.image.tobytes() for item in shown}) > 1
    assert f"image {missing} is not shown in epoch 1" in capsys.readouterr().out


def test_boxes_are_drawn_where_they_are_in_the_enlarged_picture(gallery):
    shown = gallery("--num_images", 5, "--side", 240)
    for item, (image, boxes, names) in zip(shown, gallery.drawn, strict=True):
        side = item.sample.image.shape[0]
        assert image.shape == (240, 240, 3)
        np.testing.assert_allclose(boxes, item.sample.boxes * (240 / side), rtol=1e-6)
        assert [name.removesuffix(" (difficult)") for name in names] == [TINY_CLASSES[k] for k in item.sample.labels]
        assert [name.endswith("(difficult)") for name in names] == item.sample.difficult.tolist()
        middles = (np.arange(240) * side // 240).clip(max=side - 1)
        np.testing.assert_array_equal(image, item.sample.image[middles][:, middles])


def test_the_page_is_written_once_and_the_same(tiny, gallery, tmp_path, capsys):
    before = {path: path.stat().st_mtime_ns for path in tiny.data_root.rglob("*")}
    gallery("--num_images", 6, "--columns", 3, "--side", 100)
    (page,) = tmp_path.iterdir()
    assert page.name == "tiny_experiment_train_samples.jpg"
    assert str(page) in capsys.readouterr().out
    content = page.read_bytes()
    gallery("--num_images", 6, "--columns", 3, "--side", 100)
    assert page.read_bytes() == content
    height, width = cv2.imread(str(page)).shape[:2]
    assert 300 < width < 340  # three pictures of 100 and the gaps
    assert 200 < height < 330  # two, with their titles
    gallery("--num_images", 1, "--output", "one.png")
    assert cv2.imread(str(tmp_path / "one.png")).shape[1] >= 400
    assert {path: path.stat().st_mtime_ns for path in tiny.data_root.rglob("*")} == before


def test_originals_stand_beside_their_samples(tiny, gallery):
    annotations = open_task(tiny).annotations("train")
    shown = gallery("--num_images", 3, "--originals", "--side", 64)
    originals, samples = gallery.drawn[1::2], gallery.drawn[0::2]
    for item, (image, boxes, _), (sample_image, _, _) in zip(shown, originals, samples, strict=True):
        original = load_sample(annotations, item.key.index)  # 48 x 64 pixels, so it is not enlarged
        np.testing.assert_array_equal(image, original.image)
        np.testing.assert_array_equal(boxes, original.boxes)
        assert sample_image.shape == (64, 64, 3)


def test_validation_images_are_shown_as_evaluation_prepares_them(tiny, gallery):
    task = open_task(tiny)
    annotations = task.annotations("val")
    shown = gallery("--split", "val", "--num_images", 99)
    assert [item.key.index for item in shown] == list(range(5))
    for item in shown:
        image, geometry = prepare(read_image(annotations.image_path(item.key.index)), task.config.input)
        np.testing.assert_array_equal(item.sample.image, image)
        scale = [geometry.scale_x, geometry.scale_y] * 2
        np.testing.assert_allclose(item.sample.boxes, annotations.objects(item.key.index).boxes * scale, rtol=1e-6)
    assert [item.key.index for item in gallery("--split", "val", "--index", 4, 1)] == [4, 1]


def test_a_run_is_shown_with_its_own_settings(tiny, gallery):
    """Another seed and only the first 9 images, as its files say."""
    experiment = load_experiment(tiny.folder)
    run = RunFolder.create(experiment, dataclasses.replace(experiment.config, seed=77), {})
    run.write_json("manifest.json", {"identity": {"limit_images": 9}})
    task = open_task(tiny, limit_images=9, seed=77)
    batches = task.train_batches(first_step=0, num_steps=2)
    expected = [(index, image.numpy()) for batch in batches for index, image in zip(batch.indices, batch.images)]
    shown = gallery("--num_images", 8, experiment=run.path)
    assert max(item.key.index for item in shown) < 9
    for item, (index, picture) in zip(shown, expected, strict=True):
        assert item.key.index == index
        np.testing.assert_array_equal(item.sample.image, picture)


def test_a_picture_that_training_skips_is_named(tmp_path, gallery, capsys):
    """on_bad_sample = "skip": what takes its place is shown, as in training, and the line says why."""
    broken = TinyExperiment.create(tmp_path / "broken")
    page = broken.folder / "config.py"
    page.write_text(page.read_text().replace('on_bad_sample="error"', 'on_bad_sample="skip"'))
    bad = broken.data_root / "tiny" / "JPEGImages" / "train_0003.png"
    bad.write_bytes(b"")
    expected = trained_on(open_task(broken), 0)
    shown = gallery("--data_root", broken.data_root, "--num_images", 12, experiment=broken.folder)
    for item, (index, image, _, _) in zip(shown, expected, strict=True):
        assert item.sample.index == index
        np.testing.assert_array_equal(item.sample.image, image)
    assert f"{bad}: empty" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--epoch", 3), "--epoch 3: the training has epochs 0 to 2"),
        (("--epoch", -1), "--epoch -1: the training has epochs 0 to 2"),
        (("--index", 0, 14), "--index 14: the data set has images 0 to 13"),
        (("--split", "val", "--index", 5), "--index 5: the data set has images 0 to 4"),
        (("--num_images", 0), "--num_images is 0, has to be at least 1"),
        (("--output", "page.abc"), "page.abc: .*\\.abc"),
    ],
)
def test_what_makes_no_sense_ends_with_one_line(gallery, tmp_path, arguments, message):
    with pytest.raises(SystemExit, match=f"^error: {message}"):
        gallery(*arguments)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_experiment_is_refused(gallery, tmp_path):
    with pytest.raises(SystemExit, match=r"^error: .*is neither an experiment's folder"):
        gallery(experiment=tmp_path)
