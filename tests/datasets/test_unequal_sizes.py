"""Pictures of unequal sizes: the rules by which they are resized, padded in a batch, normalised, and boxes come back."""

import dataclasses
from fractions import Fraction

import cv2
import numpy as np
import pytest
import torch

from public.datasets.sample import Sample, SampleKey
from public.datasets.voc import Voc
from public.input import Geometry, InputSpec, normalise, prepare, stack, to_image
from public.loading.detection import EvaluationDataset, collate
from public.resizing import KeepSize, ShorterSide, shorter_side
from tests.helpers.tiny_data import TINY_CLASSES, write_voc

SHORTER = InputSpec(
    size=(60, 100),
    resize=ShorterSide(rounding="nearest", multiple=32),
    interpolation="linear",
    padding="mean",
    color_order="rgb",
    scale=1 / 255,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)
KEEP = dataclasses.replace(SHORTER, resize=KeepSize(multiple=32))
LETTERBOX = dataclasses.replace(SHORTER, size=(67, 67), resize="letterbox", padding=114)
RULES = {"shorter side": SHORTER, "keep": KEEP, "letterbox of 67": LETTERBOX}
SIZES = ((40, 60), (75, 50), (90, 300), (33, 33), (1, 1), (1, 70))


def random_image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def prepared(spec, sizes=SIZES):
    """One batch: uint8 images, geometries."""
    images, geometries = zip(*(prepare(random_image(*size, seed), spec) for seed, size in enumerate(sizes)))
    return stack(images, spec), list(geometries)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"padding": "zero"}, r"InputSpec\.padding"),
        ({"padding": 256}, r"InputSpec\.padding"),
        ({"resize": "shorter_side"}, r"InputSpec\.resize"),
        ({"resize": "letterbox"}, r"InputSpec\.padding is 'mean', which resize 'letterbox' does not offer"),
        ({"resize": "stretch"}, r"InputSpec\.padding is 'mean'"),
    ],
)
def test_senseless_rules_are_refused_by_the_name_of_their_field(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SHORTER, **change)


# ------------------------------------------------------------------------------------------------ sizes


@pytest.mark.parametrize(
    ("height", "width", "nearest", "down"),
    [
        (480, 640, (800, 1067), (800, 1066)),  # 1066.67
        (640, 480, (1067, 800), (1066, 800)),
        (427, 640, (800, 1199), (800, 1199)),  # 1199.06
        (400, 1000, (533, 1333), (533, 1333)),  # 533.2, and 800 would make 2000 of 1000
        (333, 1000, (444, 1333), (443, 1333)),  # 443.89
        (97, 97, (800, 800), (799, 799)),  # 97 * (800 / 97) is 799.99... as a float64
        (1, 1, (800, 800), (800, 800)),
        (1, 4000, (1, 1333), (1, 1333)),  # 0.33: never less than a pixel
        (1600, 2666, (800, 1333), (800, 1333)),
    ],
)
def test_the_shorter_side_by_hand(height, width, nearest, down):
    assert shorter_side(height, width, 800, 1333, "nearest") == nearest
    assert shorter_side(height, width, 800, 1333, "down") == down


def test_rounding_down_is_torchvisions_and_nearest_is_the_nearest():
    """Against torchvision's own resize, and against fractions."""
    from torchvision.models.detection.transform import _resize_image_and_masks

    rng = np.random.default_rng(0)
    fractions = [(side, side) for side in (11, 13, 22, 26)]  # side * (60 / side) is below 60 as a float64
    for height, width in (*fractions, *(map(int, rng.integers(1, 250, 2)) for _ in range(300))):
        scale = min(Fraction(60, min(height, width)), Fraction(100, max(height, width)))
        if min(height, width) * scale >= 1:
            theirs = _resize_image_and_masks(torch.empty(1, height, width), 60, 100)[0].shape[1:]
            assert shorter_side(height, width, 60, 100, "down") == tuple(theirs)
        sides = shorter_side(height, width, 60, 100, "nearest")
        for side, old in zip(sides, (height, width)):
            assert abs(side - old * scale) <= Fraction(1, 2) + Fraction(1, 10**9) or side == 1


def test_the_input_is_torchvisions():
    """Its transform for detectors, which resizes and pads in float, to a grey level of rounding."""
    from torchvision.models.detection.transform import GeneralizedRCNNTransform

    pictures = [cv2.blur(random_image(*size, seed), (5, 5)) for seed, size in enumerate(((40, 61), (75, 50)))]
    theirs = GeneralizedRCNNTransform(60, 100, list(SHORTER.mean), list(SHORTER.std))
    tensors = [torch.from_numpy(picture).permute(2, 0, 1) / 255 for picture in pictures]
    expected = theirs.eval()(tensors)[0]
    spec = dataclasses.replace(SHORTER, resize=ShorterSide(rounding="down", multiple=32))
    images, geometries = zip(*(prepare(picture, spec) for picture in pictures))
    regions = [geometry.region for geometry in geometries]
    inputs = normalise(torch.from_numpy(stack(images, spec)), spec, regions)
    assert [(y2, x2) for _, _, x2, y2 in regions] == expected.image_sizes
    assert inputs.shape == expected.tensors.shape
    assert ((inputs == 0) | (expected.tensors != 0)).all(), "zeros of the padding are exact"
    assert (inputs - expected.tensors).abs().max() <= 1.01 / 255 / min(SHORTER.std)


@pytest.mark.parametrize("height", [1, 31, 32, 33, 480, 512])
def test_a_kept_size_lies_in_the_middle_as_centernet_has_it(height):
    image = random_image(height, 70)
    result, geometry = prepare(image, KEEP)
    canvas_height, canvas_width = (height | 31) + 1, (70 | 31) + 1
    top, left = canvas_height // 2 - height // 2, canvas_width // 2 - 70 // 2
    assert result.shape == (canvas_height, canvas_width, 3)
    np.testing.assert_array_equal(result[top : top + height, left : left + 70], image)
    assert geometry == Geometry(1.0, 1.0, left, top, 70, height)


@pytest.mark.parametrize("size", [667, 1000])
@pytest.mark.parametrize(("height", "width"), [(480, 640), (640, 427), (1200, 1200)])
def test_the_longest_side_to_a_size_that_is_no_multiple_of_anything(size, height, width):
    image = random_image(height, width)
    result, geometry = prepare(image, dataclasses.replace(LETTERBOX, size=(size, size)))
    longest = max(height, width)
    inner = height * size // longest, width * size // longest
    assert result.shape == (size, size, 3)
    np.testing.assert_array_equal(result[: inner[0], : inner[1]], cv2.resize(image, inner[::-1]))
    assert (result[inner[0] :] == 114).all()
    assert (result[:, inner[1] :] == 114).all()
    assert geometry == Geometry(inner[1] / width, inner[0] / height, 0, 0, width, height)


# ------------------------------------------------------------------------------------------------ a batch


@pytest.mark.parametrize("name", ["shorter side", "keep"])
def test_a_batch_is_as_large_as_its_largest_in_each_direction(name):
    spec = RULES[name]
    alone = [prepare(random_image(*size, seed), spec) for seed, size in enumerate(SIZES)]
    batch, geometries = prepared(spec)
    assert batch.shape[1:3] == tuple(max(image.shape[axis] for image, _ in alone) for axis in (0, 1))
    assert batch.shape[1] % 32 == batch.shape[2] % 32 == 0
    for canvas, (image, geometry), same in zip(batch, alone, geometries, strict=True):
        height, width = image.shape[:2]
        assert height % 32 == width % 32 == 0
        assert geometry == same
        np.testing.assert_array_equal(canvas[:height, :width], image)
        assert (canvas[height:] == spec.padding_color).all()
        assert (canvas[:, width:] == spec.padding_color).all()


def test_one_picture_is_a_batch_as_it_is():
    for spec in RULES.values():
        image, _ = prepare(random_image(40, 60), spec)
        np.testing.assert_array_equal(stack([image], spec), image[None])


def test_where_all_come_out_in_one_size_others_are_refused():
    with pytest.raises(ValueError, match=r"one size, not \(67, 67\) and \(64, 67\)"):
        stack([random_image(67, 67), random_image(64, 67)], LETTERBOX)


@pytest.mark.parametrize("color_order", ["rgb", "bgr"])
@pytest.mark.parametrize("name", ["shorter side", "keep"])
def test_the_mean_is_zero_exactly_after_normalising(name, color_order):
    spec = dataclasses.replace(RULES[name], color_order=color_order)
    batch, geometries = prepared(spec)
    assert spec.padding_color == ((124, 116, 104) if color_order == "rgb" else (104, 116, 124))
    inputs = normalise(torch.from_numpy(batch), spec, [geometry.region for geometry in geometries])
    plain = normalise(torch.from_numpy(batch), dataclasses.replace(spec, padding=0))
    for one, without, image, (height, width), geometry in zip(inputs, plain, batch, SIZES, geometries, strict=True):
        x1, y1, x2, y2 = geometry.region
        assert (x1, y1) == (geometry.pad_left, geometry.pad_top)
        assert (x2 - x1, y2 - y1) == (round(width * geometry.scale_x), round(height * geometry.scale_y))
        is_picture = torch.zeros(image.shape[:2], dtype=torch.bool)
        is_picture[y1:y2, x1:x2] = True
        assert (one[:, ~is_picture] == 0).all()
        assert torch.equal(one[:, is_picture], without[:, is_picture])
        assert (image[~is_picture.numpy()] == spec.padding_color).all()
    assert inputs.is_contiguous(memory_format=torch.channels_last)


def test_a_grey_value_is_normalised_with_the_rest():
    spec = dataclasses.replace(SHORTER, padding=114)
    batch, _ = prepared(spec)
    expected = (114 / 255 - torch.tensor(spec.mean)) / torch.tensor(spec.std)
    inputs = normalise(torch.from_numpy(batch), spec)
    torch.testing.assert_close(inputs[4, :, -1, -1], expected)  # of the picture of one pixel


@pytest.mark.parametrize("regions", [None, [(0, 0, 1, 1)]])
def test_normalise_does_not_guess_where_the_padding_is(regions):
    with pytest.raises(ValueError, match=r"region of each, not (none|1)\."):
        normalise(torch.zeros(2, 32, 32, 3, dtype=torch.uint8), SHORTER, regions)


# ------------------------------------------------------------------------------------------------ the way back


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(("height", "width"), [(300, 400), (413, 120), (90, 91)])
def test_a_box_comes_back_to_where_it_was_drawn(name, height, width):
    """Closed form: x * scale + pad and back; and a white box that is looked for in the network's picture."""
    spec = RULES[name]
    x1, y1, x2, y2 = drawn = (width // 5, height // 4, width * 3 // 4, height * 4 // 5)
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[y1:y2, x1:x2] = 255
    batch, (geometry, _) = stack_two(image, spec)
    left, top, right, bottom = geometry.region
    rows, columns = (np.flatnonzero((batch[0, top:bottom, left:right, 0] > 127).any(axis=axis)) for axis in (1, 0))
    seen = [columns[0] + left, rows[0] + top, columns[-1] + 1 + left, rows[-1] + 1 + top]
    scale, pad = [geometry.scale_x, geometry.scale_y] * 2, [geometry.pad_left, geometry.pad_top] * 2
    exact = np.array(drawn) * scale + pad
    np.testing.assert_allclose(seen, exact, atol=0.51)
    boxes = torch.tensor(np.array([exact, seen, [0, 0, *batch.shape[2:0:-1]]]), dtype=torch.float32)
    back = to_image([{"boxes": boxes, "scores": torch.ones(3)}], [geometry])[0]["boxes"].numpy()
    np.testing.assert_allclose(back[0], drawn, rtol=1e-5)
    np.testing.assert_allclose(back[1], drawn, atol=0.51 / min(geometry.scale_x, geometry.scale_y))
    assert back[2].tolist() == [0, 0, width, height], "the padding is no part of the picture"


def stack_two(image, spec):
    """The picture beside a larger one in a batch, where the rule lets them differ."""
    images, geometries = zip(*(prepare(one, spec) for one in (image, random_image(450, 460))))
    return stack(images, spec), geometries


# ------------------------------------------------------------------------------------------------ loading


@pytest.fixture(scope="module")
def annotations(tmp_path_factory):
    """Pictures of 48 x 64, 40 x 80 and 70 x 50, two each."""
    root = tmp_path_factory.mktemp("unequal")
    sizes = ((48, 64), (40, 80), (70, 50))
    for number, size in enumerate(sizes):
        write_voc(root, folder="set", split=f"part{number}", num_images=2, size=size, seed=number)
    sources = tuple(f"set/part{number}" for number in range(len(sizes)))
    return Voc(sources=sources, classes=TINY_CLASSES, use_difficult=True, keep_empty_images=True).read(root)


@pytest.mark.parametrize("name", RULES)
def test_an_evaluation_batch(annotations, name):
    """Canvas, regions and boxes; the boxes come back; what is alone in a batch is as `prepare` gives it."""
    spec = RULES[name]
    dataset = EvaluationDataset(annotations, spec=spec)
    samples = [dataset[SampleKey(0, 0, index)] for index in range(6)]
    batch = collate(samples, spec)
    np.testing.assert_array_equal(batch.images.numpy(), stack([sample.image for sample in samples], spec))
    assert batch.regions == [geometry.region for geometry in batch.geometries]
    for index, back in enumerate(to_image(batch.targets, batch.geometries)):
        np.testing.assert_allclose(back["boxes"].numpy(), annotations.objects(index).boxes, atol=1e-4)
    part = batch.part(2, 4)
    assert part.regions == batch.regions[2:4]
    single = collate([samples[3]], spec)
    assert single.images[0].shape == samples[3].image.shape
    assert single.images.shape[1:3] <= batch.images.shape[1:3]


def test_training_pads_by_the_same_rule():
    """Pictures as transforms leave them, of any size: the largest of each direction, up to a multiple; boxes stay."""
    sizes = ((48, 64), (33, 90), (1, 1))
    samples = [training_sample(random_image(*size, seed)) for seed, size in enumerate(sizes)]
    batch = collate(samples, SHORTER)
    assert batch.images.shape == (3, 64, 96, 3)
    assert batch.geometries is None
    assert batch.regions == [(0, 0, width, height) for height, width in sizes]
    for image, sample, (_, _, x2, y2) in zip(batch.images.numpy(), samples, batch.regions, strict=True):
        np.testing.assert_array_equal(image[:y2, :x2], sample.image)
        assert (image[y2:] == (124, 116, 104)).all()
        assert (image[:, x2:] == (124, 116, 104)).all()
    assert batch.targets[1]["boxes"].tolist() == [[0, 0, 1, 1]]
    larger = batch.on_canvas(96, 128, SHORTER.padding_color)
    assert larger.images.shape == (3, 96, 128, 3)
    assert larger.regions == batch.regions
    inputs = [normalise(one.images, SHORTER, one.regions) for one in (batch, larger)]
    assert torch.equal(inputs[1][:, :, :64, :96], inputs[0])
    assert inputs[1][:, :, 64:].abs().sum() == inputs[1][:, :, :, 96:].abs().sum() == 0
    assert batch.on_canvas(64, 96, SHORTER.padding_color) is batch
    with pytest.raises(ValueError, match=r"one size, but 'made' has \(48, 64\).*\(33, 90\).*ShorterSide"):
        collate(samples, LETTERBOX)


def training_sample(image):
    flags = np.zeros(1, dtype=bool)
    return Sample(
        image=image,
        boxes=np.array([[0, 0, 1, 1]], dtype=np.float32),
        labels=np.zeros(1, dtype=np.int64),
        difficult=flags,
        crowd=flags,
        image_id="made",
        index=0,
        height=image.shape[0],
        width=image.shape[1],
    )
