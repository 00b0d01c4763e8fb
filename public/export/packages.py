"""Packages that only an export needs, and what to type where one is missing."""

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
