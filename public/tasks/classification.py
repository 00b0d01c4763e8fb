"""The classification task: what the training loop is handed, and the evaluation that `test.sh` runs as well."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from public import drawing
from public.config import freeze
from public.datasets.classification_set import ClassificationSet
from public.evaluation.topk import TOP, Classified, classify, measure, merge
from public.input import ImageError
from public.loading.classification import (
    ClassificationBatch,
    EvaluationPictures,
    TrainingPictures,
    make_classification_loader,
)
from public.loading.on_device import DeviceLoader
from public.loading.samplers import RepeatedTrainBatches, TrainBatches
from public.parallel import collectives
from public.precision import autocast
from public.reports.titles import titled
from public.tasks.base import BaseTask, Clock, milliseconds
from public.transforms.mixing import draw_mix, partner_places
from public.transforms.on_device import check_transforms

MOST_PICTURES = 16  # of a training batch on one sheet


class ClassificationTask(BaseTask):
    """Data, loss and evaluation of a classification experiment; see `BaseTask`."""

    kind = "classifier"

    def __init__(self, **arguments) -> None:
        super().__init__(**arguments)
        self.found: Classified | None = None  # of the last evaluation, on rank 0

    def fingerprint(self) -> dict[str, str]:
        """What identifies the data of the run: labels, names, and pixels or sizes of files."""
        skips = self.config.on_bad_sample == "skip"
        return {split: self.data(split).fingerprint(allow_missing=skips) for split in ("train", "val")}

    def card(self) -> dict[str, Any]:
        """What a checkpoint says about its weights beside the weights."""
        settings = self.config.used_settings
        bare = settings.network if hasattr(settings, "prepare") else settings  # before it is quantised or pruned
        return {
            "model_name": bare.network,
            "num_classes": len(self.class_names),
            "class_names": list(self.class_names),
            "input": freeze(self.config.input)["ClassificationInput"],
            "classifier": freeze(settings),
        }

    def check_batches(self) -> None:
        """As of `BaseTask`; and that the batch transform fits the images of a process, and all transforms the device.

        Raises:
            ValueError: naming what does not fit.
        """
        super().check_batches()
        config, size = self.config, self.config.input.size
        draw_mix(config.batch_transforms, config.seed, 0, 0, *size)
        if config.batch_transforms:
            partner_places(config.batch_size // collectives.world_size())
        if config.data_on_device:
            check_transforms(config.train_transforms)
            for split in ("train", "val"):
                if self.data(split).images is None:
                    raise ValueError(
                        f"data_on_device keeps pictures that are in memory on the device, but {self.data(split).description} "
                        "are files: --data_on_device false"
                    )

    # ------------------------------------------------------------------------------------------ training

    def train_dataset(self) -> TrainingPictures:
        config = self.config
        return TrainingPictures(
            self.data("train"),
            transforms=config.train_transforms,
            batch_transforms=config.batch_transforms,
            seed=config.seed,
            on_bad_sample=config.on_bad_sample,
        )

    def _batch_sampler(self, **arguments) -> TrainBatches:
        if self.config.repeats == 1:
            return TrainBatches(**arguments)
        return RepeatedTrainBatches(repeats=self.config.repeats, **arguments)

    def _loader(self, dataset, batches):
        if self.config.data_on_device:
            return DeviceLoader(dataset, batches, device=self.device)
        return make_classification_loader(dataset, batches, **self._loading())

    def draw_batch(self, batch: ClassificationBatch, step: int, folder: Path) -> None:
        """Writes train_batch_<step>.jpg: up to 16 images of the batch with their classes, as the network gets them."""
        images, texts = batch.images[:MOST_PICTURES].cpu().numpy(), self.target_texts(batch)
        pictures = [titled(image, [text]) for image, text in zip(images, texts)]
        drawing.save_image(folder / f"train_batch_{step}.jpg", drawing.contact_sheet(pictures, min(4, len(pictures))))

    def target_texts(self, batch: ClassificationBatch) -> list[str]:
        """The class of each picture, or the two of a mixture with their shares."""
        texts = []
        for label, other, share in zip(
            *(batch.targets[name].tolist() for name in ("labels", "other_labels", "shares"))
        ):
            name, other_name = self.class_names[label], self.class_names[other]
            is_one = share == 1 or label == other
            texts.append(name if is_one else f"{name} {share:.2f}, {other_name} {1 - share:.2f}")
        return texts

    # ------------------------------------------------------------------------------------------ evaluation

    @torch.no_grad()
    def evaluate(self, model: nn.Module, split: str = "val") -> dict:
        """Metrics of `model` on a split, the same on every rank; rank 0 keeps what was found in `self.found`.

        Batch i is images [i*b, (i+1)*b) whatever the number of processes, so the digits do not depend on it.
        """
        model.eval()
        found, clock = [], Clock(self.device, ("forward",))
        for batch in self.evaluation_batches(split):
            found.append(self._classify(model, batch.to(self.device), clock))
        parts = collectives.gather_objects((found, clock.seconds, self._skipped))
        self._skipped = {line: None for part in parts for line in part[2]}
        metrics = None
        if collectives.rank() == 0:
            num_images = len(self.data(split))
            self.found = merge([batch for part in parts for batch in part[0]], num_images)
            self.evaluated = split
            metrics = measure(self.found, len(self.class_names)) | milliseconds([p[1] for p in parts], num_images)
        return collectives.from_rank_0(metrics)

    def evaluation_dataset(self, split: str) -> EvaluationPictures:
        config = self.config
        return EvaluationPictures(self.data(split), spec=config.input, on_bad_sample=config.on_bad_sample)

    def _classify(self, model: nn.Module, batch: ClassificationBatch, clock: Clock) -> Classified:
        with clock("forward"), autocast(self.config.precision, self.device):
            logits = model(self.inputs_for(model, batch))
        found = classify(logits, batch.labels, batch.indices)
        is_skipped = np.array([line is not None for line in batch.skipped])
        found.ranks[is_skipped] = len(self.class_names)  # what is seen in black counts as wrong
        return found

    def summary(self, metrics: dict) -> str:
        """The metrics that matter, in a line: errors, as the papers print them."""
        return "  ".join(f"top-{k} error {_percent(metrics[f'top{k}_error'])}" for k in (1, TOP))

    def best_text(self, value: float | None) -> str:
        """As an error, like all that is printed: the best weights are those of the highest accuracy."""
        rank = self.config.best_metric.removesuffix("_accuracy").removeprefix("top")
        return f"top-{rank} error {_percent(None if value is None else 100 - value)}"

    def report(self, metrics: dict) -> str:
        """The full report of an evaluation."""
        num_images = len(self.data(self.evaluated))
        lines = [
            f"Average forward time: {metrics['forward_ms']:.2f} ms",
            f"top-1 error: {_percent(metrics['top1_error'])}, top-5 error: {_percent(metrics['top5_error'])} "
            f"({num_images} images); loss {metrics['eval_loss']:.6f}",
        ]
        skipped = self.skipped_lines()
        if skipped:
            lines.append(f"{len(skipped)} pictures could not be used; they count as wrong:")
        return "\n".join(lines + skipped)

    def draw_predictions(self, folder: Path) -> None:
        """Writes predictions.jpg: images evenly from the evaluated split, each with its class and what was found."""
        data: ClassificationSet = self.data(self.evaluated)
        pictures = []
        for position in data.evenly(self.config.num_pictures).tolist():
            try:
                image = data.load_picture(position)
            except ImageError:
                if self.config.on_bad_sample == "skip":
                    continue
                raise
            pictures.append(titled(image, self.prediction_lines(position)))
        if pictures:
            drawing.save_image(folder / "predictions.jpg", drawing.contact_sheet(pictures, min(4, len(pictures))))

    def prediction_lines(self, position: int) -> list[str]:
        """The true class of an image, and the best one that was found, with its score."""
        found, label = self.found, int(self.data(self.evaluated).labels[position])
        assert found is not None, "an evaluation comes first"
        mark = "right" if found.ranks[position] == 0 else "WRONG"
        best = self.class_names[found.classes[position, 0]]
        return [f"true: {self.class_names[label]}", f"{mark}: {best} {found.scores[position, 0]:.2f}"]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f} %"
