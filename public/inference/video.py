"""Video files and cameras: frames in, frames out, as uint8 RGB (H, W, 3).

Written videos keep the size of the frames to the pixel.  OpenCV's FFmpeg writer silently drops the last row or column of
odd sizes, so these go through OpenCV's own Motion JPEG writer, which has no such limit; it knows whole frame rates
only, so the exact rate is put into the file's header afterwards.
"""

import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

TEMPORARY = f"encore_video_{os.getpid()}.tmp"  # of the file that is being written
MAX_FPS = 1000.0  # above it a stated frame rate is a mistake of the file
COUNTED = (
    ".mp4",
    ".m4v",
    ".mov",
    ".avi",
)  # files of these kinds state their number of frames; of others it is estimated


class VideoError(ValueError):
    """A video or camera that cannot be used; the message names it and the reason."""


class Codec(NamedTuple):
    suffix: str
    fourcc: str
    backend: int
    takes_odd_sizes: bool


CODECS = (  # the first that can write the size is taken
    Codec(".mp4", "mp4v", cv2.CAP_FFMPEG, takes_odd_sizes=False),
    Codec(".avi", "MJPG", cv2.CAP_OPENCV_MJPEG, takes_odd_sizes=True),
)


class Video:
    """The frames of a video file or of a camera, turned as the file says; iterable once.

    Attributes:
        name: for messages.
        fps: frames a second, or None where the source states none.
        num_stated: how many frames the file says it has, or None.
        num_read: how many have been read so far.
    """

    def __init__(self, *, capture, name: str):
        self._capture, self.name, self.num_read = capture, name, 0
        fps, count = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.fps = fps if 0 < fps <= MAX_FPS else None
        self.num_stated = int(count) if 0 < count < 1e9 else None

    def __iter__(self) -> Iterator[np.ndarray]:
        while True:
            is_read, frame = self._capture.read()
            if not is_read:
                return
            self.num_read += 1
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)

    def close(self) -> None:
        self._capture.release()


def open_video(path: str | Path) -> Video:
    """The video file `path`.

    Raises:
        FileNotFoundError: there is no such file.
        VideoError: it is no video that OpenCV can read.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    capture = _open_file(path)
    if not capture.isOpened():
        raise VideoError(f"{path}: neither a picture nor a video that OpenCV can read ({path.stat().st_size} bytes)")
    return Video(capture=capture, name=str(path))


def open_camera(number: int) -> Video:
    """Camera `number` of this machine, from 0.

    Raises:
        VideoError: it cannot be opened.
    """
    with _quiet_opencv():
        capture = cv2.VideoCapture(number)
    if not capture.isOpened():
        raise VideoError(
            f"camera {number} cannot be opened: is it there, free, and may you use it? Others: webcam:0, webcam:1, ..."
        )
    return Video(capture=capture, name=f"camera {number}")


class VideoFile:
    """A video being written: `<stem>.mp4`, or `<stem>.avi` where the size is odd or OpenCV has no MPEG-4 encoder.

    The frames go to a temporary file that is renamed by `close()`, which leaving a `with` block calls, also after an
    error or Ctrl-C: what has been written by then can be played.

    Args:
        stem: the file without its ending.
        fps: frames a second.
    """

    def __init__(self, *, stem: str | Path, fps: float):
        if not 0 < fps <= MAX_FPS:
            raise ValueError(f"{fps} frames a second cannot be written; it must be above 0 and at most {MAX_FPS:g}")
        self.stem, self.fps, self.num_frames = Path(stem), fps, 0
        self.path: Path | None = None  # known from the first frame on
        self._writer: cv2.VideoWriter | None = None
        self._size: tuple[int, int] = (0, 0)
        self._codec: Codec | None = None

    def __enter__(self) -> "VideoFile":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def write(self, image: np.ndarray) -> None:
        """Appends a frame, uint8 RGB (H, W, 3).

        Raises:
            VideoError: it is of another size than the first, or no encoder can be opened.
        """
        size = (image.shape[1], image.shape[0])
        if self._writer is None:
            self._open(size)
            assert self._writer is not None
        if size != self._size:
            raise VideoError(
                f"frame {self.num_frames} has {size[0]} x {size[1]} pixels, the first one {self._size[0]} x "
                f"{self._size[1]}: one video holds one size"
            )
        self._writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        self.num_frames += 1

    def close(self) -> None:
        """Ends the file and gives it its name; without a frame there is none.

        Raises:
            OSError: fewer frames are in the file than were written, as on a full disk.
        """
        if self._writer is None:
            return
        self._writer.release()
        self._writer = None
        try:
            assert self._codec is not None
            assert self.path is not None
            if self._codec.backend == cv2.CAP_OPENCV_MJPEG:
                _set_avi_rate(self._temporary, self.fps)
            held = _count_frames(self._temporary)
            if held != self.num_frames:  # OpenCV's writers do not report errors
                raise OSError(f"{self.path} holds {held} of {self.num_frames} frames; is the disk full?")
            os.replace(self._temporary, self.path)
        finally:
            self._temporary.unlink(missing_ok=True)

    @property
    def _temporary(self) -> Path:
        assert self.path is not None, "known from the first frame on"
        return self.path.with_name(f".{TEMPORARY}{self.path.suffix}")  # the ending tells OpenCV the format

    def _open(self, size: tuple[int, int]) -> None:
        is_odd = size[0] % 2 or size[1] % 2
        for codec in CODECS:
            if is_odd and not codec.takes_odd_sizes:
                continue
            self.path = self.stem.with_name(self.stem.name + codec.suffix)
            with _quiet_opencv(), _plain_link(self._temporary.parent) as folder:
                writer = cv2.VideoWriter(
                    os.path.join(folder, self._temporary.name),
                    codec.backend,
                    cv2.VideoWriter_fourcc(*codec.fourcc),  # type: ignore[attr-defined]  # OpenCV's stubs lack it
                    self.fps,
                    size,
                )
            if writer.isOpened():
                self._writer, self._size, self._codec = writer, size, codec
                return
            self._temporary.unlink(missing_ok=True)
        tried = ", ".join(f"{codec.fourcc} in {codec.suffix}" for codec in CODECS)
        raise VideoError(
            f"no video of {size[0]} x {size[1]} pixels can be written to {self.stem.parent}; tried {tried}"
        )


def _count_frames(path: Path) -> int:
    capture = _open_file(path)
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
    capture.release()
    return count


def _set_avi_rate(path: Path, fps: float) -> None:
    """Writes the exact frame rate into the headers of an AVI file: `avih` in microseconds, `strh` as a fraction.

    Field offsets: Microsoft's "AVI RIFF File Reference", AVIMAINHEADER and AVISTREAMHEADER.
    """
    rate = Fraction(fps).limit_denominator(1001)  # 29.97 is 30000 / 1001
    with open(path, "r+b") as file:
        head = file.read(4096)
        file.seek(head.index(b"avih") + 8)
        file.write(struct.pack("<I", round(1e6 / fps)))
        file.seek(head.index(b"strh") + 8 + 20)
        file.write(struct.pack("<II", rate.denominator, rate.numerator))


def _open_file(path: Path) -> cv2.VideoCapture:
    with _quiet_opencv(), _plain_link(path) as link:
        return cv2.VideoCapture(link)


@contextmanager
def _plain_link(path: Path) -> Iterator[str]:
    """Another name for `path`, a file or a folder, that OpenCV can be given while it opens the file.

    A name that is no UTF-8 ends the process in OpenCV, and FFmpeg takes a % in a name for the number of a picture.
    """
    root = tempfile.gettempdir()
    with tempfile.TemporaryDirectory(prefix="encore", dir=root if root.isascii() else "/tmp") as folder:
        is_plain = path.suffix.isascii() and path.suffix[1:].isalnum()
        link = os.path.join(folder, f"video{path.suffix}" if is_plain else "video")
        os.symlink(path.resolve(), link)
        yield link


@contextmanager
def _quiet_opencv():
    """OpenCV's and FFmpeg's own lines on stderr stay away: what fails is reported here, in one line.

    FFmpeg's part reads its variable once in a process; a value of the user's own is kept.
    """
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET
    logging = cv2.utils.logging
    level = logging.getLogLevel()
    logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(level)
