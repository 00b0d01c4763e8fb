"""ONNX Runtime, on the CPU."""

from pathlib import Path

import numpy as np
import torch

from public.export.onnx_file import CARD
from public.export.packages import need
from public.export.runners.network import Session


def open_onnx(path: Path) -> tuple[Session, str | None]:
    """The file as a function of its inputs, and the text of its card; with as many threads as torch has.

    Raises:
        ValueError: the package is missing, or the file is damaged.
    """
    runtime = need("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    options.log_severity_level = 3  # errors
    try:
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of many kinds
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{path} cannot be opened by ONNX Runtime: {reason}") from error
    names = [value.name for value in session.get_inputs()]

    def run(inputs: list[np.ndarray]) -> list[np.ndarray]:
        return session.run(None, dict(zip(names, inputs)))

    return run, session.get_modelmeta().custom_metadata_map.get(CARD)
