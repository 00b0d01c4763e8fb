"""ONNX: the graph as one .onnx file, the card in its metadata; read back by ONNX Runtime (`public.export.runners.onnx`).

Source of the operators: https://onnx.ai/onnx/operators, NonMaxSuppression-11 and DeformConv-19.
"""

import warnings
from pathlib import Path
from typing import Any

import torch

from public.export.graph import ExportGraph
from public.export.nms import OUTSIDE
from public.export.qdq import insert
from public.files import write_whole

OPSET = 19  # the first with DeformConv
CARD = "encore"  # the entry of the metadata


def write_onnx(graph: ExportGraph, path: Path, *, batch: int | None, card: str, precision: str) -> None:
    """Writes `graph` to `path`.

    Args:
        batch: images of a call; None: any number up to MOST_IMAGES.
        card: text that is stored under CARD.
        precision: "float32", or "fp16": the network's weights, and what is computed of them; `graph` is changed for it.

    Raises:
        ValueError: the network cannot be exported, with the exporter's reason.
    """
    if precision == "fp16":
        graph.in_half()
    program = _exported(graph, batch)
    model = program.model_proto
    _strip(model)
    if graph.quantised:
        insert(model, graph.quantised, integer_bias=False)
    entry = model.metadata_props.add()
    entry.key, entry.value = CARD, card
    content = model.SerializeToString(deterministic=True)
    write_whole(path, lambda file: file.write(content))


def _exported(graph: ExportGraph, batch: int | None) -> Any:
    example = graph.example(batch or 2)  # of 1, torch.export makes a constant
    source: Any = graph
    with torch.no_grad(), warnings.catch_warnings(action="ignore"):
        try:
            if graph.any_size:  # here, since the exporter falls back to the sizes of the example, without a word
                source = torch.export.export(graph, example, dynamic_shapes=graph.shapes(batch), strict=False)
            return torch.onnx.export(
                source,
                () if graph.any_size else example,
                dynamo=True,
                opset_version=OPSET,
                input_names=list(graph.input_names),
                output_names=list(graph.output_names),
                dynamic_shapes=None if graph.any_size else graph.shapes(batch),
                external_data=False,
                custom_translation_table=translations(),
                verbose=False,
            )
        except Exception as error:  # of many kinds
            reason = " ".join(str(error).split())[:400]
            if graph.any_size:
                raise ValueError(
                    f"{graph.family} cannot be exported to ONNX for inputs of any size, since its graph has points or sizes "
                    "as constants; the nearest is a file of one size, --size HEIGHT WIDTH without --dynamic_size"
                ) from error
            raise ValueError(f"the network cannot be exported to ONNX: {reason}") from error


def translations() -> dict[Any, Any]:
    """torch's operation -> the ONNX of it, of those that the exporter does not know."""
    from torchvision import ops  # noqa: F401 (registers deform_conv2d)

    return {
        torch.ops.encore.survivors.default: _survivors,
        torch.ops.torchvision.deform_conv2d.default: _deform_conv2d,
    }


def _survivors(boxes: Any, values: Any, iou_threshold: float, most: int) -> Any:
    """`public.export.nms.survivors`."""
    from onnxscript import opset18

    op: Any = opset18
    limit = op.Constant(value_ints=[most])
    iou, lowest = op.Constant(value_floats=[iou_threshold]), op.Constant(value_floats=[OUTSIDE / 2])
    places = op.NonMaxSuppression(boxes, values, limit, iou, lowest)  # (N, 3): image, class, anchor
    kept = op.GatherND(values, places)
    nothing = op.Expand(op.Constant(value_floats=[OUTSIDE]), op.Shape(values))
    return op.ScatterND(nothing, places, kept)


def _deform_conv2d(
    x: Any,
    weight: Any,
    offset: Any,
    mask: Any,
    bias: Any,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    groups: int,
    offset_groups: int,
    use_mask: bool,
) -> Any:
    """torchvision's operation; its offsets and factors are in ONNX's order."""
    from onnxscript import opset19

    op: Any = opset19
    return op.DeformConv(
        x,
        weight,
        offset,
        bias,
        mask if use_mask else None,
        strides=[stride_h, stride_w],
        pads=[pad_h, pad_w, pad_h, pad_w],
        dilations=[dilation_h, dilation_w],
        group=groups,
        offset_group=offset_groups,
    )


def _strip(model: Any) -> None:
    """Takes out what the exporter notes of its own, such as the paths of source files on this machine."""
    model.doc_string = ""
    del model.metadata_props[:]
    for graph in [model.graph, *model.functions]:
        _strip_graph(graph)


def _strip_graph(graph: Any) -> None:
    graph.doc_string = ""
    del graph.metadata_props[:]
    for name in ("value_info", "input", "output", "initializer"):
        for value in getattr(graph, name, ()):
            if hasattr(value, "metadata_props"):
                del value.metadata_props[:]
    for node in graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _strip_graph(attribute.g)
