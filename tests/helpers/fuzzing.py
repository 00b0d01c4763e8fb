"""Damage at random, structured and raw, and the judgement on what a reader makes of it.

What is damaged is a value (JSON, settings, what a pickle or a checkpoint holds) or the bytes of a file.  hypothesis draws
the damage; the same number of cases is the same cases.
"""

import contextlib
import copy
import json
import resource
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

SECONDS = 20  # after which a case hangs
GIGABYTE = 2**30
LONGEST = 4000  # characters of a message: one line
DEEP = "nested 100,000 times"  # stands in a value for what only its text can hold
NUMBERS = (0, -1, 1.5, True, 2**31, 2**63, -(2**63), 2**64, 10**400, -(10**400), 1e308, float("inf"), float("nan"))
TEXTS = (
    "",
    "a",
    "\0",
    "\ud800",
    "\udce9",
    "../..",
    "/",
    "1" * 500,
    "$5_$10",
    "猫",
    "a\nb",
    "name" * 2000,
    "1e300",
    "9" * 30,
)
OTHERS = (None, [], {}, [[]], [None], {"a": None}, {"": {}}, ["a", 1], DEEP)
TENSORS = (
    torch.zeros(0), torch.zeros(2, 3), torch.tensor(float("nan")), torch.zeros(3, dtype=torch.int64), torch.ones(1, 1, 1, 1),
    torch.tensor(True), torch.zeros(2, dtype=torch.complex64), torch.zeros(1).expand(10**9), torch.zeros(1, device="meta"),
)  # fmt: skip


def fuzz(num_cases: int) -> settings:
    """hypothesis's settings: so many cases, always the same, none of them remembered, timed by `judge` alone."""
    return settings(
        max_examples=num_cases,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )


# ---------------------------------------------------------------------------------------------------- damage


class Damaged(NamedTuple):
    """What was made of a value or of a file, and how: only that is printed."""

    content: Any
    steps: list[str]

    def __repr__(self) -> str:
        return f"<{'; '.join(self.steps)}>"


@st.composite
def damaged(draw, value, *, tensors: bool = False, **_):
    """A copy of `value`, made of dicts, lists, tuples and plain values, with one to three entries changed."""
    nasty = st.sampled_from((*NUMBERS, *TEXTS, *OTHERS, *(TENSORS if tensors else ())))
    root, steps = [_copied(value)], []
    for _ in range(draw(st.integers(1, 3))):
        container, key = root, 0
        while _size(container[key]) and draw(st.integers(0, 3)):
            container = container[key]
            key = draw(st.sampled_from(list(container) if isinstance(container, dict) else range(len(container))))
        how = draw(st.sampled_from(("replace", "replace", "replace", "lose", "double", "wrap", "rename")))
        steps.append(f"{how} {str(key)[:60]!r}")
        if how == "replace" or container is root:
            new = draw(nasty)
            container[key] = new if torch.is_tensor(new) else copy.deepcopy(new)
            steps[-1] += f" by {str(new)[:60]!r}"
        elif how == "wrap":
            container[key] = draw(st.sampled_from(([container[key]], {"a": container[key]}, [container[key]] * 3)))
        elif how == "lose":
            del container[key]
        elif isinstance(container, list):
            container.insert(draw(st.integers(0, len(container))), container[key])
        elif how == "double":
            container[draw(st.sampled_from(list(container)))] = container[key]
        else:
            container[draw(st.sampled_from(TEXTS))] = container.pop(key)
    return Damaged(root[0], steps)


def _copied(value):
    """`value` with lists in place of tuples, which can be changed; tensors are shared, and not changed."""
    if isinstance(value, dict):
        return {name: _copied(item) for name, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list | tuple) else value


def _size(value) -> int:
    return len(value) if isinstance(value, dict | list) else 0


@st.composite
def damaged_bytes(draw, data: bytes):
    """`data` cut short, overwritten, with a part taken out, doubled or put in; once or twice."""
    steps = []
    for _ in range(draw(st.integers(1, 2))):
        start = draw(st.integers(0, len(data)))
        stop = min(start + draw(st.sampled_from((1, 2, 8, 100, 5000))), len(data))
        noise = draw(st.binary(max_size=16))
        how = draw(st.sampled_from(("cut", "overwrite", "lose", "double", "insert", "empty", "prepend")))
        steps.append(f"{how} {noise!r} {start}:{stop}")
        data = {
            "cut": data[:start],
            "overwrite": data[:start] + noise + data[start + len(noise) :],
            "lose": data[:start] + data[stop:],
            "double": data[:stop] + data[start:],
            "insert": data[:start] + noise + data[start:],
            "empty": b"" if start % 7 == 0 else data[:1],
            "prepend": noise + data,
        }[how]
    return Damaged(data, steps)


def as_json(value) -> str:
    """The text of a damaged value; DEEP becomes lists in lists."""
    return json.dumps(value).replace(json.dumps(DEEP), "[" * 100_000 + "]" * 100_000)


# ---------------------------------------------------------------------------------------------------- judgement

_EXECUTED: list[str] = []
_EVENTS = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "subprocess.Popen",
    "socket.connect",
    "pickle.find_class",
    "os.remove",
)
_watching = False


def _note(event: str, arguments: tuple) -> None:
    if _watching and event in _EVENTS:
        _EXECUTED.append(f"{event} {arguments}")


sys.addaudithook(_note)  # stays as long as the process: Python takes none away


def _hang(*_):
    raise AssertionError(f"it does not end within {SECONDS} s of CPU time, or {10 * SECONDS} s")


@contextlib.contextmanager
def watched():
    """Within it, what takes over SECONDS or over a gigabyte fails, and so does what starts a program or calls by name."""
    global _watching
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limits = resource.getrlimit(resource.RLIMIT_AS)
    before = {number: signal.signal(number, _hang) for number in (signal.SIGALRM, signal.SIGPROF)}
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + GIGABYTE, limits[1]))
    signal.setitimer(signal.ITIMER_PROF, SECONDS)  # of CPU time: the machine may be busy
    signal.alarm(10 * SECONDS)  # for what waits without end
    _EXECUTED.clear()
    _watching = True
    try:
        yield
    finally:
        _watching = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        for number, handler in before.items():
            signal.signal(number, handler)
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert not _EXECUTED, _EXECUTED


def judge(read: Callable[[], object], *names: str | Path) -> bool:
    """Whether `read` gave a result; else it must have ended in one line that holds one of `names`, the files'.

    Raises:
        AssertionError: it ended otherwise.
    """
    with watched(), warnings.catch_warnings():
        warnings.filterwarnings("error", message="Casting complex values")
        try:
            read()
        except (OSError, ValueError) as error:
            failure: Exception | None = error
        else:
            return True
    line = str(failure)
    assert len(line.splitlines()) == 1, f"not one line: {line!r}"
    assert len(line) <= LONGEST, f"{len(line)} characters: {line[:200]!r}"
    assert any(str(name) in line for name in names), f"it names none of {names}: {line!r}"
    return False
