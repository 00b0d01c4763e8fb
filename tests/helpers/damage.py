"""Damage to tiny data sets, one kind each, and the defect by which `check_dataset` has to name it."""

import io
import json
import shutil

import cv2
import numpy as np
from PIL import Image

from tests.helpers.tiny_data import write_picture

# --------------------------------------------------------------------------------------------------- VOC layout


def picture(root, name="train_0001", extension=".png"):
    return root / "JPEGImages" / f"{name}{extension}"


def xml(root, name="train_0001"):
    return root / "Annotations" / f"{name}.xml"


def put_jpeg(root, transform=lambda data: data, **options):
    """train_0001 as a JPEG, changed."""
    image = cv2.imread(str(picture(root)))[:, :, ::-1]
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, "JPEG", **options)
    picture(root).unlink()
    picture(root, extension=".jpg").write_bytes(transform(buffer.getvalue()))


def turned_jpeg(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    put_jpeg(root, exif=exif)


def change_xml(root, old, new, name="train_0001", count=1):
    text = xml(root, name).read_text()
    assert old in text
    xml(root, name).write_text(text.replace(old, new, count))


def second_box(corners):
    """A change that gives object 1 of train_0001 other corners, written as in the xml."""

    def change(root):
        text = xml(root).read_text()
        head, first, second, tail = text.split("<object>", 3)
        box = "".join(f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), corners))
        second = second[: second.index("<bndbox>")] + f"<bndbox>{box}</bndbox></object>\n"
        xml(root).write_text("<object>".join((head, first, second, tail)))

    return change


def listed_twice(root):
    with open(root / "ImageSets/Main/train.txt", "a") as file:
        file.write("train_0001\n")


def in_both_lists(root):
    with open(root / "ImageSets/Main/val.txt", "a") as file:
        file.write("train_0001\n")


def same_bytes(root):
    shutil.copy(picture(root), picture(root, "val_0001"))


def repeat_first_object(root):
    text = xml(root).read_text()
    first = text[text.index("<object>") : text.index("</object>") + len("</object>")]
    xml(root).write_text(text.replace("</annotation>", first + "</annotation>"))


PNG, XML = "JPEGImages/train_0001.png", "Annotations/train_0001.xml"
VOC_DAMAGE = {  # name: (damage, kind, file, number of the object, what the message says beside the file)
    "missing picture": (lambda r: picture(r).unlink(), "missing picture", "JPEGImages/train_0001.jpg", None, "no file"),
    "empty file": (lambda r: picture(r).write_bytes(b""), "empty picture", PNG, None, "0 bytes"),
    "text": (lambda r: picture(r).write_bytes(b"<html>"), "unreadable picture", PNG, None, "no picture"),
    "cut png": (
        lambda r: picture(r).write_bytes(picture(r).read_bytes()[:-3000]), "unreadable picture", PNG, None, "damaged"
    ),
    "cut jpeg": (
        lambda r: put_jpeg(r, lambda d: d[:-50]), "truncated picture", "JPEGImages/train_0001.jpg", None, "no end"
    ),
    "zeros at the end": (
        lambda r: put_jpeg(r, lambda d: d[:-200] + bytes(200)), "truncated picture", "JPEGImages/train_0001.jpg", None, ""
    ),
    "floats": (
        lambda r: (picture(r).unlink(), write_picture(picture(r, extension=".tiff"), np.zeros((48, 64, 3), np.float32))),
        "unreadable picture", "JPEGImages/train_0001.tiff", None, "float32",
    ),
    "two pictures": (
        lambda r: write_picture(picture(r, extension=".bmp"), np.zeros((48, 64, 3), np.uint8)),
        "ambiguous picture", "JPEGImages/train_0001", None, "2 files",
    ),
    "wrong size": (
        lambda r: change_xml(r, "<width>64", "<width>640"), "wrong size", PNG, None, "64 x 48 pixels .* says 640 x 48"
    ),
    "turned by EXIF": (
        turned_jpeg, "wrong size", "JPEGImages/train_0001.jpg", None, "48 x 64 pixels .* as it is stored, before it is turned"
    ),
    "missing xml": (lambda r: xml(r).unlink(), "missing annotation", XML, None, "train.txt lists the image"),
    "half an xml": (lambda r: xml(r).write_text("<annotation><object>"), "broken annotation", XML, None, "as xml"),
    "unknown encoding": (
        lambda r: xml(r).write_text('<?xml version="1.0" encoding="klingon"?><a/>'), "broken annotation", XML, None, "as xml"
    ),
    "no size": (lambda r: change_xml(r, "size>", "sizes>", count=2), "broken annotation", XML, None, "height and width"),
    "no name": (lambda r: change_xml(r, "<name>cat</name>", ""), "broken object", XML, 0, "object 0 has no <name>"),
    "three corners": (lambda r: change_xml(r, "<xmin>5</xmin>", ""), "broken object", XML, 0, r"object 0 \(cat\).*None"),
    "word as corner": (
        lambda r: change_xml(r, "<xmin>5<", "<xmin>left<"), "broken object", XML, 0, r"object 0 \(cat\).*'left'"
    ),
    "difficult": (
        lambda r: change_xml(r, "<difficult>0", "<difficult>maybe"), "broken object", XML, 0, "difficult 'maybe'"
    ),
    "inverted box": (second_box((30, 10, 20, 20)), "inverted box", XML, 1, r"object 1, box \[30\.0, 10\.0, 20\.0, 20\.0\]"),
    "empty box": (second_box((30, 10, 30, 10)), "empty box", XML, 1, r"object 1, box \[30\.0, 10\.0, 30\.0, 10\.0\]"),
    "box outside": (second_box((70, 10, 90, 20)), "box outside", XML, 1, "object 1, .* in 64 x 48 pixels: outside"),
    "NaN": (second_box(("nan", 10, 90, 20)), "box not finite", XML, 1, "object 1, .*nan"),
    "infinite": (second_box((10, 10, "inf", 20)), "box not finite", XML, 1, "object 1, .*inf"),
    "over the edge": (second_box((50, 10, 90, 20)), "clipped box", XML, 1, "object 1, .*over the edge"),
    "duplicate box": (repeat_first_object, "duplicate box", XML, 3, "object 3, .* corners as object 0"),
    "listed twice": (listed_twice, "duplicate id", "ImageSets/Main/train.txt", "train_0001", "line 7: .*listed twice"),
    "in train and val": (in_both_lists, "picture in two splits", PNG, None, "in train and in val"),
    "same bytes": (same_bytes, "picture in two splits", "JPEGImages/val_0001.png", None, r"train_0001\.png \(train\)"),
    "picture without xml": (
        lambda r: shutil.copy(picture(r), picture(r, "stray")), "picture without annotation", "JPEGImages/stray.png", None, ""
    ),
    "unlisted xml": (
        lambda r: shutil.copy(xml(r), xml(r, "stray")), "annotation without picture", "JPEGImages/stray.jpg", None, "no file"
    ),
    "two spellings": (
        lambda r: change_xml(r, "<name>cat</name>", "<name>Cat </name>"), "similar class names", None, None, "'Cat', 'cat'"
    ),
}  # fmt: skip


# -------------------------------------------------------------------------------------------------------- COCO


def edit(root, change):
    path = root / "annotations/train.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def annotation(**values):
    return lambda root: edit(root, lambda content: content["annotations"][1].update(values))


def image(**values):
    return lambda root: edit(root, lambda content: content["images"][1].update(values))


def repeat(kind, **values):
    return lambda root: edit(root, lambda content: content[kind].append({**content[kind][1], **values}))


def remove(kind, name):
    return lambda root: edit(root, lambda content: content[kind][1].pop(name))


JSON = "annotations/train.json"
COCO_DAMAGE = {  # as above; entry 1 of the annotations is 1001, of the images 31 (they stand in falling order)
    "missing picture": (
        lambda r: (r / "images/000000000010.png").unlink(), "missing picture", "images/000000000010.png", None, "missing"
    ),
    "cut picture": (
        lambda r: (r / "images/000000000010.png").write_bytes((r / "images/000000000010.png").read_bytes()[:500]),
        "unreadable picture", "images/000000000010.png", None, "500 bytes",
    ),
    "wrong size": (image(height=49), "wrong size", "images/000000000031.png", None, "64 x 48 pixels .* says 64 x 49"),
    "duplicate image id": (repeat("images"), "duplicate id", JSON, 31, "two of the images have the id 31"),
    "duplicate annotation id": (repeat("annotations"), "duplicate id", JSON, 1001, "two of the annotations have the id 1001"),
    "duplicate category id": (repeat("categories", name="cow"), "duplicate id", JSON, 17, "two of the categories"),
    "file name twice": (
        repeat("images", id=99), "duplicate picture", JSON, 99, r"images 31 and 99 both have .*'000000000031\.png'"
    ),
    "category twice": (repeat("categories", id=95), "duplicate id", JSON, 95, "17 and 95 are both called 'cat'"),
    "true as id": (repeat("annotations", id=True), "broken object", JSON, True, "whole numbers or all text, not True"),
    "text as id": (repeat("images", id="77"), "broken annotation", JSON, "77", "ids of the images .* not '77'"),
    "null as id": (repeat("images", id=None), "broken annotation", JSON, None, "ids of the images .* not None"),
    "unknown image": (annotation(image_id=999), "unknown reference", JSON, 1001, "annotation 1001 has image_id 999"),
    "true as image": (annotation(image_id=True), "unknown reference", JSON, 1001, "annotation 1001 has image_id true"),
    "list as image": (annotation(image_id=[10]), "unknown reference", JSON, 1001, r"annotation 1001 has image_id \[10\]"),
    "unknown class": (annotation(category_id=4), "unknown reference", JSON, 1001, "annotation 1001 has category_id 4"),
    "no bbox": (remove("annotations", "bbox"), "broken object", JSON, 1001, "has no 'bbox'.*1001"),
    "no width": (remove("images", "width"), "broken annotation", JSON, 31, "has no 'width'.*31"),
    "three numbers": (annotation(bbox=[1, 2, 3]), "broken object", JSON, 1001, r"annotation 1001 has the bbox \[1, 2, 3\]"),
    "text in bbox": (annotation(bbox=[1, 2, 3, "4"]), "broken object", JSON, 1001, r"annotation 1001 has the bbox .*'4'"),
    "bool in bbox": (annotation(bbox=[1, 2, 3, True]), "broken object", JSON, 1001, r"annotation 1001 has the bbox .*True"),
    "crowd": (annotation(iscrowd="no"), "broken object", JSON, 1001, "annotation 1001 has iscrowd 'no'"),
    "no area": (annotation(area=None), "broken object", JSON, 1001, "annotation 1001 has the area None"),
    "negative area": (annotation(area=-4.0), "broken object", JSON, 1001, r"annotation 1001 has the area -4\.0"),
    "impossible area": (annotation(area=3e10), "impossible area", JSON, 1001, r"0017\.png, object 1001, .*area 3e\+10 "),
    "area of nothing": (annotation(area=0), "impossible area", JSON, 1001, r"0017\.png, object 1001, .*the area 0 cannot"),
    "ignore": (annotation(ignore="yes"), "broken object", JSON, 1001, "annotation 1001 has ignore 'yes', not 0 or 1"),
    "not an object": (
        lambda r: edit(r, lambda c: c["annotations"].append("extra")),
        *("broken object", JSON, None, "not an object with id.*extra"),
    ),
    "height of a half": (image(height=48.5), "broken annotation", JSON, 31, r"image 31 has the height 48\.5"),
    "no height": (image(height=0), "broken annotation", JSON, 31, "image 31 has the height 0"),
    "no file name": (image(file_name=""), "broken annotation", JSON, 31, "image 31 has the file_name ''"),
    "inverted box": (annotation(bbox=[30, 10, -5, 5]), "inverted box", JSON, 1001, r"0017\.png, object 1001, box \[30"),
    "empty box": (annotation(bbox=[30, 10, 0, 5]), "empty box", JSON, 1001, r"0017\.png, object 1001, box \[30"),
    "box outside": (annotation(bbox=[70, 10, 5, 5]), "box outside", JSON, 1001, r"0017\.png, object 1001.*outside"),
    "NaN": (annotation(bbox=[float("nan"), 1, 5, 5]), "box not finite", JSON, 1001, r"0017\.png, object 1001"),
    "over the edge": (annotation(bbox=[60, 10, 9, 9]), "clipped box", JSON, 1001, r"0017\.png, object 1001, .*the edge"),
    "duplicate box": (repeat("annotations", id=5), "duplicate box", JSON, 5, "object 5, .* corners as object 1001"),
    "class without objects": (
        lambda r: edit(r, lambda c: c["categories"].append({"id": 99, "name": "cow"})),
        "class without objects", None, None, "'cow'",
    ),
    "same picture twice": (
        lambda r: shutil.copy(r / "images/000000000010.png", r / "images/000000000017.png"),
        "identical pictures", "images/000000000017.png", None, r"000000000010\.png",
    ),
}  # fmt: skip
