"""ncnn, on the CPU, in float32."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from public.export.ncnn_file import WEIGHTS
from public.export.packages import need
from public.export.runners.network import Session

HALF = (
    "use_fp16_packed",
    "use_fp16_storage",
    "use_fp16_arithmetic",
    "use_bf16_storage",
)  # options that round to 16 bits


def open_ncnn(path: Path) -> tuple[Session, str | None]:
    """The file as a function of its inputs, with as many threads as torch has; its card lies beside it.

    Raises:
        ValueError: the package is missing, the file is damaged, or it has an operation that ncnn does not know.
    """
    runtime = need("ncnn", "ncnn")
    net = runtime.Net()
    net.opt.use_vulkan_compute, net.opt.num_threads = False, torch.get_num_threads()
    for name in HALF:
        setattr(net.opt, name, False)
    if net.load_param(os.fspath(path)) or net.load_model(os.fspath(path.with_suffix(WEIGHTS))):
        raise ValueError(f"{path} cannot be opened by ncnn: it is damaged, or has an operation that ncnn does not know")
    (place,), names = net.input_names(), net.output_names()

    def run(inputs: list[np.ndarray]) -> list[np.ndarray]:
        extractor = net.create_extractor()
        extractor.input(place, runtime.Mat(inputs[0][0]).clone())
        return [_extracted(extractor, name, path) for name in names]

    return run, None


def _extracted(extractor: Any, name: str, path: Path) -> np.ndarray:
    code, value = extractor.extract(name)
    if code:
        raise ValueError(f"{path}: ncnn cannot compute {name}: code {code}")
    return np.array(value)[None]
