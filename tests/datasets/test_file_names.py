"""Names of files that are no UTF-8, or no names at all, through every reader, tool and report: by one rule, `public.text`."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import public
from public import drawing, text
from public.datasets.coco import Coco
from public.datasets.combine import Joined, Split
from public.datasets.image_folder import ImageFolder
from public.datasets.picture_digests import content_digest
from public.datasets.pictures import load_picture
from public.datasets.voc import Voc, list_split
from public.datasets.yolo import convert_yolo
from public.inference.sources import find_images, is_image
from public.inference.video import VideoFile, open_video
from public.input import ImageError, read_image, read_size
from public.reports.detection import write_report
from public.reports.tables import format_table
from public.runs.experiment import load_experiment
from tests.evaluation.test_evaluation import make_detections
from tests.helpers.tiny_data import write_coco, write_picture, write_voc
from tests.helpers.tiny_detector import picture, run_detect, write_checkpoint, write_video

LATIN = os.fsdecode("café".encode("latin-1"))  # as a camera of the nineties calls it
NAMES = (LATIN, os.fsdecode(b"\xff\xfe\x80"), "猫", "a\nb", "50%d", " a ", "é\x1b[31m")
STRANGE = [name for name in NAMES if text.shown(name) != name]


def rename(folder: Path, old: str, new: str) -> None:
    for path in folder.rglob(f"{old}.*"):
        path.rename(path.with_name(new + path.suffix))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("weights") / "tiny.pth")


@pytest.fixture
def voc(tmp_path):
    """A set whose first pictures are called NAMES, in folders of such names too."""
    folder = os.fsdecode(b"m\xe4nner")
    write_voc(tmp_path, folder=folder, num_images=len(NAMES) + 1)
    for number, name in enumerate(NAMES):
        rename(tmp_path / folder, f"train_{number:04d}", name)
    return tmp_path, folder


# ---------------------------------------------------------------------------------------------------- the rule


@pytest.mark.parametrize("name", NAMES)
def test_names_come_back_from_json_and_can_always_be_shown(name):
    assert json.loads(text.as_json({name: [name]})) == {name: [name]}
    text.as_json(name).encode()
    shown = text.shown(name)
    assert len(shown.splitlines()) == 1
    assert text.to_bytes(name).decode() == name.encode("utf-8", text.ESCAPED).decode()
    assert shown.isprintable()
    assert text.file_named(name) == name


def test_the_bytes_of_a_name_are_seen():
    assert text.shown(LATIN) == "caf\\xe9"
    assert "猫é".encode("ascii", text.ESCAPED) == b"\\u732b\\u00e9"
    assert "🐱\ud800".encode("utf-8", text.ESCAPED) == "🐱\\ud800".encode()


@pytest.mark.parametrize("name", ["a\0b", "a\ud800", "\udfff", "name" * 2000, "猫" * 86, "folder/" * 600 + "name"])
def test_no_file_has_such_a_name(name, tmp_path):
    with pytest.raises(ValueError, match=r"^no file can be called .{1,250}$"):
        text.file_named(name)
    with pytest.raises(ImageError, match="cannot be read"):
        read_image(tmp_path / name)
    with pytest.raises(ImageError):
        read_size(tmp_path / name)


# ---------------------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize("name", ["n" * 255, "猫" * 85, "folder/" * 500 + "name"])
def test_the_longest_names_are_names(name):
    assert text.file_named(name) == name


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".dat"])
def test_pictures_are_written_and_read(name, suffix, tmp_path):
    path = tmp_path / f"{name}{suffix}"
    if suffix == ".dat":
        write_picture(tmp_path / "a.png", picture(0))
        (tmp_path / "a.png").rename(path)
    else:
        drawing.save_image(path, picture(0))
    assert read_image(path).shape == picture(0).shape
    assert is_image(path)
    assert read_size(path)[0] == (64, 48)
    assert len(content_digest([os.fspath(path)], memory=tmp_path / "memory.sqlite")) == 64


@pytest.mark.parametrize("suffix", ["", ".\udce9", ".foo", ".猫"])
def test_an_ending_of_no_format_is_refused(suffix, tmp_path):
    with pytest.raises(ValueError, match="no image format"):
        drawing.save_image(tmp_path / f"a{suffix}", picture(0))


def test_a_picture_too_large_for_its_format_is_refused(tmp_path):
    with pytest.raises(ValueError, match="70000 x 1 pixels"):
        drawing.save_image(tmp_path / "a.jpg", np.zeros((1, 70000, 3), np.uint8))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", STRANGE)
def test_a_picture_that_cannot_be_read_is_named_in_one_line(name, tmp_path):
    path = tmp_path / f"{name}.png"
    path.write_bytes(b"nothing")
    with pytest.raises(ImageError) as caught:
        read_image(path)
    assert text.shown(name) in str(caught.value)
    str(caught.value).encode()
    assert len(str(caught.value).splitlines()) == 1
    assert not is_image(tmp_path / f"{name}.missing")


def test_no_text_that_opencv_draws_ends_the_process():
    """It does at a text that is no UTF-8; so a class or an image may be called anything."""
    image = np.full((200, 300, 3), 200, dtype=np.uint8)
    boxes = [[10 + 40 * n, 20, 45 + 40 * n, 190] for n in range(len(NAMES))]
    drawn = drawing.draw_detections(image, boxes, range(len(NAMES)), NAMES)
    assert (drawn != image).any()
    assert drawing.side_by_side(image, image, (LATIN, "a\ud800b")).any()


# ---------------------------------------------------------------------------------------------------- data sets


def test_voc_by_folder_and_by_list(voc):
    root, folder = voc
    every = Voc(sources=(f"{folder}/*",), classes=None, use_difficult=True, keep_empty_images=True).read(root)
    assert set(NAMES) <= set(every.image_ids.tolist())
    for index in range(len(every)):
        assert load_picture(every, index).shape == (48, 64, 3)
    assert len(every.fingerprint()) == 64
    listing = root / folder / "ImageSets/Main/train.txt"
    listed = [name for name in NAMES if name.strip() == name and "\n" not in name]
    listing.write_bytes(b"\n".join(map(os.fsencode, listed)))
    by_list = Voc(sources=(f"{folder}/train",), classes=None, use_difficult=True, keep_empty_images=True).read(root)
    assert by_list.image_ids.tolist() == listed
    part = Split(data=Joined(sets=(Voc(sources=(f"{folder}/*",), classes=None, use_difficult=True,
                 keep_empty_images=True),)), part="train", val_fraction=0.6, seed=0).read(root)  # fmt: skip
    assert 0 < len(part) < len(every)
    assert part.take([0], "one").image_name(0) == part.image_name(0)


@pytest.mark.parametrize("content", ["K\xe4se\n".encode("latin-1"), "a\nb\n".encode("utf-16"), b"a\0b"])
def test_a_list_in_another_encoding_is_named(content, tmp_path):
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    (tmp_path / "ImageSets/Main/train.txt").write_bytes(content)
    with pytest.raises(ValueError, match=r"train\.txt: not text in UTF-8"):
        list_split(tmp_path / "ImageSets/Main/train.txt")


def test_coco(tmp_path):
    write_coco(tmp_path, num_images=len(NAMES))
    path = tmp_path / "annotations/train.json"
    content = json.loads(path.read_text())
    for image, name in zip(content["images"], NAMES):
        (tmp_path / "images" / image["file_name"]).rename(tmp_path / "images" / f"{name}.png")
        image["file_name"] = f"{name}.png"
    settings = Coco(annotations="annotations/train.json", images="images", classes=None, keep_empty_images=True)
    path.write_text(text.as_json(content), encoding="utf-8")
    read = settings.read(tmp_path)
    assert {read.image_name(index) for index in range(len(read))} == {f"{name}.png" for name in NAMES}
    assert load_picture(read, 0).shape == (48, 64, 3)
    for wrong in ("a\0.png", "\ud800.png"):
        content["images"][0]["file_name"] = wrong
        path.write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(ValueError, match=r"train\.json: image \d+: no file can be called"):
            settings.read(tmp_path)


def test_class_folders(tmp_path):
    for name in NAMES:
        write_picture(tmp_path / "set" / name / "a.png", picture(0))
    read = ImageFolder(folder="set", classes=None, num_classes=None).read(tmp_path)
    assert read.class_names == tuple(sorted(NAMES))
    assert read.load_picture(3).shape == (48, 64, 3)
    assert len(read.fingerprint()) == 64
    torch.save({"model": {}, "class_names": list(read.class_names)}, tmp_path / "a.pth")
    assert torch.load(tmp_path / "a.pth", weights_only=True)["class_names"] == list(read.class_names)


def test_yolo_labels(tmp_path):
    for name in NAMES:
        write_picture(tmp_path / "images" / f"{name}.png", picture(0))
        (tmp_path / "labels").mkdir(exist_ok=True)
        (tmp_path / "labels" / f"{name}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    found = convert_yolo(tmp_path / "images", tmp_path / "labels", ("a",), polygons=False, unused_labels=False)
    names = json.loads(text.as_json(found.content))["images"]
    assert {image["file_name"] for image in names} == {f"{name}.png" for name in NAMES}


# ---------------------------------------------------------------------------------------------------- commands


def test_detect(checkpoint, tmp_path, capsys, monkeypatch):
    """Pictures in a folder, one of them broken, all with strange names: drawn, and named in both JSON files."""
    monkeypatch.chdir(tmp_path)
    source = tmp_path / os.fsdecode(b"f\xfcr")
    for name in NAMES:
        write_picture(source / f"{name}.png", picture(0))
    (source / f"x{LATIN}.jpg").write_bytes(b"nothing")
    with pytest.raises(SystemExit):
        run_detect(checkpoint, source, "--score_threshold", 0.01)
    said = capsys.readouterr()
    assert "xcaf\\xe9.jpg" in said.err
    output = tmp_path / f"{source.name}_detections"
    assert {path.name for path in output.iterdir()} >= {f"{name}.png" for name in NAMES}
    images = json.loads((output / "detections.json").read_bytes())["images"]
    assert {os.path.basename(image["file"]) for image in images} >= {f"{name}.png" for name in NAMES}
    coco = Coco(annotations="detections_coco.json", images="", classes=None, keep_empty_images=True).read(output)
    assert os.path.isfile(coco.image_path(0))
    assert len(find_images(source, recursive=False, leave_out=output)) == len(NAMES) + 1


@pytest.mark.parametrize("name", [LATIN, "50%d", "猫"])
def test_videos(name, tmp_path):
    write_video(tmp_path / "clip.mp4")
    (tmp_path / name).mkdir()
    path = tmp_path / name / f"{name}.mp4"
    shutil.copy(tmp_path / "clip.mp4", path)
    frames = list(open_video(path))
    assert len(frames) == 7
    for size in ((48, 64), (47, 63)):  # MPEG-4, and Motion JPEG for odd sizes
        with VideoFile(stem=tmp_path / name / f"{name}_{size[0]}", fps=10) as written:
            for frame in frames:
                written.write(np.ascontiguousarray(frame[: size[0], : size[1]]))
        assert len(list(open_video(written.path))) == 7
    assert sorted(p.name for p in path.parent.iterdir()) == sorted([path.name, f"{name}_48.mp4", f"{name}_47.avi"])


def test_a_report_and_its_pictures(voc, tmp_path):
    root, folder = voc
    annotations = Voc(
        sources=(f"{folder}/*",), classes=None, use_difficult=True, keep_empty_images=True
    ).read(root)  # fmt: skip
    annotations.class_names = tuple(NAMES[: len(annotations.class_names)])
    detections = make_detections(np.random.default_rng(0), annotations)
    said = write_report(tmp_path / LATIN, annotations, detections, num_worst=20)
    assert "failed" not in said
    files = {path.name for path in (tmp_path / LATIN).rglob("*")}
    assert {"pr_curves.png", "confusion_matrix.png", "worst_images.jpg", "classes.csv"} <= files
    table = (tmp_path / LATIN / "classes.csv").read_text(encoding="utf-8")
    assert "caf\\xe9" in table


def test_tables_have_a_line_for_each_row():
    assert len(format_table(("a", "b"), [(name, 1) for name in NAMES]).splitlines()) == len(NAMES) + 1


def test_an_experiment_in_such_a_folder(experiment_folder, tmp_path):
    folder = tmp_path / LATIN
    experiment_folder.rename(folder)
    assert load_experiment(folder).name == LATIN


def test_weights_in_such_a_folder(checkpoint, tmp_path):
    folder = tmp_path / LATIN
    folder.mkdir()
    shutil.copy(checkpoint, folder / f"{LATIN}.pth")
    assert public.load(folder / f"{LATIN}.pth", device="cpu").class_names
