"""A whole classification experiment in a test: a copy of tests/helpers/tiny_classification on a tiny drawn data set."""

import shutil
from pathlib import Path

from public.datasets.drawn_cifar import draw_cifar
from tests.helpers.experiments import REPOSITORY, TinyExperiment

NUM_TRAIN, NUM_VAL = 52, 25


class TinyClassification(TinyExperiment):
    """As `TinyExperiment`, with `create`, `copy`, `train`, `runs` and `digests`."""

    @classmethod
    def create(cls, root: Path) -> "TinyClassification":
        """52 training pictures (3 steps of 16 an epoch, four left over) and 25 validation pictures of 12 classes."""
        folder = root / "tiny_classification"
        source = REPOSITORY / "tests" / "helpers" / "tiny_classification"
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns("__pycache__"))
        data_root = root / "data"
        draw_cifar(data_root / "tiny-cifar", num_train=NUM_TRAIN, num_test=NUM_VAL, seed=0)
        return cls(folder, data_root)
