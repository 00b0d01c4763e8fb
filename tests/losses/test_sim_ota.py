"""SimOTA against a slow second implementation, object by object, and its edges."""

import math

import pytest
import torch

from public.losses.assigners.assignment import top_counts_mask
from public.losses.assigners.sim_ota import SimOTAAssigner
from public.points import cell_points

NUM_CLASSES = 7
STRIDES = (8, 16, 32)
CPU = torch.device("cpu")
YOLOX = SimOTAAssigner(centre_radius=1.5, top_k=10, iou_weight=3.0)


def scene(seed: int, num_objects: int, size: int = 128) -> dict[str, torch.Tensor]:
    """Points, objects that overlap a lot, some of them in the padding, and predictions near some; in float64."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    level_sizes = tuple((size // stride, size // stride) for stride in STRIDES)
    points, strides = (x.double() for x in cell_points(level_sizes, STRIDES, offset=0.5, device=CPU))
    corners = rand(num_objects, 2) * size * 0.8 - 8
    reach = rand(len(points), 4) * 40 + 4
    return {
        "points": points,
        "strides": strides,
        "class_scores": rand(len(points), NUM_CLASSES),
        "predicted_boxes": torch.cat([points - reach[:, :2], points + reach[:, 2:]], dim=1),
        "boxes": torch.cat([corners, corners + 2 + rand(num_objects, 2) * size * 0.5], dim=1),
        "labels": torch.randint(0, NUM_CLASSES, (num_objects,), generator=generator),
    }


def iou_of(a: list[float], b: list[float]) -> float:
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    common = width * height
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def slow_sim_ota(points, strides, class_scores, predicted_boxes, boxes, labels) -> dict[int, tuple[int, float]]:
    """Positive point -> its object and their IoU."""
    points, strides, predicted = points.tolist(), strides.flatten().tolist(), predicted_boxes.tolist()
    near = []
    for left, top, right, bottom in boxes.tolist():
        x, y = (left + right) / 2, (top + bottom) / 2
        reaches = [1.5 * stride for stride in strides]
        near.append([abs(p[0] - x) < r and abs(p[1] - y) < r for p, r in zip(points, reaches)])
    candidates = [i for i in range(len(points)) if any(row[i] for row in near)]
    ious = [[iou_of(box, predicted[i]) for i in range(len(points))] for box in boxes.tolist()]
    costs: list[dict[int, float]] = []
    for g, label in enumerate(labels.tolist()):
        costs.append({})
        for i in candidates:
            entropy = sum(
                -math.log(p) if k == label else -math.log(1 - p) for k, p in enumerate(class_scores[i].tolist())
            )
            far = 0 if near[g][i] else 1e6
            costs[g][i] = entropy - 3 * math.log(ious[g][i] + 1e-8) + far
    claims = []
    for g in range(len(boxes)):
        best = sorted((ious[g][i] for i in candidates), reverse=True)[:10]
        count = max(int(sum(best)), 1)
        claims.append(sorted(candidates, key=lambda i: costs[g][i])[:count])
    result = {}
    for i in candidates:
        claimants = [g for g, claimed in enumerate(claims) if i in claimed]
        if not claimants:
            continue
        owner = claimants[0] if len(claimants) == 1 else min(range(len(boxes)), key=lambda g: costs[g][i])
        result[i] = (owner, ious[owner][i])
    return result


@pytest.mark.numeric
@pytest.mark.parametrize("num_objects", [1, 3, 12, 40])
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_loop(seed, num_objects):
    given = scene(seed, num_objects)
    assignment = YOLOX(**given)
    expected = slow_sim_ota(**given)
    assert expected
    positives = (assignment.labels != NUM_CLASSES).nonzero().squeeze(1).tolist()
    assert positives == sorted(expected)
    for point, (owner, iou) in expected.items():
        assert assignment.labels[point] == given["labels"][owner]
        assert torch.equal(assignment.boxes[point], given["boxes"][owner])
        assert assignment.scores[point].item() == pytest.approx(iou, abs=1e-12)


def test_the_scenes_hold_what_is_hard():
    """Conflicts between objects, and several points an object."""
    assignment = YOLOX(**scene(0, 40))
    boxes = assignment.boxes[assignment.labels != NUM_CLASSES]
    objects, counts = boxes.unique(dim=0, return_counts=True)
    assert len(objects) < 40, "some object lost all of its points to others"
    assert counts.max() > 1


@pytest.mark.parametrize("seed", range(6))
def test_an_object_far_from_all_points_takes_one_of_another_object(seed):
    """Its cost is 1e6 higher, but a point that nobody else claims has no better object; as the original does it."""
    given = scene(seed, 4)
    given["boxes"][0] = torch.tensor([900.0, 900.0, 920.0, 920.0])
    assignment, expected = YOLOX(**given), slow_sim_ota(**given)
    owners = {point: owner for point, (owner, _) in expected.items()}
    positives = (assignment.labels != NUM_CLASSES).nonzero().squeeze(1).tolist()
    assert positives == sorted(owners)
    assert all(torch.equal(assignment.boxes[point], given["boxes"][owner]) for point, owner in owners.items())
    assert seed != 0 or 0 in owners.values()


def test_of_equal_costs_the_first_point_is_taken():
    """One object in the middle of four cells, which all predict the same: it claims one, the first."""
    points, strides = cell_points(((4, 4),), (8,), offset=0.5, device=CPU)
    far_away = torch.tensor([[500.0, 500.0, 501.0, 501.0]])
    assignment = YOLOX(
        points=points,
        strides=strides,
        class_scores=torch.full((16, 2), 0.5),
        predicted_boxes=far_away.expand(16, 4),
        boxes=torch.tensor([[12.0, 12.0, 20.0, 20.0]]),
        labels=torch.tensor([1]),
    )
    assert (assignment.labels != 2).nonzero().flatten().tolist() == [5]
    assert assignment.scores.sum() == 0, "a prediction without any overlap has IoU 0"


def test_a_point_on_the_border_of_the_centre_square_is_outside():
    """The centre (16, 16) lies 12 pixels, 1.5 strides, from x = 4 and 28; and 11.9 from 4.1."""
    points = torch.tensor([[4.0, 16.0], [28.0, 16.0], [16.0, 28.0], [4.1, 16.0]])
    near = YOLOX._near_centre(points, torch.full((4, 1), 8.0), torch.tensor([[10.0, 10.0, 22.0, 22.0]]))
    assert near.tolist() == [[False, False, False, True]]


@pytest.mark.parametrize("box", [[900.0, 900.0, 920.0, 920.0], [-90.0, 3.0, -80.0, 9.0]])
def test_an_object_beyond_all_points_leaves_background(box):
    given = scene(1, 1) | {"boxes": torch.tensor([box], dtype=torch.float64)}
    assert (YOLOX(**given).labels == NUM_CLASSES).all()


def test_objects_and_predictions_without_area_are_no_mistake():
    given = scene(2, 3)
    given["boxes"][1, 2:] = given["boxes"][1, :2]
    given["predicted_boxes"][:, 2:] = given["predicted_boxes"][:, :2]
    assignment = YOLOX(**given)
    assert assignment.scores.isfinite().all()
    assert (assignment.labels != NUM_CLASSES).sum() > 0


def test_certain_scores_have_a_finite_cost():
    given = scene(3, 5)
    given["class_scores"] = given["class_scores"].round()
    costs = YOLOX._costs(given["class_scores"], given["labels"], torch.rand(5, 336), torch.rand(5, 336) > 0.5, None)
    assert costs.isfinite().all()


def test_fewer_points_than_top_k():
    points, strides = cell_points(((1, 1), (1, 2)), (8, 16), offset=0.5, device=CPU)
    given = {"points": points, "strides": strides, "class_scores": torch.full((3, 2), 0.3)}
    boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0], [1.0, 1.0, 9.0, 9.0]])
    assignment = YOLOX(predicted_boxes=boxes[:1].expand(3, 4), boxes=boxes, labels=torch.tensor([0, 1]), **given)
    assert set(assignment.labels.tolist()) <= {0, 1, 2}
    assert (assignment.labels != 2).any()


@pytest.mark.parametrize("seed", range(3))
def test_top_counts_mask_takes_the_first_of_equal_values(seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-4, 4, (30, 40), generator=generator).float()  # many ties
    counts = torch.randint(1, 11, (30, 1), generator=generator)
    expected = torch.zeros_like(values, dtype=torch.bool)
    for row, chosen in enumerate(values.tolist()):
        expected[row, sorted(range(40), key=lambda i: -chosen[i])[: int(counts[row])]] = True  # sorted() is stable
    assert torch.equal(top_counts_mask(values, counts, most=10), expected)
