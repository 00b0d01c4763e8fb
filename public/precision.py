"""Precision and memory format: what training and evaluation share, so that both give the same digits."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

AUTOCAST_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
X86_INSTRUCTIONS = {"bf16": ("avx512_bf16", "amx_bf16"), "fp16": ("avx512_fp16", "amx_fp16")}  # any of them will do


def at_least_float32(x: torch.Tensor) -> torch.Tensor:
    """`x` in float32 where autocast has made it half precision; float32 and float64 stay as they are."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The autocast of `precision`, "bf16" or "fp16"; of "float32" one that does nothing."""
    dtype = AUTOCAST_TYPES.get(precision)
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def without_autocast(device: torch.device) -> AbstractContextManager:
    """Within it no autocast is on; nothing has to be done on "meta", where shapes are computed, which has none."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def memory_format(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


def place(model: nn.Module, device: torch.device, *, channels_last: bool) -> nn.Module:
    """`model` on the device, in the memory format that the configuration says."""
    return model.to(device=device, memory_format=memory_format(channels_last))  # type: ignore[call-overload]  # torch's stubs lack it


def slow_on(precision: str, device: torch.device) -> str | None:
    """A line for the log where the device computes `precision` by emulation, several times slower than float32."""
    if precision == "float32":
        return None
    if device.type == "cuda":
        has_it = precision == "fp16" or torch.cuda.is_bf16_supported(including_emulation=False)
        name = torch.cuda.get_device_name(device) if not has_it else ""
    elif device.type == "cpu":
        known = torch.cpu.get_capabilities()
        has_it = known.get("architecture") != "x86_64" or any(known.get(n) for n in X86_INSTRUCTIONS[precision])
        name = known.get("cpu_name", "")
    else:
        return None
    if has_it:
        return None
    return (
        f"{device} ({name}) has no instructions for {precision} and emulates it, which takes several times as long as "
        "float32; --precision float32 is the fast one here (a recipe of its own: other weights come out)"
    )
