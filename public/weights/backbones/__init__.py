"""Whose released weights each family of backbones loads: the names of their arrays -> ours, one file a family."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from public.models.backbones import family_of
from public.weights.backbones import (
    cspresnet,
    darknet,
    efficientnet,
    esnet,
    lcnet,
    mobilenetv3,
    regnet,
    repvgg,
    resnet,
    rexnet,
    shufflenetv2,
    vovnet,
)

State = dict[str, torch.Tensor]


class Released(NamedTuple):
    """The released weights of one family.

    Fields:
        sources: whose they are: torchvision, timm, paddle.
        rename: (their arrays, our name of the network) -> arrays with our names; ValueError for an array that is foreign.
        keywords: (their arrays, the renamed ones, our name of the network) -> what `build` needs for these weights beside
            the number of classes.
    """

    sources: tuple[str, ...]
    rename: Callable[[State, str], State]
    keywords: Callable[[State, State, str], dict[str, Any]] = lambda theirs, ours, name: {}


# file of the family, called alike here and in public/models/backbones -> its weights
RELEASED: dict[str, Released] = {
    "cspresnet": Released(("paddle",), cspresnet.rename, lambda theirs, ours, name: cspresnet.keywords(ours)),
    "darknet": Released(("timm",), darknet.rename),
    "efficientnet": Released(("torchvision", "timm"), efficientnet.rename),
    "esnet": Released(("paddle",), esnet.rename),
    "lcnet": Released(("paddle", "timm"), lcnet.rename, lambda theirs, ours, name: lcnet.keywords(theirs)),
    "mobilenetv3": Released(
        ("torchvision", "timm"), mobilenetv3.rename, lambda theirs, ours, name: mobilenetv3.keywords(theirs)
    ),
    "regnet": Released(
        ("torchvision", "timm"), regnet.rename, lambda theirs, ours, name: regnet.build_keywords(ours, name)
    ),
    "repvgg": Released(("timm",), repvgg.rename),
    "resnet": Released(("torchvision", "timm"), resnet.rename),
    "rexnet": Released(("timm",), rexnet.rename),
    "shufflenetv2": Released(("torchvision",), shufflenetv2.rename),
    "vovnet": Released(("timm",), vovnet.rename),
}


def released(name: str, source: str) -> Released:
    """What is known of `source`'s weights for our network called `name`.

    Raises:
        ValueError: an unknown name, or `source` has no weights of its family here, naming those that have.
    """
    known = RELEASED.get(family_of(name).__name__.rpartition(".")[2])
    if known is None or source not in known.sources:
        others = "nobody's are" if known is None else f"{' and '.join(known.sources)}'s are"
        raise ValueError(f"{source}'s weights of {name} are not known here; {others}")
    return known
