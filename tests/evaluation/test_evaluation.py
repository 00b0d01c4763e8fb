"""The COCO metric against pycocotools used in the ordinary way, from json files; results files; detection sets."""

import contextlib
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from public.datasets.annotations import Annotations
from public.datasets.coco import Coco
from public.evaluation.coco import COCO_METRICS, evaluate_coco, format_coco, write_coco_json
from public.evaluation.detections import ImageDetections, check_detections, format_class_table, merge
from tests.helpers.places import SHARED

needs_coco = pytest.mark.skipif(
    not (SHARED / "data/coco_val100").is_dir(), reason="needs ../shared/data/coco_val100, which is not here"
)


# The oracle: pycocotools, fed with files by code of its own


class Ordinary:
    """pycocotools' own evaluation of an annotation file and a results file."""

    def __init__(self, truth_path, results, image_ids=None, max_detections=(1, 10, 100)):
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            truth = COCO(str(truth_path))
            evaluation = COCOeval(truth, truth.loadRes(str(results)), "bbox")
            evaluation.params.maxDets = list(max_detections)
            if image_ids is not None:
                evaluation.params.imgIds = image_ids
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        self.stats = evaluation.stats.tolist()
        self.lines = output.getvalue().splitlines()[-12:]
        self.evaluation = evaluation

    def class_ap(self):
        """AP by the names of the classes, -1 where there is no object."""
        names = {c["id"]: c["name"] for c in self.evaluation.cocoGt.dataset["categories"]}
        result = {}
        for k, category_id in enumerate(self.evaluation.params.catIds):
            values = self.evaluation.eval["precision"][:, :, k, 0, -1]
            result[names[int(category_id)]] = values[values > -1].mean() if (values > -1).any() else -1.0
        return result


def write_results(path, detections, image_ids, category_ids):
    """A results file from a detection set, written without the code under test."""
    rows = []
    for image in detections:
        for (x1, y1, x2, y2), score, label in zip(image.boxes, image.scores, image.labels):
            x1, y1, x2, y2 = float(x1), float(y1), float(x2), float(y2)
            rows.append(
                {
                    "image_id": image_ids[image.index],
                    "category_id": category_ids[label],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "score": float(score),
                }
            )
    path.write_text(json.dumps(rows))
    return path


def assert_equal_to(metrics, ordinary):
    """Bit for bit: the same arrays were averaged in the same order."""
    ours = [-1.0 if metrics[name] is None else metrics[name] for name in COCO_METRICS]
    assert ours == ordinary.stats
    assert {name: -1.0 if ap is None else ap for name, ap in metrics["class_AP"].items()} == ordinary.class_ap()


# Made data


def make_json(rng, num_images=12):
    """A COCO annotation file, as a dict: ids with gaps, out of order; crowds; images without objects; whole pixels."""
    category_ids = [7, 3, 90, 12]
    image_ids = rng.permutation(1000)[:num_images].tolist()
    annotations = []
    for image_id in image_ids[:-3]:  # the last three images hold nothing
        for _ in range(rng.integers(1, 9)):
            width, height = (int(side) for side in np.exp(rng.uniform(np.log(8), np.log(250), 2)))
            x, y = int(rng.integers(0, 500 - width)), int(rng.integers(0, 400 - height))
            annotations.append(
                {
                    "id": len(annotations) + 100,
                    "image_id": image_id,
                    "category_id": int(rng.choice(category_ids[:3])),  # the last class has no object
                    "bbox": [x, y, width, height],
                    "area": width * height * 0.6,  # as of an outline
                    "iscrowd": int(rng.random() < 0.15),
                }
            )
    return {
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": 400, "width": 500} for i in image_ids],
        "annotations": annotations,
        "categories": [{"id": c, "name": f"class {c}"} for c in category_ids],
    }


def read(folder, content, classes=None):
    (folder / "truth.json").write_text(json.dumps(content))
    data = Coco(annotations="truth.json", images="images", classes=classes, keep_empty_images=True)
    return data.read(folder)


def make_detections(rng, annotations, num_random=20, skip_every=4):
    """Near the objects, doubled, of wrong classes, inside crowds and anywhere; tied scores; some images without any."""
    detections = []
    for index in range(len(annotations)):
        objects = annotations.objects(index)
        boxes = [objects.boxes + rng.normal(0, spread, objects.boxes.shape) for spread in (1, 4, 15)]
        labels = [objects.labels] * 3
        boxes.append(np.repeat(objects.boxes[objects.crowd], 5, axis=0) * rng.uniform(0.8, 1.0))
        labels.append(np.repeat(objects.labels[objects.crowd], 5))
        corners = rng.uniform(0, 300, (num_random, 2))
        boxes.append(np.concatenate([corners, corners + rng.uniform(5, 200, (num_random, 2))], axis=1))
        labels.append(rng.integers(0, len(annotations.class_names), num_random))
        boxes, labels = np.concatenate(boxes).astype(np.float32), np.concatenate(labels)
        if index % skip_every == 1:
            boxes, labels = boxes[:0], labels[:0]
        scores = np.round(rng.random(len(boxes)), 2).astype(np.float32)  # two digits: many are equal
        detections.append(ImageDetections(index, boxes, scores, labels))
    return detections


# Equality with the ordinary way


@pytest.mark.parametrize("seed", range(4))
def test_made_data_equals_pycocotools_from_files(seed, tmp_path, capsys):
    rng = np.random.default_rng(seed)
    annotations = read(tmp_path, make_json(rng))
    detections = make_detections(rng, annotations)
    results = write_results(
        tmp_path / "results.json", detections, annotations.image_ids.tolist(), annotations.category_ids
    )

    metrics = evaluate_coco(annotations, detections)

    assert capsys.readouterr().out == ""
    ordinary = Ordinary(tmp_path / "truth.json", results)
    assert_equal_to(metrics, ordinary)
    assert metrics["class_AP"]["class 12"] is None
    assert 0 < metrics["AP"] < 1
    assert format_coco(metrics).splitlines() == ordinary.lines


@needs_coco
def test_real_annotations_equal_pycocotools_from_files(tmp_path):
    """100 images of COCO val2017 with 5 crowds; nothing found in some; 130 detections of one class in one image."""
    data = Coco(annotations="annotations/instances_val2017.json", images="images/val2017", classes=None,
                keep_empty_images=True)  # fmt: skip
    annotations = data.read(SHARED / "data/coco_val100")
    assert annotations.crowd.sum() > 0
    rng = np.random.default_rng(0)
    detections = make_detections(rng, annotations)
    busiest = int(np.argmax(np.diff(annotations.offsets)))
    objects = annotations.objects(busiest)
    chosen = rng.integers(0, len(objects.boxes), 130)
    boxes = (objects.boxes[chosen] + rng.normal(0, 6, (130, 4))).astype(np.float32)
    scores = rng.random(130).astype(np.float32)
    detections[busiest] = ImageDetections(busiest, boxes, scores, np.full(130, objects.labels[0]))
    image_ids = annotations.image_ids.tolist()
    results = write_results(tmp_path / "results.json", detections, image_ids, annotations.category_ids)

    metrics = evaluate_coco(annotations, detections)

    assert_equal_to(metrics, Ordinary(SHARED / "data/coco_val100/annotations/instances_val2017.json", results))


@needs_coco
@pytest.mark.skipif(not (SHARED / "weights/expected.json").is_file(), reason="needs ../shared/weights/expected.json")
@pytest.mark.parametrize("model", ["picodet_s_416_coco_lcnet", "yolox_nano"])
def test_detections_of_real_models_equal_pycocotools_from_files(model, tmp_path):
    expected = json.loads((SHARED / "weights/expected.json").read_text())
    truth_path = SHARED / "data/coco_val100/annotations/all310.json"
    content = json.loads(truth_path.read_text())
    chosen = sorted(image["id"] for image in expected["images"].values())
    content["images"] = [image for image in content["images"] if image["id"] in chosen]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in chosen]
    annotations = read(tmp_path, content)
    found_by_id = {expected["images"][name]["id"]: d for name, d in expected["models"][model]["detections"].items()}
    detections = [
        found(index, found_by_id[image_id]["boxes"], found_by_id[image_id]["scores"], found_by_id[image_id]["labels"])
        for index, image_id in enumerate(annotations.image_ids.tolist())
    ]
    rows = [
        {"image_id": image_id, "category_id": category_id, "score": score, "bbox": [x1, y1, x2 - x1, y2 - y1]}
        for image_id, d in found_by_id.items()
        for (x1, y1, x2, y2), score, category_id in zip(d["boxes"], d["scores"], d["category_ids"])
    ]
    results = tmp_path / "results.json"
    results.write_text(json.dumps(rows))  # in float64, from the oracle's own numbers

    assert_equal_to(evaluate_coco(annotations, detections), Ordinary(truth_path, results, image_ids=chosen))


def test_more_than_100_detections_may_be_counted_when_asked(tmp_path):
    rng = np.random.default_rng(3)
    annotations = read(tmp_path, make_json(rng))
    detections = make_detections(rng, annotations, num_random=600)
    results = write_results(
        tmp_path / "results.json", detections, annotations.image_ids.tolist(), annotations.category_ids
    )

    metrics = evaluate_coco(annotations, detections, max_detections=300)

    ordinary = Ordinary(tmp_path / "truth.json", results, max_detections=(1, 10, 300))
    # pycocotools' first number insists on 100, and so do we on AR100; the others follow the limit.
    follow = [name for name in COCO_METRICS if name not in ("AP", "AR100")]
    by_name = dict(zip(COCO_METRICS, ordinary.stats))
    assert [metrics[name] for name in follow] == [by_name[name] for name in follow]
    hundred = Ordinary(tmp_path / "truth.json", results)
    assert metrics["AR100"] == hundred.stats[list(COCO_METRICS).index("AR100")]
    assert metrics["AP75"] != hundred.stats[list(COCO_METRICS).index("AP75")]  # the case tells the limits apart
    assert "maxDets=300" in format_coco(metrics)


def test_fewer_than_100_detections_are_refused(tmp_path):
    annotations = read(tmp_path, make_json(np.random.default_rng(0)))
    with pytest.raises(ValueError, match="max_detections is 50"):
        evaluate_coco(annotations, [], max_detections=50)


def test_classes_in_another_order_than_their_numbers(tmp_path):
    rng = np.random.default_rng(6)
    annotations = read(tmp_path, make_json(rng), classes=("class 90", "class 3", "class 12", "class 7"))
    detections = make_detections(rng, annotations)
    results = write_results(tmp_path / "results.json", detections, annotations.image_ids.tolist(), (90, 3, 12, 7))
    assert_equal_to(evaluate_coco(annotations, detections), Ordinary(tmp_path / "truth.json", results))


# Closed forms


def one_image(boxes, **changes):
    boxes = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    settings = dict(
        image_root="", image_names=["a.jpg"], image_ids=["a"], heights=[100], widths=[100], offsets=[0, len(boxes)],
        boxes=boxes, labels=np.zeros(len(boxes), int), difficult=np.zeros(len(boxes), bool),
        crowd=np.zeros(len(boxes), bool), areas=np.prod(boxes[:, 2:] - boxes[:, :2], axis=1), class_names=("thing",),
        category_ids=(1,), use_difficult=True, description="one image",
    )  # fmt: skip
    return Annotations(**(settings | changes))


def found(index, boxes, scores=None, labels=None):
    boxes = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    scores = np.linspace(1, 0.5, len(boxes)) if scores is None else scores
    labels = np.zeros(len(boxes)) if labels is None else labels
    return ImageDetections(index, boxes, np.array(scores, dtype=np.float32), np.array(labels, dtype=np.int64))


def test_one_detection_with_an_iou_of_072():
    """It counts at 0.50, 0.55, ..., 0.70: five of ten thresholds.  The object is small: 10 x 10."""
    metrics = evaluate_coco(one_image([[0, 0, 10, 10]]), [found(0, [[0, 0, 10, 7.2]])])
    assert [metrics[name] for name in ("AP", "APs", "AR1", "AR100")] == pytest.approx([0.5] * 4)
    assert [metrics["AP50"], metrics["AP75"]] == pytest.approx([1.0, 0.0])
    assert metrics["APm"] is None
    assert metrics["ARl"] is None
    assert json.loads(json.dumps(metrics)) == metrics


def test_the_area_of_the_annotation_decides_the_size_of_an_object():
    annotations = one_image([[0, 0, 40, 40]], areas=[1000.0])  # the box is medium, the object small
    metrics = evaluate_coco(annotations, [found(0, [[0, 0, 40, 40]])])
    assert metrics["APs"] == pytest.approx(1.0)
    assert metrics["APm"] is None


def test_a_detection_inside_a_crowd_is_left_out():
    boxes = [[0, 0, 20, 20], [30, 30, 90, 90]]
    detections = [found(0, [[40, 40, 60, 60], [0, 0, 20, 20]])]  # the one in the crowd has the higher score
    assert evaluate_coco(one_image(boxes, crowd=[False, True]), detections)["AP"] == pytest.approx(1.0)
    assert evaluate_coco(one_image(boxes), detections)["AP"] < 0.5


def test_nothing_found_anywhere_is_zero_and_nothing_to_find_is_none():
    assert evaluate_coco(one_image([[0, 0, 10, 10]]), [found(0, [])])["AP"] == 0
    metrics = evaluate_coco(one_image([]), [found(0, [[0, 0, 10, 10]])])
    assert metrics["AP"] is None
    assert format_coco(metrics).count("-1.000") == 12


# Results files


def test_results_file_gives_pycocotools_the_same_numbers(tmp_path):
    rng = np.random.default_rng(5)
    annotations = read(tmp_path, make_json(rng))
    detections = make_detections(rng, annotations)
    write_coco_json(tmp_path / "found.json", annotations, detections[::-1])
    ordinary = Ordinary(tmp_path / "truth.json", tmp_path / "found.json")
    assert_equal_to(evaluate_coco(annotations, detections), ordinary)
    rows = json.loads((tmp_path / "found.json").read_text())
    assert len(rows) == sum(len(image.scores) for image in detections)
    assert {row["category_id"] for row in rows} == {3, 7, 12, 90}


def test_results_file_of_images_with_names(tmp_path):
    annotations = one_image([[0, 0, 10, 10]])
    write_coco_json(tmp_path / "found.json", annotations, [found(0, [[1, 2, 11, 22]], scores=[0.5])])
    assert json.loads((tmp_path / "found.json").read_text()) == [
        {"image_id": "a", "category_id": 1, "bbox": [1.0, 2.0, 10.0, 20.0], "score": 0.5}
    ]


def test_a_results_file_without_a_detection_is_an_empty_list_which_load_res_refuses(tmp_path):
    """What the docstring of write_coco_json says about pycocotools; should that be mended there, the words here go."""
    annotations = read(tmp_path, make_json(np.random.default_rng(0)))
    nothing = [found(index, []) for index in range(len(annotations))]
    write_coco_json(tmp_path / "found.json", annotations, nothing)
    assert json.loads((tmp_path / "found.json").read_text()) == []
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(tmp_path / "truth.json"))
        with pytest.raises(IndexError):
            truth.loadRes(str(tmp_path / "found.json"))
    assert evaluate_coco(annotations, nothing)["AP"] == 0


def test_a_full_disk_leaves_the_old_results_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "found.json"
    path.write_text("old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"found\.json could not be written.*No space left"):
        write_coco_json(path, one_image([]), [found(0, [])])
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["found.json"]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(OSError, match=r"nowhere.found\.json could not be written"):
        write_coco_json(tmp_path / "nowhere" / "found.json", one_image([]), [found(0, [])])


# Detection sets


def test_the_order_and_the_split_of_a_detection_set_do_not_matter(tmp_path):
    rng = np.random.default_rng(8)
    annotations = read(tmp_path, make_json(rng))
    detections = make_detections(rng, annotations)
    whole = evaluate_coco(annotations, detections)
    merged = merge([detections[1::3], detections[0::3], detections[2::3]])
    assert [image.index for image in merged] == list(range(len(annotations)))
    assert evaluate_coco(annotations, merged) == whole
    assert evaluate_coco(annotations, detections[::-1]) == whole


@pytest.mark.parametrize(
    ("parts", "message"),
    [([[0, 1], [1, 2]], "number 1 is there more than once"), ([[0, 3], [1]], "number 3 follows 1: some are missing")],
)
def test_merge_refuses_repeated_and_missing_images(parts, message):
    with pytest.raises(ValueError, match=message):
        merge([[found(index, []) for index in part] for part in parts])


def two_images():
    return one_image(
        [], image_names=["a.jpg", "b.jpg"], image_ids=["a", "b"], heights=[9, 9], widths=[9, 9], offsets=[0] * 3
    )


@pytest.mark.parametrize(
    ("detections", "message"),
    [
        ([found(0, [])], r"Image b \(number 1\) has 0 entries"),
        ([found(0, []), found(1, []), found(0, [])], r"Image a \(number 0\) has 2 entries"),
        ([found(0, []), found(1, []), found(2, [])], "image number 2, but the data set has 2 images"),
        ([found(0, []), found(1, [[0, 0, 1, np.nan]])], "Image b: some boxes or scores are NaN"),
        ([found(0, []), found(1, [[0, 0, 1, 1]], scores=[np.inf])], "Image b: some boxes or scores are NaN"),
        ([found(0, []), found(1, [[0, 0, 1, 1]], labels=[1])], r"Image b: labels from 1 to 1.* 1 classes"),
        ([found(0, []), found(1, [[0, 0, 1, 1]], labels=[-1])], "Image b: labels from -1 to -1"),
        ([found(0, []), found(1, [[0, 0, 1, 1]], scores=[])], "Image b: boxes, scores and labels have the shapes"),
    ],
)
def test_a_malformed_detection_set_is_refused(detections, message):
    for function in (check_detections, evaluate_coco, lambda a, d: write_coco_json("never", a, d)):
        with pytest.raises(ValueError, match=message):
            function(two_images(), detections)
    assert not Path("never").exists()


def test_class_table_holds_each_class_once():
    table = format_class_table({"class_AP": {"cat": 0.25, "hippopotamus": None, "dog": 1.0, "cow": 0.0}}, num_columns=3)
    lines = table.splitlines()
    assert len({line.index("|") for line in lines}) == 1  # the columns stand under each other
    words = table.replace("|", " ").split()
    assert words[:4] == ["class", "AP", "class", "AP"]
    assert [words[words.index(name) + 1] for name in ("cat", "hippopotamus", "dog", "cow")] == [
        "0.250",
        "-",
        "1.000",
        "0.000",
    ]
