"""Classification on real pictures: CIFAR-10's, through its archive format, and Imagenette's class folders."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import forked_training
from tests.helpers.experiments import REPOSITORY, TinyExperiment, read_manifest
from tests.helpers.tiny_cifar import write_cifar10

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def copy_of(page: Path, target: Path, **changes: str) -> Path:
    """A copy of an experiment's folder in which each text of `changes` stands for another one."""
    shutil.copytree(page, target, ignore=shutil.ignore_patterns("runs", "__pycache__"))
    text = (target / "config.py").read_text()
    for old, new in changes.values():
        assert old in text, f"{page} no longer says {old}"
        text = text.replace(old, new)
    (target / "config.py").write_text(text)
    return target


def result_of(experiment: TinyExperiment) -> dict:
    return read_manifest(experiment.runs[-1])["finished"]["metrics"]


@pytest.mark.slow
def test_a_resnet_learns_real_cifar_10_images(tmp_path, shared, capsys):
    """The mini page on 10,000 training and 2,000 test images: far from the 90 % error of guessing after two epochs."""
    parts = [np.load(shared / "data" / "cifar10_mini" / f"{name}.npz") for name in ("train_10000", "test_2000")]
    train, test = ((part["images"], part["labels"]) for part in parts)
    write_cifar10(tmp_path / "data" / "cifar-10-mini", train, test, CIFAR10)
    folder = copy_of(
        REPOSITORY / "cifar100_experiments" / "resnet18_mini",
        tmp_path / "resnet18_mini",
        data=("cifar-shapes-python", "cifar-10-mini"),
        classes=("num_classes=12", "num_classes=10"),
    )
    experiment = TinyExperiment(folder, tmp_path / "data")
    forked_training.train(experiment, "--epochs", "2", "--epochs_scaling", "linear", timeout=600)
    top1_error = result_of(experiment)["top1_error"]
    with capsys.disabled():
        print(f"\nreal CIFAR-10 images, 2 epochs of 10,000: top-1 error {top1_error:.1f} %")
    assert top1_error < 60


@pytest.mark.slow
def test_real_class_folders_train_and_are_evaluated(tmp_path, shared):
    """The ImageNet page of ResNet-18 at its full size, two steps on the Imagenette subset."""
    folder = copy_of(
        REPOSITORY / "imagenet_experiments" / "resnet18",
        tmp_path / "resnet18",
        folders=("imagenet/", "imagenette_mini/"),
        classes=("num_classes=1000", "num_classes=10"),
    )
    experiment = TinyExperiment(folder, shared / "data")
    log = forked_training.train(
        experiment, "--max_steps", "2", "--batch_size", "8", "--limit_images", "24", timeout=300
    )
    assert "10 classes" in log
    assert 0 <= result_of(experiment)["top1_error"] <= 100
