"""The training loop of every experiment: one CPU, one GPU or several processes, detection or classification.

It knows no task: it is handed one that fulfils `public.protocols.Task`.
"""

import contextlib
import json
import math
import time
from typing import cast

import torch

from public import random_streams
from public.checkpoint_files import digest, save_atomic
from public.config import TrainingConfig
from public.parallel import collectives
from public.parallel.reduce import GradientReducer
from public.parts import state_of, train, used_part
from public.precision import autocast
from public.protocols import Batch, Progress, Task
from public.reports.curves import Redrawing, draw_curves
from public.runs import chain
from public.runs.checkpoint import save_latest
from public.runs.run_folder import RunFolder
from public.training import determinism, guards
from public.training.freezing import batchnorm_layers
from public.training.interruption import InterruptedRun, Interruption
from public.training.pace import Pace
from public.training.reporter import Reporter
from public.training.state import TrainingState


class Trainer:
    """Runs `state` from its step to the end of the run."""

    def __init__(
        self,
        *,
        config: TrainingConfig,
        task: Task,
        state: TrainingState,
        device: torch.device,
        run: RunFolder,
        reporter: Reporter,
        max_steps: int | None,
        interruption: Interruption,
        watch=None,
    ) -> None:
        self.interruption, self.watch = interruption, watch
        self.config, self.task, self.state, self.device = config, task, state, device
        self.run, self.reporter = run, reporter
        self.is_main = collectives.rank() == 0
        self.steps_per_epoch = task.num_train_images // config.batch_size
        self.num_steps = min(config.epochs * self.steps_per_epoch, max_steps or config.epochs * self.steps_per_epoch)
        self.reducer = GradientReducer(state.model)
        self.network = torch.compile(state.model) if config.compile else state.model
        self.frozen_batchnorm = batchnorm_layers(used_part(state.model), config.freeze_batchnorm)
        self._epoch: int | None = None  # the epoch that on_epoch was told of
        self._is_checked = not config.deterministic  # whether the operations of the network have been looked at
        self.pace = Pace(is_measured=device.type == "cpu" and not collectives.is_distributed())
        self.curves = Redrawing(self.draw_curves)
        self._saved_at = time.monotonic()

    # ------------------------------------------------------------------------------------------------- the run

    def fit(self) -> dict:
        """Trains, evaluates and saves until the last step or the early stop; returns the last metrics.

        Raises:
            InterruptedRun: a signal asked for the end; the state of the last step is saved.
        """
        try:
            self.train()
        finally:  # whatever ended it: its folder shows what it came to
            with contextlib.suppress(OSError):  # a full disk is told of by what ended the run
                self.curves.finish()
        return self.state.metrics

    def train(self) -> None:
        """The steps and evaluations that are left, with their checkpoints."""
        state = self.state
        self.reporter.start(step=state.step, num_steps=self.num_steps)
        if state.phase == "evaluating":
            self.evaluate()
        if not self.is_over():
            batches = self.task.train_batches(first_step=state.step, num_steps=self.num_steps)
            for batch in batches:
                with self.pace.of_step():
                    self.step(batch)
                if said := self.pace.line():
                    self.reporter.line(said)
                if self.is_epoch_end() or state.step == self.num_steps:
                    self.end_epoch()
                else:
                    self.save_by_time()
                if self.is_over():
                    break
                self.end_if_asked()

    def step(self, batch: Batch) -> None:
        """One optimizer step: forward, loss, backward, reduce, clip, step, EMA, finite?, log.

        Nothing in it waits for the device but the question whether the losses are finite, and what a loss itself has to
        know (PPYOLOE's: how many points are positive).
        """
        state = self.state
        progress = self.begin_step(batch)
        lr = self.set_lr()
        losses = self.forward_backward(batch, progress)
        self.reducer.reduce()
        norm = self.clip()
        state.scaler.step(state.optimizer)
        state.scaler.update()
        if state.ema:
            state.ema.update(state.model)
        self.task.after_step(state.model, state.ema.model if state.ema else None, progress)
        means, norm_value = losses.read(norm, progress.step, self.run.path)
        state.step += 1
        state.chain = chain.extended(state.chain, state.step, lr, means)
        self.log(means, lr, norm_value)
        self.record_digests(batch)

    def begin_step(self, batch: Batch) -> Progress:
        """Where the run stands: modes, random numbers and gradients are made ready, and a first batch is drawn."""
        config, state = self.config, self.state
        epoch, step_in_epoch = divmod(state.step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch = epoch
            self.task.on_epoch(state.model, epoch)
        if self.is_main and state.step < config.num_pictures:
            self.reporter.attempt(
                "drawing a batch", self.task.draw_batch, batch, state.step, self.run.path / "pictures"
            )
        random_streams.seed_torch(config.seed, "step", state.step, collectives.rank())
        train(state.model)
        for layer in self.frozen_batchnorm:
            layer.eval()
        state.optimizer.zero_grad(set_to_none=True)
        return Progress(epoch, state.step, step_in_epoch, config.epochs, self.steps_per_epoch)

    def forward_backward(self, batch: Batch, progress: Progress) -> guards.StepLosses:
        """Forward, loss and backward of each micro-batch.

        Raises:
            OutOfMemoryError: saying which batch would fit.
            NondeterministicError: naming the operation that has no deterministic form.
        """
        losses, is_full = guards.StepLosses(), None
        try:
            for part in micro_batches(batch, self.config.accumulate):
                self.forward_backward_part(part.to(self.device), progress, losses)
        except torch.OutOfMemoryError as error:
            is_full = error.with_traceback(None)  # which holds the tensors of the failed step
        except RuntimeError as error:
            if told := determinism.explained(error):
                raise told from error
            raise
        if is_full:
            raise guards.OutOfMemoryError(self.explain_memory(batch, progress)) from is_full
        return losses

    def forward_backward_part(self, part: Batch, progress: Progress, losses: guards.StepLosses) -> None:
        with self.checked():
            with autocast(self.config.precision, self.device):
                outputs = self.network(self.task.inputs(part))
            terms = self.task.loss(outputs, part.targets, progress)
        losses.add(terms, part)
        total = cast(torch.Tensor, sum(terms.values()))
        self.state.scaler.scale(total / self.config.accumulate).backward()

    def checked(self):
        """At the first step of each start: a context that refuses operations without a deterministic form."""
        if self._is_checked or self.config.compile or self.device.type != determinism.DEVICE_TYPE:
            return contextlib.nullcontext()  # a compiled network is no list of operations any more
        self._is_checked = True
        return determinism.refuse_nondeterministic(determinism.DEVICE_TYPE)

    def set_lr(self) -> float:
        """The learning rate of this step, in every parameter group by its factor."""
        lr = self.config.lr * self.config.schedule.factor(self.state.step, self.steps_per_epoch)
        for group in self.state.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_factor", 1.0)
        return lr

    def clip(self) -> torch.Tensor | None:
        """Undoes the loss scaling of fp16 and clips the gradient to `clip_norm`.

        Returns:
            The norm before clipping, still on the device; None where nothing is clipped.
        """
        self.state.scaler.unscale_(self.state.optimizer)
        if self.config.clip_norm is None:
            return None
        return torch.nn.utils.clip_grad_norm_(self.state.model.parameters(), self.config.clip_norm)

    def explain_memory(self, batch: Batch, progress: Progress) -> str:
        """Tries smaller batches, and says which fits.  The run ends after it."""
        self.state.optimizer.zero_grad(set_to_none=True)
        part = micro_batches(batch, self.config.accumulate)[0]

        def attempt(num_images: int) -> None:
            piece = part.part(0, num_images).to(self.device)
            with autocast(self.config.precision, self.device):
                outputs = self.network(self.task.inputs(piece))
            cast(torch.Tensor, sum(self.task.loss(outputs, piece.targets, progress).values())).backward()
            self.state.optimizer.zero_grad(set_to_none=True)

        num_images = len(part.images)
        with collectives.alone():  # the other processes may have had enough memory
            fits = guards.batch_that_fits(attempt, num_images)
        return guards.out_of_memory_message(num_images, fits, self.config.batch_size)

    # ------------------------------------------------------------------------------------------------- in between

    def is_epoch_end(self) -> bool:
        return self.state.step % self.steps_per_epoch == 0

    def is_over(self) -> bool:
        patience = self.config.early_stop
        stopped = patience is not None and self.state.evaluations_without_best >= patience
        return stopped or self.state.step >= self.num_steps

    def log(self, losses: dict[str, float], lr: float, norm: float | None) -> None:
        step = self.state.step
        self.reporter.advance(step)
        if step % self.config.print_interval == 0 or step == self.num_steps:
            self.reporter.train(
                step=step, num_steps=self.num_steps, epoch=(step - 1) / self.steps_per_epoch, lr=lr, losses=losses,
                norm=norm, images=self.config.batch_size,
            )  # fmt: skip

    def record_digests(self, batch: Batch) -> None:
        """One line of digests.jsonl where one is due: see `public.runs.chain`."""
        state, step = self.state, self.state.step
        has_weights = step % self.config.digest_interval == 0 or step == self.num_steps
        if not self.is_main or not (has_weights or step <= chain.FIRST_STEPS):
            return
        line = {"step": step, "batch": digest({"images": batch.images}), "chain": state.chain}
        if has_weights:
            line["weights"] = digest(state_of(state.model))
            if state.ema:
                line["ema"] = digest(state.ema.model.state_dict())
        self.run.append(chain.FILE, json.dumps(line))
        if self.watch:
            self.watch(self.run.path)

    def end_if_asked(self) -> None:
        """Where a process was sent SIGTERM or Ctrl-C: all of them save this step and leave."""
        number = self.interruption.agreed(self.device)
        if number:
            self.save()
            raise InterruptedRun(number)

    def end_epoch(self) -> None:
        """After the last step of an epoch: an evaluation where one is due, and a checkpoint."""
        epochs_done = -(-self.state.step // self.steps_per_epoch)
        if epochs_done % self.config.evaluation_interval == 0 or self.state.step == self.num_steps:
            self.state.phase = "evaluating"
            self.save()
            self.evaluate()
        else:
            self.save()

    def evaluate(self) -> None:
        """Evaluates the weights of this step, keeps them where they are the best, and goes back to training.

        Where an evaluation finds nothing to measure, the best stays what it was, undefined from the start on; so it does
        before `ready_epoch`, while the network is not what it becomes.
        """
        state, reporter = self.state, self.reporter
        collectives.broadcast_from_rank_0(state.weights.buffers())  # without SyncBN each rank has its own statistics
        with self.interruption.ends_at_once():
            metrics = self.task.evaluate(state.weights)
        epochs_done = -(-state.step // self.steps_per_epoch)
        value = metrics[self.config.best_metric]
        is_ready = state.step >= self.task.ready_epoch * self.steps_per_epoch
        is_measured = value is not None and math.isfinite(value) and is_ready  # else it says nothing about the weights
        is_best = is_measured and (state.best is None or value > state.best)
        if is_best:
            state.best, state.evaluations_without_best = value, 0
        elif is_measured:
            state.evaluations_without_best += 1
        state.metrics, state.phase = metrics, "training"
        reporter.evaluation(step=state.step, epoch=epochs_done, metrics=metrics, is_ready=is_ready)
        mark = "the best so far" if is_best else f"best {self.task.best_text(state.best)}"
        if not is_ready:
            mark = f"cannot be the best before epoch {self.task.ready_epoch}"
        reporter.line(f"after epoch {epochs_done}: {self.task.summary(metrics)}  ({mark})")
        if self.is_main:
            if is_best:
                self.save_best(metrics)
            reporter.attempt("drawing predictions", self.task.draw_predictions, self.run.path / "pictures")
            if count := self.task.write_bad_samples(self.run.path):
                reporter.line(f"{count} training pictures could not be used, others took their places: bad_samples.txt")
            self.curves.changed()
        self.save()
        reporter.skip_time()

    def draw_curves(self) -> None:
        metrics_file, picture = self.run.path / "metrics.jsonl", self.run.path / "curves.png"
        self.reporter.attempt("drawing the curves", draw_curves, metrics_file, picture, self.config.best_metric)

    # ------------------------------------------------------------------------------------------------- checkpoints

    def save_by_time(self) -> None:
        if self.is_main and time.monotonic() - self._saved_at > self.config.checkpoint_minutes * 60:
            self.save()

    def save(self) -> None:
        """Writes latest.pth: all that is needed to go on from this step with the same bits.

        Raises:
            NonFiniteLossError: the weights are not finite; the checkpoints before are kept.
        """
        guards.check_weights(self.state.model, self.state.step)
        self._saved_at = time.monotonic()
        if self.is_main:
            self.task.write_bad_samples(self.run.path)
            checkpoint = self.task.card() | self.state.state_dict()
            checkpoint["training"]["log_sizes"] = self.run.log_sizes()
            save_latest(checkpoint, self.run.path)
        self.state.saved = self.state.described()

    def save_best(self, metrics: dict) -> None:
        weights = state_of(used_part(self.state.weights))
        entries = {"model": weights, "metrics": metrics, "step": self.state.step, "digest": digest(weights)}
        save_atomic(self.task.card() | entries, self.run.path / "best.pth")


def micro_batches(batch: Batch, count: int) -> list[Batch]:
    """`batch` in `count` equal parts."""
    num_images = len(batch.images)
    size = num_images // count
    return [batch.part(start, start + size) for start in range(0, num_images, size)]
