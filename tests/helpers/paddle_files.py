"""Files as Paddle writes them, made without Paddle: for the tests of reading and converting them."""

import pickle
import re
from pathlib import Path

import numpy as np
import torch

from public.families import published

TABLE = "StructuredToParameterName@@"


def write_pdparams(path: Path, arrays: dict, protocol: int = 4) -> Path:
    """`arrays` with Paddle's table of internal names, as one pickle."""
    table = {name: f"internal_{number}" for number, name in enumerate(arrays)}
    path.write_bytes(pickle.dumps({**arrays, TABLE: table}, protocol=protocol))
    return path


def paddle_name(name: str) -> str:
    """The name in PaddleDetection's PPYOLOE of what we call `name`."""
    for ours, theirs in (("running_mean", "_mean"), ("running_var", "_variance")):
        name = name.replace(ours, theirs)
    if name.startswith("head."):
        return f"yolo_{name}"
    if name.startswith("neck."):
        name = re.sub(r"(stages\.\d+)\.", r"\1.0.", name).replace(".blocks.", ".convs.")
    return name


def paddle_arrays(model_name: str, num_classes: int, **changes) -> dict[str, np.ndarray]:
    """Random arrays, no two alike, under PaddleDetection's names, for the published network `model_name`."""
    generator = np.random.default_rng(5)
    with torch.device("meta"):
        settings = published(model_name)
        model = type(settings)(**{**vars(settings), "num_classes": num_classes, **changes}).build_model()
    arrays = {
        paddle_name(name): generator.uniform(0.5, 1.5, tuple(value.shape)).astype(np.float32)
        for name, value in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    arrays["yolo_head.proj_conv.weight"] = np.arange(17, dtype=np.float32).reshape(1, 17, 1, 1)
    return arrays
