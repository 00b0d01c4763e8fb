"""Reading a picture, bringing it to the network, and the way back of the boxes."""

import dataclasses
import struct

import cv2
import numpy as np
import pytest
import torch

from public.input import Geometry, ImageError, InputSpec, normalise, prepare, read_image, to_image

STRETCH = InputSpec(
    size=(96, 160),
    resize="stretch",
    interpolation="cubic",
    padding=114,
    color_order="rgb",
    scale=1 / 255,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)
LETTERBOX = dataclasses.replace(STRETCH, resize="letterbox", interpolation="linear")


def random_image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", (96.0, 160)),
        ("size", (96, 0)),
        ("size", (96,)),
        ("resize", "crop"),
        ("interpolation", "bicubic"),
        ("padding", 256),
        ("padding", 0.5),
        ("color_order", "grb"),
        ("scale", 0.0),
        ("scale", float("inf")),
        ("mean", (0.5, 0.5)),
        ("mean", (0.5, 0.5, float("nan"))),
        ("std", (1.0, 0.0, 1.0)),
    ],
)
def test_a_senseless_value_is_refused_by_the_name_of_its_field(field, value):
    with pytest.raises(ValueError, match=rf"InputSpec\.({field}|scale .* and {field}) "):
        dataclasses.replace(STRETCH, **{field: value})


def test_stretch_is_one_resize():
    image = random_image(50, 70)
    prepared, geometry = prepare(image, STRETCH)
    np.testing.assert_array_equal(prepared, cv2.resize(image, (160, 96), interpolation=cv2.INTER_CUBIC))
    assert geometry == Geometry(160 / 70, 96 / 50, 0, 0, 70, 50)


@pytest.mark.parametrize(
    ("height", "width", "inner"),
    [
        (96, 160, (96, 160)),
        (192, 160, (96, 80)),
        (48, 160, (48, 160)),
        (333, 500, (96, 144)),  # 144.14 rounded down
        (301, 700, (68, 160)),  # 68.8 rounded down
        (500, 333, (96, 63)),  # 63.9 rounded down
        (2, 900, (1, 160)),  # never less than a pixel
        (48, 80, (96, 160)),  # enlarged
    ],
)
def test_letterbox_keeps_the_aspect_at_the_top_left(height, width, inner):
    image = random_image(height, width)
    prepared, geometry = prepare(image, LETTERBOX)
    assert prepared.shape == (96, 160, 3)
    resized = cv2.resize(image, (inner[1], inner[0]), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(prepared[: inner[0], : inner[1]], resized)
    outside = np.ones((96, 160), dtype=bool)
    outside[: inner[0], : inner[1]] = False
    assert (prepared[outside] == 114).all()
    assert geometry == Geometry(inner[1] / width, inner[0] / height, 0, 0, width, height)


@pytest.mark.parametrize("spec", [STRETCH, LETTERBOX])
def test_boxes_find_the_way_back_to_where_they_were_drawn(spec):
    """A white box drawn into the original is found in the network's picture, and its corners come back."""
    image = np.zeros((300, 400, 3), dtype=np.uint8)
    drawn = np.array([80.0, 60.0, 240.0, 210.0])
    image[60:210, 80:240] = 255
    prepared, geometry = prepare(image, spec)
    seen = prepared[: round(300 * geometry.scale_y), : round(400 * geometry.scale_x), 0] > 127
    columns, rows = np.flatnonzero(seen.any(axis=0)), np.flatnonzero(seen.any(axis=1))
    found = torch.tensor([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]], dtype=torch.float32)
    detection = {"boxes": found, "scores": torch.ones(1), "labels": torch.zeros(1, dtype=torch.int64)}
    back = to_image([detection], [geometry])[0]["boxes"][0].numpy()
    np.testing.assert_allclose(back, drawn, atol=0.51 / min(geometry.scale_x, geometry.scale_y))


def test_to_image_inverts_the_geometry_and_clips():
    geometry = Geometry(scale_x=0.5, scale_y=0.25, pad_left=10, pad_top=20, width=100, height=80)
    boxes = torch.tensor([[15.0, 25.0, 35.0, 30.0], [0.0, 0.0, 300.0, 300.0]])
    detection = {"boxes": boxes, "scores": torch.tensor([0.9, 0.8]), "labels": torch.tensor([3, 1])}
    empty = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.int64)}
    restored, nothing = to_image([detection, empty], [geometry, geometry])
    assert restored["boxes"].tolist() == [[10.0, 20.0, 50.0, 40.0], [0.0, 0.0, 100.0, 80.0]]
    assert restored["scores"] is detection["scores"]
    assert restored["labels"] is detection["labels"]
    assert boxes[1, 2] == 300  # the input stays as it was
    assert nothing["boxes"].shape == (0, 4)
    with pytest.raises(ValueError, match=r"2 detections for 1 geometries"):
        to_image([detection, empty], [geometry])


@pytest.mark.numeric
@pytest.mark.parametrize("color_order", ["rgb", "bgr"])
def test_normalise_is_the_formula(color_order):
    spec = dataclasses.replace(STRETCH, color_order=color_order)
    images = np.stack([random_image(6, 10, seed) for seed in range(3)])
    result = normalise(torch.from_numpy(images), spec)
    pixels = images if color_order == "rgb" else images[:, :, :, ::-1]
    expected = (pixels.astype(np.float64) * spec.scale - np.array(spec.mean)) / np.array(spec.std)
    assert result.dtype == torch.float32
    assert result.shape == (3, 3, 6, 10)
    assert result.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(result.permute(0, 2, 3, 1).numpy(), expected, rtol=1e-6, atol=1e-6)


def test_normalise_leaves_its_input_alone_and_takes_uint8_only():
    images = torch.from_numpy(random_image(6, 10))[None]
    before = images.clone()
    normalise(images, STRETCH)
    assert torch.equal(images, before)
    with pytest.raises(TypeError, match=r"uint8 images, not torch\.float32"):
        normalise(images.float(), STRETCH)


def test_normalise_can_be_exported_for_any_batch():
    class Normalise(torch.nn.Module):
        def forward(self, images):
            return normalise(images, STRETCH)

    images = torch.from_numpy(np.stack([random_image(6, 10, seed) for seed in range(5)]))
    exported = torch.export.export(Normalise(), (images[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},))
    assert torch.equal(exported.module()(images), normalise(images, STRETCH))


# ------------------------------------------------------------------------------------------------ reading


def encode(extension, image, *options):
    return cv2.imencode(extension, image, list(options))[1].tobytes()


def write(path, data):
    path.write_bytes(data)
    return path


def test_a_picture_is_read_as_rgb(tmp_path):
    image = random_image(20, 30)
    path = write(tmp_path / "Bild mit Ümlaut.png", encode(".png", image[:, :, ::-1]))
    np.testing.assert_array_equal(read_image(path), image)
    assert read_image(str(path)).flags.c_contiguous


def test_grey_and_alpha_become_rgb(tmp_path):
    image = random_image(20, 30)
    grey = read_image(write(tmp_path / "grey.png", encode(".png", image[:, :, 0])))
    np.testing.assert_array_equal(grey, np.repeat(image[:, :, :1], 3, axis=2))
    with_alpha = np.concatenate([image[:, :, ::-1], image[:, :, :1]], axis=2)
    read = read_image(write(tmp_path / "alpha.png", encode(".png", with_alpha)))
    np.testing.assert_array_equal(read, image)


def with_exif(jpeg, orientation, payload=b""):
    """The JPEG with an EXIF segment that states an orientation, followed by `payload` as a thumbnail would be."""
    entry = struct.pack("<HHHIII", 1, 0x0112, 3, 1, orientation, 0)  # one tag: orientation, one SHORT
    body = b"Exif\x00\x00" + b"II*\x00" + struct.pack("<I", 8) + entry + payload
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [
        (1, lambda image: image),
        (2, lambda image: image[:, ::-1]),
        (3, lambda image: image[::-1, ::-1]),
        (6, lambda image: np.rot90(image, -1)),
        (8, lambda image: np.rot90(image, 1)),
    ],
)
def test_exif_orientation_is_applied(tmp_path, orientation, turned):
    jpeg = encode(".jpg", np.kron(random_image(3, 4), np.ones((16, 16, 1), dtype=np.uint8)))
    plain = read_image(write(tmp_path / "plain.jpg", jpeg))
    read = read_image(write(tmp_path / "exif.jpg", with_exif(jpeg, orientation)))
    np.testing.assert_array_equal(read, turned(plain))


@pytest.mark.parametrize("extension", [".jpg", ".png", ".bmp", ".webp"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.95])
def test_a_cut_file_is_refused_by_name(tmp_path, extension, kept):
    data = encode(extension, random_image(80, 120))
    path = write(tmp_path / f"cut{extension}", data[: int(kept * len(data))])
    with pytest.raises(ImageError, match=rf"cut\{extension}: (truncated|no picture)"):
        read_image(path)


def test_a_cut_jpeg_with_a_whole_thumbnail_inside_is_truncated(tmp_path):
    jpeg = encode(".jpg", random_image(80, 120))
    whole = with_exif(jpeg, 1, payload=encode(".jpg", random_image(8, 8)))
    read_image(write(tmp_path / "whole.jpg", whole))
    with pytest.raises(ImageError, match=r"cut\.jpg: truncated"):
        read_image(write(tmp_path / "cut.jpg", whole[:-100]))


def test_a_jpeg_with_bytes_after_its_end_is_whole(tmp_path):
    jpeg = encode(".jpg", random_image(80, 120))
    read_image(write(tmp_path / "tail.jpg", jpeg + bytes(100) + b"a camera's own notes"))


def test_a_missing_an_empty_and_a_text_file_have_their_own_reasons(tmp_path):
    with pytest.raises(ImageError, match=r"nowhere\.jpg: missing"):
        read_image(tmp_path / "nowhere.jpg")
    with pytest.raises(ImageError, match=r"empty\.jpg: empty, 0 bytes"):
        read_image(write(tmp_path / "empty.jpg", b""))
    with pytest.raises(ImageError, match=r"page\.jpg: no picture"):
        read_image(write(tmp_path / "page.jpg", b"<html>404</html>"))
    with pytest.raises(ImageError, match=r"cannot be read"):
        read_image(tmp_path)
