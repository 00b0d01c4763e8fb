"""Starting weights: taking the weights of a checkpoint over into a model, with nothing skipped in silence."""

from pathlib import Path

from torch import nn

from public.training.checkpoint import load_checkpoint


def load_starting_weights(model: nn.Module, path: Path) -> list[str]:
    """Loads the weights of checkpoint `path` into `model`; returns a line for each parameter that could not be taken.

    Only class layers (`model.class_layers`, beginnings of names) may differ, and only where the numbers of classes do.

    Raises:
        ValueError: naming a parameter and the two shapes that disagree, or the names that one side lacks.
    """
    checkpoint = load_checkpoint(path)
    state, own = checkpoint["model"], model.state_dict()
    missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or unknown:
        raise ValueError(
            f"{path} does not fit the model: it lacks {missing[:5]}, the model does not know {unknown[:5]}"
        )
    left_out = []
    for name, value in state.items():
        if value.shape == own[name].shape:
            continue
        if checkpoint["num_classes"] == model.num_classes or not name.startswith(model.class_layers):
            raise ValueError(f"{path}: {name} has shape {tuple(value.shape)}, the model's has {tuple(own[name].shape)}")
        left_out.append(f"{name}: {tuple(value.shape)} in the file, {tuple(own[name].shape)} here; initial values kept")
    names = {line.split(":")[0] for line in left_out}
    model.load_state_dict({name: own[name] if name in names else value for name, value in state.items()})
    return left_out
