"""check_dataset: every kind of damage is named with file and object, nothing is written into the data, the status tells."""

import argparse
import hashlib
import itertools
import json
import re
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from public.datasets import defects as defect_module
from public.datasets.coco import Coco
from public.datasets.pictures import load_sample
from public.datasets.preparing.checks import check_classes
from public.datasets.voc import Voc
from public.input import ImageError
from public.reports import data_statistics as statistics
from public.reports.data_statistics import describe
from public.test_scripts import check_dataset
from tests.helpers.damage import COCO_DAMAGE, JSON, VOC_DAMAGE, change_xml, edit, picture, second_box, xml
from tests.helpers.forked_commands import run_python
from tests.helpers.places import REPOSITORY
from tests.helpers.tiny_data import write_coco, write_voc, write_voc_xml


def arguments(data, **options):
    defaults = {"data_root": None, "images": None, "quick": False, "workers": 0, "max_lines": 20, "output": None}
    return argparse.Namespace(data=str(data), **(defaults | options))


def find(data, **options):
    """All defects, without drawing or writing anything."""
    found = check_dataset.read(arguments(data, **options))
    found.defects.extend(check_dataset.look_at_pictures(found, is_quick=options.get("quick", False), num_workers=0))
    for annotations in found.sets.values():
        found.defects.extend(check_classes(annotations))
    return found.defects


def digest(folder):
    """Names, contents and times of all files."""
    lines = [
        f"{path.relative_to(folder)} {path.stat().st_mtime_ns} {hashlib.sha256(path.read_bytes()).hexdigest()}"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    return "\n".join([*lines, *sorted(str(path) for path in folder.rglob("*") if path.is_dir())])


# ------------------------------------------------------------------------------------------- made damage: VOC


@pytest.fixture
def voc(tmp_path):
    """A folder in VOC layout with 6 + 3 images of 48 x 64, lists train and val, without any defect."""
    root = tmp_path / "set"
    write_voc(tmp_path, folder="set", split="train", num_images=6)
    write_voc(tmp_path, folder="set", split="val", num_images=3, seed=1)
    for name, objects in (("train_0001", "cat dog bird"), ("val_0001", "bird dog cat")):
        boxes = [(name, (4 + 8 * i, 5, 20 + 8 * i, 30), False) for i, name in enumerate(objects.split())]
        write_voc_xml(root / f"Annotations/{name}.xml", size=(48, 64), objects=boxes)
    return root


def expect(found, root, kind, file, number, text):
    """The one defect of that kind, which names its file, its object and what the message has to say."""
    named = [defect for defect in found if defect.kind == kind]
    assert len(named) == 1, found
    (defect,) = named
    if file is not None:
        assert Path(defect.file) == root / file
        assert Path(file).stem in defect.message
    assert defect.number == number
    assert_matches(text, defect.message)


def assert_matches(pattern, text):
    assert re.search(pattern, text), text


def test_an_undamaged_folder_has_no_defect(voc):
    before = digest(voc)
    assert find(voc) == []
    assert digest(voc) == before


def test_names_with_blanks_are_a_list_of_images_and_lists_of_single_classes_are_passed_over(voc):
    """Image ids may have blanks; `<image id> -1` in every line is a list of who shows one class."""
    for path in [*(voc / "Annotations").iterdir(), *(voc / "JPEGImages").iterdir()]:
        path.rename(path.with_name(path.name.replace("_", " number ")))
    for split in ("train", "val"):
        listing = voc / f"ImageSets/Main/{split}.txt"
        listing.write_text(listing.read_text().replace("_", " number "))
        ids = listing.read_text().split("\n")[:-1]
        signs = [f"{image_id} {(' 1', ' 0', '-1')[k % 3]}\n" for k, image_id in enumerate(ids)]
        (voc / f"ImageSets/Main/cat_{split}.txt").write_text("".join(signs))
    found = check_dataset.read(arguments(voc))
    assert {split: len(ids) for split, ids in found.lists.items()} == {"train": 6, "val": 3}
    assert found.notes == [
        "lists in ImageSets/Main: train (6), val (3)",
        "         2 lists of single classes (<image id> -1, 0 or 1) are passed over",
    ]
    assert find(voc) == []
    (voc / "ImageSets/Main/val.txt").write_text("train number 0001\nnobody at all\n")
    assert sorted(defect.kind for defect in find(voc)) == ["missing annotation", "picture in two splits"]


@pytest.mark.parametrize("name", VOC_DAMAGE)
def test_damage_in_voc_layout_is_named(voc, name):
    damage, *expected = VOC_DAMAGE[name]
    damage(voc)
    before = digest(voc)
    found = find(voc)
    expect(found, voc, *expected)
    errors = {defect.kind for defect in found if defect.is_error}
    assert errors == ({expected[0]} & set(defect_module.ERRORS))  # and no other error comes with it
    assert digest(voc) == before


# ------------------------------------------------------------------------------------------ made damage: COCO


@pytest.fixture
def coco(tmp_path):
    """A json with 4 images of 48 x 64; image 10 is the first by id, annotations 1000 and 1001 are its neighbours."""
    write_coco(tmp_path, num_images=5)

    def change(content):
        template = {"iscrowd": 0, "area": 100.0}
        content["annotations"] = [
            {"id": 1000 + k, "image_id": 10 + 7 * (k % 4), "category_id": (3, 17, 90)[k % 3],
             "bbox": [3 + k, 4, 20, 25], **template}
            for k in range(12)
        ]  # fmt: skip

    edit(tmp_path, change)
    return tmp_path


def test_an_undamaged_json_has_no_defect(coco):
    assert find(coco / JSON) == []


@pytest.mark.parametrize("name", COCO_DAMAGE)
def test_damage_in_a_coco_json_is_named(coco, name):
    damage, *expected = COCO_DAMAGE[name]
    damage(coco)
    before = digest(coco)
    found = find(coco / JSON)
    expect(found, coco, *expected)
    errors = {defect.kind for defect in found if defect.is_error}
    assert errors == ({expected[0]} & set(defect_module.ERRORS))
    assert digest(coco) == before


@pytest.mark.parametrize("name", [name for name in COCO_DAMAGE if COCO_DAMAGE[name][1] in defect_module.ERRORS])
def test_reader_and_loader_meet_coco_damage_with_the_same_words(coco, name):
    COCO_DAMAGE[name][0](coco)
    assert_training_says_the_same(
        find(coco / JSON), Coco(annotations=JSON, images="images", classes=None, keep_empty_images=True), coco
    )


LISTS = ("ImageSets/Main/train.txt", "What is trained on must not")  # what only check_dataset compares


@pytest.mark.parametrize("name", [name for name in VOC_DAMAGE if VOC_DAMAGE[name][1] in defect_module.ERRORS])
def test_reader_and_loader_meet_voc_damage_with_the_same_words(voc, name):
    VOC_DAMAGE[name][0](voc)
    found = [defect for defect in find(voc) if not any(words in defect.message for words in LISTS)]
    data = Voc(sources=("train",), classes=None, use_difficult=True, keep_empty_images=True)
    if name == "missing xml":
        found = find(voc)
    if found:
        assert_training_says_the_same(found, data, voc)


def assert_training_says_the_same(found, data, data_root):
    """Reading in the strict way and loading every picture raises, or notes, the words of the first error found."""
    errors = [defect for defect in found if defect.is_error]
    try:
        annotations = data.read(data_root)
        words = {*annotations.dropped, *annotations.corrected}
        for i in range(len(annotations)):
            load_sample(annotations, i)
    except ImageError as error:
        words = {str(error)}
    except (ValueError, FileNotFoundError) as error:
        words = {str(error)}
    assert [normal(defect.message, data_root) for defect in errors] == [normal(word, data_root) for word in words]


def normal(message, data_root):
    """Without the ways to write the same place, and the names of the set and of what lists an image."""
    message = message.replace(f"{data_root}/", "").replace("./", "").replace(f"{data_root}", "")
    for part in (" of VOC train", " of VOC ", " of COCO annotations/train.json", " of COCO train.json"):
        message = message.replace(part + " says", " says")
    return message.replace("of ImageSets/Main/train.txt", "of").replace("of the folder Annotations", "of")


# ------------------------------------------------------------------------------------- experiments and outputs


@pytest.fixture
def experiment(experiment_folder, tmp_path):
    """(folder of an experiment, data root) without defects."""
    data_root = tmp_path / "data"
    write_voc(data_root, folder="tiny", split="train", num_images=14, seed=1)
    write_voc(data_root, folder="tiny", split="val", num_images=5, seed=2)
    return experiment_folder, data_root


def test_an_experiment_without_defects(experiment):
    folder, data_root = experiment
    assert find(folder, data_root=str(data_root)) == []


def test_leaks_between_the_splits_of_an_experiment(experiment):
    folder, data_root = experiment
    shutil.copy(data_root / "tiny/JPEGImages/train_0002.png", data_root / "tiny/JPEGImages/val_0003.png")
    with open(data_root / "tiny/ImageSets/Main/val.txt", "a") as file:
        file.write("train_0005\n")
    found = find(folder, data_root=str(data_root))
    assert {defect.kind for defect in found} == {"picture in two splits"}
    same_file, same_bytes = sorted((defect.message for defect in found), key=len)
    assert "train_0005.png: in train and in val" in same_file
    assert re.search(r"val_0003\.png \(val\): the same bytes as .*train_0002\.png \(train\)", same_bytes)


def test_a_set_that_cannot_be_read_does_not_hide_the_others(experiment):
    folder, data_root = experiment
    (data_root / "tiny/ImageSets/Main/train.txt").unlink()
    (data_root / "tiny/JPEGImages/val_0001.png").write_bytes(b"")
    found = find(folder, data_root=str(data_root))
    assert [defect.kind for defect in found if defect.is_error] == ["unusable set", "empty picture"]
    assert "train.txt: missing" in found[0].message


def test_classes_that_do_not_fit_the_detector(experiment):
    folder, data_root = experiment
    for path in (data_root / "tiny/Annotations").glob("*.xml"):
        path.write_text(path.read_text().replace("<name>dog<", "<name>cat<"))
    found = find(folder, data_root=str(data_root))
    assert (
        "the data have 2 classes (bird, cat), the detector of the configuration has num_classes = 3" in found[0].message
    )


def call(monkeypatch, cwd, *flags):
    """The command in this process; its status, or its one line."""
    monkeypatch.chdir(cwd)
    monkeypatch.setattr(sys, "argv", ["check_dataset", *map(str, flags)])
    try:
        check_dataset.main()
    except SystemExit as end:
        return end.code
    return 0


def test_the_command_writes_its_pages_beside_and_ends_with_status_1(voc, tmp_path):
    """Several kinds of damage at once, two worker processes: all are named, in the lines and in both files."""
    names = ("picture without xml", "cut jpeg", "listed twice")
    for name in names:
        VOC_DAMAGE[name][0](voc)
    second_box((30, 10, 20, 20))(voc)
    before = digest(voc)
    cwd = tmp_path / "elsewhere"
    cwd.mkdir()
    done = run_python(["-m", "public.test_scripts.check_dataset", voc, "--workers", "2"], cwd=cwd)
    assert done.returncode == 1, done.stdout + done.stderr
    assert digest(voc) == before
    kinds = [*(VOC_DAMAGE[name][1] for name in names), "inverted box"]
    report = (cwd / "set_check/report.txt").read_text()
    listed = json.loads((cwd / "set_check/defects.json").read_text())
    assert sorted(defect["kind"] for defect in listed) == sorted(kinds)
    for defect in listed:
        assert defect["message"] in done.stdout
        assert defect["message"] in report
    assert "3 errors, 1 warnings" in done.stdout
    for name in ("classes.png", "boxes.png"):
        assert cv2.imread(str(cwd / "set_check" / name)).shape[1] >= 900
    assert {path.name for path in cwd.iterdir()} == {"set_check"}


def test_the_command_ends_with_status_0_where_there_are_only_warnings(voc, tmp_path, monkeypatch, capsys):
    second_box((50, 10, 90, 20))(voc)
    assert call(monkeypatch, tmp_path, voc, "--output", "out", "--workers", "0") == 0
    assert "warning: clipped box (1)" in capsys.readouterr().out
    assert (tmp_path / "out/suspicious_boxes.jpg").is_file()


def test_bad_arguments_end_with_one_line(voc, tmp_path, monkeypatch):
    (tmp_path / "nothing").mkdir()
    assert re.fullmatch("error: the output folder .* lies in the data.*", call(monkeypatch, voc, voc))
    inside = call(monkeypatch, tmp_path, voc, "--output", voc / "JPEGImages/report")
    assert re.fullmatch("error: the output folder .* lies in the data.*", inside)
    assert re.fullmatch("error: nothing is neither an experiment.*", call(monkeypatch, tmp_path, "nothing"))
    assert re.fullmatch("error: gone is neither a folder nor a .json.*", call(monkeypatch, tmp_path, "gone"))
    assert {path.name for path in voc.iterdir()} == {"Annotations", "ImageSets", "JPEGImages"}


@pytest.mark.parametrize(
    ("folder", "is_found"), [("images", True), ("train", True), ("images/train", True), ("x", False)]
)
def test_the_pictures_of_a_json_are_found_in_the_usual_places(coco, folder, is_found):
    (coco / "images").rename(coco / "pictures")
    (coco / folder).parent.mkdir(exist_ok=True)
    (coco / "pictures").rename(coco / folder)
    if is_found:
        assert find(coco / JSON) == []
    else:
        with pytest.raises(FileNotFoundError, match=r"none of its first 5 pictures is in .*give --images"):
            find(coco / JSON)
    assert find(coco / JSON, images=coco / folder) == []


def test_quick_reads_headers_only_and_says_the_same_of_sizes(voc):
    VOC_DAMAGE["cut jpeg"][0](voc)
    change_xml(voc, "<width>64", "<width>65", name="val_0001")
    picture(voc, "train_0002").write_bytes(b"")
    full, quick = find(voc), find(voc, quick=True)
    assert {defect.kind for defect in full} - {defect.kind for defect in quick} == {"truncated picture"}
    assert [d.message for d in quick if d.kind == "wrong size"] == [d.message for d in full if d.kind == "wrong size"]
    assert "empty picture" in {defect.kind for defect in quick}


def test_long_lists_are_cut_on_the_terminal_only(voc, tmp_path, capsys):
    for i in range(6):
        picture(voc, f"train_{i:04d}").write_bytes(b"")
    num_errors = check_dataset.check(arguments(voc, max_lines=2, output=tmp_path / "out"))
    printed = capsys.readouterr().out
    assert num_errors == 6
    assert printed.count("0 bytes") == 2
    assert "... and 4 more, all in report.txt" in printed
    assert (tmp_path / "out/report.txt").read_text().count("0 bytes") == 6


def test_the_tables_count_what_there_is(voc):
    """Against counts made by hand: two images of three boxes, all other images without."""
    for path in (voc / "Annotations").glob("*.xml"):
        if path.stem not in ("train_0001", "val_0001"):
            write_voc_xml(path, size=(48, 64), objects=[])
    objects = [("cat", (0, 0, 16, 8), True), ("cat", (0, 0, 40, 40), False), ("dog", (4, 4, 8, 8), False)]
    write_voc_xml(xml(voc), size=(48, 64), objects=objects)
    text = "\n".join(describe(check_dataset.read(arguments(voc)).sets["all"]))
    assert "images   9, of 1 sizes: 64 x 48 (9)" in text
    assert "7 without objects, 7 without objects to train on" in text
    assert "boxes    6: 1 difficult, 0 crowd, 0 more were dropped, 0 are clipped" in text
    assert "an image has 0 to 3, 0.7 on average" in text
    assert "small 5 (83.3 %), medium 1 (16.7 %), large 0 (0.0 %)" in text
    rows = [line.split() for line in text.splitlines()]
    assert ["cat", "3", "2", "1", "0"] in rows
    assert ["dog", "2", "2", "0", "0"] in rows
    assert ["bird", "1", "1", "0", "0"] in rows
    (width,) = [row for row in rows if row[0] == "width" and len(row) == 6]
    assert (float(width[1]), float(width[3]), float(width[5])) == (4, 16, 40)


@pytest.mark.parametrize("sides", [(20, 340), (1, 200), (3, 4000), (100, 110), (100, 250)])
def test_no_numbers_at_the_axes_lie_on_each_other(voc, tmp_path, figures, sides):
    """Sides that span one decade, two, three, hardly any, and less than half of one."""
    annotations = check_dataset.read(arguments(voc)).sets["all"]
    corners = np.geomspace(*sides, len(annotations.boxes), dtype=np.float32)
    annotations.boxes[:] = np.stack([0 * corners, 0 * corners, corners, corners[::-1]], axis=1)
    statistics.draw_boxes({"train": annotations}, tmp_path / "boxes.png")
    (figure,) = figures
    for axes in figure.axes[:4]:
        for axis, along in ((axes.xaxis, "x"), (axes.yaxis, "y")):
            low, high = sorted(axis.get_view_interval())
            labels = axis.get_ticklabels(which="both")
            shown = [text for text in labels if text.get_text() and low <= text.get_position()[along == "y"] <= high]
            extents = sorted(tuple(getattr(text.get_window_extent(), f"interval{along}")) for text in shown)
            is_apart = [first[1] <= second[0] for first, second in itertools.pairwise(extents)]
            assert len(shown) >= 2
            assert all(is_apart), (axes.get_title("left"), along)


def test_the_two_degenerate_boxes_of_the_blood_cells_are_found(shared):
    """As written in the two files (data/SOURCE.md), by the folder and by the experiment."""
    found = find(shared / "data/bccd_voc/BCCD", quick=True)
    by_experiment = find(
        REPOSITORY / "detection_experiments/ppyoloe_xs_bccd", data_root=str(shared / "data/bccd_voc"), quick=True
    )
    for defects in (found, by_experiment):
        named = {(Path(defect.file).name, defect.number): defect for defect in defects if defect.is_error}
        assert named.keys() == {("BloodImage_00338.xml", 12), ("BloodImage_00343.xml", 3)}
        for (file, number), defect in named.items():
            assert file in defect.message
            assert f"object {number}" in defect.message
