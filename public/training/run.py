"""`python train.py`: from the command line to a finished run."""

import ast
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from public import collectives, command_line, random_streams
from public.config import TrainingConfig, replace
from public.datasets.loader import forbid_global_random
from public.experiment import REPOSITORY, Experiment, find_data_root, load_experiment
from public.training import manifest, processes, run_folder
from public.training.checkpoint import digest, load_checkpoint
from public.training.compute import freeze_parameters, place
from public.training.detection import DetectionTask
from public.training.loop import Trainer
from public.training.reporter import Reporter
from public.training.run_folder import RunFolder
from public.training.state import TrainingState
from public.training.sync_batchnorm import convert_sync_batchnorm
from public.weights.load import load_starting_weights


def main(file: str) -> None:
    """Trains the experiment in whose folder `file` lies."""
    experiment = load_experiment(Path(file).resolve().parent)
    parsed = command_line.parse(experiment.config, _recipe_card(experiment), sys.argv[1:])
    device = processes.choose_device(parsed.options.device)
    with processes.process_group(device), forbid_global_random():
        processes.apply_modes(parsed.config, device)
        train(experiment, parsed, device)


def train(experiment: Experiment, parsed: command_line.Parsed, device: torch.device) -> dict:
    """Opens or resumes a run and trains it to its end; returns the last metrics."""
    config, options = parsed.config, parsed.options
    task, state, notes = _prepare(config, options, device)
    opening = _open_on_rank_0(experiment, parsed, task)
    config = replace(config, epochs=opening.epochs)
    run = opening.run if collectives.rank() == 0 else RunFolder(opening.path)
    reporter = Reporter(run if collectives.rank() == 0 else None, device=device)
    try:
        for line in opening.lines:
            reporter.line(line)
        if opening.checkpoint:
            state.load_state_dict(opening.checkpoint)
        _check_equal_weights(state)
        for line in [*parsed.notes, *task.describe(), task.worker_note, *notes]:
            if line:
                reporter.line(line)
        if collectives.rank() == 0:
            _record_start(run, config, task, state, device)
        trainer = Trainer(
            config=config,
            task=task,
            state=state,
            device=device,
            run=run,
            reporter=reporter,
            max_steps=options.max_steps,
        )
        metrics = trainer.fit()
        if collectives.rank() == 0:
            _finish(run, state, task, reporter)
    finally:
        reporter.close()
        run.close()
    return metrics


def _prepare(
    config: TrainingConfig, options: command_line.Options, device: torch.device
) -> tuple[DetectionTask, TrainingState, list[str]]:
    """The task with its data read and checked, and the state at step 0: before a run is made.

    Ends with one line where the data, the starting weights and the settings do not fit together.
    """
    try:
        data_root = find_data_root(options.data_root)
        task = DetectionTask(config=config, data_root=data_root, device=device, limit_images=options.limit_images)
        task.check_batches()
        return task, *build_state(config, device)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from error


def build_state(config: TrainingConfig, device: torch.device) -> tuple[TrainingState, list[str]]:
    """Model, optimizer, average and scaler at step 0, and lines for the log."""
    random_streams.seed_torch(config.seed, "model")
    model = config.detector.build_model()
    notes = []
    if config.starting_weights is not None:
        path = REPOSITORY / config.starting_weights
        if not path.is_file():
            raise FileNotFoundError(
                f"the configuration starts from the weights {path}, which are not there; pretrained/README.md says what "
                "they are. To train from scratch: --starting_weights none"
            )
        notes = [f"starting from {path.name}", *load_starting_weights(model, path)]
    frozen = freeze_parameters(model, config.freeze)
    total = sum(p.numel() for p in model.parameters())
    notes.append(f"{total:,} parameters" + (f", {frozen:,} of them frozen" if frozen else ""))
    if config.sync_batchnorm and collectives.is_distributed():
        convert_sync_batchnorm(model)
    model = place(model, config, device)
    state = TrainingState(
        model=model,
        optimizer=config.optimizer.build(model, config.lr),
        ema=config.ema.build(model) if config.ema else None,
        scaler=torch.amp.GradScaler(device.type, enabled=config.precision == "fp16"),
    )
    return state, notes


# ---------------------------------------------------------------------------------------------- opening a run


@dataclass(kw_only=True)
class Opening:
    """How a run begins: its folder, the state to go on from, and the first lines of its log."""

    run: RunFolder | None  # on rank 0
    path: Path
    epochs: int
    checkpoint: dict | None
    lines: list[str]


def _open_on_rank_0(experiment: Experiment, parsed: command_line.Parsed, task: DetectionTask) -> Opening:
    """Rank 0 decides and reads; all ranks go on from the same state, or stop with the same message."""
    opening, error = None, None
    if collectives.rank() == 0:
        try:
            opening = _open(experiment, parsed, task)
        except (ValueError, OSError) as failure:
            if not collectives.is_distributed():
                raise SystemExit(f"error: {failure}") from failure
            error = str(failure)
    error = collectives.from_rank_0(error)
    if error:
        raise SystemExit(f"error: {error}")
    if collectives.rank() == 0:
        run, opening.run = opening.run, None  # an open lock cannot travel
        collectives.from_rank_0(opening)
        opening.run = run
        return opening
    return collectives.from_rank_0(None)


def _open(experiment: Experiment, parsed: command_line.Parsed, task: DetectionTask) -> Opening:
    options, config = parsed.options, parsed.config
    identity = manifest.identity(experiment, task.fingerprint(), options)
    if options.resume == "none":
        return _new_run(experiment, parsed, identity, ["starting from scratch, as --resume none says"])
    if options.resume != "auto":
        return _open_named(experiment, parsed, identity)
    run, passed = run_folder.find_unfinished(experiment, config, identity)
    if run is None:
        return _new_run(
            experiment, parsed, identity, ["starting from scratch: no unfinished run to go on with", *passed]
        )
    return _resume(run, config, passed)


def _open_named(experiment: Experiment, parsed: command_line.Parsed, identity: dict) -> Opening:
    options, config = parsed.options, parsed.config
    run = run_folder.named_run(experiment, options.resume)
    if options.extend_epochs is None and run.manifest.get("finished"):
        raise ValueError(f"{run.path} is finished; --extend_epochs N trains it longer, as a new run")
    reasons = run_folder.refusals(run, config, identity)
    if options.extend_epochs is not None:
        recorded = load_experiment(run.path).config
        config = replace(config, epochs=recorded.epochs)
        reasons = run_folder.refusals(run, config, identity)
    if reasons:
        command = run.manifest["starts"][0]["command"] if run.manifest["starts"] else "?"
        raise ValueError(f"{run.path} cannot go on: {'; '.join(reasons)}. It was started by: {command}")
    if not (run.path / "latest.pth").is_file():
        raise ValueError(f"{run.path} has no latest.pth: it was stopped before its first checkpoint")
    if not run.lock():
        raise ValueError(f"another process is working on {run.path}")
    return (
        _resume(run, config, [])
        if options.extend_epochs is None
        else _extend(run, experiment, parsed, identity, config)
    )


def _new_run(experiment: Experiment, parsed: command_line.Parsed, identity: dict, lines: list[str]) -> Opening:
    run = RunFolder.create(experiment, parsed.config, parsed.overrides)
    run.write_json("manifest.json", manifest.new_manifest(experiment, identity))
    lines = [f"{lines[0]}; new run {run.path}", *lines[1:]]
    return Opening(run=run, path=run.path, epochs=parsed.config.epochs, checkpoint=None, lines=lines)


def _resume(run: RunFolder, config: TrainingConfig, passed: list[str]) -> Opening:
    checkpoint = load_checkpoint(run.path / "latest.pth")
    training = checkpoint["training"]
    run.truncate_logs(training["log_sizes"])
    first = f"resuming {run.path} from step {training['step']} ({training['phase']}), best {training['best']}"
    return Opening(run=run, path=run.path, epochs=config.epochs, checkpoint=checkpoint, lines=[first, *passed])


def _extend(
    old: RunFolder, experiment: Experiment, parsed: command_line.Parsed, identity: dict, config: TrainingConfig
) -> Opening:
    """A new run that goes on where `old` ended, for more epochs."""
    epochs = config.epochs + parsed.options.extend_epochs
    checkpoint = load_checkpoint(old.path / "latest.pth")
    run = RunFolder.create(
        experiment, replace(config, epochs=epochs), parsed.overrides | {"epochs": [config.epochs, epochs]}
    )
    if (old.path / "best.pth").is_file():
        shutil.copy2(old.path / "best.pth", run.path / "best.pth")
    step = checkpoint["training"]["step"]
    extends = {"run": old.path.name, "step": step}
    run.write_json("manifest.json", manifest.new_manifest(experiment, identity) | {"extends": extends})
    old.close()
    line = f"extending {old.path.name} from step {step} to epoch {epochs} (was {config.epochs}); new run {run.path}"
    return Opening(run=run, path=run.path, epochs=epochs, checkpoint=checkpoint, lines=[line])


# ---------------------------------------------------------------------------------------------- records


def _record_start(run: RunFolder, config: TrainingConfig, task: DetectionTask, state: TrainingState, device) -> None:
    start = manifest.start_record(device, config, state.step) | {"digest": digest(state.model.state_dict())}
    run.update_manifest(starts=[*run.manifest["starts"], start], data=task.describe())
    if task.bad_boxes():
        (run.path / "bad_boxes.txt").write_text("\n".join(task.bad_boxes()) + "\n")


def _finish(run: RunFolder, state: TrainingState, task: DetectionTask, reporter: Reporter) -> None:
    digests = {"weights": digest(state.model.state_dict())}
    if state.ema:
        digests["ema"] = digest(state.ema.model.state_dict())
    finished = {"time": time.strftime("%Y-%m-%d %H:%M:%S %z"), "step": state.step, "digests": digests}
    run.update_manifest(finished=finished | {"metrics": state.metrics, "best": state.best})
    for line in task.report(state.metrics).splitlines():
        reporter.line(line)
    reporter.line(f"digests after step {state.step}: " + ", ".join(f"{k} {v[:16]}" for k, v in digests.items()))
    reporter.line(f"best {task.config.best_metric} {state.best}; weights {run.path / 'best.pth'}")
    reporter.line(f"curves {run.path / 'curves.png'}; pictures {run.path / 'pictures'}")


def _check_equal_weights(state: TrainingState) -> None:
    """Every process must start from the same weights: they are built from the same seed, not sent around.

    Raises:
        RuntimeError: naming the ranks that differ.
    """
    digests = collectives.gather_objects(digest(state.model.state_dict()))
    different = [rank for rank, value in enumerate(digests) if value != digests[0]]
    if different:
        raise RuntimeError(f"ranks {different} start from other weights than rank 0; are their packages the same?")


def _recipe_card(experiment: Experiment) -> str:
    """The docstring of the experiment's config.py."""
    return ast.get_docstring(ast.parse((experiment.folder / "config.py").read_text())) or experiment.name
