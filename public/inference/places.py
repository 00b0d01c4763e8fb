"""What the first arguments of a command mean: an experiment and its weights, a checkpoint, a network."""

from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from public.checkpoint_files import load_checkpoint
from public.config import ClassificationConfig
from public.families import PUBLISHED
from public.inference import classifier, detector, exported
from public.input import InputSpec
from public.models import create_model, list_models
from public.models.backbones import NETWORKS, image_size
from public.runs.experiment import Experiment, load_experiment
from public.runs.run_folder import newest_weights
from public.weights.known import find_known


def find_weights(folder: str, weights: str | None) -> tuple[Experiment, Path]:
    """The experiment and the checkpoint for `<experiment folder or run> [weights]`.

    Without `weights`: the best of the run, or of the experiment's newest run.  `weights` may be the folder of a run, too, for
    its best.  Where the checkpoint lies in a run, the settings are those of the run, so that a command repeats what training
    did.

    Raises:
        FileNotFoundError: there are no such weights, saying how to make them.
    """
    experiment = load_experiment(folder)
    path = Path(weights).resolve() if weights else newest_weights(experiment)
    if path is not None and path.is_dir():
        experiment = load_experiment(path)
        path = newest_weights(experiment)
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
    """The detector for `<experiment, run, checkpoint, or name of known weights> [weights]`, and its checkpoint.

    Raises:
        FileNotFoundError: there are no such weights.
        ValueError: `place` is a checkpoint and `weights` names another, or the checkpoint is not a detector's.
    """
    experiment, path = _find(place, weights)
    if exported.is_exported(path):
        found = exported.load(path, device)
        if isinstance(found, detector.Detector):
            return found, path
        raise ValueError(f"{path} classifies images and finds no boxes: python -m public.test_scripts.classify {path}")
    if experiment is None:
        return detector.load(path, device), path
    if isinstance(experiment.config, ClassificationConfig):
        raise ValueError(
            f"{place} classifies images and finds no boxes: python -m public.test_scripts.classify {place} IMAGE"
        )
    return detector.load(path, device, settings=experiment.config.used_settings), path


def open_classifier(place: str, weights: str | None, device: str) -> tuple[classifier.TrainedClassifier, Path]:
    """The classifier for `<experiment, run, checkpoint, or name of known weights> [weights]`, and its checkpoint.

    Raises:
        FileNotFoundError: there are no such weights.
        ValueError: `place` is a checkpoint and `weights` names another, or the checkpoint is not a classifier's.
    """
    experiment, path = _find(place, weights)
    if exported.is_exported(path):
        found = exported.load(path, device)
        if isinstance(found, classifier.TrainedClassifier):
            return found, path
        raise ValueError(f"{path} finds objects: python -m public.test_scripts.detect {path} IMAGE")
    if experiment is None:
        return classifier.load(path, device), path
    if not isinstance(experiment.config, ClassificationConfig):
        raise ValueError(f"{place} finds objects: python -m public.test_scripts.detect {place} IMAGE")
    return classifier.load(path, device, settings=experiment.config.used_settings), path


def open_any(
    place: str, weights: str | None, device: str
) -> tuple[detector.Detector | classifier.TrainedClassifier, Path]:
    """Whichever of the two the experiment or the checkpoint is; arguments and errors as above."""
    experiment, path = _find(place, weights)
    if exported.is_exported(path):
        return exported.load(path, device), path
    is_classifier = (
        classifier.is_classifier(load_checkpoint(path))
        if experiment is None
        else isinstance(experiment.config, ClassificationConfig)
    )
    return (open_classifier if is_classifier else open_detector)(place, weights, device)


def _find(place: str, weights: str | None) -> tuple[Experiment | None, Path]:
    """The experiment, None where `place` is a checkpoint or the name of known weights, and the checkpoint."""
    if not Path(place).exists() and weights is None:
        known = find_known(place)
        if known is not None:
            return None, known
    if not Path(place).is_file():
        return find_weights(place, weights)
    if weights is not None:
        raise ValueError(f"two checkpoints are named, {place} and {weights}; leave one out")
    return None, Path(place).resolve()


class Published(NamedTuple):
    """A published classifier, as settings that can only be built."""

    name: str

    def build_model(self) -> nn.Module:
        return create_model(self.name)


class Network(NamedTuple):
    """What FLOPs are counted and times are measured of."""

    name: str
    settings: Any  # builds the model, and a detector's decoder
    spec: InputSpec | None  # None: a published network, which has no input of its own
    experiment: Experiment | None

    @property
    def is_classifier(self) -> bool:
        return not hasattr(self.settings, "build_decoder")

    def size(self, shape: list[int] | None) -> tuple[int, int]:
        """(height, width) of the input: `shape`, or the experiment's, or the published classifier's.

        Raises:
            ValueError: neither is there.
        """
        if shape is not None:
            return shape[0], shape[1]
        if isinstance(self.settings, Published):
            return (image_size(self.name),) * 2
        if self.spec is None:
            raise ValueError(f"{self.name} is a published network without an experiment: say --shape HEIGHT WIDTH")
        return self.spec.usual_size


def find_network(place: str) -> Network:
    """The network of an experiment's folder or run, or the published one of this name.

    Raises:
        FileNotFoundError: `place` is a folder, but of no experiment.
        ValueError: it is neither a folder nor a name, saying which names are near.
    """
    if Path(place).exists():
        experiment = load_experiment(place)
        return Network(experiment.name, experiment.config.used_settings, experiment.config.input, experiment)
    if place in NETWORKS:
        return Network(place, Published(place), None, None)
    if place in PUBLISHED:
        return Network(place, PUBLISHED[place], None, None)
    nearest = get_close_matches(place, list_models(), n=3) or list_models()
    raise ValueError(
        f"{place} is not a folder, and no published network is called {place!r}; did you mean {', '.join(nearest)}?"
    )
