"""Data as users have it: each layout is recognised, read as it was drawn, and shown; what is ambiguous is refused by name."""

import argparse
import re
import sys

import numpy as np
import pytest

from public.datasets.coco import Coco
from public.datasets.combine import Split
from public.datasets.folders import list_files, split_of
from public.datasets.image_folder import ImageFolder
from public.datasets.layouts import find_layout
from public.datasets.voc import Voc
from public.test_scripts import check_dataset, show_data
from tests.helpers.drawn_layouts import LAYOUTS, drawn, write_class_folders, write_coco_json, write_voc_pair
from tests.helpers.tiny_data import TINY_CLASSES, write_picture


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Each layout, written once."""
    root = tmp_path_factory.mktemp("layouts")
    for name, layout in LAYOUTS.items():
        layout.write(root / name.replace(" ", "_"))
    return {name: root / name.replace(" ", "_") for name in LAYOUTS}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_recognised_and_read_as_it_was_drawn(folders, name):
    expected, found = LAYOUTS[name], find_layout(folders[name])
    assert (found.kind, tuple(found.sets)) == (expected.kind, expected.splits)
    assert re.search(expected.says, found.found)
    for split, data in found.sets.items():
        read = data.read(found.data_root)
        assert read.class_names == TINY_CLASSES
        items = {item.name: item for item in drawn("train" if split == "all" else split)}
        assert len(read) == len(items)
        for index in range(len(read)):
            item = items[re.search(r"(\w+)\.png$", read.image_path(index))[1]]
            if found.is_classification:
                assert read.load_picture(index).shape == item.image.shape
                continue
            objects = read.objects(index)
            np.testing.assert_allclose(objects.boxes, np.array(item.boxes, dtype=float), atol=1e-4)
            assert objects.labels.tolist() == item.labels
            assert (read.heights[index], read.widths[index]) == item.size


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_checked_and_shown_without_a_page(folders, name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = sorted(folders[name].rglob("*"))
    found = check_dataset.read(argparse.Namespace(data=str(folders[name]), data_root=None, images=None))
    assert found.layout == f"found: {find_layout(folders[name]).found}"
    assert found.defects + check_dataset.look_at_pictures(found, is_quick=False, num_workers=0) == []
    monkeypatch.setattr(sys, "argv", ["show_data", str(folders[name]), "--num_images", "2", "--side", "64"])
    show_data.main()
    assert found.layout in capsys.readouterr().out
    assert list(tmp_path.glob("*_samples.jpg"))
    assert sorted(folders[name].rglob("*")) == before


def test_the_check_says_what_it_found(folders, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["check_dataset", str(folders["yolo in splits"]), "--quick", "--workers", "0"])
    check_dataset.main()
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first == "found: YOLO labels of yolo_in_splits/data.yaml (train, val)"
    assert re.match(r"left out: .*data.yaml, line 3: test is '../test/images', which is not there", second)


def test_a_json_and_a_yaml_are_taken_by_their_names(folders):
    (read,) = find_layout(folders["coco"] / "annotations/instances_val2017.json").sets.values()
    assert len(read.read(folders["coco"])) == 4
    yolo = find_layout(folders["yolo"] / "data.yaml")
    assert len(yolo.sets["val"].read(yolo.data_root)) == 4


# -------------------------------------------------------------------------------------------------- refusals


def test_two_readings_are_refused_and_both_named(tmp_path):
    write_voc_pair(tmp_path / "mine", "train", annotations="annotations", images="images")
    write_coco_json(tmp_path / "mine", "train", json_file="coco.json", images="images")
    with pytest.raises(
        ValueError, match=r"in 2 ways: 1\) VOC xml .*; 2\) COCO json mine/coco.json.*--layout voc or coco"
    ):
        find_layout(tmp_path / "mine")
    assert find_layout(tmp_path / "mine", kind="voc").kind == "voc"
    assert find_layout(tmp_path / "mine/coco.json").kind == "coco"
    (tmp_path / "mine/again.json").write_text((tmp_path / "mine/coco.json").read_text())
    with pytest.raises(ValueError, match=r"again.json; 2\) COCO json mine/coco.json"):
        find_layout(tmp_path / "mine", kind="coco")


@pytest.mark.parametrize(
    ("folders_of_xml", "folders_of_pictures", "message"),
    [
        (("annotations", "xml"), ("images",), "annotations/ and xml/ may both be the folder of the xml files"),
        (("annotations",), ("images", "photos"), "images/ and photos/ may both be the folder of the pictures"),
    ],
)
def test_two_folders_that_may_be_meant_are_named(tmp_path, folders_of_xml, folders_of_pictures, message):
    for xml in folders_of_xml:
        for pictures in folders_of_pictures:
            write_voc_pair(tmp_path, "val", annotations=xml, images=pictures)
    with pytest.raises(ValueError, match=message):
        find_layout(tmp_path)


def test_two_folders_of_one_split_are_named(tmp_path):
    for folder in ("train", "val", "valid"):
        write_class_folders(tmp_path, "val", folder)
    with pytest.raises(ValueError, match="val/ and valid/ both hold the val part"):
        find_layout(tmp_path)


@pytest.mark.parametrize(
    "files", [(), ("a.png", "b.png"), ("images/a.png", "photos/b.png"), ("train/a.png", "val/b.png")]
)
def test_what_is_no_data_is_said_with_what_there_is(tmp_path, files):
    for name in files:
        write_picture(tmp_path / name, np.zeros((8, 8, 3), np.uint8))
    there = f"it has {files[0].split('/')[0]}" if files else "it is empty"
    with pytest.raises(FileNotFoundError, match=f"holds no data that can be read: {there}.*data.yaml"):
        find_layout(tmp_path)


def test_what_is_nearly_data_is_said(tmp_path):
    write_coco_json(tmp_path / "cut", "val", json_file="annotations/train.json", images="images")
    text = (tmp_path / "cut/annotations/train.json").read_text()
    (tmp_path / "cut/annotations/train.json").write_text(text[:300])
    with pytest.raises(FileNotFoundError, match=r"annotations/train.json is not readable as json: .*line 1"):
        find_layout(tmp_path / "cut")
    (tmp_path / "cut/annotations/train.json").write_text('{"images": [], "annotations": []}')
    with pytest.raises(FileNotFoundError, match=r"annotations/train.json has no list of categories"):
        find_layout(tmp_path / "cut")
    write_class_folders(tmp_path / "classes", "val", ".")
    (tmp_path / "classes/empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty/ holds no picture, though bird/ does"):
        find_layout(tmp_path / "classes")


def test_labels_without_names_are_refused_with_the_remedy(tmp_path):
    LAYOUTS["yolo with names"].write(tmp_path)
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"nothing that names their classes; write a data.yaml"):
        find_layout(tmp_path)


# -------------------------------------------------------------------------------------------------- VOC and COCO


def test_voc_takes_the_names_of_its_two_folders(folders):
    settings = {"classes": None, "use_difficult": True, "keep_empty_images": True}
    data = Voc(sources=("two_folders/*",), annotations="annotations", images="images", **settings)
    assert len(data.read(folders["two folders"].parent)) == 8
    assert (Voc(sources=("a/b",), **settings).annotations, Voc(sources=("a/b",), **settings).images) == (
        "Annotations",
        "JPEGImages",
    )
    with pytest.raises(FileNotFoundError, match=r'Annotations: no xml file there.*annotations="annotations"'):
        Voc(sources=("two_folders/*",), **settings).read(folders["two folders"].parent)


def test_coco_says_where_it_looked_for_its_pictures(folders, tmp_path):
    data = Coco(annotations="one_json/annotations.json", images=None, classes=None, keep_empty_images=True)
    assert data.read(folders["one json"].parent).image_root.endswith("one_json/images")
    (tmp_path / "a.json").write_text((folders["one json"] / "annotations.json").read_text())
    with pytest.raises(
        FileNotFoundError, match=r"a.json: none of its first 8 pictures is in .*the first is train_0.png"
    ):
        Coco(annotations="a.json", images=None, classes=None, keep_empty_images=True).read(tmp_path)


def test_the_folder_with_the_most_pictures_is_taken(tmp_path):
    """A folder with a stray copy of one picture is not the folder of all."""
    write_coco_json(tmp_path, "train", json_file="annotations/train.json", images="images")
    write_picture(tmp_path / "train/train_0.png", np.zeros((8, 8, 3), np.uint8))
    data = Coco(annotations="annotations/train.json", images=None, classes=None, keep_empty_images=True)
    assert data.read(tmp_path).image_root == str(tmp_path / "images")


def test_trainval_is_no_training_set_beside_val(tmp_path):
    LAYOUTS["voc"].write(tmp_path)
    lists = tmp_path / "ImageSets/Main"
    (lists / "trainval.txt").write_text((lists / "train.txt").read_text() + (lists / "val.txt").read_text())
    assert find_layout(tmp_path).found.endswith("lists train, val")
    (lists / "train.txt").unlink()
    assert find_layout(tmp_path).found.endswith("lists trainval")


# -------------------------------------------------------------------------------------------------- class folders


def test_class_folders_are_split_by_the_same_rule(folders):
    data = ImageFolder(folder="one_of_class_folders", classes=None, num_classes=None)
    root = folders["one of class folders"].parent
    parts = [Split(data=data, part=part, val_fraction=0.4, seed=1).read(root) for part in ("train", "val")]
    ids = [set(part.image_ids.tolist()) for part in parts]
    assert not ids[0] & ids[1]
    assert ids[0] | ids[1] == set(data.read(root).image_ids.tolist())
    assert all(part.load_picture(0).shape[2] == 3 for part in parts)


# -------------------------------------------------------------------------------------------------- names and folders


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"), ("Training", "train"), ("instances_train2017", "train"), ("valid", "val"), ("val_set", "val"),
        ("test-1", "test"), ("trains", None), ("contrain", None), ("images", None), ("2017", None),
    ],
)  # fmt: skip
def test_the_split_that_a_name_says(name, split):
    assert split_of(name) == split


def test_hidden_names_are_passed_over_links_followed_and_loops_survived(tmp_path):
    for name in ("a.png", ".b.png", ".ipynb_checkpoints/a.png", "deep/c.PNG", "other.txt"):
        (tmp_path / "real" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "real" / name).write_bytes(b"")
    (tmp_path / "real/deep/back").symlink_to(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert list_files(tmp_path / "link", (".png",)) == ["a.png", "deep/c.PNG"]
    assert list_files(tmp_path / "link", (".png",), is_deep=False) == ["a.png"]


def test_a_folder_of_an_experiment_is_not_taken_for_data(tmp_path):
    arguments = argparse.Namespace(data=str(tmp_path), data_root=None, images=None)
    with pytest.raises(
        FileNotFoundError, match=r"neither an experiment's folder .* nor a run .* nor data: .* is empty"
    ):
        check_dataset.read(arguments)
