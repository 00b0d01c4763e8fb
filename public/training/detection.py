"""The detection task: what the training loop is handed, and the evaluation that `test.sh` runs as well."""

import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from public import collectives, drawing
from public.config import DetectionConfig, freeze
from public.datasets.annotations import Annotations
from public.datasets.defects import Defect
from public.datasets.loader import (
    DetectionBatch,
    DetectionDataset,
    EvalBatches,
    EvaluationDataset,
    TrainBatches,
    load_picture,
    make_loader,
)
from public.evaluation import ImageDetections, format_class_table, merge
from public.evaluation.coco import evaluate_coco, format_coco
from public.evaluation.voc import evaluate_voc
from public.files import write_whole
from public.input import ImageError, normalise, to_image
from public.training.compute import autocast, memory_format
from public.training.processes import worker_count

PICTURE_SCORE = 0.3  # detections below it are left out of the pictures


class DetectionTask:
    """Data, loss and evaluation of a detection experiment.

    Args:
        config: the experiment's settings.
        data_root: the folder that holds the data sets.
        device: where to compute.
        limit_images: only the first so many images of each set (for trying), or None.
        class_names: of the weights to evaluate; None: those of the training set, which is read for them.

    Raises:
        ValueError: the classes of the data and of the configuration disagree, naming both.
    """

    def __init__(
        self,
        *,
        config: DetectionConfig,
        data_root: Path,
        device: torch.device,
        limit_images: int | None,
        class_names: tuple[str, ...] | None = None,
    ) -> None:
        self.config, self.device = config, device
        self.data_root, self.limit_images = data_root, limit_images
        self._sets: dict[str, Annotations] = {}
        self._defects: dict[str, list[Defect]] = {}  # that were met when the sets were read, where they may be skipped
        self._skipped: dict[str, None] = {}  # lines on pictures that could not be used, in order, each once
        self.class_names = class_names
        self.class_names = class_names or self.annotations("train").class_names
        if len(self.class_names) != config.detector.num_classes:
            raise ValueError(
                f"{'the weights have' if class_names else self.annotations('train').description + ' has'} "
                f"{len(self.class_names)} classes ({', '.join(self.class_names)}), but the detector of the configuration "
                f"has num_classes = {config.detector.num_classes}"
            )
        self.loss = config.detector.build_loss()
        self.decoder = config.detector.build_decoder()
        self.num_workers, self.worker_note = worker_count(config)
        self.detections: list[ImageDetections] = []
        self.evaluated = "val"

    def annotations(self, split: str) -> Annotations:
        """The annotations of "train", "val" or "test", read when they are first asked for."""
        if split not in self._sets:
            data = getattr(self.config, f"{split}_data")
            if data is None:
                raise ValueError(f"the configuration states no {split}_data")
            if self.config.on_bad_sample == "skip":
                defects = self._defects[split] = []
                annotations = data.read(self.data_root, self.class_names, on_defect=defects.append)
            else:
                annotations = data.read(self.data_root, self.class_names)
            limit = self.limit_images
            self._sets[split] = annotations if limit is None else annotations.limit(limit)
        return self._sets[split]

    def check_batches(self) -> None:
        """Refuses, before a run is made, a batch that does not fit the data, the processes or the micro-batches.

        Raises:
            ValueError: naming the two numbers.
        """
        self._train_batches(first_step=0, num_steps=0)
        share = self.config.batch_size // collectives.world_size()
        if share % self.config.accumulate:
            accumulate = self.config.accumulate
            raise ValueError(
                f"the {share} images of a process cannot be cut into accumulate = {accumulate} equal parts"
            )

    # ------------------------------------------------------------------------------------------ training

    @property
    def num_train_images(self) -> int:
        return len(self.annotations("train"))

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

    def bad_boxes(self) -> list[str]:
        """Every box that was dropped or clipped when the annotations were read, and every entry that was left out."""
        return [
            line
            for split in ("train", "val")
            for annotations in (self.annotations(split),)
            for line in (*self._left_out(split), *annotations.dropped, *annotations.clipped)
        ]

    def _left_out(self, split: str) -> list[str]:
        return [defect.message for defect in self._defects.get(split, ()) if defect.leaves_out]

    def _noting_skipped(self, batches, split: str):
        """`batches`, remembering what was skipped in them."""
        for batch in batches:
            self._skipped |= {f"{split}: {line}": None for line in batch.skipped if line}
            yield batch

    def write_bad_samples(self, folder: Path) -> None:
        """Adds the pictures that could not be used so far to bad_samples.txt, each once; without any, writes nothing."""
        path = folder / "bad_samples.txt"
        lines = dict.fromkeys(path.read_text().splitlines()) if path.exists() else {}
        if self._skipped.keys() - lines.keys():
            content = "".join(f"{line}\n" for line in lines | self._skipped)
            write_whole(path, lambda file: file.write(content.encode()))

    def card(self) -> dict[str, object]:
        """What a checkpoint says about its weights beside the weights."""
        return {
            "model_name": type(self.config.detector).__name__,
            "num_classes": len(self.class_names),
            "class_names": list(self.class_names),
            "input": freeze(self.config.input)["InputSpec"],
            "detector": freeze(self.config.detector),
        }

    def on_epoch(self, model: nn.Module, epoch: int) -> None:
        self.config.detector.on_epoch(model, epoch)

    def train_batches(self, *, first_step: int, num_steps: int):
        """This process's batches of steps first_step .. num_steps - 1, over all epochs."""
        config = self.config
        dataset = DetectionDataset(
            self.annotations("train"),
            transforms=config.train_transforms,
            batch_transforms=config.batch_transforms,
            seed=config.seed,
            on_bad_sample=config.on_bad_sample,
        )
        loader = self._loader(dataset, self._train_batches(first_step=first_step, num_steps=num_steps))
        return self._noting_skipped(loader, "train")

    def _train_batches(self, *, first_step: int, num_steps: int) -> TrainBatches:
        return TrainBatches(
            num_images=self.num_train_images,
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            first_step=first_step,
            num_steps=num_steps,
            rank=collectives.rank(),
            world_size=collectives.world_size(),
        )

    def _loader(self, dataset, batches):
        config = self.config
        return make_loader(
            dataset,
            batches,
            num_workers=self.num_workers,
            prefetch_factor=config.prefetch_factor,
            pin_memory=config.pin_memory and self.device.type == "cuda",
        )

    def micro_batches(self, batch: DetectionBatch, count: int) -> list[DetectionBatch]:
        """`batch` in `count` equal parts."""
        num_images = len(batch.images)
        size = num_images // count
        return [_part(batch, start, start + size) for start in range(0, num_images, size)]

    def first_images(self, batch: DetectionBatch, count: int) -> DetectionBatch:
        return _part(batch, 0, count)

    def inputs(self, batch: DetectionBatch) -> torch.Tensor:
        """Normalised images float32 (B, 3, H, W) in the configuration's memory format."""
        return normalise(batch.images, self.config.input).contiguous(memory_format=memory_format(self.config))

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
        annotations = self.annotations(split)
        batches = EvalBatches(
            num_images=len(annotations),
            batch_size=self.config.evaluation_batch_size,
            rank=collectives.rank(),
            world_size=collectives.world_size(),
        )
        dataset = EvaluationDataset(annotations, spec=self.config.input, on_bad_sample=self.config.on_bad_sample)
        found, clock = [], _Clock(self.device)
        for batch in self._noting_skipped(self._loader(dataset, batches), split):
            found += self._detect(model, batch.to(self.device), clock)
        parts = collectives.gather_objects((found, clock.seconds, len(found), self._skipped))
        self._skipped = {line: None for part in parts for line in part[3]}
        metrics = None
        if collectives.rank() == 0:
            self.detections, self.evaluated = merge([part[0] for part in parts]), split
            metrics = self._measure(annotations) | _speed(parts)
        return collectives.from_rank_0(metrics)

    def _detect(self, model: nn.Module, batch: DetectionBatch, clock: "_Clock") -> list[ImageDetections]:
        with clock("forward"), autocast(self.config, self.device):
            outputs = model(self.inputs(batch))
        with clock("nms"):
            detections = self.decoder(outputs)
        detections = to_image(detections, batch.geometries)
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
            elif name in ("voc", "voc07"):
                method = "11point" if name == "voc07" else "area"
                metrics[f"{name}_AP50"] = evaluate_voc(annotations, self.detections, method=method)["AP"]
            else:
                raise ValueError(f"metrics names {name!r}; there are coco, voc and voc07")
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
            lines += [format_coco(metrics), format_class_table(metrics)]
        lines += [f"{n}: {metrics[n]:.6f}" for n in ("voc_AP50", "voc07_AP50") if metrics.get(n) is not None]
        skipped = [line for line in self._skipped if line.startswith(f"{self.evaluated}: ")]
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


def _part(batch: DetectionBatch, start: int, stop: int) -> DetectionBatch:
    """Images start .. stop - 1 of `batch`."""
    return DetectionBatch(*(None if field is None else field[start:stop] for field in batch))


class _Clock:
    """Adds up seconds by name; waits for the GPU at both ends."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, {"forward": 0.0, "nms": 0.0}

    def __call__(self, name: str) -> "_Clock":
        self._name = name
        return self

    def __enter__(self) -> None:
        self._wait()
        self._start = time.perf_counter()

    def __exit__(self, *_) -> None:
        self._wait()
        self.seconds[self._name] += time.perf_counter() - self._start

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _speed(parts: list[tuple[list, dict[str, float], int, dict]]) -> dict[str, float]:
    """Milliseconds an image, over the images of all processes."""
    num_images = max(sum(part[2] for part in parts), 1)
    return {f"{name}_ms": 1000 * float(np.sum([p[1][name] for p in parts])) / num_images for name in ("forward", "nms")}
