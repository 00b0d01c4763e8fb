"""Two ways for a training step to fail, each with one clear message: a loss that is not finite, memory that runs out."""

import math
from collections.abc import Callable
from pathlib import Path

import torch

from public.checkpoint_files import save_atomic
from public.parallel import collectives
from public.parts import own_parameters


class NonFiniteLossError(RuntimeError):
    """A loss term is not finite, on this rank or another."""


class OutOfMemoryError(RuntimeError):
    """The GPU's memory does not hold a batch of this size."""


class StepLosses:
    """The loss terms of a step's micro-batches.  They stay on the device until `read`, the one place that waits for it."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._terms: list[torch.Tensor] = []  # (T,) each
        self._batches: list = []

    def add(self, terms: dict[str, torch.Tensor], batch) -> None:
        """Takes the terms of one micro-batch; `batch` is kept until they have been looked at."""
        self.names = list(terms)
        self._terms.append(torch.stack([term.detach() for term in terms.values()]))
        self._batches.append(batch)

    def read(self, norm: torch.Tensor | None, step: int, folder: Path) -> tuple[dict[str, float], float | None]:
        """The terms averaged over micro-batches and processes, and the gradient's norm, in one transfer.

        Stops every rank when a term of any rank is not finite; the ranks that hold it name it and save their batch.

        Args:
            norm: of the gradient; None where nothing is clipped.

        Raises:
            NonFiniteLossError: naming the step, the term, the images and the file with the batch.
        """
        terms = torch.stack(self._terms)  # (micro-batches, T)
        means = collectives.sum_over_ranks(terms) / collectives.world_size()
        values = means if norm is None else torch.cat([means.flatten(), norm.detach().to(means.dtype).reshape(1)])
        numbers = values.flatten().tolist()
        gradient_norm = None if norm is None else numbers.pop()
        sums = dict.fromkeys(self.names, 0.0)
        for position, value in enumerate(numbers):
            sums[self.names[position % len(self.names)]] += value / len(self._terms)
        if not all(map(math.isfinite, numbers)):
            self._stop(sums, step, folder)
        return sums, gradient_norm

    def _stop(self, means: dict[str, float], step: int, folder: Path) -> None:
        rank, found = collectives.rank(), []
        for number, (terms, batch) in enumerate(zip(self._terms, self._batches)):
            values = dict(zip(self.names, terms.tolist()))
            bad = {name: value for name, value in values.items() if not math.isfinite(value)}
            if bad:
                part = f"_part{number}" if len(self._terms) > 1 else ""
                saved = _save_batch(values, batch, step, folder / f"not_finite_step{step}_rank{rank}{part}.pth")
                found.append(f"{bad} on rank {rank}, images {list(batch.image_ids)}, {saved}")
        messages = [text for texts in collectives.gather_objects(found) for text in texts]
        if not messages:  # finite on each rank, but not their sum
            messages = [f"too large to be added over the processes, mean {means}"]
        raise NonFiniteLossError(f"the loss is not finite at step {step}: " + "; ".join(messages))


def check_weights(model: torch.nn.Module, step: int) -> None:
    """Stops before a state is saved that holds a parameter which is not finite: it must not take the place of a good one.

    A finite loss can have a gradient that is not finite, of which the next loss alone would tell.

    Raises:
        NonFiniteLossError: naming the step and the first such parameter.
    """
    bad = [name for name, parameter in own_parameters(model) if not parameter.isfinite().all()]
    if bad:
        raise NonFiniteLossError(
            f"after step {step} {bad[0]} and {len(bad) - 1} more parameters are not finite, though the loss was: its "
            "gradient was not, or the learning rate is too high. This state is not saved"
        )


def _save_batch(terms: dict[str, float], batch, step: int, path: Path) -> str:
    """Saves the batch, and says where, or why not: the other ranks are waiting for this one in any case."""
    content = {
        "model": {},  # none: the weights of the last checkpoint and `step` lead here again
        "step": step,
        "terms": terms,
        "images": batch.images.cpu(),
        "targets": _on_cpu(batch.targets),
        "image_ids": [i if isinstance(i, str) else int(i) for i in batch.image_ids],
    }
    try:
        save_atomic(content, path)
    except OSError as error:
        return f"batch not saved: {error}"
    return f"batch saved to {path}"


def _on_cpu(targets):
    """Tensors in dicts and lists, moved to the CPU."""
    if isinstance(targets, dict):
        return {name: _on_cpu(value) for name, value in targets.items()}
    return [_on_cpu(value) for value in targets] if isinstance(targets, list) else targets.cpu()


def batch_that_fits(attempt: Callable[[int], None], num_images: int) -> int:
    """The largest number of images, by halving and then refining to an eighth, for which `attempt(n)` has memory."""
    fits, fails = 0, num_images
    while fails - fits > max(1, fits // 8):
        trial = fails // 2 if fits == 0 else (fits + fails) // 2
        if trial == 0:
            break
        try:
            attempt(trial)
            fits = trial
        except torch.OutOfMemoryError:
            fails = trial
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return fits


def out_of_memory_message(num_images: int, fits: int, batch_size: int) -> str:
    """What to do when micro-batches of `num_images` images do not fit but `fits` do (0: not even one).

    `batch_size` is the whole batch: `num_images` times the micro-batches of a process, times the processes.
    """
    if fits == 0:
        return "out of GPU memory with a single image: take a smaller input size or a smaller network"
    processes = collectives.world_size()
    share = batch_size // processes  # the images of a process in one step
    accumulate = next(count for count in range(math.ceil(share / fits), share + 1) if share % count == 0)
    return (
        f"out of GPU memory with {num_images} images at once on each process; {fits} fit (tried just now). "
        f"Either --batch_size {batch_size // num_images * fits} (then mind the learning rate: --lr_scaling linear), "
        f"or keep batch_size {batch_size} and cut it into more micro-batches: --accumulate {accumulate}"
    )
