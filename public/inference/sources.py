"""What `detect` may be pointed at: image files, folders of them, videos, cameras."""

import re
from pathlib import Path

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

    Hidden files are no part of it, nor is what lies in a folder `leave_out` inside it: results of an earlier call.

    Raises:
        ValueError: the folder holds no image.
    """
    if source.is_file():
        return [source]
    leave_out = leave_out.resolve()
    is_inside = source.resolve() in leave_out.parents
    inside = sorted(source.rglob("*") if recursive else source.iterdir())
    files = [
        path
        for path in inside
        if path.is_file() and not path.name.startswith(".") and not (is_inside and leave_out in path.resolve().parents)
    ]
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    others = sorted({path.suffix or path.name for path in files} - {path.suffix for path in images})
    if len(images) < len(files):
        print(f"{source}: {len(files) - len(images)} files are no images and are passed over ({', '.join(others)})")
    if not images:
        hint = "" if recursive else "; --recursive looks into the folders in it as well"
        raise ValueError(f"{source} holds no image ({', '.join(IMAGE_SUFFIXES)}){hint}")
    return images
