"""Damage that a decoder notices is a defect with the file's name; what lies after a picture's end is none."""

import io
import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from PIL import Image

from public import decoding
from public.datasets.preparing.checks import file_sha256
from public.input import ImageError, read_image
from tests.datasets.test_read_image import blocks

FLAGS = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR_RGB
NOISY = np.clip(
    blocks(240, 320).astype(int) + np.random.default_rng(0).integers(-20, 20, (240, 320, 3)), 0, 255
).astype(np.uint8)


def encoded(format, mode="RGB", **options):
    buffer = io.BytesIO()
    Image.fromarray(NOISY).convert(mode).save(buffer, format, **options)
    return buffer.getvalue()


FILES = {
    "JPEG": encoded("JPEG"),
    "progressive JPEG": encoded("JPEG", progressive=True),
    "JPEG with restarts": encoded("JPEG", restart_marker_rows=1),
    "grey JPEG": encoded("JPEG", mode="L"),
    "CMYK JPEG": encoded("JPEG", mode="CMYK"),
    "PNG": encoded("PNG"),
    "WebP": encoded("WEBP"),
    "BMP": encoded("BMP"),
    "GIF": encoded("GIF"),
    "TIFF": encoded("TIFF", compression="tiff_lzw"),
}
JPEGS = [name for name in FILES if "JPEG" in name]


def zeros(data, share):
    """`data` with a third of it, from `share` of it on, overwritten by zeros."""
    start, length = int(len(data) * share), len(data) // 3
    return data[:start] + bytes(length) + data[start + length :]


def without(data, share):
    """`data` without 500 bytes at `share` of it."""
    start = int(len(data) * share)
    return data[:start] + data[start + 500 :]


def refused(tmp_path, data):
    path = tmp_path / "picture.jpg"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"picture\.jpg") as caught:
        read_image(path)
    return caught.value


@pytest.mark.parametrize(
    ("damage", "share"), [(zeros, 0.2), (zeros, 0.25), (zeros, 0.5), (zeros, 0.6), (without, 0.2), (without, 0.3)]
)
@pytest.mark.parametrize("name", JPEGS)
def test_a_jpeg_that_is_damaged_in_its_middle_is_refused(tmp_path, capfd, name, share, damage):
    error = refused(tmp_path, damage(FILES[name], share))
    if error.kind == "damaged picture":
        assert "its decoder says: Corrupt JPEG data: " in str(error)
        assert "Fetch the picture again" in str(error)
    assert capfd.readouterr().err == ""  # nothing without the name of the file


def test_the_damage_of_the_report(tmp_path):
    data = bytearray(FILES["JPEG"])
    data[len(data) // 4 : len(data) // 4 + 6000] = bytes(6000)
    assert refused(tmp_path, bytes(data)).kind == "damaged picture"


@pytest.mark.parametrize("name", ["PNG", "GIF", "TIFF"])
def test_damage_in_other_formats_with_checks_of_their_own_is_refused(tmp_path, capfd, name):
    refused(tmp_path, zeros(FILES[name], 0.4))
    assert capfd.readouterr().err == ""


def test_a_tiff_whose_checksum_is_wrong_is_refused(tmp_path):
    data = bytearray(encoded("TIFF", compression="tiff_deflate"))
    data[len(data) // 2] ^= 0x10
    assert "incorrect data check" in str(refused(tmp_path, bytes(data)))


def png(*chunks):
    """A PNG of 10 x 10 pixels from (type, content, error of the checksum)."""
    header = (b"IHDR", struct.pack(">IIBBBBB", 10, 10, 8, 2, 0, 0, 0), 0)
    data = b"\x89PNG\r\n\x1a\n"
    for kind, content, error in (header, *chunks, (b"IEND", b"", 0)):
        checksum = zlib.crc32(kind + content) ^ error
        data += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)
    return data


ROWS = b"".join(b"\0" + bytes([20 * row] * 30) for row in range(10))
PIXELS = (b"IDAT", zlib.compress(ROWS), 0)


def test_a_png_is_refused_for_what_is_damaged_and_not_for_a_strange_colour_profile(tmp_path, capfd):
    path = tmp_path / "x.png"
    for chunks in ([PIXELS], [(b"iCCP", b"x\0\0" + zlib.compress(b"abc"), 0), PIXELS]):
        path.write_bytes(png(*chunks))
        assert read_image(path)[:, 0, 0].tolist() == list(range(0, 200, 20))
    assert capfd.readouterr().err == ""
    for chunks in (
        [(b"IDAT", PIXELS[1], 1)],
        [(b"tEXt", b"Title\0cells", 1), PIXELS],
        [(b"IDAT", PIXELS[1] + b"more", 0)],
        [(b"IDAT", zlib.compress(ROWS[:200]), 0)],
    ):
        refused(tmp_path, png(*chunks))


# ------------------------------------------------------------------------------------------ what is not damaged


@pytest.mark.parametrize("name", FILES)
def test_bytes_after_the_end_belong_to_no_picture(tmp_path, capfd, name):
    whole = cv2.imdecode(np.frombuffer(FILES[name], np.uint8), FLAGS)
    random = np.random.default_rng(1).bytes(3000)
    for number, more in enumerate(
        (b"", b"\xff\xda" + bytes(100), bytes(50), b"\n", random, FILES[name][:2000], b"\0\0\0\x18ftypmp42" + random)
    ):
        path = tmp_path / f"{number}.jpg"
        path.write_bytes(FILES[name] + more)
        np.testing.assert_array_equal(read_image(path), whole)
    assert capfd.readouterr().err == ""


def with_version(data):
    place = data.index(b"JFIF\0") + 5
    return data[:place] + b"\x07" + data[place + 1 :]


def with_adobe(data):
    return data[:2] + b"\xff\xee\x00\x0eAdobe\x00d\x00\x00\x00\x00\x07" + data[2:]


def with_other_scan_parameters(data):
    place = data.rindex(b"\xff\xda") + 4 + 1 + 2 * 3
    return data[:place] + b"\x01" + data[place + 1 :]


def with_broken_profile(data):
    """A colour profile that says to be the first part of two, whose second is not there."""
    content = b"ICC_PROFILE\0\x01\x02" + bytes(20)
    return data[:2] + b"\xff\xe2" + (len(content) + 2).to_bytes(2, "big") + content + data[2:]


def with_all(data):
    return with_adobe(with_version(with_other_scan_parameters(data)))


@pytest.mark.parametrize(
    "change", [with_version, with_adobe, with_other_scan_parameters, with_broken_profile, with_all]
)
def test_remarks_on_headers_refuse_no_picture_and_hide_no_damage(tmp_path, capfd, change):
    """libjpeg says one thing a picture: a remark on the version would be all that is heard of a damaged one."""
    path = tmp_path / "x.jpg"
    path.write_bytes(change(FILES["JPEG"]))
    np.testing.assert_array_equal(read_image(path), cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), FLAGS))
    capfd.readouterr()  # of OpenCV alone
    read_image(path)
    assert capfd.readouterr().err == ""
    assert refused(tmp_path, zeros(change(FILES["JPEG"]), 0.25)).kind == "damaged picture"


# ------------------------------------------------------------------------------------------ how it listens


def test_what_others_write_meanwhile_is_passed_on(monkeypatch, capfd):
    def decode_while_another_thread_writes(data, flags):
        os.write(2, b"a line of a logger\nCorrupt JPEG data: bad Huffman code\nand another\n")
        return np.zeros((2, 2, 3), dtype=np.uint8)

    monkeypatch.setattr(cv2, "imdecode", decode_while_another_thread_writes)
    assert decoding.decode(FILES["JPEG"], FLAGS).damage == "Corrupt JPEG data: bad Huffman code"
    assert capfd.readouterr().err == "a line of a logger\nand another\n"


def test_threads_do_not_hear_each_other(tmp_path):
    paths = []
    for number in range(24):
        paths.append(tmp_path / f"{number}.jpg")
        paths[-1].write_bytes(zeros(FILES["JPEG"], 0.25) if number % 3 == 0 else FILES["JPEG"])

    def is_refused(path):
        try:
            read_image(path)
        except ImageError as error:
            return path.name in str(error)
        return False

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(is_refused, paths)) == [number % 3 == 0 for number in range(24)]


def test_it_leaves_no_handle_open_and_gives_standard_error_back(tmp_path, monkeypatch, capfd):
    def fail(data, flags):
        raise cv2.error("no picture")

    path = tmp_path / "x.jpg"
    path.write_bytes(FILES["JPEG"])
    before = sorted(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else []
    for _ in range(3):
        read_image(path)
    monkeypatch.setattr(cv2, "imdecode", fail)
    with pytest.raises(ImageError):
        read_image(path)
    assert before == (sorted(os.listdir("/proc/self/fd")) if before else [])
    os.write(2, b"still here\n")
    assert capfd.readouterr().err == "still here\n"


def test_a_process_without_standard_error_reads_all_the_same(tmp_path):
    path = tmp_path / "x.jpg"
    path.write_bytes(zeros(FILES["JPEG"], 0.25))
    child = os.fork()
    if child == 0:
        os.close(2)
        try:
            read_image(path)
        except ImageError as error:
            os._exit(0 if error.kind == "damaged picture" else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert file_sha256(str(path), is_quick=False)
