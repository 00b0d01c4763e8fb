"""Class folders, as ImageNet's are kept: `<folder>/<class>/<picture>`, one folder a class.

The order of the classes is that of their sorted folder names, which for ImageNet's (n01440764, n01443537, ...) is the
order in which released networks number the 1000 classes.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from public.datasets.annotations import agree_on_classes
from public.datasets.classification_set import ClassificationSet
from public.datasets.voc import PICTURE_EXTENSIONS


@dataclass(frozen=True, kw_only=True)
class ImageFolder:
    """A data set of class folders.

    Fields:
        folder: under the data root, such as "imagenet/train"; it holds a folder a class, and these hold pictures only.
        classes: names of folders, in label order; folders of other names are left out, which `summary` says.  None takes
            all, sorted.
        num_classes: how many there have to be, 1000 where the recipe says ImageNet; None takes any number.
    """

    folder: str
    classes: tuple[str, ...] | None
    num_classes: int | None

    def __post_init__(self):
        if self.classes is not None and self.num_classes not in (None, len(self.classes)):
            raise ValueError(
                f"ImageFolder.num_classes is {self.num_classes}, but classes names {len(self.classes)}; make them agree"
            )

    def read(self, data_root: str | os.PathLike, class_names: tuple[str, ...] | None = None) -> ClassificationSet:
        """Lists the pictures; they are opened when they are needed, and one that cannot be read is named then.

        Names that begin with a dot are passed over.

        Args:
            data_root: the folder that `folder` starts from.
            class_names: the classes that this set has to agree with, for instance those of the training set.

        Raises:
            FileNotFoundError: the folder, or that of a class, is missing.
            ValueError: there are more or fewer classes than `num_classes`, a class has no picture, or its folder holds
                something else than pictures.
        """
        root = Path(data_root) / self.folder
        if not root.is_dir():
            raise FileNotFoundError(f"there is no folder {root}, which has to hold a folder of pictures for each class")
        found = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
        if self.classes is None and self.num_classes not in (None, len(found)):
            raise ValueError(
                f"{root} has {len(found)} class folders, num_classes is {self.num_classes}: restore the folders that are "
                "missing, or change num_classes"
            )
        classes = agree_on_classes(self.classes or tuple(found), class_names, str(root))
        missing = [name for name in classes if name not in set(found)]
        if missing or not classes:
            raise FileNotFoundError(
                f"{root} lacks {len(missing)} of {len(classes)} class folders, the first is {missing[:1]}; it has {found[:5]}"
            )
        names, labels = [], []
        for label, name in enumerate(classes):
            pictures = _pictures(root / name)
            names += [f"{name}/{picture}" for picture in pictures]
            labels += [label] * len(pictures)
        num_left_out = len(found) - len(classes)
        return ClassificationSet(
            images=None,
            image_root=os.fspath(root),
            labels=labels,
            class_names=classes,
            image_ids=names,
            description=f"class folders {self.folder}",
            notes=[f"{num_left_out} other class folders left out"] if num_left_out else [],
        )


def _pictures(folder):
    """The sorted names of the pictures in the folder of a class."""
    names = sorted(entry.name for entry in os.scandir(folder) if not entry.name.startswith("."))
    strange = [name for name in names if os.path.splitext(name)[1].lower() not in PICTURE_EXTENSIONS]
    if strange:
        raise ValueError(
            f"{folder / strange[0]} is no picture ({', '.join(PICTURE_EXTENSIONS)}), and the folder of a class holds "
            f"nothing else; {len(strange)} such entries. Move them away."
        )
    if not names:
        raise ValueError(f"{folder} holds no picture; fill the folder, or leave the class out")
    return names
