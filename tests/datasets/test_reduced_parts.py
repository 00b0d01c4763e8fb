"""Parts of pictures that are decoded at a part of their sides: `RandomResizedCrop(use_reduced=True)`."""

from dataclasses import replace
from functools import partial

import cv2
import numpy as np
import pytest
from PIL import Image

from public.datasets.classification_set import ClassificationSet
from public.datasets.sample import SampleKey
from public.input import read_image
from public.loading.classification import TrainingPictures
from public.transforms.classification import RandomErasing, RandomResizedCrop, UnreadPicture
from public.transforms.flip import RandomFlip
from public.transforms.rules import Until

CROP = RandomResizedCrop(
    size=(80, 100),
    area=(0.08, 1.0),
    aspect_ratio=(3 / 4, 4 / 3),
    interpolation="area",
    num_attempts=10,
    use_reduced=True,
)
FLIP = RandomFlip(prob=0.5)
SIDES = (403, 611)


def smooth(height: int, width: int) -> np.ndarray:
    """A picture in which neighbours are alike, as in photographs."""
    small = np.random.default_rng(0).integers(0, 256, (height // 24, width // 24, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def pictures(root, names) -> ClassificationSet:
    return ClassificationSet(
        images=None,
        image_root=str(root),
        labels=[0] * len(names),
        class_names=("thing",),
        image_ids=names,
        description="made pictures",
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    picture = Image.fromarray(smooth(*SIDES))
    picture.save(root / "a.jpg", quality=92)
    picture.save(root / "a.png")
    exif = picture.getexif()
    exif[0x0112] = 6  # on its side
    picture.save(root / "turned.jpg", quality=92, exif=exif)
    picture.resize((70, 60)).save(root / "small.jpg")
    return root


def samples(root, name, crop=CROP, count=40) -> list[np.ndarray]:
    data = TrainingPictures(pictures(root, [name]), transforms=(crop, FLIP), seed=3)
    return [data[SampleKey(epoch, 0, 0)].image for epoch in range(count)]


@pytest.mark.parametrize("name", ["a.jpg", "turned.jpg"])
def test_a_part_is_that_of_the_whole_picture_at_the_coarser_pixels(folder, name, monkeypatch):
    """The same cut from the whole picture, at whole blocks of pixels, differs by what the decoder rounds."""
    seen = []

    def noted(self, picture, draws):
        height, width = picture.sides()
        by = self.reduction(draws, height, width)
        seen.append((by, self.part(draws, height, width)))
        return original(self, picture, draws)

    original = RandomResizedCrop.of_unread
    monkeypatch.setattr(RandomResizedCrop, "of_unread", noted)
    found = samples(folder, name)
    whole, flips = read_image(folder / name), 0
    assert whole.shape[:2] == (SIDES if name == "a.jpg" else SIDES[::-1])
    assert {by for by, _ in seen} == {1, 2, 4}
    for image, (by, part) in zip(found, seen, strict=True):
        wide, tall = part[2] - part[0], part[3] - part[1]
        assert wide < 2 * by * 100 or tall < 2 * by * 80, "a larger one would have done"
        assert by == 1 or (wide >= by * 100 and tall >= by * 80)
        x1, y1, x2, y2 = np.rint(part / by).astype(int) * by
        assert abs(np.array([x1, y1, x2, y2]) - part).max() <= by / 2
        large = wide >= 100 and tall >= 80
        how = cv2.INTER_AREA if large else cv2.INTER_LINEAR
        expected = cv2.resize(whole[y1:y2, x1:x2], (100, 80), interpolation=how)
        errors = [abs(image.astype(int) - other).mean() for other in (expected, expected[:, ::-1])]
        flips += errors[1] < errors[0]
        assert min(errors) < (4 if by > 1 else 1e-9)
        assert max(errors) > 20
    assert 10 < flips < 30


@pytest.mark.parametrize("name", ["a.png", "small.jpg"])
def test_what_is_no_jpeg_or_too_small_has_the_pixels_it_has_without(folder, name):
    for found, expected in zip(samples(folder, name), samples(folder, name, replace(CROP, use_reduced=False))):
        assert np.array_equal(found, expected)


def test_pictures_in_memory_have_the_pixels_they_have_without():
    data = [
        TrainingPictures(
            ClassificationSet(
                images=smooth(*SIDES)[None], image_root=None, labels=[0], class_names=("x",), image_ids=["0"],
                description="in memory",
            ),
            transforms=(crop,),
            seed=1,
        )
        for crop in (CROP, replace(CROP, use_reduced=False))
    ]  # fmt: skip
    for epoch in range(5):
        assert np.array_equal(*(one[SampleKey(epoch, 0, 0)].image for one in data))


def test_photographs_differ_by_two_and_a_half_levels_on_average(shared):
    """The bound that docs/train.md states, on photographs of COCO; parts are rounded to whole blocks in both."""
    crop, differences = replace(CROP, size=(40, 50)), []
    for path in sorted((shared / "data/coco_val100").rglob("*.jpg"))[:40]:
        whole = read_image(path)
        picture = UnreadPicture(sides=partial(np.shape, whole[..., 0]), read=partial(reduced, path))
        for number in range(4):
            draws = np.random.default_rng(number).random(crop.num_draws)
            by = crop.reduction(draws, *whole.shape[:2])
            same = crop._resized(whole, np.rint(crop.part(draws, *whole.shape[:2]) / by).astype(int) * by)
            if by > 1:
                differences.append(abs(crop.of_unread(picture, draws).astype(int) - same).mean())
    assert len(differences) > 150
    assert np.mean(differences) < 2.6
    assert np.max(differences) < 11


def reduced(path, by: int) -> np.ndarray:
    return read_image(path, reduction=by)


def test_it_has_to_stand_first(folder):
    for transforms in ((FLIP, CROP), (CROP, CROP), (FLIP, Until(epoch=3, transforms=(CROP,)))):
        with pytest.raises(ValueError, match="RandomResizedCrop with use_reduced reads the pictures itself"):
            TrainingPictures(pictures(folder, ["a.jpg"]), transforms=transforms, seed=0)


def test_a_picture_that_cannot_be_read_is_skipped_or_named(folder, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    (tmp_path / "a.jpg").write_bytes((folder / "a.jpg").read_bytes())
    both = pictures(tmp_path, ["broken.jpg", "a.jpg"])
    erase = RandomErasing(prob=1.0, area=(0.1, 0.2), aspect_ratio=(0.3, 3.3), fill=(0, 0, 0), num_attempts=3)
    data = TrainingPictures(both, transforms=(CROP, erase), seed=0, on_bad_sample="skip")
    sample = data[SampleKey(0, 0, 0)]
    assert (sample.index, sample.image.shape) == (1, (80, 100, 3))
    assert "broken.jpg" in sample.skipped
    with pytest.raises(ValueError, match=r"broken\.jpg"):
        TrainingPictures(both, transforms=(CROP, erase), seed=0)[SampleKey(0, 0, 0)]
