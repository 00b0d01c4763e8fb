"""What the first arguments of a command mean: an experiment and its weights, a checkpoint, a network."""

from pathlib import Path
from typing import Any, NamedTuple

from public import detector
from public.experiment import Experiment, load_experiment
from public.families import published
from public.input import InputSpec
from public.training.run_folder import newest_weights


def find_weights(folder: str, weights: str | None) -> tuple[Experiment, Path]:
    """The experiment and the checkpoint for `<experiment folder or run> [weights]`.

    Without `weights`: the best of the run, or of the experiment's newest run.  Where the checkpoint lies in a run, the
    settings are those of the run, so that a command repeats what training did.

    Raises:
        FileNotFoundError: there are no such weights, saying how to make them.
    """
    experiment = load_experiment(folder)
    path = Path(weights).resolve() if weights else newest_weights(experiment)
    if path is None:
        raise FileNotFoundError(
            f"{experiment.folder} has no trained run yet: run its train.py first, or name the weights"
        )
    if not path.is_file():
        raise FileNotFoundError(f"there are no weights {path}")
    if (path.parent / "config.json").is_file():
        experiment = load_experiment(path.parent)
    return experiment, path


def open_detector(place: str, weights: str | None, device: str) -> tuple[detector.Detector, Path]:
    """The detector for `<experiment folder, run or checkpoint> [weights]`, and the checkpoint it was made of.

    Raises:
        FileNotFoundError: there are no such weights.
        ValueError: `place` is a checkpoint and `weights` names another, or the checkpoint is no detector's.
    """
    if Path(place).is_file():
        if weights is not None:
            raise ValueError(f"two checkpoints are named, {place} and {weights}; leave one out")
        return detector.load(place, device), Path(place).resolve()
    experiment, path = find_weights(place, weights)
    return detector.load(path, device, settings=experiment.config.detector), path


class Network(NamedTuple):
    """What FLOPs are counted and times are measured of."""

    name: str
    settings: Any  # builds the model and its decoder
    spec: InputSpec | None  # None: a published network, which has no input of its own
    experiment: Experiment | None

    def size(self, shape: list[int] | None) -> tuple[int, int]:
        """(height, width) of the input: `shape`, or the experiment's.

        Raises:
            ValueError: neither is there.
        """
        if shape is not None:
            return shape[0], shape[1]
        if self.spec is None:
            raise ValueError(f"{self.name} is a published network without an experiment: say --shape HEIGHT WIDTH")
        return self.spec.size


def find_network(place: str) -> Network:
    """The network of an experiment's folder or run, or the published one of this name.

    Raises:
        FileNotFoundError: `place` is a folder, but of no experiment.
        ValueError: it is neither a folder nor a name, saying which names are near.
    """
    if Path(place).exists():
        experiment = load_experiment(place)
        return Network(experiment.name, experiment.config.detector, experiment.config.input, experiment)
    try:
        return Network(place, published(place), None, None)
    except ValueError as error:
        raise ValueError(f"{place} is no folder, and {error}") from error
