"""A teacher's weights: taken from a file whole, for the classes of the data, and known again by their sums."""

import hashlib
from pathlib import Path

from torch import nn

from public.checkpoint_files import digest, load_checkpoint
from public.config import TrainingConfig, freeze
from public.datasets.imagenet_names import are_folder_names, imagenet_words
from public.models.loading import load_weights


def load_teacher(
    teacher: nn.Module, path: Path, *, config: TrainingConfig, class_names: tuple[str, ...] | None
) -> tuple[dict[str, str], list[str]]:
    """Takes all weights of checkpoint `path` over into `teacher`.

    Args:
        config: of the training, whose pictures the teacher will see.
        class_names: of the data; None: they are not known.

    Returns:
        `file`, the file's name, `sha256` of its bytes and `digest` of its weights, which a run that goes on compares; a line
        where the teacher was trained on other input.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the weights do not fit, not even the class layers; or they are for classes of other names or in another
            order, naming them.
    """
    checkpoint = load_checkpoint(path)
    _check_classes(path, checkpoint, class_names)
    lines, is_whole = load_weights(teacher, checkpoint, path)
    if not is_whole:
        raise ValueError(f"{path} does not fit the teacher: {'; '.join(lines)}")
    identity = {
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "digest": digest(checkpoint["model"]),
    }
    return identity, lines + _other_input(checkpoint.get("input"), config)


def _check_classes(path: Path, checkpoint: dict, class_names: tuple[str, ...] | None) -> None:
    names = checkpoint.get("class_names")
    if names is None or class_names is None or list(names) == list(class_names):
        return
    if are_folder_names(class_names) and tuple(names) == imagenet_words():
        return  # the same classes under both of their names
    if sorted(names) == sorted(class_names):
        place = next(i for i, pair in enumerate(zip(names, class_names)) if pair[0] != pair[1])
        raise ValueError(
            f"{path}: the teacher knows the classes of the data in another order; class {place} is {names[place]!r} there, "
            f"{class_names[place]!r} in the data"
        )
    missing = [name for name in class_names if name not in names]
    more = [name for name in names if name not in class_names]
    raise ValueError(
        f"{path}: the teacher knows {len(names)} classes, the data have {len(class_names)}; it lacks {missing[:5]} and knows "
        f"{more[:5]} instead"
    )


def _other_input(theirs: dict | None, config: TrainingConfig) -> list[str]:
    """A line where the teacher's checkpoint states that it was trained on colours of other values."""
    ((_, own),) = freeze(config.input).items()
    told = []
    for name in ("color_order", "scale", "mean", "std"):
        value = (theirs or {}).get(name)
        if value is not None and freeze_again(value) != own.get(name):
            told.append(f"{name} {value}, here {own.get(name)}")
    return [f"warning: the teacher was trained on other input: {'; '.join(told)}"] if told else []


def freeze_again(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def explained(error: FileNotFoundError) -> str:
    """The message on starting weights that are not there, as one on a teacher's: it has no training from scratch."""
    text = str(error).split(" To train from scratch:")[0].split("; or name a file:")[0]
    return text.replace("the configuration starts from the weights", "they are").replace(
        "the configuration starts from", "that is"
    )
