"""Reading VOC and COCO annotations, against what was written and against the real sets."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

from public.datasets.annotations import Annotations, agree_on_classes
from public.datasets.coco import Coco
from public.datasets.voc import VOC_CLASSES, Voc, to_inclusive_pixels
from public.input import ImageError
from tests.helpers.places import SHARED as SHARED_FOLDER
from tests.helpers.tiny_data import TINY_CLASSES, write_coco, write_picture, write_voc, write_voc_xml

SHARED = SHARED_FOLDER / "data"
VOC_2007 = Voc(sources=("VOCdevkit/VOC2007/train",), classes=None, use_difficult=True, keep_empty_images=True)
TINY_COCO = Coco(annotations="annotations/train.json", images="images", classes=None, keep_empty_images=True)


def needs_shared(name):
    return pytest.mark.skipif(not (SHARED / name).is_dir(), reason=f"{SHARED / name} is not on this machine")


def assert_same(annotations: Annotations, written):
    """Everything that was written is there, image by image."""
    assert len(annotations) == len(written)
    for i, image in enumerate(written):
        objects = annotations.objects(i)
        assert annotations.image_id(i) == image.image_id
        assert (annotations.heights[i], annotations.widths[i]) == (image.height, image.width)
        assert objects.boxes.tolist() == [list(map(float, box)) for box in image.boxes]
        assert [annotations.class_names[label] for label in objects.labels] == [TINY_CLASSES[k] for k in image.labels]
        assert objects.difficult.tolist() == image.difficult
        assert objects.crowd.tolist() == image.crowd
        assert Path(annotations.image_path(i)).is_file()


# -------------------------------------------------------------------------------------------------- VOC


@pytest.mark.parametrize("extension", [".png", ".jpg", ".JPG"])
def test_voc_reads_what_was_written(tmp_path, extension):
    written = write_voc(tmp_path, extension=extension)
    annotations = VOC_2007.read(tmp_path)
    assert_same(annotations, written)
    assert annotations.class_names == TINY_CLASSES  # sorted names
    sides = np.diff(annotations.boxes.reshape(-1, 2, 2), axis=1)[:, 0]
    np.testing.assert_array_equal(annotations.areas, sides.prod(axis=1))


def test_voc_coordinates_are_edges_of_pixels_and_go_back_to_the_xml(tmp_path):
    """xmin = 1, xmax = W covers the picture; inclusive-pixel IoU is the plain IoU of the stored boxes."""
    write_voc(tmp_path, num_images=1, size=(40, 50))
    file = tmp_path / "VOCdevkit/VOC2007/Annotations/train_0000.xml"
    write_voc_xml(file, size=(40, 50), objects=[("cat", (0, 0, 50, 40), False), ("cat", (6, 10, 20, 12), False)])
    assert "<xmin>1</xmin><ymin>1</ymin><xmax>50</xmax><ymax>40</ymax>" in file.read_text()
    annotations = VOC_2007.read(tmp_path)
    assert annotations.boxes.tolist() == [[0, 0, 50, 40], [6, 10, 20, 12]]
    assert annotations.clipped == []
    pixels = to_inclusive_pixels(annotations.boxes)
    assert pixels.tolist() == [[1, 1, 50, 40], [7, 11, 20, 12]]
    inclusive_area = (pixels[:, 2] - pixels[:, 0] + 1) * (pixels[:, 3] - pixels[:, 1] + 1)
    np.testing.assert_array_equal(inclusive_area, annotations.areas)


def test_a_union_of_years_keeps_the_order_of_its_sources(tmp_path):
    first = write_voc(tmp_path, folder="VOCdevkit/VOC2007", split="trainval", num_images=3)
    second = write_voc(tmp_path, folder="VOCdevkit/VOC2012", split="train", num_images=4, seed=1)
    union = Voc(
        sources=("VOCdevkit/VOC2007/trainval", "VOCdevkit/VOC2012/train"),
        classes=None,
        use_difficult=False,
        keep_empty_images=True,
    )
    annotations = union.read(tmp_path)
    assert_same(annotations, first + second)
    assert annotations.image_name(3) == "VOCdevkit/VOC2012/JPEGImages/train_0000.png"


def test_a_set_directly_in_the_data_root(tmp_path):
    written = write_voc(tmp_path, folder=".", split="train")
    assert_same(
        Voc(sources=("train",), classes=None, use_difficult=False, keep_empty_images=True).read(tmp_path), written
    )


def test_bad_boxes_are_dropped_or_clipped_and_named(tmp_path):
    write_voc(tmp_path, num_images=2, size=(40, 50))
    folder = tmp_path / "VOCdevkit/VOC2007"
    objects = [
        ("cat", (5, 5, 5, 20), False),  # no width: xmin 6, xmax 5
        ("cat", (5, 5, 6, 6), False),  # xmin 6, xmax 6, ymin 6, ymax 6: a click without a drag
        ("dog", (2, 3, 10, 12), False),
        ("cat", (20, 10, 10, 20), False),  # turned round
        ("dog", (-4, 30, 60, 45), True),  # reaches over three edges
        ("cat", (60, 10, 70, 20), False),  # outside
        ("cat", (float("nan"), 1, 5, 5), False),
    ]
    write_voc_xml(folder / "Annotations/train_0000.xml", size=(40, 50), objects=objects)
    annotations = VOC_2007.read(tmp_path)
    assert annotations.objects(0).boxes.tolist() == [[2, 3, 10, 12], [0, 30, 50, 40]]
    assert annotations.objects(0).difficult.tolist() == [False, True]
    assert [annotations.class_names[k] for k in annotations.objects(0).labels] == ["dog", "dog"]
    assert annotations.areas.tolist() == [72, 500]
    reasons = {int(line.split("object ")[1].split(",")[0]): line.rsplit(": ")[-1] for line in annotations.dropped}
    size = "zero or negative size"
    assert reasons == {0: size, 1: "both corners are one pixel", 3: size, 5: "outside its image", 6: "not finite"}
    assert all("train_0000.xml" in line for line in annotations.dropped + annotations.clipped)
    assert "box [6.0, 6.0, 5.0, 20.0]" in annotations.dropped[0]
    assert len(annotations.clipped) == 1
    assert "object 4, box [-3.0, 31.0, 60.0, 45.0]" in annotations.clipped[0]
    assert "5 degenerate boxes dropped, 1 boxes clipped" in annotations.summary()


@pytest.mark.parametrize("box", [(5, 5, 6, 20), (5, 5, 20, 6), (0, 0, 1, 40), (49, 0, 50, 40), (0, 39, 50, 40)])
def test_equal_corners_of_voc_are_a_pixel_apart(tmp_path, box):
    """xmin = xmax is a column of one pixel, ymin = ymax a row, also at the edges of the picture."""
    write_voc(tmp_path, num_images=1, size=(40, 50))
    xml = tmp_path / "VOCdevkit/VOC2007/Annotations/train_0000.xml"
    write_voc_xml(xml, size=(40, 50), objects=[("cat", box, False)])
    annotations = VOC_2007.read(tmp_path)
    assert annotations.boxes.tolist() == [list(box)]
    assert (annotations.dropped, annotations.clipped) == ([], [])
    assert annotations.areas.tolist() == [(box[2] - box[0]) * (box[3] - box[1])]


def test_an_unknown_class_names_file_object_class_and_the_known_ones(tmp_path):
    write_voc(tmp_path, num_images=1)
    file = tmp_path / "VOCdevkit/VOC2007/Annotations/train_0000.xml"
    write_voc_xml(file, size=(48, 64), objects=[("cat", (1, 1, 9, 9), False), ("Cat", (1, 1, 9, 9), False)])
    configured = Voc(sources=VOC_2007.sources, classes=TINY_CLASSES, use_difficult=True, keep_empty_images=True)
    for data, class_names in ((VOC_2007, TINY_CLASSES), (configured, None)):
        with pytest.raises(ValueError, match=r"train_0000\.xml: object 1 is a 'Cat'.*3 known.*bird.*cat.*dog"):
            data.read(tmp_path, class_names)


def test_classes_of_config_and_training_set_have_to_agree(tmp_path):
    write_voc(tmp_path)
    data = Voc(sources=VOC_2007.sources, classes=("cat", "dog", "bird"), use_difficult=True, keep_empty_images=True)
    assert data.read(tmp_path, ("cat", "dog", "bird")).class_names == ("cat", "dog", "bird")
    with pytest.raises(ValueError, match=r"\('cat', 'dog', 'bird'\).*\('bird', 'cat', 'dog'\)"):
        data.read(tmp_path, TINY_CLASSES)
    with pytest.raises(ValueError, match=r"stands twice among 4 classes .*: 'cat'$"):
        VOC_2007.read(tmp_path, ("cat", "dog", "bird", "cat"))


@pytest.mark.parametrize(
    "names",
    [
        ("name" * 5000,) * 2,
        ("name" * 5000,),
        (*TINY_CLASSES[1:], "name" * 5000),
        tuple(f"{number} {'name' * 5000}" for number in range(100)),
    ],
    ids=["twice", "one", "one of three", "a hundred"],
)
def test_classes_are_named_in_a_line_however_long_and_many_they_are(tmp_path, names):
    """A name may be anything that stands in a file: found by 10,000 cases of the fuzz test."""
    write_voc(tmp_path)
    write_coco(tmp_path)
    for data in (VOC_2007, TINY_COCO):
        with pytest.raises(ValueError, match="class") as told:
            data.read(tmp_path, names)
        assert len(str(told.value).splitlines()) == 1
        assert len(str(told.value)) < 2000


def test_labels_follow_the_order_of_the_configured_classes(tmp_path):
    written = write_voc(tmp_path)
    annotations = Voc(
        sources=VOC_2007.sources, classes=("dog", "cat", "bird"), use_difficult=True, keep_empty_images=True
    ).read(tmp_path)
    assert_same(annotations, written)
    labels = [2 - label for image in written for label in image.labels]  # TINY_CLASSES backwards
    assert annotations.labels.tolist() == labels


def test_the_twenty_voc_classes():
    assert len(VOC_CLASSES) == len(set(VOC_CLASSES)) == 20
    assert list(VOC_CLASSES) == sorted(VOC_CLASSES)


def break_list(folder):
    (folder / "ImageSets/Main/train.txt").unlink()


def break_missing_xml(folder):
    (folder / "Annotations/train_0001.xml").unlink()


def break_xml(folder):
    (folder / "Annotations/train_0001.xml").write_text("<annotation><object>")


def break_size(folder):
    (folder / "Annotations/train_0001.xml").write_text("<annotation><size><width>64</width></size></annotation>")


def break_corner(folder):
    text = (folder / "Annotations/train_0001.xml").read_text()
    (folder / "Annotations/train_0001.xml").write_text(text.replace("<ymax>", "<top>").replace("</ymax>", "</top>"))


def break_name(folder):
    text = (folder / "Annotations/train_0001.xml").read_text().replace("<name>", "<kind>").replace("</name>", "</kind>")
    (folder / "Annotations/train_0001.xml").write_text(text)


def break_difficult(folder):
    text = (folder / "Annotations/train_0001.xml").read_text().replace("<difficult>", "<difficult>very ")
    (folder / "Annotations/train_0001.xml").write_text(text)


def break_missing_picture(folder):
    (folder / "JPEGImages/train_0001.png").unlink()


def break_two_pictures(folder):
    write_picture(folder / "JPEGImages/train_0001.jpg", np.zeros((48, 64, 3), dtype=np.uint8))


def break_ids(extra):
    """Lists train_0001 with `extra` behind its name."""

    def change(folder):
        listing = folder / "ImageSets/Main/train.txt"
        listing.write_text(listing.read_text().replace("train_0001", f"train_0001{extra}"))

    return change


def break_encoding(folder):
    (folder / "ImageSets/Main/train.txt").write_bytes("Käse\n".encode("latin-1"))


def break_upper_case(folder):
    (folder / "Annotations/train_0001.xml").rename(folder / "Annotations/train_0001.XML")


def break_twice(folder):
    with open(folder / "ImageSets/Main/train.txt", "a") as file:
        file.write("train_0001\n")


@pytest.mark.parametrize(
    ("breaking", "error", "message"),
    [
        (break_list, FileNotFoundError, r"train\.txt: missing.*VOCdevkit/VOC2007/train"),
        (break_missing_xml, FileNotFoundError, r"train_0001\.xml: missing, though .*train\.txt"),
        (break_xml, ValueError, r"train_0001\.xml: not readable as xml.*line 1"),
        (break_size, ValueError, r"train_0001\.xml: height and width are \(None, '64'\)"),
        (break_corner, ValueError, r"train_0001\.xml: object 0 .* corners .*None\]"),
        (break_name, ValueError, r"train_0001\.xml: object 0 has no <name>"),
        (break_difficult, ValueError, r"train_0001\.xml: object 0 .* difficult 'very [01]'"),
        (break_missing_picture, FileNotFoundError, r"train_0001\.\*: no file"),
        (break_two_pictures, FileNotFoundError, r"train_0001\.\*: 2 files \['train_0001.jpg', 'train_0001.png'\]"),
        (break_twice, ValueError, r"'train_0001' is listed twice"),
        (break_ids(".png"), FileNotFoundError, r"01\.png\.xml: missing, .* names without extension: train_0001$"),
        (break_ids("  1"), FileNotFoundError, r"01  1\.xml: missing, .*one of a single class, with a second column"),
        (break_encoding, ValueError, r"train\.txt: not text in UTF-8: .*0xe4"),
        (break_upper_case, FileNotFoundError, r"01\.xml: missing, .*train_0001\.XML has to be renamed to \.xml"),
    ],
)
def test_broken_voc_data_are_named(tmp_path, breaking, error, message):
    write_voc(tmp_path, num_images=3)
    breaking(tmp_path / "VOCdevkit/VOC2007")
    with pytest.raises(error, match=message):
        VOC_2007.read(tmp_path)


def test_other_files_beside_the_pictures_do_not_matter(tmp_path):
    written = write_voc(tmp_path, num_images=2)
    pictures = tmp_path / "VOCdevkit/VOC2007/JPEGImages"
    shutil.copy(tmp_path / "VOCdevkit/VOC2007/Annotations/train_0000.xml", pictures)
    (pictures / "train_0000.txt").write_text("0 0.5 0.5 0.1 0.1")
    assert_same(VOC_2007.read(tmp_path), written)


# -------------------------------------------------------------------------------------------------- COCO


def edit(data_root, change):
    path = data_root / "annotations/train.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_coco_reads_what_was_written(tmp_path):
    written = write_coco(tmp_path)
    annotations = TINY_COCO.read(tmp_path)
    assert_same(annotations, written)
    assert annotations.image_ids.tolist() == [10 + 7 * i for i in range(8)]  # rising, though the json has them falling
    assert annotations.category_ids == (3, 17, 90)
    sides = np.diff(annotations.boxes.reshape(-1, 2, 2), axis=1)[:, 0]
    np.testing.assert_allclose(annotations.areas, 0.75 * sides.prod(axis=1))  # the json's own


def test_images_without_anything_to_train_on_can_be_left_out(tmp_path):
    written = write_coco(tmp_path, num_images=12, max_objects=1)
    data = Coco(annotations="annotations/train.json", images="images", classes=None, keep_empty_images=False)
    kept = [image for image in written if not all(image.crowd)]
    assert 0 < len(kept) < len([image for image in written if image.boxes]) < len(written)
    assert_same(data.read(tmp_path), kept)


def test_configured_classes_give_the_labels_and_keep_the_ids(tmp_path):
    written = write_coco(tmp_path)
    edit(tmp_path, lambda content: content["categories"].append({"id": 0, "name": "everything"}))
    assert TINY_COCO.read(tmp_path).class_names == ("everything", *TINY_CLASSES)
    data = Coco(annotations="annotations/train.json", images="images", classes=("dog", "bird", "cat"),
                keep_empty_images=True)  # fmt: skip
    annotations = data.read(tmp_path)
    assert_same(annotations, written)
    assert annotations.category_ids == (90, 3, 17)


@pytest.mark.parametrize("class_names", [("bird", "cat"), ("bird", "cat", "dog", "cow"), ("bird", "cat", "Dog")])
def test_other_classes_than_the_json_has_are_refused_naming_both(tmp_path, class_names):
    write_coco(tmp_path)
    with pytest.raises(
        ValueError, match=r"train\.json: its 3 categories \('bird', 'cat', 'dog'\) are not.*" + class_names[-1]
    ):
        TINY_COCO.read(tmp_path, class_names)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["annotations"][1].update(image_id=999), r"annotation 1001 has image_id 999.*8 image ids"),
        (lambda c: c["annotations"][1].update(category_id=4), r"annotation 1001 has category_id 4.*3 category ids"),
        (lambda c: c["annotations"][1].update(id=1000), r"two of the annotations have the id 1000"),
        (lambda c: c["images"][1].update(id=10), r"two of the images have the id 10"),
        (lambda c: c["images"][1].update(id="10"), r"ids of the images .* all whole numbers or all text"),
        (lambda c: c["categories"][1].update(id=3), r"two of the categories have the id 3"),
        (lambda c: c["categories"][1].update(name="dog"), r"categories 17 and 90 are both called 'dog'"),
        (lambda c: c["annotations"][1].update(bbox=[1, 2, 3]), r"annotation 1001 has the bbox \[1, 2, 3\]"),
        (lambda c: c["annotations"][1].pop("bbox"), r"one of the annotations has no 'bbox'"),
        (lambda c: c["images"][0].pop("height"), r"has no 'height'"),
        (lambda c: c.pop("categories"), r"no list of \['categories'\]"),
    ],
)
def test_broken_coco_data_are_named(tmp_path, change, message):
    write_coco(tmp_path)
    edit(tmp_path, change)
    with pytest.raises(ValueError, match=r"train\.json: .*" + message):
        TINY_COCO.read(tmp_path)


def test_one_picture_is_one_image_of_a_json_however_its_path_is_written(tmp_path):
    write_coco(tmp_path)
    edit(tmp_path, lambda content: content["images"][1].update(file_name="./" + content["images"][2]["file_name"]))
    with pytest.raises(ValueError, match=r"images 45 and 52 both have the file_name \'\./"):
        TINY_COCO.read(tmp_path)


def test_the_mark_that_some_editors_put_before_a_text_is_no_part_of_it(tmp_path):
    """U+FEFF, before a list of images and before a json."""
    mark = "\ufeff".encode()
    written = write_voc(tmp_path / "voc"), write_coco(tmp_path / "coco")
    for path in (tmp_path / "voc/VOCdevkit/VOC2007/ImageSets/Main/train.txt", tmp_path / "coco/annotations/train.json"):
        path.write_bytes(mark + path.read_bytes())
    assert_same(VOC_2007.read(tmp_path / "voc"), written[0])
    assert_same(TINY_COCO.read(tmp_path / "coco"), written[1])


def test_a_missing_and_a_half_json(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train\.json: missing"):
        TINY_COCO.read(tmp_path)
    write_coco(tmp_path)
    path = tmp_path / "annotations/train.json"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ValueError, match=r"train\.json: not readable as json"):
        TINY_COCO.read(tmp_path)


def test_coco_boxes_of_no_size_and_over_the_edge(tmp_path):
    write_coco(tmp_path, num_images=2)

    def change(content):
        template = content["annotations"][0]
        boxes = [[1, 1, 0, 5], [1, 1, 5, 5.5], [60, 40, 10, 10], [1, 1, -3, 5]]
        content["annotations"] = [{**template, "id": i, "bbox": box} for i, box in enumerate(boxes)]

    edit(tmp_path, change)
    annotations = TINY_COCO.read(tmp_path)
    assert annotations.boxes.tolist() == [[1, 1, 6, 6.5], [60, 40, 64, 48]]
    assert [line.split(", box")[0].split("object ")[1] for line in annotations.dropped] == ["0", "3"]
    assert "object 2, box [60.0, 40.0, 70.0, 50.0]" in annotations.clipped[0]


# ----------------------------------------------------------------------------------- what both have in common


@pytest.mark.parametrize(("write", "data"), [(write_voc, VOC_2007), (write_coco, TINY_COCO)])
def test_limit_is_the_set_of_the_first_images(tmp_path, write, data):
    written = write(tmp_path)
    annotations = data.read(tmp_path)
    assert_same(annotations.limit(3), written[:3])
    assert annotations.limit(100) is annotations
    assert_same(annotations, written)
    assert annotations.limit(3).fingerprint() != annotations.fingerprint()
    assert "first 3 images of" in annotations.limit(3).summary()
    with pytest.raises(ValueError, match="limited to 0 images"):
        annotations.limit(0)


@pytest.mark.parametrize(("write", "data"), [(write_voc, VOC_2007), (write_coco, TINY_COCO)])
def test_the_fingerprint_follows_the_content_and_not_the_place(tmp_path, write, data):
    write(tmp_path / "a")
    fingerprint = data.read(tmp_path / "a").fingerprint()
    assert len(fingerprint) == 64
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert data.read(tmp_path / "b").fingerprint() == fingerprint

    picture = Path(data.read(tmp_path / "b").image_path(2))
    content = picture.read_bytes()
    picture.write_bytes(content + b"\0")  # another file size
    assert data.read(tmp_path / "b").fingerprint() != fingerprint
    picture.write_bytes(content)
    assert data.read(tmp_path / "b").fingerprint() == fingerprint

    annotations = data.read(tmp_path / "b")
    for name in ("boxes", "labels", "difficult", "crowd", "areas", "heights"):
        array = getattr(annotations, name)
        changed = array.copy()
        changed[0] = ~changed[0] if changed.dtype == bool else changed[0] + 1
        setattr(annotations, name, changed)
        assert annotations.fingerprint() != fingerprint, name
        setattr(annotations, name, array)
    picture.unlink()
    with pytest.raises(ImageError, match=f"{picture.name}: missing.*; restore it"):
        annotations.fingerprint()
    shutil.rmtree(picture.parent)
    with pytest.raises(ImageError, match=f"missing.*there is no folder {picture.parent}: .*data root"):
        annotations.fingerprint()


def test_a_text_where_a_tuple_of_names_belongs_is_refused():
    """("cat") is no tuple, and its letters are no classes."""
    with pytest.raises(
        ValueError, match=r"Voc\.classes is the text 'cat'; a tuple of one name has a comma: \('cat',\)"
    ):
        Voc(sources=("a/train",), classes=("cat"), use_difficult=True, keep_empty_images=True)
    with pytest.raises(ValueError, match=r"Voc\.sources is the text 'a/train'"):
        Voc(sources=("a/train"), classes=("cat",), use_difficult=True, keep_empty_images=True)
    with pytest.raises(ValueError, match=r"Coco\.classes is the text 'cat'"):
        Coco(annotations="a.json", images="a", classes=("cat"), keep_empty_images=True)


@pytest.mark.parametrize(("write", "data"), [(write_voc, VOC_2007), (write_coco, TINY_COCO)])
def test_the_summary_counts(tmp_path, write, data):
    written = write(tmp_path)
    flags = [sum(image.difficult) for image in written], [sum(image.crowd) for image in written]
    summary = data.read(tmp_path).summary()
    assert f": 8 images, {sum(len(image.boxes) for image in written)} boxes, 3 classes, 1 images without" in summary
    assert f"{sum(flags[0])} difficult, {sum(flags[1])} crowd, 0 degenerate" in summary


def test_a_large_set_is_held_in_few_bytes():
    """Per box 42 bytes of arrays; a list of dicts would take ten times as much in every worker."""
    num_images, num_boxes = 10_000, 80_000
    annotations = Annotations(
        image_root="/data",
        image_names=[f"images/{i:012d}.jpg" for i in range(num_images)],
        image_ids=list(range(num_images)),
        heights=[480] * num_images,
        widths=[640] * num_images,
        offsets=np.arange(num_images + 1) * 8,
        boxes=np.ones((num_boxes, 4)),
        labels=[0] * num_boxes,
        difficult=[False] * num_boxes,
        crowd=[False] * num_boxes,
        areas=[1.0] * num_boxes,
        class_names=("cat",),
        category_ids=(1,),
        use_difficult=True,
        description="made",
    )
    assert annotations.image_name(1234) == "images/000000001234.jpg"
    assert len(pickle.dumps(annotations)) < 50 * num_boxes
    lists = {name: len(value) for name, value in vars(annotations).items() if isinstance(value, list | tuple | dict)}
    assert max(lists.values()) <= 1


def test_arrays_that_do_not_fit_each_other_are_refused(tmp_path):
    write_voc(tmp_path)
    annotations = VOC_2007.read(tmp_path)
    arguments = {name: value for name, value in vars(annotations).items() if not name.startswith("_")}
    arguments["image_names"] = [annotations.image_name(i) for i in range(len(annotations))]
    Annotations(**arguments)
    with pytest.raises(ValueError, match=r"'labels': \d+"):
        Annotations(**(arguments | {"labels": annotations.labels[1:]}))
    with pytest.raises(ValueError, match=r"'heights': 7.* for 8 "):
        Annotations(**(arguments | {"heights": annotations.heights[1:]}))


# --------------------------------------------------------------------------------------------- the real sets


@needs_shared("bccd_voc")
def test_the_blood_cells():
    """Counts of data/SOURCE.md."""
    sources = ("BCCD/train", "BCCD/val", "BCCD/test")
    data = Voc(sources=sources, classes=("RBC", "WBC", "Platelets"), use_difficult=False, keep_empty_images=True)
    annotations = data.read(SHARED / "bccd_voc")
    assert len(annotations) == 364
    assert len(annotations.boxes) + len(annotations.dropped) == 4888
    assert len(annotations.dropped) == 2
    assert {"BloodImage_00338.xml", "BloodImage_00343.xml"} == {
        Path(line.split(",")[0]).name for line in annotations.dropped
    }
    splits = [
        Voc(sources=(s,), classes=data.classes, use_difficult=False, keep_empty_images=True).read(SHARED / "bccd_voc")
        for s in sources
    ]
    assert [len(split) for split in splits] == [205, 87, 72]


@needs_shared("coco_val100")
def test_real_coco_annotations_equal_those_of_pycocotools():
    data = Coco(annotations="annotations/instances_val2017.json", images="images/val2017", classes=None,
                keep_empty_images=True)  # fmt: skip
    annotations = data.read(SHARED / "coco_val100")
    oracle = COCO(SHARED / "coco_val100" / data.annotations)
    assert annotations.image_ids.tolist() == sorted(oracle.getImgIds())
    assert annotations.category_ids == tuple(sorted(oracle.getCatIds()))
    assert annotations.dropped == annotations.clipped == []
    for i in range(len(annotations)):
        expected = oracle.loadAnns(oracle.getAnnIds(imgIds=annotations.image_id(i)))
        objects = annotations.objects(i)
        x, y, width, height = np.array([item["bbox"] for item in expected]).T
        np.testing.assert_allclose(objects.boxes.T, [x, y, x + width, y + height], rtol=1e-6)
        assert [annotations.category_ids[label] for label in objects.labels] == [e["category_id"] for e in expected]
        assert objects.crowd.tolist() == [bool(item["iscrowd"]) for item in expected]
        part = slice(annotations.offsets[i], annotations.offsets[i + 1])
        assert annotations.areas[part].tolist() == [item["area"] for item in expected]
    assert annotations.crowd.sum() == 5
    assert annotations.fingerprint() == annotations.fingerprint()


def test_a_star_takes_every_xml_file_and_needs_no_lists(tmp_path):
    write_voc(tmp_path, folder="mine", split="train", num_images=4, seed=3)
    listed = Voc(sources=("mine/train",), classes=None, use_difficult=True, keep_empty_images=True).read(tmp_path)
    shutil.rmtree(tmp_path / "mine" / "ImageSets")
    every = Voc(sources=("mine/*",), classes=None, use_difficult=True, keep_empty_images=True).read(tmp_path)
    assert [every.image_id(i) for i in range(4)] == sorted(listed.image_id(i) for i in range(4))
    assert every.fingerprint() == listed.fingerprint()
    with pytest.raises(FileNotFoundError, match="other/Annotations: no xml file there"):
        Voc(sources=("other/*",), classes=None, use_difficult=True, keep_empty_images=True).read(tmp_path)
    first = tmp_path / "mine/Annotations" / f"{every.image_id(0)}.xml"
    first.rename(first.with_suffix(".XML"))  # is not passed over
    with pytest.raises(FileNotFoundError, match=r"\.XML has to be renamed"):
        Voc(sources=("mine/*",), classes=None, use_difficult=True, keep_empty_images=True).read(tmp_path)


def test_many_classes_that_differ_are_not_all_printed():
    names = tuple(f"class {number}" for number in range(1000))
    other = (*names[:7], "seventh", *names[8:])
    with pytest.raises(ValueError, match="part at class 7, 'class 7' and 'seventh'") as error:
        agree_on_classes(names, other, "here")
    assert len(str(error.value)) < 400
    with pytest.raises(ValueError, match=r"1000 classes .* 999 classes .* where the shorter one ends"):
        agree_on_classes(names, names[:-1], "here")
    with pytest.raises(ValueError, match=r"2 classes \('a', 'b'\).* 2 classes \('b', 'a'\)\. Give"):
        agree_on_classes(("a", "b"), ("b", "a"), "here")
