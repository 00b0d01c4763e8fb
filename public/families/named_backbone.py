"""The backbone that a detector's settings name."""

from typing import Any

from public.models.backbone import Backbone
from public.models.backbones import build
from public.settings import Name

Options = tuple[tuple[Name, Any], ...]  # keywords of the family's `build`, such as (("bn_eps", 1e-3),)


def build_backbone(
    network: str, options: Options, strides: tuple[int, ...], *, in_chans: int, given: Backbone | None = None
) -> Backbone:
    """The maps of `strides` of the network called `network`, with initial values; or of `given`, where that is not None.

    Args:
        network: a name of `public.models.backbones.NETWORKS`.
        options: further keywords of its family's `build`: activation, attention, style, bn_eps, ...
        in_chans: channels of the images.

    Raises:
        ValueError: an unknown network, a value that the family refuses, or a stride that the backbone has not.
        TypeError: an option that the family does not know.
    """
    if given is None:
        given = build(network, num_classes=1, in_chans=in_chans, **dict(options)).backbone
    return given.select(strides)
