"""What is exported or quantised: a network with its weights, and what a file's card says of where they come from."""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from public.checkpoint_files import digest, load_checkpoint
from public.experiment_files import library_hash
from public.inference.places import open_any
from public.runs import chain
from public.runs.experiment import Experiment, is_experiment, load_experiment
from public.runs.manifest import git_state


class Subject(NamedTuple):
    """What is exported."""

    name: str
    path: Path  # of the weights
    model: nn.Module
    decoder: Any  # None: a classifier
    spec: Any
    class_names: tuple[str, ...]
    experiment: Experiment | None


def open_subject(place: str, weights: str | None) -> Subject:
    """The network for `<experiment, run, checkpoint, or name of known weights> [weights]`, on the CPU.

    Raises:
        FileNotFoundError: there are no such weights.
        ValueError: they are an exported file already.
    """
    found, path = open_any(place, weights, "cpu")
    if not hasattr(found.model, "state_dict") or getattr(found.model, "card", None) is not None:
        raise ValueError(f"{path} is an exported file already; export the weights it was made of")
    experiment = load_experiment(place) if Path(place).is_dir() else None
    if is_experiment(path.parent):
        experiment = load_experiment(path.parent)
    return Subject(
        name=experiment.name if experiment else path.stem,
        path=path,
        model=found.model,
        decoder=getattr(found, "decoder", None),
        spec=found.spec,
        class_names=tuple(found.class_names),
        experiment=experiment,
    )


def source_of(subject: Subject) -> dict[str, Any]:
    """What the card says of the weights; no path of this machine."""
    checkpoint = load_checkpoint(subject.path)
    run = subject.experiment.run if subject.experiment else None
    digests = chain.read_digests(run) if run and (run / chain.FILE).is_file() else []
    return {
        "weights": subject.path.name,
        "sha256": hashlib.sha256(subject.path.read_bytes()).hexdigest(),
        "digest": digest(checkpoint["model"]),
        "detector": checkpoint.get("detector"),
        "experiment": subject.experiment.name if subject.experiment else None,
        "run": run.name if run else None,
        "run_digest": digests[-1] if digests else None,
        "commit": git_state()["commit"],
        "library": library_hash(),
    }
