"""The digest of pictures' bytes, and the memory that spares reading them twice."""

import hashlib
import os
from pathlib import Path

import pytest

from public.datasets import picture_digests
from public.datasets.picture_digests import content_digest


@pytest.fixture
def files(tmp_path):
    paths = []
    for number, content in enumerate((b"one", b"two" * 1000, b"")):
        path = tmp_path / "data" / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        paths.append(str(path))
    return paths


def test_the_digest_is_that_of_the_files_in_order(files, tmp_path):
    memory = tmp_path / "memory.sqlite"
    lines = b"".join(hashlib.sha256(Path(path).read_bytes()).hexdigest().encode() + b"\n" for path in files)
    assert content_digest(files, memory=memory) == hashlib.sha256(lines).hexdigest()
    assert content_digest(files[::-1], memory=memory) != content_digest(files, memory=memory)


def test_a_file_is_read_again_only_where_it_has_changed(files, tmp_path, monkeypatch):
    memory = tmp_path / "memory.sqlite"
    read = []
    original = picture_digests._sha256
    monkeypatch.setattr(picture_digests, "_sha256", lambda path: read.append(path) or original(path))
    first = content_digest(files, memory=memory)
    assert sorted(read) == sorted(files)
    assert content_digest(files, memory=memory) == first
    assert len(read) == 3
    time_before = os.stat(files[0]).st_mtime_ns
    with open(files[0], "wb") as file:
        file.write(b"eno")  # as long as before
    os.utime(files[0], ns=(time_before + 1, time_before + 1))
    assert content_digest(files, memory=memory) != first
    assert read[3:] == [files[0]]


def test_nothing_is_written_beside_the_data(files, tmp_path):
    before = sorted(os.listdir(tmp_path / "data"))
    content_digest(files, memory=tmp_path / "memory.sqlite")
    assert sorted(os.listdir(tmp_path / "data")) == before
    assert "data" not in picture_digests.MEMORY.parts


def test_many_files_and_missing_ones(tmp_path):
    paths = [str(tmp_path / f"{number}") for number in range(1203)]
    for path in paths:
        Path(path).write_text(path[-1])
    memory = tmp_path / "memory.sqlite"
    whole = content_digest(paths, memory=memory)
    assert content_digest(paths, memory=memory) == whole
    os.remove(paths[7])
    assert content_digest(paths, memory=memory) != whole
