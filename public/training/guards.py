"""Two ways for a training step to fail, each with one clear message: a loss that is not finite, memory that runs out."""

import math
from collections.abc import Callable
from pathlib import Path

import torch

from public.checkpoint_files import save_atomic
from public.parallel import collectives


class NonFiniteLossError(RuntimeError):
    """A loss term is not finite, on this rank or another."""


class OutOfMemoryError(RuntimeError):
    """The GPU's memory does not hold a batch of this size."""


def mean_over_ranks(terms: dict[str, torch.Tensor]) -> dict[str, float]:
    """The loss terms averaged over the processes.  A term that is not finite on one rank is so in the mean of all."""
    values = collectives.sum_over_ranks(torch.stack(list(terms.values()))) / collectives.world_size()
    return dict(zip(terms, values.tolist()))


def check_finite(means: dict[str, float], terms: dict[str, torch.Tensor], batch, step: int, folder: Path) -> None:
    """Stops every rank when a term of any rank is not finite; the ranks that hold it name it and save their batch.

    Raises:
        NonFiniteLossError: naming the step, the term, the images and the file with the batch.
    """
    if all(math.isfinite(value) for value in means.values()):
        return
    rank = collectives.rank()
    bad = {name: value.item() for name, value in terms.items() if not math.isfinite(value.item())}
    message = None
    if bad:
        saved = _save_batch(terms, batch, step, folder / f"not_finite_step{step}_rank{rank}.pth")
        message = f"{bad} on rank {rank}, images {list(batch.image_ids)}, {saved}"
    messages = [text for text in collectives.gather_objects(message) if text]
    if not messages:  # finite on each rank, but not their sum
        messages = [f"too large to be added over the processes, mean {means}"]
    raise NonFiniteLossError(f"the loss is not finite at step {step}: " + "; ".join(messages))


def check_weights(model: torch.nn.Module, step: int) -> None:
    """Stops before a state is saved that holds a parameter which is not finite: it must not take the place of a good one.

    A finite loss can have a gradient that is not finite, of which the next loss alone would tell.

    Raises:
        NonFiniteLossError: naming the step and the first such parameter.
    """
    bad = [name for name, parameter in model.named_parameters() if not parameter.isfinite().all()]
    if bad:
        raise NonFiniteLossError(
            f"after step {step} {bad[0]} and {len(bad) - 1} more parameters are not finite, though the loss was: its "
            "gradient was not, or the learning rate is too high. This state is not saved"
        )


def _save_batch(terms: dict[str, torch.Tensor], batch, step: int, path: Path) -> str:
    """Saves the batch, and says where, or why not: the other ranks are waiting for this one in any case."""
    content = {
        "model": {},  # none: the weights of the last checkpoint and `step` lead here again
        "step": step,
        "terms": {name: value.item() for name, value in terms.items()},
        "images": batch.images.cpu(),
        "targets": [{name: value.cpu() for name, value in target.items()} for target in batch.targets],
        "image_ids": [i if isinstance(i, str) else int(i) for i in batch.image_ids],
    }
    try:
        save_atomic(content, path)
    except OSError as error:
        return f"batch not saved: {error}"
    return f"batch saved to {path}"


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
