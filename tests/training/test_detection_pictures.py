"""What a page's settings on pictures become in the detection task: the cache, balanced sets."""

import copy
import dataclasses

import pytest
import torch

from public.config import DetectionConfig
from public.datasets import picture_digests
from public.datasets.balanced import Balanced, repeat_factors
from public.datasets.sample import RepeatedKey
from public.loading import picture_cache
from public.loading.samplers import BalancedTrainBatches
from public.runs.experiment import load_experiment
from public.tasks.detection import DetectionTask
from tests.helpers.mosaic_experiment import MosaicExperiment


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    return MosaicExperiment.create(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def task_with(experiment, tmp_path, monkeypatch):
    """A function of changed settings that gives the task; whatever it leaves lies in the test's folder."""
    monkeypatch.setattr(picture_digests, "MEMORY", tmp_path / "digests.sqlite")
    monkeypatch.setattr(picture_cache, "FOLDER", tmp_path / "cache")
    config: DetectionConfig = load_experiment(experiment.folder).config

    def make(**changes) -> DetectionTask:
        return DetectionTask(
            config=dataclasses.replace(copy.copy(config), **changes),
            data_root=experiment.data_root,
            device=torch.device("cpu"),
            limit_images=None,
        )

    return make


def test_the_cache_of_a_page_changes_no_bit(task_with, tmp_path):
    plain = list(task_with().train_batches(first_step=1, num_steps=5))
    for kind in ("memory", "disk", "disk"):
        found = list(task_with(picture_cache=kind, picture_cache_gb=1e-4).train_batches(first_step=1, num_steps=5))
        for one, other in zip(found, plain, strict=True):
            assert torch.equal(one.images, other.images)
            assert torch.equal(one.boxes, other.boxes)
    (file,) = (tmp_path / "cache").iterdir()
    assert 50_000 < file.stat().st_size < 101_000


def test_a_balanced_training_set_decides_on_the_batches(task_with):
    plain = task_with()
    balanced = task_with(train_data=Balanced(data=plain.config.train_data, threshold=0.99))
    keys = [key for batch in balanced.train_keys(first_step=0, num_steps=30) for key in batch]
    assert all(isinstance(key, RepeatedKey) for key in keys)
    factors = repeat_factors(balanced.annotations("train"), 0.99)
    assert factors.min() < factors.max()
    arguments = {"num_images": 14, "batch_size": 4, "seed": balanced.config.seed, "first_step": 0, "num_steps": 30}
    sampler = BalancedTrainBatches(factors=factors, rank=0, world_size=1, **arguments)
    assert keys == [key for batch in sampler for key in batch]
    assert len(next(iter(balanced.train_batches(first_step=0, num_steps=1))).images) == 4
    assert not any(hasattr(key, "copy") for batch in plain.train_keys(first_step=0, num_steps=3) for key in batch)


def test_an_evaluation_is_not_balanced(task_with):
    task = task_with(val_data=Balanced(data=task_with().config.val_data, threshold=0.99))
    with pytest.raises(ValueError, match=r"val_data is Balanced"):
        task.annotations("val")
