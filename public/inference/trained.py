"""What opening a trained detector and a trained classifier have in common."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from public.config import thaw
from public.families import CHECKPOINT_CLASSES
from public.parts import load_state
from public.runs.experiment import load_experiment
from public.runs.run_folder import newest_weights
from public.text import brief, shorten, shown
from public.weights.known import find_known

MOST_NUMBERS, MOST_TENSORS = 10**8, 10**4  # of a network, beside twenty times those of its weights


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
        return load_experiment(path.parent).config.used_settings
    name = next(iter(frozen), "")
    if len(frozen) != 1 or not isinstance(frozen[name], dict):
        raise ValueError(f"{path} is damaged: its settings are {brief(frozen)}, not those of one class")
    if name not in CHECKPOINT_CLASSES:
        raise ValueError(
            f"{path} belongs to an experiment with settings of its own ({name}); leave it in its run's folder, or name the "
            f"experiment: python -m public.test_scripts.{command} <experiment folder> <image> <weights>"
        )
    return thawed(path, frozen, CHECKPOINT_CLASSES)


def thawed(path: Path, frozen: dict, classes: dict[str, type]) -> Any:
    """The settings that the checkpoint `path` states; raises ValueError, naming it, where they make no sense."""
    try:
        return thaw(frozen, classes)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {shorten(shown(str(error)), 1000)}") from error


def build_trained(path: Path, checkpoint: dict, settings) -> nn.Module:
    """The network of `settings` with the weights of `checkpoint`, which was read from `path`.

    Raises:
        ValueError: the numbers of classes or of their names differ, the network cannot be built or would be far larger than
            the weights, or the weights do not fit it.
    """
    num_classes = checkpoint.get("num_classes", settings.num_classes)
    if settings.num_classes != num_classes:
        raise ValueError(f"{path} holds weights for {num_classes} classes, but the settings say {settings.num_classes}")
    names = checkpoint.get("class_names")
    if names is not None and len(names) != num_classes:
        raise ValueError(f"{path} is damaged: it names {len(names)} classes, and its weights are for {num_classes}")
    try:
        with NoLargerThan(checkpoint["model"]):
            model = settings.build_model()
    except (TypeError, ValueError, ArithmeticError, LookupError) as error:
        reason = " ".join(str(error).split())[:400]
        raise ValueError(f"{path}: the network of its settings cannot be built: {reason}") from error
    try:
        load_state(model, checkpoint["model"])
    except RuntimeError as error:  # its text has a line for each name
        reason = " ".join(str(error).split())[:400]
        raise ValueError(
            f"the weights of {path} do not fit {type(settings).__name__} as it is set: {reason}"
        ) from error
    return model


class NoLargerThan(TorchFunctionMode):
    """Within it, a network that is far larger than the weights `state` is not built: ValueError before memory is taken.

    The settings of a file may ask for any size.  What is only lent to a network, a teacher, is not among its weights.
    """

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.numbers = MOST_NUMBERS + 20 * sum(value.numel() for value in state.values())
        self.tensors = MOST_TENSORS + 20 * len(state)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in (torch.empty, torch.zeros, torch.ones, torch.full):
            sides = args[0] if args and isinstance(args[0], list | tuple) else args
            self.numbers -= math.prod(side for side in sides if isinstance(side, int))
            self.tensors -= 1
            if self.numbers < 0 or self.tensors < 0:
                raise ValueError("it would be far larger than the weights of the file")
        return function(*args, **(kwargs or {}))
