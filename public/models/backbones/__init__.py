"""Backbones, one file a family: each lists its networks in NETWORKS and builds them, as classifiers, by `build`."""

import inspect
from difflib import get_close_matches
from types import ModuleType

from public.models.backbones import (
    csp_darknet,
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
    yolov5,
)
from public.models.image_classifier import Classifier

FAMILY_FILES: tuple[ModuleType, ...] = (
    csp_darknet,
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
    yolov5,
)

# name of the network -> the file of its family
NETWORKS: dict[str, ModuleType] = {name: family for family in FAMILY_FILES for name in family.NETWORKS}

IMAGENET_CLASSES, CIFAR_CLASSES = 1000, 100  # of a network's published form; CIFAR-100's for the names with _cifar
IMAGENET_SIZE, CIFAR_SIZE = 224, 32  # sides of the images in pixels
OTHER_SIZES = {
    "efficientnet_b1": 240,
    "efficientnet_b2": 260,
    "efficientnet_b3": 300,
    "darknet19": 256,
    "darknet53": 256,
}


def family_of(name: str) -> ModuleType:
    """The family's file for the network called `name`; ValueError, with the nearest names, where there is none."""
    if name not in NETWORKS:
        nearest = get_close_matches(name, NETWORKS, n=3) or sorted(NETWORKS)
        raise ValueError(f"no backbone is called {name!r}; did you mean {', '.join(nearest)}?")
    return NETWORKS[name]


def build(name: str, **keywords) -> Classifier:
    """The network called `name` by its family's `build`, which explains the keywords.

    Raises:
        ValueError: an unknown name, or a value that the family refuses.
        TypeError: a keyword that the family does not take, with the nearest ones, or all where none is near.
    """
    family = family_of(name)
    known = [keyword for keyword in inspect.signature(family.build).parameters if keyword != "name"]
    for keyword in keywords:
        if keyword not in known:
            nearest = get_close_matches(keyword, known, n=3) or known
            raise TypeError(f"{name} takes no keyword {keyword!r}; did you mean {', '.join(nearest)}?")
    return family.build(name, **keywords)


def published_classes(name: str) -> int:
    """How many classes the published network called `name` tells apart."""
    return CIFAR_CLASSES if name.endswith("_cifar") else IMAGENET_CLASSES


def image_size(name: str) -> int:
    """The side of the square images that the published network called `name` was made for, in pixels.

    Source: EfficientNet's published sizes, the 256 that Darknet is trained with, CIFAR's 32; 224 for all others.
    """
    return CIFAR_SIZE if name.endswith("_cifar") else OTHER_SIZES.get(name, IMAGENET_SIZE)
