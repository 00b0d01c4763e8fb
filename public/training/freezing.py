"""Parts of a network that are not trained."""

from torch import nn

from public.parts import own_parameters


def freeze_parameters(model: nn.Module, prefixes: tuple[str, ...]) -> int:
    """Takes the parameters whose names are, or are inside, one of `prefixes` out of training; how many values those are.

    Raises:
        ValueError: a prefix fits no parameter.
    """
    frozen = 0
    for prefix in prefixes:
        found = [p for name, p in own_parameters(model) if _is_under(name, prefix)]
        if not found:
            raise ValueError(f"freeze names {prefix!r}, but no parameter of the model starts with it")
        for parameter in found:
            frozen += parameter.numel() if parameter.requires_grad else 0
            parameter.requires_grad_(False)
    return frozen


def batchnorm_layers(model: nn.Module, prefixes: tuple[str, ...]) -> list[nn.Module]:
    """The BatchNorm layers whose names are, or are inside, one of `prefixes`.

    Left in eval mode they keep their running statistics and normalise by them; whether their scale and shift are trained
    is another matter (`freeze_parameters`).

    Raises:
        ValueError: a prefix fits no BatchNorm layer.
    """
    layers: list[nn.Module] = []
    for prefix in prefixes:
        found = [m for name, m in model.named_modules() if _is_under(name, prefix) and isinstance(m, nn.BatchNorm2d)]
        if not found:
            raise ValueError(f"freeze_batchnorm names {prefix!r}, but no BatchNorm of the model starts with it")
        layers += found
    return layers


def _is_under(name: str, prefix: str) -> bool:
    """Whether `name` is the module or parameter `prefix` or inside it: backbone.stages.1 is not in backbone.stages.10."""
    return f"{name}.".startswith(f"{prefix}.")
