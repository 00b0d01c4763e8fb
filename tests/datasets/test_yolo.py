"""YOLO's labels as a COCO json: a round trip through shares, what is refused, and how names are read."""

import json
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from public.datasets.coco import Coco
from public.datasets.voc import Voc
from public.datasets.yolo import convert_yolo, read_labels, read_names
from public.input import ImageError
from public.test_scripts import yolo_to_coco
from tests.helpers.tiny_data import write_picture

NAMES = ("bird", "cat", "dog")


def write_yolo(root, *, num_images=8, seed=0):
    """Pictures of different sizes in two subfolders with labels in full precision; what was written, by file name.

    The boxes (label, x1 y1 x2 y2) are in pixels, with fractions; image 2 has an empty text and image 5 none.
    """
    rng = np.random.default_rng(seed)
    written = {}
    for number in range(num_images):
        height, width = (int(side) for side in rng.integers(20, 90, 2))
        stem = f"{'ab'[number % 2]}/picture_{number:02d}"
        write_picture(root / "images" / f"{stem}.png", np.zeros((height, width, 3), dtype=np.uint8))
        corners = np.sort(rng.random((int(rng.integers(1, 5)), 2, 2)), axis=1).reshape(-1, 4)
        boxes = [] if number in (2, 5) else (corners * [width, height, width, height]).tolist()
        labels = rng.integers(0, len(NAMES), len(boxes)).tolist()
        written[f"{stem}.png"] = (height, width, list(zip(labels, boxes)))
        if number != 5:
            text = root / "labels" / f"{stem}.txt"
            text.parent.mkdir(parents=True, exist_ok=True)
            text.write_text("".join(yolo_line(label, box, height, width) for label, box in zip(labels, boxes)))
    return written


def yolo_line(label, box, height, width):
    x1, y1, x2, y2 = box
    shares = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
    return " ".join([str(label), *(repr(float(share)) for share in shares)]) + "\n"


def convert(root, names=NAMES, *, polygons=False, unused_labels=False):
    return convert_yolo(root / "images", root / "labels", names, polygons=polygons, unused_labels=unused_labels)


def one_label(tmp_path, text, size=(40, 80)):
    """A set of one picture a.png whose label file holds `text`."""
    write_picture(tmp_path / "images" / "a.png", np.zeros((*size, 3), dtype=np.uint8))
    (tmp_path / "labels").mkdir(exist_ok=True)
    (tmp_path / "labels" / "a.txt").write_text(text)
    return tmp_path


# -------------------------------------------------------------------------------------------------- boxes


def test_boxes_come_back_as_they_were(tmp_path):
    written = write_yolo(tmp_path)
    converted = convert(tmp_path)
    (tmp_path / "set.json").write_text(json.dumps(converted.content))
    data = Coco(annotations="set.json", images="images", classes=None, keep_empty_images=True).read(tmp_path)
    assert data.class_names == NAMES
    assert not data.dropped
    assert not data.clipped
    assert [data.image_name(i) for i in range(len(data))] == sorted(written)
    for i, (_, (height, width, objects)) in enumerate(sorted(written.items())):
        found = data.objects(i)
        assert (data.heights[i], data.widths[i]) == (height, width)
        assert found.labels.tolist() == [label for label, _ in objects]
        expected = np.array([box for _, box in objects], dtype=np.float64).reshape(-1, 4)
        np.testing.assert_allclose(found.boxes, expected, rtol=0, atol=1e-5)  # float32 at 90 pixels
        np.testing.assert_allclose(
            data.areas[data.offsets[i] : data.offsets[i + 1]],
            (expected[:, 2:] - expected[:, :2]).prod(axis=1),
            rtol=1e-12,
        )
    assert (converted.num_empty, converted.num_unlabelled, converted.num_unused) == (1, 1, 0)


def test_the_numbers_of_one_line(tmp_path):
    content = convert(one_label(tmp_path, "2 0.5 0.25 0.5 0.5\n\n  0 0.125 0.75 0.25 0.1 \n")).content
    assert content["images"] == [{"id": 1, "file_name": "a.png", "width": 80, "height": 40}]
    assert content["categories"] == [{"id": 1, "name": "bird"}, {"id": 2, "name": "cat"}, {"id": 3, "name": "dog"}]
    first, second = content["annotations"]
    assert first == {"id": 1, "image_id": 1, "category_id": 3, "bbox": [20, 0, 40, 20], "area": 800, "iscrowd": 0}
    assert (second["id"], second["category_id"]) == (2, 1)
    np.testing.assert_allclose(second["bbox"], [0, 28, 20, 4])


def test_an_outline_becomes_the_box_around_it(tmp_path):
    one_label(tmp_path, "1 0.5 0.1 0.9 0.5 0.5 0.9 0.1 0.5\n0 0 0 1 0 1 1\n")
    boxes = [item["bbox"] for item in convert(tmp_path, polygons=True).content["annotations"]]
    np.testing.assert_allclose(boxes, [[8, 4, 64, 32], [0, 0, 80, 40]])
    with pytest.raises(ValueError, match=r"a.txt, line 1: 9 fields instead of 5 .*--polygons"):
        convert(tmp_path)
    one_label(tmp_path, "1 0.5 0.1 0.9 0.5\n")
    with pytest.raises(ValueError, match=r"a.txt, line 1: 5 fields; an outline has"):
        convert(tmp_path, polygons=True)


def test_rounding_at_the_edge_is_taken_back_and_more_is_left_to_the_reader(tmp_path):
    one_label(tmp_path, "0 0.333333 0.5 0.666667 1.0000005\n0 0.1 0.5 0.3 1\n")
    content = convert(tmp_path).content
    np.testing.assert_array_equal(content["annotations"][0]["bbox"][:2], [0, 0])
    np.testing.assert_allclose(content["annotations"][0]["bbox"][2:], [80 * 0.6666665, 40], rtol=1e-9)
    np.testing.assert_allclose(content["annotations"][1]["bbox"], [-4, 0, 24, 40])
    (tmp_path / "set.json").write_text(json.dumps(content))
    data = Coco(annotations="set.json", images="images", classes=None, keep_empty_images=True).read(tmp_path)
    assert len(data.clipped) == 1
    assert data.boxes[1].tolist() == [0, 0, 20, 40]


def test_sizes_are_those_of_the_turned_picture(tmp_path):
    """A picture that its EXIF orientation turns by a quarter, as the loader turns it."""
    one_label(tmp_path, "0 0.5 0.5 1 1\n")
    (tmp_path / "images" / "a.png").unlink()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (80, 40)).save(tmp_path / "images" / "a.jpg", exif=exif)
    content = convert(tmp_path).content
    assert (content["images"][0]["width"], content["images"][0]["height"]) == (40, 80)
    assert content["annotations"][0]["bbox"] == [0, 0, 40, 80]


# ------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("3 0.5 0.5 0.1 0.1", r"class 3 is none of 0 \.\. 2, the 3 names bird, cat, dog"),
        ("-1 0.5 0.5 0.1 0.1", "class -1 is none of"),
        ("0.5 0.5 0.5 0.1 0.1", "class 0.5 is none of"),
        ("cat 0.5 0.5 0.1 0.1", "'cat' is not a number"),
        ("0 0.5 0.5 0.1", "4 fields instead of 5"),
        ("0 0.5 0.5 0.1 0.1 0.9", "6 fields instead of 5"),
        ("0 0.5 nan 0.1 0.1", "'nan' is not finite"),
        ("0 0.5 0.5 inf 0.1", "'inf' is not finite"),
        ("0 1.00001 0.5 0.1 0.1", "1.00001 is outside 0 .. 1"),
        ("0 0.5 -0.00001 0.1 0.1", "-0.00001 is outside 0 .. 1"),
        ("0 320 240 100 50", "320 is outside 0 .. 1"),
        ("0 0.5 0.5 0.1 -0.1", "-0.1 is outside 0 .. 1"),
        ("0,0.5,0.5,0.1,0.1", "1 fields instead of 5"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, reason):
    path = one_label(tmp_path, f"1 0.5 0.5 0.1 0.1\n\n{line}\n") / "labels" / "a.txt"
    with pytest.raises(ValueError, match=f"^{path}, line 3: {reason}"):
        read_labels(path, NAMES, polygons=False)


def test_shares_that_are_outside_by_rounding_are_taken(tmp_path):
    path = one_label(tmp_path, "1.0 1.0000009 -0.0000009 0 0\n") / "labels" / "a.txt"
    assert [label for label, _ in read_labels(path, NAMES, polygons=False)] == [1]


def test_the_mark_that_some_editors_put_before_a_text_is_no_part_of_it(tmp_path):
    path = one_label(tmp_path, "\ufeff0 0.5 0.5 1 1\n") / "labels" / "a.txt"
    assert read_labels(path, NAMES, polygons=False) == [(0, (0, 0, 1, 1))]


def test_a_folder_without_any_label_is_the_wrong_one(tmp_path):
    """Else a mistyped folder would make a set of images without objects."""
    one_label(tmp_path, "0 0.5 0.5 1 1\n")
    (tmp_path / "labels" / "a.txt").rename(tmp_path / "a.txt")
    with pytest.raises(FileNotFoundError, match=r"labels: no label file \(\.txt\) there"):
        convert(tmp_path)


def test_labels_without_a_picture_are_refused_or_counted(tmp_path):
    one_label(tmp_path, "0 0.5 0.5 1 1\n")
    (tmp_path / "labels" / "b.txt").write_text("nonsense that nobody reads\n")
    (tmp_path / "labels" / "classes.txt").write_text("bird\ncat\ndog\n")
    with pytest.raises(
        ValueError, match=r"1 of 2 label files belong to no picture .*the first is b.txt.*--unused_labels"
    ):
        convert(tmp_path)
    assert convert(tmp_path, unused_labels=True).num_unused == 1


def test_pictures_and_folders_that_do_not_do_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="images: no such folder"):
        convert(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    with pytest.raises(FileNotFoundError, match="images: no picture there"):
        convert(tmp_path)
    one_label(tmp_path, "")
    (tmp_path / "images" / "a.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a.jpg and a.png would share one label file"):
        convert(tmp_path)
    (tmp_path / "images" / "a.png").unlink()
    with pytest.raises(ImageError, match=r"a.jpg: empty"):
        convert(tmp_path)


# ---------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("names: [bird, cat, dog]", NAMES),
        ("names: ['bird', \"cat\", dog,]  # three", NAMES),
        ("nc: 3\nnames:\n  - bird\n  - cat  # meows\n\n  - 'dog'\ntrain: images/train\n", NAMES),
        ("names:\n- bird\n- cat\n- dog\npath: x\n", NAMES),
        ("path: x\nnames:\n  0: bird\n  1: cat\n  2: dog\n\n# the end\ndownload: |\n  0: import os\n", NAMES),
        ("names: {0: bird, 1: cat, 2: dog}\nnc: 3 # three", NAMES),
        ("names: {2: 'dog', 0: 'bird', '1': cat}", NAMES),
        ("names: [bird,\n        cat,\n        dog]\nnc: 3", NAMES),
        ("names:\n  2: dog\n  0: bird\n  1: cat\n", NAMES),
        ("names: ['it''s', \"a \\\"b\\\"\", 'a, b', \"c: d\"]", ("it's", 'a "b"', "a, b", "c: d")),
        ("names: [traffic light, no, 12, a#b, don't]", ("traffic light", "no", "12", "a#b", "don't")),
        ("# names: [no]\nother_names: [x]\nnames:  # below\n  - é\n", ("é",)),
        ("names: [\n  bird, # one\n  'cat' # two\n]\n", ("bird", "cat")),
    ],
)
def test_names_of_a_yaml(tmp_path, text, expected):
    path = tmp_path / "data.yaml"
    path.write_text(text, encoding="utf-8")
    assert read_names(str(path)) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("train: x", "has 0 entries `names:`"),
        ("names: [a]\nnames: [b]", "has 2 entries `names:`"),
        ("names: [a, b]\nnc: 3", "nc is 3, but there are 2 names a, b"),
        ("names:\ntrain: x", "there is none"),
        ("names: []", "there is none"),
        ("names: [a, b", r"the \[ is never closed"),
        ("names: [a, b}", "stands where the names should end"),
        ("names: [[a], b]", "brackets within brackets"),
        ("names: [a,, b]", "a name is empty"),
        ("names: {0: a, 2: b}", r"they are numbered \[0, 2\], not 0 to 1"),
        ("names:\n  1: a\n  2: b\n", r"they are numbered \[1, 2\], not 0 to 1"),
        ("names: {a: 0}", "'a: 0' is not of the form `number: name`"),
        ("names: bird", "'bird' is neither a list nor a map"),
        ("names: [&anchor a]", "is not a plain name"),
        ("names: ['a]", r"never closed"),
        ('names: ["a\\n"]', "quoted in a way that is not understood"),
        ("names:\n  nested:\n    0: a", "'nested:' is not of the form `number: name`"),
    ],
)
def test_a_yaml_that_is_not_understood_is_refused_with_a_way_out(tmp_path, text, reason):
    path = tmp_path / "data.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"^{path}: .*{reason}"):
        read_names(str(path))


def test_names_of_a_text_and_of_a_list(tmp_path):
    (tmp_path / "names.txt").write_text("bird\n\ntraffic light \n")
    assert read_names(str(tmp_path / "names.txt")) == ("bird", "traffic light")
    assert read_names("bird, traffic light") == ("bird", "traffic light")
    assert read_names("bird") == ("bird",)
    with pytest.raises(ValueError, match="or an empty one"):
        read_names("bird,,cat")
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_names(str(tmp_path / "gone.yaml"))
    with pytest.raises(ValueError, match="twice cat"):
        convert(one_label(tmp_path, ""), ("cat", "cat"))


# -------------------------------------------------------------------------------------------------- command


def run_command(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["yolo_to_coco", *map(str, arguments)])
    yolo_to_coco.main()


def test_the_command_writes_the_same_bytes_and_nothing_else(tmp_path, monkeypatch, capsys):
    write_yolo(tmp_path / "set")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    arguments = (tmp_path / "set" / "images", tmp_path / "set" / "labels", "--names", ",".join(NAMES), "-o")
    for name in ("first.json", "new/second.json"):  # its folder is made
        run_command(monkeypatch, *arguments, tmp_path / name)
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after.pop(tmp_path / "first.json") == after.pop(tmp_path / "new/second.json")
    assert after == before
    printed = capsys.readouterr().out
    assert "8 images, " in printed
    assert "images without objects: 1 label files are empty, 1 are missing" in printed
    assert f"written to {tmp_path / 'new/second.json'}" in printed


def test_the_command_ends_with_one_line(tmp_path, monkeypatch):
    one_label(tmp_path, "7 0.5 0.5 1 1\n")
    output = tmp_path / "out.json"
    with pytest.raises(SystemExit, match=r"^error: .*a\.txt, line 1: class 7 is none of 0 \.\. 1"):
        run_command(monkeypatch, tmp_path / "images", tmp_path / "labels", "--names", "cat,dog", "-o", output)
    assert not output.exists()


def test_real_boxes_come_back(shared, tmp_path, monkeypatch, capsys):
    """BCCD's boxes as YOLO's labels with six digits, and back: within the rounding of a millionth of 640 pixels."""
    data = Voc(sources=("BCCD/test",), classes=None, use_difficult=True, keep_empty_images=True).read(
        shared / "data/bccd_voc"
    )
    (tmp_path / "labels").mkdir()
    (tmp_path / "images").mkdir()
    for i in range(20):
        height, width = data.heights[i], data.widths[i]
        (tmp_path / "images" / f"{data.image_id(i)}.jpg").symlink_to(data.image_path(i))
        lines = []
        for box, label in zip(data.objects(i).boxes.astype(float), data.objects(i).labels):
            fields = yolo_line(label, box, height, width).split()
            lines.append(" ".join([fields[0], *(f"{float(field):.6f}" for field in fields[1:])]))
        (tmp_path / "labels" / f"{data.image_id(i)}.txt").write_text("\n".join(lines))
    arguments = (tmp_path / "images", tmp_path / "labels", "--names", ",".join(data.class_names))
    run_command(monkeypatch, *arguments, "-o", tmp_path / "set.json")
    again = Coco(annotations="set.json", images="images", classes=data.class_names, keep_empty_images=True).read(
        tmp_path
    )
    assert "0 boxes clipped" in capsys.readouterr().out
    first = data.limit(20)
    order = np.argsort([first.image_name(i) for i in range(20)])
    assert [again.image_name(i) for i in range(20)] == [f"{first.image_id(i)}.jpg" for i in order]
    for i, j in enumerate(order):
        np.testing.assert_allclose(again.objects(i).boxes, first.objects(j).boxes, atol=640 * 1.1e-6)
        assert again.objects(i).labels.tolist() == first.objects(j).labels.tolist()
    assert cv2.imread(again.image_path(0)).shape[:2] == (again.heights[0], again.widths[0])
