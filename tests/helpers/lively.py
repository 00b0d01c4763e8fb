"""Networks with random weights whose outputs vary from place to place, as those of a trained one do."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from public.input import InputSpec, normalise, prepare
from public.models.deformable import DeformableConv2d
from tests.helpers.tiny_data import make_picture


def pictures(count: int, height: int = 72, width: int = 100) -> list[np.ndarray]:
    """Small pictures, uint8 RGB, with things in them."""
    return [make_picture(np.random.default_rng(300 + n), height, width, 3)[0] for n in range(count)]


@torch.no_grad()
def lively(settings, spec: InputSpec) -> nn.Module:
    """The network of `settings`: random weights, statistics of BatchNorm from pictures, predictions spread, in eval mode."""
    model = settings.build_model()
    generator = torch.Generator().manual_seed(5)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | DeformableConv2d):
            nn.init.normal_(module.weight, std=1.2 / module.weight[0].numel() ** 0.5, generator=generator)
    noise = [np.random.default_rng(n).integers(0, 256, (*spec.size, 3), np.uint8) for n in range(3)]
    images = _images([*pictures(5), *noise], spec)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for module in norms:
        module.momentum = 1.0
    model.train()
    for module in norms:
        module.train()  # also where a family keeps its statistics fixed
    model(images)
    model.eval()
    for module in norms:  # a channel that hardly varies would magnify rounding
        module.running_var.clamp_(min=0.1 * float(module.running_var.mean()))
    _spread(model, images)
    return model


def _spread(model: nn.Module, images: torch.Tensor) -> None:
    """The last layers, scaled so that logits of classes have a standard deviation of 1 around -1, the others 0.5 around 0.

    CenterNet's sizes of boxes lie around 3 cells, so that no box is inside out.
    """
    last: dict[nn.Module, list[torch.Tensor]] = {}
    head = model.head
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


def _images(images: Sequence[np.ndarray], spec: InputSpec) -> torch.Tensor:
    return normalise(torch.from_numpy(np.stack([prepare(image, spec)[0] for image in images])), spec)
