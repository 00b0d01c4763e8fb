"""The precision in which losses and decoders compute, whatever autocast gave the network."""

import torch


def at_least_float32(x: torch.Tensor) -> torch.Tensor:
    """`x` in float32 where it is in half precision; float32 and float64 stay as they are."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()
