"""What opening a trained detector and a trained classifier have in common."""

from pathlib import Path

from torch import nn

from public.config import thaw
from public.families import SETTINGS_CLASSES
from public.parts import load_state
from public.runs.experiment import load_experiment
from public.runs.run_folder import newest_weights
from public.weights.known import find_known


def find_checkpoint(path: str | Path) -> Path:
    """`path` itself; of the folder of a run or an experiment, the best weights (of its newest run); of a name, known ones.

    Raises:
        FileNotFoundError: the folder is neither, or has no weights yet; or known weights are not there.
    """
    known = None if Path(path).exists() else find_known(path)
    path = known or Path(path).resolve()
    if not path.is_dir():
        return path
    weights = newest_weights(load_experiment(path))
    if weights is None:
        raise FileNotFoundError(f"{path} has no best.pth yet: it is written after the first evaluation")
    return weights


def recorded_settings(path: Path, frozen: dict, command: str):
    """The settings of checkpoint `path`: those of the run it lies in (with code of its own, if it has any), else `frozen`.

    Args:
        command: of `public.test_scripts`, for the message.

    Raises:
        ValueError: they need the code of an experiment that the checkpoint no longer lies in.
    """
    if (path.parent / "config.json").is_file():
        return load_experiment(path.parent).config.network_settings
    (name,) = frozen
    if name not in SETTINGS_CLASSES:
        raise ValueError(
            f"{path} belongs to an experiment with settings of its own ({name}); leave it in its run's folder, or name the "
            f"experiment: python -m public.test_scripts.{command} <experiment folder> <image> <weights>"
        )
    return thaw(frozen, SETTINGS_CLASSES)


def build_trained(path: Path, checkpoint: dict, settings) -> nn.Module:
    """The network of `settings` with the weights of `checkpoint`, which was read from `path`.

    Raises:
        ValueError: the numbers of classes differ, or the weights do not fit the network.
    """
    num_classes = checkpoint.get("num_classes", settings.num_classes)
    if settings.num_classes != num_classes:
        raise ValueError(f"{path} holds weights for {num_classes} classes, but the settings say {settings.num_classes}")
    model = settings.build_model()
    try:
        load_state(model, checkpoint["model"])
    except RuntimeError as error:  # its text has a line for each name
        reason = " ".join(str(error).split())[:400]
        raise ValueError(
            f"the weights of {path} do not fit {type(settings).__name__} as it is set: {reason}"
        ) from error
    return model
