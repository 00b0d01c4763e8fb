"""Files of weights that other PyTorch projects wrote, by torch.save or as safetensors; nothing in them is executed."""

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from public.checkpoint_files import SAFETENSORS, check_tensors, is_state, read_safetensors, why_unreadable

# Names of torch's and MMDetection's files end with the beginning of the sum.
HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.(?:pth|pt|bin|tar)")
WRAPPERS = ("state_dict", "model")  # entries under which training programs keep the weights
PARALLEL = "module."  # how DataParallel and DistributedDataParallel begin the name of every array


@dataclass
class TorchFile:
    """The content of a file of weights.

    Fields:
        tensors: name -> tensor, in the file's order.
        sha256: of the file.
        left_out: name of every entry that is no weight -> the reason.
        notes: what is to be said about it.
    """

    tensors: dict[str, torch.Tensor]
    sha256: str
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_torch_file(file: Path) -> TorchFile:
    """A state dict that torch.save wrote, alone or under one of WRAPPERS, or a safetensors file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds something else, or the sum in its name is not its own.
    """
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}")
    with file.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    line = f"{file}: sha256 {sha256}"
    if match := HASH_IN_NAME.search(file.name):
        if not sha256.startswith(match[1]):
            raise ValueError(f"{file}: its sha256 is {sha256}, its name says {match[1]}...; download it again")
        line += f", as its name says, {match[1]}"
    result = TorchFile(tensors={}, sha256=sha256, notes=[line])
    try:
        content = _content(file)
    except Exception as error:
        raise ValueError(f"{file} is not a file of weights that can be read safely: {why_unreadable(error)}") from error
    check_tensors(file, content)
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            result.left_out |= {name: "beside the weights" for name in content if name != wrapper}
            content = content[wrapper]
            break
    if not is_state(content) or not content:
        raise ValueError(f"{file} holds no state dict, names with tensors")
    if all(name.startswith(PARALLEL) for name in content):
        content = {name.removeprefix(PARALLEL): value for name, value in content.items()}
        result.notes.append(f"every name began with {PARALLEL!r}, which parallel training adds; it was taken off")
    result.tensors = dict(content)
    return result


def _content(file: Path) -> Any:
    """What torch.save, or safetensors, has written into a file."""
    if file.suffix == SAFETENSORS:
        return read_safetensors(file)[0]
    return torch.load(file, map_location="cpu", weights_only=True)
