"""The parts of a training step: data, forward, teacher, assign, loss, backward, optimizer, EMA, and everything else.

    python -m benchmarks.train_step --parts --model yolox_s --size 640 --batch 8 --objects 20
    python -m benchmarks.train_step --parts --model ppyoloe_xs --teacher ppyoloe_s

The steps are those of `public.training.loop.Trainer`, on drawn JPEGs of 640 x 480 in COCO's layout, of the last epoch of 300:
the published settings with the task-aligned assigner, or YOLOX's with its L1 term.  The functions that are timed are
wrapped from here; the training knows nothing of it.  Each part is its own time, without that of the parts inside it: `loss`
is without `assign`.  On the CPU it is the process's CPU time in one thread, which other jobs disturb least.
"""

import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from public.config import DetectionConfig
from public.datasets.coco import Coco
from public.families import published
from public.families.distilled import FGD, Distilled, PPYOLOELogits
from public.files import REPOSITORY
from public.losses.distillation import DistilledLoss
from public.models.distilled import DistilledModel
from public.parallel import processes
from public.runs.experiment import load_experiment
from public.runs.run_folder import RunFolder
from public.tasks import make_task
from public.training.interruption import Interruption
from public.training.loop import Trainer
from public.training.reporter import Reporter
from public.training.run import build_state
from public.transforms.detection import Resize
from public.transforms.flip import RandomFlip

NUM_CLASSES, NUM_EPOCHS = 80, 300
PARTS = ("data", "forward", "teacher", "assign", "loss", "backward", "optimizer", "EMA", "everything else")
PAGE = REPOSITORY / "detection_experiments" / "yolox_nano_shapes"  # whose optimizer, EMA and machinery are taken
HEIGHT, WIDTH = 480, 640  # of the drawn pictures


class PartsClock:
    """Seconds of each part, of calls inside each other each without the inner one's."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.inner = device, [0.0]
        self.seconds = dict.fromkeys(PARTS, 0.0)

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return time.perf_counter()
        return time.process_time()

    def timed(self, part: str, function: Callable) -> Callable:
        """`function`, whose time is added to `part`."""

        def call(*arguments: Any, **keywords: Any) -> Any:
            start = self.now()
            self.inner.append(0.0)
            try:
                return function(*arguments, **keywords)
            finally:
                whole = self.now() - start
                self.seconds[part] += whole - self.inner.pop()
                self.inner[-1] += whole

        return call

    def step(self) -> dict[str, float]:
        """The parts since the last call."""
        seconds, self.seconds = self.seconds, dict.fromkeys(PARTS, 0.0)
        return seconds


def draw_data(root: Path, *, num_images: int, num_objects: int) -> None:
    """Pictures of soft noise with `num_objects` boxes each, of all classes, as coco/images and coco/train.json."""
    (root / "coco" / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(num_images):
        coarse = rng.integers(0, 256, (HEIGHT // 16, WIDTH // 16, 3), dtype=np.uint8)
        name = f"{number:06d}.jpg"
        cv2.imwrite(str(root / "coco" / "images" / name), cv2.resize(coarse, (WIDTH, HEIGHT)))
        images.append({"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH})
        for _ in range(num_objects):
            width, height = (float(side * (0.05 + 0.4 * rng.random())) for side in (WIDTH, HEIGHT))
            x, y = float(rng.random() * (WIDTH - width)), float(rng.random() * (HEIGHT - height))
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": number,
                    "category_id": int(rng.integers(NUM_CLASSES)),
                    "bbox": [x, y, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                }
            )
    categories = [{"id": number, "name": f"class {number}"} for number in range(NUM_CLASSES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "coco" / "train.json").write_text(json.dumps(content))


def config_of(model: str, *, size: int, batch: int, teacher: str | None) -> DetectionConfig:
    """The published settings of `model`, taught if `teacher` is given, on the drawn data, in float32 with plain loading."""
    page = load_experiment(PAGE).config
    assert isinstance(page, DetectionConfig)
    data = Coco(annotations="coco/train.json", images="coco/images", classes=None, keep_empty_images=True)
    return dataclasses.replace(
        page,
        train_data=data,
        val_data=data,
        epochs=NUM_EPOCHS,
        batch_size=batch,
        input=dataclasses.replace(page.input, size=(size, size)),
        train_transforms=(RandomFlip(prob=0.5), Resize(size=(size, size), interpolation="linear")),
        batch_transforms=(),
        detector=settings_of(model, teacher),
        channels_last=False,
        threads=1,
        num_workers=0,
        num_pictures=0,
    )


def settings_of(model: str, teacher: str | None) -> Any:
    """Those that are published, for 80 classes.

    With a `teacher`, which has initial values, FGD is on the necks, and PaddleDetection's terms are on outputs that they fit.
    """
    student = dataclasses.replace(published(model), num_classes=NUM_CLASSES)
    if teacher is None:
        return student
    logits = PPYOLOELogits(weight=4.0, cls=1.0, iou=2.5, dfl=0.5, kl=20000.0, beta=2.0, temperature=10.0)
    return Distilled(
        student=student,
        teacher=dataclasses.replace(published(teacher), num_classes=NUM_CLASSES),
        teacher_weights=None,
        teacher_precision="float32",
        feature=FGD(
            weight=1.0, foreground=1e-5, background=5e-6, attention=1e-5, relation=5e-8, temperature=0.5, normalise=True
        ),
        logits=logits if type(student).__name__ in logits.families else None,
        factor=0.125,
        stop_epoch=None,
    )


def make_trainer(config: DetectionConfig, root: Path, device: torch.device) -> Trainer:
    """A trainer that stands at the first step of the last epoch."""
    processes.apply_modes(config, device)
    task = make_task(config, data_root=root, device=device, limit_images=None)
    state, _ = build_state(config, device, task.class_names)
    trainer = Trainer(
        config=config,
        task=task,
        state=state,
        device=device,
        run=RunFolder(root),
        reporter=Reporter(None, device=device),
        max_steps=None,
        interruption=Interruption(),
    )
    state.step = (config.epochs - 1) * trainer.steps_per_epoch
    return trainer


def wrap(trainer: Trainer, clock: PartsClock) -> None:
    """Lets `clock` time the parts of the trainer's steps."""
    state, loss = trainer.state, trainer.task.loss
    trainer.network = clock.timed("forward", trainer.network)
    if isinstance(state.model, DistilledModel):
        state.model._teach = clock.timed("teacher", state.model._teach)  # type: ignore[method-assign]
    own = loss.base if isinstance(loss, DistilledLoss) else loss
    for name in ("_assign", "assign"):
        if hasattr(own, name):
            setattr(own, name, clock.timed("assign", getattr(own, name)))
    trainer.task.loss = clock.timed("loss", loss)
    torch.Tensor.backward = clock.timed("backward", torch.Tensor.backward)  # type: ignore[method-assign]
    state.optimizer.step = clock.timed("optimizer", state.optimizer.step)  # type: ignore[method-assign]
    state.ema.update = clock.timed("EMA", state.ema.update)  # type: ignore[method-assign, union-attr]
    trainer.step = clock.timed("everything else", trainer.step)  # type: ignore[method-assign]


def measure(
    model: str,
    *,
    size: int,
    batch: int,
    objects: int,
    device: torch.device,
    steps: int,
    warmup: int,
    teacher: str | None = None,
) -> dict[str, float]:
    """The median seconds of each part over `steps` steps, after `warmup` of them; "teacher" with a teacher alone."""
    backward = torch.Tensor.backward
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        draw_data(root, num_images=batch * (steps + warmup), num_objects=objects)
        trainer = make_trainer(config_of(model, size=size, batch=batch, teacher=teacher), root, device)
        clock = PartsClock(device)
        wrap(trainer, clock)
        first = trainer.state.step
        batches = trainer.task.train_batches(first_step=first, num_steps=first + steps + warmup)
        load = clock.timed("data", iter(batches).__next__)
        found = []
        try:
            for _ in range(steps + warmup):
                trainer.step(load())
                found.append(clock.step())
        finally:
            torch.Tensor.backward = backward  # type: ignore[method-assign]
    parts = [part for part in PARTS if part != "teacher" or teacher is not None]
    return {part: statistics.median(step[part] for step in found[warmup:]) for part in parts}


def report(seconds: dict[str, float]) -> str:
    """A line a part: milliseconds, and per cent of the step without its data, which workers load beside it."""
    step = sum(seconds.values()) - seconds["data"]
    lines = [f"{part:<16} {1e3 * value:10.1f} ms  {100 * value / step:6.1f} %" for part, value in seconds.items()]
    return "\n".join([*lines, f"{'step, less data':<16} {1e3 * step:10.1f} ms   100.0 %"])
