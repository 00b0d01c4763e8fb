"""What a .pt2 file may hold to be opened: numbers and the operations that networks are made of, nothing that can be executed.

torch opens such a file with Python's pickle where the file asks for it, evaluates its expressions of sizes as Python,
imports the modules that its containers name, and calls whatever function of torch a node names (torch 2.15:
torch/_export/serde/serialize.py, torch/export/pt2_archive, torch/utils/_pytree.py).  So the file is looked at first, by what
it may hold and not by what it may not.
"""

import io
import json
import pickle
import re
import zipfile
from collections.abc import Iterator
from typing import Any

import torch

NAMES = re.compile(  # of the parts of the archive; the others are compiled code, pickles, or an older layout
    r"\.data/(serialization_id|version)|archive_format|archive_version|byteorder|extra/\w+|models/model\.json"
    r"|data/(constants/model_constants_config\.json|constants/tensor_\d+)"
    r"|data/(weights/model_weights_config\.json|weights/weight_\d+)|data/sample_inputs/model\.pt"
)
TARGETS = re.compile(  # what a node calls
    r"torch\.ops\.(aten|torchvision|encore)\.\w+\.\w+|torch\.ops\.higher_order\.wrap_with_autocast"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|neg|pow|eq|ne|lt|le|gt|ge|getitem)"
)
WITH_FILES = re.compile(r"torch\.ops\.aten\.(from_file|save)\b.*")
CONTAINERS = ("builtins.tuple", "builtins.list", "builtins.dict", None)  # of arguments; None: no container
KEYS = re.compile(r'null|\[("\w+"(, )?)*\]')  # of a dict; other containers name modules to import
EXPRESSIONS = re.compile(r"Symbol\('\w+'(, \w+=True)*\)|\w+")  # of sizes: a symbol, or a number


def check_program(content: bytes) -> None:
    """Looks through the bytes of a .pt2 file without executing anything in them.

    Raises:
        ValueError: it holds what could be executed, or is no such file; says what.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = _names(archive)
            for name, whole in names.items():
                if name.endswith(".json"):
                    _check_text(name, json.loads(archive.read(whole)))
            if "data/sample_inputs/model.pt" in names:
                inputs = io.BytesIO(archive.read(names["data/sample_inputs/model.pt"]))
                torch.load(inputs, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError("its sample inputs are more than tensors, which could execute code") from error
    except (zipfile.BadZipFile, json.JSONDecodeError, KeyError, RuntimeError, RecursionError) as error:
        raise ValueError(f"it is damaged: {' '.join(str(error).split())[:200]}") from error


def _names(archive: zipfile.ZipFile) -> dict[str, str]:
    """The archive's names without their common folder, each with the whole name."""
    names: dict[str, str] = {}
    roots = {whole.partition("/")[0] for whole in archive.namelist()}
    for whole in archive.namelist():
        name = whole.partition("/")[2]
        if not NAMES.fullmatch(name) or name in names or len(roots) != 1:
            raise ValueError(f"it holds {whole!r}, which is not of a program of operations and numbers alone")
        names[name] = whole
    return names


def _check_text(name: str, value: Any) -> None:
    for key, found in _entries(value):
        if key == "use_pickle" and found is not False:
            raise ValueError(f"{name} has a tensor as a pickle, which could execute code")
        if key == "expr_str" and not (isinstance(found, str) and EXPRESSIONS.fullmatch(found)):
            raise ValueError(f"{name} has the size {str(found)[:80]!r}, which is not a symbol and could execute code")
        if key == "target" and isinstance(found, str) and (not TARGETS.fullmatch(found) or WITH_FILES.match(found)):
            raise ValueError(f"{name} calls {found[:80]!r}, which is no operation of a network")
        if key in ("in_spec", "out_spec") and isinstance(found, str) and found:
            for part, held in _entries(json.loads(found)):
                is_plain = held in CONTAINERS if part == "type" else held is None or KEYS.fullmatch(str(held))
                if part in ("type", "context") and not is_plain:
                    raise ValueError(f"{name} has arguments of {str(held)[:80]!r}, which is no plain container")


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, at any depth."""
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield from part.items()
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part
