"""What the parts of a training are to each other, whatever their classes: the loop knows nothing else of them.

B images of a batch, A anchors or points, K classes.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch


class Progress(NamedTuple):
    """Where a training run stands; some losses change with it.  All counts from 0."""

    epoch: int
    step: int  # optimizer steps done before this one, in the whole run
    step_in_epoch: int  # the same, in this epoch
    num_epochs: int
    steps_per_epoch: int


class Batch(Protocol):
    """The samples of one process in one step, or a part of them."""

    @property
    def images(self) -> torch.Tensor:
        """B images."""

    @property
    def targets(self) -> Any:
        """What the loss of the same task takes."""

    @property
    def image_ids(self) -> list:
        """B names, for messages."""

    def to(self, device: torch.device) -> "Batch":
        """The batch with its tensors on `device`."""

    def part(self, start: int, stop: int) -> "Batch":
        """Images start .. stop - 1."""


class Predictor(Protocol):
    """Anything from images to outputs: a network, or an exported one."""

    def __call__(self, images: torch.Tensor, /) -> Any:
        """images float32 (B, 3, H, W), normalised -> raw outputs of the head."""


class Loss(Protocol):
    """Outputs and targets -> loss terms."""

    def __call__(self, outputs: Any, targets: Any, progress: Progress, /) -> dict[str, torch.Tensor]:
        """Weighted scalar terms whose sum is trained: float32 whatever the autocast, finite and connected without objects."""


class Decoder(Protocol):
    """Outputs -> detections."""

    def decode(self, outputs: Any, /) -> tuple[torch.Tensor, torch.Tensor]:
        """Boxes (B, A, 4) in network pixels, not clipped, and scores (B, A, K) in [0, 1]."""

    def __call__(
        self, outputs: Any, regions: Sequence[tuple[int, int, int, int]] | None = None, /
    ) -> list[dict[str, torch.Tensor]]:
        """For each image `boxes`, `scores` and `labels` after NMS, by falling score.

        `regions` says where the picture lies in each, x1 y1 x2 y2 in pixels; None: it fills the image.
        """


class Task(Protocol):
    """What the training loop is handed: data, loss and evaluation."""

    @property
    def num_train_images(self) -> int:
        """Images of the training set."""

    @property
    def loss(self) -> Loss:
        """What is trained by."""

    def card(self) -> dict[str, Any]:
        """Entries of a checkpoint that say what the weights are."""

    def train_batches(self, *, first_step: int, num_steps: int) -> Iterable[Batch]:
        """This process's batches of steps first_step .. num_steps - 1, over all epochs."""

    def inputs(self, batch: Any, /) -> torch.Tensor:
        """The normalised images of a batch, float32 (B, 3, H, W), on its device."""

    @property
    def ready_epoch(self) -> int:
        """How many epochs it takes until the network is what is used in the end; weights before cannot be the best."""
        ...

    def on_epoch(self, model: torch.nn.Module, epoch: int) -> None:
        """The family's own switch at the start of an epoch, counted from 0, and where a run goes on."""

    def after_step(self, model: torch.nn.Module, average: torch.nn.Module | None, progress: Progress) -> None:
        """What the family changes in the weights after an optimizer step, and in their average where there is one."""

    def evaluate(self, model: torch.nn.Module) -> dict[str, Any]:
        """Metrics of `model`, the same on every rank."""

    def summary(self, metrics: dict[str, Any]) -> str:
        """The metrics that matter, in a line."""

    def best_text(self, value: float | None) -> str:
        """What the best weights reached, in words, where `value` of the configuration's best_metric is it."""

    def draw_batch(self, batch: Any, step: int, folder: Path) -> None:
        """Writes a picture of the batch as the network saw it."""

    def draw_predictions(self, folder: Path) -> None:
        """Writes pictures of the last evaluation."""

    def write_bad_samples(self, folder: Path) -> int:
        """Writes the list of pictures that could not be used, if any; how many are of training."""
