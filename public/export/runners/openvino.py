"""OpenVINO, on the CPU."""

from pathlib import Path

import numpy as np
import torch

from public.export.onnx_file import CARD
from public.export.packages import openvino_core
from public.export.runners.network import Session


def open_openvino(path: Path) -> tuple[Session, str | None]:
    """The file as a function of its inputs, and the text of its card; with as many threads as torch has, in float32.

    Raises:
        ValueError: the package is missing, or the file is damaged.
    """
    core = openvino_core()
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads(), "NUM_STREAMS": 1}
    try:
        model = core.read_model(str(path))
        text = model.get_rt_info([CARD]).astype(str) if model.has_rt_info([CARD]) else None
        compiled = core.compile_model(model, "CPU", options)
    except Exception as error:  # of many kinds
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{path} cannot be opened by OpenVINO: {reason}") from error

    def run(inputs: list[np.ndarray]) -> list[np.ndarray]:
        found = compiled(inputs)
        return [found[i] for i in range(len(compiled.outputs))]

    return run, text
