"""Pictures with things in them, and networks whose outputs vary with what they see."""

import numpy as np
from torch import nn

from public.export.lively import make_lively
from public.input import InputSpec
from tests.helpers.tiny_data import make_picture


def pictures(count: int, height: int = 72, width: int = 100) -> list[np.ndarray]:
    """Small pictures, uint8 RGB, with things in them."""
    return [make_picture(np.random.default_rng(300 + n), height, width, 3)[0] for n in range(count)]


def lively(settings, spec: InputSpec) -> nn.Module:
    """The network of `settings`; see `public.export.lively`."""
    return make_lively(settings.build_model(), spec, pictures(5))
