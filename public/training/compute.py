"""Arithmetic that training and evaluation share, so that both give the same digits."""

import torch
from torch import nn

from public.config import TrainingConfig

AUTOCAST_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(config: TrainingConfig, device: torch.device) -> torch.autocast:
    """The autocast of `config.precision`; does nothing for float32."""
    dtype = AUTOCAST_TYPES.get(config.precision)
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def memory_format(config: TrainingConfig) -> torch.memory_format:
    return torch.channels_last if config.channels_last else torch.contiguous_format


def place(model: nn.Module, config: TrainingConfig, device: torch.device) -> nn.Module:
    """`model` on the device, in the memory format of the configuration."""
    return model.to(device, memory_format=memory_format(config))


def freeze_parameters(model: nn.Module, prefixes: tuple[str, ...]) -> int:
    """Takes the parameters whose names are, or are inside, one of `prefixes` out of training; how many values those are.

    Raises:
        ValueError: a prefix fits no parameter.
    """
    frozen = 0
    for prefix in prefixes:
        found = [p for name, p in model.named_parameters() if _is_under(name, prefix)]
        if not found:
            raise ValueError(f"freeze names {prefix!r}, but no parameter of the model starts with it")
        for parameter in found:
            frozen += parameter.numel() if parameter.requires_grad else 0
            parameter.requires_grad_(False)
    return frozen


def batchnorm_layers(model: nn.Module, prefixes: tuple[str, ...]) -> list[nn.Module]:
    """The BatchNorm layers whose names are, or are inside, one of `prefixes`.

    Left in eval mode they keep their running statistics and normalise by them; whether their scale and shift are trained
    is another matter (`freeze_parameters`).

    Raises:
        ValueError: a prefix fits no BatchNorm layer.
    """
    layers = []
    for prefix in prefixes:
        found = [m for name, m in model.named_modules() if _is_under(name, prefix) and isinstance(m, nn.BatchNorm2d)]
        if not found:
            raise ValueError(f"freeze_batchnorm names {prefix!r}, but no BatchNorm of the model starts with it")
        layers += found
    return layers


def _is_under(name: str, prefix: str) -> bool:
    """Whether `name` is the module or parameter `prefix` or inside it: backbone.stages.1 is not in backbone.stages.10."""
    return f"{name}.".startswith(f"{prefix}.")
