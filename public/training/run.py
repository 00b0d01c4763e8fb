"""`python train.py`: from the command line to a finished run."""

import contextlib
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

from public import command_line, random_streams
from public.checkpoint_files import digest
from public.config import TrainingConfig, replace
from public.datasets.coco import annotation_cache
from public.files import write_text
from public.loading.workers import forbid_global_random
from public.models.quantised import quantised_layers
from public.models.recompute import recompute_backbones
from public.parallel import collectives, processes
from public.parallel.sync_batchnorm import convert_sync_batchnorm
from public.parts import decide_lent, own_parameters, state_of, used_part
from public.precision import place, slow_on
from public.runs import manifest
from public.runs.checkpoint import has_checkpoint
from public.runs.experiment import Experiment, find_data_root, load_experiment, recipe_card
from public.runs.opening import Opening, open_on_rank_0
from public.runs.run_folder import RunFolder
from public.runs.starting_experiment import best_weights, described, named_experiment
from public.tasks import make_task
from public.tasks.base import BaseTask
from public.text import let_everything_be_printed, shown
from public.training import failures
from public.training.determinism import check_compile
from public.training.freezing import freeze_parameters
from public.training.interruption import InterruptedRun, Interruption
from public.training.loop import Trainer
from public.training.reporter import Reporter
from public.training.state import TrainingState
from public.weights.load import check_keywords, find_starting_weights, load_starting_weights
from public.weights.teacher import explained, load_teacher


def main(file: str) -> None:
    """Trains the experiment in whose folder `file` lies."""
    let_everything_be_printed()
    experiment = load_experiment(Path(file).resolve().parent)
    parsed = command_line.parse(experiment.config, recipe_card(experiment), sys.argv[1:])
    try:
        device = processes.choose_device(parsed.options.device)
        processes.check_launcher()
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
    try:
        with processes.process_group(device), forbid_global_random():
            processes.apply_modes(parsed.config, device)
            train(experiment, parsed, device)
    except KeyboardInterrupt:  # before the first step; from then on Interruption hears it
        print("stopped by Ctrl-C before the first step; nothing was trained", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None


def train(
    experiment: Experiment, parsed: command_line.Parsed, device: torch.device, watch=None, is_resumable: bool = True
) -> dict:
    """Opens or resumes a run and trains it to its end; returns the last metrics.

    Args:
        watch: called with the run's folder, on rank 0, after each line of its digests; may end the run by an exception.
        is_resumable: say how to go on, where the run is stopped or fails.

    Raises:
        SystemExit: with 128 + the number of a signal that asked for the end; with one line where the run failed.
    """
    config, options = parsed.config, parsed.options
    task, state, notes = _prepare(config, options, device)
    opening = open_on_rank_0(experiment, parsed, task)
    config = replace(config, epochs=opening.epochs)
    run = opening.run or RunFolder(opening.path)  # only rank 0 holds the open one
    reporter = Reporter(run if collectives.rank() == 0 else None, device=device)
    try:
        for line in opening.lines:
            reporter.line(line)
        if opening.checkpoint:
            _load(state, opening)
            state.saved = state.described() if has_checkpoint(run.path) else None  # an extended run has none yet
        _check_equal_weights(state)
        told = [*parsed.notes, slow_on(config.precision, device), *task.describe(), *task.warnings()]
        for note in [*told, task.worker_note, *notes]:
            if note:
                reporter.line(note)
        if collectives.rank() == 0:
            _record_start(run, parsed, task, state, device, opening.code_change)
        interruption = Interruption()
        trainer = Trainer(
            config=config,
            task=task,
            state=state,
            device=device,
            run=run,
            reporter=reporter,
            max_steps=options.max_steps,
            interruption=interruption,
            watch=watch,
        )
        with interruption.listening():
            metrics = trainer.fit()
        if collectives.rank() == 0:
            _finish(run, state, task, reporter)
    except (InterruptedRun, RuntimeError, *failures.EXPECTED) as error:
        advice = failures.how_to_go_on(state.saved, run.path, config.epochs) if is_resumable else ""
        _end_with_a_line(error, advice, run, reporter)
        raise
    finally:
        with contextlib.suppress(OSError):  # a full disk has been told of
            reporter.close()
        run.close()
    return metrics


def _load(state: TrainingState, opening: Opening) -> None:
    """Puts the state of the checkpoint back; an error names its file."""
    try:
        state.load_state_dict(opening.checkpoint or {})
    except ValueError as error:
        raise ValueError(f"{opening.source}: {error}") from error


def _end_with_a_line(error: Exception, advice: str, run: RunFolder, reporter: Reporter) -> None:
    """Ends the program by SystemExit, with a line that says why and how to go on; unexpected errors pass."""
    if isinstance(error, InterruptedRun):
        reporter.line(f"stopped by {signal.Signals(error.number).name}. {advice}".strip())
        raise SystemExit(128 + error.number) from None
    cause = failures.cause(error)
    if cause is not None:
        line = f"error: {cause} [{failures.keep_traceback(error, run.path)}] {advice}".strip()
        with contextlib.suppress(OSError):
            reporter.note(line)
        raise SystemExit(line) from error


def _prepare(
    config: TrainingConfig, options: command_line.Options, device: torch.device
) -> tuple[BaseTask, TrainingState, list[str]]:
    """The task with its data read and checked, and the state at step 0: before a run is made.

    Ends with one line where the data, the starting weights and the settings do not fit together.
    """
    try:
        check_compile(config.compile, config.deterministic)
        data_root = find_data_root(options.data_root)
        with annotation_cache(not options.no_annotation_cache):
            task = make_task(config, data_root=data_root, device=device, limit_images=options.limit_images)
        task.check_batches()
        state, notes = build_state(config, device, task.class_names)
        task.teacher = getattr(state.model, "teacher_file", None)
        return task, state, notes
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from error


def build_state(
    config: TrainingConfig, device: torch.device, class_names: tuple[str, ...] | None = None
) -> tuple[TrainingState, list[str]]:
    """Model, optimizer, average and scaler at step 0, and lines for the log; `class_names` are those of the data."""
    random_streams.seed_torch(config.seed, "model")
    model = config.network_settings.build_model()
    decide_lent(model)
    notes = _load_teacher(model, config, class_names)
    if config.starting_weights is not None:
        path, told = _starting_weights(config.starting_weights)
        check_keywords(config.used_settings, path)
        student = used_part(model)
        lines = _load_starting_weights(student, path, config, class_names)
        notes += [f"starting from {told}", *lines]
    frozen = freeze_parameters(used_part(model), config.freeze)
    total = sum(p.numel() for _, p in own_parameters(model))
    notes.append(f"{total:,} parameters" + (f", {frozen:,} of them frozen" if frozen else ""))
    if config.sync_batchnorm and collectives.is_distributed():
        convert_sync_batchnorm(model)
    if config.recompute_activations:
        notes.append(_recompute(model, config))
    model = place(model, device, channels_last=config.channels_last)
    state = TrainingState(
        model=model,
        optimizer=config.optimizer.build(model, config.lr),
        ema=config.ema.build(model) if config.ema else None,
        scaler=torch.amp.GradScaler(device.type, enabled=config.precision == "fp16"),
    )
    return state, notes


def _load_starting_weights(
    model: torch.nn.Module, path: Path, config: TrainingConfig, class_names: tuple[str, ...] | None
) -> list[str]:
    """Starting weights of the network that is used; where it is changed for training, they are those of it before that."""
    prepare = getattr(config.used_settings, "prepare", None)
    bare = config.used_settings.network.build_model() if prepare else model
    lines = load_starting_weights(bare, path, backbone_only=config.backbone_only, class_names=class_names)
    if prepare:
        model.load_state_dict(prepare(bare).state_dict())
    return lines


def _recompute(model: torch.nn.Module, config: TrainingConfig) -> str:
    """Lets the backbones compute their activations twice; a line for the log.

    Raises:
        ValueError: the network has no `Backbone`, or what it would be used with is not known to keep the bits.
    """
    if config.compile or (config.sync_batchnorm and collectives.is_distributed()):
        name = "compile" if config.compile else "sync_batchnorm"
        raise ValueError(f"recompute_activations and {name} are both true; together they are not known to be exact")
    if quantised_layers(model):
        raise ValueError(
            "recompute_activations is true and the network is Quantised: the second time its ranges and the statistics that "
            "are folded into its weights would be others, so the gradient would be another; leave one of them out"
        )
    count = recompute_backbones(model, True)
    if not count:
        raise ValueError(
            f"recompute_activations is true, but {type(model).__name__} has no Backbone whose stages it means"
        )
    return f"activations inside {count} backbone(s) are computed again in the backward pass"


def _load_teacher(model: Any, config: TrainingConfig, class_names: tuple[str, ...] | None) -> list[str]:
    """Gives a teacher its weights and notes on the model where they come from; lines for the log.

    Raises:
        FileNotFoundError: they are not there.
        ValueError: they do not fit, or are for other classes.
    """
    if not hasattr(model, "teacher_file"):
        return []
    name = config.network_settings.teacher_weights
    if name is None:
        return ["the teacher has its initial values, as teacher_weights = None says: there is nothing to learn from it"]
    try:
        path, told = _starting_weights(name)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"teacher_weights is {name!r}: {explained(error)}") from error
    check_keywords(config.network_settings.teacher, path)
    model.teacher_file, lines = load_teacher(model.teacher, path, config=config, class_names=class_names)
    return [f"the teacher's weights: {told}, digest {model.teacher_file['digest'][:16]}", *lines]


def _starting_weights(name: str) -> tuple[Path, str]:
    """The checkpoint that a config calls `name`, and what the log says of it: a file, or an experiment's best weights.

    Raises:
        FileNotFoundError: it is not there, saying what to put there, or what to run first.
        ValueError: several experiments have this name.
    """
    folder = named_experiment(name)
    if folder is None:
        path = find_starting_weights(name)
        return path, path.name
    path = best_weights(folder)
    return path, described(path)


# ---------------------------------------------------------------------------------------------- records


def _record_start(
    run: RunFolder, parsed: command_line.Parsed, task: BaseTask, state: TrainingState, device, code_change: dict
) -> None:
    start = manifest.start_record(device, parsed.config, state.step) | {"digest": digest(state_of(state.model))}
    if code_change:
        start |= {"code_change": code_change, "git": manifest.git_state()}
    run.update_manifest(starts=[*run.manifest["starts"], start], data=task.describe())
    for name, lines in task.records().items():
        write_text(run.path / name, "".join(f"{shown(line)}\n" for line in lines))


def _finish(run: RunFolder, state: TrainingState, task: BaseTask, reporter: Reporter) -> None:
    digests = {"weights": digest(state_of(state.model))}
    if state.ema:
        digests["ema"] = digest(state.ema.model.state_dict())
    finished = {"time": time.strftime("%Y-%m-%d %H:%M:%S %z"), "step": state.step, "digests": digests}
    run.update_manifest(finished=finished | {"metrics": state.metrics, "best": state.best})
    reporter.attempt("the report", lambda: reporter.lines(task.report(state.metrics)))
    reporter.line(f"digests after step {state.step}: " + ", ".join(f"{k} {v[:16]}" for k, v in digests.items()))
    if state.best is None:
        last = run.path / "latest.pth"
        steps = task.ready_epoch * (task.num_train_images // task.config.batch_size)
        reason = "no evaluation could measure it" if state.step >= steps else f"none before epoch {task.ready_epoch}"
        reporter.line(f"best {task.best_text(None)}: {reason}; the last weights are {last}")
    else:
        reporter.line(f"best {task.best_text(state.best)}; weights {run.path / 'best.pth'}")
    reporter.line(f"curves {run.path / 'curves.png'}; pictures {run.path / 'pictures'}")


def _check_equal_weights(state: TrainingState) -> None:
    """Every process must start from the same weights: they are built from the same seed, not sent around.

    Raises:
        RuntimeError: naming the ranks that differ.
    """
    digests = collectives.gather_objects(digest(state_of(state.model)))
    different = [rank for rank, value in enumerate(digests) if value != digests[0]]
    if different:
        raise RuntimeError(f"ranks {different} start from other weights than rank 0; are their packages the same?")
