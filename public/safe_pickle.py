"""Reading pickles that hold arrays, lists, text and numbers, without executing anything in them.

A pickle is a program for a small stack machine, which with Python's own reader may import and call any function.  Here
the machine is ours.  It obeys the instructions that plain containers and arrays are written with and has nothing to
call: the few functions that arrays name are labels, and what they stand for is done here, with every number checked
against the bytes that the file has.  Any other name, and any other instruction, ends the reading with its name.

Files of Paddle (`public.weights.pdparams`) and CIFAR's archives (`public.datasets.cifar`) are read with it.

Source of the layouts: files that `paddle.save` (2.6) wrote, protocols 2 to 4, CIFAR's, which Python 2 wrote with protocol
2, and Python's `pickletools`.
"""

import enum
import math
import mmap
import pickletools
from typing import Any

import numpy as np

from public.text import shorten, shown


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
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
    *("SHORT_BINSTRING", "BINSTRING"),  # of Python 2: bytes, which come as text, a letter a byte (latin-1)
}
CONTAINERS = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}


class SavedArray:
    """An array that the file has announced; `value` is None until its content came."""

    __slots__ = ("value",)

    def __init__(self):
        self.value: np.ndarray | None = None


class _NumberType:
    """A type of numbers that the file has announced; `value` is None until its byte order came."""

    __slots__ = ("code", "value")

    def __init__(self, code: str):
        self.code = code
        self.value: Any = None


class PickleMachine:
    """The stack machine of pickle, without the power to import or call.

    Args:
        size: bytes of the file; what is built from its text may not exceed it.
        purpose: what the file holds, for messages: "which no <purpose> need".
        max_instructions: each may cost a hundred bytes of memory.
    """

    def __init__(self, size: int, *, purpose: str, max_instructions: int):
        self.size, self.encoded = size, 0
        self.purpose = purpose
        self.max_instructions = max_instructions
        self.stack: list = []
        self.marks: list[int] = []
        self.memo: dict[int, object] = {}

    def run(self, data: mmap.mmap) -> object:
        """The object that the pickle in `data` describes, arrays as `SavedArray`.

        Raises:
            ValueError: naming the instruction or the name that is refused, or where the file is damaged.
        """
        position = 0
        try:
            for count, (instruction, argument, start) in enumerate(pickletools.genops(data)):  # type: ignore[arg-type]  # an mmap reads as a file does
                position = start or 0
                if instruction.name == "STOP":
                    break
                _expect(count < self.max_instructions, f"more than {self.max_instructions} instructions")
                self._step(instruction.name, argument)
        except _RefusedError as error:
            raise ValueError(f"{shorten(shown(str(error)), 300)} (byte {position})") from error
        except (ValueError, IndexError, KeyError, OverflowError) as error:
            reason = f"it refers to entry {error}, which it has not" if isinstance(error, KeyError) else error
            raise ValueError(
                f"not a whole pickle of {self.purpose} ({len(data)} bytes, begins with {data[:16]!r}): after byte "
                f"{position}: {reason}; download it again"
            ) from error
        if data.tell() != len(data):
            raise ValueError(f"{len(data) - data.tell()} bytes follow the end of the pickle")
        if len(self.stack) != 1:
            raise ValueError(f"a damaged pickle: it leaves {len(self.stack)} objects where one belongs")
        return self.stack[0]

    def _step(self, name: str, argument: Any) -> None:
        if name in CONSTANTS:
            self.stack.append(CONSTANTS[name])
        elif name in LITERALS:
            self.stack.append(argument)
        elif name in CONTAINERS:
            self.stack.append(CONTAINERS[name]())
        else:
            self._build_up(name, argument)

    def _build_up(self, name: str, argument: Any) -> None:
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
                _expect(isinstance(stack[-1], list), f"{name} to {kind_of(stack[-1])}")
                stack[-1].extend(items)
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "GLOBAL":
                stack.append(_label(argument, self.purpose))
            case "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                _expect(isinstance(module, str) and isinstance(attribute, str), "a name that is no text")
                stack.append(_label(f"{module} {attribute}", self.purpose))
            case "REDUCE":
                arguments, label = stack.pop(), stack.pop()
                stack.append(self._make(label, arguments))
            case "BUILD":
                state = stack.pop()
                _fill(stack[-1], state)
            case _:
                what = f"{name} {str(argument)[:80]}" if argument is not None else name
                raise _RefusedError(f"holds the pickle instruction {what}, which no {self.purpose} need; refused")

    def _above_mark(self) -> list:
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def _make(self, label: object, arguments: object) -> object:
        """What Python's reader would call a function for."""
        match label, arguments:
            case _Label.RECONSTRUCT, (_Label.NDARRAY, (0,), b"b" | "b"):
                return SavedArray()
            case _Label.DTYPE, (str(code), int(), int()):
                _expect(
                    code in NUMBER_TYPES,
                    f"an array of the type {code[:40]!r}; {self.purpose} are {', '.join(NUMBER_TYPES)}",
                )
                return _NumberType(code)
            case _Label.ENCODE, (str(text), "latin1"):
                self.encoded += len(text)
                _expect(self.encoded <= self.size, "the same text made into bytes again and again")
                return text.encode("latin1")
            case _Label.TUPLE, (tuple(items),):
                return items
        raise _RefusedError(f"calls {kind_of(label)} with {kind_of(arguments)} that no array needs; refused")


class _RefusedError(Exception):
    """Something in the file that is not needed."""


def _expect(condition: bool, what: str) -> None:
    if not condition:
        raise _RefusedError(f"holds {what}; refused")


def kind_of(value: object) -> str:
    """A short name of `value` for a message; never its content, which a file may have made endless."""
    if isinstance(value, _Label):
        return value.value
    names = {SavedArray: "an array", _NumberType: "a type of numbers", int: "an int"}
    return names.get(type(value), f"a {type(value).__name__}")


def _label(name: str, purpose: str) -> _Label:
    if name not in ALLOWED_NAMES:
        raise _RefusedError(
            f"names {'.'.join(name.split(' ', 1))[:120]!r}, which no {purpose} need; nothing of it was imported or executed"
        )
    return ALLOWED_NAMES[name]


def _set_items(target: Any, items: list) -> None:
    _expect(isinstance(target, dict) and len(items) % 2 == 0, f"entries of {kind_of(target)}")
    for key, value in zip(items[::2], items[1::2]):
        _expect(isinstance(key, str), f"an entry whose name is {kind_of(key)}, not text")
        _expect(key not in target, f"the entry {key[:120]!r} twice")
        target[key] = value


def _fill(target: Any, state: Any) -> None:
    """Completes an announced array or type of numbers, checked against the bytes that are there."""
    match target, state:
        case _NumberType(value=None), (int(), str(order), None, None, None, *_):
            _expect(order in "<|", f"numbers in byte order {order[:10]!r}, not '<'")
            target.value = np.dtype(order + target.code)
        case SavedArray(value=None), (
            1,
            tuple(shape),
            _NumberType(value=np.dtype() as dtype),
            int(fortran),
            bytes() | str() as data,
        ):
            data = data.encode("latin1") if isinstance(data, str) else data
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
            raise _RefusedError(f"sets {kind_of(target)} to {kind_of(state)}, which no array needs; refused")
