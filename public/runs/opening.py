"""Opening a run: a new one, or one that goes on, and what must be equal for that."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch

from public import command_line
from public.config import TrainingConfig, replace
from public.datasets.picture_digests import content_digest
from public.parallel import collectives
from public.runs import manifest, run_folder
from public.runs.checkpoint import LATEST, check_parts, has_checkpoint, load_latest
from public.runs.experiment import Experiment, load_experiment
from public.runs.run_folder import RunFolder


@dataclass(kw_only=True)
class Opening:
    """How a run begins: its folder, the state to go on from, and the first lines of its log."""

    run: RunFolder | None  # on rank 0
    path: Path
    epochs: int
    checkpoint: dict | None
    lines: list[str]
    source: Path | None = None  # the file of the checkpoint
    code_change: dict[str, list] = field(default_factory=dict)  # what --allow_code_change let pass: name -> [old, new]


def open_on_rank_0(experiment: Experiment, parsed: command_line.Parsed, task) -> Opening:
    """Rank 0 decides and reads; all ranks go on from the same state, or stop with the same message."""
    opening: Opening | None = None
    error: str | None = None
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
    if opening is not None:
        run, opening.run = opening.run, None  # an open lock cannot travel
        collectives.from_rank_0(opening)
        opening.run = run
        return opening
    return collectives.from_rank_0(None)


def _open(experiment: Experiment, parsed: command_line.Parsed, task) -> Opening:
    options, config = parsed.options, parsed.config
    data = task.fingerprint()
    if options.fingerprint == "full":
        data |= {f"{split}_pictures": content_digest(files) for split, files in task.picture_files().items() if files}
    identity = manifest.identity(experiment, data, options)
    if task.teacher is not None:
        identity["teacher"] = task.teacher
    if options.resume == "none":
        return _new_run(experiment, parsed, identity, ["starting from scratch, as --resume none says"])
    if options.resume != "auto":
        return _open_named(experiment, parsed, identity, task.device)
    run, passed = run_folder.find_unfinished(experiment, config, identity, options.allow_code_change)
    if run is None:
        return _new_run(experiment, parsed, identity, ["starting from scratch: no unfinished run to resume", *passed])
    return _resume(run, experiment, config, identity, task.device, passed)


def _open_named(experiment: Experiment, parsed: command_line.Parsed, identity: dict, device: torch.device) -> Opening:
    options, config = parsed.options, parsed.config
    run = run_folder.named_run(experiment, options.resume)
    if options.extend_epochs is None and run.manifest.get("finished"):
        raise ValueError(f"{run.path} is finished; --extend_epochs N trains it longer, as a new run")
    if options.extend_epochs is not None:
        config = replace(config, epochs=load_experiment(run.path).config.epochs)
    reasons = run_folder.refusals(run, config, identity, options.allow_code_change)
    if reasons:
        command = run.manifest["starts"][0]["command"] if run.manifest["starts"] else "?"
        raise ValueError(f"{run.path} cannot resume: {'; '.join(reasons)}. It was started by: {command}")
    if not has_checkpoint(run.path):
        raise ValueError(f"{run.path} has no {LATEST}: it was stopped before its first checkpoint")
    if not run.lock():
        raise ValueError(f"another process is working on {run.path}")
    return (
        _resume(run, experiment, config, identity, device, [])
        if options.extend_epochs is None
        else _extend(run, experiment, parsed, identity, config)
    )


def _new_run(experiment: Experiment, parsed: command_line.Parsed, identity: dict, lines: list[str]) -> Opening:
    run = RunFolder.create(experiment, parsed.config, parsed.overrides)
    run.write_json("manifest.json", manifest.new_manifest(experiment, identity, parsed))
    lines = [f"{lines[0]}; new run {run.path}", *lines[1:]]
    return Opening(run=run, path=run.path, epochs=parsed.config.epochs, checkpoint=None, lines=lines)


def _resume(
    run: RunFolder,
    experiment: Experiment,
    config: TrainingConfig,
    identity: dict,
    device: torch.device,
    passed: list[str],
) -> Opening:
    checkpoint, notes = load_latest(run.path)
    _check(run.path / LATEST, checkpoint, "log_sizes", *(("raw_model", "ema") if config.ema else ()))
    training = checkpoint["training"]
    lost = run.truncate_logs(training["log_sizes"])
    lines = [f"resuming {run.path} from step {training['step']} ({training['phase']}), best {training['best']}"]
    lines += [*notes, *lost]
    starts = run.manifest["starts"]
    if starts:
        lines += manifest.machine_change(starts[-1], manifest.start_record(device, config, training["step"]))
    before = starts[-1]["processes"] if starts else collectives.world_size()
    if before != collectives.world_size():
        lines.append(
            f"{collectives.world_size()} processes resume what {before} began: the same batches, weights equal to "
            "rounding only"
        )
    change = manifest.code_change(run.manifest["identity"], identity)
    if change:
        lines.append(f"the code has changed ({', '.join(change)}), as --allow_code_change lets it: recorded")
        run.replace_experiment(experiment, training["step"], identity=identity)
    return Opening(
        run=run,
        path=run.path,
        epochs=config.epochs,
        checkpoint=checkpoint,
        source=run.path / LATEST,
        lines=lines + passed,
        code_change=change,
    )


def _check(path: Path, checkpoint: dict, *parts: str) -> None:
    """As `check_parts`, naming the file."""
    try:
        check_parts(checkpoint, *parts)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _extend(
    old: RunFolder, experiment: Experiment, parsed: command_line.Parsed, identity: dict, config: TrainingConfig
) -> Opening:
    """A new run that goes on where `old` ended, for more epochs."""
    epochs = config.epochs + (parsed.options.extend_epochs or 0)
    checkpoint, _ = load_latest(old.path)
    _check(old.path / LATEST, checkpoint)
    training = checkpoint["training"]
    if config.early_stop is not None and training["evaluations_without_best"] >= config.early_stop:
        training["evaluations_without_best"] = 0  # early stop ended the old run; the new one is to begin
    run = RunFolder.create(
        experiment, replace(config, epochs=epochs), parsed.overrides | {"epochs": [config.epochs, epochs]}
    )
    if (old.path / "best.pth").is_file():
        shutil.copy2(old.path / "best.pth", run.path / "best.pth")
    step = checkpoint["training"]["step"]
    extends = {"run": old.path.name, "step": step}
    run.write_json("manifest.json", manifest.new_manifest(experiment, identity, parsed) | {"extends": extends})
    old.close()
    line = f"extending {old.path.name} from step {step} to epoch {epochs} (was {config.epochs}); new run {run.path}"
    first, last = (config.schedule.factor(1000 * epoch, 1000) for epoch in (config.epochs, epochs))
    rates = f"by the schedule the added epochs begin at {100 * first:.1f} % of lr and end at {100 * last:.1f} %"
    lines = [line, rates]
    return Opening(run=run, path=run.path, epochs=epochs, checkpoint=checkpoint, source=old.path / LATEST, lines=lines)
