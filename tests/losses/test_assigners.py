"""The assigners against slow second implementations that follow the papers object by object."""

import math
import statistics

import pytest
import torch

from public.losses.assigners import assignment as assignments
from public.losses.assigners.assignment import (
    image_by_image,
    padded_objects,
    parts_of_batch,
    points_inside,
    points_near_centre,
    top_k_mask,
)
from public.losses.assigners.atss import ATSSAssigner
from public.losses.assigners.task_aligned import TaskAlignedAssigner
from public.points import cell_points

NUM_CLASSES = 7
STRIDES = (32, 16, 8)
CPU = torch.device("cpu")


def scene(seed: int, num_objects: int, size: int = 128):
    """Points, cells, random objects that overlap a lot, and predictions that are near some of them; in float64."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    level_sizes = tuple((size // stride, size // stride) for stride in STRIDES)
    points, strides = (x.double() for x in cell_points(level_sizes, STRIDES, offset=0.5, device=CPU))
    cells = torch.cat([points - 2.5 * strides, points + 2.5 * strides], dim=1)
    corners = rand(num_objects, 2) * size * 0.6
    boxes = torch.cat([corners, corners + 8 + rand(num_objects, 2) * size * 0.5], dim=1)
    labels = torch.randint(0, NUM_CLASSES, (num_objects,), generator=generator)
    reach = rand(len(points), 4) * 40 + 4
    predicted_boxes = torch.cat([points - reach[:, :2], points + reach[:, 2:]], dim=1)
    class_scores = rand(len(points), NUM_CLASSES)
    return level_sizes, points, strides, cells, boxes, labels, predicted_boxes, class_scores


def iou_of(a: list[float], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    common = width * height
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def is_inside(point: list[float], box: list[float]) -> bool:
    return box[0] < point[0] < box[2] and box[1] < point[1] < box[3]


def settle(claims: list[set[int]], ious: list[list[float]], num_points: int) -> dict[int, int]:
    """Point -> object; a point with several claims goes to the highest IoU of all objects."""
    owner = {}
    for point in range(num_points):
        claimants = [g for g, claimed in enumerate(claims) if point in claimed]
        if len(claimants) == 1:
            owner[point] = claimants[0]
        elif claimants:
            owner[point] = max(range(len(claims)), key=lambda g: ious[g][point])
    return owner


def slow_atss(level_sizes, cells, boxes, predicted_boxes, top_k):
    """Point -> (object, score), by loops over objects and levels."""
    cells, boxes, predicted_boxes = cells.double().tolist(), boxes.double().tolist(), predicted_boxes.double().tolist()
    centres = [((c[0] + c[2]) / 2, (c[1] + c[3]) / 2) for c in cells]
    ious = [[iou_of(box, cell) for cell in cells] for box in boxes]
    claims = []
    for g, box in enumerate(boxes):
        middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        candidates, start = [], 0
        for height, width in level_sizes:
            level = range(start, start + height * width)
            # sorted() is stable: of equal distances the lower index comes first
            candidates += sorted(level, key=lambda i: sum((p - q) ** 2 for p, q in zip(centres[i], middle)))[:top_k]
            start += height * width
        values = [ious[g][i] for i in candidates]
        threshold = statistics.mean(values) + statistics.stdev(values)
        claims.append({i for i in candidates if ious[g][i] > threshold and is_inside(centres[i], box)})
    owner = settle(claims, ious, len(cells))
    return {i: (g, iou_of(boxes[g], predicted_boxes[i])) for i, g in owner.items()}


def is_near_centre(point: list[float], stride: float, box: list[float], radius: float) -> bool:
    middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    return math.dist(point, middle) / stride < radius


def slow_tal(points, strides, class_scores, boxes, labels, predicted_boxes, top_k, alpha, beta, radius):
    """Point -> (object, score), by loops over objects; `radius` as in TaskAlignedAssigner."""
    points, boxes, predicted_boxes = (
        points.double().tolist(),
        boxes.double().tolist(),
        predicted_boxes.double().tolist(),
    )
    ious = [[iou_of(box, predicted) for predicted in predicted_boxes] for box in boxes]
    metrics = [
        [class_scores[i, label].item() ** alpha * overlap**beta for i, overlap in enumerate(row)]
        for label, row in zip(labels.tolist(), ious)
    ]
    claims = []
    for g, box in enumerate(boxes):
        if radius is None:
            inside = [is_inside(point, box) for point in points]
        else:
            inside = [is_near_centre(point, stride, box, radius) for point, stride in zip(points, strides.tolist())]
        order = sorted(range(len(points)), key=lambda i: -metrics[g][i] * inside[i])
        claims.append({i for i in order[:top_k] if inside[i]})
    owner = settle(claims, ious, len(points))
    result = {}
    for i, g in owner.items():
        own = [j for j, h in owner.items() if h == g]
        best_metric, best_iou = max(metrics[g][j] for j in own), max(ious[g][j] for j in own)
        result[i] = (g, metrics[g][i] / (best_metric + 1e-9) * best_iou)
    return result


def check(assignment, expected: dict[int, tuple[int, float]], boxes, labels):
    positives = (assignment.labels != NUM_CLASSES).nonzero().squeeze(1).tolist()
    assert positives == sorted(expected)
    for point, (owner, score) in expected.items():
        assert assignment.labels[point] == labels[owner]
        assert torch.equal(assignment.boxes[point], boxes[owner])
        assert assignment.scores[point].item() == pytest.approx(score, abs=1e-9)
    assert assignment.scores.count_nonzero() <= len(positives)


@pytest.mark.numeric
@pytest.mark.parametrize("seed", range(8))
def test_atss_equals_the_loop(seed):
    level_sizes, _, _, cells, boxes, labels, predicted_boxes, _ = scene(seed, num_objects=1 + 3 * seed)
    assignment = ATSSAssigner(top_k=9)(
        cells=cells,
        level_sizes=level_sizes,
        predicted_boxes=predicted_boxes,
        boxes=boxes,
        labels=labels,
        num_classes=NUM_CLASSES,
    )
    expected = slow_atss(level_sizes, cells, boxes, predicted_boxes, top_k=9)
    assert expected, "the scene has no positive point, so it tests nothing"
    check(assignment, expected, boxes, labels)


@pytest.mark.numeric
@pytest.mark.parametrize("radius", [None, 2.0], ids=["inside", "near the centre"])
@pytest.mark.parametrize("seed", range(8))
def test_task_aligned_equals_the_loop(seed, radius):
    _, points, strides, _, boxes, labels, predicted_boxes, class_scores = scene(seed, num_objects=1 + 3 * seed)
    assigner = TaskAlignedAssigner(top_k=13, alpha=1.0, beta=6.0, centre_radius=radius)
    assignment = assigner(
        points=points,
        strides=strides,
        class_scores=class_scores,
        predicted_boxes=predicted_boxes,
        boxes=boxes,
        labels=labels,
    )
    strides = strides.squeeze(1)
    expected = slow_tal(points, strides, class_scores, boxes, labels, predicted_boxes, 13, 1.0, 6.0, radius)
    assert expected, "the scene has no positive point, so it tests nothing"
    check(assignment, expected, boxes, labels)


def test_the_scenes_hold_conflicts():
    """Else the comparisons above would not see how conflicts are settled."""
    level_sizes, _, _, cells, boxes, _, predicted_boxes, _ = scene(5, num_objects=16)
    alone = [slow_atss(level_sizes, cells, boxes[g : g + 1], predicted_boxes, top_k=9) for g in range(16)]
    points = [point for claims in alone for point in claims]
    assert len(points) > len(set(points))


def test_a_conflict_may_go_to_an_object_that_did_not_claim_the_point():
    """Objects 0 and 1 claim the point; object 2 is predicted best there but is full with better points."""
    points = torch.tensor([[10.0, 10.0], [12.0, 10.0]])
    predicted_boxes = torch.tensor([[0.0, 0.0, 20.0, 20.0], [0.0, 0.0, 20.0, 20.0]])
    boxes = torch.tensor([[0.0, 0.0, 11.0, 20.0], [0.0, 0.0, 11.5, 20.0], [0.0, 0.0, 20.0, 20.0]])
    class_scores = torch.tensor([[0.5, 0.5, 0.1], [0.5, 0.5, 0.9]])
    assignment = TaskAlignedAssigner(top_k=1, alpha=1.0, beta=6.0, centre_radius=None)(
        points=points,
        strides=torch.full((2, 1), 8.0),
        class_scores=class_scores,
        predicted_boxes=predicted_boxes,
        boxes=boxes,
        labels=torch.tensor([0, 1, 2]),
    )
    assert assignment.labels.tolist() == [2, 2]


@pytest.mark.numeric
@pytest.mark.parametrize("seed", range(4))
def test_images_of_a_batch_are_assigned_as_each_alone(seed):
    """Bit for bit, with other numbers of objects and none; the points are no multiple of what a CPU computes at once."""
    scenes = [scene(10 * seed + i, num_objects=(3, 0, 7, 1)[i], size=96) for i in range(4)]
    level_sizes, *shared = (x.float() if torch.is_tensor(x) else x for x in scenes[0][:4])
    points, strides, cells = shared
    assert len(points) % 16
    targets = [{"boxes": boxes.float(), "labels": labels} for _, _, _, _, boxes, labels, *_ in scenes]
    predicted_boxes = torch.stack([one[6].float() for one in scenes])
    class_scores = torch.stack([one[7].float() for one in scenes])
    static = ATSSAssigner(top_k=9)
    aligned = TaskAlignedAssigner(top_k=13, alpha=1.0, beta=6.0, centre_radius=None)

    def both(given, predicted_boxes, class_scores):
        given = given | {"predicted_boxes": predicted_boxes}
        yield static(cells=cells, level_sizes=level_sizes, num_classes=NUM_CLASSES, **given)
        yield aligned(points=points, strides=strides, class_scores=class_scores, **given)

    together = list(both(padded_objects(targets)._asdict(), predicted_boxes, class_scores))
    for i, target in enumerate(targets):
        for found, alone in zip(together, both(target, predicted_boxes[i], class_scores[i])):
            has_object = alone.objects >= 0
            assert has_object.any() == (len(target["labels"]) > 0)
            assert torch.equal(found.labels[i], alone.labels)
            assert torch.equal(found.scores[i], alone.scores)
            assert torch.equal(found.objects[i], alone.objects)
            assert torch.equal(found.boxes[i][has_object], alone.boxes[has_object])


@pytest.mark.numeric
def test_powers_of_an_image_do_not_depend_on_the_images_beside_it():
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(64, 7, 189, generator=generator)
    counts = torch.randint(8, (64,), generator=generator)
    powers = image_by_image(lambda own: own.pow(6.0), values, is_real=torch.arange(7) < counts[:, None])
    for own, power, count in zip(values, powers, counts.tolist()):
        assert torch.equal(power[:count], own[:count].clone().pow(6.0))


def test_a_batch_is_parted_where_its_pairs_are_too_many(monkeypatch):
    counts = [1, 0, 4, 4, 9, 0]

    def parts(most: int) -> list[list[int]]:
        monkeypatch.setattr(assignments, "MOST_PAIRS", most)
        return [counts[part] for part in parts_of_batch(counts, num_points=10)]

    assert parts(540) == [counts]
    assert parts(539) == [[1, 0, 4, 4, 9], [0]]
    assert parts(80) == [[1, 0], [4, 4], [9], [0]]
    assert parts(1) == [[1], [0], [4], [4], [9], [0]]


def test_image_without_objects_is_all_background():
    level_sizes, points, strides, cells, _, _, predicted_boxes, class_scores = scene(0, num_objects=1)
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    static = ATSSAssigner(top_k=9)(
        cells=cells, level_sizes=level_sizes, predicted_boxes=predicted_boxes, num_classes=NUM_CLASSES, **nothing
    )
    aligned = TaskAlignedAssigner(top_k=13, alpha=1.0, beta=6.0, centre_radius=None)(
        points=points, strides=strides, class_scores=class_scores, predicted_boxes=predicted_boxes, **nothing
    )
    for assignment in (static, aligned):
        assert assignment.labels.tolist() == [NUM_CLASSES] * len(points)
        assert assignment.scores.sum() == 0
        assert assignment.boxes.shape == (len(points), 4)


def test_atss_takes_all_cells_of_a_small_level():
    """At 64 pixels the deepest level has 4 cells, fewer than top_k; the loop takes what there is, too."""
    level_sizes, _, _, cells, boxes, labels, predicted_boxes, _ = scene(3, num_objects=5, size=64)
    assert level_sizes[0] == (2, 2)
    assignment = ATSSAssigner(top_k=9)(
        cells=cells,
        level_sizes=level_sizes,
        predicted_boxes=predicted_boxes,
        boxes=boxes,
        labels=labels,
        num_classes=NUM_CLASSES,
    )
    check(assignment, slow_atss(level_sizes, cells, boxes, predicted_boxes, top_k=9), boxes, labels)


@pytest.mark.parametrize("k", [1, 3, 10, 40, 100])
def test_top_k_mask_takes_the_first_of_equal_values(k):
    generator = torch.Generator().manual_seed(k)
    values = torch.randint(-4, 4, (30, 40), generator=generator).float()  # many ties
    expected = torch.zeros_like(values, dtype=torch.bool)
    for row, chosen in enumerate(values.tolist()):
        expected[row, sorted(range(40), key=lambda i: -chosen[i])[:k]] = True  # sorted() is stable
    assert torch.equal(top_k_mask(values, k), expected)


def test_a_point_on_the_border_is_not_inside():
    box = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    points = torch.tensor([[5.0, 5.0], [0.0, 5.0], [5.0, 10.0], [11.0, 5.0], [9.99, 0.01]])
    assert points_inside(points, box, margin=1e-9).tolist() == [[True, False, False, False, True]]


def test_near_the_centre_is_measured_in_strides_of_the_level():
    """(8, 6) lies 10 pixels from the centre: 2 strides of 5, which is not nearer than 2, but less than 2 strides of 6."""
    box = torch.tensor([[-40.0, -10.0, 40.0, 10.0]])
    points = torch.tensor([[8.0, 6.0], [8.0, 6.0], [0.0, 11.9], [0.0, 12.1]])
    radii = 2.0 * torch.tensor([5.0, 6.0, 6.0, 6.0])
    assert points_near_centre(points, box, radii=radii).tolist() == [[False, True, True, False]]
