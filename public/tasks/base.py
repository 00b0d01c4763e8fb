"""What detection and classification have in common of a task: the sets, the batches, what could not be used."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from public.config import TrainingConfig
from public.families import CHECKPOINT_CLASSES
from public.files import write_text
from public.input import inputs_of, normalise
from public.loading.samplers import EvalBatches, TrainBatches
from public.loading.workers import allow_workers
from public.parallel import collectives
from public.parallel.processes import worker_count
from public.precision import memory_format
from public.protocols import Progress
from public.text import shown


class BaseTask(ABC):
    """Data, loss and evaluation of an experiment: the `public.protocols.Task` that the training loop is handed.

    Args:
        config: the experiment's settings.
        data_root: the folder that holds the data sets.
        device: where to compute.
        limit_images: only the first so many images of each set (for trying), or None.
        class_names: of the weights to evaluate; None: those of the training set, which is read for them.

    Raises:
        ValueError: the classes of the data and of the configuration disagree, naming both.
    """

    kind: str  # "detector" or "classifier", as the configuration calls its network
    teacher: dict[str, str] | None = None  # where a teacher's weights come from: `public.weights.teacher`

    def __init__(
        self,
        *,
        config: TrainingConfig,
        data_root: Path,
        device: torch.device,
        limit_images: int | None,
        class_names: tuple[str, ...] | None = None,
    ) -> None:
        self.config: Any = config  # DetectionConfig or ClassificationConfig, as the task says
        self.device = device
        self.data_root, self.limit_images = data_root, limit_images
        self._sets: dict[str, Any] = {}
        self._skipped: dict[str, None] = {}  # lines on pictures that could not be used, in order, each once
        self._prescribed = class_names
        self.class_names: tuple[str, ...] = class_names or self.data("train").class_names
        for settings in (config.network_settings, config.used_settings):
            _check_name(settings)
        num_classes = config.network_settings.num_classes
        if len(self.class_names) != num_classes:
            raise ValueError(
                f"{'the weights have' if class_names else self.data('train').description + ' has'} "
                f"{len(self.class_names)} classes ({', '.join(self.class_names)}), but the {self.kind} of the configuration "
                f"has num_classes = {num_classes}{'' if class_names else self._remarks()}"
            )
        self.loss = config.network_settings.build_loss()
        self.num_workers, self.worker_note = worker_count(config)
        self.evaluated = "val"

    def _remarks(self) -> str:
        return "".join(f". {line}" for line in self.data("train").warnings)

    def data(self, split: str) -> Any:
        """The set "train", "val" or "test", read when it is first asked for."""
        if split not in self._sets:
            settings = getattr(self.config, f"{split}_data")
            if settings is None:
                raise ValueError(f"the configuration states no {split}_data")
            whole = self._read(split, settings)
            self._sets[split] = whole if self.limit_images is None else whole.limit(self.limit_images)
        return self._sets[split]

    def _read(self, split: str, settings: Any) -> Any:
        return settings.read(self.data_root, self.known_names)

    @property
    def known_names(self) -> tuple[str, ...] | None:
        """The names that a set has to agree with; None while the first is read, which gives them."""
        return getattr(self, "class_names", self._prescribed)

    # ------------------------------------------------------------------------------------------ before a run

    def check_batches(self) -> None:
        """Refuses, before a run is made, a batch that does not fit the data, the processes or the micro-batches; and workers
        for which too few files may be open.

        Raises:
            ValueError: naming the two numbers.
            OSError: the workers would need more open files than are allowed.
        """
        allow_workers(self.num_workers, self.config.prefetch_factor)
        self.train_keys(first_step=0, num_steps=0)
        share = self.config.batch_size // collectives.world_size()
        if share % self.config.accumulate:
            accumulate = self.config.accumulate
            raise ValueError(
                f"the {share} images of a process cannot be cut into accumulate = {accumulate} equal parts"
            )

    @property
    def num_train_images(self) -> int:
        return len(self.data("train"))

    def fingerprint(self) -> dict[str, str]:
        """What identifies the data of the run."""
        return {split: self.data(split).fingerprint() for split in ("train", "val")}

    def picture_files(self) -> dict[str, list[str]]:
        """The files of the pictures of each split that training reads."""
        return {split: self.data(split).picture_files() for split in ("train", "val")}

    def describe(self) -> list[str]:
        """A line for each data set."""
        return [f"{split}: {self.data(split).summary()}" for split in ("train", "val")]

    def warnings(self) -> list[str]:
        """Lines on what will not come out as one may think, for the start of a run."""
        return [
            f"warning: {split}: {line}"
            for split in ("train", "val")
            for line in (*self.data(split).warnings, *self._warnings_of(split))
        ]

    def _warnings_of(self, split: str) -> list[str]:
        """What the task itself has to say about a set."""
        return []

    def records(self) -> dict[str, list[str]]:
        """Text files for the run's folder, by name: what was found when the data were read."""
        return {}

    # ------------------------------------------------------------------------------------------ training

    def on_epoch(self, model: nn.Module, epoch: int) -> None:
        self.config.network_settings.on_epoch(model, epoch)

    @property
    def ready_epoch(self) -> int:
        """How many epochs it takes until the network is what is used in the end: one that is pruned, say, is so later."""
        return getattr(self.config.network_settings, "ready_epoch", 0)

    def after_step(self, model: nn.Module, average: nn.Module | None, progress: Progress) -> None:
        """Most families change nothing here."""
        if change := getattr(self.config.network_settings, "after_step", None):
            change(model, average, progress)

    def train_batches(self, *, first_step: int, num_steps: int) -> Iterator[Any]:
        """This process's batches of steps first_step .. num_steps - 1, over all epochs."""
        loader = self._loader(self.train_dataset(), self.train_keys(first_step=first_step, num_steps=num_steps))
        return self._noting_skipped(loader, "train")

    def train_keys(self, *, first_step: int, num_steps: int) -> TrainBatches:
        return self._batch_sampler(
            num_images=self.num_train_images,
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            first_step=first_step,
            num_steps=num_steps,
            rank=collectives.rank(),
            world_size=collectives.world_size(),
        )

    @abstractmethod
    def train_dataset(self) -> Any:
        """The training samples, by `SampleKey`."""

    @abstractmethod
    def evaluation_dataset(self, split: str) -> Any:
        """The samples of a split as the evaluation prepares them, by `SampleKey`."""

    @abstractmethod
    def _loader(self, dataset: Any, batches: Any) -> Iterable[Any]:
        """The batches of a data set."""

    def _batch_sampler(self, **arguments) -> TrainBatches:
        return TrainBatches(**arguments)

    def _loading(self) -> dict[str, Any]:
        """How batches are loaded."""
        return {
            "num_workers": self.num_workers,
            "prefetch_factor": self.config.prefetch_factor,
            "pin_memory": self.config.pin_memory and self.device.type == "cuda",
        }

    def inputs(self, batch: Any) -> torch.Tensor:
        """Normalised images float32 (B, 3, H, W) in the configuration's memory format."""
        return normalise(batch.images, self.config.input, getattr(batch, "regions", None)).contiguous(
            memory_format=memory_format(self.config.channels_last)
        )

    # ------------------------------------------------------------------------------------------ evaluation

    def inputs_for(self, model: nn.Module, batch: Any) -> Any:
        """What `model` takes of a batch: `inputs`, or the pixels, of an exported file that normalises by itself."""
        if getattr(model, "takes_pixels", False):
            return inputs_of(model, batch.images, self.config.input, getattr(batch, "regions", None))
        return self.inputs(batch)

    def evaluation_batches(self, split: str) -> Iterator[Any]:
        """This process's batches of a split: batch i is images [i*b, (i+1)*b), whatever the number of processes."""
        batches = EvalBatches(
            num_images=len(self.data(split)),
            batch_size=self.config.evaluation_batch_size,
            rank=collectives.rank(),
            world_size=collectives.world_size(),
        )
        return self._noting_skipped(self._loader(self.evaluation_dataset(split), batches), split)

    @abstractmethod
    def card(self) -> dict[str, Any]:
        """What a checkpoint says about its weights beside the weights."""

    @abstractmethod
    def evaluate(self, model: nn.Module, split: str = "val") -> dict[str, Any]:
        """Metrics of `model` on a split, the same on every rank; what was found stays for pictures and reports."""

    @abstractmethod
    def summary(self, metrics: dict[str, Any]) -> str:
        """The metrics that matter, in a line."""

    @abstractmethod
    def report(self, metrics: dict[str, Any]) -> str:
        """The full report of an evaluation."""

    @abstractmethod
    def draw_batch(self, batch: Any, step: int, folder: Path) -> None:
        """Writes a picture of the batch as the network saw it."""

    @abstractmethod
    def draw_predictions(self, folder: Path) -> None:
        """Writes pictures of the last evaluation."""

    def best_text(self, value: float | None) -> str:
        """What the best weights so far reached, in words: "AP 0.3460"."""
        return f"{self.config.best_metric} {'-' if value is None else f'{value:.4f}'}"

    # ------------------------------------------------------------------------------------------ what was skipped

    def _noting_skipped(self, batches: Iterable[Any], split: str) -> Iterator[Any]:
        """`batches`, remembering what was skipped in them."""
        for batch in batches:
            self._skipped |= {f"{split}: {line}": None for line in batch.skipped if line}
            yield batch

    def skipped_lines(self) -> list[str]:
        """Lines on the pictures of the evaluated split that could not be used."""
        return [line for line in self._skipped if line.startswith(f"{self.evaluated}: ")]

    def write_bad_samples(self, folder: Path) -> int:
        """Adds the pictures that could not be used so far to bad_samples.txt, each once; without any, writes nothing.

        Returns:
            How many pictures of the training set it lists.
        """
        path = folder / "bad_samples.txt"
        lines = dict.fromkeys(path.read_text(encoding="utf-8").splitlines()) if path.exists() else {}
        if {shown(line) for line in self._skipped} - lines.keys():
            lines |= {shown(line): None for line in self._skipped}
            content = "".join(f"{line}\n" for line in lines)
            write_text(path, content)
        return sum(line.startswith("train: ") for line in lines)


def _check_name(settings) -> None:
    """Raises ValueError where an experiment's own settings are called like the library's.

    A checkpoint names its settings.  Moved out of its run, it would be opened by the library's.
    """
    name = type(settings).__name__
    if type(settings) is not CHECKPOINT_CLASSES.get(name, type(settings)):
        raise ValueError(
            f"the class {name} of {type(settings).__module__} has the name of the library's own settings; call it otherwise"
        )


class Clock:
    """Adds up seconds by name; waits for the GPU at both ends."""

    def __init__(self, device: torch.device, names: tuple[str, ...]) -> None:
        self.device, self.seconds = device, dict.fromkeys(names, 0.0)

    def __call__(self, name: str) -> "Clock":
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


def milliseconds(seconds: list[dict[str, float]], num_images: int) -> dict[str, float]:
    """Milliseconds an image, from the seconds that each process took and the images of all of them."""
    return {
        f"{name}_ms": 1000 * float(np.sum([part[name] for part in seconds])) / max(num_images, 1) for name in seconds[0]
    }
