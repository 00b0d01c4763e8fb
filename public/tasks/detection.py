"""The detection task: what the training loop is handed, and the evaluation that `test.sh` runs as well."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from public import drawing
from public.config import freeze
from public.datasets.annotations import Annotations, brief_names
from public.datasets.balanced import repeat_factors
from public.datasets.defects import Defect
from public.datasets.pictures import load_picture
from public.decoders.dense import clips_to_picture
from public.evaluation.coco import AREA_RANGES, COCO_METRICS, evaluate_coco, format_coco
from public.evaluation.detections import ImageDetections, format_class_table, merge
from public.evaluation.engines import described
from public.evaluation.voc import evaluate_voc
from public.input import ImageError, to_image
from public.loading.detection import (
    DetectionBatch,
    DetectionDataset,
    EvaluationDataset,
    fit_of,
    make_detection_loader,
    open_cache,
)
from public.loading.picture_cache import PictureCache
from public.loading.samplers import BalancedTrainBatches, TrainBatches
from public.parallel import collectives
from public.precision import autocast
from public.tasks.base import BaseTask, Clock, milliseconds

METRICS = {"coco": tuple(COCO_METRICS), "voc": ("voc_AP50",), "voc07": ("voc07_AP50",)}  # what each of them measures
PICTURE_SCORE = 0.3  # detections below it are left out of the pictures


class DetectionTask(BaseTask):
    """Data, loss and evaluation of a detection experiment; see `BaseTask`."""

    kind = "detector"

    def __init__(self, **arguments) -> None:
        self._defects: dict[str, list[Defect]] = {}  # that were met when the sets were read, where they may be skipped
        self._cache: PictureCache | None = None
        _check_metrics(arguments["config"])
        super().__init__(**arguments)
        self.decoder = self.config.detector.build_decoder()
        self.detections: list[ImageDetections] = []

    def annotations(self, split: str) -> Annotations:
        """The annotations of "train", "val" or "test", read when they are first asked for."""
        return self.data(split)

    def _read(self, split: str, settings) -> Annotations:
        if split != "train" and type(settings).__name__ == "Balanced":
            raise ValueError(
                f"{split}_data is Balanced(...), which only a training can show oftener; write the set itself"
            )
        if self.config.on_bad_sample == "error":
            return settings.read(self.data_root, self.known_names)
        defects = self._defects[split] = []
        return settings.read(self.data_root, self.known_names, on_defect=defects.append)

    # ------------------------------------------------------------------------------------------ training

    def fingerprint(self) -> dict[str, str]:
        """What identifies the data of the run: annotations, image names and sizes."""
        skips = self.config.on_bad_sample == "skip"
        return {split: self.annotations(split).fingerprint(allow_missing=skips) for split in ("train", "val")}

    def describe(self) -> list[str]:
        """A line for each data set."""
        lines = []
        for split in ("train", "val"):
            left_out = self._left_out(split)
            note = f", {len(left_out)} defective entries left out" if left_out else ""
            lines.append(f"{split}: {self.annotations(split).summary()}{note}")
        return lines

    def _warnings_of(self, split: str) -> list[str]:
        annotations, best = self.annotations(split), self.config.best_metric
        if split == "train":
            counts = np.bincount(annotations.labels[annotations.is_trained()], minlength=len(self.class_names))
            unseen = [name for name, count in zip(self.class_names, counts) if count == 0]
            what = f"there is no object to train on of {len(unseen)} classes: {brief_names(unseen)}"
            return [what] if unseen else []
        if _is_counted(annotations, best).any():
            return []
        return [
            f"{annotations.description} has no object that {best} could find: no evaluation can tell which weights are the "
            f"best. {best} stays undefined, no best.pth is written, early_stop never ends the run; latest.pth has the last "
            "weights"
        ]

    def records(self) -> dict[str, list[str]]:
        """Text files for the run's folder: what was found when the data were read."""
        bad_boxes = self.bad_boxes()
        return {"bad_boxes.txt": bad_boxes} if bad_boxes else {}

    def bad_boxes(self) -> list[str]:
        """Every entry that was left out when the annotations were read, and every box that was not taken as written."""
        return [
            line
            for split in ("train", "val")
            for annotations in (self.annotations(split),)
            for line in (*self._left_out(split), *annotations.dropped, *annotations.clipped, *annotations.corrected)
        ]

    def _left_out(self, split: str) -> list[str]:
        return [defect.message for defect in self._defects.get(split, ()) if defect.leaves_out]

    def card(self) -> dict[str, Any]:
        """What a checkpoint says about its weights beside the weights."""
        settings = self.config.used_settings
        return {
            "model_name": type(settings).__name__,
            "num_classes": len(self.class_names),
            "class_names": list(self.class_names),
            "input": freeze(self.config.input)["InputSpec"],
            "detector": freeze(settings),
        }

    def train_dataset(self) -> DetectionDataset:
        config = self.config
        return DetectionDataset(
            self.annotations("train"),
            transforms=config.train_transforms,
            batch_transforms=config.batch_transforms,
            seed=config.seed,
            on_bad_sample=config.on_bad_sample,
            cache=self._picture_cache(),
        )

    def _picture_cache(self) -> PictureCache | None:
        config = self.config
        if config.picture_cache == "none":
            return None
        if self._cache is None:
            self._cache = open_cache(
                self.annotations("train"),
                fit_of(config.train_transforms),
                max_bytes=int(config.picture_cache_gb * 1e9),
                on_disk=config.picture_cache == "disk",
            )
        return self._cache

    def _batch_sampler(self, **arguments) -> TrainBatches:
        annotations = self.annotations("train")
        if annotations.repeat_threshold is None:
            return TrainBatches(**arguments)
        return BalancedTrainBatches(factors=repeat_factors(annotations, annotations.repeat_threshold), **arguments)

    def train_batches(self, *, first_step: int, num_steps: int) -> Iterator[DetectionBatch]:
        """This process's batches, all on the canvas of the global batch: no padding depends on the number of processes."""
        spec = self.config.input
        for batch in super().train_batches(first_step=first_step, num_steps=num_steps):
            if spec.multiple is not None:
                sides = (collectives.max_over_ranks(side, self.device) for side in batch.images.shape[1:3])
                batch = batch.on_canvas(*sides, spec.padding_color)
            yield batch

    def _loader(self, dataset, batches):
        return make_detection_loader(dataset, batches, spec=self.config.input, **self._loading())

    def draw_batch(self, batch: DetectionBatch, step: int, folder: Path) -> None:
        """Writes train_batch_<step>.jpg: up to 16 images of the batch, with their boxes, as the network gets them."""
        pictures = []
        for image, target in list(zip(batch.images, batch.targets))[:16]:
            boxes, labels = target["boxes"].numpy(), target["labels"].numpy()
            pictures.append(drawing.draw_detections(image.numpy(), boxes, labels, self.class_names, min_side=256))
        columns = min(4, len(pictures))
        drawing.save_image(folder / f"train_batch_{step}.jpg", drawing.contact_sheet(pictures, columns))

    # ------------------------------------------------------------------------------------------ evaluation

    @torch.no_grad()
    def evaluate(self, model: nn.Module, split: str = "val") -> dict:
        """Metrics of `model` on a split, the same on every rank; the detections stay in `self.detections`.

        Batch i is images [i*b, (i+1)*b) whatever the number of processes, so the digits do not depend on it.
        """
        model.eval()
        found, clock = [], Clock(self.device, ("forward", "nms"))
        for batch in self.evaluation_batches(split):
            found += self._detect(model, batch.to(self.device), clock)
        parts = collectives.gather_objects((found, clock.seconds, len(found), self._skipped))
        self._skipped = {line: None for part in parts for line in part[3]}
        metrics = None
        if collectives.rank() == 0:
            self.detections, self.evaluated = merge([part[0] for part in parts]), split
            speed = milliseconds([part[1] for part in parts], sum(part[2] for part in parts))
            metrics = self._measure(self.annotations(split)) | speed
        return collectives.from_rank_0(metrics)

    def evaluation_dataset(self, split: str) -> EvaluationDataset:
        config = self.config
        return EvaluationDataset(self.annotations(split), spec=config.input, on_bad_sample=config.on_bad_sample)

    def _detect(self, model: nn.Module, batch: DetectionBatch, clock: Clock) -> list[ImageDetections]:
        with clock("forward"), autocast(self.config.precision, self.device):
            outputs = model(self.inputs_for(model, batch))
        with clock("nms"):
            detections = self.decoder(outputs, batch.regions)
        assert batch.geometries is not None, "the batch is one of an evaluation"
        detections = to_image(detections, batch.geometries, clip=clips_to_picture(self.decoder))
        for i in (i for i, skipped in enumerate(batch.skipped) if skipped):  # what is seen in black is not found
            detections[i] = {name: values[:0] for name, values in detections[i].items()}
        return [
            ImageDetections(
                index=int(index),
                boxes=d["boxes"].float().cpu().numpy(),
                scores=d["scores"].float().cpu().numpy(),
                labels=d["labels"].cpu().numpy(),
            )
            for index, d in zip(batch.indices, detections)
        ]

    def _measure(self, annotations: Annotations) -> dict:
        metrics: dict = {}
        for name in self.config.metrics:
            if name == "coco":
                metrics |= evaluate_coco(annotations, self.detections)
            else:
                method = "11point" if name == "voc07" else "area"
                metrics[f"{name}_AP50"] = evaluate_voc(annotations, self.detections, method=method)["AP"]
        return metrics

    def summary(self, metrics: dict) -> str:
        """The metrics that matter, in a line."""
        names = [n for n in ("AP", "AP50", "AP75", "voc_AP50", "voc07_AP50") if n in metrics]
        return "  ".join(f"{name} {metrics[name]:.4f}" if metrics[name] is not None else f"{name} -" for name in names)

    def report(self, metrics: dict) -> str:
        """The full report of an evaluation: times, the 12 COCO numbers, the classes."""
        lines = [
            f"Average forward time: {metrics['forward_ms']:.2f} ms, Average NMS time: {metrics['nms_ms']:.2f} ms, "
            f"Average inference time: {metrics['forward_ms'] + metrics['nms_ms']:.2f} ms"
        ]
        if "coco" in self.config.metrics:
            lines += [format_coco(metrics), f" by {described()}", format_class_table(metrics)]
        lines += [f"{n}: {metrics[n]:.6f}" for n in ("voc_AP50", "voc07_AP50") if metrics.get(n) is not None]
        skipped = self.skipped_lines()
        if skipped:
            lines.append(f"{len(skipped)} pictures could not be used; their objects count as not found:")
        return "\n".join(lines + skipped)

    def draw_predictions(self, folder: Path) -> None:
        """Writes prediction_<number>.jpg for the first images of the evaluated split: ground truth | predictions."""
        annotations = self.annotations(self.evaluated)
        for found in self.detections[: self.config.num_pictures]:
            try:
                image = load_picture(annotations, found.index)
            except ImageError:
                if self.config.on_bad_sample == "skip":
                    continue
                raise
            truth = annotations.objects(found.index)
            kept = found.scores >= PICTURE_SCORE
            left = drawing.draw_detections(image, truth.boxes, truth.labels, self.class_names, min_side=384)
            right = drawing.draw_detections(
                image, found.boxes[kept], found.labels[kept], self.class_names, found.scores[kept], min_side=384
            )
            sheet = drawing.side_by_side(left, right, ("ground truth", f"predictions (score >= {PICTURE_SCORE})"))
            drawing.save_image(folder / f"prediction_{found.index}.jpg", sheet)


def _is_counted(annotations: Annotations, metric: str) -> np.ndarray:
    """(M,) bool: the objects that `metric` asks to be found."""
    if not metric.startswith("voc"):
        smallest, largest = AREA_RANGES[COCO_METRICS[metric][2]]
        return ~annotations.crowd & (annotations.areas >= smallest) & (annotations.areas <= largest)
    return ~annotations.crowd & ~annotations.difficult


def _check_metrics(config) -> None:
    """Raises ValueError where `metrics` names an unknown one, or lacks the one that chooses the best weights."""
    if not config.metrics or not set(config.metrics) <= METRICS.keys():
        raise ValueError(f"metrics is {config.metrics}; there are {', '.join(METRICS)}")
    measured = [name for group in config.metrics for name in METRICS[group]]
    if config.best_metric not in measured:
        raise ValueError(
            f"best_metric is {config.best_metric!r}, but metrics = {config.metrics} measures {', '.join(measured)}"
        )
