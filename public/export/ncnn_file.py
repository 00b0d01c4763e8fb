"""ncnn: a .ncnn.param with its .ncnn.bin, which pnnx makes of the traced graph; the card stands beside them.

One image a call, of one size, normalised by the caller.  pnnx reports no error where it meets an operation that ncnn does
not have: whether ncnn loads the files is seen when they are opened.
"""

import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path

import torch

from public.export.graph import ExportGraph
from public.export.packages import need

SUFFIX, WEIGHTS = ".ncnn.param", ".bin"  # the second takes the place of .param


def write_ncnn(graph: ExportGraph, path: Path, *, batch: int | None, card: str, precision: str) -> None:
    """Writes `graph` to `path` and to the .bin beside it; arguments and errors as of `write_onnx`."""
    graph.refuse_quantised("ncnn")
    program = need("pnnx", "ncnn").EXEC_PATH
    height, width = graph.size
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(action="ignore"), torch.no_grad():
        for parameter in graph.parameters():
            parameter.requires_grad_(False)
        try:
            traced = torch.jit.freeze(torch.jit.trace(graph, graph.example(1), check_trace=False))
        except Exception as error:  # of many kinds
            reason = " ".join(str(error).split())[:400]
            raise ValueError(f"the network cannot be traced: {reason}") from error
        traced.save(str(Path(folder) / "network.pt"))
        words = [program, "network.pt", f"inputshape=[1,3,{height},{width}]", f"fp16={int(precision == 'fp16')}"]
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
        made = Path(folder) / f"network{SUFFIX}"
        if done.returncode or not made.is_file():
            raise ValueError(f"pnnx cannot convert the network: {' '.join(done.stderr.split())[-300:]}")
        shutil.copyfile(made.with_suffix(WEIGHTS), path.with_suffix(WEIGHTS))
        shutil.copyfile(made, path)
