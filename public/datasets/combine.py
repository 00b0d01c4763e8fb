"""Several data sets as one, and one as two: settings that stand where a `Voc`, a `Coco` or a `Yolo` may stand.

train_data=Joined(sets=(Voc(...), Coco(...)))
train_data=Split(data=Voc(...), part="train", val_fraction=0.1, seed=0)
val_data=Split(data=Voc(...), part="val", val_fraction=0.1, seed=0)
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np

from public.datasets.annotations import Annotations
from public.datasets.defects import OnDefect, stop
from public.random_streams import derive
from public.settings import Natural, NotEmpty, Offers, Within, check

DataSet = Annotated[Any, Offers("read", "Voc(...) or Coco(...)")]


@dataclass(frozen=True, kw_only=True)
class Joined:
    """The union of several sets, in their order.

    - The id of an image is "<k>:<its id in set k>", k from 0, always text, so that equal ids of two sets stay apart.
    - The classes are those of the first set, or those that the configuration prescribes; the others have to agree.
      `category_ids` are those of the first set.
    - Difficult and crowd objects keep their marks.  Sets with difficult objects have to agree on training on them.
    - A picture may be in one set only.

    Fields:
        sets: `Voc`, `Coco`, `Yolo`, `Joined` or `Split`; each leaves its empty images out or not, as it says itself.
    """

    sets: Annotated[tuple[DataSet, ...], NotEmpty()]

    def __post_init__(self) -> None:
        check(self)

    def read(
        self,
        data_root: str | os.PathLike,
        class_names: tuple[str, ...] | None = None,
        on_defect: OnDefect = stop,
    ) -> Annotations:
        """Reads all sets.

        Args:
            data_root, class_names, on_defect: as of `Voc.read`.

        Raises:
            FileNotFoundError, ValueError: as the sets raise them; two sets hold the same picture, or differ in
                `use_difficult`.
        """
        parts = []
        for data in self.sets:
            parts.append(data.read(data_root, class_names, on_defect))
            class_names = parts[0].class_names
            if parts[-1].repeat_threshold is not None:
                raise ValueError(
                    f"{parts[-1].description} is Balanced(...), which goes around Joined(...), not into it"
                )
        names = [_names_under(data_root, part) for part in parts]
        _check_apart(names, parts)
        return Annotations(
            image_root=os.fspath(data_root),
            image_names=[name for part in names for name in part],
            image_ids=[f"{k}:{image_id}" for k, part in enumerate(parts) for image_id in part.image_ids.tolist()],
            offsets=np.concatenate([[0], np.cumsum(np.concatenate([np.diff(part.offsets) for part in parts]))]),
            **{
                name: np.concatenate([getattr(part, name) for part in parts])
                for name in ("heights", "widths", "boxes", "labels", "difficult", "crowd", "areas")
            },
            class_names=parts[0].class_names,
            category_ids=parts[0].category_ids,
            use_difficult=_agreed_use_of_difficult(parts),
            description=" + ".join(part.description for part in parts),
            dropped=[line for part in parts for line in part.dropped],
            clipped=[line for part in parts for line in part.clipped],
            corrected=[line for part in parts for line in part.corrected],
            warnings=[line for part in parts for line in part.warnings],
        )


def _names_under(data_root, part):
    """The pictures' paths from the data root on, in one spelling."""
    root = os.path.relpath(part.image_root, data_root)
    return [os.path.normpath(os.path.join(root, part.image_name(i))) for i in range(len(part))]


def _check_apart(names, parts):
    first = {}
    for part, part_names in zip(parts, names):
        for name in part_names:
            other = first.setdefault(name, part)
            if other is not part:
                raise ValueError(
                    f"{name} is in two of the joined sets, {other.description} and {part.description}. Each image counts "
                    "once: take it out of one of them."
                )


def _agreed_use_of_difficult(parts):
    uses = {part.use_difficult: part for part in parts if part.difficult.any()}
    if len(uses) == 2:
        raise ValueError(
            f"{uses[True].description} trains on difficult objects, {uses[False].description} does not: give the joined "
            "sets the same use_difficult"
        )
    return next(iter(uses), parts[0].use_difficult)


@dataclass(frozen=True, kw_only=True)
class Split:
    """One of the two parts of a set that has no validation part of its own.

    The rule: an image goes to "val" if its hash is below val_fraction of the hash's range, and to "train" otherwise; the
    hash is the 64-bit number `public.random_streams.derive(seed, "split", image id)`.  It knows nothing of the other
    images, their order or the machine: images that are added or taken away move no other, and the parts, read with the
    same seed and fraction, have no image in common and together are the whole.  The fraction is of the range, so a part of
    n images has a share of the set within a few times 1 / sqrt(n) of it.  Images keep their order.

    Fields:
        data: `Voc`, `Coco`, `Yolo` or `Joined`; of classification, `ImageFolder` or `Cifar`.
        part: "train" or "val".
        val_fraction: between 0 and 1.
        seed: of this split alone; the run's seed has no part in it.
    """

    data: DataSet
    part: Literal["train", "val"]
    val_fraction: Annotated[float, Within(0, 1, without_low=True, without_high=True)]
    seed: Natural

    def __post_init__(self) -> None:
        check(self)

    def read(
        self,
        data_root: str | os.PathLike,
        class_names: tuple[str, ...] | None = None,
        on_defect: OnDefect = stop,
    ) -> Any:
        """Reads the whole set, and takes the part: `Annotations` or a `ClassificationSet`, as `data` is read.

        The notes on boxes are those of the whole set.

        Args:
            data_root, class_names, on_defect: as of `Voc.read`.

        Raises:
            FileNotFoundError, ValueError: as `data` raises them; the part has no image.
        """
        if on_defect is stop:  # sets of classification are not asked for their defects
            whole = self.data.read(data_root, class_names)
        else:
            whole = self.data.read(data_root, class_names, on_defect)
        is_val = are_held_back(whole.image_ids.tolist(), self.val_fraction, self.seed)
        indices = np.flatnonzero(is_val == (self.part == "val"))
        description = f"{self.part} part ({self.val_fraction:g} is val, seed {self.seed}) of {whole.description}"
        if not len(indices):
            raise ValueError(
                f"{description}: none of the {len(whole)} images is in it; change val_fraction or the seed of the split"
            )
        return whole.take(indices, description)


def are_held_back(image_ids: Sequence[str | int], val_fraction: float, seed: int) -> np.ndarray:
    """(N,) bool: the images that `Split` puts into "val", by its rule."""
    limit = val_fraction * 2**64
    return np.array([derive(seed, "split", image_id) < limit for image_id in image_ids])
