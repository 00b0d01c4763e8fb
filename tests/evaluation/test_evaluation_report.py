"""Curves against evaluate_coco, matches against a second implementation and by closed form; the files of a report."""

import csv
import json

import cv2
import numpy as np
import pytest
import torch

from public.datasets.coco import Coco
from public.evaluation.coco import evaluate_coco
from public.evaluation.curves import best_point, compute_curves
from public.evaluation.detections import ImageDetections
from public.evaluation.matching import confusion_matrix, match_images, worst_first
from public.parallel import processes
from public.reports import evaluation_plots as plots
from public.reports.detection import CLASS_HEADER, IMAGE_HEADER, write_report
from public.reports.tables import format_table
from public.reports.worst_images import draw_matches
from public.runs.experiment import load_experiment
from public.test_scripts.evaluate import main
from tests.evaluation.test_evaluation import found, make_detections, make_json, one_image, read
from tests.helpers.tiny_data import TINY_CLASSES, write_coco, write_voc


def made(folder, seed=0, num_images=12):
    """Annotations with crowds, and detections with ties and of every kind of error; a fifth of the objects difficult."""
    rng = np.random.default_rng(seed)
    annotations = read(folder, make_json(rng, num_images))
    detections = make_detections(rng, annotations)
    for image in detections:
        is_renamed = rng.random(len(image.labels)) < 0.4
        image.labels[is_renamed] = rng.integers(0, 4, is_renamed.sum())
    annotations.difficult = rng.random(len(annotations.boxes)) < 0.2
    return annotations, detections


# Curves


@pytest.mark.parametrize("seed", range(3))
def test_curves_have_the_ap_of_evaluate_coco(seed, tmp_path):
    annotations, detections = made(tmp_path, seed)
    metrics = evaluate_coco(annotations, detections)
    curves = compute_curves(annotations, detections)

    assert [curve.name for curve in curves.classes] == list(annotations.class_names)
    assert {curve.name: curve.ap for curve in curves.classes} == pytest.approx(metrics["class_AP"], abs=1e-12)
    mean = curves.mean_precision()
    assert mean.shape == (2, 101)
    assert mean.mean(axis=1) == pytest.approx([metrics["AP50"], metrics["AP75"]], abs=1e-9)
    for i, name in enumerate(("AP50", "AP75")):
        ap = [curve.ap_at[i] for curve in curves.classes if curve.num_objects]
        assert np.mean(ap) == pytest.approx(metrics[name], abs=1e-9)
        assert ap == pytest.approx([c.precision[i].mean() for c in curves.classes if c.num_objects], abs=1e-12)
    empty = next(curve for curve in curves.classes if curve.name == "class 12")  # which has no object
    assert (empty.ap, empty.ap_at, empty.max_recall, empty.best) == (None, (None, None), None, (None, None))
    assert empty.num_detections > 0


def test_classes_in_another_order_than_their_numbers(tmp_path):
    rng = np.random.default_rng(3)
    annotations = read(tmp_path, make_json(rng), classes=("class 90", "class 3", "class 12", "class 7"))
    detections = make_detections(rng, annotations)
    curves = compute_curves(annotations, detections)
    counts = np.bincount(annotations.labels[~annotations.crowd], minlength=4).tolist()
    assert [curve.num_objects for curve in curves.classes] == counts
    assert {c.name: c.ap for c in curves.classes} == pytest.approx(evaluate_coco(annotations, detections)["class_AP"])


def at_least(detections, threshold):
    kept = [image.scores >= threshold for image in detections]
    return [ImageDetections(d.index, d.boxes[k], d.scores[k], d.labels[k]) for d, k in zip(detections, kept)]


def test_the_best_score_is_what_filtering_by_every_score_finds(tmp_path):
    """Each threshold is tried by leaving detections out and asking pycocotools again, for each class and for all."""
    annotations, detections = made(tmp_path, 1)
    curves = compute_curves(annotations, detections)
    thresholds = np.unique(np.concatenate([image.scores for image in detections]))[::4]
    thresholds = np.unique([*thresholds, *[np.float32(c.best[0].threshold) for c in curves.classes if c.best[0]]])
    table = {}  # threshold -> (right, kept, objects) of each class with objects
    for threshold in [*thresholds.tolist(), curves.best[0].threshold]:
        part = [c for c in compute_curves(annotations, at_least(detections, threshold)).classes if c.num_objects]
        right = np.array([c.max_recall * c.num_objects for c in part])
        table[threshold] = (right, np.array([c.num_detections for c in part]), np.array([c.num_objects for c in part]))

    with_objects = [curve for curve in curves.classes if curve.num_objects]
    for number, curve in enumerate(with_objects):
        right, kept, objects = (values[number] for values in table[curve.best[0].threshold])
        assert curve.best[0].precision == pytest.approx(right / kept)
        assert curve.best[0].recall == pytest.approx(right / objects)
        assert curve.best[0].f1 == pytest.approx(2 * right / (kept + objects))
        others = [2 * r[number] / (k[number] + o[number]) for r, k, o in table.values()]
        assert curve.best[0].f1 == pytest.approx(max(others))
    # "class 12" has no objects, but its detections are kept by the threshold of all classes
    right, kept, objects = table[curves.best[0].threshold]
    foreign = sum(
        (image.scores[image.labels == annotations.class_names.index("class 12")] >= curves.best[0].threshold).sum()
        for image in detections
    )
    assert curves.best[0].f1 == pytest.approx(2 * right.sum() / (kept.sum() + foreign + objects.sum()))


def test_the_best_point_by_closed_form():
    scores = np.array([0.9, 0.8, 0.8, 0.5])
    point = best_point(scores, np.array([True, True, False, True]), num_objects=4)
    assert point == pytest.approx((0.5, 3 / 4, 3 / 4, 3 / 4))  # 0.9 alone: 2 / 5, with both of 0.8: 4 / 7
    # equal scores are kept together: after the right one of 0.8 F1 would be 1
    assert best_point(scores[:3], np.array([True, True, False]), num_objects=2) == pytest.approx((0.8, 2 / 3, 1, 0.8))
    # of the same F1 (2 / 3 at 0.9, and at 0.1) the highest
    point = best_point(np.array([0.1, 0.9, 0.1, 0.1]), np.array([True, True, False, False]), num_objects=2)
    assert point.threshold == 0.9
    assert best_point(scores, np.zeros(4, dtype=bool), num_objects=4) is None
    assert best_point(scores, np.zeros(4, dtype=bool), num_objects=0) is None
    assert best_point(scores[:0], np.zeros(0, dtype=bool), num_objects=4) is None


# Matches


def confusion_by_hand(annotations, detections, threshold):
    """The rule of matching.py once more, in plain loops, with an IoU of its own; also (right, wrong, false, missed)."""
    num_classes = len(annotations.class_names)
    matrix = [[0] * (num_classes + 1) for _ in range(num_classes + 1)]
    counts = {}
    for image in detections:
        objects = annotations.objects(image.index)
        free = [n for n in range(len(objects.boxes)) if not (objects.crowd[n] or objects.difficult[n])]
        counts[image.index] = count = [0, 0, 0, 0]
        for d in sorted(range(len(image.scores)), key=lambda d: -image.scores[d]):
            if image.scores[d] < threshold:
                continue
            best, best_iou = None, 0.5
            for n in free:
                iou, _ = overlaps(image.boxes[d], objects.boxes[n])
                if iou > best_iou or (best is None and iou >= best_iou):
                    best, best_iou = n, iou
            if best is not None:
                free.remove(best)
                matrix[objects.labels[best]][image.labels[d]] += 1
                count[int(objects.labels[best] != image.labels[d])] += 1
                continue
            excused = False
            for n in range(len(objects.boxes)):
                iou, covered = overlaps(image.boxes[d], objects.boxes[n])
                excused |= bool(objects.crowd[n] and covered >= 0.5)
                excused |= bool(objects.difficult[n] and not objects.crowd[n] and iou >= 0.5)
            if not excused:
                matrix[num_classes][image.labels[d]] += 1
                count[2] += 1
        for n in free:
            matrix[objects.labels[n]][num_classes] += 1
            count[3] += 1
    return matrix, counts


def overlaps(box, other):
    """(IoU, share of `box` inside `other`)"""
    box, other = [float(v) for v in box], [float(v) for v in other]
    width = max(0.0, min(box[2], other[2]) - max(box[0], other[0]))
    height = max(0.0, min(box[3], other[3]) - max(box[1], other[1]))
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)]
    return width * height / (sum(areas) - width * height), width * height / areas[0]


@pytest.mark.parametrize("threshold", [0.0, 0.37, 0.8, 1.1])
@pytest.mark.parametrize("seed", range(3))
def test_matches_equal_a_second_implementation(seed, threshold, tmp_path):
    annotations, detections = made(tmp_path, seed)
    matches = match_images(annotations, detections[::-1], score_threshold=threshold)
    matrix = confusion_matrix(matches, len(annotations.class_names))
    expected, counts = confusion_by_hand(annotations, detections, threshold)

    assert matrix.tolist() == expected
    is_counted = ~(annotations.crowd | annotations.difficult)
    assert matrix[:-1].sum(axis=1).tolist() == np.bincount(annotations.labels[is_counted], minlength=4).tolist()
    kept = sum((~image.is_left_out).sum() for image in matches)
    assert matrix[:, :-1].sum() == kept
    if threshold == 0.0:
        assert kept < sum(len(image.scores) for image in detections)  # some are excused
        assert matrix[:-1, :-1].sum() > np.trace(matrix[:-1, :-1]) > 0
    for image in matches:
        right, wrong, false, missed = counts[image.index]
        found_counts = [image.is_right, image.is_wrong_class, image.is_false_positive, image.is_missed]
        assert [int(values.sum()) for values in found_counts] == [right, wrong, false, missed]
        assert image.num_errors == wrong + false + missed
        total = 2 * right + 2 * wrong + false + missed
        assert image.f1 == (2 * right / total if total else 1.0)


def test_a_scene_by_hand():
    """Two objects, a crowd and a difficult object; a detection for each line of the rule."""
    boxes = [[0, 0, 20, 20], [30, 0, 50, 20], [60, 0, 100, 40], [0, 60, 20, 80]]
    annotations = one_image(
        boxes, labels=[0, 1, 0, 1], crowd=[False, False, True, False], difficult=[False, False, False, True],
        class_names=("cat", "dog"), category_ids=(1, 2),
    )  # fmt: skip
    detections = [
        found(
            0,
            [
                [0, 0, 20, 19],  # on the cat, called dog: takes it, being the first
                [0, 0, 20, 20],  # on the cat, called cat, too late: a false positive
                [61, 1, 70, 10],  # in the crowd
                [0, 60, 20, 80],  # on the difficult one
                [30, 0, 50, 9],  # IoU 0.45 with the dog: a false positive, and the dog is missed
                [30, 0, 50, 20],  # right, but below the threshold
            ],
            scores=[0.9, 0.8, 0.7, 0.7, 0.6, 0.2],
            labels=[1, 0, 0, 0, 1, 1],
        )
    ]
    (image,) = match_images(annotations, detections, score_threshold=0.5)
    assert image.match.tolist() == [0, -1, -1, -1, -1]
    assert image.is_left_out.tolist() == [False, False, True, True, False]
    assert image.called.tolist() == [1, -1, -1, -1]
    assert image.is_missed.tolist() == [False, True, False, False]
    assert confusion_matrix([image], 2).tolist() == [[0, 1, 0], [0, 0, 1], [1, 1, 0]]
    assert (image.num_errors, image.f1) == (4, 0.0)
    (image,) = match_images(annotations, detections, score_threshold=0.2)
    assert confusion_matrix([image], 2).tolist() == [[0, 1, 0], [0, 1, 0], [1, 1, 0]]
    assert image.f1 == 2 / 6  # one right; four detections and two objects count


def test_an_object_that_is_taken_leaves_the_next_best_to_the_next_detection():
    """Two objects side by side, much overlapping; both detections lie nearer to the first."""
    annotations = one_image([[0, 0, 20, 20], [4, 0, 24, 20]])
    detections = [found(0, [[0, 0, 20, 20], [1, 0, 21, 20], [0, 0, 20, 20]], scores=[0.9, 0.8, 0.7])]
    (image,) = match_images(annotations, detections, score_threshold=0.5)
    assert image.match.tolist() == [0, 1, -1]
    assert (image.num_errors, image.f1) == (1, 4 / 5)


def test_the_worst_come_first(tmp_path):
    annotations, detections = made(tmp_path, 2)
    matches = match_images(annotations, detections, score_threshold=0.4)
    worst = worst_first(matches)
    assert {image.index for image in worst} == {image.index for image in matches if image.num_errors}
    keys = [(image.f1, -image.num_errors, image.index) for image in worst]
    assert keys == sorted(keys)
    perfect = match_images(one_image([[0, 0, 9, 9]]), [found(0, [[0, 0, 9, 9]])], score_threshold=0.5)
    assert worst_first(perfect) == []
    nothing = match_images(one_image([]), [found(0, [])], score_threshold=0.5)
    assert (nothing[0].f1, worst_first(nothing)) == (1.0, [])


# The report


def tiny(folder):
    """Eight small images in COCO layout, and detections with a missed object, a wrong class and a false positive."""
    write_coco(folder, annotations="truth.json", images="images", max_objects=3, seed=4)
    annotations = Coco(annotations="truth.json", images="images", classes=None, keep_empty_images=True).read(folder)
    rng = np.random.default_rng(0)
    detections = []
    for index in range(len(annotations)):
        objects = annotations.objects(index)
        labels = np.where(rng.random(len(objects.labels)) < 0.3, (objects.labels + 1) % 3, objects.labels)
        boxes = np.concatenate([objects.boxes, [[1, 1, 9, 9]]])[index % 2 :]
        scores = rng.uniform(0.3, 1, len(labels) + 1).astype(np.float32)[index % 2 :]
        detections.append(found(index, boxes, scores, np.append(labels, 0)[index % 2 :]))
    return annotations, detections


def read_csv(path):
    with open(path, newline="") as file:
        return list(csv.reader(file))


def test_the_files_of_a_report(tmp_path):
    annotations, detections = tiny(tmp_path)
    folder = tmp_path / "report"
    text = write_report(folder, annotations, detections, num_worst=2)

    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    pictures = {name for name in names if name.startswith("worst_images/")}
    assert len(pictures) == 2
    assert names - pictures == {
        "pr_curves.png", "confusion_matrix.png", "confusion_matrix.csv", "classes.csv", "worst_images.csv",
        "worst_images.jpg", "report.json",
    }  # fmt: skip
    assert all(cv2.imread(str(folder / n)) is not None for n in names if n.endswith((".png", ".jpg")))

    metrics = evaluate_coco(annotations, detections)
    header, *rows = read_csv(folder / "classes.csv")
    assert tuple(header) == CLASS_HEADER
    assert [row[0] for row in rows] == list(TINY_CLASSES)
    assert np.mean([float(row[header.index("AP50")]) for row in rows]) == pytest.approx(metrics["AP50"], abs=1e-9)
    assert np.mean([float(row[header.index("AP")]) for row in rows]) == pytest.approx(metrics["AP"], abs=1e-9)

    summary = json.loads((folder / "report.json").read_text())
    assert summary["score_threshold"] == summary["best_of_all_classes"]["IoU 0.50"]["threshold"]
    header, *rows = read_csv(folder / "confusion_matrix.csv")
    assert header[1:] == [row[0] for row in rows] == [*TINY_CLASSES, "background"]
    matrix = np.array([[int(cell) for cell in row[1:]] for row in rows])
    matches = match_images(annotations, detections, score_threshold=summary["score_threshold"])
    assert matrix.tolist() == confusion_matrix(matches, 3).tolist()
    totals = [summary[name] for name in ("right", "wrong_class", "missed", "false_positives")]
    fields = [int(sum(v.sum() for v in values)) for values in zip(*[
        (m.is_right, m.is_wrong_class, m.is_missed, m.is_false_positive) for m in matches
    ])]  # fmt: skip
    assert totals == fields
    assert summary["objects"] == np.count_nonzero(~annotations.crowd)

    header, *rows = read_csv(folder / "worst_images.csv")
    assert tuple(header) == IMAGE_HEADER
    assert [int(row[1]) for row in rows] == [annotations.image_id(m.index) for m in worst_first(matches)]
    assert {row[-1] for row in rows[:2]} == pictures
    assert all(row[-1] == "" for row in rows[2:])
    assert all(name in text for name in TINY_CLASSES)


def test_the_same_detections_give_the_same_bytes(tmp_path):
    annotations, detections = tiny(tmp_path)
    texts = [
        write_report(tmp_path / "a", annotations, detections),
        write_report(tmp_path / "b", annotations, detections[::-1]),
    ]
    assert texts[0] == texts[1]
    files = [{p.relative_to(tmp_path / n): p.read_bytes() for p in (tmp_path / n).rglob("*.*")} for n in "ab"]
    assert files[0] == files[1]


def test_pictures_of_an_earlier_report_are_removed_and_nothing_else(tmp_path):
    annotations, detections = tiny(tmp_path)
    write_report(tmp_path / "report", annotations, detections)
    mine = tmp_path / "report" / "worst_images" / "my notes.txt"
    mine.write_text("mine")
    assert len(list(mine.parent.glob("*.jpg"))) > 1
    perfect = [found(i, annotations.objects(i).boxes, None, annotations.objects(i).labels) for i in range(8)]
    perfect = [d._replace(scores=np.ones_like(d.scores)) for d in perfect]
    text = write_report(tmp_path / "report", annotations, perfect)
    assert [path.name for path in mine.parent.iterdir()] == ["my notes.txt"]
    assert not (tmp_path / "report" / "worst_images.jpg").exists()
    assert "0 of 8 images have an error" in text


def test_a_given_threshold_is_taken_and_said(tmp_path):
    annotations, detections = tiny(tmp_path)
    text = write_report(tmp_path, annotations, detections, score_threshold=0.625, num_worst=0)
    assert "score >= 0.625 (as given)" in text
    assert json.loads((tmp_path / "report.json").read_text())["score_threshold"] == 0.625


@pytest.mark.parametrize("boxes", [[], [[0, 0, 20, 20]]])
def test_nothing_found_and_nothing_to_find(boxes, tmp_path):
    cv2.imwrite(str(tmp_path / "a.jpg"), np.zeros((100, 100, 3), dtype=np.uint8))
    annotations = one_image(boxes, image_root=str(tmp_path))
    text = write_report(tmp_path / "report", annotations, [found(0, [])])
    assert "no detection is right, so no threshold is the best" in text
    matrix = read_csv(tmp_path / "report" / "confusion_matrix.csv")
    assert matrix[1] == ["thing", "0", str(len(boxes))]
    row = dict(zip(CLASS_HEADER, read_csv(tmp_path / "report" / "classes.csv")[1]))
    assert (row["AP"], row["best_score"]) == ("0.0" if boxes else "", "")


# Pictures


def test_errors_are_marked_where_they_are():
    """On a grey picture: a missed object and a false positive get a red disc, a wrong class an orange one."""
    boxes = [[0, 0, 60, 60], [100, 0, 160, 60], [200, 0, 260, 60]]
    annotations = one_image(boxes, labels=[0, 1, 1], class_names=("cat", "dog"), category_ids=(1, 2))
    detections = found(0, [boxes[0], boxes[1], [0, 120, 60, 180]], labels=[0, 0, 0])  # right, wrong class, false
    (matches,) = match_images(annotations, [detections], score_threshold=0.1)
    image = np.full((300, 300, 3), 128, dtype=np.uint8)
    picture = draw_matches(image, annotations, detections, matches, side=900)
    height = picture.shape[0] - 900  # of the titles
    right = picture.shape[1] - 900

    def color_at(left, x, y):
        """Beside the sign of the disc at the middle of the box around (x, y)."""
        return picture[height + 3 * y, left + 3 * x - 16].tolist()

    red, orange, grey = [214, 31, 31], [240, 130, 0], [128, 128, 128]
    assert [color_at(0, x, 30) for x in (30, 130, 230)] == [grey, orange, red]
    assert [color_at(right, x, 30) for x in (30, 130, 230)] == [grey, orange, grey]
    assert color_at(right, 30, 150) == red


def many_classes(num_classes):
    """One object of each class, all found but every third, with as many false positives as the class's number."""
    boxes = [[10.0 * k, 0.0, 10.0 * k + 8, 8.0] for k in range(num_classes)]
    annotations = one_image(
        boxes,
        labels=np.arange(num_classes),
        class_names=tuple(f"c{k}" for k in range(num_classes)),
        category_ids=tuple(range(1, num_classes + 1)),
    )
    labels = [k for k in range(num_classes) if k % 3]
    false = [k for k in labels for _ in range(k)]
    scores = [0.5] * len(labels) + [0.6] * len(false)
    found_boxes = [boxes[k] for k in labels] + [[0, 50 + k, 4, 54 + k] for k in false]
    return annotations, [found(0, found_boxes, scores, labels + false)]


def test_of_many_classes_the_best_and_the_worst_curves_are_named(tmp_path, figures):
    curves = compute_curves(*many_classes(40))
    plots.draw_pr_curves(tmp_path / "a.png", curves)
    texts = [text.get_text() for text in figures[0].axes[0].get_legend().get_texts()]
    assert [text.split()[0] for text in texts] == (
        ["mean", "c1", "c2", "c4", "c5", "c7", "c8", "lowest", "c0", "c3", "c6", "c9", "c12", "c15"]
    )
    ap = {curve.name: curve.ap_at[0] for curve in curves.classes}
    assert ap["c4"] == pytest.approx(1 / 5)
    assert "c4  AP 0.200, score 0.50" in texts
    drawn = [line for line in figures[0].axes[0].lines if len(line.get_xdata()) == 101]
    assert len(drawn) == 41
    zero = next(line for line in drawn if line.get_label() == "c0  AP 0.000")
    assert np.flatnonzero(np.isfinite(zero.get_ydata())).tolist() == [0]  # recall that is not reached is not drawn

    few = compute_curves(*many_classes(5))
    plots.draw_pr_curves(tmp_path / "b.png", few)
    texts = [text.get_text() for text in figures[1].axes[0].get_legend().get_texts()]
    assert [text.split()[0] for text in texts] == ["mean", "c0", "c1", "c2", "c3", "c4"]


def test_the_confusion_matrix_grows_with_its_classes_and_leaves_out_no_error(tmp_path, figures):
    sizes = []
    for num_classes in (3, 80, 200):
        matrix = np.diag(np.arange(1, num_classes + 2))
        matrix[-1, -1] = 0
        matrix[0, -1], matrix[num_classes - 1, 1] = 7, 1234
        path = tmp_path / f"{num_classes}.png"
        plots.draw_confusion_matrix(path, matrix, [f"c{k}" for k in range(num_classes)], "rule")
        sizes.append(cv2.imread(str(path)).shape[0])
        axes = figures[-1].axes[0]
        texts = [text.get_text() for text in axes.texts]
        assert "1234" in texts
        assert "7" in texts
        names = [label.get_text() for label in axes.get_yticklabels()][: len(axes.get_yticks())]
        assert names[0] == "c0"
        assert names[-2:] == [f"c{num_classes - 1}", "background (false)"]
        cell = axes.get_window_extent().width / len(names)
        widest = max(text.get_window_extent().width for text in axes.texts)
        assert widest < cell  # numbers stay in their cells
    assert sizes[0] < sizes[1] < sizes[2]
    assert len(names) == 151
    assert "150 of 200 classes" in figures[-1].texts[0].get_text()


# Tables


def test_tables():
    header, rows = ["name", "value"], [["a|b", 1.23456], ["c, d", None]]
    assert format_table(header, rows) == "name  value\na|b   1.235\nc, d      -"
    assert format_table(header, rows, "markdown").splitlines() == [
        "| name | value |", "| ---- | ----: |", "| a\\|b | 1.235 |", "| c, d |     - |",
    ]  # fmt: skip
    assert list(csv.reader(format_table(header, rows, "csv").splitlines())) == [
        header,
        ["a|b", "1.23456"],
        ["c, d", ""],
    ]
    with pytest.raises(ValueError, match="2 columns, and a row of 3 cells"):
        format_table(header, [[1, 2, 3]])
    with pytest.raises(ValueError, match="'html'; there are text, markdown, csv"):
        format_table(header, rows, "html")


# The command


@pytest.fixture
def weights(experiment_folder, tmp_path):
    """A checkpoint of the tiny experiment's untrained model."""
    torch.manual_seed(0)
    model = load_experiment(experiment_folder).config.detector.build_model()
    path = tmp_path / "some.pth"
    torch.save({"model": model.state_dict(), "class_names": list(TINY_CLASSES)}, path)
    return path


@pytest.fixture
def evaluate(monkeypatch, capsys):
    """The command in this process, without the modes that it sets for the whole process; what it printed, or its error."""

    def call(*arguments):
        monkeypatch.setattr(processes, "apply_modes", lambda config, device: None)
        monkeypatch.setattr("sys.argv", ["evaluate", *map(str, arguments), "--device", "cpu"])
        try:
            main()
        except SystemExit as end:
            return end.code
        return capsys.readouterr().out

    return call


def test_the_command_writes_beside_the_weights_what_it_says(weights, experiment_folder, evaluate, tmp_path):
    write_voc(tmp_path / "data", folder="tiny", split="val", num_images=4, seed=2)
    output = evaluate(experiment_folder, weights, "--data_root", tmp_path / "data", "--num_worst", 1)
    folder = tmp_path / "some_val_evaluation"
    assert f"written to {folder}" in output
    assert len(list((folder / "worst_images").glob("*.jpg"))) == 1
    assert isinstance(json.loads((tmp_path / "some_val_detections.json").read_text()), list)
    digits = [line for line in output.splitlines() if " @[ IoU=" in line]
    assert len(digits) == 12


def test_the_command_without_a_report_and_with_nothing_found(weights, experiment_folder, evaluate, tmp_path):
    config = experiment_folder / "config.py"
    config.write_text(config.read_text().replace("score_threshold=0.001", "score_threshold=0.999"))
    write_voc(tmp_path / "data", folder="tiny", split="val", num_images=2, seed=2)
    output = evaluate(experiment_folder, weights, "--data_root", tmp_path / "data", "--no_report")
    assert not (tmp_path / "some_val_evaluation").exists()
    assert json.loads((tmp_path / "some_val_detections.json").read_text()) == []
    assert "nothing was found in any image: the file is an empty list" in output


def test_weights_of_another_model_end_in_one_line(weights, experiment_folder, evaluate, tmp_path):
    config = experiment_folder / "config.py"
    config.write_text(config.read_text().replace("width=0.125", "width=0.25"))
    write_voc(tmp_path / "data", folder="tiny", split="val", num_images=2, seed=2)
    error = evaluate(experiment_folder, weights, "--data_root", tmp_path / "data")
    assert error.startswith(f"error: the weights of {weights} do not fit ")
    assert len(error.splitlines()) == 1
