"""Networks with random weights whose outputs vary from place to place, as those of a trained one do.

With a new network equal outputs prove nothing: its scores are the same everywhere.  For the table of `docs/export.md`, and
tests.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from public import random_streams
from public.input import ClassificationInput, InputSpec, normalise, prepare, prepare_crop
from public.models.deformable import DeformableConv2d


@torch.no_grad()
def make_lively(model: nn.Module, spec: InputSpec | ClassificationInput, pictures: Sequence[np.ndarray]) -> nn.Module:
    """`model` with random weights, statistics of BatchNorm from `pictures` and noise, predictions spread, in eval mode."""
    generator = torch.Generator().manual_seed(5)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | DeformableConv2d):
            nn.init.normal_(module.weight, std=1.2 / module.weight[0].numel() ** 0.5, generator=generator)
    for module in model.modules():
        if isinstance(module, DeformableConv2d):
            nn.init.normal_(module.offset.weight, std=0.02, generator=generator)
    noise = [random_streams.stream(0, f"lively {n}").integers(0, 256, (*spec.size, 3), np.uint8) for n in range(3)]
    images = _images([*pictures, *noise], spec)
    norms: list[Any] = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
    model.train()
    for norm in norms:
        norm.train()  # also where a family keeps its statistics fixed
    model(images)
    model.eval()
    for norm in norms:
        variance = norm.running_var  # of every BatchNorm
        variance.clamp_(min=0.1 * float(variance.mean()))  # a channel that hardly varies would magnify rounding
    if hasattr(model, "head") and isinstance(spec, InputSpec):
        _spread(model, images)
    return model


def _spread(model: nn.Module, images: torch.Tensor) -> None:
    """The last layers, scaled so that logits of classes have a standard deviation of 1 around -1, the others 0.5 around 0.

    CenterNet's sizes of boxes lie around 3 cells, so that no box is inside out.
    """
    last: dict[Any, list[torch.Tensor]] = {}
    head: Any = model.head
    means = {module: 3.0 for name, module in head.named_modules() if name.startswith("size.")}
    classes = {m for name, m in head.named_modules() if any(part in name for part in ("cls", "class", "obj", "heat"))}
    hooks = [
        module.register_forward_hook(lambda m, _, out: last.setdefault(m, []).append(out))
        for name, module in head.named_modules()
        if isinstance(module, nn.Conv2d) and "pred" in name
    ]
    model(images)
    for hook in hooks:
        hook.remove()
    for module, outputs in last.items():
        values = torch.cat([out.flatten() for out in outputs])
        module.weight.mul_((1.0 if module in classes else 0.5) / values.std().clamp(min=1e-3))
        if module.bias is not None:
            nn.init.constant_(module.bias, -1.0 if module in classes else means.get(module, 0.0))


def _images(pictures: Sequence[np.ndarray], spec: InputSpec | ClassificationInput) -> torch.Tensor:
    prepared = [(prepare(p, spec) if isinstance(spec, InputSpec) else prepare_crop(p, spec))[0] for p in pictures]
    return normalise(torch.from_numpy(np.stack(prepared)), spec)
