"""Small data sets for classification tests: CIFAR archives in both layouts, class folders, and pictures in memory."""

from pathlib import Path

import cv2
import numpy as np

from public.datasets.classification_set import ClassificationSet
from public.datasets.preparing.cifar_writer import write_cifar10_part, write_cifar100_part, write_pickle

TINY_NAMES = ("apple", "bear", "cup", "dog")


def tiny_images(num_images: int, *, height: int = 32, width: int = 32, seed: int = 0) -> np.ndarray:
    """(N, H, W, 3) uint8 noise."""
    return np.random.default_rng(seed).integers(0, 256, (num_images, height, width, 3), dtype=np.uint8)


def tiny_set(num_images: int = 24, **size) -> ClassificationSet:
    """Pictures in memory, class i % 4."""
    return ClassificationSet(
        images=tiny_images(num_images, **size),
        image_root=None,
        labels=np.arange(num_images) % len(TINY_NAMES),
        class_names=TINY_NAMES,
        image_ids=[f"picture_{i}" for i in range(num_images)],
        description="tiny set",
    )


def write_cifar100(folder: Path, *, num_train: int = 20, num_test: int = 8) -> dict[str, np.ndarray]:
    """A CIFAR-100 archive of noise; returns the images of each split.  The class of picture i is i % 4."""
    folder.mkdir(parents=True)
    write_pickle(folder / "meta", {"fine_label_names": list(TINY_NAMES), "coarse_label_names": ["things", "animals"]})
    images = {}
    for seed, (split, number) in enumerate({"train": num_train, "test": num_test}.items()):
        images[split] = tiny_images(number, seed=seed)
        labels = np.arange(number) % len(TINY_NAMES)
        names = [f"{split}_{i}.png" for i in range(number)]
        write_cifar100_part(
            folder / split,
            images[split],
            labels,
            coarse_labels=labels % 2,
            names=names,
            title=f"{split}ing batch 1 of 1",
        )
    return images


def write_cifar10(
    folder: Path, train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], names: tuple[str, ...]
) -> None:
    """A CIFAR-10 archive of (images, labels), the training pictures in five equal batches."""
    folder.mkdir(parents=True)
    write_pickle(
        folder / "batches.meta",
        {"num_cases_per_batch": len(train[0]) // 5, "label_names": list(names), "num_vis": 3072},
    )
    parts = {"test_batch": test}
    for number, places in enumerate(np.split(np.arange(len(train[0])), 5), start=1):
        parts[f"data_batch_{number}"] = (train[0][places], train[1][places])
    for file, (images, labels) in parts.items():
        ids = [f"{file}_{i}.png" for i in range(len(images))]
        write_cifar10_part(folder / file, images, labels, names=ids, title=file)


def write_class_folders(folder: Path, *, num_classes: int = 3, num_images: int = 2, seed: int = 0) -> list[np.ndarray]:
    """Folders n000, n001, ... with pictures a0.png, a1.png, ... of different sizes; returns the pictures in order."""
    rng = np.random.default_rng(seed)
    pictures = []
    for number in range(num_classes):
        (folder / f"n{number:03d}").mkdir(parents=True)
        for i in range(num_images):
            height, width = rng.integers(20, 60, 2)
            pictures.append(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
            cv2.imwrite(str(folder / f"n{number:03d}" / f"a{i}.png"), pictures[-1][:, :, ::-1])
    return pictures
