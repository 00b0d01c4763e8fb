"""SIGTERM and Ctrl-C: the run ends after a step that all its processes agree on, with a checkpoint of that step.

A scheduler sends SIGTERM, a user presses Ctrl-C; perhaps only one of the processes hears of it.  So the signal is only
noted, and after each step the processes ask each other.  While weights are evaluated there is nothing to save (the
checkpoint before the evaluation says that one is due), and the run ends at once.
"""

import signal
import threading
from contextlib import contextmanager

import torch

from public.parallel import collectives

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class InterruptedRun(Exception):  # noqa: N818 - nothing went wrong
    """The run was asked to end; `number` is the signal that asked."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Interruption:
    """Notes the signals that ask the run to end.

    Attributes:
        number: the signal that came; 0: none.
    """

    def __init__(self) -> None:
        self.number = 0
        self._at_once = False

    @contextmanager
    def listening(self):
        """Within it the signals are noted instead of ending the process.  Only a main thread can listen."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._note) for number in SIGNALS}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def ends_at_once(self):
        """Within it a signal, or one that came before, ends a single process by InterruptedRun.

        Several processes note it still: where one of them left, the others would wait for it.
        """
        self._at_once = not collectives.is_distributed()
        try:
            if self._at_once and self.number:
                raise InterruptedRun(self.number)
            yield
        finally:
            self._at_once = False

    def agreed(self, device: torch.device) -> int:
        """The signal that any process has noted, the same on all of them; 0: none."""
        return collectives.max_over_ranks(self.number, device)

    def _note(self, number: int, frame) -> None:
        is_repeated = self.number == number == signal.SIGINT  # pressed again: the user does not want to wait
        self.number = number
        if self._at_once or is_repeated:
            raise InterruptedRun(number)
