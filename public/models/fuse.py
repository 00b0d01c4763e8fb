"""Re-parameterisation for inference: the same function with fewer layers."""

from torch import nn

from public.parts import copy_without


def fuse(model: nn.Module) -> nn.Module:
    """A copy of `model` in eval mode, in which every block that has a method `fused()` is replaced by its result.

    BatchNorm is folded into the convolution before it, and the branches of a RepVGG block become one convolution.  The
    outputs agree with those of `model.eval()` up to rounding.  `model` itself is not touched, nor are the random
    number generators.  A block that stands at two places of the model is still one block in the copy.  The children
    that the model names in `training_only`, such as an auxiliary head or a teacher, are left out.
    """
    left_out = (name for name in getattr(model, "training_only", ()) if hasattr(model, name))
    model = copy_without(model, tuple(left_out)).eval()
    if callable(fused := getattr(model, "fused", None)):
        return fused().eval()
    _replace_children(model, {})
    return model


def _replace_children(module: nn.Module, done: dict[nn.Module, nn.Module]) -> None:
    for name, child in module._modules.items():
        if child is None:
            continue
        if callable(fused := getattr(child, "fused", None)):
            if child not in done:
                done[child] = fused().eval()
            module._modules[name] = done[child]
        else:
            _replace_children(child, done)
