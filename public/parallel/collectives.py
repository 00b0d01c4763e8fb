"""Sums and gathers over the processes of a run; the identity where there is only one process.

Everything that has to know about other processes goes through here, so that a loss, a BatchNorm or an evaluation reads
the same on one CPU and on many GPUs.  Call order must be the same on every rank.
"""

import os
from contextlib import contextmanager

import torch
import torch.distributed as dist

_is_alone = False


def is_distributed() -> bool:
    """True when a process group of more than one process is up."""
    return not _is_alone and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


@contextmanager
def alone():
    """Within it, this process computes as if there were no others: what only one of them does must not wait for them."""
    global _is_alone
    _is_alone = True
    try:
        yield
    finally:
        _is_alone = False


def world_size() -> int:
    return dist.get_world_size() if is_distributed() else 1


def rank() -> int:
    return dist.get_rank() if is_distributed() else 0


def local_rank() -> int:
    """The index of this process on its machine: what the launchers write into LOCAL_RANK, 0 without one."""
    return int(os.environ.get("LOCAL_RANK", 0))


def local_world_size() -> int:
    """The number of processes of this run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def sum_over_ranks(value: torch.Tensor) -> torch.Tensor:
    """The sum of `value` over all processes, on each of them.  Not differentiable; `value` stays as it is."""
    value = value.detach().clone()
    if is_distributed():
        dist.all_reduce(value)
    return value


def max_over_ranks(value: int, device: torch.device) -> int:
    """The largest `value` of all processes; `device` is where the backend exchanges numbers."""
    if not is_distributed():
        return value
    box = torch.tensor(value, device=device)
    dist.all_reduce(box, op=dist.ReduceOp.MAX)
    return int(box)


def share_of_sum(value: torch.Tensor, at_least: float = 1.0) -> torch.Tensor:
    """`max(sum over all processes, at_least) / world size`, the normaliser of losses.

    A loss divided by it, averaged over the processes (as gradients are), equals the loss of one process that holds the
    whole batch.
    """
    return sum_over_ranks(value).clamp(min=at_least) / world_size()


class _Gather(torch.autograd.Function):
    """all_gather whose backward is the sum over processes of the gradient of this process's part."""

    @staticmethod
    def forward(ctx, value):
        parts = [torch.empty_like(value) for _ in range(world_size())]
        dist.all_gather(parts, value.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx, gradient):
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return gradient[rank()]


def gather_over_ranks(value: torch.Tensor) -> torch.Tensor:
    """`value` (...) of every process as (world size, ...), in rank order on every process.  Differentiable."""
    return _Gather.apply(value) if is_distributed() else value.unsqueeze(0)


def gather_objects(value) -> list:
    """`value` (anything picklable) of every process, in rank order, on every process."""
    if not is_distributed():
        return [value]
    values = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def from_rank_0(value):
    """Rank 0's `value` (anything picklable) on every process."""
    if not is_distributed():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def broadcast_from_rank_0(tensors) -> None:
    """Overwrites each of `tensors` with rank 0's, in place."""
    if is_distributed():
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


def barrier() -> None:
    if is_distributed():
        dist.barrier()
