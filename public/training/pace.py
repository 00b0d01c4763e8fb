"""Whether the machine is busy with something else: asked over the first steps of a training on a CPU."""

import time
from contextlib import contextmanager

FIRST, LAST = 3, 12  # the steps, from 1, that are measured; those before load libraries and fill caches
BUSY_SHARE = 0.75  # of a step's time; below it others have the core for more than a quarter of the time


class Pace:
    """Measures steps: the time that passes, and the part of it in which this thread computes.

    The waiting for batches is no part of a step.  Steps of several processes wait for each other, those of a GPU for the
    GPU, so neither `is_measured`.
    """

    def __init__(self, is_measured: bool = True) -> None:
        self.is_measured = is_measured
        self._steps = 0
        self._passed = self._computed = 0.0

    @contextmanager
    def of_step(self):
        """Around one step."""
        self._steps += 1
        if not (self.is_measured and FIRST <= self._steps <= LAST):
            yield
            return
        passed, computed = time.perf_counter(), time.thread_time()
        yield
        self._passed += time.perf_counter() - passed
        self._computed += time.thread_time() - computed

    def line(self) -> str | None:
        """After step LAST: what to say, where the machine is busy."""
        if not self.is_measured or self._steps != LAST or self._computed > BUSY_SHARE * self._passed:
            return None
        count = LAST - FIRST + 1
        return (
            f"this machine is busy: a step takes {self._passed / count:.2f} s, and only {self._computed / count:.2f} s of it "
            f"are this training's; with nothing else running it would end in {self._computed / self._passed:.0%} of the time"
        )
