"""Pictures without labels, for a student that learns from its teacher alone: `Distilled(..., own_loss=False)`."""

import os
from dataclasses import dataclass
from typing import Annotated

from public.datasets.annotations import Annotations, WrittenImages, WrittenObjects, agree_on_classes, assemble
from public.datasets.defects import Defect, OnDefect, stop, telling
from public.datasets.pictures import measure
from public.datasets.voc import PICTURE_EXTENSIONS, PictureFinder, list_split
from public.folders import files_under
from public.settings import Name, NotEmpty, check


@dataclass(frozen=True, kw_only=True)
class Unlabelled:
    """A folder of pictures of which nothing is known; to an evaluation, or a loss of its own, they have no objects.

    Fields:
        folder: under the data root; with all that lies in its folders, by the rule of `public.folders`.
        listing: a text under the data root that names the pictures, one a line, with or without extension, relative to
            `folder`, such as VOC's ImageSets/Main/train.txt; None: all of them.
        classes: names in label order, those of the student and its teacher.
    """

    folder: Name
    listing: Name | None
    classes: Annotated[tuple[Name, ...], NotEmpty()]

    def __post_init__(self) -> None:
        check(self)

    def read(
        self,
        data_root: str | os.PathLike,
        class_names: tuple[str, ...] | None = None,
        on_defect: OnDefect = stop,
    ) -> Annotations:
        """Reads the names and the headers of the pictures.

        Args:
            data_root, class_names, on_defect: as of `public.datasets.voc.Voc.read`.

        Raises:
            FileNotFoundError: the folder, the listing or a picture of it is missing.
            ValueError: there is no picture, one is listed twice, a header cannot be read, or the classes differ.
        """
        data_root = os.fspath(data_root)
        description = f"pictures of {self.folder}" + ("" if self.listing is None else f", {self.listing}")
        names = agree_on_classes(self.classes, class_names, description)
        folder = os.path.join(data_root, self.folder)
        if not os.path.isdir(folder):
            raise FileNotFoundError(f"{folder}: no such folder; the page means {self.folder!r} under {data_root}")
        pictures = self._pictures(data_root, folder, on_defect)
        sizes = measure([os.path.join(folder, picture) for picture in pictures], on_defect)
        kept = [(picture, size) for picture, size in zip(pictures, sizes) if size is not None]
        if not kept:
            raise ValueError(f"{folder}: {description}: no picture to use")
        return assemble(
            WrittenImages(
                names=[os.path.join(self.folder, picture) for picture, _ in kept],
                ids=[picture for picture, _ in kept],
                heights=[height for _, (_, height) in kept],
                widths=[width for _, (width, _) in kept],
                files=[os.path.join(folder, picture) for picture, _ in kept],
            ),
            WrittenObjects(image_indices=[], boxes=[], labels=[], difficult=[], crowd=[], areas=None, numbers=[]),
            first_pixel=0,
            image_root=data_root,
            class_names=names,
            category_ids=tuple(range(1, len(names) + 1)),
            use_difficult=True,
            description=description,
            on_defect=on_defect,
        )

    def _pictures(self, data_root: str, folder: str, on_defect: OnDefect) -> list[str]:
        """The pictures' paths from `folder` on."""
        if self.listing is None:
            return sorted(files_under(folder, PICTURE_EXTENSIONS, telling(on_defect)))
        listing = os.path.join(data_root, self.listing)
        try:
            lines = list_split(listing)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{listing}: missing; the page means {self.listing!r} under {data_root}") from error
        finder = PictureFinder(folder, on_defect)
        pictures: dict[str, str] = {}  # picture -> the line that named it
        for line in lines:
            stem, extension = os.path.splitext(line)
            wanted = stem if extension.lower() in PICTURE_EXTENSIONS else line
            found = finder.find(wanted, os.path.basename(line), listing)
            if found is None:
                continue
            if found in pictures:
                message = f"{listing}: names the picture {found} twice, as {pictures[found]!r} and as {line!r}"
                on_defect(Defect("duplicate picture", os.path.join(folder, found), message))
            pictures.setdefault(found, line)
        return list(pictures)
