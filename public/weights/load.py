"""Starting weights: where they are looked for, and what is said about those that are taken over."""

from pathlib import Path

from torch import nn

from public.checkpoint_files import load_checkpoint
from public.datasets.imagenet_names import are_folder_names, imagenet_words
from public.files import REPOSITORY
from public.models.loading import load_weights
from public.weights.known import how_to_get


def find_starting_weights(name: str) -> Path:
    """The checkpoint that a config calls `name`, relative to the repository.

    Raises:
        FileNotFoundError: it is not there; saying what to put there, and how.
    """
    path = REPOSITORY / name
    if not path.is_file():
        raise FileNotFoundError(
            f"the configuration starts from the weights {path}, which are not there. {how_to_get(name)}. "
            "To train from scratch: --starting_weights none"
        )
    return path


def check_keywords(settings, path: Path) -> None:
    """Compares the keywords that converted weights need, such as another bn_eps, with the settings' `options`.

    No shape would reveal that they differ.

    Raises:
        ValueError: naming both.
    """
    needed = load_checkpoint(path).get("keywords", {})
    given = dict(getattr(settings, "options", ()))
    if any(given.get(name) != value for name, value in needed.items()):
        raise ValueError(
            f"{path} was made for a network built with {needed}, the configuration's options are {given}; write "
            f"options={tuple(needed.items())!r}"
        )


def load_starting_weights(
    model: nn.Module, path: Path, backbone_only: bool = False, class_names: tuple[str, ...] | None = None
) -> list[str]:
    """`load_weights` of checkpoint `path` into `model`, and a line where its class layers are those of other classes.

    Args:
        class_names: of the data; where class layers are taken over that were trained for other names, or for these in
            another order, that is reported.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: as `load_weights`.
    """
    checkpoint = load_checkpoint(path)
    lines, is_whole = load_weights(model, checkpoint, path, backbone_only=backbone_only)
    if is_whole and class_names is not None:
        lines += _other_names(checkpoint.get("class_names"), class_names)
    return lines


def _other_names(own: list[str] | None, class_names: tuple[str, ...]) -> list[str]:
    """A line where class layers of as many classes were trained for others, which no shape shows."""
    if are_folder_names(class_names) and tuple(own or ()) == imagenet_words():
        return []  # the same classes under both of their names
    differing = [(one, other) for one, other in zip(own or (), class_names) if one != other]
    if not differing:
        return []
    return [
        f"the class layers are taken over, but {len(differing)} of {len(class_names)} classes have other names or places in "
        f"the file: {', '.join(f'{one} -> {other}' for one, other in differing[:5])}{', ...' if differing[5:] else ''}"
    ]
