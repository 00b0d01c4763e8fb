"""The two names that a class of ImageNet has: its folder's, n01440764, and the words for it, tench.

Released networks number the 1000 classes in the order of the sorted folder names, and torchvision lists the words in the
order of these numbers.
"""

import functools
import re
from collections.abc import Sequence

NUM_CLASSES = 1000
WORDNET_NUMBER = re.compile(r"n\d{8}")  # the name of a class folder of ImageNet


@functools.cache
def imagenet_words() -> tuple[str, ...]:
    """The words for the 1000 classes, by their number, as torchvision lists them."""
    from torchvision.models import ResNet50_Weights  # here, so that a data set of other names does without

    return tuple(ResNet50_Weights.IMAGENET1K_V1.meta["categories"])


def are_folder_names(names: Sequence[str]) -> bool:
    """Whether `names` are those of ImageNet's 1000 class folders, in any order, told by their number and form."""
    return len(names) == NUM_CLASSES and all(map(WORDNET_NUMBER.fullmatch, names))


def readable_names(class_names: tuple[str, ...]) -> tuple[str, ...]:
    """The names to print: the names of ImageNet's 1000 class folders with the words for them, others as they are."""
    if not are_folder_names(class_names):
        return class_names
    words = dict(zip(sorted(class_names), imagenet_words()))
    return tuple(f"{name} {words[name]}" for name in class_names)
