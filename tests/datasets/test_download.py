"""Downloading VOC from a server of the test's own: broken transfers, wrong content, malicious archives, a full disk."""

import errno
import hashlib
import io
import os
import shutil
import socket
import tarfile
from pathlib import Path

import pytest

from public.datasets.preparing import download
from public.datasets.preparing.download import VOC_YEARS, Archive, VocYear, download_voc, fetch, find_fault, unpack
from public.datasets.voc import Voc
from public.test_scripts import download_voc as command
from tests.helpers.file_server import serving
from tests.helpers.tiny_data import TINY_CLASSES, write_voc


@pytest.fixture
def server(monkeypatch):
    with serving(monkeypatch) as running:
        yield running


def make_tar(folder: Path, extra=()) -> bytes:
    """A tar of all of `folder`, with the members (TarInfo, content) of `extra` behind."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.add(folder, arcname="VOCdevkit" if (folder.name == "VOCdevkit") else ".")
        for member, content in extra:
            tar.addfile(member, io.BytesIO(content) if content is not None else None)
    return buffer.getvalue()


def archive_of(server, name, content, **changes):
    """Puts `content` on the server; the archive that describes it."""
    server.files[name] = content
    digest = hashlib.sha256(content).hexdigest()
    return Archive(**({"url": f"{server.url}/{name}", "size": len(content), "sha256": digest} | changes))


@pytest.fixture
def year(server, tmp_path) -> VocYear:
    """A small VOC2007 in two archives, as the real one is."""
    archives = []
    for split, count in (("train", 6), ("test", 4)):
        root = tmp_path / "source" / split
        write_voc(root, split=split, num_images=count, seed=count, extension=".jpg")
        archives.append(archive_of(server, f"VOC{split}.tar", make_tar(root / "VOCdevkit")))
    return VocYear(folder="VOC2007", archives=tuple(archives), splits={"train": 6, "test": 4})


@pytest.fixture
def data_root(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


def get(year, data_root, **changes):
    return download_voc(year, data_root, **({"mirror": None, "keep_archives": False, "wait": 0.0} | changes))


def files_under(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ------------------------------------------------------------------------------------------------ whole path


def test_a_set_is_fetched_unpacked_and_read(year, server, data_root, tmp_path):
    assert get(year, data_root) is True
    expected = files_under(tmp_path / "source" / "train") | files_under(tmp_path / "source" / "test")
    assert files_under(data_root) == expected  # and nothing else: no archive, no temporary file
    annotations = Voc(
        sources=("VOCdevkit/VOC2007/test",), classes=TINY_CLASSES, use_difficult=True, keep_empty_images=True
    ).read(data_root)
    assert len(annotations) == 4
    assert Path(annotations.image_path(0)).is_file()


def test_a_set_that_is_there_is_recognised_without_a_request(year, server, data_root):
    get(year, data_root)
    before, asked = files_under(data_root), len(server.requests)
    assert get(year, data_root) is False
    assert len(server.requests) == asked
    assert files_under(data_root) == before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda root: (root / "JPEGImages" / "test_0002.jpg").unlink(),
            "JPEGImages lacks 1 files of test.*test_0002.jpg",
        ),
        (
            lambda root: (root / "Annotations" / "train_0000.xml").write_bytes(b""),
            "Annotations lacks 1 .*train_0000.xml",
        ),
        (lambda root: (root / "ImageSets" / "Main" / "test.txt").unlink(), "list ImageSets/Main/test.txt is missing"),
        (lambda root: (root / "ImageSets" / "Main" / "test.txt").write_text("test_0000\n"), "lists 1 images, not 4"),
        (lambda root: shutil.rmtree(root / "JPEGImages"), "no folder JPEGImages"),
    ],
)
def test_an_incomplete_set_is_neither_taken_nor_touched(year, server, data_root, damage, message):
    get(year, data_root)
    damage(data_root / "VOCdevkit" / "VOC2007")
    before, asked = files_under(data_root), len(server.requests)
    with pytest.raises(ValueError, match=f"VOC2007 is there but not whole: .*{message}.*Move it away"):
        get(year, data_root)
    assert files_under(data_root) == before
    assert len(server.requests) == asked


def test_kept_archives_are_used_again(year, server, data_root):
    get(year, data_root, keep_archives=True)
    folder = data_root / "VOC_archives"
    assert sorted(path.name for path in folder.iterdir()) == ["VOCtest.tar", "VOCtrain.tar"]
    shutil.rmtree(data_root / "VOCdevkit")
    asked = len(server.requests)
    assert get(year, data_root) is True
    assert len(server.requests) == asked
    assert not folder.exists()


def test_a_mirror_holds_all_archives_in_one_folder(year, server, data_root):
    broken = tuple(
        Archive(url=f"http://127.0.0.1:9/voc2007/{a.name}", size=a.size, sha256=a.sha256) for a in year.archives
    )
    get(VocYear(folder=year.folder, archives=broken, splits=year.splits), data_root, mirror=server.url + "/")
    assert [name for name, _ in server.requests] == ["VOCtrain.tar", "VOCtest.tar"]
    shutil.rmtree(data_root / "VOCdevkit")
    with pytest.raises(ValueError, match=r"file:///tmp/VOCtrain.tar: a mirror has to begin with http"):
        get(year, data_root, mirror="file:///tmp")


def test_the_known_archives():
    """Every digest is a full sha256, no two are the same, and the lists of a year add up."""
    archives = [archive for year in VOC_YEARS.values() for archive in year.archives]
    assert all(len(bytes.fromhex(archive.sha256)) == 32 for archive in archives)
    assert len({archive.sha256 for archive in archives}) == len(archives) == 3
    assert all(archive.size % tarfile.BLOCKSIZE == 0 for archive in archives)
    for year in VOC_YEARS.values():
        assert year.splits["train"] + year.splits["val"] == year.splits["trainval"]


# ------------------------------------------------------------------------------------------------- transfers


def test_a_broken_transfer_goes_on_where_it_stopped(server, tmp_path):
    content = os.urandom(100_000)
    archive = archive_of(server, "a.tar", content)
    server.faults = [30_000, 20_000]
    path = fetch(archive, tmp_path, mirror=None, wait=0.0)
    assert path.read_bytes() == content
    assert server.requests == [("a.tar", None), ("a.tar", "bytes=30000-"), ("a.tar", "bytes=50000-")]


def test_a_later_call_goes_on_where_an_earlier_one_gave_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "NUM_ATTEMPTS", 1)
    content = os.urandom(50_000)
    archive = archive_of(server, "a.tar", content)
    server.faults = [10_000, ("status", 503)]
    with pytest.raises(OSError, match=r"given up after 1 .* 503 .*a\.tar\.part has 10000 of 50000 bytes"):
        fetch(archive, tmp_path, mirror=None, wait=0.0)
    assert (tmp_path / "a.tar.part").read_bytes() == content[:10_000]
    assert fetch(archive, tmp_path, mirror=None, wait=0.0).read_bytes() == content
    assert server.requests[-1] == ("a.tar", "bytes=10000-")
    assert not (tmp_path / "a.tar.part").exists()


def test_a_server_without_ranges_starts_over(server, tmp_path):
    content = os.urandom(60_000)
    archive = archive_of(server, "a.tar", content)
    server.knows_ranges, server.faults = False, [25_000]
    assert fetch(archive, tmp_path, mirror=None, wait=0.0).read_bytes() == content
    assert server.requests == [("a.tar", None), ("a.tar", "bytes=25000-")]


def test_a_server_without_ranges_that_always_breaks_is_given_up(server, tmp_path):
    archive = archive_of(server, "a.tar", os.urandom(60_000))
    server.knows_ranges, server.faults = False, [25_000] * 50
    with pytest.raises(OSError, match=f"given up after {download.NUM_ATTEMPTS} attempts without a new byte"):
        fetch(archive, tmp_path, mirror=None, wait=0.0)
    assert len(server.requests) == 1 + download.NUM_ATTEMPTS


@pytest.mark.parametrize("fault", ["reset", ("status", 503), ("status", 429)])
def test_passing_troubles_are_tried_again(server, tmp_path, fault):
    content = os.urandom(3_000_000)
    archive = archive_of(server, "a.tar", content)
    server.faults = [fault] * (download.NUM_ATTEMPTS - 1)
    assert fetch(archive, tmp_path, mirror=None, wait=0.0).read_bytes() == content


def test_nobody_there_is_given_up(tmp_path, monkeypatch):
    monkeypatch.delenv("http_proxy", raising=False)
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/a.tar"
        with pytest.raises(OSError, match=r"given up after 5 .*refused.*--mirror https://pjreddie"):
            fetch(Archive(url=url, size=9, sha256="0" * 64), tmp_path, mirror=None, wait=0.0)


def test_a_missing_file_is_not_asked_for_twice(server, tmp_path):
    archive = Archive(url=f"{server.url}/gone.tar", size=9, sha256="0" * 64)
    with pytest.raises(OSError, match=r"gone.tar: the server answers 404 .*Try --mirror https://pjreddie.com"):
        fetch(archive, tmp_path, mirror=None, wait=0.0)
    assert len(server.requests) == 1
    assert not list(tmp_path.iterdir())


def test_wrong_content_is_refused_with_both_digests_and_deleted(server, tmp_path):
    content = os.urandom(5_000)
    wrong = content[:-1] + bytes([content[-1] ^ 1])
    archive = archive_of(server, "a.tar", wrong, sha256=hashlib.sha256(content).hexdigest())
    digests = f"sha256 is {hashlib.sha256(wrong).hexdigest()}, .* has to be {hashlib.sha256(content).hexdigest()}"
    with pytest.raises(ValueError, match=digests):
        fetch(archive, tmp_path, mirror=None, wait=0.0)
    assert not list(tmp_path.iterdir())
    (tmp_path / "a.tar").write_bytes(wrong)  # what somebody laid there is refused, but left
    with pytest.raises(ValueError, match=f"{digests}.*Delete the file"):
        fetch(archive, tmp_path, mirror=None, wait=0.0)
    assert (tmp_path / "a.tar").read_bytes() == wrong


def test_a_part_of_another_file_is_found_out_by_the_digest(server, tmp_path):
    content = os.urandom(5_000)
    archive = archive_of(server, "a.tar", content)
    (tmp_path / "a.tar.part").write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match="damaged"):
        fetch(archive, tmp_path, mirror=None, wait=0.0)
    assert fetch(archive, tmp_path, mirror=None, wait=0.0).read_bytes() == content


@pytest.mark.parametrize("received", [0, 100])
def test_a_file_of_another_size_is_refused_before_it_is_fetched(server, tmp_path, received):
    archive = archive_of(server, "a.tar", b"<html>sign in</html>" * 50, size=5_000)
    (tmp_path / "a.tar.part").write_bytes(b"x" * received)
    with pytest.raises(OSError, match=f"offers 1000 bytes from byte {received} on, a.tar has 5000"):
        fetch(archive, tmp_path, mirror=None, wait=0.0)
    assert len(server.requests) == 1
    assert (tmp_path / "a.tar.part").read_bytes() == b"x" * received


# ------------------------------------------------------------------------------------------- disk and processes


class FullDisk:
    """A file whose disk has room for `room` bytes more."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def write(self, data):
        if self.room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self.file.write(data[: self.room])
        self.room -= written
        return written


def full_disk(*args, **options):
    """`open` on a disk with room for 20,000 bytes."""
    return FullDisk(open(*args, **options), 20_000)


def test_a_disk_that_fills_up_keeps_what_was_received(server, tmp_path, monkeypatch):
    content = os.urandom(50_000)
    archive = archive_of(server, "a.tar", content)
    with monkeypatch.context() as patch:
        patch.setattr(download, "open", full_disk, raising=False)
        with pytest.raises(OSError, match=r"a\.tar\.part could not be written \(No space left on device\)"):
            fetch(archive, tmp_path, mirror=None, wait=0.0)
    assert len(server.requests) == 1
    assert (tmp_path / "a.tar.part").read_bytes() == content[:20_000]
    assert fetch(archive, tmp_path, mirror=None, wait=0.0).read_bytes() == content
    assert server.requests[-1] == ("a.tar", "bytes=20000-")


def test_too_little_room_is_said_before_the_first_request(year, server, data_root, monkeypatch):
    usage = shutil.disk_usage(data_root)
    needed = 2 * sum(archive.size for archive in year.archives)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed - 1))
    with pytest.raises(OSError, match=r"VOC2007 needs .* are free. Make room"):
        get(year, data_root)
    assert not server.requests
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed))
    assert get(year, data_root) is True


def test_a_disk_that_fills_up_while_unpacking_leaves_no_half_set(year, data_root, monkeypatch):
    copies = iter(range(12))

    def copy(source, target, *args, **options):
        if next(copies, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(source, target, *args, **options)

    original = tarfile.copyfileobj
    with monkeypatch.context() as patch:
        patch.setattr(tarfile, "copyfileobj", copy)
        with pytest.raises(OSError, match=r"could not be unpacked into .*No space left"):
            get(year, data_root)
    assert sorted(files_under(data_root)) == ["VOC_archives/VOCtest.tar", "VOC_archives/VOCtrain.tar"]
    assert not list((data_root / "VOCdevkit").iterdir())
    assert get(year, data_root) is True


def test_what_a_killed_process_left_of_unpacking_is_cleared(year, data_root):
    leftover = data_root / "VOCdevkit" / ".VOC2007.unpacking" / "VOCdevkit" / "VOC2007" / "JPEGImages" / "old.jpg"
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b"old")
    get(year, data_root)
    assert [path.name for path in (data_root / "VOCdevkit").iterdir()] == ["VOC2007"]
    assert not any(name.endswith("old.jpg") for name in files_under(data_root))


def test_a_second_process_is_kept_out(year, data_root):
    with (
        download.only_process(data_root),
        pytest.raises(OSError, match=f"another process is downloading into {data_root}"),
    ):
        get(year, data_root)
    assert get(year, data_root) is True


# ------------------------------------------------------------------------------------------------- archives


def member(name, kind=tarfile.REGTYPE, link="", size=0):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


@pytest.mark.parametrize(
    ("bad", "content", "message"),
    [
        (member("/tmp/encore_evil", size=4), b"evil", "leads out of the folder"),
        (member("../evil", size=4), b"evil", "leads out of the folder"),
        (member("VOCdevkit/VOC2007/../../../evil", size=4), b"evil", "leads out of the folder"),
        (member("VOCdevkit/VOC2007/link", tarfile.SYMTYPE, "/etc/passwd"), None, "neither a file nor a folder"),
        (member("VOCdevkit/VOC2007/link", tarfile.SYMTYPE, "../.."), None, "neither a file nor a folder"),
        (member("VOCdevkit/VOC2007/hard", tarfile.LNKTYPE, "/etc/passwd"), None, "neither a file nor a folder"),
        (member("VOCdevkit/VOC2007/zero", tarfile.CHRTYPE), None, "neither a file nor a folder"),
        (member("VOCdevkit/VOC2007/pipe", tarfile.FIFOTYPE), None, "neither a file nor a folder"),
    ],
)
def test_a_malicious_archive_is_refused_and_leaves_nothing(tmp_path, data_root, bad, content, message):
    write_voc(tmp_path / "source", num_images=3, extension=".jpg")
    path = tmp_path / "bad.tar"
    path.write_bytes(make_tar(tmp_path / "source" / "VOCdevkit", [(bad, content)]))
    before = files_under(tmp_path)
    with pytest.raises(ValueError, match=f"bad.tar: refuses to unpack '{bad.name}'.*{message}"):
        unpack([path], data_root / "VOCdevkit" / "VOC2007", {"train": 3})
    assert files_under(tmp_path) == before
    assert not (data_root / "VOCdevkit" / "VOC2007").exists()
    assert not Path("/tmp/encore_evil").exists()


def test_what_does_not_belong_to_the_set_is_left_out_and_said(tmp_path, data_root, capsys):
    write_voc(tmp_path / "source", num_images=3, extension=".jpg")
    path = tmp_path / "a.tar"
    extra = [(member("README", size=2), b"hi"), (member("VOCdevkit/VOC20071/x", size=1), b"x")]
    path.write_bytes(make_tar(tmp_path / "source" / "VOCdevkit", extra))
    unpack([path], data_root / "VOCdevkit" / "VOC2007", {"train": 3})
    assert files_under(data_root) == files_under(tmp_path / "source")
    assert "a.tar: 2 files outside VOCdevkit/VOC2007 left out, the first is README" in capsys.readouterr().out


def test_names_that_begin_with_a_dot_are_understood(tmp_path, data_root):
    write_voc(tmp_path / "source", num_images=3, extension=".jpg")
    path = tmp_path / "a.tar"
    path.write_bytes(make_tar(tmp_path / "source"))  # ./VOCdevkit/VOC2007/...
    unpack([path], data_root / "VOCdevkit" / "VOC2007", {"train": 3})
    assert find_fault(data_root / "VOCdevkit" / "VOC2007", {"train": 3}) is None


@pytest.mark.parametrize("kept", [0, 700, 20_000])
def test_a_cut_archive_is_refused(tmp_path, data_root, kept):
    write_voc(tmp_path / "source", num_images=3, extension=".jpg")
    path = tmp_path / "a.tar"
    path.write_bytes(make_tar(tmp_path / "source" / "VOCdevkit")[:kept])
    with pytest.raises(ValueError, match=r"a\.tar"):
        unpack([path], data_root / "VOCdevkit" / "VOC2007", {"train": 3})
    assert not (data_root / "VOCdevkit" / "VOC2007").exists()


def test_an_archive_without_all_images_is_no_set(tmp_path, data_root):
    write_voc(tmp_path / "source", num_images=3, extension=".jpg")
    (tmp_path / "source" / "VOCdevkit" / "VOC2007" / "JPEGImages" / "train_0001.jpg").unlink()
    path = tmp_path / "a.tar"
    path.write_bytes(make_tar(tmp_path / "source" / "VOCdevkit"))
    with pytest.raises(ValueError, match=r"a.tar: not a whole VOC2007: JPEGImages lacks 1 files of train"):
        unpack([path], data_root / "VOCdevkit" / "VOC2007", {"train": 3})
    assert not list((data_root / "VOCdevkit").iterdir())


# -------------------------------------------------------------------------------------------------- command


def run_command(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["download_voc", *arguments])
    command.main()


def test_the_command(year, data_root, monkeypatch, capsys):
    monkeypatch.setitem(VOC_YEARS, 2007, year)
    new_root = data_root / "new"
    run_command(monkeypatch, "--year", "2007", "2007", "--data_root", str(new_root))
    assert (
        capsys.readouterr().out.splitlines()[-1] == f"{new_root}/VOCdevkit/VOC2007: complete; images: train 6, test 4"
    )
    run_command(monkeypatch, "--year", "2007", "--data_root", str(new_root))
    assert "was there already, complete" in capsys.readouterr().out


def test_the_command_ends_with_one_line(server, data_root, monkeypatch):
    with pytest.raises(SystemExit, match=r"^error: .*VOCtrainval_11-May-2012.tar: the server answers 404"):
        run_command(monkeypatch, "--year", "2012", "--data_root", str(data_root), "--mirror", server.url)
    assert server.requests == [("VOCtrainval_11-May-2012.tar", None)]
