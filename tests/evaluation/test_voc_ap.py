"""The Pascal VOC metric: against a reference's numbers, a literal second implementation, and closed forms.

VOC writes a box as its first and its last pixel; the project stores the edges of those pixels.  `stored` is the bridge.
"""

import json

import numpy as np
import pytest

from public.datasets.annotations import Annotations
from public.datasets.voc import Voc
from public.evaluation import voc
from public.evaluation.detections import ImageDetections
from public.evaluation.voc import average_precision, evaluate_voc
from tests.helpers.places import FIGURES, SHARED

SMALL = FIGURES / "voc_ap_small.json"
ORACLE = SHARED / "oracles" / "voc_ap.json"


def stored(boxes):
    """xmin ymin xmax ymax with both pixels inside, as edges x1 y1 x2 y2."""
    return np.array(boxes, dtype=np.float64).reshape(-1, 4) - [1, 1, 0, 0]


def make_annotations(num_images, class_names, objects):
    """objects: [image, label, box in VOC's pixels, difficult], by image."""
    counts = np.bincount([row[0] for row in objects], minlength=num_images)
    boxes = stored([row[2] for row in objects])
    image_ids = [str(i) for i in range(num_images)]
    return Annotations(
        image_root="", image_names=[f"{image_id}.jpg" for image_id in image_ids], image_ids=image_ids,
        heights=[240] * num_images, widths=[320] * num_images, offsets=np.concatenate([[0], np.cumsum(counts)]),
        boxes=boxes, labels=[row[1] for row in objects], difficult=[row[3] for row in objects],
        crowd=[False] * len(objects), areas=np.ones(len(objects)), class_names=class_names,
        category_ids=range(1, len(class_names) + 1), use_difficult=True, description="made",
    )  # fmt: skip


def make_detections(num_images, rows):
    """rows: [image, label, box in VOC's pixels, score]."""
    by_image = [[row for row in rows if row[0] == i] for i in range(num_images)]
    return [
        ImageDetections(
            i,
            stored([row[2] for row in chosen]).astype(np.float32),
            np.array([row[3] for row in chosen], dtype=np.float32),
            np.array([row[1] for row in chosen], dtype=np.int64),
        )
        for i, chosen in enumerate(by_image)
    ]


# Against a reference


@pytest.mark.parametrize("method", ["area", "11point"])
@pytest.mark.parametrize("threshold", [50, 75])
def test_one_class_equals_the_reference(threshold, method):
    content = json.loads(SMALL.read_text())
    annotations = make_annotations(
        content["num_images"], ("dog",), [[r[0], 0, r[1:5], r[5]] for r in content["objects"]]
    )
    detections = make_detections(content["num_images"], [[r[0], 0, r[1:5], r[5]] for r in content["detections"]])
    metrics = evaluate_voc(annotations, detections, iou_threshold=threshold / 100, method=method)
    assert metrics["AP"] == pytest.approx(content["ap"][f"iou{threshold}"][method], rel=0, abs=1e-9)


@pytest.mark.skipif(not ORACLE.is_file(), reason="needs ../shared/oracles/voc_ap.json, which is not here")
@pytest.mark.parametrize("method", ["area", "11point"])
@pytest.mark.parametrize("threshold", [50, 75])
def test_all_classes_equal_the_reference(threshold, method):
    content = json.loads(ORACLE.read_text())
    names, images = tuple(content["classes"]), list(content["images"])
    objects = [
        [images.index(image), names.index(item["name"]), item["bbox"], item["difficult"]]
        for image, items in content["images"].items()
        for item in items
    ]
    rows = [[images.index(d["image"]), names.index(d["class"]), d["bbox"], d["score"]] for d in content["detections"]]
    annotations = make_annotations(len(images), names, objects)

    metrics = evaluate_voc(
        annotations, make_detections(len(images), rows), iou_threshold=threshold / 100, method=method
    )

    expected = dict(content["ap"][f"iou{threshold}"][method])
    assert metrics["AP"] == pytest.approx(expected.pop("mean"), rel=0, abs=1e-9)
    assert metrics["class_AP"] == pytest.approx(expected, rel=0, abs=1e-9)


# Against a second implementation: one detection after the other, as the challenge describes it, in VOC's pixels


def literal_ap(objects, rows, threshold, method):
    num_to_find = sum(not row[3] for row in objects)
    if num_to_find == 0:
        return None
    is_taken = [False] * len(objects)
    num_right = num_wrong = 0
    curve = []
    for image, _, box, _ in sorted(rows, key=lambda row: -np.float32(row[3])):
        overlaps = [literal_iou(box, row[2]) if row[0] == image else -1.0 for row in objects]
        best = int(np.argmax(overlaps)) if objects else -1
        if overlaps[best] > threshold:
            if objects[best][3]:
                continue
            num_wrong += is_taken[best]
            num_right += not is_taken[best]
            is_taken[best] = True
        else:
            num_wrong += 1
        curve.append((num_right / num_to_find, num_right / (num_right + num_wrong)))
    if method == "11point":
        return sum(max([p for r, p in curve if r >= level / 10], default=0.0) for level in range(11)) / 11
    area, before = 0.0, 0.0
    for i, (recall, _) in enumerate(curve):
        area += (recall - before) * max(p for _, p in curve[i:])
        before = recall
    return area


def literal_iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    if width <= 0 or height <= 0:
        return 0.0
    area_a, area_b = ((box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b))
    return width * height / (area_a + area_b - width * height)


def crowded(rng, num_images=8, num_classes=3):
    """Whole-pixel boxes that overlap each other; doubled detections; difficult objects; equal scores over images."""
    objects, rows = [], []
    for image in range(num_images - 1):  # the last image is empty
        for _ in range(rng.integers(1, 12)):
            x, y = rng.integers(1, 100, 2).tolist()
            width, height = rng.integers(8, 60, 2).tolist()
            label = int(rng.integers(num_classes - 1))  # the last class has no object
            objects.append([image, label, [x, y, x + width, y + height], bool(rng.random() < 0.3)])
            for _ in range(rng.integers(0, 4)):
                box = (np.array(objects[-1][2]) + rng.integers(-6, 7, 4)).tolist()
                rows.append([image, int(rng.choice([label, 2])), box, round(float(rng.random()), 2)])
    rows.append([num_images - 1, 0, [5, 5, 50, 50], 0.99])
    return objects, rows


@pytest.mark.parametrize("method", ["area", "11point"])
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("seed", range(4))
def test_crowded_images_equal_a_literal_implementation(seed, threshold, method, monkeypatch):
    objects, rows = crowded(np.random.default_rng(seed))
    annotations, detections = make_annotations(8, ("a", "b", "c"), objects), make_detections(8, rows)
    expected = {
        name: literal_ap([o for o in objects if o[1] == k], [r for r in rows if r[1] == k], threshold, method)
        for k, name in enumerate("abc")
    }

    metrics = evaluate_voc(annotations, detections, iou_threshold=threshold, method=method)

    assert expected.pop("c") is metrics["class_AP"]["c"] is None
    assert {name: metrics["class_AP"][name] for name in "ab"} == pytest.approx(expected, rel=0, abs=1e-12)
    assert metrics["AP"] == pytest.approx((expected["a"] + expected["b"]) / 2, rel=0, abs=1e-12)
    monkeypatch.setattr(voc, "_BLOCK", 3)  # neither small blocks nor the order of the images change the result
    assert evaluate_voc(annotations, detections[::-1], iou_threshold=threshold, method=method) == metrics


# Closed forms


def test_curve_of_right_wrong_right():
    """Recall 0.5, 0.5, 1 at precision 1, 1/2, 2/3: area 1/2 + 1/3; six levels at 1 and five at 2/3."""
    recall, precision = np.array([0.5, 0.5, 1.0]), np.array([1, 1 / 2, 2 / 3])
    assert average_precision(recall, precision, "area") == pytest.approx(5 / 6)
    assert average_precision(recall, precision, "11point") == pytest.approx((6 + 5 * 2 / 3) / 11)


@pytest.mark.parametrize("num_found", range(11))
def test_a_recall_level_that_is_reached_exactly_counts(num_found):
    """k of 10 objects found reach the levels 0, 0.1, ..., k / 10.  Multiples of 0.1 in floating point miss 0.3."""
    recall = np.arange(1, num_found + 1) / 10
    expected = (num_found + 1) / 11 if num_found else 0.0
    assert average_precision(recall, np.ones(num_found), "11point") == pytest.approx(expected)


BOX, OTHER = [10, 10, 50, 50], [200, 100, 250, 150]


@pytest.mark.parametrize("method", ["area", "11point"])
def test_difficult_objects_are_neither_right_nor_wrong(method):
    rows = [[0, 0, BOX, 0.9], [0, 0, BOX, 0.8], [0, 0, OTHER, 0.7]]  # two hits of the difficult one come first
    annotations = make_annotations(1, ("a",), [[0, 0, BOX, True], [0, 0, OTHER, False]])
    assert evaluate_voc(annotations, make_detections(1, rows), method=method)["AP"] == pytest.approx(1.0)
    only_difficult = make_annotations(1, ("a",), [[0, 0, BOX, True]])
    assert evaluate_voc(only_difficult, make_detections(1, rows), method=method) == {
        "AP": None,
        "class_AP": {"a": None},
    }


def test_crowds_are_left_out_like_difficult_objects():
    annotations = make_annotations(1, ("a",), [[0, 0, BOX, False], [0, 0, OTHER, False]])
    detections = make_detections(1, [[0, 0, BOX, 0.9], [0, 0, BOX, 0.85], [0, 0, OTHER, 0.8]])
    annotations.crowd = np.array([True, False])
    assert evaluate_voc(annotations, detections, method="area")["AP"] == pytest.approx(1.0)


def test_a_second_detection_of_an_object_is_wrong():
    annotations = make_annotations(1, ("a",), [[0, 0, BOX, False], [0, 0, OTHER, False]])
    rows = [[0, 0, BOX, 0.9], [0, 0, BOX, 0.8], [0, 0, OTHER, 0.7]]
    metrics = evaluate_voc(annotations, make_detections(1, rows), method="area")
    assert metrics["AP"] == pytest.approx(5 / 6)  # right, wrong, right


@pytest.mark.parametrize("first_is_difficult", [False, True])
def test_of_two_objects_that_are_overlapped_alike_the_first_counts(first_is_difficult):
    objects = [[0, 0, BOX, first_is_difficult], [0, 0, BOX, not first_is_difficult]]
    metrics = evaluate_voc(make_annotations(1, ("a",), objects), make_detections(1, [[0, 0, BOX, 0.9]]), method="area")
    assert metrics["AP"] == (0.0 if first_is_difficult else 1.0)  # left out, or right


def test_the_threshold_itself_is_not_enough():
    annotations = make_annotations(1, ("a",), [[0, 0, [1, 1, 10, 10], False]])
    half = make_detections(1, [[0, 0, [1, 1, 10, 5], 0.9]])  # 50 of 100 pixels
    assert evaluate_voc(annotations, half, iou_threshold=0.5, method="area")["AP"] == 0
    assert evaluate_voc(annotations, half, iou_threshold=0.4999, method="area")["AP"] == pytest.approx(1.0)


def test_boxes_that_end_before_they_begin_overlap_nothing():
    annotations = make_annotations(1, ("a",), [[0, 0, BOX, False]])
    rows = [[0, 0, [50, 50, 10, 10], 0.9], [0, 0, [50, 10, 10, 50], 0.8]]
    assert evaluate_voc(annotations, make_detections(1, rows), method="area")["AP"] == 0


def test_no_detection_at_all():
    annotations = make_annotations(2, ("a", "b"), [[0, 0, BOX, False]])
    metrics = evaluate_voc(annotations, make_detections(2, []), method="area")
    assert metrics == {"AP": 0.0, "class_AP": {"a": 0.0, "b": None}}


def test_a_box_read_from_xml_is_compared_by_pixels(tmp_path):
    """Two of the 3 x 1 pixels of xml box 5..7 are found: IoU 2/3, while the bare differences would give 1/2."""
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (tmp_path / "set" / folder).mkdir(parents=True)
    (tmp_path / "set/ImageSets/Main/val.txt").write_text("one\n")
    (tmp_path / "set/JPEGImages/one.jpg").write_bytes(b"")
    (tmp_path / "set/Annotations/one.xml").write_text(
        "<annotation><size><width>20</width><height>20</height></size><object><name>a</name><difficult>0</difficult>"
        "<bndbox><xmin>5</xmin><ymin>3</ymin><xmax>7</xmax><ymax>4</ymax></bndbox></object></annotation>"
    )
    annotations = Voc(sources=("set/val",), classes=None, use_difficult=True, keep_empty_images=True).read(tmp_path)
    box = np.array([[4, 2, 6, 4]], dtype=np.float32)  # the edges of pixels 5 to 6 and 3 to 4
    detections = [ImageDetections(0, box, np.ones(1, np.float32), np.zeros(1, np.int64))]
    assert evaluate_voc(annotations, detections, iou_threshold=0.66, method="area")["AP"] == pytest.approx(1.0)
    assert evaluate_voc(annotations, detections, iou_threshold=0.67, method="area")["AP"] == 0


# Refusals


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match=r"'07'.*'area' and '11point'"):
        evaluate_voc(make_annotations(1, ("a",), [[0, 0, BOX, False]]), make_detections(1, []), method="07")


def test_a_missing_image_is_refused():
    annotations = make_annotations(2, ("a",), [[0, 0, BOX, False]])
    with pytest.raises(ValueError, match=r"Image 1 \(number 1\) has 0 entries"):
        evaluate_voc(annotations, make_detections(2, [])[:1], method="area")
