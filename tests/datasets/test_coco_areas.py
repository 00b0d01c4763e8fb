"""COCO's `area` and `ignore`: no object leaves AP by an area that cannot be, and none that is marked is trained on."""

import json

import numpy as np
import pytest

from public.datasets.coco import Coco
from public.datasets.combine import Joined
from public.evaluation.coco import evaluate_coco
from public.evaluation.detections import ImageDetections
from tests.helpers.tiny_data import write_picture

BOX = [4, 6, 20, 20]  # x y width height; 400 square pixels
DATA = Coco(annotations="set.json", images=".", classes=None, keep_empty_images=True)


def read(root, *changes, data=DATA, on_defect=None):
    """The set of one picture of 60 x 80 with an object for each change of `{bbox: BOX, area: 400}`; None takes a key out."""
    write_picture(root / "a.png", np.zeros((60, 80, 3), dtype=np.uint8))
    content = {"images": [{"id": 1, "file_name": "a.png", "height": 60, "width": 80}]}
    content["categories"] = [{"id": 1, "name": "cell"}]
    items = ({"bbox": BOX, "area": 400, "image_id": 1, "category_id": 1} | change for change in changes)
    content["annotations"] = [
        {"id": number} | {key: value for key, value in item.items() if value is not None}
        for number, item in enumerate(items, start=1)
    ]
    (root / "set.json").write_text(json.dumps(content))
    return data.read(root) if on_defect is None else data.read(root, on_defect=on_defect)


def metrics(annotations, box=BOX):
    corners = np.array([[box[0], box[1], box[0] + box[2], box[1] + box[3]]], dtype=np.float32)
    return evaluate_coco(annotations, [ImageDetections(0, corners, np.ones(1, np.float32), np.zeros(1, np.int64))])


@pytest.mark.parametrize("area", [3e10, 1e300, 2000, 485, 0, 0.0])
def test_an_area_that_cannot_be_is_named_and_replaced(tmp_path, area):
    defects = []
    annotations = read(tmp_path, {"area": area}, on_defect=defects.append)
    assert [(defect.kind, defect.is_error, defect.leaves_out) for defect in defects] == [
        ("impossible area", True, False)
    ]
    message = f"set.json, a.png, object 1, box [4.0, 6.0, 24.0, 26.0]: the area {area:g} cannot be"
    assert message in defects[0].message
    assert "the box's own, 400, is used instead" in defects[0].message
    assert annotations.areas.tolist() == [400]
    found = metrics(annotations)
    assert (found["AP"], found["APs"], found["APl"]) == (pytest.approx(1), pytest.approx(1), None)
    strict = read(tmp_path, {"area": area})  # goes on, and says so
    assert strict.corrected == [defects[0].message] == strict.take([0], "part").corrected
    assert "1 impossible areas replaced by those of the boxes" in strict.summary()
    assert Joined(sets=(DATA,)).read(tmp_path).corrected == strict.corrected


@pytest.mark.parametrize("area", [0.5, 17.25, 400, 441, 484])
def test_an_area_that_can_be_is_kept(tmp_path, area):
    """Outlines are rounded to whole pixels, so that their area may be larger than the box by a pixel on each side."""
    annotations = read(tmp_path, {"area": area})
    assert annotations.areas.tolist() == [area]
    assert annotations.corrected == []
    assert "impossible" not in annotations.summary()


def test_the_area_of_a_clipped_box_is_that_of_what_is_left(tmp_path):
    """Stated or not: what lies outside of the picture would take the object out of AP just so."""
    huge = {"bbox": [0, 0, 3e5, 3e5]}
    annotations = read(tmp_path, huge | {"area": None}, huge | {"area": 9e10})
    assert annotations.areas.tolist() == [60 * 80] * 2
    assert len(annotations.clipped) == 2
    assert annotations.corrected == []
    assert metrics(annotations, [0, 0, 80, 60])["AP"] is not None
    outline = read(tmp_path, {"bbox": [70, 50, 15, 15], "area": 60})  # of an object that is smaller than what is left
    assert outline.areas.tolist() == [60]


def test_stated_areas_stay_bit_for_bit(tmp_path):
    box = [0.1, 0.3, 10.7, 11.9]
    annotations = read(tmp_path, {"bbox": box, "area": 32.0}, {"bbox": box, "area": None})
    assert annotations.areas.tolist() == [32.0, 10.7 * 11.9]


@pytest.mark.parametrize("mark", [{"ignore": 1}, {"ignore": True}, {"iscrowd": 1}, {"iscrowd": 1, "ignore": 0}])
def test_what_is_marked_is_neither_trained_on_nor_counted(tmp_path, mark):
    annotations = read(tmp_path, mark, {"bbox": [40, 30, 10, 10], "area": 100, "ignore": 0})
    assert annotations.crowd.tolist() == [True, False]
    assert annotations.is_trained().tolist() == [False, True]
    assert "1 crowd" in annotations.summary()
    found = metrics(annotations, [40, 30, 10, 10])
    assert found["AP"] == pytest.approx(1)  # the marked object is not missed
    only = read(tmp_path, mark)
    assert metrics(only)["AP"] is None  # there is nothing to find


@pytest.mark.parametrize("value", ["1", 2, [], -1, 0.5])
def test_another_mark_is_refused(tmp_path, value):
    with pytest.raises(ValueError, match=r"set\.json: annotation 1 has ignore .*, not 0 or 1"):
        read(tmp_path, {"ignore": value})
