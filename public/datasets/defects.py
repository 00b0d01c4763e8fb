"""What can be wrong with a data set, in one form and the same words for the readers, the loader and `check_dataset`.

A reader tells each `Defect` it meets to a function `on_defect`.  The default, `stop`, raises at the first one that makes
an entry unusable; a list's `append` collects all of them, and the reader leaves the entries out.
"""

from collections.abc import Callable
from typing import NamedTuple

from public.folders import OnUnusable

# Kinds that make a picture, an annotation or an object unusable, or a measured figure wrong.
ERRORS = (
    "unusable set",
    "unusable entry",
    "missing annotation",
    "missing picture",
    "ambiguous picture",
    "empty picture",
    "truncated picture",
    "damaged picture",
    "unreadable picture",
    "wrong size",
    "broken annotation",
    "broken object",
    "unknown class",
    "unknown reference",
    "duplicate id",
    "duplicate picture",
    "box not finite",
    "inverted box",
    "empty box",
    "box outside",
    "impossible area",
    "picture in two splits",
)
WARNINGS = (
    "clipped box",
    "duplicate box",
    "similar class names",
    "class without objects",
    "root category",
    "identical pictures",
    "similar pictures",
    "picture without annotation",
    "annotation without picture",
)
DROPPED_BOXES = ("box not finite", "inverted box", "empty box", "box outside")
STOP_NO_READER = (*DROPPED_BOXES, "impossible area")  # dropped, or corrected, and noted


class Defect(NamedTuple):
    """One thing that is wrong."""

    kind: str  # one of ERRORS or WARNINGS
    file: str  # that has it
    message: str  # names the file, the object, the values and the remedy
    number: int | str | None = None  # of the object; VOC: position in the file, from 0; COCO: its id in the json
    picture: str | None = None  # the path of the picture, where a box is wrong
    box: tuple[float, ...] | None = None  # as it is written, x1 y1 x2 y2

    @property
    def is_error(self) -> bool:
        return self.kind in ERRORS

    @property
    def leaves_out(self) -> bool:
        """Whether the entry cannot be used at all; a box that is dropped is another matter, being noted in any case."""
        return self.is_error and self.kind not in STOP_NO_READER


OnDefect = Callable[[Defect], object]


def telling(on_defect: OnDefect) -> OnUnusable:
    """What `public.folders` tells of entries of a folder that cannot be used: `on_defect`, in the form of a `Defect`."""
    return lambda path, message: on_defect(Defect("unusable entry", path, message))


def stop(defect: Defect) -> None:
    """Raises what makes an entry unusable; passes over warnings, and over boxes that are dropped or corrected.

    Raises:
        FileNotFoundError: a file is missing, a link leads nowhere, or there are two files where one has to be.
        ValueError: any other defect.
    """
    if not defect.leaves_out:
        return
    if defect.kind in ("unusable entry", "missing annotation", "missing picture", "ambiguous picture"):
        raise FileNotFoundError(defect.message)
    raise ValueError(defect.message)
