"""Ids are identities: whatever number or text a data set calls its pictures and classes, each comes out as it went in."""

import contextlib
import json

import numpy as np
import pytest

from public.datasets.annotations import exact_ids
from public.datasets.coco import Coco
from public.datasets.combine import Joined, Split
from public.datasets.pictures import load_sample
from public.evaluation.coco import evaluate_coco, write_coco_json
from public.evaluation.curves import compute_curves
from public.evaluation.detections import ImageDetections
from tests.helpers.tiny_data import write_picture

BOXES = ((5, 5, 20, 20), (40, 20, 20, 20))  # x y width height, of the second and of the third picture

IDS = {
    "beside small ones": [1, 2**63 + 1, 2**63 + 2],
    "all large": [2**63, 2**63 + 1, 2**63 + 2],
    "beside negative ones": [-1, 2**63 + 1, 2**63 + 2],
    "beyond 64 bits": [7, 10**30, 10**30 + 1],
    "above floats": [2**53, 2**53 + 1, 2**53 + 2],
    "text with zeros at its end": ["a", "a\0", "a\0\0"],
    "digits as text": ["1", "01", "1.0"],
}


def write_set(root, image_ids, category_ids=(4, 9), changed=lambda content: None):
    """Three pictures of 48 x 64; the second holds a cat at BOXES[0], the third a dog at BOXES[1]."""
    content = {"images": [], "annotations": [], "categories": []}
    for number, image_id in enumerate(image_ids):
        name = f"{number}.png"
        write_picture(root / "images" / name, np.full((48, 64, 3), 40 * number, dtype=np.uint8))
        content["images"].append({"id": image_id, "file_name": name, "height": 48, "width": 64})
    for number, (box, category_id) in enumerate(zip(BOXES, category_ids), start=1):
        content["annotations"].append(
            {"id": number, "image_id": image_ids[number], "category_id": category_id, "bbox": box, "area": 400}
        )
    content["categories"] = [{"id": i, "name": name} for i, name in zip(category_ids, ("cat", "dog"))]
    changed(content)
    (root / "set.json").write_text(json.dumps(content))
    return Coco(annotations="set.json", images="images", classes=None, keep_empty_images=True)


def found(annotations, boxes):
    """One detection in each picture of `boxes`, {picture's file: (box, label)}."""
    detections = []
    for index in range(len(annotations)):
        box, label = boxes.get(annotations.image_name(index), (None, 0))
        corners = [] if box is None else [[box[0], box[1], box[0] + box[2], box[1] + box[3]]]
        boxes_of = np.array(corners, dtype=np.float32).reshape(-1, 4)
        scores, labels = np.full(len(boxes_of), 0.9, dtype=np.float32), np.full(len(boxes_of), label)
        detections.append(ImageDetections(index, boxes_of, scores, labels))
    return detections


@pytest.mark.parametrize("ids", IDS.values(), ids=IDS)
def test_image_ids_come_out_as_they_went_in(tmp_path, ids):
    data = write_set(tmp_path, ids)
    annotations = data.read(tmp_path)
    assert [annotations.image_id(i) for i in range(3)] == sorted(ids)
    assert all(type(annotations.image_id(i)) is type(ids[0]) for i in range(3))
    part = annotations.take([2, 1], "two").limit(1)
    assert part.image_ids.tolist() == [sorted(ids)[2]] == [load_sample(part, 0).image_id]
    joined = Joined(sets=(data,)).read(tmp_path)
    assert joined.image_ids.tolist() == [f"0:{image_id}" for image_id in sorted(ids)]
    both = []
    for part in ("train", "val"):
        with contextlib.suppress(ValueError):  # one of the parts may be empty
            split = Split(data=data, part=part, val_fraction=0.5, seed=1)
            both += split.read(tmp_path).image_ids.tolist()
    assert sorted(both) == sorted(ids)
    assert annotations.fingerprint() == data.read(tmp_path).fingerprint()
    assert annotations.fingerprint() != annotations.take([0, 2, 1], "another order").fingerprint()


@pytest.mark.parametrize("ids", IDS.values(), ids=IDS)
def test_metrics_and_results_tell_every_picture_from_every_other(tmp_path, ids):
    annotations = write_set(tmp_path, ids).read(tmp_path)
    right = found(annotations, {"1.png": (BOXES[0], 0), "2.png": (BOXES[1], 1)})
    exchanged = found(annotations, {"2.png": (BOXES[0], 0), "1.png": (BOXES[1], 1)})
    assert evaluate_coco(annotations, right)["AP"] == pytest.approx(1)
    assert evaluate_coco(annotations, exchanged)["AP"] == 0
    write_coco_json(tmp_path / "results.json", annotations, right)
    rows = json.loads((tmp_path / "results.json").read_text())
    assert {(row["image_id"], row["category_id"]) for row in rows} == {(ids[1], 4), (ids[2], 9)}


@pytest.mark.parametrize("category_ids", [(2**63 + 1, 2**63 + 2), (-3, 2**64), (2**53, 2**53 + 1), ("a", "a\0")])
def test_category_ids_of_any_size_tell_the_classes_apart(tmp_path, category_ids):
    annotations = write_set(tmp_path, [1, 2, 3], category_ids).read(tmp_path)
    assert annotations.category_ids == category_ids
    half_right = found(annotations, {"1.png": (BOXES[0], 0), "2.png": (BOXES[1], 0)})
    assert evaluate_coco(annotations, half_right)["class_AP"] == {"cat": pytest.approx(1), "dog": 0}
    assert compute_curves(annotations, half_right).best  # which looks classes up in pycocotools' arrays
    write_coco_json(tmp_path / "results.json", annotations, half_right)
    rows = json.loads((tmp_path / "results.json").read_text())
    assert {row["category_id"] for row in rows} == {category_ids[0]}


def test_a_reference_by_a_float_that_may_mean_several_ids_is_refused(tmp_path):
    def refer(value):
        return lambda content: content["annotations"][0].update(image_id=value)

    ids = [1, 2**53, 2**53 + 1]
    with pytest.raises(ValueError, match=r"set\.json: annotation 1 has image_id 9007199254740992\.0"):
        write_set(tmp_path, ids, changed=refer(float(2**53))).read(tmp_path)
    assert write_set(tmp_path, ids, changed=refer(1.0)).read(tmp_path).offsets.tolist() == [0, 1, 1, 2]


def test_ids_that_numpy_holds_keep_their_arrays():
    """So that the fingerprints of sets that were right stay what they were."""
    assert exact_ids([3, 1]).dtype == np.int64
    assert exact_ids(["b", "aa"]).dtype == np.dtype("<U2")
    assert exact_ids([0, 2**63]).dtype == exact_ids([2**63]).dtype == object
