"""Synchronised BatchNorm by a differentiable gather of statistics; it runs on CPU (gloo) as on GPU (NCCL).

torch's own SyncBatchNorm refuses CPU tensors.  Here each process computes mean and sum of squared deviations of its part,
gathers those of all, and combines them by the formula of Chan, Golub and LeVeque (1979), which does not lose digits where
the mean is large.  All processes add in rank order, so all get the same bits.
"""

import torch
from torch import nn

from public.parallel.collectives import gather_over_ranks, is_distributed
from public.parts import own_modules


class SyncBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose training statistics are those of the batch over all processes.  Same state dict."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or not is_distributed():
            return super().forward(x)
        mean, variance, count = global_statistics(x if x.dtype == torch.float64 else x.float())
        if self.track_running_stats:
            with torch.no_grad():
                assert self.running_mean is not None
                assert self.running_var is not None
                assert self.num_batches_tracked is not None
                assert self.momentum is not None, "convert_sync_batchnorm refuses another"
                self.num_batches_tracked += 1
                unbiased = variance * (count / (count - 1))
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
                self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)  # (C,)
        shift = self.bias - mean * scale
        return (x * scale[:, None, None] + shift[:, None, None]).to(x.dtype)


def global_statistics(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean (C,), biased variance (C,) and number of values per channel () of `x` (B, C, H, W) over all processes."""
    dims = (0, 2, 3)
    mean = x.mean(dims)
    deviation = (x - mean[:, None, None]).square().sum(dims)
    count = torch.full_like(mean[:1], x.numel() // x.shape[1])
    parts = gather_over_ranks(torch.cat([mean, deviation, count]))  # (W, 2C + 1)
    channels = x.shape[1]
    means, deviations, counts = parts[:, :channels], parts[:, channels:-1], parts[:, -1:]
    total = counts.sum()
    global_mean = (means * counts).sum(0) / total
    between = (counts * (means - global_mean).square()).sum(0)
    return global_mean, (deviations.sum(0) + between) / total, total


def convert_sync_batchnorm(model: nn.Module) -> nn.Module:
    """Turns every BatchNorm2d of `model` into a SyncBatchNorm2d, in place, parameters and names kept.

    What is only lent to `model`, such as a teacher, keeps its own.
    """
    for module in own_modules(model):
        if type(module) is nn.BatchNorm2d:
            if module.weight is None or module.momentum is None:
                raise ValueError("synchronised BatchNorm needs affine parameters and a fixed momentum")
            module.__class__ = SyncBatchNorm2d
    return model
