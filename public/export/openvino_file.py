"""OpenVINO: an .xml with its .bin, made from the ONNX file of the same graph, the card in its rt_info."""

import tempfile
from pathlib import Path
from typing import Any

from public.export.graph import ExportGraph
from public.export.onnx_file import CARD, write_onnx
from public.export.packages import need, openvino_core
from public.models.deformable import DeformableConv2d


def write_openvino(graph: ExportGraph, path: Path, *, batch: int | None, card: str, precision: str) -> None:
    """Writes `graph` to `path` and to the .bin beside it; arguments and errors as of `write_onnx`.

    Raises:
        ValueError: also of a network with deformable convolutions, which OpenVINO does not read from ONNX.
    """
    if any(isinstance(module, DeformableConv2d) for module in graph.modules()):
        raise ValueError(
            "OpenVINO reads no deformable convolution (DeformConv) from ONNX, which this network has; the nearest is "
            "--format onnx"
        )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "graph.onnx"
        write_onnx(graph, file, batch=batch, card=card, precision="float32")
        convert(file, path, card=card, precision=precision)


def convert(file: Path, path: Path, *, card: str, precision: str) -> None:
    """The ONNX file `file` as `path` and the .bin beside it."""
    runtime = need("openvino", "openvino")
    try:
        model = openvino_core().read_model(str(file))  # not convert_model, which may send telemetry
    except Exception as error:  # of many kinds
        reason = " ".join(str(error).split())[:400]
        raise ValueError(f"OpenVINO cannot read the network: {reason}") from error
    _rename(model)
    model.set_rt_info("", ["framework"])  # the metadata of the ONNX file
    model.set_rt_info(card, [CARD])
    runtime.save_model(model, str(path), compress_to_fp16=precision == "fp16")


def _rename(model: Any) -> None:
    """Names of layers that are the same in every export: OpenVINO numbers them from the start of the process."""
    model.set_friendly_name("network")
    for number, layer in enumerate(model.get_ordered_ops()):
        layer.set_friendly_name(f"{layer.get_type_name()}_{number}")
        if layer.get_type_name() == "If":
            for branch in (0, 1):
                _rename(layer.get_function(branch))
