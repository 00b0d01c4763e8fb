"""One rule for what lies in a folder: hidden entries, links, loops, links that lead nowhere; in every reader and command."""

import argparse
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from public.datasets.combine import Split
from public.datasets.image_folder import ImageFolder
from public.datasets.voc import Voc, read_voc_folder
from public.datasets.yolo import convert_yolo
from public.folders import files_under, is_hidden, look_into
from public.inference.sources import find_images
from public.input import ImageError
from public.test_scripts import check_dataset
from tests.helpers.tiny_data import write_picture, write_voc

HIDDEN = (".ipynb_checkpoints", ".git", "__MACOSX", "@eaDir")
PIXELS = np.zeros((8, 8, 3), dtype=np.uint8)


def write(folder, *names):
    for name in names:
        write_picture(folder / name, PIXELS)


def ids(root, source="m/*"):
    data = Voc(sources=(source,), classes=None, use_difficult=True, keep_empty_images=True)
    return data.read(root).image_ids.tolist()


def check(folder):
    """The defects that `check_dataset` finds in a folder of VOC layout."""
    found = check_dataset.read(argparse.Namespace(data=str(folder), data_root=None, images=None))
    return found.defects + check_dataset.look_at_pictures(found, is_quick=True, num_workers=0)


# ------------------------------------------------------------------------------------------ the rule


def test_names_that_are_passed_over():
    assert all(map(is_hidden, (*HIDDEN, "._a.jpg", ".a.xml", "Thumbs.db", "desktop.ini", "$RECYCLE.BIN")))
    assert not any(map(is_hidden, ("a.jpg", "a.", "_a", "~a", "cat.dog", "MACOSX")))


def test_files_are_listed_from_the_folder_on(tmp_path):
    write(tmp_path, "b.png", "a/c.PNG", "a/.d.png", ".e/f.png", "a/@eaDir/g.png")
    (tmp_path / "a" / "notes.txt").touch()
    assert files_under(tmp_path, (".png",)) == ["a/c.PNG", "b.png"]
    assert files_under(tmp_path) == ["a/c.PNG", "a/notes.txt", "b.png"]
    assert look_into(tmp_path / "a", (".png",)) == ([], ["c.PNG"], ["notes.txt"])
    assert files_under(tmp_path / ".e") == ["f.png"]  # a folder that is named is looked into, whatever its name


def test_links_to_folders_are_followed_once_and_a_folder_goes_by_its_own_name(tmp_path):
    write(tmp_path / "set", "b/1.png", "z/2.png")
    write(tmp_path / "elsewhere", "3.png", "deep/4.png")
    (tmp_path / "set" / "a").symlink_to("b")  # another name of b
    (tmp_path / "set" / "c").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "d").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "5.png").symlink_to(tmp_path / "elsewhere" / "3.png")  # links to files are files
    assert files_under(tmp_path / "set") == ["5.png", "b/1.png", "c/3.png", "c/deep/4.png", "z/2.png"]


def test_loops_end(tmp_path):
    write(tmp_path / "set", "a/1.png", "b/2.png")
    (tmp_path / "set" / "a" / "self").symlink_to(".")
    (tmp_path / "set" / "a" / "up").symlink_to("..")
    (tmp_path / "set" / "a" / "to_b").symlink_to("../b")
    (tmp_path / "set" / "b" / "to_a").symlink_to("../a")
    (tmp_path / "set" / "b" / "everything").symlink_to("/")
    write(tmp_path, "beside.png")
    (tmp_path / "set" / "b" / "above").symlink_to(tmp_path)
    assert files_under(tmp_path / "set") == ["a/1.png", "b/2.png"]


@pytest.mark.parametrize("target", ["nowhere", "b"])  # the second is a link to itself
def test_a_link_that_leads_nowhere_is_told_of_unless_its_name_says_what_it_is(tmp_path, target):
    write(tmp_path, "a.png")
    (tmp_path / "b").symlink_to(target)
    with pytest.raises(FileNotFoundError, match=rf"/b: a symbolic link to {target}, which is not there\. Restore"):
        files_under(tmp_path, (".png",))
    told = []
    assert files_under(tmp_path, (".png",), lambda path, message: told.append(path)) == ["a.png"]
    assert told == [str(tmp_path / "b")]
    (tmp_path / "b").rename(tmp_path / "b.png")
    assert files_under(tmp_path, (".png",)) == ["a.png", "b.png"]


def test_a_pipe_is_no_file(tmp_path):
    """Reading it would wait for ever."""
    os.mkfifo(tmp_path / "a.xml")
    with pytest.raises(FileNotFoundError, match=r"a\.xml: neither a file nor a folder"):
        files_under(tmp_path, (".xml",))


# ------------------------------------------------------------------------------------------ VOC


@pytest.fixture
def voc(tmp_path):
    write_voc(tmp_path, folder="m", split="t", num_images=4, size=(24, 24))
    return tmp_path


@pytest.mark.parametrize("name", HIDDEN)
def test_copies_in_hidden_folders_are_no_samples(voc, name):
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        shutil.copytree(voc / "m" / part, voc / "m" / part / name)
    (voc / "m" / "Annotations" / "._t_0000.xml").write_bytes(b"\0\5\x16\7 no xml")
    (voc / "m" / "ImageSets" / "Main" / "._t.txt").write_bytes(b"\xff\xfe no text")
    write(voc / "m" / "JPEGImages", "._t_0000.png")
    expected = [f"t_000{i}" for i in range(4)]
    assert ids(voc) == expected
    assert read_voc_folder(voc / "m").image_ids.tolist() == expected
    assert check(voc / "m") == []
    data = Voc(sources=("m/*",), classes=None, use_difficult=True, keep_empty_images=True)
    parts = (Split(data=data, part=part, val_fraction=0.5, seed=3).read(voc) for part in ("train", "val"))
    assert sorted(image_id for part in parts for image_id in part.image_ids.tolist()) == expected


def test_linked_folders_hold_samples_and_loops_end(voc, tmp_path):
    write_voc(tmp_path, folder="x", split="u", num_images=2, size=(24, 24), seed=1)
    for part in ("Annotations", "JPEGImages"):
        (voc / "m" / part / "more").symlink_to(tmp_path / "x" / part)
        (voc / "m" / part / "loop").symlink_to("..")
    assert ids(voc) == ["more/u_0000", "more/u_0001", "t_0000", "t_0001", "t_0002", "t_0003"]
    assert check(voc / "m") == []
    with open(voc / "m" / "ImageSets/Main/t.txt", "a") as file:
        file.write("more/u_0001\nloop/Annotations/t_0000\n")  # a list may name a file by any way that leads to it
    assert [defect.kind for defect in check(voc / "m")] == []


def test_a_link_that_leads_nowhere_is_named_in_annotations_and_pictures(voc):
    (voc / "m" / "Annotations" / "more").symlink_to("nowhere")
    with pytest.raises(FileNotFoundError, match="Annotations/more: a symbolic link to nowhere"):
        ids(voc)
    (defect,) = check(voc / "m")
    assert (defect.kind, defect.file, defect.is_error) == ("unusable entry", str(voc / "m/Annotations/more"), True)
    (voc / "m" / "Annotations" / "more").unlink()
    xml, picture = voc / "m" / "Annotations" / "t_0001.xml", voc / "m" / "JPEGImages" / "t_0001.png"
    for file, kind in ((xml, "missing annotation"), (picture, "missing picture")):
        content = file.read_bytes()
        file.unlink()
        file.symlink_to("gone")
        defects = check(voc / "m")
        assert kind in {defect.kind for defect in defects}
        assert any(f"{file}: missing (it is a symbolic link to gone)" in defect.message for defect in defects)
        file.unlink()
        file.write_bytes(content)


# ------------------------------------------------------------------------------------------ class folders


@pytest.fixture
def classes(tmp_path):
    write(tmp_path / "real", "b/1.png")
    write(tmp_path / "set", "a/1.png", "c/1.png", ".ipynb_checkpoints/1.png", "a/.ipynb_checkpoints/1-checkpoint.png")
    (tmp_path / "set" / "a" / "Thumbs.db").touch()
    (tmp_path / "set" / "b").symlink_to(tmp_path / "real" / "b")
    return tmp_path


def read_classes(root, names=None):
    return ImageFolder(folder="set", classes=names, num_classes=None).read(root)


def test_class_folders_by_the_same_rule(classes):
    assert read_classes(classes).image_ids.tolist() == ["a/1.png", "b/1.png", "c/1.png"]


def test_a_class_folder_that_is_gone_is_named_and_shifts_no_label(classes):
    shutil.rmtree(classes / "real")
    with pytest.raises(FileNotFoundError, match=r"set/b: a symbolic link to .*real/b, which is not there"):
        read_classes(classes)
    assert read_classes(classes, ("a", "c")).class_names == ("a", "c")  # which leave it out on purpose
    with pytest.raises(FileNotFoundError, match="set/b: a symbolic link"):
        read_classes(classes, ("a", "b"))


def test_a_picture_that_is_gone_is_named_when_it_is_opened(classes):
    (classes / "real" / "b" / "1.png").unlink()
    (classes / "real" / "b" / "1.png").symlink_to("gone")
    with pytest.raises(ImageError, match=r"b/1\.png: missing \(it is a symbolic link to gone\)"):
        read_classes(classes).load_picture(1)
    os.mkfifo(classes / "set" / "c" / "2.png")
    with pytest.raises(FileNotFoundError, match=r"2\.png: neither a file nor a folder"):
        read_classes(classes)


# ------------------------------------------------------------------------------------------ YOLO, detect, classify


def test_yolo_labels_by_the_same_rule(tmp_path):
    write(tmp_path / "images", "a.png", ".ipynb_checkpoints/a-checkpoint.png", "._a.png")
    write(tmp_path / "elsewhere", "b.png")
    (tmp_path / "images" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "images" / "loop").symlink_to(".")
    for name in ("a.txt", ".ipynb_checkpoints/a-checkpoint.txt", "more/b.txt"):
        (tmp_path / "labels" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "labels" / name).write_text("0 0.5 0.5 0.5 0.5\n")
    read = convert_yolo(tmp_path / "images", tmp_path / "labels", ("cat",), polygons=False, unused_labels=False)
    assert [image["file_name"] for image in read.content["images"]] == ["a.png", "more/b.png"]


def test_detect_looks_by_the_same_rule(tmp_path, capsys):
    source = tmp_path / "photos"
    write(source, "a.png", ".cache/b.png", "sub/c.png", "sub/.ipynb_checkpoints/c-checkpoint.png", "._a.png")
    write(tmp_path / "elsewhere", "d.png")
    (source / "sub" / "more").symlink_to(tmp_path / "elsewhere")
    (source / "sub" / "loop").symlink_to("..")
    (source / "sub" / "gone").symlink_to("nowhere")
    (source / "gone.png").symlink_to("nowhere")  # is listed, and named as missing when it is opened
    (source / "notes.txt").touch()

    def found(recursive):
        images = find_images(source, recursive=recursive, leave_out=Path("/nowhere"))
        return [path.relative_to(source).as_posix() for path in images], capsys.readouterr().out

    assert found(False) == (["a.png", "gone.png"], f"{source}: 1 files are no images and are passed over (.txt)\n")
    names, said = found(True)
    assert names == ["a.png", "gone.png", "sub/c.png", "sub/more/d.png"]
    assert f"passed over: {source}/sub/gone: a symbolic link to nowhere, which is not there" in said
