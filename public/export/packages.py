"""Packages that only an export needs, and what to type where one is missing."""

import functools
import importlib
from typing import Any

EXTRAS = {  # format: what installs its packages
    "onnx": "pip install onnx onnxscript onnxruntime",
    "ncnn": "pip install ncnn pnnx",
    "openvino": "pip install onnx onnxscript openvino",
}


def need(package: str, format: str) -> Any:
    """The module `package`.

    Raises:
        ValueError: it is not installed, saying what to type.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ValueError(
            f"the format {format} needs the package {package}, which is not installed: {EXTRAS.get(format, package)}"
        ) from error


@functools.cache
def openvino_core() -> Any:
    """OpenVINO's Core, one for the whole process.

    Each Core's CPU plugin gives the thread that loads it another stack for handlers of signals, and puts the one before
    back when it is closed.  Of two that are closed in the order in which they were opened, the second puts back the stack of
    the first, which is gone: the next signal, a Ctrl-C, ends the process by a segmentation fault (2026.4, x86 Linux).

    Raises:
        ValueError: as `need`.
    """
    return need("openvino", "openvino").Core()
