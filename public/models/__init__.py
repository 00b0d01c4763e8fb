"""Networks.  `create_model` builds a published one by name; experiments build theirs from their settings."""

import warnings
from dataclasses import replace
from pathlib import Path

from torch import nn

from public.models.input_channels import adapt_input_channels


def create_model(
    name: str, *, num_classes: int | None = None, pretrained: str | Path | None = None, in_chans: int = 3, **changes
) -> nn.Module:
    """A new network with the published settings called `name`, in train mode.

    Args:
        num_classes: None: the published number.
        pretrained: a checkpoint of this project (a run's, or one that `public.weights.convert` wrote) to take the
            weights from.  Whatever it does not give, such as the class layers where the numbers of classes differ, is
            reported by a warning and keeps its initial values.  None: initial values everywhere, which come from
            torch's global generator.
        in_chans: channels of the images.  The first convolution of a checkpoint made for another number is adapted: see
            `adapt_input_channels`.
        changes: further fields of the settings to replace.

    Raises:
        ValueError: an unknown name, or a checkpoint that does not fit, naming a parameter and both shapes.
        TypeError: an unknown field.
        FileNotFoundError: there is no such checkpoint.
    """
    from public.families import published  # here, so that no network depends on a family at import

    if in_chans < 1:
        raise ValueError(f"in_chans = {in_chans}: images have at least one channel")
    if num_classes is not None:
        changes["num_classes"] = num_classes
    model = replace(published(name), **changes).build_model(in_chans=in_chans)
    if pretrained is not None:
        for line in _load_pretrained(model, Path(pretrained), in_chans):
            warnings.warn(f"{name} from {pretrained}: {line}", stacklevel=2)
    return model


def _load_pretrained(model: nn.Module, path: Path, in_chans: int) -> list[str]:
    """Takes over the weights of `path`; a line for whatever was not simply taken over."""
    from public.training.checkpoint import load_checkpoint  # here, for the same reason
    from public.weights.load import load_starting_weights

    first = model.get_submodule(model.input_layer)
    theirs = load_checkpoint(path)["model"].get(f"{model.input_layer}.weight")
    if theirs is None or theirs.ndim != 4 or theirs.shape[1] == in_chans:
        return load_starting_weights(model, path)
    # The file is loaded as it is into a first convolution of its own number of channels, which is adapted then.
    first.weight = nn.Parameter(first.weight.new_empty(first.out_channels, theirs.shape[1], *first.kernel_size))
    lines = load_starting_weights(model, path)
    first.weight = nn.Parameter(adapt_input_channels(first.weight.detach(), in_chans))
    return [
        *lines,
        f"{model.input_layer}.weight: made for {theirs.shape[1]} channels, adapted to {in_chans}",
    ]


def list_models() -> list[str]:
    """The names that `create_model` knows, sorted."""
    from public.families import PUBLISHED

    return sorted(PUBLISHED)
