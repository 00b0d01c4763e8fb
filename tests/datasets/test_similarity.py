"""Leakage: the same picture in two splits is found whatever its bytes, and different pictures are not taken for one."""

import argparse
import shutil

import cv2
import numpy as np
import pytest

from public.datasets.image_folder import ImageFolder
from public.datasets.preparing import checks
from public.datasets.preparing.class_checks import LabelledPictures
from public.datasets.preparing.similarity import LARGEST_DISTANCE, find_near, perceptual_hash
from public.test_scripts import check_dataset
from tests.helpers.tiny_data import write_picture, write_voc_xml


def scene(seed, height=120, width=160):
    """A made picture (H, W, 3) uint8 with coarse and fine structure, as photographs have it."""
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width, 3))
    for cells, weight in ((3, 1.0), (6, 0.7), (12, 0.4), (40, 0.15)):
        coarse = rng.normal(size=(cells, cells, 3)) + rng.normal(size=(cells, cells, 1))
        image += weight * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(128 + 45 * image, 0, 255).astype(np.uint8)


def saved_anew(image, quality):
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(data, cv2.IMREAD_COLOR)


def cropped(image, share):
    top, left = int(image.shape[0] * share), int(image.shape[1] * share)
    return image[top : image.shape[0] - top, left : image.shape[1] - left]


COPIES = {
    "quality 75": lambda image: saved_anew(image, 75),
    "quality 30": lambda image: saved_anew(image, 30),
    "half": lambda image: cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    "twice": lambda image: cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC),
    "stretched": lambda image: cv2.resize(image, (100, 100)),
    "brighter": lambda image: np.clip(image * 1.15, 0, 255).astype(np.uint8),
    "darker": lambda image: (image * 0.7).astype(np.uint8),
    "grey": lambda image: cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB),
    "blurred": lambda image: cv2.GaussianBlur(image, (0, 0), 1.5),
    "noisy": lambda image: np.clip(image + np.random.default_rng(0).normal(0, 8, image.shape), 0, 255).astype(np.uint8),
    "cropped": lambda image: cropped(image, 0.015),
    "stamped": lambda image: cv2.rectangle(image.copy(), (2, 2), (20, 8), (255, 255, 255), -1),
}
TURNED = {
    "mirrored": lambda image: image[:, ::-1],
    "upside down": lambda image: image[::-1],
    "by half": lambda image: image[::-1, ::-1],
    "to the left": np.rot90,
    "to the right": lambda image: np.rot90(image, 3),
    "mirrored and turned": lambda image: image.transpose(1, 0, 2),
}


def hashes(change=lambda image: image, seeds=range(12)):
    return [perceptual_hash(np.ascontiguousarray(change(scene(seed)))) for seed in seeds]


@pytest.mark.parametrize("name", [*COPIES, *TURNED])
def test_copies_are_found_with_what_they_are_copies_of(name):
    near = find_near(hashes((COPIES | TURNED)[name]), hashes())
    assert [(one.index, one.other, one.is_turned) for one in near] == [(i, i, name in TURNED) for i in range(12)]


def test_different_pictures_are_not_alike():
    assert find_near(hashes(), hashes(seeds=range(100, 140))) == []


def test_a_picture_without_structure_is_known_by_its_pixels_only():
    flat = [np.full((40, 50, 3), level, dtype=np.uint8) for level in (0, 128, 255)]
    assert [perceptual_hash(image) for image in flat] == [None] * 3
    assert find_near([None, *hashes(seeds=[1])], [None, None, *hashes(seeds=[2, 1])])[0][:3] == (1, 3, 0)
    assert find_near([None], [None]) == find_near([], hashes(seeds=[1])) == []


def test_blocks_change_nothing(monkeypatch):
    pictures = [*hashes(COPIES["cropped"]), *hashes(seeds=range(50, 60))]
    whole = find_near(pictures, hashes())
    assert len(whole) == 12
    monkeypatch.setattr("public.datasets.preparing.similarity._BLOCK", 200)
    assert find_near(pictures, hashes()) == whole


def test_real_pictures(shared):
    """Different pictures of COCO are far apart; the two splits of BCCD share one field of view."""
    files = sorted((shared / "data/coco_val100").rglob("*.jpg"))[:60]
    images = [cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_COLOR_RGB) for file in files]
    whole = [perceptual_hash(image) for image in images]
    small = [perceptual_hash(cv2.resize(saved_anew(image, 50), None, fx=0.5, fy=0.5)) for image in images]
    near = find_near(small, whole)
    assert [(one.index, one.other) for one in near] == [(i, i) for i in range(len(files))]
    assert max(one.distance for one in near) < LARGEST_DISTANCE / 2
    assert find_near(whole[::2], whole[1::2]) == []


# ------------------------------------------------------------------------------------------ check_dataset


def defects_of(folder, *, is_quick=False, num_workers=0):
    found = check_dataset.read(argparse.Namespace(data=str(folder), data_root=None, images=None))
    return check_dataset.look_at_pictures(found, is_quick=is_quick, num_workers=num_workers)


@pytest.fixture
def voc(tmp_path):
    """Two splits of three pictures each, in VOC layout."""
    for number in range(6):
        put(tmp_path, f"{number}.png", scene(number))
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    for split, ids in (("train", "012"), ("val", "345")):
        (tmp_path / f"ImageSets/Main/{split}.txt").write_text("\n".join(ids))
    return tmp_path


def put(root, name, image):
    write_picture(root / "JPEGImages" / name, image)
    xml = root / "Annotations" / f"{name.partition('.')[0]}.xml"
    write_voc_xml(xml, size=image.shape[:2], objects=[("cat", (4, 4, 30, 30), False)])


def replaced(root, old, new, image):
    (root / "JPEGImages" / old).unlink()
    put(root, new, image)


def test_splits_that_share_nothing_have_no_defect(voc):
    assert defects_of(voc) == []


def test_the_same_pixels_in_other_bytes_are_an_error(voc):
    replaced(voc, "4.png", "4.bmp", scene(1))  # another format
    (defect,) = defects_of(voc)
    assert (defect.kind, defect.is_error) == ("picture in two splits", True)
    assert f"{voc}/JPEGImages/4.bmp (val): the same decoded pixels as {voc}/JPEGImages/1.png (train)" in defect.message
    assert "What is trained on must not be evaluated on." in defect.message
    assert defects_of(voc, is_quick=True) == []  # where nothing is decoded


@pytest.mark.parametrize(
    ("name", "words"), [("quality 75", ", "), ("half", ", "), ("mirrored", ", mirrored or turned, ")]
)
def test_pictures_that_look_alike_are_a_warning_with_both_names(voc, name, words):
    replaced(voc, "4.png", "4.jpg", (COPIES | TURNED)[name](scene(1)))
    (defect,) = defects_of(voc)
    assert (defect.kind, defect.is_error) == ("similar pictures", False)
    assert f"{voc}/JPEGImages/4.jpg (val): looks like {voc}/JPEGImages/1.png (train){words}" in defect.message


@pytest.mark.parametrize("names", [("trainval", "test"), ("train", "validation"), ("train", "test"), ("val", "test")])
def test_lists_of_other_names_are_compared_too(voc, names):
    for old, new in zip(("train", "val"), names):
        (voc / f"ImageSets/Main/{old}.txt").rename(voc / f"ImageSets/Main/{new}.old")
    for new in names:
        (voc / f"ImageSets/Main/{new}.old").rename(voc / f"ImageSets/Main/{new}.txt")
    assert defects_of(voc) == []
    replaced(voc, "4.png", "4.jpg", scene(1))
    assert [defect.kind for defect in defects_of(voc)] == ["similar pictures"]


def test_within_a_split_the_same_pixels_are_a_warning_and_alike_ones_are_none(voc):
    replaced(voc, "2.png", "2.bmp", scene(1))
    replaced(voc, "5.png", "5.jpg", scene(4))
    (defect,) = defects_of(voc)
    assert (defect.kind, defect.is_error) == ("identical pictures", False)
    assert "2.bmp (train): the same decoded pixels as" in defect.message


def test_the_experiment_on_blood_cells_evaluates_on_a_field_that_it_trains_on(shared):
    """A near copy that is in the published splits: BloodImage_00037 (val) and 00038 (train)."""
    defects = defects_of(shared / "data/bccd_voc/BCCD", num_workers=2)
    (defect,) = [defect for defect in defects if defect.kind in ("similar pictures", "picture in two splits")]
    assert "BloodImage_00037.jpg (val): looks like" in defect.message
    assert "BloodImage_00038.jpg (train), 22 of 255 bits apart" in defect.message


def test_class_folders_are_compared_in_the_same_way(tmp_path):
    for number in range(3):
        write_picture(tmp_path / f"train/a/{number}.png", scene(number))
        write_picture(tmp_path / f"val/a/{number}.png", scene(number + 10))
    shutil.copy(tmp_path / "train/a/1.png", tmp_path / "val/a/3.png")
    write_picture(tmp_path / "val/a/4.bmp", scene(0))
    write_picture(tmp_path / "val/a/5.jpg", scene(2))
    seen = {}
    for split in ("train", "val"):
        pictures = ImageFolder(folder=split, classes=None, num_classes=None).read(tmp_path)
        seen[split] = checks.look_at(LabelledPictures(pictures, is_quick=False), num_workers=0, title=split)
    kinds = {defect.file[-5:]: (defect.kind, "bytes" in defect.message) for defect in checks.find_shared(seen)}
    assert kinds == {
        "3.png": ("picture in two splits", True),
        "4.bmp": ("picture in two splits", False),
        "5.jpg": ("similar pictures", False),
    }
