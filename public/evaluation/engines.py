"""COCO's precision and recall arrays, by the engine that is installed: hotcoco, else pycocotools, the reference.

hotcoco (https://pypi.org/project/hotcoco) computes the same metric in Rust, in a fraction of the time and memory, and takes
arrays.  `tests/evaluation/test_engines.py` holds every number of both arrays of the two equal, bit for bit.  It comes with
`pip install encore[fast-eval]`; a report says which of the two has computed its numbers.
"""

import contextlib
import functools
import importlib.metadata
import io
import os
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from public.evaluation.detections import ImageDetections

PROVEN = (1,), (1, 3)  # the major version of hotcoco that the test was run with, and the least that takes arrays


class CocoArrays(NamedTuple):
    """What an evaluation comes to.  T IoU thresholds, R recall levels, K classes, S ranges of area, L limits.

    precision: float64 (T, R, K, S, L), recall: float64 (T, K, S, L); -1 where there is nothing to find.
    """

    precision: np.ndarray
    recall: np.ndarray
    iou_thresholds: np.ndarray  # (T,)
    recall_levels: np.ndarray  # (R,)
    areas: list[str]  # S names
    limits: list[int]  # L, rising
    positions: list[int]  # where each class of the annotations, in their order, stands among the K


@functools.cache
def hotcoco_version() -> str | None:
    """The version of hotcoco that is installed and can be used; None: there is none."""
    try:
        version = importlib.metadata.version("hotcoco")
    except importlib.metadata.PackageNotFoundError:
        return None
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    return version if numbers[:1] == PROVEN[0] and numbers >= PROVEN[1] else None


_used_in: set[int] = set()  # the process in which hotcoco was used, whose pool of threads lives there alone


def uses_hotcoco() -> bool:
    """Whether this process can use it: not one that was forked from another that had used it, which would wait for ever."""
    return hotcoco_version() is not None and _used_in <= {os.getpid()}


def described() -> str:
    """Who computes COCO's numbers here, in words."""
    version = hotcoco_version()
    if not uses_hotcoco():
        return f"pycocotools {importlib.metadata.version('pycocotools')}"
    return f"hotcoco {version}, whose arrays equal those of pycocotools"


def coco_arrays(
    annotations, detections: Sequence[ImageDetections], *, limits: Sequence[int], all_areas_only: bool = False
) -> CocoArrays:
    """COCO's arrays of a detection set that is well formed, by the fastest engine.

    Args:
        annotations: an `Annotations`.
        limits: how many detections of a class count in an image.
        all_areas_only: leaves out the small, medium and large objects' own numbers, which takes a quarter of the time.
    """
    by = by_hotcoco if uses_hotcoco() else by_pycocotools
    return by(annotations, detections, limits=limits, all_areas_only=all_areas_only)


def by_hotcoco(
    annotations, detections: Sequence[ImageDetections], *, limits: Sequence[int], all_areas_only: bool = False
) -> CocoArrays:
    """The arrays by hotcoco, which has to be installed."""
    import hotcoco

    _used_in.add(os.getpid())
    image_ids, category_ids = np.array(ranks(annotations.image_ids)), np.array(ranks(annotations.category_ids))
    owners = np.repeat(np.arange(len(annotations)), np.diff(annotations.offsets))
    truth = hotcoco.COCO.from_arrays(
        [{"id": number} for number in image_ids.tolist()],
        [{"id": number, "name": str(number)} for number in category_ids.tolist()],
        image_ids[owners],
        category_ids[annotations.labels],
        boxes_xywh(annotations.boxes),
        area=annotations.areas,
        iscrowd=annotations.crowd,
    )
    counts = [len(image.scores) for image in detections]
    rows = np.zeros((sum(counts), 7))  # image, x, y, width, height, score, class
    if len(rows):
        rows[:, 0] = np.repeat(image_ids[[image.index for image in detections]], counts)
        rows[:, 1:5] = boxes_xywh(np.concatenate([image.boxes for image in detections]))
        rows[:, 5] = np.concatenate([image.scores for image in detections])
        rows[:, 6] = category_ids[np.concatenate([image.labels for image in detections])]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = hotcoco.COCOeval(truth, truth.load_res(rows), "bbox")
        _set(evaluation.params, limits, all_areas_only)
        evaluation.evaluate()
        evaluation.accumulate()
    return _arrays(evaluation, annotations)


def by_pycocotools(
    annotations, detections: Sequence[ImageDetections], *, limits: Sequence[int], all_areas_only: bool = False
) -> CocoArrays:
    """The arrays by pycocotools: the reference."""
    with contextlib.redirect_stdout(io.StringIO()):  # it reports its progress by print
        evaluation = COCOeval(_ground_truth(annotations), _results(annotations, detections), iouType="bbox")
        _set(evaluation.params, limits, all_areas_only)
        evaluation.evaluate()
        evaluation.accumulate()
    return _arrays(evaluation, annotations)


def _set(params: Any, limits: Sequence[int], all_areas_only: bool) -> None:
    params.maxDets = sorted(set(limits))
    if all_areas_only:
        params.areaRng, params.areaRngLbl = params.areaRng[:1], params.areaRngLbl[:1]


def _arrays(evaluation: Any, annotations) -> CocoArrays:
    params = evaluation.params
    position = {number: k for k, number in enumerate(np.asarray(params.catIds).tolist())}
    return CocoArrays(
        precision=np.asarray(evaluation.eval["precision"]),
        recall=np.asarray(evaluation.eval["recall"]),
        iou_thresholds=np.asarray(params.iouThrs),
        recall_levels=np.asarray(params.recThrs),
        areas=list(params.areaRngLbl),
        limits=list(params.maxDets),
        positions=[position[number] for number in ranks(annotations.category_ids)],
    )


def boxes_xywh(boxes: np.ndarray) -> np.ndarray:
    """x1 y1 x2 y2 (n, 4) to x1 y1 width height, float64 (n, 4)."""
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def result_rows(detections: Sequence[ImageDetections], image_ids: list, category_ids: list) -> list[dict]:
    """The rows of a COCO results file, image by image in the order of `detections`, with these ids."""
    return [
        {"image_id": image_ids[image.index], "category_id": category_ids[label], "bbox": box, "score": score}
        for image in detections
        for box, score, label in zip(boxes_xywh(image.boxes).tolist(), image.scores.tolist(), image.labels.tolist())
    ]


def ranks(ids) -> list[int]:
    """The rank of each id among all of them, from 1."""
    rank = {plain: number for number, plain in enumerate(sorted(plain_list(ids)), start=1)}
    return [rank[plain] for plain in plain_list(ids)]


def plain_list(ids) -> list:
    """Ids of an `Annotations` as a list of Python's own ints or strs, which JSON can hold, each as it is."""
    return ids.tolist() if isinstance(ids, np.ndarray) else list(ids)


def _ground_truth(annotations) -> COCO:
    """`annotations` as pycocotools holds a COCO annotation file."""
    image_ids, category_ids = ranks(annotations.image_ids), ranks(annotations.category_ids)
    image_of_object = np.repeat(np.arange(len(annotations)), np.diff(annotations.offsets))
    objects = zip(
        image_of_object.tolist(),
        annotations.labels.tolist(),
        boxes_xywh(annotations.boxes).tolist(),
        annotations.areas.tolist(),
        annotations.crowd.tolist(),
    )
    rows = [
        # numbers from 1: pycocotools takes a match with the object of number 0 for no match
        {
            "id": number,
            "image_id": image_ids[image],
            "category_id": category_ids[label],
            "bbox": box,
            "area": area,
            "iscrowd": int(crowd),
        }
        for number, (image, label, box, area, crowd) in enumerate(objects, start=1)
    ]
    return _indexed(annotations, rows)


def _results(annotations, detections: Sequence[ImageDetections]) -> COCO:
    """`detections` as pycocotools holds them after `COCO.loadRes`, without the outlines that boxes do not need."""
    rows = result_rows(detections, ranks(annotations.image_ids), ranks(annotations.category_ids))
    for number, row in enumerate(rows, start=1):
        row |= {"id": number, "area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0}
    return _indexed(annotations, rows)


def _indexed(annotations, rows: list[dict]) -> COCO:
    """A pycocotools data set of the images and classes of `annotations`, with `rows` as its objects."""
    coco = COCO()
    coco.dataset = {
        "images": [{"id": number} for number in ranks(annotations.image_ids)],
        "categories": [
            {"id": number, "name": name}
            for number, name in zip(ranks(annotations.category_ids), annotations.class_names)
        ],
        "annotations": rows,
    }
    coco.createIndex()
    return coco
