"""Labelled pictures: the pictures of a classification data set and the class of each, in a few flat arrays.

The pictures are either all in memory, uint8 (N, H, W, 3), or files under one folder.  N pictures, K classes.
"""

import copy
import hashlib
import os
from collections.abc import Sequence

import numpy as np

from public.datasets.annotations import exact_ids
from public.folders import where_it_leads
from public.input import ImageError, read_image
from public.settings import refuse_text


class ClassificationSet:
    """The pictures and classes of one data set; made by `Cifar.read` and `ImageFolder.read`.

    Attributes:
        warnings: as of `Annotations`; there are none yet.
        images: (N, H, W, 3) uint8 RGB, or None where the pictures are files.
        image_root: the folder that the names of the files start from; None where the pictures are in memory.
        labels: (N,) int64, numbers into `class_names`.
        class_names: tuple of K.
        image_ids: (N,) text, the data set's own names of the pictures; see `exact_ids`.
        description: for messages.
        notes: lines on what was left out on purpose, for the summary.

    Raises:
        ValueError: the numbers of pictures, names and labels differ, or a label names no class.
    """

    warnings: tuple[str, ...] = ()

    def __init__(
        self,
        *,
        images: np.ndarray | None,
        image_root: str | None,
        labels: Sequence[int] | np.ndarray,
        class_names: Sequence[str],
        image_ids: Sequence[str],
        description: str,
        notes: Sequence[str] = (),
    ):
        refuse_text(description, class_names=class_names)
        if (images is None) == (image_root is None):
            raise ValueError(f"{description}: the pictures are either in memory or files: give images or image_root")
        self.images = images
        self.image_root = None if image_root is None else str(image_root)
        self.labels = np.asarray(labels, dtype=np.int64)
        self.class_names = tuple(class_names)
        self.image_ids = exact_ids([str(image_id) for image_id in image_ids])
        self.description = description
        self.notes = tuple(notes)
        self._check()

    def _check(self):
        counts = {"labels": len(self.labels), "image ids": len(self.image_ids)}
        if self.images is not None:
            counts["images"] = len(self.images)
            if self.images.dtype != np.uint8 or self.images.ndim != 4 or self.images.shape[3] != 3:
                raise ValueError(
                    f"{self.description}: the pictures are {self.images.dtype} {self.images.shape}, not uint8 (N, H, W, 3)"
                )
        if len(set(counts.values())) != 1:
            raise ValueError(f"{self.description}: the counts differ: {counts}")
        wrong = np.flatnonzero((self.labels < 0) | (self.labels >= len(self.class_names)))
        if len(wrong):
            first = wrong[0]
            raise ValueError(
                f"{self.description}: picture {self.image_ids[first]} has the label {self.labels[first]}, but there are "
                f"{len(self.class_names)} classes, numbered from 0; {len(wrong)} labels are wrong"
            )

    def __len__(self) -> int:
        """The number of pictures."""
        return len(self.labels)

    def image_id(self, index: int) -> str:
        """The data set's own name of the picture."""
        return str(self.image_ids[index])

    def image_path(self, index: int) -> str:
        """Where the picture is, for messages; its file where it has one."""
        if self.image_root is None:
            return f"{self.description}, picture {self.image_id(index)}"
        return os.path.join(self.image_root, self.image_id(index))

    def picture_files(self) -> list[str]:
        """The files of all pictures; none where they are in memory."""
        return [] if self.images is not None else [self.image_path(index) for index in range(len(self))]

    def load_picture(self, index: int) -> np.ndarray:
        """The picture (H, W, 3) uint8 RGB; in memory a view, not to be written into.

        Raises:
            ImageError: its file cannot be read; the message names it.
        """
        return read_image(self.image_path(index)) if self.images is None else self.images[index]

    def take(self, indices: Sequence[int] | np.ndarray, description: str) -> "ClassificationSet":
        """The pictures at `indices`, in that order, as a set of its own."""
        indices = np.asarray(indices, dtype=np.int64)
        part = copy.copy(self)
        part.description = description
        part.images = None if self.images is None else self.images[indices]
        part.labels, part.image_ids = self.labels[indices], self.image_ids[indices]
        return part

    def limit(self, num_images: int) -> "ClassificationSet":
        """`num_images` pictures at even distances, or all if there are fewer.

        The first ones would not do: class folders are read one after the other, so they would be all of one class.

        Raises:
            ValueError: it is less than 1.
        """
        if num_images < 1:
            raise ValueError(f"{self.description}: cannot be limited to {num_images} images, at least 1 is needed")
        if num_images >= len(self):
            return self
        return self.take(self.evenly(num_images), f"{num_images} images, evenly from {self.description}")

    def evenly(self, num_images: int) -> np.ndarray:
        """Positions of `num_images` pictures at even distances, or of all if there are fewer, rising."""
        count = min(num_images, len(self))
        return np.arange(count) * len(self) // max(count, 1)

    def fingerprint(self, *, allow_missing: bool = False) -> str:
        """SHA-256 (hex) of the labels, the names and the pixels, or of the sizes of the files instead of the pixels.

        It does not depend on where the data lie.

        Args:
            allow_missing: a file that is not there counts with the size -1.

        Raises:
            ImageError: a file is missing, and that is not allowed.
        """
        digest = hashlib.sha256()
        pixels = self.images
        if pixels is None:
            sizes = [self._file_size(self.image_path(i), allow_missing) for i in range(len(self))]
            pixels = np.array(sizes, dtype=np.int64)
        for array in (pixels, self.labels):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        digest.update(os.fsencode("\0".join(self.image_ids.tolist())))
        digest.update(repr(self.class_names).encode())
        return digest.hexdigest()

    def _file_size(self, path, allow_missing):
        try:
            return os.stat(path).st_size
        except FileNotFoundError as error:
            if allow_missing:
                return -1
            told = f"{path}: missing{where_it_leads(path)}, though {self.description} lists it"
            raise ImageError(told, "missing picture") from error

    def counts(self) -> np.ndarray:
        """(K,) int64: the pictures of each class."""
        return np.bincount(self.labels, minlength=len(self.class_names))

    def summary(self) -> str:
        """One line with the counts a reader should see before a run."""
        counts = self.counts()
        parts = [f"{len(self)} images", f"{len(self.class_names)} classes"]
        parts += [f"{counts.min()} to {counts.max()} images a class", *self.notes]
        return f"{self.description}: " + ", ".join(parts)
