"""A few training steps of a tiny experiment without the trainer, in float32 or in float64, to measure rounding by."""

import torch

from public import random_streams
from public.config import replace
from public.parallel import collectives
from public.parallel.reduce import GradientReducer
from public.parallel.sync_batchnorm import convert_sync_batchnorm
from public.protocols import Progress
from public.runs.experiment import load_experiment
from public.tasks.detection import DetectionTask
from tests.helpers.experiments import TinyExperiment


def make_task(experiment: TinyExperiment, **changes) -> DetectionTask:
    config = replace(load_experiment(experiment.folder).config, **changes)
    return DetectionTask(config=config, data_root=experiment.data_root, device=torch.device("cpu"), limit_images=None)


def plain_steps(
    experiment: TinyExperiment, num_steps: int, dtype: torch.dtype, *, lr: float | None = None
) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    """The state after `num_steps` steps from the experiment's seed, and the loss terms of each step.

    Args:
        lr: the same in every step; None: by the experiment's schedule.
    """
    task = make_task(experiment)
    config, steps_per_epoch = task.config, task.num_train_images // task.config.batch_size
    random_streams.seed_torch(config.seed, "model")
    model = config.detector.build_model().to(dtype)
    if collectives.is_distributed():
        convert_sync_batchnorm(model)
    optimizer, reducer, losses = config.optimizer.build(model, config.lr), GradientReducer(model), []
    for step, batch in enumerate(task.train_batches(first_step=0, num_steps=num_steps)):
        for group in optimizer.param_groups:
            group["lr"] = lr if lr is not None else config.lr * config.schedule.factor(step, steps_per_epoch)
        epoch = step // steps_per_epoch
        task.on_epoch(model.train(), epoch)
        optimizer.zero_grad()
        outputs = model(task.inputs(batch).to(dtype))
        terms = task.loss(
            outputs, batch.targets, Progress(epoch, step, step % steps_per_epoch, config.epochs, steps_per_epoch)
        )
        losses.append({name: term.item() for name, term in terms.items()})
        sum(terms.values()).backward()
        reducer.reduce()
        optimizer.step()
    return model.state_dict(), losses
