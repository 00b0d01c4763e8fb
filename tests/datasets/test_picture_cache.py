"""The cache of decoded pictures: the same batches, several processes, bounds, and what is thrown away."""

import pickle
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from public.datasets import picture_digests
from public.loading.detection import DetectionDataset, make_detection_loader, open_cache
from public.loading.picture_cache import MARK_BYTES, PictureCache, open_in_folder
from public.loading.samplers import TrainBatches
from public.transforms.detection import DropThin
from public.transforms.fitting import FitWhenRead
from public.transforms.geometric import Letterbox
from public.transforms.mosaic import BlendPartner, Mosaic, RandomAffine
from tests.helpers.flat_pictures import GREY, write_flat

SEED = 3
FIT = FitWhenRead(size=(64, 64), interpolation="linear", use_reduced=True)
FILL = (GREY,) * 3
TRANSFORMS = (
    FIT,
    Mosaic(
        size=(64, 64),
        prob=0.5,
        center=(0.5, 1.5),
        affine=RandomAffine(rotation=10.0, scale=(0.1, 2.0), shear=2.0, translate=0.1, fill=FILL),
    ),
    BlendPartner(prob=0.5, scale=(0.5, 1.5), flip_prob=0.5, fill=FILL),
    Letterbox(size=(64, 64), interpolation="linear", padding=GREY),
    DropThin(min_side=1.0),
)

SIDES = [(64, 64), (48, 64), (64, 40), (128, 128), (30, 60), (64, 64)]


@pytest.fixture
def annotations(tmp_path, monkeypatch):
    monkeypatch.setattr(picture_digests, "MEMORY", tmp_path / "digests.sqlite")
    return write_flat(tmp_path / "data", sides=SIDES, extension=".jpg")


def batches(annotations, cache: PictureCache | None, *, num_workers: int = 0, transforms=TRANSFORMS) -> list:
    dataset = DetectionDataset(annotations, transforms=transforms, batch_transforms=(), seed=SEED, cache=cache)
    keys = TrainBatches(num_images=6, batch_size=3, seed=SEED, first_step=0, num_steps=4, rank=0, world_size=1)
    return list(make_detection_loader(dataset, keys, num_workers=num_workers, prefetch_factor=2, pin_memory=False))


def assert_equal(found: list, expected: list) -> None:
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.boxes, other.boxes)


@pytest.fixture
def decoded(monkeypatch):
    """A list that grows with each picture that is decoded in this process."""
    calls, decode = [], cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda *args: calls.append(1) or decode(*args))
    return calls


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("transforms", [TRANSFORMS, (TRANSFORMS[3],)], ids=["fitted", "own size"])
def test_batches_are_the_same_bit_for_bit_and_each_picture_is_decoded_once(
    annotations, tmp_path, decoded, on_disk, transforms
):
    expected = batches(annotations, None, transforms=transforms)
    fit = FIT if transforms is TRANSFORMS else None
    cache = open_cache(annotations, fit, max_bytes=10**6, on_disk=on_disk, folder=tmp_path / "cache")
    decoded.clear()
    assert_equal(batches(annotations, cache, transforms=transforms), expected)
    assert 0 < len(decoded) <= len(SIDES)
    decoded.clear()
    assert_equal(batches(annotations, cache, transforms=transforms), expected)
    assert not decoded
    assert_equal(batches(annotations, cache, num_workers=2, transforms=transforms), expected)


def test_a_file_serves_another_process_and_a_later_one(annotations, tmp_path, decoded):
    folder = tmp_path / "cache"
    open_again = lambda: open_cache(annotations, FIT, max_bytes=10**6, on_disk=True, folder=folder)  # noqa: E731
    expected = batches(annotations, None)
    assert_equal(batches(annotations, open_again(), num_workers=2), expected)  # both workers write into one file
    decoded.clear()
    assert_equal(batches(annotations, open_again()), expected)
    assert not decoded
    assert_equal(batches(annotations, pickle.loads(pickle.dumps(open_again()))), expected)  # as a spawned worker has it


def test_another_content_another_rule_or_another_size_begin_another_file(annotations, tmp_path):
    folder = tmp_path / "cache"

    def path_of(fit=FIT, max_bytes=10**6):
        return open_cache(annotations, fit, max_bytes=max_bytes, on_disk=True, folder=folder).path

    first = path_of()
    assert path_of() == first
    others = {path_of(replace(FIT, size=(32, 32))), path_of(None), path_of(replace(FIT, use_reduced=False))}
    picture = np.full((64, 64, 3), 200, dtype=np.uint8)
    (tmp_path / "data/0.jpg").write_bytes(cv2.imencode(".jpg", picture)[1].tobytes())
    others.add(path_of())
    assert len(others | {first}) == 5
    cache = open_cache(annotations, FIT, max_bytes=10**6, on_disk=True, folder=folder)
    assert (cache.get(0, read=lambda index: picture) == 200).all(), "the old picture is not what is found"


def test_files_that_nobody_has_open_make_room(tmp_path):
    def opened(content: str) -> PictureCache:
        cache = open_in_folder([(100, 100)], content=content, rule="", max_bytes=40_000, folder=tmp_path)
        cache.get(0, read=lambda index: np.zeros((100, 100, 3), dtype=np.uint8))
        return cache

    used, left = opened("in use"), opened("left").path
    assert used.path.exists()
    third = opened("third")
    assert third.path.exists()
    assert used.path.exists(), "another process may be reading it"
    assert not left.exists()


def test_no_more_than_the_bound_is_kept(annotations):
    shapes = [FIT.sides(*sides)[:2] for sides in SIDES]
    first_three = sum(height * width * 3 for height, width in shapes[:3])
    for max_bytes, kept in ((0, 0), (first_three - 1, 2), (first_three, 3), (10**9, 6)):
        cache = PictureCache(shapes, max_bytes=max_bytes)
        assert cache.num_kept == kept
        assert cache.size <= max_bytes + MARK_BYTES * len(SIDES) + 1
        assert_equal(batches(annotations, cache), batches(annotations, None))


def test_a_picture_that_was_left_half_written_is_read_again(tmp_path):
    """By a machine that went down: the mark is there, some pixels are not."""
    picture = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    path = tmp_path / "file"
    PictureCache([(40, 40)], max_bytes=10**6, path=path).get(0, read=lambda index: picture)
    content = bytearray(path.read_bytes())
    content[1000:1100] = bytes(100)
    path.write_bytes(content)
    reads = []
    cache = PictureCache([(40, 40)], max_bytes=10**6, path=path)
    for _ in range(2):
        assert np.array_equal(cache.get(0, read=lambda index: reads.append(1) or picture), picture)
    assert len(reads) == 1, "and is stored again"


def test_what_is_kept_cannot_be_written_to_and_another_size_is_not_kept():
    cache = PictureCache([(4, 4), (4, 4)], max_bytes=10**6)
    for index, side in ((0, 4), (1, 5)):
        made = np.full((side, side, 3), 9, dtype=np.uint8)
        for _ in range(2):
            found = cache.get(index, read=lambda index, made=made: made)
            assert np.array_equal(found, made)
    with pytest.raises(ValueError, match="read-only"):
        cache.get(0, read=pytest.fail)[:] = 0


def test_a_disk_without_room_costs_a_reading_only(tmp_path, monkeypatch):
    cache = PictureCache([(4, 4)], max_bytes=10**6, path=tmp_path / "file")

    def no_room(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", no_room)
    made = np.full((4, 4, 3), 9, dtype=np.uint8)
    assert all(np.array_equal(cache.get(0, read=lambda index: made), made) for _ in range(2))
