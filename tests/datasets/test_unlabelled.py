"""Pictures without labels as a data set."""

import cv2
import numpy as np
import pytest

from public.datasets.combine import Joined, Split
from public.datasets.unlabelled import Unlabelled
from public.datasets.voc import Voc
from tests.helpers.tiny_data import TINY_CLASSES, write_voc


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_voc(folder, folder="tiny", split="train", num_images=6, seed=1)
    write_voc(folder, folder="tiny", split="val", num_images=3, seed=2)
    return folder


def pictures(listing="tiny/ImageSets/Main/train.txt", folder="tiny/JPEGImages", classes=TINY_CLASSES) -> Unlabelled:
    return Unlabelled(folder=folder, listing=listing, classes=classes)


def test_the_pictures_are_those_of_the_labelled_set_in_its_order_without_its_objects(root):
    labelled = Voc(sources=("tiny/train",), classes=TINY_CLASSES, use_difficult=True, keep_empty_images=True).read(root)
    found = pictures().read(root)
    assert [found.image_path(n) for n in range(6)] == [labelled.image_path(n) for n in range(6)]
    assert found.widths.tolist() == labelled.widths.tolist()
    assert found.heights.tolist() == labelled.heights.tolist()
    assert len(found.boxes) == 0 < len(labelled.boxes)
    assert len(pictures(listing=None).read(root)) == 9
    parts = [Split(data=pictures(), part=part, val_fraction=0.5, seed=0).read(root) for part in ("train", "val")]
    assert sum(map(len, parts)) == 6
    both = Joined(sets=(pictures(), Voc(**{**vars(labelled_val()), "classes": TINY_CLASSES}))).read(root)
    assert len(both) == 9


def labelled_val() -> Voc:
    return Voc(sources=("tiny/val",), classes=None, use_difficult=True, keep_empty_images=True)


def test_a_list_may_have_extensions_and_folders(tmp_path):
    for name in ("a.jpg", "in/b.PNG"):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "set" / name), np.zeros((7, 9, 3), np.uint8))
    (tmp_path / "list.txt").write_text("in/b\na.jpg\n")
    found = pictures("list.txt", "set").read(tmp_path)
    assert [found.image_path(n) for n in range(2)] == [str(tmp_path / "set" / name) for name in ("in/b.PNG", "a.jpg")]
    assert (found.widths.tolist(), found.heights.tolist()) == ([9, 9], [7, 7])


@pytest.mark.parametrize(
    ("lines", "folder", "classes", "told"),
    [
        ("a\na.jpg\n", "set", ("x",), r"names the picture a.jpg twice, as 'a' and as 'a.jpg'"),
        ("a\nmissing\n", "set", ("x",), r"missing.*no file for the image 'missing' of .*list.txt"),
        ("a\nbroken\n", "set", ("x",), "broken.jpg"),
        ("a\n", "sett", ("x",), "sett: no such folder"),
        ("", "set", ("x",), "no picture to use"),
        ("a\n", "set", ("y",), "Give both the same names"),
        (None, "set", ("x",), r"list.txt: missing; the page means 'list.txt'"),
    ],
    ids=["twice", "missing", "broken", "folder", "none", "classes", "list"],
)
def test_what_cannot_be_used_is_named(tmp_path, lines, folder, classes, told):
    (tmp_path / "set").mkdir()
    cv2.imwrite(str(tmp_path / "set/a.jpg"), np.zeros((7, 9, 3), np.uint8))
    (tmp_path / "set/broken.jpg").write_bytes(b"no picture")
    if lines is not None:
        (tmp_path / "list.txt").write_text(lines)
    with pytest.raises((ValueError, FileNotFoundError), match=told):
        pictures("list.txt", folder, ("x",)).read(tmp_path, classes)


def test_a_check_collects_them_and_goes_on(tmp_path):
    (tmp_path / "set").mkdir()
    cv2.imwrite(str(tmp_path / "set/a.jpg"), np.zeros((7, 9, 3), np.uint8))
    (tmp_path / "set/broken.jpg").write_bytes(b"no picture")
    (tmp_path / "list.txt").write_text("broken\na\na.jpg\n")
    told = []
    found = pictures("list.txt", "set").read(tmp_path, None, told.append)
    assert [found.image_path(n) for n in range(len(found))] == [str(tmp_path / "set/a.jpg")]
    assert sorted(defect.kind for defect in told) == ["duplicate picture", "unreadable picture"]
