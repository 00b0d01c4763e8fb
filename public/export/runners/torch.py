"""Programs of `torch.export`, on the CPU."""

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from public.export import nms  # noqa: F401 (an operation that a program may have)
from public.export.onnx_file import CARD
from public.export.runners.network import Session
from public.export.runners.safe_program import check_program


def open_torch(path: Path) -> tuple[Session, str | None]:
    """The file as a function of its inputs, and the text of its card.

    Raises:
        ValueError: the file is damaged, or holds what could be executed.
    """
    from torchvision import ops  # noqa: F401 (registers deform_conv2d)

    extra: dict[str, Any] = {CARD: ""}
    content = path.read_bytes()  # once: what is looked at is what is opened
    try:
        check_program(content)
    except ValueError as error:
        raise ValueError(f"{path} cannot be opened as a program of torch.export: {error}") from error
    try:
        with warnings.catch_warnings(action="ignore"):
            module = torch.export.load(io.BytesIO(content), extra_files=extra).module()
    except Exception as error:  # of many kinds
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{path} cannot be opened as a program of torch.export: {reason}") from error

    @torch.no_grad()
    def run(inputs: list[np.ndarray]) -> list[np.ndarray]:
        return [value.numpy() for value in module(*map(torch.from_numpy, inputs))]

    return run, extra[CARD] or None
