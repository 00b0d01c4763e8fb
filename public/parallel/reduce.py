"""Gradients over processes, in a layout that never changes.

DistributedDataParallel rebuilds its buckets after the first step in the order in which gradients happened to arrive.
From three processes on, another layout adds in another order and gives other bits, so a resumed run differs from one that
was never stopped.  Here the buckets are cut once, in the model's own order, and stay.

All are sent after backward.  Sent during it, in a fixed order, they give the same bits, but no faster step where the
processes share a machine: `benchmarks/reduction.py`.
"""

import torch
import torch.distributed as dist
from torch import nn

from public.parallel.collectives import is_distributed, world_size

BUCKET_VALUES = 8 * 1024 * 1024  # 32 MiB of float32


class GradientReducer:
    """Averages the gradients of `model`'s trainable parameters over the processes."""

    def __init__(self, model: nn.Module) -> None:
        self.buckets: list[list[nn.Parameter]] = [[]]
        for parameter in model.parameters():
            if not parameter.requires_grad:
                continue
            if sum(p.numel() for p in self.buckets[-1]) + parameter.numel() > BUCKET_VALUES and self.buckets[-1]:
                self.buckets.append([])
            self.buckets[-1].append(parameter)

    @torch.no_grad()
    def reduce(self) -> None:
        """Replaces each gradient by its mean over the processes.  A parameter without a gradient counts as zero.

        One that was taken out of training since the start keeps its place in the layout, but gets no gradient: an optimizer
        would move it by a zero.
        """
        if not is_distributed():
            return
        pending = []
        for bucket in self.buckets:
            flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in bucket])
            pending.append((flat, dist.all_reduce(flat, async_op=True)))
        for bucket, (flat, work) in zip(self.buckets, pending):
            work.wait()
            flat /= world_size()
            parts = flat.split([p.numel() for p in bucket])
            for parameter, part in zip(bucket, parts):
                if not parameter.requires_grad:
                    parameter.grad = None
                elif parameter.grad is None:
                    parameter.grad = part.view_as(parameter).clone()
                else:
                    parameter.grad.copy_(part.view_as(parameter))
