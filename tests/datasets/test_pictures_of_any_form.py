"""Arrays that are no pictures are refused by one sentence, detector or classifier; strips are cut before they are resized."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from public.inference.classifier import TrainedClassifier
from public.inference.detector import Detector
from public.input import LONGEST, ClassificationInput, as_picture, prepare_crop
from tests.helpers.tiny_detector import SPEC as DETECTION

SPEC = ClassificationInput(
    size=(24, 28),
    shorter_side=32,
    interpolation="linear",
    color_order="rgb",
    scale=1 / 255,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
)
CPU = torch.device("cpu")


class Sum(torch.nn.Module):
    def forward(self, images):
        return images.mean(dim=(2, 3))


CLASSIFIER = TrainedClassifier(model=Sum(), spec=SPEC, class_names=("r", "g", "b"), device=CPU)
DETECTOR = Detector(model=Sum(), decoder=lambda outputs: [], spec=DETECTION, class_names=(), device=CPU)


@pytest.mark.parametrize("model", [CLASSIFIER, DETECTOR], ids=["classifier", "detector"])
@pytest.mark.parametrize(
    ("image", "found"),
    [
        (np.zeros((8, 8), np.uint8), r"uint8 of shape \(8, 8\)"),
        (np.zeros((8, 8, 1), np.uint8), r"uint8 of shape \(8, 8, 1\)"),
        (np.zeros((8, 8, 4), np.uint8), r"uint8 of shape \(8, 8, 4\)"),
        (np.zeros((3, 8, 8), np.uint8), r"uint8 of shape \(3, 8, 8\)"),
        (np.zeros((2, 8, 8, 3), np.uint8), r"uint8 of shape \(2, 8, 8, 3\)"),
        (np.zeros((0, 8, 3), np.uint8), r"uint8 of shape \(0, 8, 3\)"),
        (np.zeros(3, np.uint8), r"uint8 of shape \(3,\)"),
        (np.zeros((), np.uint8), r"uint8 of shape \(\)"),
        (np.zeros((8, 8, 3), np.float32), r"float32 of shape \(8, 8, 3\)"),
        (np.zeros((8, 8, 3), np.int64), r"int64 of shape \(8, 8, 3\)"),
        (np.zeros((8, 8, 3), bool), r"bool of shape \(8, 8, 3\)"),
        (np.array([["a"]]), "<U1 of shape"),
        (np.array([None]), "object of shape"),
        (torch.zeros(8, 8, 3, dtype=torch.uint8), "a Tensor"),
        (Image.new("RGB", (8, 8)), "an? Image"),
        ([[1, 2, 3]], "a list"),
        (None, "a NoneType"),
        (3, "a int"),
        (b"a.jpg", "a bytes"),
    ],
)
def test_one_sentence_for_what_is_no_picture(model, image, found):
    with pytest.raises(
        ValueError, match=rf"^an image has to be .*uint8 RGB \(height, width, 3\), not {found}"
    ) as caught:
        model(image)
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(ValueError, match="an image has to be"):
        model.many([np.zeros((8, 8, 3), np.uint8), image])


def test_pictures_in_other_orders_of_memory_are_pictures():
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    for view in (image[::-1], image[:, ::-1, ::-1], np.asfortranarray(image), image[::2, ::3]):
        assert as_picture(view) is view
        assert CLASSIFIER(view)["scores"].tolist() == CLASSIFIER(np.ascontiguousarray(view))["scores"].tolist()


# ---------------------------------------------------------------------------------------------------- strips


def test_usual_pictures_keep_their_bits(monkeypatch):
    """Up to LONGEST times as long as wide nothing is cut beforehand."""
    rng = np.random.default_rng(1)
    for height, width in ((40, 60), (8, 8 * LONGEST), (8 * LONGEST, 8), (1, LONGEST), (1, 1)):
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        found, geometry = prepare_crop(image, SPEC)
        monkeypatch.setattr("public.input.LONGEST", 10**9)
        whole, expected = prepare_crop(image, SPEC)
        monkeypatch.undo()
        np.testing.assert_array_equal(found, whole)
        assert geometry == expected


@pytest.mark.parametrize("interpolation", ["nearest", "linear", "cubic", "area", "lanczos"])
@pytest.mark.parametrize(("side", "length"), [(1, 35), (3, 200), (7, 1000), (40, 1301), (64, 4097)])
def test_the_middle_of_a_strip_is_what_resizing_it_whole_gives(monkeypatch, interpolation, side, length):
    """A smooth strip, lying and standing; at most the change of its brightness within half a pixel of it."""
    spec = replace(SPEC, interpolation=interpolation)
    values = 128 + 100 * np.sin(np.arange(length) / max(side, 8))
    lying = np.tile(values.astype(np.uint8)[None, :, None], (side, 1, 3))
    step = np.abs(np.diff(values)).max()
    for image in (lying, lying.swapaxes(0, 1)):
        found, geometry = prepare_crop(image, spec)
        monkeypatch.setattr("public.input.LONGEST", 10**9)
        whole, expected = prepare_crop(image, spec)
        monkeypatch.undo()
        assert found.shape == whole.shape
        assert np.abs(found.astype(int) - whole).max() <= np.ceil(step * (2 if interpolation == "nearest" else 1)) + 2
        assert (geometry.width, geometry.height) == (expected.width, expected.height)
        per_pixel = 32 / side
        assert geometry.scale_x == pytest.approx(expected.scale_x, rel=0.01)
        assert geometry.scale_y == pytest.approx(expected.scale_y, rel=0.01)
        middle_of_cut = (14, 12)
        for axis in range(2):
            places = [
                (middle_of_cut[axis] - g[2 + axis]) / g[axis] for g in (geometry, expected)
            ]  # of the cut's middle, in pixels of the strip
            assert abs(places[0] - places[1]) <= 1 + 1 / per_pixel + 0.01 * length * (
                axis == np.argmax(image.shape[1::-1])
            )


def test_a_line_of_pixels_takes_little_memory(monkeypatch):
    """What is resized is never longer than LONGEST times its side."""
    import cv2

    sizes, resize = [], cv2.resize
    monkeypatch.setattr(cv2, "resize", lambda image, size, **how: (sizes.append(size), resize(image, size, **how))[1])
    big = replace(SPEC, size=(224, 224), shorter_side=256)
    for shape in ((1, 20000, 3), (20000, 1, 3), (2, 60000, 3)):
        cut, _ = prepare_crop(np.full(shape, 7, np.uint8), big)
        assert cut.shape == (224, 224, 3)
        assert (cut == 7).all()
    assert max(max(size) for size in sizes) <= LONGEST * 256
    assert CLASSIFIER(np.zeros((1, 20000, 3), np.uint8))["names"]
