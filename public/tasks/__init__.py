"""The task that belongs to a configuration, or to an experiment."""

from pathlib import Path

import torch

from public.config import ClassificationConfig, TrainingConfig
from public.runs.experiment import Experiment, find_data_root
from public.runs.run_folder import RunFolder
from public.tasks.base import BaseTask
from public.tasks.classification import ClassificationTask
from public.tasks.detection import DetectionTask


def make_task(
    config: TrainingConfig,
    *,
    data_root: Path,
    device: torch.device,
    limit_images: int | None,
    class_names: tuple[str, ...] | None = None,
) -> BaseTask:
    """The task of `config`; the arguments are those of `DetectionTask` and `ClassificationTask`.

    Raises:
        ValueError: the data and the configuration do not fit together.
    """
    task = ClassificationTask if isinstance(config, ClassificationConfig) else DetectionTask
    return task(config=config, data_root=data_root, device=device, limit_images=limit_images, class_names=class_names)


def open_task(experiment: Experiment, data_root: str | None, device: torch.device) -> BaseTask:
    """The task that training would make of the experiment; a run's images are limited as they were.

    Args:
        data_root: see `find_data_root`.
    """
    limit = RunFolder(experiment.run).manifest["identity"]["limit_images"] if experiment.run else None
    return make_task(experiment.config, data_root=find_data_root(data_root), device=device, limit_images=limit)
