"""Detection with a checkpoint: one image and many, folders, videos, cameras; what is written, and what is refused."""

import json
import struct

import cv2
import numpy as np
import pytest
import torch
from pycocotools.coco import COCO

import public
from public.inference.places import open_detector
from public.input import read_image
from public.test_scripts import detect as command
from public.test_scripts import detect_single_image
from tests.helpers.tiny_data import TINY_CLASSES, write_picture
from tests.helpers.tiny_detector import assert_same, picture, run_detect, tolerances, write_checkpoint, write_video


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("weights") / "tiny.pth")


@pytest.fixture(scope="module")
def detector(checkpoint):
    torch.set_num_threads(1)
    return public.load(checkpoint, device="cpu")


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """Results go to the working folder unless another is named; no test may find a display."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    return folder


# The detector


@pytest.mark.numeric
@pytest.mark.parametrize("batch_size", [1, 2, 5, 8])
def test_many_images_give_what_each_gives_alone(detector, tmp_path, batch_size):
    """Arrays and files mixed, of several sizes, the last batch smaller than the others."""
    images = [picture(n, 40 + 7 * n, 90 - 9 * n) for n in range(5)]
    write_picture(tmp_path / "file.png", images[3])
    images[3] = tmp_path / "file.png"
    together = detector.many(images, 0.01, batch_size=batch_size)
    alone = [detector(image, 0.01) for image in images]
    assert len(together) == 5
    assert len({tuple(found["labels"]) for found in alone}) > 1, "the images differ in what is found"
    for image, one, other in zip(images, together, alone):
        assert one["names"] == other["names"]
        for part, limit in tolerances(detector, image).items():
            np.testing.assert_allclose(one[part], other[part], rtol=0, atol=limit)


def test_the_fused_form_is_a_copy_in_channels_last(checkpoint):
    plain = public.inference.detector.load(checkpoint, "cpu")
    before = {name: value.clone() for name, value in plain.model.state_dict().items()}
    fused = plain.fused()
    assert len(list(fused.model.modules())) < len(list(plain.model.modules()))
    weights = [p for p in fused.model.parameters() if p.ndim == 4 and min(p.shape[1:]) > 1]
    assert weights
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)
    assert all(torch.equal(value, plain.model.state_dict()[name]) for name, value in before.items())
    image = picture(1)
    found, expected = fused(image, 0.01), plain(image, 0.01)
    assert found["names"] == expected["names"]
    for part, limit in tolerances(plain, image).items():
        np.testing.assert_allclose(found[part], expected[part], rtol=0, atol=limit)


def test_no_image_and_no_batch(detector):
    assert detector.many([]) == []
    with pytest.raises(ValueError, match="batch_size is 0"):
        detector.many([picture(0)], batch_size=0)


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 4), (0, 8, 3), (8, 8, 3)])
def test_arrays_that_are_no_pictures_are_refused(detector, shape):
    dtype = np.float32 if shape == (8, 8, 3) else np.uint8
    with pytest.raises(ValueError, match=r"uint8 RGB \(height, width, 3\), not (uint8|float32) of shape \("):
        detector(np.zeros(shape, dtype))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"part": "backbone"}, r"broken\.pth holds a backbone only"),
        ({"input": None, "detector": None}, r"broken\.pth lacks input, detector"),
        ({"num_classes": 4}, r"broken\.pth holds weights for 4 classes, but the settings say 3"),
        ({"model": {"head": torch.zeros(2)}}, r"weights of .*broken\.pth do not fit PPYOLOE.*Missing key"),
    ],
)
def test_a_checkpoint_that_makes_no_detector_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        public.load(write_checkpoint(tmp_path / "broken.pth", **changes))
    assert "\n" not in str(caught.value)


def test_two_checkpoints_are_one_too_many(checkpoint):
    with pytest.raises(ValueError, match="two checkpoints are named"):
        open_detector(str(checkpoint), str(checkpoint), "cpu")


def test_weights_beside_an_experiment_take_its_settings(checkpoint, experiment_folder):
    """The tiny experiment has settings of its own, which keep up to 100 objects instead of 12; and a short name."""
    found_by, path = open_detector(str(experiment_folder), str(checkpoint), "cpu")
    assert path == checkpoint
    assert found_by.decoder.keep_top_k == 100


# Images


def test_a_folder_with_a_broken_image(checkpoint, detector, own_folder, tmp_path, capsys):
    """The broken one is named and has no detections, the others are as the detector finds them; the status is 1."""
    source = tmp_path / "photos"
    for number in range(5):
        write_picture(source / f"{number}.png", picture(number, 30 + 10 * number, 64))
    write_picture(source / "deep" / "5.jpg", picture(5))
    (source / "2.png").write_bytes((source / "2.png").read_bytes()[:40])
    (source / "list.txt").write_text("no picture")
    (source / ".hidden.png").write_text("no picture")
    with pytest.raises(SystemExit) as ended:
        run_detect(checkpoint, source, "--score_threshold", 0.01, "--batch_size", 2, "--recursive")
    assert ended.value.code == 1
    said = capsys.readouterr()
    assert said.err.startswith(f"error: {source / '2.png'}")
    assert "1 files are no images and are passed over (.txt)" in said.out
    output = own_folder / "photos_detections"
    whole = json.loads((output / "detections.json").read_text())
    assert whole["class_names"] == list(TINY_CLASSES)
    entries = {entry["file"]: entry for entry in whole["images"]}
    assert set(entries) == {str(source / name) for name in ("0.png", "1.png", "2.png", "3.png", "4.png", "deep/5.jpg")}
    assert "2.png" in entries.pop(str(source / "2.png"))["error"]
    for file, entry in entries.items():
        assert_same(entry, detector, file)
        assert (entry["height"], entry["width"]) == read_image(file).shape[:2]
    drawn = {path.relative_to(output).as_posix() for path in output.rglob("*.*g")}
    assert drawn == {"0.png", "1.png", "3.png", "4.png", "deep/5.jpg"}


def test_the_coco_file_is_one(checkpoint, tmp_path, own_folder):
    """pycocotools reads it, also its annotations as results; the boxes are those of the other file."""
    for number in range(3):
        write_picture(tmp_path / "photos" / f"{number}.png", picture(number))
    results = run_detect(
        checkpoint, tmp_path / "photos", "--score_threshold", 0.01, "--no_drawing", "--json", "found.json"
    )
    assert sorted(path.name for path in own_folder.iterdir()) == ["found.json", "found_coco.json"]
    coco = COCO(str(own_folder / "found_coco.json"))
    coco.loadRes(coco.dataset["annotations"])
    assert [coco.cats[i]["name"] for i in sorted(coco.cats)] == list(TINY_CLASSES)
    for entry, image_id in zip(results.entries, sorted(coco.imgs)):
        assert coco.imgs[image_id]["file_name"] == entry["file"]
        rows = coco.imgToAnns[image_id]
        assert len(rows) == len(entry["detections"]) > 0
        for row, found in zip(rows, entry["detections"]):
            x, y, width, height = row["bbox"]
            assert [x, y, x + width, y + height] == pytest.approx(found["box"])
            assert coco.cats[row["category_id"]]["name"] == found["name"]
            assert row["score"] == found["score"]


def test_finding_nothing_is_a_normal_result(checkpoint, tmp_path, own_folder):
    image = picture(0, 400, 500)
    write_picture(tmp_path / "empty.png", image)
    results = run_detect(checkpoint, tmp_path / "empty.png", "--score_threshold", 1.0)
    assert [entry["detections"] for entry in results.entries] == [[]]
    assert (read_image(own_folder / "empty_detections" / "empty.png") == image).all()
    assert json.loads((own_folder / "empty_detections" / "detections_coco.json").read_text())["annotations"] == []


def write_turned(path, image: np.ndarray) -> None:
    """A JPEG whose EXIF orientation 6 asks for a quarter turn clockwise."""
    data = cv2.imencode(".jpg", image)[1].tobytes()
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">HHHIHHI", 1, 0x0112, 3, 1, 6, 0, 0)
    path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:])


@pytest.mark.parametrize(
    ("name", "shape"),
    [("dot.png", (1, 1)), ("grey.png", (60, 80)), ("portrait.jpg", (120, 50)), ("strip.png", (3, 1500))],
)
def test_unusual_images(checkpoint, tmp_path, own_folder, name, shape):
    image = picture(1, 64, 64)[: shape[0], : shape[1]]
    image = cv2.resize(image, shape[::-1])
    if name == "grey.png":
        image = image[..., 1]
    cv2.imwrite(str(tmp_path / name), image)
    (entry,) = run_detect(checkpoint, tmp_path / name, "--score_threshold", 0.0).entries
    assert (entry["height"], entry["width"]) == shape
    boxes = np.array([found["box"] for found in entry["detections"]])
    assert len(boxes) > 0
    assert (boxes >= 0).all()
    assert (boxes <= np.tile(shape[::-1], 2)).all()
    drawn = read_image(own_folder / f"{name[:-4]}_detections" / name)
    assert min(drawn.shape[:2]) >= min(shape)
    assert drawn.size < 3 * 384 * 4 * 384 + 1


def test_an_image_turned_by_its_exif_data(checkpoint, detector, tmp_path, own_folder):
    write_turned(tmp_path / "turned.jpg", picture(2, 400, 600))
    (entry,) = run_detect(checkpoint, tmp_path / "turned.jpg", "--score_threshold", 0.01).entries
    assert (entry["height"], entry["width"]) == (600, 400)
    assert_same(entry, detector, cv2.rotate(read_unturned(tmp_path / "turned.jpg"), cv2.ROTATE_90_CLOCKWISE))
    assert read_image(own_folder / "turned_detections" / "turned.jpg").shape == (600, 400, 3)


def read_unturned(path) -> np.ndarray:
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    return cv2.imread(str(path), flags)[..., ::-1]


def test_more_than_a_hundred_objects_on_a_very_large_image(tmp_path, own_folder):
    checkpoint = write_checkpoint(tmp_path / "many.pth", keep_top_k=150, nms_iou=1.0)
    image = cv2.resize(picture(0, 60, 80), (8000, 6000), interpolation=cv2.INTER_NEAREST)
    write_picture(tmp_path / "huge.jpg", image)
    (entry,) = run_detect(checkpoint, tmp_path / "huge.jpg", "--score_threshold", 0.0).entries
    assert len(entry["detections"]) > 100
    assert read_image(own_folder / "huge_detections" / "huge.jpg").shape == (6000, 8000, 3)


def test_results_of_an_earlier_call_are_no_images_to_detect_in(checkpoint, tmp_path):
    write_picture(tmp_path / "photos" / "a.png", picture(0))
    for _ in range(2):
        results = run_detect(checkpoint, tmp_path / "photos", "--recursive", "--output", tmp_path / "photos" / "found")
        assert [entry["file"] for entry in results.entries] == [str(tmp_path / "photos" / "a.png")]
    outside = run_detect(checkpoint, tmp_path / "photos", "--output", tmp_path)  # a folder above is none to leave out
    assert len(outside.entries) == 1


def test_the_source_is_never_overwritten(checkpoint, tmp_path):
    photos = tmp_path / "photos"
    write_picture(photos / "a.png", picture(0))
    write_video(tmp_path / "clip.mp4", num_frames=2)
    (tmp_path / "link").symlink_to(photos)
    before = [(photos / "a.png").read_bytes(), (tmp_path / "clip.mp4").read_bytes()]
    calls = [
        (photos, "--output", photos),
        (photos / "a.png", "--output", tmp_path / "link"),
        (photos / "a.png", "--json", photos / "a.png"),
        (tmp_path / "clip.mp4", "--output", tmp_path),
    ]
    for source, *options in calls:
        with pytest.raises(ValueError, match=r"(a\.png|clip\.mp4) is an input file and would be overwritten"):
            run_detect(checkpoint, source, *options)
    arguments = [str(checkpoint), str(photos / "a.png"), "--output", str(photos / "a.png")]
    with pytest.raises(SystemExit, match=r"^error: .*a\.png is the image itself"):
        call_main(detect_single_image, arguments)
    assert [(photos / "a.png").read_bytes(), (tmp_path / "clip.mp4").read_bytes()] == before


def call_main(module, arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["command", *arguments])
        module.main()


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("nothing.jpg", (), r"nothing\.jpg: there is no such file, folder or camera"),
        (".", (), "holds no image .*--recursive"),
        ("text.mp4", (), r"text\.mp4: neither a picture nor a video that OpenCV can read \(4 bytes\)"),
        ("text.mp4", ("--score_threshold", "40"), "--score_threshold is 40.0; it must be from 0 to 1"),
        ("text.mp4", ("--every", "0"), "--every is 0; it must be at least 1"),
        ("webcam", (), "no display"),
    ],
)
def test_bad_input_is_one_line(checkpoint, own_folder, source, options, message):
    (own_folder / "text.mp4").write_text("text")
    with pytest.raises(SystemExit, match=f"^error: .*{message}") as ended:
        call_main(command, [str(checkpoint), source, *options])
    assert "\n" not in str(ended.value)
