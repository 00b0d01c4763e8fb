"""What `check_dataset` looks at in a classification data set: every picture, the classes, what two splits share."""

import hashlib

from torch.utils.data import Dataset

from public.datasets.classification_set import ClassificationSet
from public.datasets.defects import Defect
from public.datasets.preparing.checks import Seen, file_sha256
from public.input import ImageError, read_size
from public.text import shown


class LabelledPictures(Dataset):
    """Reads each picture once, as training would.

    Args:
        is_quick: only the header of each file; then no picture is hashed, and a cut one is not noticed.
    """

    def __init__(self, pictures: ClassificationSet, is_quick: bool):
        self.pictures = pictures
        self.is_quick = is_quick

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Seen:
        path = self.pictures.image_path(index)
        if self.pictures.images is not None:
            pixels = None if self.is_quick else hashlib.sha256(self.pictures.images[index].tobytes()).hexdigest()
            return Seen(path, None, pixels)
        try:
            if self.is_quick:
                read_size(path)
            else:
                self.pictures.load_picture(index)
        except ImageError as error:
            return Seen(path, Defect(error.kind, path, str(error)), file_sha256(path, self.is_quick))
        return Seen(path, None, file_sha256(path, self.is_quick))


def describe(pictures: ClassificationSet) -> list[str]:
    """Lines with the counts of pictures and classes."""
    counts = pictures.counts()
    names = list(map(shown, pictures.class_names))
    width = max(len("class"), *map(len, names))
    lines = [
        f"images   {len(pictures)}",
        f"classes  {len(counts)}, with {counts.min()} to {counts.max()} images",
        f"         {'class':<{width}}{'images':>10}",
    ]
    return lines + [f"         {name:<{width}}{count:>10}" for name, count in zip(names, counts.tolist())]
