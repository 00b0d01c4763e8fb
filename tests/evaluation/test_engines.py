"""hotcoco's arrays are pycocotools', and so is our matching, bit for bit; on made detections of every difficult kind.

The engines' test is skipped where hotcoco is not installed (`pip install "hotcoco>=1.3,<2"`).
"""

import os

import numpy as np
import pytest
from pycocotools.cocoeval import COCOeval

from public.datasets.annotations import Annotations
from public.evaluation import engines
from public.evaluation.coco import evaluate_coco
from public.evaluation.coco_matching import match_classes
from public.evaluation.curves import compute_curves
from public.evaluation.detections import ImageDetections

IOUS = (0.5, 0.75)


def made(seed=0, *, images=12, classes=4, ids=None, found=40, crowd=0.1, tied=False, whole=False):
    """Annotations and detections: crowds, objects of impossible areas, detections near objects and anywhere, of no size."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 15, images)
    sides = np.exp(rng.uniform(np.log(4), np.log(300), (counts.sum(), 2)))
    corners = rng.uniform(0, 320, (counts.sum(), 2))
    boxes = np.concatenate([corners, corners + sides], axis=1)
    labels = rng.integers(0, classes, counts.sum())
    annotations = Annotations(
        image_root="",
        image_names=[f"{i}.jpg" for i in range(images)],
        image_ids=list(range(7, 7 + images)) if ids is None else ids,
        heights=np.full(images, 640),
        widths=np.full(images, 640),
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        boxes=boxes.round() if whole else boxes,
        labels=labels,
        difficult=np.zeros(len(labels), bool),
        crowd=rng.random(len(labels)) < crowd,
        areas=np.where(rng.random(len(labels)) < 0.05, 2e10, sides.prod(axis=1) * 0.7),
        class_names=tuple(f"class {k}" for k in range(classes)),
        category_ids=tuple(rng.permutation(10 * classes)[:classes].tolist()),
        use_difficult=True,
        description="made",
    )
    return annotations, [_detections(rng, annotations, index, found, tied, whole) for index in rng.permutation(images)]


def _detections(rng, annotations, index, count, tied, whole):
    objects = annotations.objects(index)
    boxes = rng.uniform(0, 320, (count, 4))
    boxes[:, 2:] += boxes[:, :2]
    labels = rng.integers(0, len(annotations.class_names), count)
    if len(objects.boxes):
        near = rng.random(count) < 0.7
        chosen = rng.integers(0, len(objects.boxes), near.sum())
        boxes[near] = objects.boxes[chosen] + rng.normal(0, 3, (near.sum(), 4))
        labels[near] = np.where(rng.random(near.sum()) < 0.8, objects.labels[chosen], labels[near])
    boxes[:1, 2:] = boxes[:1, :2]  # of no size
    scores = rng.random(count)
    scores = scores.round(1) if tied else scores
    boxes = boxes.round() if whole else boxes
    return ImageDetections(int(index), boxes.astype(np.float32), scores.astype(np.float32), labels)


def nothing_found(annotations, detections):
    return annotations, [ImageDetections(d.index, *(values[:0] for values in d[1:])) for d in detections]


CASES = {
    "plain": lambda: made(0),
    "another": lambda: made(1),
    "equal scores": lambda: made(2, tied=True),
    "equal overlaps": lambda: made(3, tied=True, whole=True),
    "crowds": lambda: made(4, crowd=0.6),
    "more than a hundred of a class": lambda: made(5, images=3, classes=1, found=260, tied=True),
    "text as ids": lambda: made(6, ids=[f"{n:02d}/ü{n}" for n in range(12)]),
    "ids of 64 bits and beyond": lambda: made(7, ids=[2**53 + n for n in range(6)] + [2**63 + n for n in range(6)]),
    "one class": lambda: made(8, classes=1),
    "1,203 classes": lambda: made(9, images=3, classes=1203, found=60),
    "no object": lambda: (lambda a, d: (a.take([0], "empty"), d))(*_without_objects()),
    "nothing found": lambda: nothing_found(*made(10)),
    "one image": lambda: made(11, images=1, found=5),
}


def _without_objects():
    seed = next(seed for seed in range(100) if np.random.default_rng(seed).integers(0, 15, 2)[0] == 0)
    annotations, detections = made(seed, images=2)
    return annotations, [d for d in detections if d.index == 0]


@pytest.mark.skipif(engines.hotcoco_version() is None, reason="hotcoco is not installed")
@pytest.mark.parametrize("case", CASES)
def test_hotcoco_gives_the_arrays_of_pycocotools(case):
    annotations, detections = CASES[case]()
    for limits, all_areas_only in (((1, 10, 100, 250), False), ((100,), True)):
        ours, theirs = (
            by(annotations, detections, limits=limits, all_areas_only=all_areas_only)
            for by in (engines.by_hotcoco, engines.by_pycocotools)
        )
        for name in ("precision", "recall", "iou_thresholds", "recall_levels"):
            assert np.array_equal(getattr(ours, name), getattr(theirs, name)), name
        assert ours.areas == theirs.areas
        assert ours.limits == theirs.limits
        assert ours.positions == theirs.positions


def by_their_images(annotations, detections):
    """(label, score, is right at each IoU, counts at each IoU) of each detection, and objects a class: pycocotools'."""
    evaluation = COCOeval(engines._ground_truth(annotations), engines._results(annotations, detections), "bbox")
    evaluation.params.maxDets, evaluation.params.areaRng = [100], evaluation.params.areaRng[:1]
    evaluation.params.iouThrs = np.array(IOUS)
    evaluation.evaluate()
    label_of = {number: label for label, number in enumerate(engines.ranks(annotations.category_ids))}
    rows, counts = [], np.zeros(len(annotations.class_names), dtype=int)
    for image in filter(None, evaluation.evalImgs):
        label = label_of[image["category_id"]]
        counts[label] += np.count_nonzero(image["gtIgnore"] == 0)
        for number, score in enumerate(image["dtScores"]):
            is_right, is_ignored = image["dtMatches"][:, number] > 0, image["dtIgnore"][:, number]
            rows.append((label, score, *is_right.tolist(), *(~is_ignored.astype(bool)).tolist()))
    return sorted(rows), counts


@pytest.mark.parametrize("case", CASES)
def test_matching_is_that_of_pycocotools(case):
    annotations, detections = CASES[case]()
    rows, counts = by_their_images(annotations, detections)
    matched = match_classes(annotations, detections, ious=IOUS, max_detections=100)
    columns = (matched.labels, matched.scores, *matched.is_right, *matched.counts)
    assert sorted(zip(*(column.tolist() for column in columns))) == rows
    assert matched.num_objects.tolist() == counts.tolist()
    assert (np.diff(matched.labels) >= 0).all()


def test_without_hotcoco_the_reference_is_used(monkeypatch):
    monkeypatch.setattr(engines, "hotcoco_version", lambda: None)
    monkeypatch.setattr(engines, "by_hotcoco", None)
    assert engines.described().startswith("pycocotools 2.")
    annotations, detections = made(0)
    assert evaluate_coco(annotations, detections)["AP"] > 0.05
    assert compute_curves(annotations, detections).best[0] is not None


def test_a_forked_process_does_not_wait_for_threads_that_its_parent_has(monkeypatch):
    monkeypatch.setattr(engines, "hotcoco_version", lambda: "1.3.0")
    monkeypatch.setattr(engines, "_used_in", {os.getpid()})
    assert engines.uses_hotcoco()
    monkeypatch.setattr(engines, "_used_in", {os.getpid() + 1})
    monkeypatch.setattr(engines, "by_hotcoco", None)
    annotations, detections = made(0)
    assert engines.coco_arrays(annotations, detections, limits=(100,)).precision.shape[2] == 4
    assert engines.described().startswith("pycocotools")


@pytest.mark.parametrize(
    ("version", "is_used"), [("1.3.0", True), ("1.10.2", True), ("1.2.9", False), ("2.0.0", False), ("0.9", False)]
)
def test_only_releases_that_have_been_proven_are_used(monkeypatch, version, is_used):
    monkeypatch.setattr(engines.importlib.metadata, "version", lambda name: version)
    engines.hotcoco_version.cache_clear()
    assert engines.hotcoco_version() == (version if is_used else None)
    engines.hotcoco_version.cache_clear()
