"""Fetching Pascal VOC: archives that are resumed and checked by their sha256, and unpacked whole or not at all.

A transfer that breaks goes on where it stopped, also in a later call, if the server knows HTTP's Range; else it starts
over.  Nothing is unpacked before the whole archive has the digest that stands here.  The set appears under its name in
one rename, after every image of its lists was found.  `download_cifar.py` beside it fetches CIFAR by the same rules.

Digests and sizes: tensorflow/datasets (commit 333639b), tensorflow_datasets/url_checksums/voc.txt, which lists the mirror
of pjreddie.com; a second source has the same three digests, the LFS pointers of huggingface.co/datasets/
JimmyUnleashed/Pascal_VOC (commit dd873d3).  Addresses: torchvision's datasets/voc.py.
"""

import contextlib
import fcntl
import hashlib
import http.client
import os
import posixpath
import re
import shutil
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

OFFICIAL = "http://host.robots.ox.ac.uk/pascal/VOC"
MIRROR = "https://pjreddie.com/media/files"  # holds the same archives, all in one folder
ARCHIVE_FOLDER = "VOC_archives"  # under the data root, ours: what lies there by an archive's name is used and deleted

CHUNK = 1 << 20  # bytes that are read and written at once
TIMEOUT = 60  # seconds without a byte after which a connection counts as broken
NUM_ATTEMPTS = 5  # in a row without one new byte
TEMPORARY_CODES = (408, 429, 500, 502, 503, 504)  # HTTP: try again


@dataclass(frozen=True, kw_only=True)
class Archive:
    """One file to fetch: where it is, its length in bytes, its digest, and a known mirror to name where it fails.

    Where the length is not known it is the server's that counts; of a digest, its beginning may be known, or nothing.
    """

    url: str
    size: int | None
    sha256: str | None
    mirror: str | None = MIRROR
    elsewhere: str | None = None  # what to try where it fails, in words; None: --mirror
    file: str | None = None  # its name, where the address does not end in it

    @property
    def name(self) -> str:
        return self.file or posixpath.basename(self.url)


@dataclass(frozen=True, kw_only=True)
class VocYear:
    """One year of VOC: its folder in VOCdevkit/, its archives, and how many images each list of ImageSets/Main has."""

    folder: str
    archives: tuple[Archive, ...]
    splits: dict[str, int]


VOC_YEARS = {
    2007: VocYear(
        folder="VOC2007",
        archives=(
            Archive(
                url=f"{OFFICIAL}/voc2007/VOCtrainval_06-Nov-2007.tar",
                size=460_032_000,
                sha256="7d8cd951101b0957ddfd7a530bdc8a94f06121cfc1e511bb5937e973020c7508",
            ),
            Archive(
                url=f"{OFFICIAL}/voc2007/VOCtest_06-Nov-2007.tar",
                size=451_020_800,
                sha256="6836888e2e01dca84577a849d339fa4f73e1e4f135d312430c4856b5609b4892",
            ),
        ),
        splits={"train": 2501, "val": 2510, "trainval": 5011, "test": 4952},
    ),
    2012: VocYear(
        folder="VOC2012",
        archives=(
            Archive(
                url=f"{OFFICIAL}/voc2012/VOCtrainval_11-May-2012.tar",
                size=1_999_639_040,
                sha256="e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
            ),
        ),
        splits={"train": 5717, "val": 5823, "trainval": 11540},
    ),
}


class _FinalError(OSError):
    """What another attempt would not mend."""


def download_voc(
    year: VocYear, data_root: str | os.PathLike, *, mirror: str | None, keep_archives: bool, wait: float = 2.0
) -> bool:
    """Makes `<data_root>/VOCdevkit/<year.folder>`, readable by `Voc(sources=("VOCdevkit/VOC2012/train",), ...)`.

    Args:
        data_root: an existing folder.
        mirror: a folder on the web that holds the archives by their names; None takes the official addresses.
        keep_archives: leave them in `<data_root>/VOC_archives`; otherwise they are deleted once unpacked.
        wait: seconds before the second attempt of a broken transfer; each further one waits twice as long.

    Returns:
        False where a whole set was there already, which is left as it is.

    Raises:
        OSError: the transfer failed for good, the disk is full, or another process is at work in `data_root`.  What was
            received stays, for the next call to go on from.
        ValueError: a digest is wrong, an archive holds what it should not, or an incomplete set is in the way.
    """
    data_root = Path(data_root)
    target = data_root / "VOCdevkit" / year.folder
    with only_process(data_root):
        if target.exists():
            fault = find_fault(target, year.splits)
            if fault is None:
                return False
            raise ValueError(f"{target} is there but not whole: {fault}. Move it away and run this again.")
        folder = data_root / ARCHIVE_FOLDER
        folder.mkdir(exist_ok=True)
        check_space(year.folder, year.archives, folder)
        paths = [fetch(archive, folder, mirror=mirror, wait=wait) for archive in year.archives]
        unpack(paths, target, year.splits)
        if not keep_archives:
            for path in paths:
                path.unlink()
            with contextlib.suppress(OSError):  # it holds something else
                folder.rmdir()
    return True


@contextlib.contextmanager
def only_process(folder):
    """Holds a lock on `folder`, which ends with the process."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OSError(f"another process is downloading into {folder}; wait for it, or stop it") from error
        yield
    finally:
        os.close(handle)


def check_space(name: str, archives: tuple[Archive, ...], folder: Path) -> None:
    """Refuses to begin what cannot end: the rest of the archives, and the same number of bytes again unpacked.

    Raises:
        OSError: there is less room; naming the set `name`.
    """
    needed = 0
    for archive in archives:
        if archive.size is None:
            continue
        received = sum(_size(folder / file) for file in (archive.name, f"{archive.name}.part"))
        needed += archive.size + max(archive.size - received, 0)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"{folder}: {name} needs {needed / 1e9:.2f} GB (archives and what they hold), but only "
            f"{free / 1e9:.2f} GB are free. Make room, or name another --data_root."
        )


def _size(path):
    return path.stat().st_size if path.exists() else 0


# ------------------------------------------------------------------------------------------------- transfer


def fetch(archive: Archive, folder: Path, *, mirror: str | None, wait: float, keep_refused: bool = False) -> Path:
    """The archive in `folder`, with the right digest; fetched unless it is there, from where an earlier call stopped.

    Args:
        mirror: a folder on the web that holds it by its name; None takes its own address.
        wait: seconds before the second attempt; each further one waits twice as long.
        keep_refused: what was received with a wrong digest stays, as <name>.refused; otherwise it is deleted.

    Raises:
        OSError: it cannot be had; the message names the address and the remedy.
        ValueError: what lies there, or what was received, has another digest.
    """
    path, part = folder / archive.name, folder / f"{archive.name}.part"
    if path.exists():
        _check_digest(path, archive, "Delete the file and run this again.")
        return path
    url = archive.url if mirror is None else f"{mirror.rstrip('/')}/{archive.name}"
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"{url}: a mirror has to begin with http:// or https://")
    _receive(archive, url, part, wait)
    refused = path.with_name(f"{path.name}.refused")
    fate = f"It is kept as {refused.name}" if keep_refused else "It is deleted"
    try:
        _check_digest(part, archive, f"{fate}; run this again, perhaps with {_elsewhere(archive, url)}.")
    except ValueError:
        if keep_refused:
            os.replace(part, refused)
        else:
            part.unlink()
        raise
    os.replace(part, path)
    return path


def _check_digest(path, archive, remedy):
    if archive.sha256 is None:
        return
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(archive.sha256):
        rule = "has to be" if len(archive.sha256) == len(found) else "has to begin with"
        raise ValueError(
            f"{path}: its sha256 is {found}, that of {archive.name} {rule} {archive.sha256}: the content is damaged or "
            f"another file's. {remedy}"
        )


def _receive(archive, url, part, wait):
    """Fills `part`, in as many transfers as it takes; gives up after NUM_ATTEMPTS in a row that brought nothing new."""
    most, failures, total = _size(part), 0, archive.size
    if total is not None and most > total:
        raise ValueError(f"{part} has {most} bytes, more than the {total} of {archive.name}; delete it")
    while total is None or _size(part) < total:
        try:
            total = _transfer(archive, url, part)
            reason = f"the connection ended after {_size(part)} of {total} bytes"
        except _FinalError:
            raise
        except (OSError, http.client.HTTPException) as error:
            reason = _reason(error, url, archive)
        if total is not None and _size(part) >= total:
            return
        failures = 0 if _size(part) > most else failures + 1
        most = max(most, _size(part))
        if failures == NUM_ATTEMPTS:
            raise OSError(
                f"{url}: given up after {failures} attempts without a new byte, the last time because {reason}. {part} has "
                f"{_size(part)} of {total or 'unknown'} bytes; run this again to resume, perhaps with "
                f"{_elsewhere(archive, url)}"
            )
        tqdm.write(f"{archive.name}: {reason}; trying again")
        time.sleep(wait * 2 ** max(failures - 1, 0))


def _reason(error, url, archive):
    """Why a transfer failed, in words; an error for good where another attempt would not help."""
    if isinstance(error, urllib.error.HTTPError):
        with error:
            if error.code not in TEMPORARY_CODES:
                raise _FinalError(
                    f"{url}: the server answers {error.code} {error.reason}, so {archive.name} is not available there. "
                    f"Try {_elsewhere(archive, url)}"
                ) from None
            return f"the server answers {error.code} {error.reason}"
    return str(getattr(error, "reason", error)) or type(error).__name__


def _elsewhere(archive, url):
    if archive.elsewhere is not None:
        return archive.elsewhere
    if archive.mirror is None:
        return "--mirror and an address that holds it"
    return f"--mirror {archive.mirror}" if not url.startswith(archive.mirror) else "no --mirror, or another one"


def _transfer(archive, url, part):
    """One request for what `part` lacks; the length of the whole, at the end of the answer, which may come early."""
    answer, start, total = _ask(archive, url, _size(part))
    if answer is None:
        return total
    _cut(part, start)
    with answer, open(part, "ab", buffering=0) as file:
        bar = tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=archive.name, disable=None)
        with bar:
            received = start
            while chunk := answer.read1(CHUNK):
                received += len(chunk)
                if total is not None and received > total:
                    raise _FinalError(
                        f"{url}: the server sends more than the {total} bytes of {archive.name}: it is another "
                        f"file. Try {_elsewhere(archive, url)}"
                    )
                _write(file, chunk, part)
                bar.update(len(chunk))
    return received if total is None else total


def _ask(archive, url, offset):
    """(the server's answer, the byte it begins with, the length of the whole).

    The answer begins with byte `offset`, or 0 where the server does not resume; there is none where nothing is lacking.
    The length is None where neither the archive nor the server says it: then the end of the answer is the end.
    """
    headers = {"User-Agent": "encore", "Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and error.headers.get("Content-Range") == f"bytes */{offset}":  # all of it is there
            error.close()
            return None, offset, offset
        if error.code == 416:
            raise _FinalError(
                f"{url}: the server has fewer than the {offset} bytes that were received before, which so are another "
                f"file's; move {archive.name}.part away and run this again"
            ) from error
        raise
    if answer.status == 206:
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range", ""))
        start, total = (int(span[1]), int(span[2])) if span else (None, None)
    else:
        length = answer.headers.get("Content-Length")
        start, total = 0, int(length) if length else archive.size
    if start not in (0, offset) or (archive.size is not None and total != archive.size):
        answer.close()
        raise _FinalError(
            f"{url}: the server offers {total} bytes from byte {start} on, {archive.name} has {archive.size or total}, "
            f"wanted from byte {offset} on: it is another file. Try {_elsewhere(archive, url)}"
        )
    if start < offset:
        tqdm.write(f"{archive.name}: the server does not resume; {offset} bytes are fetched again")
    return answer, start, total


def _cut(part, length):
    """Makes `part` a file of `length` bytes, the first of those it has."""
    try:
        part.touch()
        os.truncate(part, length)
    except OSError as error:
        raise _FinalError(f"{part} cannot be written: {error.strerror}") from error


def _write(file, chunk, part):
    rest = memoryview(chunk)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        raise _FinalError(
            f"{part} could not be written ({error.strerror}); what was received stays, and the next call resumes from there"
        ) from error


# ------------------------------------------------------------------------------------------------ unpacking


def unpack(archives: list[Path], target: Path, splits: dict[str, int]) -> None:
    """Unpacks the folder VOCdevkit/<name of target> of all `archives` as `target`, which appears at once, and whole.

    Only files and folders are taken; a link, a device, or a name that is absolute or leads upwards is refused, whatever it
    points to.  What lies elsewhere in an archive is left out, with a line that says so.

    Raises:
        OSError: the disk is full or cannot be written.
        ValueError: an archive is broken, holds what is refused, or the lists name images that are not there.
    """
    if not hasattr(tarfile, "data_filter"):
        raise OSError("this Python cannot unpack an archive safely; take 3.11.4 or newer")
    temporary = target.with_name(f".{target.name}.unpacking")
    shutil.rmtree(temporary, ignore_errors=True)  # what a killed process left
    try:
        temporary.mkdir(parents=True)
        for archive in archives:
            extract(archive, temporary, f"VOCdevkit/{target.name}")
        unpacked = temporary / "VOCdevkit" / target.name
        fault = find_fault(unpacked, splits)
        if fault is not None:
            raise ValueError(f"{', '.join(path.name for path in archives)}: not a whole {target.name}: {fault}")
        os.sync()  # the files are on the disk before their name is
        os.rename(unpacked, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def extract(archive: Path, folder: Path, wanted: str) -> None:
    """Unpacks what lies under `wanted` in `archive` into `folder`; see `unpack`."""
    left_out = []

    def keep(member, path):
        name = posixpath.normpath(member.name)
        if name.startswith(("/", "../")) or name == ".." or ".." in member.name.split("/") or "\\" in member.name:
            raise ValueError(f"{archive}: refuses to unpack {member.name!r}, whose name leads out of the folder")
        if not (member.isfile() or member.isdir()):
            raise ValueError(f"{archive}: refuses to unpack {member.name!r}, which is neither a file nor a folder")
        if not f"{name}/".startswith(f"{wanted}/"):
            left_out.extend([name] if member.isfile() else [])
            return None
        bar.update(1)
        return tarfile.data_filter(member, path)

    try:
        with tarfile.open(archive) as tar, tqdm(desc=f"unpacking {archive.name}", unit=" files", disable=None) as bar:
            tar.extractall(folder, filter=keep)
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"{archive}: cannot be unpacked: {error}") from error
    except OSError as error:
        raise OSError(
            f"{archive} could not be unpacked into {folder} ({error}); nothing of it is left there"
        ) from error
    if left_out:
        tqdm.write(f"{archive.name}: {len(left_out)} files outside {wanted} left out, the first is {left_out[0]}")


def find_fault(folder: Path, splits: dict[str, int]) -> str | None:
    """What keeps `folder` from being a whole set with these lists and counts; None if it is one."""
    present = {}
    for name in ("Annotations", "JPEGImages"):
        if not (folder / name).is_dir():
            return f"there is no folder {name}"
        present[name] = set(_filled_files(folder / name))
    for split, expected in splits.items():
        listing = folder / "ImageSets" / "Main" / f"{split}.txt"
        if not listing.is_file():
            return f"the list ImageSets/Main/{split}.txt is missing"
        image_ids = listing.read_text(encoding="utf-8").split()
        if len(image_ids) != expected:
            return f"ImageSets/Main/{split}.txt lists {len(image_ids)} images, not {expected}"
        for name, extension in (("Annotations", ".xml"), ("JPEGImages", ".jpg")):
            lacking = [image_id for image_id in image_ids if f"{image_id}{extension}" not in present[name]]
            if lacking:
                return f"{name} lacks {len(lacking)} files of {split}, the first is {lacking[0]}{extension}"
    return None


def _filled_files(folder) -> Iterator[str]:
    with os.scandir(folder) as entries:
        yield from (entry.name for entry in entries if entry.is_file() and entry.stat().st_size)
