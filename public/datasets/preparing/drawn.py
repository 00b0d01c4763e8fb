"""Sets that are drawn from a seed: made whole or not at all, known again by what they were drawn with."""

import json
import os
import shutil
from collections.abc import Callable

from public.files import read_json


def make_drawn_set(out: str, parameters: dict, write: Callable[[str], None], *, what: str, description: str) -> bool:
    """Lets `write` fill a folder beside `out` that becomes `out` when it is done; False if this very set is there.

    Args:
        out: an absolute path.
        parameters: all that the set follows from.
        what: is drawn, in the plural, for messages.
        description: the file in the set that keeps `parameters`.

    Raises:
        ValueError: `out` holds something else, or a set with other parameters.
    """
    if _is_complete(out, parameters, what, description):
        return False
    partial = f"{out}.partial-{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        os.makedirs(partial)
        write(partial)
        with open(os.path.join(partial, description), "w", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(parameters, indent=1) + "\n")
        try:
            os.rename(partial, out)
        except OSError:
            if _is_complete(out, parameters, what, description):  # another process was faster
                return False
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return True


def _is_complete(out: str, parameters: dict, what: str, description: str) -> bool:
    """True if `out` holds this very set, False if it is free.

    Raises:
        ValueError: it holds something else.
    """
    if not os.path.isdir(out) or not os.listdir(out):
        return False
    try:
        found = read_json(os.path.join(out, description))
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(f"{out} is not empty and holds no {description}: draw into another folder") from error
    if found != parameters:
        raise ValueError(f"{out} holds {what} drawn with {found}, not with {parameters}: remove it or draw elsewhere")
    return True
