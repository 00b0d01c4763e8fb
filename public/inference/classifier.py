"""A trained image classifier, ready to use: from a checkpoint to the names of what is in an image."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from public.checkpoint_files import load_checkpoint
from public.config import thaw
from public.evaluation.topk import TOP, best_classes
from public.inference.trained import build_trained, recorded_settings
from public.input import ClassificationInput, as_picture, inputs_of, prepare_crop
from public.models import create_model
from public.parallel.processes import choose_device


class TrainedClassifier:
    """Says which classes images belong to, one at a time or many.

    Args:
        model: a classifier's network, with its weights.
        spec: how an image becomes the network's input.
        class_names: the name of each label.
        device: where to compute.
    """

    def __init__(
        self, *, model: nn.Module, spec: ClassificationInput, class_names: tuple[str, ...], device: torch.device
    ):
        self.model = model.to(device).eval()
        self.spec, self.class_names, self.device = spec, class_names, device

    def __call__(self, image: str | Path | np.ndarray, count: int = TOP) -> dict[str, Any]:
        """The `count` best classes of an image, best first, or all where there are fewer.

        Args:
            image: a file, or uint8 RGB (H, W, 3).

        Returns:
            labels: int64 (count,).  scores: float32 (count,), probabilities.  names: `count` names.

        Raises:
            ImageError: the file cannot be read; it is named.
            ValueError: the array is not a picture of this form, or `count` is less than 1.
        """
        return self._batch([image], count)[0]

    def many(
        self, images: Sequence[str | Path | np.ndarray], count: int = TOP, *, batch_size: int = 8
    ) -> list[dict[str, Any]]:
        """For each image what `classifier(image, count)` gives, up to rounding; `batch_size` images at once."""
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        starts = range(0, len(images), batch_size)
        return [found for i in starts for found in self._batch(images[i : i + batch_size], count)]

    @torch.inference_mode()
    def _batch(self, images: Sequence[str | Path | np.ndarray], count: int) -> list[dict[str, Any]]:
        if count < 1:
            raise ValueError(f"count is {count}; it must be at least 1")
        prepared = np.stack([prepare_crop(as_picture(image), self.spec)[0] for image in images])
        batch = torch.from_numpy(prepared).to(self.device)  # (B, h, w, 3)
        labels, scores = best_classes(self.model(inputs_of(self.model, batch, self.spec)).double(), count)
        return [
            {"labels": own.numpy(), "scores": shares.numpy(), "names": [self.class_names[label] for label in own]}
            for own, shares in zip(labels.cpu(), scores.float().cpu())
        ]


def is_classifier(checkpoint: dict) -> bool:
    """Whether a checkpoint belongs to a classifier, of a run or converted, and to no detector."""
    return "detector" not in checkpoint and ("classifier" in checkpoint or "keywords" in checkpoint)


def load(path: str | Path, device: str = "auto", settings=None) -> TrainedClassifier:
    """The classifier of checkpoint `path`: a run's best.pth or latest.pth, or weights of `public.weights.convert`.

    Args:
        settings: the classifier's settings; None: those of the run the checkpoint lies in (with code of its own, if it has
            any), else those that the checkpoint states.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a checkpoint of a whole classifier, does not fit the settings, or needs the code of an
            experiment it no longer lies in.
    """
    path = Path(path).resolve()
    checkpoint = load_checkpoint(path)
    _check_is_whole(path, checkpoint)
    if settings is None:
        settings = _settings(path, checkpoint)
    return TrainedClassifier(
        model=build_trained(path, checkpoint, settings),
        spec=_spec(path, checkpoint["input"]),
        class_names=tuple(checkpoint["class_names"]),
        device=choose_device(device),
    )


def _check_is_whole(path: Path, checkpoint: dict) -> None:
    if checkpoint.get("part") == "backbone":
        raise ValueError(f"{path} holds a backbone only, to start a training from; a classifier needs all its weights")
    settings = "classifier" if "classifier" in checkpoint else "model_name"
    missing = [key for key in ("num_classes", "class_names", "input", settings) if key not in checkpoint]
    if missing or not is_classifier(checkpoint):
        what = "a detector's checkpoint" if "detector" in checkpoint else f"without {', '.join(missing) or 'settings'}"
        raise ValueError(
            f"{path} is {what}, not a classifier's; those of a run of classification are, and those that python -m "
            "public.weights.convert writes for a backbone's name"
        )


def _settings(path: Path, checkpoint: dict):
    if "classifier" not in checkpoint:  # converted
        return _Converted(checkpoint)
    return recorded_settings(path, checkpoint["classifier"], "classify")


class _Converted:
    """The settings of weights of `public.weights.convert`: a published network, with the keywords that they need."""

    def __init__(self, checkpoint: dict):
        self.num_classes = checkpoint["num_classes"]
        self._name, self._keywords = checkpoint["model_name"], checkpoint["keywords"]

    def build_model(self) -> nn.Module:
        return create_model(self._name, num_classes=self.num_classes, **self._keywords)


def _spec(path: Path, entry: dict) -> ClassificationInput:
    try:
        return thaw({"ClassificationInput": entry}, {"ClassificationInput": ClassificationInput})
    except ValueError as error:
        raise ValueError(f"{path} does not say how an image becomes the network's input: {error}") from error
