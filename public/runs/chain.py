"""A chain of digests that two runs can be compared by, step by step.

Each step adds the bits of its learning rate and of its loss terms to a sha256 chain: two chains are equal up to the first
step whose losses differed.  `digests.jsonl` of a run holds

    {"step": 5, "batch": ..., "chain": ...}                                after each of the first FIRST_STEPS steps
    {"step": 100, "batch": ..., "chain": ..., "weights": ..., "ema": ...}  every `digest_interval` steps, and after the last

where `batch` is `public.checkpoint_files.digest` of the images that rank 0 got in this step, which may differ before any
loss does (a head that begins at zero sees no picture), and `weights` and `ema` those of the raw weights and their average.
"""

import hashlib
import json
from pathlib import Path

FILE = "digests.jsonl"
FIRST_STEPS = 10


def extended(chain: str, step: int, lr: float, losses: dict[str, float]) -> str:
    """The chain (64 hex digits, "" before the first step) after a step with these numbers, taken by their bits."""
    numbers = [lr, *losses.values()]
    text = json.dumps([chain, step, list(losses), [float(number).hex() for number in numbers]])
    return hashlib.sha256(text.encode()).hexdigest()


def read_digests(run: Path) -> list[dict]:
    """The lines of a run's digests.jsonl, by rising step.

    Raises:
        FileNotFoundError: the run has none.
        ValueError: a line is damaged, naming it; an unfinished last line is left out.
    """
    path = run / FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not there: the run ended before its first step, or is older than its record"
        )
    lines = path.read_text(encoding="utf-8").splitlines()
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(json.loads(line))
        except ValueError as error:
            if number == len(lines):
                break
            raise ValueError(f"{path}, line {number}, is damaged: {error}") from error
    return found


def first_difference(recorded: list[dict], again: list[dict]) -> tuple[int, int, list[str]] | None:
    """Where `again` leaves `recorded`: (last equal step, first differing step, names of the entries that differ).

    Compared are the steps that both hold, up to the end of the shorter; None where all of them are equal.
    """
    others = {line["step"]: line for line in again}
    last_equal = 0
    for line in recorded:
        other = others.get(line["step"])
        if other is None:
            continue
        names = [name for name in ("batch", "chain", "weights", "ema") if name in line and name in other]
        different = [name for name in names if line[name] != other[name]]
        if different:
            return last_equal, line["step"], different
        last_equal = line["step"]
    return None
