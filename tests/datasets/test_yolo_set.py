"""`Yolo`: data.yaml in the forms that people have it, labels line by line, and what is refused with file and line."""

import numpy as np
import pytest

from public.datasets.coco import Coco
from public.datasets.combine import Joined, Split
from public.datasets.data_yaml import read_data_yaml
from public.datasets.yolo import Yolo
from public.datasets.yolo_places import label_file
from public.settings import SettingError
from tests.helpers.drawn_layouts import LAYOUTS, drawn, write_coco_json, write_yolo_pair
from tests.helpers.tiny_data import TINY_CLASSES, write_picture

NAMES = "names: [bird, cat, dog]\n"
BOX = "0 0.5 0.5 0.5 0.5\n"


@pytest.fixture
def mine(tmp_path):
    """A folder mine/ with images/train, images/val and their labels, without a data.yaml."""
    LAYOUTS["yolo"].write(tmp_path / "mine")
    (tmp_path / "mine/data.yaml").unlink()
    return tmp_path / "mine"


def read(folder, split="train", *, classes=None, text=None, keep_empty_images=True, **arguments):
    """The set of `folder`/data.yaml, after `text` was written into it."""
    if text is not None:
        (folder / "data.yaml").write_text(text, encoding="utf-8")
    data = Yolo(data=f"{folder.name}/data.yaml", split=split, classes=classes, keep_empty_images=keep_empty_images)
    return data.read(folder.parent, **arguments)


def one_label(folder, text, **options):
    """The set of one picture of 80 x 40 whose label has `text`."""
    write_picture(folder / "images/a.png", np.zeros((40, 80, 3), np.uint8))
    (folder / "labels").mkdir(exist_ok=True)
    (folder / "labels/a.txt").write_text(text)
    return read(folder, text=f"train: images\n{options.pop('more', '')}{NAMES}", **options)


# --------------------------------------------------------------------------------------------------- data.yaml


@pytest.mark.parametrize(
    "text",
    [
        "train: images/train\n",
        "train: images/train/\n",
        "train: ./images/train\n",
        'path: .\ntrain: "images/train"  # quoted\n',
        "path: mine\ntrain: images/train\n",
        "path: ../mine\ntrain: images/train\n",
        "path: ../datasets/mine\ntrain: images/train\n",
        "path: /content/datasets/mine\ntrain: images/train\n",
        "path: FOLDER\ntrain: images/train\n",
        "train: FOLDER/images/train\n",
        "train: ../images/train\n",
        "train: [images/train]\n",
        "train:\n  - images/train\n",
        "train:\n- images/train  # the only one\n\nval: images/val\n",
        "train: train.txt\n",
        "train: [lists/first.txt, lists/rest.txt]\n",
        "\ufefftrain: images/train\r\nval: images/val\r\ntest:\r\n",
        "---\ntrain: images/train\ndownload: |\n  train: no\n  names: [x]\n",
        "'train': images/train\ntest: ~\n",
        "train: images/train\nval:\ntest: null\naugment: {a: 1}\n",
    ],
)
def test_the_forms_in_which_data_yaml_names_its_pictures(mine, text):
    names = [f"{item.name}.png" for item in drawn("train")]
    (mine / "train.txt").write_text("".join(f"./images/train/{name}\n" for name in names))
    (mine / "lists").mkdir()
    (mine / "lists/first.txt").write_text(f"{mine}/images/train/{names[0]}\n\n")
    (mine / "lists/rest.txt").write_text("".join(f"images/train/{name}\n" for name in names[1:]))
    found = read(mine, text=text.replace("FOLDER", str(mine)) + NAMES)
    assert found.class_names == TINY_CLASSES
    assert [found.image_name(index) for index in range(len(found))] == [f"mine/images/train/{name}" for name in names]
    assert found.image_id(0) == f"images/train/{names[0]}"
    np.testing.assert_allclose(found.boxes, np.concatenate([item.boxes for item in drawn("train")]), atol=1e-4)


def test_several_folders_are_one_part(mine):
    assert len(read(mine, text=f"train: [images/train, images/val]\n{NAMES}")) == 8 + 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: images/trian\n", r"line 1: train is 'images/trian', which is not there; it was looked for in .*mine"),
        ("\ntrain:\n  - images/train\n  - gone\n", "line 4: train is 'gone', which is not there"),
        ("train: labels\n", r"line 1: .*labels holds no picture .* named as a folder of pictures"),
        ("train: a.json\n", r"line 1: .*a.json is neither a folder nor a text"),
        ("train: empty.txt\n", r"empty.txt lists no picture, though .*data.yaml, line 1 names it"),
        ("train: list.txt\n", r"images/gone.png: missing, though .*list.txt, line 2 lists the picture"),
        ("train: {a: b}\n", r"line 1: '\{a: b\}' is neither a name nor a list"),
        ("val: x\ntrain: *anchor\n", r"line 2: '\*anchor' is neither a name nor a list"),
        ("train: [images/train\nval: x\n", "line 1: brackets within brackets"),
        ("train:\n  first: images/train\n", r"line 1: 'first: images/train' is not of the form"),
        ("train: images/train\nvalid: x\nval: y\n", "line 3: `val` names a part of the set that is named before"),
        ("path: [a, b]\ntrain: images/train\n", "line 1: `path` has 2 values"),
        ("train: images/train\nkpt_shape: [17]\n", r"line 2: kpt_shape is \['17'\], not"),
        ("val: images/val\n", "names no train; the parts of the set that it names: val"),
    ],
)
def test_what_data_yaml_gets_wrong_is_named_with_its_line(mine, text, message):
    (mine / "a.json").write_text("{}")
    (mine / "empty.txt").write_text("\n")
    (mine / "list.txt").write_text("images/train/train_0.png\nimages/gone.png\n")
    with pytest.raises((FileNotFoundError, ValueError), match=message) as caught:
        read(mine, text=text + NAMES)
    assert str(mine) in str(caught.value)


def test_names_are_refused_with_their_line(mine):
    for names, message in (
        ("names: [a, b\n", "`names`, line 2, cannot be read"),
        ("names: [a, a]\n", "twice a"),
        ("", "has 0 entries"),
    ):
        with pytest.raises(ValueError, match=message):
            read(mine, text=f"train: images/train\n{names}")
    with pytest.raises(FileNotFoundError, match=r"data.yaml: no such file"):
        Yolo(data="mine/sub/data.yaml", split="train", classes=None, keep_empty_images=True).read(mine.parent)


def test_what_is_written_is_read_back(tmp_path):
    (tmp_path / "data.yaml").write_text(f"path: x\ntrain: [a, 'b c']\nval:\n  - d\nkpt_shape: [17, 3]\n{NAMES}")
    content = read_data_yaml(tmp_path / "data.yaml")
    assert content.names == TINY_CLASSES
    assert content.path == ("x", 1)
    assert content.splits == {"train": [("a", 2), ("b c", 2)], "val": [("d", 4)]}
    assert content.num_keypoints == 51


# ------------------------------------------------------------------------------------------------------ labels


def test_boxes_and_outlines_may_stand_in_one_label(tmp_path):
    found = one_label(tmp_path, "2 0.5 0.25 0.5 0.5\n\n1 0.5 0.1 0.9 0.5 0.5 0.9 0.1 0.5\n0.0 0 0 1 0 1 1\n")
    np.testing.assert_allclose(found.boxes, [[20, 0, 60, 20], [8, 4, 72, 36], [0, 0, 80, 40]], atol=1e-4)
    assert found.labels.tolist() == [2, 1, 0]
    assert not found.crowd.any()
    np.testing.assert_allclose(found.areas, [800, 64 * 32, 3200], rtol=1e-6)


@pytest.mark.parametrize(
    ("shape", "rest"), [("[2, 3]", " 0.1 0.1 2 0.9 0.9 0"), ("[4, 2]", " 0.1 0.2 0.3 0.4 0.5 0.6 0 0")]
)
def test_keypoints_are_passed_over(tmp_path, shape, rest):
    found = one_label(tmp_path, f"1 0.5 0.5 0.5 0.5{rest}\n0 0.5 0.5 1 1\n", more=f"kpt_shape: {shape}\n")
    np.testing.assert_allclose(found.boxes, [[20, 10, 60, 30], [0, 0, 80, 40]], atol=1e-4)
    with pytest.raises(ValueError, match=r"a.txt, line 1: 7 fields; with the keypoints"):
        one_label(tmp_path, "0 0 0 1 0 1 1\n", more=f"kpt_shape: {shape}\n")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("3 0.5 0.5 0.1 0.1", r"class 3 is none of 0 \.\. 2, the 3 names bird, cat, dog"),
        ("cat 0.5 0.5 0.1 0.1", "'cat' is not a number"),
        ("0 0.5 0.5 0.1", "4 fields; a line is a box"),
        ("0 0.5 0.5 0.1 0.1 0.9", "6 fields; a line is a box"),
        ("0 0.5 nan 0.1 0.1", "'nan' is not finite"),
        ("0 320 240 100 50", "320 is outside 0 .. 1"),
        ("0 0.1 0.1 0.2 0.2 1.5 0.1", "1.5 is outside 0 .. 1"),
    ],
)
def test_a_wrong_line_stops_or_is_told(tmp_path, line, message):
    with pytest.raises(ValueError, match=f"a.txt, line 2: {message}"):
        one_label(tmp_path, BOX + line)
    defects = []
    found = read(tmp_path, on_defect=defects.append)
    assert len(found.boxes) == 1, "the other line is kept"
    assert [(defect.number, defect.file) for defect in defects] == [(2, str(tmp_path / "labels/a.txt"))]
    assert defects[0].kind == ("unknown class" if line.startswith("3") else "broken object")


def test_a_box_a_little_outside_is_cut_and_noted(tmp_path):
    found = one_label(tmp_path, "0 0.5 0.5 1.004 1\n0 0.0 0.0 1.005 0.0 1.005 0.5\n0 0.5 0.5 0 0.1\n")
    np.testing.assert_allclose(found.boxes, [[0, 0, 80, 40], [0, 0, 80, 20]], atol=1e-4)
    assert len(found.clipped) == 2
    assert "a.txt, object 3" in found.dropped[0]


def test_a_picture_without_a_label_has_no_object(mine):
    (mine / "labels/train/train_0.txt").unlink()
    (mine / "labels/train/train_1.txt").write_text("\n")
    whole = read(mine, text=f"train: images/train\n{NAMES}")
    assert np.diff(whole.offsets)[:3].tolist() == [0, 0, len(list(drawn("train"))[2].boxes)]
    assert len(read(mine, keep_empty_images=False)) == 6
    for file in (mine / "labels/train").iterdir():
        file.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"none of the 8 pictures of train has a label, the first would be .*train_0.txt"
    ):
        read(mine)


def test_labels_lie_where_the_last_folder_called_images_says(tmp_path):
    picture = tmp_path / "images/mine/images/train/a.b.jpg"
    assert label_file(str(picture)) == str(tmp_path / "images/mine/labels/train/a.b.txt")
    beside = tmp_path / "images/mine/a.jpg"  # the folder above all is called so by chance
    beside.parent.mkdir(parents=True)
    beside.with_suffix(".txt").write_text("")
    assert label_file(str(beside)) == str(beside.with_suffix(".txt"))


def test_what_is_there_twice_or_broken_is_told(mine):
    defects = []
    (mine / "list.txt").write_text("images/train/train_0.png\n" * 2 + "images/train/train_1.png\nimages/gone.png\n")
    write_picture(mine / "images/val/val_0.jpg", np.zeros((48, 64, 3), np.uint8))
    (mine / "images/val/val_1.png").write_bytes(b"")
    (mine / "labels/val/nobody.txt").write_text(BOX)
    found = read(mine, text=f"train: list.txt\nval: images/val\n{NAMES}", on_defect=defects.append)
    assert len(found) == 2
    assert [defect.kind for defect in defects] == ["duplicate picture", "missing picture"]
    with pytest.raises(
        ValueError, match=r"train_0.png is there twice, by .*list.txt, line 1 and by .*list.txt, line 2"
    ):
        read(mine)
    defects.clear()
    assert len(read(mine, "val", on_defect=defects.append)) == 3
    assert [defect.kind for defect in defects] == [
        "ambiguous picture",
        "annotation without picture",
        "empty picture",
    ]
    with pytest.raises(FileNotFoundError, match=r"val_0.jpg and .*val_0.png would share the label"):
        read(mine, "val")


# ----------------------------------------------------------------------------------------------------- classes


def test_classes_have_the_order_of_the_page(mine):
    text = f"train: images/train\nval: images/val\n{NAMES}"
    plain = read(mine, text=text)
    turned = read(mine, classes=("dog", "bird", "cat"))
    assert turned.class_names == ("dog", "bird", "cat")
    assert turned.category_ids == (2, 0, 1)
    assert [turned.class_names[label] for label in turned.labels] == [
        plain.class_names[label] for label in plain.labels
    ]
    with pytest.raises(ValueError, match=r"\('bird'.*\) are not expected there, \('fish',\) are not in the file"):
        read(mine, classes=("cat", "dog", "fish"))
    with pytest.raises(ValueError, match="the config names 1 classes"):
        read(mine, classes=("cat",), class_names=TINY_CLASSES)


def test_it_stands_where_the_others_stand(mine):
    (mine / "data.yaml").write_text(f"train: images/train\nval: images/val\n{NAMES}")
    write_coco_json(mine.parent / "more", "test", json_file="a.json", images=".")
    train, val = (
        Yolo(data="mine/data.yaml", split=split, classes=None, keep_empty_images=True) for split in ("train", "val")
    )
    coco = Coco(annotations="more/a.json", images=None, classes=None, keep_empty_images=True)
    assert len(Joined(sets=(train, val, coco)).read(mine.parent)) == 8 + 4 + 3
    parts = [Split(data=train, part=part, val_fraction=0.5, seed=0).read(mine.parent) for part in ("train", "val")]
    assert sum(map(len, parts)) == 8
    assert parts[0].fingerprint() == parts[0].fingerprint()


def test_settings_are_checked():
    with pytest.raises(SettingError, match=r"Yolo[.:] ?classes is the text 'ab'"):
        Yolo(data="a.yaml", split="train", classes="ab", keep_empty_images=True)
    with pytest.raises(SettingError, match=r"Yolo.split is 'valid'; it must be train or val or test or all"):
        Yolo(data="a.yaml", split="valid", classes=None, keep_empty_images=True)


def test_a_text_of_names_has_the_parts_that_its_folders_say(tmp_path):
    for split in ("train", "val"):
        write_yolo_pair(tmp_path, split, images=f"images/{split}", labels=f"labels/{split}")
    (tmp_path / "labels/classes.txt").write_text("bird\ncat\ndog\n")
    counts = {
        split: len(Yolo(data="labels/classes.txt", split=split, classes=None, keep_empty_images=True).read(tmp_path))
        for split in ("train", "val", "all")
    }
    assert counts == {"train": 8, "val": 4, "all": 12}
