"""Fetching CIFAR-10 and CIFAR-100, by the rules of `download.py` beside it: resumed, checked by sha256, unpacked whole.

Digests: keras-team/keras, keras/src/datasets/cifar10.py (commit 7e4b17c) and cifar100.py (commit 69b9ad0).  Sizes: found
with the same digests in public projects that fetched the archives (170,498,071 and 169,001,437 bytes).
"""

import contextlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from public.datasets.cifar import Cifar
from public.datasets.classification_set import ClassificationSet
from public.datasets.preparing.download import ARCHIVE_FOLDER as VOC_FOLDER
from public.datasets.preparing.download import Archive, check_space, extract, fetch, only_process

OFFICIAL = "https://www.cs.toronto.edu/~kriz"
ARCHIVE_FOLDER = VOC_FOLDER.replace("VOC", "CIFAR")  # under the data root, ours


@dataclass(frozen=True, kw_only=True)
class CifarArchive:
    """The folder that an archive holds, and the archive."""

    folder: str
    archive: Archive


ARCHIVES = {
    10: CifarArchive(
        folder="cifar-10-batches-py",
        archive=Archive(
            url=f"{OFFICIAL}/cifar-10-python.tar.gz",
            size=170_498_071,
            sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
            mirror=None,
        ),
    ),
    100: CifarArchive(
        folder="cifar-100-python",
        archive=Archive(
            url=f"{OFFICIAL}/cifar-100-python.tar.gz",
            size=169_001_437,
            sha256="85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
            mirror=None,
        ),
    ),
}


def download_cifar(
    known: CifarArchive, data_root: str | os.PathLike, *, mirror: str | None, keep_archive: bool, wait: float = 2.0
) -> bool:
    """Makes `<data_root>/<known.folder>`, readable by `Cifar(archive=known.folder, split="train")`.

    Args:
        data_root: an existing folder.
        mirror: a folder on the web that holds the archive by its name; None takes the official address.
        keep_archive: leave it in `<data_root>/CIFAR_archives`; otherwise it is deleted once unpacked.
        wait: seconds before the second attempt of a broken transfer; each further one waits twice as long.

    Returns:
        False where a whole set was there already, which is left as it is.

    Raises:
        OSError: the transfer failed for good, the disk is full, or another process is at work in `data_root`.  What was
            received stays, for the next call to go on from.
        ValueError: the digest is wrong, the archive holds what it should not, or an incomplete set is in the way.
    """
    data_root = Path(data_root)
    target = data_root / known.folder
    with only_process(data_root):
        if target.exists():
            try:
                read_both(target)
            except (OSError, ValueError) as error:
                raise ValueError(
                    f"{target} is there but not whole: {error}. Move it away and run this again."
                ) from error
            return False
        folder = data_root / ARCHIVE_FOLDER
        folder.mkdir(exist_ok=True)
        check_space(known.folder, (known.archive,), folder)
        path = fetch(known.archive, folder, mirror=mirror, wait=wait)
        _unpack(path, target)
        if not keep_archive:
            path.unlink()
            with contextlib.suppress(OSError):  # it holds something else
                folder.rmdir()
    return True


def _unpack(archive, target):
    """Unpacks the folder of the archive as `target`, which appears at once, and whole."""
    temporary = target.with_name(f".{target.name}.unpacking")
    shutil.rmtree(temporary, ignore_errors=True)  # what a killed process left
    try:
        temporary.mkdir()
        extract(archive, temporary, target.name)
        try:
            read_both(temporary / target.name)
        except (OSError, ValueError) as error:
            raise ValueError(f"{archive.name}: not a whole {target.name}: {error}") from error
        os.sync()  # the files are on the disk before their name is
        os.rename(temporary / target.name, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_both(folder: Path) -> dict[str, ClassificationSet]:
    """The train and the test split of an unpacked archive.

    Raises:
        OSError, ValueError: as `Cifar.read`.
    """
    return {split: Cifar(archive=folder.name, split=split).read(folder.parent) for split in ("train", "test")}
