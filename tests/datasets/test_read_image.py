"""The one rule by which pictures are read, against Pillow's reading and against closed forms."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from public.input import ImageError, read_image, read_size


def blocks(height=48, width=64, channels=3, seed=0):
    """Coloured squares of 16 pixels, which lossy formats keep within a level or two."""
    small = np.random.default_rng(seed).integers(0, 256, (height // 16, width // 16, channels), dtype=np.uint8)
    return np.kron(small, np.ones((16, 16, 1), dtype=np.uint8))


def save(path, picture, **options):
    """Writes a Pillow picture; the extension says the format."""
    picture.save(path, **options)
    return path


def by_pillow(path):
    with Image.open(path) as picture:
        return np.asarray(ImageOps.exif_transpose(picture).convert("RGB")).astype(int)


def difference(path):
    """The largest difference between our reading and Pillow's."""
    read = read_image(path)
    assert (read.dtype, read.shape[2]) == (np.uint8, 3)
    expected = by_pillow(path)
    assert read.shape == expected.shape
    return np.abs(read - expected).max()


@pytest.mark.parametrize("extension", [".jpg", ".png", ".webp", ".tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_eight_orientations_in_every_format_that_has_them(tmp_path, extension, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / f"turned{extension}", Image.fromarray(blocks()), exif=exif)
    assert difference(path) == 0
    turned = (48, 64) if orientation >= 5 else (64, 48)
    actual, stored = read_size(path)
    assert actual == turned == read_image(path).shape[1::-1]
    if extension != ".tiff":  # which OpenCV and Pillow turn in any case
        assert stored == (64, 48) == read_image(path, turn=False).shape[1::-1]


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA"])
@pytest.mark.parametrize("extension", [".png", ".tiff"])
def test_grey_palette_one_bit_and_alpha(tmp_path, mode, extension):
    path = save(tmp_path / f"x{extension}", Image.fromarray(blocks()).convert(mode))
    assert difference(path) == 0


def test_a_palette_picture_with_a_transparent_colour_keeps_the_colour(tmp_path):
    path = save(tmp_path / "x.png", Image.fromarray(blocks()).quantize(7), transparency=0)
    assert difference(path) == 0


@pytest.mark.parametrize("extension", [".png", ".webp"])
def test_alpha_is_dropped_and_not_blended(tmp_path, extension):
    """The colours under any transparency, full transparency too, come out as they were put in."""
    image = blocks(channels=4, seed=1)
    image[:16, :, 3] = 0
    options = {"lossless": True, "exact": True} if extension == ".webp" else {}
    path = save(tmp_path / f"x{extension}", Image.fromarray(image), **options)
    np.testing.assert_array_equal(read_image(path), image[:, :, :3])


@pytest.mark.parametrize("has_adobe_mark", [True, False])
def test_cmyk_jpegs_inverted_or_not(tmp_path, has_adobe_mark):
    """Pillow writes CMYK as Adobe does, inverted and marked; without the mark it is read the other way round."""
    buffer = io.BytesIO()
    Image.fromarray(blocks()).convert("CMYK").save(buffer, "JPEG", quality=100)
    data = buffer.getvalue()
    place = data.index(b"\xff\xee")
    assert data[place + 4 : place + 9] == b"Adobe"
    if not has_adobe_mark:
        data = data[:place] + data[place + 2 + int.from_bytes(data[place + 2 : place + 4], "big") :]
    path = tmp_path / "print.jpg"
    path.write_bytes(data)
    assert difference(path) <= 1
    assert np.abs(read_image(path).astype(int) - blocks()).max() <= 2  # and it is the picture that went in


def test_cmyk_follows_the_formula(tmp_path):
    inks = blocks(channels=4, seed=2)
    path = save(tmp_path / "print.tiff", Image.fromarray(inks, mode="CMYK"))
    inks = inks.astype(float)
    expected = (255 - inks[:, :, :3]) * (255 - inks[:, :, 3:]) / 255
    assert np.abs(read_image(path) - expected).max() <= 1


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("extension", [".png", ".tiff"])
def test_sixteen_bits_become_eight_by_rounding(tmp_path, extension, channels):
    values = np.random.default_rng(3).integers(0, 2**16, (20, 30, channels), dtype=np.uint16)
    values[0, :6] = np.array([0, 65535, 128, 129, 257, 385])[:, None]  # 128 / 257 is below a half, 129 / 257 above
    path = tmp_path / f"deep{extension}"
    path.write_bytes(cv2.imencode(extension, values.squeeze())[1].tobytes())
    rgb = values[:, :, [2, 1, 0]] if channels > 1 else values.repeat(3, axis=2)  # OpenCV writes blue first
    np.testing.assert_array_equal(read_image(path), np.rint(rgb / 257))
    assert read_image(path)[0, :6, 0].tolist() == [0, 255, 0, 1, 1, 1]


@pytest.mark.parametrize("extension", [".tiff", ".hdr", ".pfm"])
def test_floating_point_pictures_are_refused(tmp_path, extension):
    path = tmp_path / f"light{extension}"
    image = np.random.default_rng(0).random((20, 30, 3), dtype=np.float32)
    path.write_bytes(cv2.imencode(extension, image)[1].tobytes())
    with pytest.raises(ImageError, match=rf"light\{extension}: its values are float32.*8 or 16 bits"):
        read_image(path)


def test_pictures_of_32_bit_integers_are_refused(tmp_path):
    path = save(tmp_path / "deep.tiff", Image.fromarray(np.arange(600, dtype=np.int32).reshape(20, 30)))
    with pytest.raises(ImageError, match=r"deep\.tiff: its values are int32"):
        read_image(path)


@pytest.mark.parametrize("extension", [".gif", ".webp", ".png", ".tiff"])
def test_of_an_animation_the_first_picture_is_read(tmp_path, extension):
    frames = [Image.fromarray(blocks(seed=seed)) for seed in range(3)]
    if extension == ".gif":
        frames = [frame.quantize(12) for frame in frames]
    options = {"lossless": True} if extension == ".webp" else {}
    path = save(tmp_path / f"moving{extension}", frames[0], save_all=True, append_images=frames[1:], **options)
    with Image.open(path) as picture:
        assert picture.n_frames == 3
    np.testing.assert_array_equal(read_image(path), np.asarray(frames[0].convert("RGB")))


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (None, "missing picture"),
        (b"", "empty picture"),
        (b"no picture", "unreadable picture"),
        ("cut", "truncated picture"),
    ],
)
def test_an_error_says_its_kind(tmp_path, content, kind):
    path = tmp_path / "x.jpg"
    if content == "cut":
        content = cv2.imencode(".jpg", blocks())[1].tobytes()[:-20]
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageError, match=r"x\.jpg") as caught:
        read_image(path)
    assert caught.value.kind == kind
    if kind != "truncated picture":  # the header of a cut file is whole
        with pytest.raises(ImageError, match=r"x\.jpg") as caught:
            read_size(path)
        assert caught.value.kind == kind


@pytest.mark.parametrize("format", ["JPEG", "progressive", "PNG", "BMP", "WEBP", "TIFF", "GIF"])
def test_no_cut_goes_unnoticed(tmp_path, format):
    """Wherever a file is cut, it is refused or the whole picture was in what is left."""
    noisy = np.clip(blocks().astype(int) + np.random.default_rng(0).integers(-20, 20, (48, 64, 3)), 0, 255)
    picture = Image.fromarray(noisy.astype(np.uint8))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG" if format == "progressive" else format, progressive=format == "progressive")
    data, path = buffer.getvalue(), tmp_path / "cut"
    path.write_bytes(data)
    whole = read_image(path)
    num_refused = 0
    for length in [*range(1, len(data), max(len(data) // 60, 1)), *range(len(data) - 12, len(data))]:
        path.write_bytes(data[:length])
        try:
            np.testing.assert_array_equal(read_image(path), whole)
        except ImageError:
            num_refused += 1
    assert num_refused > 50
