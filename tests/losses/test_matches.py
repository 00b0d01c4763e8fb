"""What a loss says its points learn is what its gradients teach them, for every family.

The second implementation is the gradient: a term that only points with an object have is felt exactly there; and each object
has a class of its own, whose logit is pulled up where the object is learnt.
"""

import dataclasses
from typing import Any, NamedTuple

import pytest
import torch

from public.families import PUBLISHED
from public.losses.assigners.assignment import BACKGROUND, IGNORED
from public.models.detectors.centernet import CenterNetOutputs
from public.models.detectors.fcos import FCOSOutputs
from public.models.detectors.picodet import PicoDetOutputs
from public.models.detectors.ppyoloe import PPYOLOEOutputs
from public.models.detectors.ppyoloe_aux import PPYOLOEAuxOutputs
from public.models.detectors.retinanet import RetinaNetOutputs
from public.models.detectors.yolof import YOLOFOutputs
from public.models.detectors.yolox import YOLOXOutputs
from public.protocols import Progress

NUM_CLASSES, SIDE, NUM_IMAGES = 6, 128, 3
FIRST, LAST = (Progress(epoch, epoch, 0, 300, 1) for epoch in (0, 299))
BOXES = torch.tensor(
    [[8, 8, 28, 26], [20, 30, 100, 120], [60, 4, 124, 60], [70, 90, 84, 118], [40, 60, 80, 90]]
).float()
LABELS = torch.tensor([4, 0, 3, 1, 5])  # each object has a class of its own
TARGETS = [
    {"boxes": boxes, "labels": labels}
    for boxes, labels in ((BOXES, LABELS), (BOXES[:0], LABELS[:0]), (BOXES[[3, 1]], LABELS[[3, 1]]))
]


class Case(NamedTuple):
    """A published network, when it is asked, the assigner that answers, and how its points tell that they learn."""

    name: str
    progress: Progress
    assigner: str
    felt_by: str | None  # the output to which a term's gradient goes exactly where an object is learnt
    term: str
    is_hard: bool  # the target of an object's class is 1: its logit is pulled up wherever the object is learnt
    offset: float = 0.5  # place of the points in their cell


CASES = [
    Case("yolox_s", LAST, "SimOTAAssigner", "box_codes", "iou", False),
    Case("picodet_s_esnet", LAST, "QualitySimOTAAssigner", "box_logits", "iou", False),
    Case("ppyoloe_s", FIRST, "ATSSAssigner", "box_logits", "iou", False),
    Case("ppyoloe_s", LAST, "TaskAlignedAssigner", "box_logits", "iou", False),
    Case("ppyoloe_plus_t", LAST, "TaskAlignedAssigner", "box_logits", "iou", False),
    Case("picodet_s", FIRST, "ATSSAssigner", "box_logits", "iou", False),
    Case("picodet_s", LAST, "TaskAlignedAssigner", "box_logits", "iou", False),
    Case("retinanet", FIRST, "MaxIoUAssigner", "box_deltas", "box", True, offset=0.0),
    Case("retinanet_r50_mmdet", FIRST, "MaxIoUAssigner", "box_deltas", "box", True, offset=0.0),
    Case("fcos", FIRST, "SizeRangeAssigner", "centreness_logits", "centreness", True),
    Case("fcos_r50_torchvision", FIRST, "SizeRangeAssigner", "centreness_logits", "centreness", True, offset=0.0),
    Case("centernet", FIRST, "CenterNetLoss", "sizes_wh", "size", True),
    Case("yolof", FIRST, "UniformAssigner", None, "box", True, offset=0.0),
]


def strides_of(loss: Any, settings: Any) -> tuple[int, ...]:
    coding = getattr(loss, "coding", loss)
    return coding.strides if hasattr(coding, "strides") else (settings.stride,)


def random_outputs(settings: Any, loss: Any, strides: tuple[int, ...], num_images: int = NUM_IMAGES) -> tuple[Any, int]:
    """Random outputs of low scores for images of SIDE pixels, and how many points a cell has."""
    generator = torch.Generator().manual_seed(1)
    sizes = tuple((SIDE // stride,) * 2 for stride in strides)
    name = type(settings).__name__
    in_cell = {"RetinaNet": lambda: loss.coding.num_in_cell, "YOLOF": lambda: len(settings.anchor_sizes)}
    num_in_cell = in_cell.get(name, lambda: 1)()
    count = num_in_cell * sum(height * width for height, width in sizes)

    def raw(*shape, mean=0.0):
        return (mean + 0.3 * torch.randn(num_images, count, *shape, generator=generator)).requires_grad_()

    def classes():
        return raw(NUM_CLASSES, mean=-4)

    places = torch.arange(getattr(settings, "reg_max", 0) + 1.0)

    def bins():
        return raw(4 * len(places), mean=-0.7 * places.repeat(4))  # sides of about a stride

    make = {
        "YOLOX": lambda: YOLOXOutputs(classes(), raw(1), raw(4, mean=0.7), sizes),
        "PPYOLOE": lambda: PPYOLOEOutputs(classes(), bins(), sizes),
        "PPYOLOEAux": lambda: PPYOLOEAuxOutputs(classes(), bins(), sizes, PPYOLOEOutputs(classes(), bins(), sizes)),
        "PicoDet": lambda: PicoDetOutputs(classes(), raw(1), bins(), places, sizes),
        "PicoDetLegacy": lambda: PicoDetOutputs(classes(), None, bins(), places, sizes),
        "RetinaNet": lambda: RetinaNetOutputs(classes(), raw(4), sizes, (SIDE, SIDE)),
        "FCOS": lambda: FCOSOutputs(classes(), raw(4), raw(), sizes, (SIDE, SIDE)),
        "CenterNet": lambda: CenterNetOutputs(classes(), raw(2), raw(2), sizes),
        "YOLOF": lambda: YOLOFOutputs(classes(), raw(4), sizes, (SIDE, SIDE)),
    }
    return make[name](), num_in_cell


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name}, {case.assigner}, {case.progress.epoch}")
def test_matches_are_what_the_gradients_teach(case):
    settings = dataclasses.replace(PUBLISHED[case.name], num_classes=NUM_CLASSES)
    loss = settings.build_loss()
    strides = strides_of(loss, settings)
    outputs, num_in_cell = random_outputs(settings, loss, strides)
    matches = loss.matches(outputs, TARGETS, case.progress)
    assert loss.assigner_name(case.progress) == case.assigner
    grids = [
        [((column + case.offset) * stride, (row + case.offset) * stride)]
        for stride in strides
        for row in range(SIDE // stride)
        for column in range(SIDE // stride)
    ]
    expected = torch.tensor([place for cell in grids for place in cell * num_in_cell])
    torch.testing.assert_close(matches.points, expected, rtol=0, atol=1e-4)
    assert (matches.num_in_cell, matches.level_sizes) == (num_in_cell, outputs.level_sizes)

    objects = matches.objects
    is_object = objects >= 0
    assert objects.dtype == torch.int64
    assert objects.shape == (NUM_IMAGES, len(expected))
    assert not is_object[1].any(), "an image without objects"
    learnt = [set(row[row >= 0].tolist()) for row in objects]
    assert len(learnt[0]) >= 4
    assert learnt[2] == {0, 1}

    terms = loss.unweighted(outputs, TARGETS, case.progress)
    if case.felt_by is not None:
        (felt,) = torch.autograd.grad(terms[f"loss_{case.term}"], getattr(outputs, case.felt_by), retain_graph=True)
        assert torch.equal((felt.flatten(2) if felt.ndim > 2 else felt[..., None]).ne(0).any(2), is_object)
    classes = terms["loss_heatmap" if case.assigner == "CenterNetLoss" else "loss_cls"]
    (pulls,) = torch.autograd.grad(classes, outputs.class_logits)  # (B, A, K), below 0 where a logit is to rise
    rises, where = pulls.amin(2) < 0, pulls.argmin(2)
    assert not (rises & ~is_object).any()
    assert pulls[objects == IGNORED].eq(0).all()
    if not case.name.startswith("yolox"):  # whose background learns by its objectness alone
        assert pulls[objects == BACKGROUND].ne(0).any(1).all()
    assert not case.is_hard or torch.equal(rises, is_object)
    for image, target in enumerate(TARGETS):
        for number, label in enumerate(target["labels"].tolist()):
            of_object = rises[image] & (objects[image] == number)
            assert (where[image][of_object] == label).all()
            assert of_object.any() == (number in learnt[image])


def test_what_is_refused_is_refused_here_too():
    loss = dataclasses.replace(PUBLISHED["fcos"], num_classes=NUM_CLASSES).build_loss()
    outputs, _ = random_outputs(PUBLISHED["fcos"], loss, strides_of(loss, None))
    with pytest.raises(ValueError, match="outputs of 3 images but 1 targets"):
        loss.matches(outputs, TARGETS[:1], FIRST)


def test_of_objects_in_one_cell_the_last_is_told():
    """CenterNet: three objects, two of them with one centre; the first image of no object has no cell."""
    loss = dataclasses.replace(PUBLISHED["centernet"], num_classes=NUM_CLASSES).build_loss()
    outputs, _ = random_outputs(PUBLISHED["centernet"], loss, (4,))
    boxes = torch.tensor([[40.0, 40, 64, 64], [10, 10, 14, 14], [48, 48, 56, 56]])
    targets = [TARGETS[1], {"boxes": boxes, "labels": torch.tensor([0, 1, 2])}, TARGETS[1]]
    objects = loss.matches(outputs, targets, FIRST).objects
    assert objects[1].reshape(32, 32)[13, 13] == 2
    assert objects[1].reshape(32, 32)[3, 3] == 1
    assert (objects != BACKGROUND).sum() == 2
