"""Class folders, as ImageNet's are kept: `<folder>/<class>/<picture>`, one folder a class.

The order of the classes is that of their sorted folder names, which for ImageNet's (n01440764, n01443537, ...) is the
order in which released networks number the 1000 classes.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from public.datasets.annotations import agree_on_classes
from public.datasets.classification_set import ClassificationSet
from public.datasets.imagenet_names import are_folder_names, imagenet_words
from public.datasets.voc import PICTURE_EXTENSIONS
from public.folders import look_into, stop_at_unusable
from public.settings import Count, Name, check


@dataclass(frozen=True, kw_only=True)
class ImageFolder:
    """A data set of class folders.

    Fields:
        folder: under the data root, such as "imagenet/train"; it holds a folder a class, and these hold pictures only.
        classes: names of folders, in label order; folders of other names are left out, which `summary` says.  None takes
            all, sorted.
        num_classes: how many there have to be, 1000 where the recipe says ImageNet; None takes any number.
    """

    folder: Name
    classes: tuple[Name, ...] | None
    num_classes: Count | None

    def __post_init__(self):
        check(self)
        if self.classes is not None and not self.classes:
            raise ValueError("ImageFolder.classes names no class; None takes all class folders")
        if self.classes is not None and self.num_classes not in (None, len(self.classes)):
            raise ValueError(
                f"ImageFolder.num_classes is {self.num_classes}, but classes names {len(self.classes)}; make them agree"
            )

    def read(self, data_root: str | os.PathLike, class_names: tuple[str, ...] | None = None) -> ClassificationSet:
        """Lists the pictures; they are opened when they are needed, and one that cannot be read is named then.

        What is hidden is passed over and links are followed, by the rule of `public.folders`.

        Args:
            data_root: the folder that `folder` starts from.
            class_names: the classes that this set has to agree with, for instance those of the training set.  ImageNet's
                1000 words, by which converted weights call their classes, agree with its 1000 class folders.

        Raises:
            FileNotFoundError: the folder, or that of a class, is missing, also because a link leads nowhere.
            ValueError: there are more or fewer classes than `num_classes`, others than `class_names`, a class has no
                picture, or its folder holds something else than pictures.
        """
        root = Path(data_root) / self.folder
        if not root.is_dir():
            raise FileNotFoundError(f"there is no folder {root}, which has to hold a folder of pictures for each class")
        found, num_loose = _look(root, self.classes)
        if self.classes is None and self.num_classes not in (None, len(found)):
            raise ValueError(
                f"{root} has {len(found)} class folders, num_classes is {self.num_classes}: restore the folders that are "
                "missing, or change num_classes"
            )
        classes = self._classes(root, found, class_names)
        missing = [name for name in classes if name not in set(found)]
        if missing:
            raise FileNotFoundError(
                f"{root} lacks {len(missing)} of {len(classes)} class folders, the first is {missing[:1]}; it has {found[:5]}"
            )
        names, labels = [], []
        for label, name in enumerate(classes):
            pictures = _pictures(root / name)
            names += [f"{name}/{picture}" for picture in pictures]
            labels += [label] * len(pictures)
        notes = {"other class folders": len(found) - len(classes), "pictures outside of class folders": num_loose}
        return ClassificationSet(
            images=None,
            image_root=os.fspath(root),
            labels=labels,
            class_names=classes,
            image_ids=names,
            description=f"class folders {self.folder}",
            notes=[f"{count} {what} left out" for what, count in notes.items() if count],
        )

    def _classes(self, root, found, class_names):
        """The names of the classes in label order, once it is clear that all who have a say in them agree."""
        if class_names is not None and are_folder_names(found) and tuple(class_names) == imagenet_words():
            class_names = None  # the same classes: a word has the number of its folder
        if self.classes is not None or class_names is None:
            return agree_on_classes(self.classes or tuple(found), class_names, str(root))
        lacking, other = sorted(set(class_names) - set(found)), sorted(set(found) - set(class_names))
        if lacking or other:
            raise ValueError(
                f"{root} has {len(found)} class folders, but has to agree with {len(class_names)} classes, those of the "
                f"training set or of the weights: it lacks {len(lacking)} {lacking[:3]} and has {len(other)} others "
                f"{other[:3]}"
            )
        return tuple(class_names)


def _look(root, classes):
    """The sorted names of the class folders in `root`, and how many pictures lie beside them.

    A link that leads nowhere is named, unless `classes` leave it out: one class less would number the others anew.
    """

    def on_unusable(path, message):
        if classes is None or os.path.basename(path) in classes:
            stop_at_unusable(path, message)

    inside = look_into(root, PICTURE_EXTENSIONS, on_unusable)
    found, num_loose = inside.folders, len(inside.files)
    if not found:
        raise FileNotFoundError(
            f"{root} holds no class folders, but {num_loose} pictures; put each picture into the folder of its class"
        )
    return found, num_loose


def _pictures(folder):
    """The sorted names of the pictures in the folder of a class."""
    inside = look_into(folder, PICTURE_EXTENSIONS)
    names, strange = inside.files, inside.folders + inside.others
    if strange:
        raise ValueError(
            f"{folder / strange[0]} is not a picture ({', '.join(PICTURE_EXTENSIONS)}), and the folder of a class holds "
            f"nothing else; {len(strange)} such entries. Move them away."
        )
    if not names:
        raise ValueError(f"{folder} holds no picture; fill the folder, or leave the class out")
    return names
