"""Which weights a command means, and the experiment they belong to."""

from pathlib import Path

from public.experiment import Experiment, load_experiment
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
