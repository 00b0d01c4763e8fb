"""CenterNet's loss and decoder: closed forms, a heat map drawn object by object, crowded images, several processes."""

import math

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from public.decoders import create_decoder
from public.decoders.centernet import peaks
from public.families import published
from public.losses import centernet, create_loss
from public.losses.box import iou
from public.losses.focal import penalty_reduced_focal_loss
from public.losses.heatmap import draw_heatmaps, gaussian_radii
from public.models import create_model
from public.models.detectors.centernet import CenterNetOutputs
from public.protocols import Progress
from tests.helpers.numerics import assert_same_in_float64

NUM_CLASSES = 3
START = Progress(epoch=0, step=0, step_in_epoch=0, num_epochs=140, steps_per_epoch=1)
SIZE = (16, 16)  # of the map of 64 pixels
SOME = {
    "boxes": torch.tensor([[4.0, 6.0, 40.0, 50.0], [20.0, 8.0, 62.0, 30.0]]),
    "labels": torch.tensor([2, 0]),
}
NONE = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
NAMES = pytest.mark.parametrize("name", ["centernet", "centernet_r18_mmdet"])


def random_outputs(
    num_images: int, dtype: torch.dtype = torch.float32, scale: float = 1.0, size: tuple[int, int] = SIZE
) -> CenterNetOutputs:
    generator = torch.Generator().manual_seed(0)
    num_cells = size[0] * size[1]
    parts = [
        (torch.randn(num_images, num_cells, channels, generator=generator) * scale).to(dtype).requires_grad_()
        for channels in (NUM_CLASSES, 2, 2)
    ]
    return CenterNetOutputs(*parts, (size,))


def small_loss(name: str = "centernet", **changes):
    return create_loss(name, num_classes=NUM_CLASSES, **changes)


def random_objects(count: int, side: int, num_classes: int = NUM_CLASSES, seed: int = 0) -> dict[str, torch.Tensor]:
    """Boxes of all sizes within a square of `side` pixels."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator) * side * 0.9
    sides = 1 + torch.rand(count, 2, generator=generator) ** 3 * side / 2
    boxes = torch.cat([corners, torch.minimum(corners + sides, torch.tensor(float(side)))], dim=1)
    return {"boxes": boxes, "labels": torch.randint(num_classes, (count,), generator=generator)}


# ---------------------------------------------------------------------------------------------- terms


def test_penalty_reduced_focal_loss_and_gradient():
    """The paper's formula of probabilities, and its derivative by finite differences."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(15, 2, generator=generator, dtype=torch.float64).requires_grad_()
    targets = torch.rand(15, 2, generator=generator, dtype=torch.float64)
    targets[::5] = 1.0
    p = logits.sigmoid()
    expected = torch.where(targets == 1, -((1 - p) ** 2) * p.log(), -((1 - targets) ** 4) * p**2 * (1 - p).log())
    assert_same_in_float64(penalty_reduced_focal_loss(logits, targets, alpha=2.0, beta=4.0), expected)
    assert torch.autograd.gradcheck(lambda x: penalty_reduced_focal_loss(x, targets, alpha=2.0, beta=4.0), logits)


def test_terms_of_two_objects():
    """Every number worked out by hand: one object an image, centres at (11, 14) / 4 and (20, 19) / 4 cells."""
    targets = [
        {"boxes": torch.tensor([[4.0, 6.0, 18.0, 22.0]]), "labels": torch.tensor([1])},
        {"boxes": torch.tensor([[12.0, 15.0, 28.0, 23.0]]), "labels": torch.tensor([0])},
    ]
    outputs = random_outputs(2, torch.float64)
    terms = small_loss()(outputs, targets, START)
    first, second = 3 * 16 + 2, 4 * 16 + 5
    sizes, offsets = outputs.sizes_wh, outputs.offsets_xy
    size = (sizes[0, first] - torch.tensor([3.5, 4.0])).abs().sum() + (
        sizes[1, second] - torch.tensor([4.0, 2.0])
    ).abs().sum()
    offset = (offsets[0, first] - torch.tensor([0.75, 0.5])).abs().sum()
    offset += (offsets[1, second] - torch.tensor([0.0, 0.75])).abs().sum()
    assert list(terms) == ["loss_heatmap", "loss_size", "loss_offset"]
    assert_same_in_float64(terms["loss_size"], 0.1 * size / 4)
    assert_same_in_float64(terms["loss_offset"], offset / 4)


def test_two_objects_in_one_cell():
    """Each teaches, or the last; of one class they share a peak, by which MMDetection divides."""
    boxes = torch.tensor([[8.0, 8.0, 16.0, 16.0], [4.0, 4.0, 20.0, 20.0]])
    outputs = random_outputs(1, torch.float64)
    sizes = outputs.sizes_wh[0, 3 * 16 + 3]
    each = (sizes - 2).abs().sum() + (sizes - 4).abs().sum()
    last = (sizes - 4).abs().sum()
    for labels, num_peaks in (([1, 1], 1), ([0, 1], 2)):
        target = [{"boxes": boxes, "labels": torch.tensor(labels)}]
        term = {
            (cell, divisor): small_loss(shared_cell=cell, box_normaliser=divisor)(outputs, target, START)["loss_size"]
            for cell in ("each", "last")
            for divisor in ("objects", "peaks")
        }
        assert_same_in_float64(term["each", "objects"], 0.1 * each / 4)
        assert_same_in_float64(term["each", "peaks"], 0.1 * each / (2 * num_peaks))
        assert_same_in_float64(term["last", "objects"], 0.1 * last / 2)
        assert_same_in_float64(term["last", "peaks"], 0.1 * last / (2 * num_peaks))


def test_a_centre_on_the_border_belongs_to_the_last_cell():
    target = {"boxes": torch.tensor([[56.0, 60.0, 72.0, 68.0]]), "labels": torch.tensor([0])}
    assigned = small_loss().assign(target, SIZE)
    assert assigned.cells.tolist() == [16 * 16 - 1]
    assert assigned.offsets_xy.tolist() == [[1.0, 1.0]]
    assert assigned.heatmap[0, 15, 15] == 1


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([SOME], "outputs of 2 images but 1 targets"),
        ([SOME, {**SOME, "labels": torch.tensor([0, 3])}], "labels from 0 to 3, but the model has 3 classes, 0 to 2"),
    ],
)
def test_wrong_targets_are_named(targets, message):
    with pytest.raises(ValueError, match=message):
        small_loss()(random_outputs(2), targets, START)


# ---------------------------------------------------------------------------------------------- heat maps


def original_radius(width: float, height: float, overlap: float) -> float:
    """CenterNet's own rule, equation by equation, for a single box."""
    width, height = math.ceil(width), math.ceil(height)
    total, area = width + height, width * height
    r1 = (total + math.sqrt(total**2 - 4 * area * (1 - overlap) / (1 + overlap))) / 2
    r2 = (2 * total + math.sqrt(4 * total**2 - 16 * (1 - overlap) * area)) / 2
    r3 = (-2 * overlap * total + math.sqrt(4 * overlap**2 * total**2 + 16 * overlap * (1 - overlap) * area)) / 2
    return max(0, int(min(r1, r2, r3)))


def test_the_originals_radius():
    generator = torch.Generator().manual_seed(0)
    widths, heights = torch.rand(2, 200, generator=generator, dtype=torch.float64) * 60
    found = gaussian_radii(widths, heights, overlap=0.7, rule="original")
    expected = [original_radius(w, h, 0.7) for w, h in zip(widths.tolist(), heights.tolist())]
    assert found.tolist() == expected
    assert found.unique().numel() > 8


@pytest.mark.parametrize("overlap", [0.3, 0.7])
def test_boxes_moved_by_the_solved_radius_overlap_enough(overlap):
    """And moved by one cell more in the worst of the three ways, they do not."""
    generator = torch.Generator().manual_seed(0)
    sides = torch.rand(100, 2, generator=generator, dtype=torch.float64) * 60 + 4
    radii = gaussian_radii(sides[:, 0], sides[:, 1], overlap=overlap, rule="solved")
    assert radii.unique().numel() > 3
    box = torch.cat([torch.zeros_like(sides), sides], dim=1)

    def worst(radius: torch.Tensor) -> torch.Tensor:
        ways = torch.tensor([[1.0, 1, 1, 1], [1, 1, -1, -1], [-1, -1, 1, 1]], dtype=torch.float64)
        return torch.stack([iou(box, box + radius[:, None] * way, eps=0.0) for way in ways]).amin(0)

    assert (worst(radii) >= overlap - 1e-9).all()
    assert (worst(radii + 1) < overlap).all()


def test_boxes_without_area_have_the_radius_0():
    zeros = torch.zeros(2)
    for rule in ("solved", "original"):
        assert gaussian_radii(zeros, torch.tensor([0.0, 5.0]), overlap=0.3, rule=rule).tolist() == [0.0, 0.0]
    with pytest.raises(ValueError, match="rule='best': the rules of the radius are solved and original"):
        gaussian_radii(zeros, zeros, overlap=0.3, rule="best")


def drawn_one_by_one(target: dict, radii: torch.Tensor, cells: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """A second implementation: for each object a window of the map, cell by cell, and the higher value stays."""
    height, width = size
    heatmap = torch.zeros(NUM_CLASSES, height, width, dtype=torch.float64)
    for label, radius, cell in zip(target["labels"].tolist(), radii.int().tolist(), cells.tolist()):
        row, column = divmod(cell, width)
        deviation = (2 * radius + 1) / 6
        for y in range(max(row - radius, 0), min(row + radius + 1, height)):
            for x in range(max(column - radius, 0), min(column + radius + 1, width)):
                value = math.exp(-((x - column) ** 2 + (y - row) ** 2) / (2 * deviation**2))
                heatmap[label, y, x] = max(heatmap[label, y, x].item(), value)
    return heatmap


@NAMES
@pytest.mark.parametrize("count", [1, 60])
def test_heat_map_equals_one_drawn_object_by_object(name, count):
    target = random_objects(count, 96)
    target["boxes"] = target["boxes"].double()
    loss, size = small_loss(name), (24, 32)
    assigned = loss.assign(target, size)
    cells = target["boxes"] / 4
    radii = gaussian_radii(
        cells[:, 2] - cells[:, 0], cells[:, 3] - cells[:, 1], overlap=loss.radius_overlap, rule=loss.radius_rule
    )
    expected = drawn_one_by_one(target, radii, assigned.cells, size)
    assert_same_in_float64(assigned.heatmap, expected, bound=1e-14)
    assert torch.equal(assigned.heatmap == 1, expected == 1)
    assert torch.equal(assigned.heatmap > 0, expected > 0)


def test_the_order_of_objects_changes_no_bit_of_the_heat_map():
    target = random_objects(80, 64)
    order = torch.randperm(80, generator=torch.Generator().manual_seed(1))
    shuffled = {name: values[order] for name, values in target.items()}
    assert torch.equal(small_loss().assign(target, SIZE).heatmap, small_loss().assign(shuffled, SIZE).heatmap)


class LargestResult(TorchDispatchMode):
    """Notes how many numbers the largest result of an operation has."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, torch.Tensor):
                self.numel = max(self.numel, value.numel())
        return result


def test_a_thousand_objects():
    """No result is larger than one number a cell and object; all objects teach, more than 100 too."""
    size = (32, 48)
    target = random_objects(1000, 128)
    outputs = random_outputs(2, size=size)
    with LargestResult() as largest:
        terms = small_loss()(outputs, [target, SOME], START)
        sum(terms.values()).backward()
    assert largest.numel <= 1002 * size[0] * size[1]
    assert all(term.isfinite() for term in terms.values())
    assigned = small_loss().assign(target, size)
    assert len(assigned.cells.unique()) > 500
    sides = (outputs.sizes_wh[0, assigned.cells] - assigned.sizes_wh).sign()  # (G, 2)
    expected = torch.zeros(size[0] * size[1], 2).index_add(0, assigned.cells, sides) * 0.1 / (2 * 1002)
    torch.testing.assert_close(outputs.sizes_wh.grad[0], expected)


# ---------------------------------------------------------------------------------------------- finite and connected


def small_model() -> torch.nn.Module:
    """A network with random values in its head too, so that no gradient is zero by construction."""
    torch.manual_seed(0)
    model = create_model("centernet", num_classes=NUM_CLASSES, backbone="lcnet_035", neck_channels=(12, 12, 8))
    for branch in (model.head.heatmap, model.head.size, model.head.offset):
        torch.nn.init.normal_(branch.pred.weight, std=0.05)
    return model


def images(num_images: int) -> torch.Tensor:
    return torch.randn(num_images, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("targets", [[SOME, NONE], [NONE, NONE]], ids=["one image empty", "all images empty"])
def test_every_parameter_gets_a_finite_gradient(targets):
    model = small_model().train()
    terms = small_loss()(model(images(2)), targets, START)
    assert all(term.isfinite() for term in terms.values())
    sum(terms.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert model.get_parameter(f"{model.input_layer}.weight").grad.count_nonzero() > 0


@NAMES
@pytest.mark.parametrize("limit", [6e4, -6e4])
def test_outputs_at_the_limit_of_half_precision(name, limit):
    generator = torch.Generator().manual_seed(0)
    for fill in (
        lambda x: torch.full_like(x, limit),
        lambda x: (torch.rand(x.shape, generator=generator) - 0.5) * 12e4,
    ):
        parts = [fill(part).half().detach().requires_grad_() for part in random_outputs(2)[:3]]
        terms = small_loss(name)(CenterNetOutputs(*parts, (SIZE,)), [SOME, SOME], START)
        assert all(term.isfinite() and term.dtype == torch.float32 for term in terms.values())
        sum(terms.values()).backward()
        assert all(part.grad.isfinite().all() for part in parts)


def test_outputs_that_are_not_numbers_show_in_the_terms_and_in_the_detections():
    outputs = random_outputs(2)
    with torch.no_grad():
        outputs.class_logits[1, 3, 0] = float("nan")
    assert small_loss()(outputs, [SOME, SOME], START)["loss_heatmap"].isnan()
    with pytest.raises(ValueError, match="NaN or infinite"):
        create_decoder("centernet", num_classes=NUM_CLASSES)(outputs)


def test_arithmetic_is_float32_under_autocast():
    outputs = random_outputs(2)
    expected = small_loss()(outputs, [SOME, NONE], START)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = small_loss()(outputs, [SOME, NONE], START)
    for name, term in expected.items():
        assert found[name].dtype == torch.float32
        assert torch.equal(found[name], term), name


# ---------------------------------------------------------------------------------------------- two processes


@pytest.mark.parametrize("targets", [[SOME, NONE], [NONE, NONE]], ids=["one process empty", "both empty"])
@NAMES
def test_the_mean_of_two_processes_is_the_term_of_one(name, targets, monkeypatch):
    """The normalisers are global: each process, told the sums of both, gives its part."""
    outputs, loss = random_outputs(2, torch.float64), small_loss(name)
    whole, sums = loss(outputs, targets, START), []
    share_of_sum = centernet.share_of_sum
    monkeypatch.setattr(centernet, "share_of_sum", lambda value: sums.append(value) or share_of_sum(value))
    loss(outputs, targets, START)
    parts = []
    for image in range(2):
        shares = iter([value.clamp(min=1) / 2 for value in sums])
        monkeypatch.setattr(centernet, "share_of_sum", lambda value, shares=shares: next(shares))
        mine = CenterNetOutputs(*(part[image : image + 1] for part in outputs[:3]), (SIZE,))
        parts.append(loss(mine, targets[image : image + 1], START))
    for term, value in whole.items():
        assert_same_in_float64((parts[0][term] + parts[1][term]) / 2, value, what=term)


# ---------------------------------------------------------------------------------------------- peaks and detections


def test_peaks_are_the_cells_without_a_higher_one_around():
    scores = torch.rand(2, 5 * 7, 3, generator=torch.Generator().manual_seed(0))
    scores[0, 8, 0] = scores[0, 9, 0] = 2.0  # a plateau: both are peaks
    found = peaks(scores, (5, 7)).transpose(1, 2).reshape(2, 3, 5, 7)
    maps = scores.transpose(1, 2).reshape(2, 3, 5, 7)
    padded = F.pad(maps, (1, 1, 1, 1), value=-1.0)
    for y in range(5):
        for x in range(7):
            highest = padded[:, :, y : y + 3, x : x + 3].amax((2, 3))
            expected = torch.where(maps[:, :, y, x] == highest, maps[:, :, y, x], 0)
            assert torch.equal(found[:, :, y, x], expected)
    assert (found[0, 0].flatten()[[8, 9]] == 2).all()


def perfect_outputs(target: dict) -> CenterNetOutputs:
    """What a network that has learnt `target` to the last digit would give."""
    assigned = small_loss().assign(target, SIZE)
    num_cells = SIZE[0] * SIZE[1]
    logits = (assigned.heatmap * 0.98 + 0.01).logit().flatten(1).T[None]
    parts = []
    for values in (assigned.sizes_wh, assigned.offsets_xy):
        points = torch.zeros(1, num_cells, 2)
        points[0, assigned.cells] = values
        parts.append(points)
    return CenterNetOutputs(logits, *parts, (SIZE,))


def test_what_was_learnt_is_found():
    """The boxes come back, best first, and nothing else of a score above the background's."""
    (found,) = create_decoder("centernet", num_classes=NUM_CLASSES, score_threshold=0.5)(perfect_outputs(SOME))
    order = found["labels"].argsort(descending=True)
    torch.testing.assert_close(found["boxes"][order], SOME["boxes"])
    assert found["labels"][order].tolist() == [2, 0]


def test_the_best_of_all_classes_go_on_without_suppression():
    outputs = random_outputs(1)
    boxes, scores = create_decoder("centernet", num_classes=NUM_CLASSES).decode(outputs)
    (all_peaks,) = create_decoder("centernet", num_classes=NUM_CLASSES, keep_top_k=1000)(outputs)
    assert len(all_peaks["scores"]) == (scores > 0).sum() > 20
    (found,) = create_decoder("centernet", num_classes=NUM_CLASSES, keep_top_k=20)(outputs)
    best = scores.flatten().topk(20).values
    torch.testing.assert_close(found["scores"], best, rtol=0, atol=0)
    assert torch.equal(found["boxes"], boxes[0, found["anchors"]])


def test_suppression_is_a_setting():
    with torch.no_grad():
        outputs = random_outputs(1)._replace(sizes_wh=torch.full((1, 256, 2), 12.0))
    counts = [
        len(create_decoder("centernet", num_classes=NUM_CLASSES, nms_iou=limit, keep_top_k=1000)(outputs)[0]["scores"])
        for limit in (None, 1.0, 0.3)
    ]
    assert counts[0] == counts[1] > 2 * counts[2]


def test_settings_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"CenterNet\.backbone_stride is 4, which 3 enlargements by two"):
        create_loss("centernet", num_classes=2, backbone_stride=4)
    assert published("centernet").stride == 4


def test_an_image_without_objects_draws_nothing():
    none = torch.zeros(0, dtype=torch.int64)
    shape = {"num_classes": NUM_CLASSES, "size": (3, 4)}
    heatmaps = draw_heatmaps(none, none, torch.zeros(0), none, counts=[0, 0], **shape)
    assert heatmaps.shape == (2, 3, 3, 4)
    assert heatmaps.count_nonzero() == 0
    two = torch.tensor([1, 2])
    heatmaps = draw_heatmaps(two, two, torch.ones(2), two, counts=[0, 2, 0], **shape)
    assert [int(heatmap.count_nonzero()) for heatmap in heatmaps] == [0, 9 + 6, 0]
