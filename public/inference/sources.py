"""What `detect` may be pointed at: image files, folders of them, videos, cameras."""

import re
from pathlib import Path

from public.folders import files_under, look_into
from public.input import has_picture_inside

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".jp2", ".avif"),
)


def camera_number(source: str) -> int | None:
    """The camera that `source` names, `webcam` (0), `webcam:1` or a bare number; None where it is a file or folder."""
    found = re.fullmatch(r"webcam(?::(\d+))?|(\d+)", source)
    if not found or Path(source).exists():  # a file may be called 0
        return None
    return int(found[1] or found[2] or 0)


def is_image(path: Path) -> bool:
    """Whether the file `path` is to be read as a picture: by its ending, or else by its first bytes.

    A GIF is read as a video, because it may move.
    """
    return path.suffix.lower() in IMAGE_SUFFIXES or has_picture_inside(path)


def find_images(source: Path, *, recursive: bool, leave_out: Path) -> list[Path]:
    """The image file `source`, or the images of the folder `source`, sorted; how many other files it passes over is said.

    What is hidden is no part of it, and links are followed, by the rule of `public.folders`; nor is what lies in a folder
    `leave_out` inside it: results of an earlier call.

    Raises:
        ValueError: the folder holds no image.
    """
    if source.is_file():
        return [source]
    images = _files_in(source, recursive, IMAGE_SUFFIXES, _say, leave_out)
    everything = _files_in(source, recursive, None, _say_nothing, leave_out)
    others = [path for path in everything if path.suffix.lower() not in IMAGE_SUFFIXES]
    if others:
        kinds = ", ".join(sorted({path.suffix or path.name for path in others}))
        print(f"{source}: {len(others)} files are no images and are passed over ({kinds})")
    if not images:
        hint = "" if recursive else "; --recursive looks into the folders in it as well"
        raise ValueError(f"{source} holds no image ({', '.join(IMAGE_SUFFIXES)}){hint}")
    return images


def _files_in(folder, recursive, suffixes, on_unusable, leave_out):
    """The sorted paths of the files with one of `suffixes`."""
    if recursive:
        names = files_under(folder, suffixes, on_unusable)
    else:
        names = look_into(folder, suffixes, on_unusable).files
    leave_out = leave_out.resolve()
    is_inside = folder.resolve() in leave_out.parents
    paths = sorted(folder / name for name in names)
    return [path for path in paths if not (is_inside and leave_out in path.resolve().parents)]


def _say(path: str, message: str) -> None:
    print(f"passed over: {message}")


def _say_nothing(path: str, message: str) -> None:
    """The same entries have been told of."""
