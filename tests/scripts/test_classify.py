"""The commands on a classification experiment: classify, test.sh, the door, sizes, pages, checks, tables."""

import csv
import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

import public
from public.checkpoint_files import load_checkpoint, save_atomic
from public.datasets.drawn_cifar import DRAWN_CLASSES
from public.datasets.imagenet_names import readable_names
from public.inference import classifier
from public.inference.places import open_classifier, open_detector
from public.input import normalise, prepare_crop
from public.runs.experiment import load_experiment
from public.test_scripts import analyze_logs, benchmark, check_dataset, classify, compare, evaluate, flops, show_data
from tests.helpers.classification_experiments import NUM_VAL, TinyClassification
from tests.helpers.experiments import ENVIRONMENT
from tests.helpers.forked_commands import run_python
from tests.helpers.forked_training import train
from tests.training.test_classification_task import task_of


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> TinyClassification:
    experiment = TinyClassification.create(tmp_path_factory.mktemp("trained"))
    train(experiment)
    return experiment


@pytest.fixture(scope="module")
def best(trained):
    return trained.runs[0] / "best.pth"


@pytest.fixture
def picture(tmp_path):
    """A photograph, as far as the network knows: 90 x 60 pixels of noise."""
    path = tmp_path / "photo.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8))
    return path


def call(module, monkeypatch, capsys, *words) -> str:
    """What a command prints."""
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, words)])
    module.main()
    return capsys.readouterr().out


def fail(module, monkeypatch, *words) -> str:
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, words)])
    with pytest.raises(SystemExit) as caught:
        module.main()
    return str(caught.value)


# ---------------------------------------------------------------------------------------------- classify


def test_the_five_best_classes_are_those_of_the_network(trained, best, picture, monkeypatch, capsys, tmp_path):
    loaded = classifier.load(best, "cpu")
    crop = prepare_crop(cv2.imread(str(picture))[..., ::-1], loaded.spec)[0]
    with torch.no_grad():
        scores = loaded.model(normalise(torch.from_numpy(crop)[None], loaded.spec))[0].softmax(0)
    expected = sorted(zip(scores.tolist(), loaded.class_names), reverse=True)[:5]
    for place in (trained.folder, best.parent, best):
        output = tmp_path / "classes.json"
        text = call(classify, monkeypatch, capsys, place, picture, "--device", "cpu", "--json", output)
        lines = text.splitlines()
        assert lines[0] == f"weights {best}, 12 classes"
        assert [line.split()[1] for line in lines[2:7]] == [name for _, name in expected]
        found = json.loads(output.read_text())[str(picture)]
        assert [entry["name"] for entry in found] == [name for _, name in expected]
        assert [entry["score"] for entry in found] == pytest.approx([score for score, _ in expected], abs=1e-6)
        assert [loaded.class_names[entry["label"]] for entry in found] == [entry["name"] for entry in found]


def test_a_folder_and_another_number_of_classes(best, picture, monkeypatch, capsys):
    cv2.imwrite(str(picture.with_name("second.png")), np.zeros((8, 8, 3), np.uint8))
    text = call(classify, monkeypatch, capsys, best, picture.parent, "--top", "2", "--device", "cpu", "--batch_size", 1)
    assert sum(line.startswith("  ") for line in text.splitlines()) == 4
    both = call(classify, monkeypatch, capsys, best, picture.parent, "--top", "2", "--device", "cpu")
    assert both == text, "one at a time or two at once"


def test_errors_are_one_line(trained, best, picture, experiment_folder, monkeypatch, tmp_path):
    assert "there is no image" in fail(classify, monkeypatch, best, tmp_path / "none.png")
    assert "--top is 0" in fail(classify, monkeypatch, best, picture, "--top", "0")
    assert "has no trained run yet" in fail(classify, monkeypatch, experiment_folder, picture)
    broken = tmp_path / "broken.png"
    broken.write_bytes(picture.read_bytes()[:50])
    assert str(broken) in fail(classify, monkeypatch, best, broken, "--device", "cpu")
    alone = tmp_path / "alone.pth"
    alone.write_bytes(best.read_bytes())
    with pytest.raises(ValueError, match=r"finds objects: python -m public\.test_scripts\.detect "):
        open_classifier(str(experiment_folder), str(alone), "cpu")
    with pytest.raises(ValueError, match=r"finds no boxes: python -m public\.test_scripts\.classify"):
        open_detector(str(trained.folder), None, "cpu")


# ---------------------------------------------------------------------------------------------- the door


def test_the_door_opens_a_classifier(best, picture):
    found = public.load(best, "cpu")(picture)
    assert len(found["names"]) == len(found["scores"]) == 5
    assert found["scores"].tolist() == sorted(found["scores"].tolist(), reverse=True)
    assert len(public.load(best, "cpu")(picture, count=100)["names"]) == 12


def test_checkpoints_that_are_no_whole_classifier_are_refused(best, tmp_path):
    checkpoint = load_checkpoint(best)
    alone = tmp_path / "alone.pth"
    save_atomic(checkpoint, alone)
    with pytest.raises(ValueError, match=r"settings of its own \(TinyClassifier\)"):
        classifier.load(alone, "cpu")
    for changes, words in (
        ({"part": "backbone"}, "holds a backbone only"),
        ({"detector": {}}, "is a detector's checkpoint"),
        ({"num_classes": 13}, "weights for 13 classes, but the settings say 12"),
        ({"input": {"size": [32, 32]}}, "does not say how an image becomes the network's input"),
    ):
        save_atomic(checkpoint | changes, alone)
        with pytest.raises(ValueError, match=words):
            classifier.load(alone, "cpu", settings=load_experiment(best.parent).config.classifier)


# ---------------------------------------------------------------------------------------------- test.sh


def test_the_script_prints_the_digits_of_training(trained, best):
    script = [str(trained.folder / "test.sh"), "--data_root", str(trained.data_root), "--device", "cpu"]
    environment = ENVIRONMENT | {"PYTHON": sys.executable}
    done = subprocess.run(script, env=environment, capture_output=True, text=True, check=True)
    metrics = load_checkpoint(best)["metrics"]
    assert f"top-1 error: {metrics['top1_error']:.3f} %, top-5 error: {metrics['top5_error']:.3f} %" in done.stdout
    assert f"loss {metrics['eval_loss']:.6f}" in done.stdout
    folder = best.with_name("best_val_evaluation")
    assert {path.name for path in folder.iterdir()} == {"predictions.csv", "classes.csv", "worst_images.jpg"}
    rows = list(csv.DictReader((folder / "predictions.csv").open()))
    assert len(rows) == NUM_VAL
    wrong = sum(row["class"] != row["class_1"] for row in rows)
    assert 100 * wrong / NUM_VAL == pytest.approx(metrics["top1_error"])
    missed = sum(row["class"] not in [row[f"class_{k}"] for k in range(1, 6)] for row in rows)
    assert 100 * missed / NUM_VAL == pytest.approx(metrics["top5_error"])
    classes = list(csv.DictReader((folder / "classes.csv").open()))
    assert sum(int(row["images"]) * float(row["top1_error"]) for row in classes) == pytest.approx(100 * wrong)


def test_options_of_detection_are_refused(trained, monkeypatch):
    words = fail(evaluate, monkeypatch, trained.folder, "--score_threshold", "0.5", "--data_root", trained.data_root)
    assert "--score_threshold belongs to detections" in words


# ---------------------------------------------------------------------------------------------- the other commands


def test_flops_of_an_experiment_and_of_a_published_network(trained, monkeypatch, capsys):
    """By hand: 3x3 convolutions 3->8 and 8->8 on 16 x 16, 8->16 on 8 x 8, and 16 x 12 of the last layer."""
    macs = 16 * 16 * 9 * (3 * 8 + 8 * 8) + 8 * 8 * 9 * 8 * 16 + 16 * 12
    arguments = flops.argparse.Namespace(
        network=str(trained.folder), shape=None, depth=0, fuse=False, json=None, weights=None
    )
    assert flops.flops(arguments).macs == macs
    text = call(flops, monkeypatch, capsys, "resnet18_cifar", "--depth", "0")
    assert "one image of 32 x 32 pixels" in text
    assert "11,220,132" in text
    assert "did you mean resnet18_cifar" in fail(flops, monkeypatch, "resnet18_cifr")


def test_benchmark_times_a_classifier_without_nms(trained, best, monkeypatch, capsys):
    options = ("--device", "cpu", "--repeats", "1", "--warmup", "0", "--batch_sizes", "2", "--threads", "1")
    data = ("--val_images", "--data_root", trained.data_root)
    for words in (
        (trained.folder, best, *data),
        (best, "--fuse", "--shape", "48", "64"),
        ("lcnet_035", "--shape", "64", "64"),
    ):
        text = call(benchmark, monkeypatch, capsys, *words, *options)
        parts = [line[7:17].strip() for line in text.splitlines() if line.startswith("    2")]
        assert parts == ["prepare", "forward", "end to end"]
        assert "NMS" not in text


def test_compare_and_logs_show_errors(trained, monkeypatch, capsys, tmp_path):
    (row,) = compare.compare(parsed(compare, monkeypatch, trained.folder))
    metrics = load_checkpoint(trained.runs[0] / "best.pth")["metrics"]
    assert row["best top1_error"] == metrics["top1_error"]
    assert row["best top5_error"] == metrics["top5_error"]
    assert row["parameters"] == 2212
    assert row["expected"] == "top-1 error 91.67"
    capsys.readouterr()
    call(analyze_logs, monkeypatch, capsys, trained.folder, "-o", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").is_file()


def parsed(module, monkeypatch, *words):
    """The arguments that `module.main` would pass on."""
    caught = []
    monkeypatch.setattr(module.commands, "call", lambda function, arguments: caught.append(arguments))
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, words)])
    module.main()
    monkeypatch.undo()
    return caught[0]


def test_the_page_shows_what_training_sees(trained, monkeypatch, tmp_path):
    words = (trained.folder, "--data_root", trained.data_root, "--output", tmp_path / "page.png", "--originals")
    shown = show_data.show(parsed(show_data, monkeypatch, *words, "--epoch", "1", "--num_images", "20"))
    batches = list(task_of(trained).train_batches(first_step=3, num_steps=6))
    images = [image for batch in batches for image in batch.images.numpy()]
    assert len(shown) == 20
    assert all(np.array_equal(item.image, image) for item, image in zip(shown, images))
    assert [item.index for item in shown] == [index for batch in batches for index in batch.indices][:20]
    (tmp_path / "page.png").unlink()
    one = show_data.show(
        parsed(show_data, monkeypatch, *words, "--epoch", "1", "--index", shown[17].index, "--num_images", 1)
    )
    assert len(one) == 1
    assert np.array_equal(one[0].image, shown[17].image)
    assert (tmp_path / "page.png").is_file()
    val = show_data.show(parsed(show_data, monkeypatch, *words, "--split", "val", "--num_images", "2"))
    assert [item.index for item in val] == [0, NUM_VAL // 2], (
        "evenly: the first of a set of class folders are of one class"
    )
    assert [item.text for item in val] == ["plain_circle", DRAWN_CLASSES[NUM_VAL // 2 % 12]]


def test_the_check_counts_classes_and_finds_what_splits_share(trained, monkeypatch, tmp_path):
    words = (trained.folder, "--data_root", trained.data_root, "--output", tmp_path / "check", "--workers", "0")
    assert check_dataset.check(parsed(check_dataset, monkeypatch, *words)) == 0
    report = (tmp_path / "check" / "report.txt").read_text()
    assert "images   52" in report
    assert "classes  12, with 4 to 5 images" in report
    copied = trained.copy(tmp_path)
    config = copied.folder / "config.py"
    config.write_text(config.read_text().replace('split="test"', 'split="train"'))
    words = (copied.folder, *words[1:])
    assert check_dataset.check(parsed(check_dataset, monkeypatch, *words)) == 52
    assert "in train and in val" in (tmp_path / "check" / "report.txt").read_text()


def test_the_numbers_of_imagenets_folders_have_words():
    numbers = tuple(f"n{10000000 + i}" for i in range(1000))
    names = readable_names(numbers[::-1])
    assert (names[-1], names[0]) == ("n10000000 tench", "n10000999 toilet tissue")
    for others in (numbers[:999], ("cat", *numbers[1:])):
        assert readable_names(others) == others, "another set keeps its names"


@pytest.mark.slow
def test_a_run_is_reproduced_to_the_last_digest(trained):
    options = ["--device", "cpu", "--data_root", str(trained.data_root)]
    done = run_python(["-m", "public.test_scripts.reproduce", str(trained.runs[0]), *options])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "equal: 9 digests, steps 1 to 9" in done.stdout
    assert "final digests and metrics are equal" in done.stdout
