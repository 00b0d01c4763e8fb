"""torch: the program of `torch.export` as a .pt2 file, the card beside the program in it."""

import warnings
from pathlib import Path

import torch

from public.export.graph import ExportGraph
from public.export.onnx_file import CARD
from public.files import write_whole


def write_torch(graph: ExportGraph, path: Path, *, batch: int | None, card: str, precision: str) -> None:
    """Writes `graph` to `path`; arguments and errors as of `write_onnx`."""
    graph.refuse_quantised("torch")
    if precision == "fp16":
        graph.in_half()
    example = graph.example(batch or 2)  # of 1, torch.export makes a constant
    with torch.no_grad(), warnings.catch_warnings(action="ignore"):
        try:
            program = torch.export.export(graph, example, dynamic_shapes=graph.shapes(batch), strict=False)
        except Exception as error:  # of many kinds
            reason = " ".join(str(error).split())[:400]
            raise ValueError(f"the network cannot be exported: {reason}") from error
        for module in program.graph_module.modules():
            for node in getattr(getattr(module, "graph", None), "nodes", ()):
                node.meta.pop("stack_trace", None)  # the paths of source files on this machine
        write_whole(path, lambda file: torch.export.save(program, file, extra_files={CARD: card}))
