"""The task that belongs to a configuration."""

from pathlib import Path

import torch

from public.config import ClassificationConfig, TrainingConfig
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
