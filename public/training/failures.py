"""How a run that fails ends: one line that says why, and how to go on; the traceback lies in the run's folder.

Expected are the failures of the world (a disk, a picture, a GPU's memory, a killed loader worker) and of the settings.  Any
other error is a mistake in the code, and shows its traceback as ever.
"""

import shlex
import sys
import traceback
from pathlib import Path

from public.files import write_text
from public.loading.workers import DeadWorkerError
from public.parallel import collectives
from public.training.determinism import NondeterministicError
from public.training.guards import NonFiniteLossError, OutOfMemoryError

EXPECTED = (OSError, ValueError, DeadWorkerError, NonFiniteLossError, OutOfMemoryError, NondeterministicError)


def cause(error: Exception) -> str | None:
    """What went wrong, in one line; None where `error` is not to be expected.

    An error of a loader worker arrives with the worker's traceback in its text, of which only the message is taken.
    """
    text = str(error).strip()
    if not isinstance(error, EXPECTED):
        return None
    if text.startswith("Caught ") and "DataLoader worker process" in text:
        text = text.rsplit(f"{type(error).__name__}: ", 1)[-1]
    return " ".join(text.splitlines())


def keep_traceback(error: Exception, folder: Path) -> str:
    """Writes the traceback of `error` into the run's folder; the file's name, or why there is none."""
    path = folder / f"error_rank{collectives.rank()}.txt"
    try:
        write_text(path, "".join(traceback.format_exception(error)))
    except OSError as failure:
        return f"the traceback could not be written: {failure}"
    return f"traceback in {path}"


def how_to_go_on(saved: str | None, folder: Path, epochs: int) -> str:
    """What of a stopped run is kept, and the command that goes on with it.

    Args:
        saved: the state of its checkpoint, in words; None: it has none.
        epochs: of the run, which --extend_epochs may have raised.
    """
    if saved is None:
        return f"nothing of {folder} was saved yet: the same command starts anew"
    words = _without(("--resume", "--extend_epochs", "--epochs"), sys.orig_argv)
    if words != _without(("--resume",), sys.orig_argv):
        words += ["--epochs", str(epochs)]
    command = shlex.join([*words, "--resume", folder.name])
    launcher = "by the same launcher: " if collectives.is_distributed() else ""
    return f"saved: {saved} of {folder}. To resume: {launcher}{command}"


def _without(flags: tuple[str, ...], words: list[str]) -> list[str]:
    """`words` without these flags and their values, in both ways to write them."""
    kept, is_value = [], False
    for word in words:
        flag, equals, _ = word.replace("-", "_").replace("__", "--", 1).partition("=")
        if not is_value and flag not in flags:
            kept.append(word)
        is_value = not is_value and flag in flags and not equals
    return kept
