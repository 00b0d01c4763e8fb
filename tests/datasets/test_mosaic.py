"""Mosaic, affine, colours and mixup of YOLOX: the original's pixels and boxes, a plain second implementation, their end."""

import json
import zlib
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from public.datasets.pictures import load_picture
from public.datasets.sample import Sample, SampleKey, Unread, as_unread
from public.input import EXIF_ORIENTATION
from public.loading.detection import DetectionDataset, make_detection_loader
from public.loading.samplers import TrainBatches
from public.random_streams import stream
from public.transforms.colors import shift_hsv
from public.transforms.detection import DropThin, HSVJitter
from public.transforms.fitting import FitWhenRead
from public.transforms.flip import RandomFlip
from public.transforms.geometric import Letterbox
from public.transforms.mosaic import BlendPartner, Mosaic, RandomAffine, affine_map, mapped, visible
from public.transforms.rules import Until
from tests.helpers.flat_pictures import GREY, color_of, write_flat

FILL = (GREY,) * 3
SEED = 3
SIZE = (64, 64)
FIT = FitWhenRead(size=SIZE, interpolation="linear", use_reduced=True)
AFFINE = RandomAffine(rotation=10.0, scale=(0.1, 2.0), shear=2.0, translate=0.1, fill=FILL)
MOSAIC = Mosaic(size=SIZE, prob=1.0, center=(0.5, 1.5), affine=AFFINE)
BLEND = BlendPartner(prob=1.0, scale=(0.5, 1.5), flip_prob=0.5, fill=FILL)
STILL = RandomAffine(rotation=0.0, scale=(0.5, 0.5), shear=0.0, translate=0.0, fill=FILL)  # all of the canvas is seen


# ---------------------------------------------------------------------------------------------- the original's pixels


@pytest.fixture(scope="module")
def oracle(shared):
    folder = shared / "oracles/yolox/preprocess"
    if cv2.__version__ != json.loads((folder / "meta.json").read_text())["opencv"]:
        pytest.skip("the oracle's pixels are those of another OpenCV")
    return np.load(folder / "out.npz"), json.loads((folder / "meta.json").read_text())


def made(tag: str, height: int, width: int) -> np.ndarray:
    """The oracle's pictures: cells of 8 x 8 pixels, BGR."""
    cells = np.random.default_rng(zlib.crc32(f"image:{tag}".encode())).integers(
        0, 256, size=(height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8
    )
    return np.ascontiguousarray(cells.repeat(8, axis=0).repeat(8, axis=1)[:height, :width])


def checksum(pixels: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(pixels).tobytes())


@pytest.mark.parametrize("case", range(4))
def test_affine_has_the_originals_map_pixels_and_boxes(oracle, case):
    """Also where only that part of the canvas is there which is seen."""
    values, meta = oracle
    angle, scale, shear_x, shear_y, *shift = (round(float(draw), 6) for draw in values[f"affine.{case}.draws"])
    matrix = affine_map(angle=angle, scale=scale, shear=(shear_x, shear_y), shift=(640 * shift[0], 640 * shift[1]))
    np.testing.assert_allclose(matrix, values[f"affine.{case}.M_f64"], rtol=0, atol=1e-12)
    canvas = made("mosaic1280", 1280, 1280)
    height, width = visible(matrix, (640, 640), (1280, 1280))
    seen = np.ascontiguousarray(canvas[:height, :width])
    assert checksum(AFFINE.warp(seen, matrix, (640, 640))) == meta[f"affine.{case}.warp"]["crc32_uint8"]
    boxes = mapped(values["affine.boxes_in"][:, :4].astype(np.float64), matrix).clip(0, 640)
    np.testing.assert_allclose(boxes, values[f"affine.{case}.boxes_f64"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("case", range(4))
def test_colours_have_the_originals_pixels(oracle, case):
    expected = oracle[1][f"hsv.{case}"]
    shifted = shift_hsv(np.ascontiguousarray(made("hsv", 64, 96)[..., ::-1]), *expected["shift"])
    assert checksum(shifted[..., ::-1]) == expected["crc32_uint8"]


@pytest.mark.parametrize("seed", range(3))
def test_a_picture_without_mosaic_has_the_originals_pixels_and_boxes(oracle, seed):
    """The transforms behind the mosaic; the shifts are the original's draws, and neither mirrors."""
    values, meta = oracle
    draws = np.random.RandomState(seed)
    shifts = draws.uniform(-1, 1, 3) * [5, 30, 30] * draws.randint(0, 2, 3)
    boxes = np.array([[20, 30, 200, 300], [400, 100, 639, 479], [10, 10, 11, 200]], dtype=np.float32)
    sample = sample_of(shift_hsv(np.ascontiguousarray(made("480x640", 480, 640)[..., ::-1]), *map(int, shifts)), boxes)
    fit = FitWhenRead(size=(416, 416), interpolation="linear", use_reduced=True)
    sample = fit(sample, None)
    for transform in (Letterbox(size=(416, 416), interpolation="linear", padding=GREY), DropThin(min_side=1.0)):
        sample = transform(sample, None)
    assert checksum(sample.image[..., ::-1].transpose(2, 0, 1)) == meta[f"train_transform.seed{seed}"]["crc32_uint8"]
    cxcywh = values[f"train_transform.seed{seed}.labels"][:2, 1:]
    centres, sides = (sample.boxes[:, :2] + sample.boxes[:, 2:]) / 2, sample.boxes[:, 2:] - sample.boxes[:, :2]
    np.testing.assert_allclose(np.hstack([centres, sides]), cxcywh, rtol=1e-6)


def test_tiles_lie_where_the_original_puts_them(oracle):
    """A tile's corner and the part of it on the canvas, for three places of the point."""
    for place, middle_x, middle_y, width, height, *rest in oracle[0]["mosaic.place_i32"].tolist():
        large, small = rest[:4], rest[4:]
        tile = np.full((height, width, 3), 200, dtype=np.uint8)
        tile[small[1] : small[3], small[0] : small[2]] = 50
        canvas = np.full((1280, 1280, 3), GREY, dtype=np.uint8)
        part = as_unread(sample_of(tile, np.array([[0, 0, width, height]], dtype=np.float32)))
        mosaic = replace(MOSAIC, size=(640, 640))
        objects = mosaic._put(part, place, (middle_y, middle_x), canvas)
        expected = np.full_like(canvas, GREY)
        expected[large[1] : large[3], large[0] : large[2]] = 50
        assert np.array_equal(canvas, expected)
        assert objects.boxes.tolist() == [[float(side) for side in large]]


def sample_of(image: np.ndarray, boxes: np.ndarray) -> Sample:
    count = len(boxes)
    return Sample(
        image=image, boxes=boxes, labels=np.arange(count), difficult=np.zeros(count, dtype=bool),
        crowd=np.zeros(count, dtype=bool), image_id=0, index=0, height=image.shape[0], width=image.shape[1],
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------- a plain second one


def plain_mosaic(samples: list[Sample], rng: np.random.Generator, side: int) -> tuple[np.ndarray, np.ndarray]:
    """All of the canvas, every picture: image and boxes before those without size are dropped."""
    _, down, right = rng.random(3)
    angle, scale, shear_x, shear_y, to_right, to_low = rng.random(6)
    matrix = affine_map(
        angle=20 * angle - 10, scale=0.1 + 1.9 * scale, shear=(4 * shear_x - 2, 4 * shear_y - 2),
        shift=((0.2 * to_right - 0.1) * side, (0.2 * to_low - 0.1) * side),
    )  # fmt: skip
    middle_y, middle_x = int(side * (0.5 + down)), int(side * (0.5 + right))
    canvas = np.full((4 * side, 4 * side, 3), GREY, dtype=np.uint8)  # with a border of `side` that is cut off
    boxes = []
    for place, sample in enumerate(samples):
        height, width = sample.image.shape[:2]
        left, top = middle_x - width * (place % 2 == 0), middle_y - height * (place < 2)
        canvas[side + top : side + top + height, side + left : side + left + width] = sample.image
        boxes.append((sample.boxes + np.array([left, top] * 2)).clip(0, 2 * side))
    canvas = np.ascontiguousarray(canvas[side:-side, side:-side])
    image = cv2.warpAffine(canvas, matrix, (side, side), flags=cv2.INTER_LINEAR, borderValue=FILL)
    found = []
    for x1, y1, x2, y2 in np.concatenate(boxes):
        corners = np.array([[x1, y1, 1], [x2, y1, 1], [x1, y2, 1], [x2, y2, 1]]) @ matrix.T
        found.append([*corners.min(axis=0), *corners.max(axis=0)])
    return image, np.array(found).clip(0, side)


def textured(rng: np.random.Generator, sides: list[tuple[int, int]]) -> list[Sample]:
    samples = []
    for height, width in sides:
        corners = rng.uniform(0, 0.5, (2, 2)) * [width, height]
        boxes = np.hstack([corners, corners + rng.uniform(0.2, 0.5, (2, 2)) * [width, height]]).astype(np.float32)
        samples.append(sample_of(rng.integers(0, 256, (height, width, 3), dtype=np.uint8), boxes))
    return samples


def counting(sample: Sample, reads: list[int]) -> Unread:
    def read() -> Sample:
        reads.append(1)
        return sample

    return Unread(outline=replace(sample, image=np.broadcast_to(np.uint8(0), sample.image.shape)), read=read)


def test_mosaic_equals_the_plain_one_and_reads_no_picture_that_is_not_seen():
    samples = textured(np.random.default_rng(0), [(64, 48), (40, 64), (64, 64), (20, 64)])
    counts = []
    for number in range(60):
        reads: list[int] = []
        made_one = MOSAIC(counting(samples[0], reads), stream(SEED, number), [counting(s, reads) for s in samples[1:]])
        image, boxes = plain_mosaic(samples, stream(SEED, number), 64)
        assert np.array_equal(made_one.image, image)
        has_size = (boxes[:, 2:].astype(np.float32) > boxes[:, :2].astype(np.float32)).all(axis=1)
        np.testing.assert_allclose(made_one.boxes, boxes[has_size], rtol=1e-6, atol=1e-5)
        assert made_one.labels.tolist() == np.concatenate([s.labels for s in samples])[has_size].tolist()
        counts.append(len(reads))
    assert {1, 2, 4} <= set(counts)
    assert np.mean(counts) < 3


def plain_blend(own: Sample, other: Sample, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Step by step with whole pictures, as 2107.08430's code does it."""
    _, flip, scale, down, right = rng.random(5)
    side, factor = own.image.shape[0], 0.5 + scale
    canvas = np.full((side, side, 3), GREY, dtype=np.uint8)
    canvas[: other.image.shape[0], : other.image.shape[1]] = other.image
    grown = int(side * factor)
    canvas = cv2.resize(canvas, (grown, grown), interpolation=cv2.INTER_LINEAR)
    boxes = (other.boxes * factor).clip(0, grown)
    if flip < 0.5:
        canvas = canvas[:, ::-1]
        boxes[:, [0, 2]] = grown - boxes[:, [2, 0]]
    padded = np.zeros((max(grown, side), max(grown, side), 3), dtype=np.uint8)
    padded[:grown, :grown] = canvas
    top, left = int(down * max(grown - side, 0)), int(right * max(grown - side, 0))
    cut = padded[top : top + side, left : left + side]
    mean = (0.5 * own.image.astype(np.float32) + 0.5 * cut.astype(np.float32)).astype(np.uint8)
    return mean, np.concatenate([own.boxes, (boxes - [left, top] * 2).clip(0, side)])


def test_blending_equals_the_plain_one_and_passes_over_pictures_without_objects():
    rng = np.random.default_rng(1)
    own, other, empty = textured(rng, [(64, 64), (48, 64), (64, 64)])
    empty = replace(empty, **{n: getattr(empty, n)[:0] for n in ("boxes", "labels", "difficult", "crowd")})
    for number in range(30):
        mixed = BLEND(as_unread(own), stream(SEED, number), [as_unread(empty), as_unread(other), as_unread(own)])
        image, boxes = plain_blend(own, other, stream(SEED, number))
        assert np.array_equal(mixed.image, image)
        has_size = (boxes[:, 2:].astype(np.float32) > boxes[:, :2].astype(np.float32)).all(axis=1)
        np.testing.assert_allclose(mixed.boxes, boxes[has_size], rtol=1e-6, atol=1e-5)
    alone = BLEND(as_unread(empty), stream(SEED, 0), [as_unread(other)])
    assert alone is empty, "nothing is mixed into a sample without objects"
    assert BLEND(as_unread(own), stream(SEED, 0), [as_unread(empty)] * 8) is own


def test_thin_boxes_are_dropped_unless_no_other_is_left():
    boxes = np.array([[0, 0, 1, 9], [0, 0, 9, 1], [0, 0, 1.5, 9], [3, 3, 9, 9]], dtype=np.float32)
    sample = sample_of(np.zeros((16, 16, 3), dtype=np.uint8), boxes)
    assert DropThin(min_side=1.0)(sample, None).boxes.tolist() == boxes[2:].tolist()
    thin = sample_of(sample.image, boxes[:2])
    assert DropThin(min_side=1.0)(thin, None) is thin
    assert len(DropThin(min_side=1.0)(sample_of(sample.image, boxes[:0]), None).boxes) == 0


def test_hsv_shifts_are_drawn_within_their_limits_and_each_is_left_out_half_the_time():
    """Seen on a colour whose hue, saturation and value every shift can change: by the value, which is exact."""
    sample = sample_of(np.full((1, 1, 3), (160, 120, 100), dtype=np.uint8), np.zeros((0, 4), dtype=np.float32))
    jitter = HSVJitter(hue=0, saturation=0, value=30, apply_prob=0.5)
    values = [int(jitter(sample, stream(SEED, number)).image.max()) for number in range(400)]
    assert min(values) >= 130
    assert max(values) <= 190
    assert 0.4 < np.mean([value == 160 for value in values]) < 0.62  # half, and one draw of 30 that is rounded to 0


# ---------------------------------------------------------------------------------------------- in a training


TRANSFORMS = (
    FIT,
    Until(epoch=1, transforms=(replace(MOSAIC, affine=STILL), BLEND)),
    RandomFlip(prob=0.5),
    Letterbox(size=SIZE, interpolation="linear", padding=GREY),
    DropThin(min_side=1.0),
)
SIDES = [(64, 64), (48, 64), (64, 40), (128, 128), (30, 60), (64, 64), (200, 100), (64, 64)]


@pytest.fixture(scope="module")
def annotations(tmp_path_factory):
    return write_flat(tmp_path_factory.mktemp("flat"), sides=SIDES)


def dataset(annotations, transforms=TRANSFORMS, **options) -> DetectionDataset:
    return DetectionDataset(annotations, transforms=transforms, batch_transforms=(), seed=SEED, **options)


def batches(annotations, *, num_workers: int, first_step: int = 0) -> list:
    keys = TrainBatches(num_images=8, batch_size=4, seed=SEED, first_step=first_step, num_steps=4, rank=0, world_size=1)
    loader = make_detection_loader(
        dataset(annotations), keys, num_workers=num_workers, prefetch_factor=4, pin_memory=False
    )
    return list(loader)


def colors_of(image: np.ndarray) -> set[tuple[int, ...]]:
    """The colours of an image that fill more than a fiftieth of it, the grey aside."""
    found, counts = np.unique(image.reshape(-1, 3), axis=0, return_counts=True)
    large = {tuple(color) for color, count in zip(found.tolist(), counts) if count > image.size / 3 / 50}
    return large - {FILL}


@pytest.mark.parametrize(("num_workers", "first_step"), [(0, 0), (1, 0), (2, 1)])
def test_mosaic_ends_with_its_epoch_whatever_the_workers_and_the_restart(annotations, num_workers, first_step):
    """Two epochs of two batches of pictures of one colour each; the workers read ahead, and are told nothing."""
    plain = batches(annotations, num_workers=0)[first_step:]
    found = batches(annotations, num_workers=num_workers, first_step=first_step)
    for number, (one, other) in enumerate(zip(plain, found, strict=True), first_step):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.boxes, other.boxes)
        for image, index in zip(other.images.numpy(), other.indices):
            if number < 2:
                assert len(colors_of(image)) > 1, "four pictures, one of them blended with a fifth"
            else:
                assert colors_of(image) == {color_of(index)}


def test_tiles_partners_and_numbers_come_from_the_samples_own_stream(annotations):
    sample = dataset(annotations, (FIT, MOSAIC))[SampleKey(0, 0, 5)]
    rng = stream(SEED, "sample", 0, 5, "Mosaic")
    others = rng.integers(8, size=3).tolist()
    plain = dataset(annotations, (FIT,))
    image, _ = plain_mosaic([plain[SampleKey(0, 0, index)] for index in (5, *others)], rng, 64)
    assert np.array_equal(sample.image, image)
    assert (sample.index, sample.height, sample.width) == (5, 64, 64)


def test_pictures_are_read_at_their_size_and_large_jpegs_reduced(tmp_path, monkeypatch):
    """One that is less than twice as large has the pixels of a plain resize, as the original's data set gives them."""
    sides = [(64, 100), (127, 64), (128, 128), (300, 600), (512, 100), (31, 20)]
    annotations = write_flat(tmp_path, sides=sides, extension=".jpg")
    rng = np.random.default_rng(2)
    for index, sides_of_one in enumerate(sides):
        noise = rng.integers(0, 256, (*sides_of_one, 3), dtype=np.uint8)
        (tmp_path / f"{index}.jpg").write_bytes(cv2.imencode(".jpg", noise)[1].tobytes())
    decoded, decode = [], cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda *args: decoded.append(decode(*args)) or decoded[-1])
    read = dataset(annotations, (FIT,))
    whole = dataset(annotations, (replace(FIT, use_reduced=False),))
    for index, (height, width) in enumerate(sides):
        decoded.clear()
        sample = read[SampleKey(0, 0, index)]
        scale = min(64 / height, 64 / width)
        assert sample.image.shape == (int(height * scale), int(width * scale), 3)
        reduction = max(by for by in (1, 2, 4, 8) if scale * by <= 1 or by == 1)
        assert decoded[0].shape[:2] == (-(-height // reduction), -(-width // reduction))
        np.testing.assert_allclose(sample.boxes, annotations.objects(index).boxes * scale, rtol=1e-6)
        full = whole[SampleKey(0, 0, index)].image
        if reduction == 1:
            assert np.array_equal(sample.image, full)
        elif scale < 0.5:
            mean = cv2.resize(load_picture(annotations, index), sample.image.shape[1::-1], interpolation=cv2.INTER_AREA)
            off = [np.abs(pixels.astype(int) - mean).mean() for pixels in (sample.image, full)]
            assert off[0] < off[1], "nearer to the mean of what a pixel stands for"
    with pytest.raises(ValueError, match="stands first"):
        dataset(annotations, (RandomFlip(prob=0.5), FIT))


def test_a_large_jpeg_is_turned_by_its_exif_orientation_when_it_is_decoded_reduced(tmp_path):
    annotations = write_flat(tmp_path, sides=[(300, 200)], extension=".jpg")  # as it is seen
    stored = np.zeros((200, 300, 3), dtype=np.uint8)
    stored[:, :150] = 255  # the left half, which comes to lie above
    orientation = Image.Exif()
    orientation[EXIF_ORIENTATION] = 6
    Image.fromarray(stored).save(tmp_path / "0.jpg", exif=orientation)
    image = dataset(annotations, (FIT,))[SampleKey(0, 0, 0)].image
    assert image.shape == (64, 42, 3)
    assert image[:28].min() > 200
    assert image[36:].max() < 55


def test_a_reduced_picture_of_another_size_is_refused_by_its_name(tmp_path):
    """By one pixel, which the reduced sides alone would not tell."""
    annotations = write_flat(tmp_path, sides=[(256, 256)], extension=".jpg")
    other = np.zeros((255, 256, 3), dtype=np.uint8)
    (tmp_path / "0.jpg").write_bytes(cv2.imencode(".jpg", other)[1].tobytes())
    with pytest.raises(ValueError, match=r"0\.jpg: the picture has 256 x 255"):
        dataset(annotations, (FIT,))[SampleKey(0, 0, 0)]


def test_a_tile_that_cannot_be_read_is_told_or_replaced(tmp_path):
    annotations = write_flat(tmp_path, sides=[(64, 64)] * 4)
    (tmp_path / "2.png").write_bytes(b"no picture")
    transforms = (FIT, replace(MOSAIC, affine=STILL))
    keys = [SampleKey(0, 0, index) for index in range(4)]
    wanting = [
        key for key in keys if 2 in (key.index, *stream(SEED, "sample", 0, key.index, "Mosaic").integers(4, size=3))
    ]
    assert wanting, "choose another seed"
    skipping = dataset(annotations, transforms, on_bad_sample="skip")
    for key in keys:
        assert ("2.png" in (skipping[key].skipped or "")) == (key in wanting)
        assert color_of(2) not in colors_of(skipping[key].image)
    with pytest.raises(ValueError, match=r"2\.png"):
        dataset(annotations, transforms)[wanting[0]]


@pytest.mark.parametrize(("kind", "fields"), [
    (RandomAffine, {"scale": (2.0, 0.1)}), (RandomAffine, {"scale": (0.0, 1.0)}), (RandomAffine, {"shear": 45.0}),
    (Mosaic, {"center": (0.5, 2.5)}), (Mosaic, {"affine": RandomFlip(prob=0.5)}), (BlendPartner, {"scale": (1.5, 0.5)}),
    (BlendPartner, {"prob": 1.1}), (FitWhenRead, {"interpolation": "best"}), (HSVJitter, {"value": 300}),
])  # fmt: skip
def test_nonsense_is_refused_by_name(kind, fields):
    good = {RandomAffine: AFFINE, Mosaic: MOSAIC, BlendPartner: BLEND, FitWhenRead: FIT,
            HSVJitter: HSVJitter(hue=5, saturation=30, value=30, apply_prob=0.5)}[kind]  # fmt: skip
    (name,) = fields
    with pytest.raises((TypeError, ValueError), match=rf"{kind.__name__}\.{name}"):
        replace(good, **fields)
