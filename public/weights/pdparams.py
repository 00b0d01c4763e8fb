"""Reading PaddlePaddle's .pdparams files without Paddle, and without executing anything in them.

Such a file is one pickle: a program for a small stack machine, which with Python's own reader may import and call any
function.  Here the machine is ours.  It obeys the instructions that a dict of arrays is written with and has nothing to
call: the few functions that arrays name are labels, and what they stand for is done here, with every number checked
against the bytes that the file has.  Any other name, and any other instruction, ends the reading with its name.

Source of the layouts: files that `paddle.save` (2.6) wrote, protocols 2 to 4, and Python's `pickletools`.
"""

import enum
import hashlib
import math
import mmap
import pickletools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

BOOKKEEPING_KEY = "StructuredToParameterName@@"  # Paddle's table of internal names
SLICES_KEY = "UnpackBigParamInfor@@"  # protocols 2 and 3: large arrays are cut, and this says how


class _Label(enum.Enum):
    """What the names in a file stand for; nothing that could be called."""

    RECONSTRUCT = "an array without content"
    NDARRAY = "the type of arrays"
    DTYPE = "a type of numbers"
    ENCODE = "text to bytes"
    TUPLE = "a tuple"


ALLOWED_NAMES = {
    "numpy.core.multiarray _reconstruct": _Label.RECONSTRUCT,
    "numpy._core.multiarray _reconstruct": _Label.RECONSTRUCT,  # written with numpy 2
    "numpy ndarray": _Label.NDARRAY,
    "numpy dtype": _Label.DTYPE,
    "_codecs encode": _Label.ENCODE,  # protocol 2 keeps bytes as text
    "builtins tuple": _Label.TUPLE,  # Paddle's pair of internal name and array
    "__builtin__ tuple": _Label.TUPLE,
}
NUMBER_TYPES = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
MAX_INSTRUCTIONS = 2_000_000  # an array takes about 25; each instruction may cost a hundred bytes of memory
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
}
CONTAINERS = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}


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
            machine = _Machine(len(data))
            content = machine.run(data)
            arrays, left_out = _state_dict(content, size=len(data))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        return PaddleFile(arrays=arrays, left_out=left_out, sha256=hashlib.sha256(data).hexdigest())


def _check_kind(head: bytes) -> None:
    if head.startswith(b"PK\x03\x04"):
        raise ValueError("a zip archive, as torch.save writes them, not a .pdparams file of Paddle")
    if head.lstrip().startswith(b"<"):
        raise ValueError(f"a web page, not weights: it begins with {head[:20]!r}; download the file itself")


# ---------------------------------------------------------------------------------------------- the machine


class _Array:
    """An array that the file has announced; `value` is None until its content came."""

    __slots__ = ("value",)

    def __init__(self):
        self.value: np.ndarray | None = None


class _NumberType:
    """A type of numbers that the file has announced; `value` is None until its byte order came."""

    __slots__ = ("code", "value")

    def __init__(self, code: str):
        self.code, self.value = code, None


class _Machine:
    """The stack machine of pickle, without the power to import or call.

    Args:
        size: bytes of the file; what is built from its text may not exceed it.
    """

    def __init__(self, size: int):
        self.size, self.encoded = size, 0
        self.stack: list = []
        self.marks: list[int] = []
        self.memo: dict[int, object] = {}

    def run(self, data: mmap.mmap) -> object:
        """The object that the pickle in `data` describes, arrays as `_Array`.

        Raises:
            ValueError: naming the instruction or the name that is refused, or where the file is damaged.
        """
        position = 0
        try:
            for count, (instruction, argument, start) in enumerate(pickletools.genops(data)):
                position = start
                if instruction.name == "STOP":
                    break
                _expect(count < MAX_INSTRUCTIONS, f"more than {MAX_INSTRUCTIONS} instructions")
                self._step(instruction.name, argument)
        except _RefusedError as error:
            raise ValueError(f"{error} (byte {position})") from None
        except (ValueError, IndexError, KeyError, OverflowError) as error:
            raise ValueError(
                f"no whole pickle as Paddle writes them ({len(data)} bytes, begins with {data[:16]!r}): after byte "
                f"{position}: {error}; download it again"
            ) from error
        if data.tell() != len(data):
            raise ValueError(f"{len(data) - data.tell()} bytes follow the end of the pickle; this is no .pdparams file")
        if len(self.stack) != 1:
            raise ValueError(f"a damaged pickle: it leaves {len(self.stack)} objects where one belongs")
        return self.stack[0]

    def _step(self, name: str, argument: object) -> None:
        if name in CONSTANTS:
            self.stack.append(CONSTANTS[name])
        elif name in LITERALS:
            self.stack.append(argument)
        elif name in CONTAINERS:
            self.stack.append(CONTAINERS[name]())
        else:
            self._build_up(name, argument)

    def _build_up(self, name: str, argument: object) -> None:
        stack = self.stack
        match name:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                self.marks.append(len(stack))
            case "TUPLE":
                stack.append(tuple(self._above_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(reversed([stack.pop() for _ in range(int(name[-1]))])))
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _set_items(stack[-1], [key, value])
            case "SETITEMS":
                items = self._above_mark()
                _set_items(stack[-1], items)
            case "APPEND" | "APPENDS":
                items = [stack.pop()] if name == "APPEND" else self._above_mark()
                _expect(isinstance(stack[-1], list), f"{name} to {_kind(stack[-1])}")
                stack[-1].extend(items)
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "GLOBAL":
                stack.append(_label(argument))
            case "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                _expect(isinstance(module, str) and isinstance(attribute, str), "a name that is no text")
                stack.append(_label(f"{module} {attribute}"))
            case "REDUCE":
                arguments, label = stack.pop(), stack.pop()
                stack.append(self._make(label, arguments))
            case "BUILD":
                state = stack.pop()
                _fill(stack[-1], state)
            case _:
                what = f"{name} {str(argument)[:80]}" if argument is not None else name
                raise _RefusedError(f"holds the pickle instruction {what}, which no weights need; refused")

    def _above_mark(self) -> list:
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def _make(self, label: object, arguments: object) -> object:
        """What Python's reader would call a function for."""
        match label, arguments:
            case _Label.RECONSTRUCT, (_Label.NDARRAY, (0,), b"b"):
                return _Array()
            case _Label.DTYPE, (str(code), int(), int()):
                _expect(
                    code in NUMBER_TYPES, f"an array of the type {code[:40]!r}; weights are {', '.join(NUMBER_TYPES)}"
                )
                return _NumberType(code)
            case _Label.ENCODE, (str(text), "latin1"):
                self.encoded += len(text)
                _expect(self.encoded <= self.size, "the same text made into bytes again and again")
                return text.encode("latin1")
            case _Label.TUPLE, (tuple(items),):
                return items
        raise _RefusedError(f"calls {_kind(label)} with {_kind(arguments)} that no array needs; refused")


class _RefusedError(Exception):
    """Something in the file that weights do not need."""


def _expect(condition: bool, what: str) -> None:
    if not condition:
        raise _RefusedError(f"holds {what}; refused")


def _kind(value: object) -> str:
    """A short name of `value` for a message; never its content, which a file may have made endless."""
    if isinstance(value, _Label):
        return value.value
    names = {_Array: "an array", _NumberType: "a type of numbers", int: "an int"}
    return names.get(type(value), f"a {type(value).__name__}")


def _label(name: str) -> _Label:
    if name not in ALLOWED_NAMES:
        raise _RefusedError(
            f"names {'.'.join(name.split(' ', 1))[:120]!r}, which no weights need; nothing of it was imported or executed"
        )
    return ALLOWED_NAMES[name]


def _set_items(target: object, items: list) -> None:
    _expect(isinstance(target, dict) and len(items) % 2 == 0, f"entries of {_kind(target)}")
    for key, value in zip(items[::2], items[1::2]):
        _expect(isinstance(key, str), f"an entry whose name is {_kind(key)}, not text")
        _expect(key not in target, f"the entry {key[:120]!r} twice")
        target[key] = value


def _fill(target: object, state: object) -> None:
    """Completes an announced array or type of numbers, checked against the bytes that are there."""
    match target, state:
        case _NumberType(value=None), (int(), str(order), None, None, None, *_):
            _expect(order in "<|", f"numbers in byte order {order[:10]!r}; Paddle writes '<'")
            target.value = np.dtype(order + target.code)
        case _Array(value=None), (1, tuple(shape), _NumberType(value=np.dtype() as dtype), int(fortran), bytes(data)):
            _expect(
                len(shape) <= 8 and all(type(side) is int and 0 <= side < 2**31 for side in shape),
                "an array whose shape is not up to 8 whole numbers",
            )
            claimed = math.prod(shape) * dtype.itemsize
            _expect(
                claimed == len(data), f"an array of shape {shape}, {claimed} bytes, with {len(data)} bytes of content"
            )
            target.value = np.ndarray(shape, dtype, data, order="F" if fortran else "C")
        case _:
            raise _RefusedError(f"sets {_kind(target)} to {_kind(state)}, which no array needs; refused")


# ---------------------------------------------------------------------------------------------- the state dict


def _state_dict(content: object, *, size: int) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of the file's state dict, and its other entries with the reason why they are no weights."""
    if not isinstance(content, dict):
        raise ValueError(f"holds {_kind(content)}, not a dict of arrays; this is no .pdparams file")
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
            left_out[name] = tables.get(name, f"{_kind(value)}, no array")
    total = sum(array.nbytes for array in arrays.values())
    if total > size:
        raise ValueError(f"its arrays claim {total} bytes, more than the {size} of the file: the same bytes used again")
    return _join(arrays, table.get(SLICES_KEY, {})), left_out


def _arrays(table: dict) -> dict[str, np.ndarray]:
    found = {}
    for name, value in table.items():
        match value:
            case _Array() | (str(), _Array()):
                array = value if isinstance(value, _Array) else value[1]
                if array.value is None:
                    raise ValueError(f"the array {name!r} has no content")
                found[name] = array.value
    return found


def _join(arrays: dict[str, np.ndarray], cuts: object) -> dict[str, np.ndarray]:
    """Puts the arrays together again that Paddle cut because protocols 2 and 3 limit their size."""
    parts_of, ends = {}, {}
    if not isinstance(cuts, dict):
        raise ValueError(f"{SLICES_KEY} is {_kind(cuts)}, not a dict")
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
