"""Pictures out of bytes by OpenCV, with what its decoders say about the bytes.

OpenCV hands out the pixels of a damaged JPEG or TIFF as if they were whole.  That something was wrong, libjpeg, libpng
and libtiff write to the standard error of the process, where no one can tell which file is meant.  `decode` listens there
while a picture is decoded: what it hears is about this picture.  The pixels are those that OpenCV gives in any case.

Listening takes eight system calls a picture; `python -m benchmarks.read_image` says how long that is.  One thread
listens at a time, since a process has one standard error; what others write there meanwhile is passed on.
"""

import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import cv2
import numpy as np

JPEG, JPEG_END = b"\xff\xd8", b"\xff\xd9"
SCAN, END = 0xDA, 0xD9  # markers: of a scan's header, after which coded pixels follow, and of the end
SEQUENTIAL = range(0xC0, 0xC2)  # markers of the header of a picture without progressive scans

# A marker is 0xFF and a byte.  Among coded pixels 0xFF 0x00 is a value of them, RST0 to RST7 (0xD0 .. 0xD7) belong to
# them, and 0xFF may be repeated before a marker.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)

# What libjpeg, libpng and OpenCV's log (for libtiff and others) say of bytes that are wrong, ...
_DAMAGE = re.compile(
    r"(?:Corrupt JPEG data: (?!bad ICC)|Premature end of JPEG file|Inconsistent progression sequence"
    r"|libpng error|libpng warning: .*(?:CRC|IDAT)).*|\[ERROR:\S* global \S+ \S+ (?P<words>.*)"
)
# ... and of other things: a version, a colour profile, a field that they do not know.
_NOTICE = re.compile(r"Corrupt JPEG|Invalid SOS|Unknown Adobe|Warning: unknown JFIF|libpng |\[ *[A-Z]+:\S* global ")

_listening = threading.RLock()  # a signal's handler may start a process in the thread that listens
os.register_at_fork(  # a new process must not begin with a standard error that another one listens to
    before=_listening.acquire, after_in_parent=_listening.release, after_in_child=_listening.release
)


class Decoded(NamedTuple):
    """What OpenCV made of the bytes of a picture."""

    image: np.ndarray | None  # as `cv2.imdecode` gives it; None where it can make nothing of them
    damage: str | None  # the first thing that its decoder found wrong with them, in the decoder's words


@contextmanager
def nobody_listens() -> Iterator[None]:
    """Within it, no other thread listens: for half a line to standard error, which the decoder's word must not follow."""
    with _listening:
        yield


def decode(data: bytes, flags: int) -> Decoded:
    """`cv2.imdecode` of `data`, and what the decoder noticed.

    Raises:
        cv2.error: as `cv2.imdecode`.
    """
    decoded, notices = _decode(data, flags)
    if decoded.image is not None and decoded.damage is None and notices and data.startswith(JPEG):
        # libjpeg says no more than one thing a picture, and what it said was about the header: ask again without that
        decoded = Decoded(decoded.image, _decode(_with_plain_headers(data), flags)[0].damage)
    return decoded


def _decode(data: bytes, flags: int) -> tuple[Decoded, bool]:
    """What `decode` returns, and whether the decoder remarked on something else."""
    image, text = _heard(lambda: cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags))
    damage, notices, others = None, False, []
    for line in text.splitlines(keepends=True):
        found = _DAMAGE.match(line)
        if found and damage is None:
            damage = (found["words"] or found[0]).strip()
        notices |= found is None and _NOTICE.match(line) is not None
        if not found and not _NOTICE.match(line) and image is not None:
            others.append(line)
    if others:
        os.write(2, "".join(others).encode(errors="surrogateescape"))
    return Decoded(image, damage), notices


def _heard(call: Callable[[], np.ndarray | None]) -> tuple[np.ndarray | None, str]:
    """What `call` returns, and what was written to the standard error of this process meanwhile."""
    with _listening:
        handles = [_standard_error()]
        try:
            handles += _pipe()
            kept, reader, writer = handles
            try:
                os.dup2(writer, 2)
                result = call()
            finally:
                os.dup2(kept, 2)
            try:
                text = os.read(reader, 1 << 16)
            except BlockingIOError:  # nothing was written
                text = b""
        finally:
            for handle in handles:
                os.close(handle)
    return result, text.decode(errors="surrogateescape")


def _standard_error() -> int:
    """A second handle of it; where it is closed, it is opened to the null device, lest it becomes the next file."""
    try:
        return os.dup(2)
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        if null != 2:
            os.dup2(null, 2)
            os.close(null)
        return os.dup(2)


def _pipe() -> tuple[int, int]:
    """A pipe both of whose ends never wait; what is too much for it is lost."""
    if hasattr(os, "pipe2"):  # not on macOS
        return os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    reader, writer = os.pipe()
    for handle in (reader, writer):
        os.set_blocking(handle, False)
    return reader, writer


# ------------------------------------------------------------------------------------------- the form of a JPEG


def is_cut_jpeg(data: bytes) -> bool:
    """Whether it is a JPEG without its end: the marker EOI after its scans.

    Some decoders make such a picture half grey, or coarse, without a word.  What lies after the end is no part of the
    picture, whatever it is: phones append a film, programs append zeros.
    """
    if not data.startswith(JPEG) or data.endswith(JPEG_END):
        return False
    return all(marker != END for marker, _ in _markers(data))


def _markers(data: bytes) -> Iterator[tuple[int, int]]:
    """(Marker, where what follows it begins) of a JPEG from its first header to its end, as far as there is one."""
    place = len(JPEG)
    while found := _MARKER.search(data, place):
        marker, place = data[found.end() - 1], found.end()
        yield marker, place
        if marker == END:
            return
        if marker != 0x01:  # which is the only other one without a length
            place += int.from_bytes(data[place : place + 2], "big")


def _with_plain_headers(data: bytes) -> bytes:
    """`data` without what libjpeg remarks on in a JPEG's headers; its pixels stay, but maybe for their colours."""
    plain, is_sequential = bytearray(data), False
    for marker, place in _markers(data):
        content = place + 2
        is_sequential |= marker in SEQUENTIAL
        if data.startswith(b"JFIF\0", content):
            plain[content + 5 : content + 7] = b"\1\1"  # version
        elif data.startswith(b"ICC_PROFILE\0", content):
            plain[content] = 0  # a colour profile no more
        elif data.startswith(b"Adobe", content) and len(data) > content + 11 and data[content + 11] > 2:
            plain[content + 11] = 1  # colour transform
        elif marker == SCAN and is_sequential and content < len(data):
            first = content + 1 + 2 * data[content]
            plain[first : first + 3] = b"\0\x3f\0"  # all coefficients, in full precision
    return bytes(plain)
