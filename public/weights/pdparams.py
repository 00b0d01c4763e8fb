"""Reading PaddlePaddle's .pdparams files without Paddle, and without executing anything in them.

Such a file is one pickle, which `public.safe_pickle` reads.

Source of the layouts: files that `paddle.save` (2.6) wrote, protocols 2 to 4.
"""

import hashlib
import math
import mmap
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from public.safe_pickle import NUMBER_TYPES as NUMBER_TYPES
from public.safe_pickle import PickleMachine, SavedArray, kind_of
from public.text import shorten, shown

BOOKKEEPING_KEY = "StructuredToParameterName@@"  # Paddle's table of internal names
MAX_INSTRUCTIONS = 2_000_000  # an array takes about 25
SLICES_KEY = "UnpackBigParamInfor@@"  # protocols 2 and 3: large arrays are cut, and this says how


@dataclass(frozen=True, kw_only=True)
class PaddleFile:
    """The content of a .pdparams file.

    Fields:
        arrays: name -> array, read-only, in the file's order; cut arrays are joined.
        left_out: name of every entry that is no weight -> the reason.
        sha256: of the file.
    """

    arrays: dict[str, np.ndarray]
    left_out: dict[str, str]
    sha256: str


def read_pdparams(path: str | Path) -> PaddleFile:
    """Reads a state dict that `paddle.save` wrote; nothing in the file is executed.

    A file {"model": state dict, ...} gives the state dict within; a pair (internal name, array) gives the array.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no such pickle, is cut short, names something else than arrays, or claims more than it
            holds; naming the file and the reason.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty, 0 bytes; download it again")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            _check_kind(data[:64])
            content = PickleMachine(len(data), purpose="weights", max_instructions=MAX_INSTRUCTIONS).run(data)
            arrays, left_out = _state_dict(content, size=len(data))
        except ValueError as error:
            raise ValueError(f"{path}: {shorten(shown(str(error)), 1000)}") from error
        return PaddleFile(arrays=arrays, left_out=left_out, sha256=hashlib.sha256(data).hexdigest())


def _check_kind(head: bytes) -> None:
    if head.startswith(b"PK\x03\x04"):
        raise ValueError("a zip archive, as torch.save writes them, not a .pdparams file of Paddle")
    if head.lstrip().startswith(b"<"):
        raise ValueError(f"a web page, not weights: it begins with {head[:20]!r}; download the file itself")


# ---------------------------------------------------------------------------------------------- the state dict


def _state_dict(content: object, *, size: int) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of the file's state dict, and its other entries with the reason why they are no weights."""
    if not isinstance(content, dict):
        raise ValueError(f"holds {kind_of(content)}, not a dict of arrays; this is no .pdparams file")
    table, left_out = content, {}
    if not _arrays(content):
        inner = [name for name, value in content.items() if isinstance(value, dict) and _arrays(value)]
        if len(inner) != 1:
            found = f"several dicts of them, {inner[:5]}" if inner else f"the entries {list(content)[:5]}"
            raise ValueError(f"holds no state dict, names with arrays, but {found}")
        left_out = {name: "beside the weights" for name in content if name != inner[0]}
        table = content[inner[0]]
    arrays = _arrays(table)
    for name, value in table.items():
        if name not in arrays:
            tables = {
                BOOKKEEPING_KEY: "Paddle's table of internal names",
                SLICES_KEY: "Paddle's list of cut arrays, joined",
            }
            left_out[name] = tables.get(name, f"{kind_of(value)}, no array")
    total = sum(array.nbytes for array in arrays.values())
    if total > size:
        raise ValueError(f"its arrays claim {total} bytes, more than the {size} of the file: the same bytes used again")
    return _join(arrays, table.get(SLICES_KEY, {})), left_out


def _arrays(table: dict) -> dict[str, np.ndarray]:
    found = {}
    for name, value in table.items():
        match value:
            case SavedArray() | (str(), SavedArray()):
                array = value if isinstance(value, SavedArray) else value[1]
                if array.value is None:
                    raise ValueError(f"the array {name!r} has no content")
                found[name] = array.value
    return found


def _join(arrays: dict[str, np.ndarray], cuts: object) -> dict[str, np.ndarray]:
    """Puts the arrays together again that Paddle cut because protocols 2 and 3 limit their size."""
    parts_of, ends = {}, {}
    if not isinstance(cuts, dict):
        raise ValueError(f"{SLICES_KEY} is {kind_of(cuts)}, not a dict")
    for name, cut in cuts.items():
        match cut:
            case {"OriginShape": tuple() | list() as shape, "slices": list() | tuple() as parts} if parts:
                pass
            case _:
                raise ValueError(f"{SLICES_KEY} does not say how {name!r} was cut")
        missing = [part for part in parts if not isinstance(part, str) or part not in arrays or part in parts_of]
        if missing or name in arrays:
            raise ValueError(f"the cut array {name!r} lacks its parts {missing[:5]}, or is there as a whole too")
        parts_of.update(dict.fromkeys(parts, name))
        if not all(type(side) is int and side >= 0 for side in shape):
            raise ValueError(f"the shape of the cut array {name!r} is not made of whole numbers")
        ends[name] = (tuple(shape), list(parts))
    joined = {}
    for key, array in arrays.items():
        name = parts_of.get(key)
        if name is None:
            joined[key] = array
        elif name not in joined:
            shape, parts = ends[name]
            whole = np.concatenate([arrays[part].ravel() for part in parts])
            if whole.size != math.prod(shape):
                raise ValueError(f"the parts of {name!r} have {whole.size} numbers, its shape {shape} another count")
            joined[name] = whole.reshape(shape)
    return joined
