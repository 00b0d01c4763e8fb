"""What `check_dataset` looks at in a classification data set: every picture, the classes, what two splits share."""

from torch.utils.data import Dataset

from public.datasets.classification_set import ClassificationSet
from public.datasets.defects import Defect
from public.datasets.preparing.checks import Seen, file_sha256, seen_whole
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
        is_file = self.pictures.images is None
        try:
            if not self.is_quick:
                sha256 = file_sha256(path, is_quick=False) if is_file else None
                return seen_whole(path, sha256, self.pictures.load_picture(index))
            if is_file:
                read_size(path)
        except ImageError as error:
            return Seen(path, Defect(error.kind, path, str(error)), file_sha256(path, self.is_quick))
        return Seen(path, None, None)


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
