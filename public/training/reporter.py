"""What a run tells: lines on the terminal and in train.log, metrics.jsonl, TensorBoard, and a progress bar.  Rank 0 only."""

import functools
import math
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from public.reports.attempts import attempted
from public.runs.run_folder import RunFolder


class Reporter:
    """Silent without a run folder, as on every rank but 0."""

    def __init__(self, run: RunFolder | None, *, device: torch.device) -> None:
        self.run = run
        self.device = device
        self._bar: Any = None
        self._events: Any = None
        self._mark: tuple[float, int] | None = None
        self._step = 0
        self._is_terminal_gone = False  # whether standard output can no longer be written

    def line(self, text: str) -> None:
        """One line for the user, on the terminal and in train.log."""
        if self.run is None:
            return
        self.note(text)
        if self._is_terminal_gone:
            return
        try:
            if self._bar is not None:
                self._bar.write(text, file=sys.stdout)
            else:
                print(text, flush=True)
        except (OSError, ValueError) as error:  # a pipe whose reader has gone, a full disk, a stream that was closed
            self._is_terminal_gone = True
            self.note(f"standard output cannot be written ({error}); from here on all is told in train.log only")

    def lines(self, text: str) -> None:
        """Several lines for the user."""
        for line in text.splitlines():
            self.line(line)

    def note(self, text: str) -> None:
        """One line in train.log only."""
        if self.run is not None:
            self.run.append("train.log", f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}")

    def attempt(self, what: str, report: Callable[..., object], *arguments: Any) -> None:
        """Calls `report`, which prints or draws; where it fails, a line says so, and the run goes on: it needs no report."""
        notes: list[str] = []
        attempted(notes, what, report, *arguments)
        for note in notes:
            self.line(note)

    def start(self, *, step: int, num_steps: int) -> None:
        """Opens the bar (on a terminal) and TensorBoard's events, whose entries from `step` on are replaced."""
        if self.run is None:
            return
        self.attempt("TensorBoard's record", self._open_events, self.run.path / "tensorboard", step + 1)
        if sys.stderr.isatty():
            self._bar = tqdm(total=num_steps, initial=step, unit="step", dynamic_ncols=True)
        self._mark, self._step = (time.perf_counter(), step), step

    def _open_events(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # takes a second to import: only runs need it

        self._events = SummaryWriter(folder, purge_step=step)

    def _tell_events(self, kind: str, scalars: dict, step: int, *, flush: bool = False) -> None:
        """Gives numbers to TensorBoard; after an error it gets no more."""
        if self._events is None:
            return
        events, self._events = self._events, None
        for name, value in scalars.items():
            events.add_scalar(f"{kind}/{name}", value, step)
        if flush:
            events.flush()
        self._events = events

    def skip_time(self) -> None:
        """Leaves what happened since the last call (an evaluation) out of images/s."""
        if self._mark is not None:
            self._mark = (time.perf_counter(), self._step)

    def advance(self, step: int) -> None:
        self._step = step
        if self._bar is not None:
            self._bar.update(step - self._bar.n)

    def train(
        self, *, step: int, num_steps: int, epoch: float, lr: float, losses: dict, norm: float | None, images: int
    ):
        """The losses of one step.  images/s is the mean since the last line; memory is the largest so far."""
        if self.run is None:
            return
        assert self._mark is not None, "start() comes first"
        now, (then, last) = time.perf_counter(), self._mark
        seconds_per_step = (now - then) / max(step - last, 1)
        self._mark = (now, step)
        total, speed, memory = sum(losses.values()), images / seconds_per_step, self._memory_gib()
        scalars = {"loss": total} | losses | {"lr": lr, "images_per_second": speed}
        if norm is not None:
            scalars["gradient_norm"] = norm
        self.run.append_metrics(
            kind="train", step=step, epoch=round(epoch, 6), lr=lr, loss=total, losses=losses,
            gradient_norm=norm if norm is None or math.isfinite(norm) else None,  # fp16 skips such steps
            images_per_second=round(speed, 2), memory_gib=round(memory, 3),
        )  # fmt: skip
        self.attempt("TensorBoard's record", self._tell_events, "train", scalars, step)
        shown = "  ".join(f"{name} {value:.4f}" for name, value in ({"loss": total} | losses).items())
        tail = f"lr {lr:.3g}  {speed:.1f} images/s  {memory:.2f} GiB"
        if self._bar is not None:
            self._bar.set_description_str(f"epoch {int(epoch) + 1}")
            self._bar.set_postfix_str(f"{shown}  {tail}")
            self.note(f"step {step}/{num_steps}  {shown}  {tail}")
        else:
            left = time.strftime("%H:%M:%S", time.gmtime((num_steps - step) * seconds_per_step))
            self.line(f"epoch {int(epoch) + 1}  step {step}/{num_steps}  {shown}  {tail}  left {left}")

    def evaluation(self, *, step: int, epoch: int, metrics: dict, is_ready: bool = True) -> None:
        if self.run is None:
            return
        unready = {} if is_ready else {"ready": False}
        self.run.append_metrics(kind="eval", step=step, epoch=epoch, metrics=metrics, **unready)
        scalars = {name: value for name, value in metrics.items() if isinstance(value, float)}
        self.attempt("TensorBoard's record", functools.partial(self._tell_events, flush=True), "eval", scalars, step)

    def _memory_gib(self) -> float:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**30
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**30 if sys.platform == "darwin" else 2**20)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        if self._events is not None:
            self.attempt("TensorBoard's record", self._events.close)
            self._events = None
