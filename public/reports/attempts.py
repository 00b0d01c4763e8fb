"""What is only drawn or told must not end the work that it tells of: a report that fails says so in one line."""

from collections.abc import Callable
from typing import Any


def attempted(notes: list[str], what: str, report: Callable[..., Any], *arguments: Any) -> Any:
    """`report(*arguments)`; where it fails, a line in `notes` that says so, and None.

    Args:
        what: is made, to begin the line with.
    """
    try:
        return report(*arguments)
    except Exception as error:
        reason = " ".join(str(error).split())[:500]
        notes.append(f"{what} failed, all else goes on without it: {type(error).__name__}: {reason}")
        return None
