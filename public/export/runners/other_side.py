"""Writes and runs files of formats whose packages need an environment of their own, in that environment; it needs no other
file of this project.

    python other_side.py executorch versions
    python other_side.py executorch convert program.pt2 network.pte
    python other_side.py litert run network.tflite 1

`public.export.other_python` starts it.  "convert" takes a program of `torch.export`.  "run" answers on its standard output
what comes on its standard input: lists of arrays, each list as its length (8 bytes) and numpy's own format, no pickles; first
it says by an empty list that the file is open.  What goes wrong stands in the last line of the standard error.

Sources: https://docs.pytorch.org/executorch, "Export and Lowering"; https://ai.google.dev/edge/litert, "Convert
PyTorch models".
"""

import importlib.metadata
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

import numpy as np

PACKAGES = {"executorch": ("torch", "executorch"), "litert": ("torch", "litert-torch", "ai-edge-litert")}
LENGTH = 8  # bytes of a number in the stream


def main() -> None:
    kind, what, *rest = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what packages print goes to the errors
    if what == "versions":
        answers.write(json.dumps({name: importlib.metadata.version(name) for name in PACKAGES[kind]}).encode())
    elif what == "convert":
        {"executorch": convert_executorch, "litert": convert_litert}[kind](*rest)
    else:
        session = {"executorch": open_executorch, "litert": open_litert}[kind](rest[0], int(rest[1]))
        send(answers, [])
        while (inputs := receive(sys.stdin.buffer)) is not None:
            send(answers, session(inputs))


def send(stream: BinaryIO, arrays: Sequence[np.ndarray]) -> None:
    """Writes a list of arrays."""
    content = io.BytesIO()
    for array in arrays:
        np.save(content, np.ascontiguousarray(array), allow_pickle=False)
    for number in (len(arrays), len(content.getvalue())):
        stream.write(number.to_bytes(LENGTH, "little"))
    stream.write(content.getvalue())
    stream.flush()


def receive(stream: BinaryIO) -> list[np.ndarray] | None:
    """The next list of arrays; None where the stream has ended."""
    head = stream.read(2 * LENGTH)
    if len(head) < 2 * LENGTH:
        return None
    count, size = (int.from_bytes(part, "little") for part in (head[:LENGTH], head[LENGTH:]))
    content = io.BytesIO(stream.read(size))
    return [np.load(content, allow_pickle=False) for _ in range(count)]


def convert_executorch(program: str, output: str) -> None:
    """A .pte whose layers XNNPACK computes, as far as it knows them."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    lowered = to_edge_transform_and_lower(torch.export.load(program), partitioner=[XnnpackPartitioner()])
    with open(output, "wb") as file:
        file.write(lowered.to_executorch().buffer)


def open_executorch(path: str, threads: int) -> Callable[[list[np.ndarray]], list[np.ndarray]]:
    import torch
    from executorch.runtime import Runtime

    method: Any = Runtime.get().load_program(path).load_method("forward")
    return lambda inputs: [value.numpy() for value in method.execute([torch.from_numpy(value) for value in inputs])]


def convert_litert(program: str, output: str) -> None:
    import litert_torch
    import torch

    loaded = torch.export.load(program).run_decompositions({})  # whose operations change nothing in place
    litert_torch.convert(loaded.module(), loaded.example_inputs[0], strict_export=False).export(output)


def open_litert(path: str, threads: int) -> Callable[[list[np.ndarray]], list[np.ndarray]]:
    from ai_edge_litert.interpreter import Interpreter

    runner: Any = Interpreter(model_path=path, num_threads=threads).get_signature_runner()
    places = sorted(runner.get_input_details())  # args_0, ...
    names = sorted(runner.get_output_details(), key=lambda name: int(name.rpartition("_")[2]))  # output_0, ...

    def run(inputs: list[np.ndarray]) -> list[np.ndarray]:
        found = runner(**dict(zip(places, inputs)))
        return [found[name] for name in names]

    return run


if __name__ == "__main__":
    main()
