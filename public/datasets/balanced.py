"""A set whose pictures of rare classes are shown oftener: settings that stand where a `Voc` or a `Coco` may stand.

train_data=Balanced(data=Coco(...), threshold=0.001)

Method: Gupta et al., LVIS (1908.03195), repeat factor sampling.  With f(c) the part of the pictures that hold an object of
class c, a class has the factor r(c) = max(1, sqrt(threshold / f(c))) and a picture the largest of its classes; a picture
without objects has 1.  `public.loading.samplers.BalancedTrainBatches` says what becomes of the factors.
"""

import os
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from public.datasets.annotations import Annotations
from public.datasets.defects import OnDefect, stop
from public.settings import Offers, Within, check


@dataclass(frozen=True, kw_only=True)
class Balanced:
    """The set `data`, for training, with a factor for each picture.

    Fields:
        data: `Voc`, `Coco`, `Yolo`, `Joined` or `Split`.
        threshold: classes that fewer than this part of the pictures hold are shown oftener; LVIS takes 0.001.
    """

    data: Annotated[Any, Offers("read", "Voc(...) or Coco(...)")]
    threshold: Annotated[float, Within(0, 1, without_low=True)]

    def __post_init__(self) -> None:
        check(self)

    def read(
        self,
        data_root: str | os.PathLike,
        class_names: tuple[str, ...] | None = None,
        on_defect: OnDefect = stop,
    ) -> Annotations:
        """Reads the set; its `repeat_threshold` says that it is to be balanced.

        Args and Raises: as of the set's own `read`.
        """
        annotations = self.data.read(data_root, class_names, on_defect)
        annotations.repeat_threshold = self.threshold
        return annotations


def repeat_factors(annotations: Annotations, threshold: float) -> np.ndarray:
    """(N,) float64, at least 1: the factor of each picture, by the objects that training gets."""
    is_trained = annotations.is_trained()
    owners = np.repeat(np.arange(len(annotations)), np.diff(annotations.offsets))[is_trained]
    labels = annotations.labels[is_trained]
    held = np.zeros((len(annotations), len(annotations.class_names)), dtype=bool)
    held[owners, labels] = True
    frequencies = held.mean(axis=0)
    of_classes = np.maximum(1.0, np.sqrt(threshold / np.maximum(frequencies, 1e-300)))
    return np.maximum(np.where(held, of_classes, 0.0).max(axis=1, initial=0.0), 1.0)
