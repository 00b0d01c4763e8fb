"""The training loop without a detector: a task of a few numbers, for tests of its steps."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from public.config import TrainingConfig
from public.parallel import collectives
from public.runs.run_folder import RunFolder
from public.training.interruption import Interruption
from public.training.loop import Trainer
from public.training.reporter import Reporter
from public.training.state import TrainingState

NUM_IMAGES, SIZE = 12, 8  # 3 steps of 4 images an epoch


class SmallBatch(NamedTuple):
    images: torch.Tensor  # (B, 3, SIZE, SIZE) float32
    targets: torch.Tensor  # (B,) float32
    image_ids: list

    def to(self, device) -> "SmallBatch":
        return self

    def part(self, start: int, stop: int) -> "SmallBatch":
        return SmallBatch(*(field[start:stop] for field in self))


class SmallTask:
    """Images of noise, each with a number to predict; nothing is evaluated, drawn or saved."""

    num_train_images = NUM_IMAGES
    ready_epoch = 0

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size

    def loss(self, outputs, targets, progress) -> dict[str, torch.Tensor]:
        return {"loss_square": (outputs.flatten(1).mean(1) - targets).square().mean()}

    def train_batches(self, *, first_step: int, num_steps: int):
        share = self.batch_size // collectives.world_size()
        for step in range(first_step, num_steps):
            generator = torch.Generator().manual_seed(step)
            images = torch.randn(self.batch_size, 3, SIZE, SIZE, generator=generator)
            own = slice(collectives.rank() * share, (collectives.rank() + 1) * share)
            yield SmallBatch(images[own], images.mean((1, 2, 3))[own], list(range(share)))

    def inputs(self, batch) -> torch.Tensor:
        return batch.images

    def on_epoch(self, model, epoch: int) -> None:
        pass

    def after_step(self, model, average, progress) -> None:
        pass


def make_trainer(config: TrainingConfig, model: nn.Module, folder: Path) -> Trainer:
    """A trainer of `model` by `config`, on the CPU; its run lies in `folder`."""
    state = TrainingState(
        model=model,
        optimizer=config.optimizer.build(model, config.lr),
        ema=config.ema.build(model) if config.ema else None,
        scaler=torch.amp.GradScaler("cpu", enabled=False),
    )
    run, device = RunFolder(folder), torch.device("cpu")
    return Trainer(
        config=config,
        task=SmallTask(config.batch_size),
        state=state,
        device=device,
        run=run,
        reporter=Reporter(None, device=device),
        max_steps=None,
        interruption=Interruption(),
    )


def run_steps(trainer: Trainer, num_steps: int) -> None:
    """The next steps, without evaluations and checkpoints."""
    first = trainer.state.step
    for batch in trainer.task.train_batches(first_step=first, num_steps=first + num_steps):
        trainer.step(batch)
