"""YOLOX's loss written out for a small case, its terms by epoch, and its decoder's two rules."""

import dataclasses
import math

import pytest
import torch
from torch.nn import functional as F

from public.decoders import create_decoder
from public.losses import create_loss
from public.models.detectors.yolox import YOLOXOutputs
from public.points import boxes_to_codes, cell_points, codes_to_boxes
from public.protocols import Progress

LEVEL_SIZES = ((4, 6), (2, 3), (1, 2))  # of images of 32 x 48 pixels, the last level rounded up
STRIDES = (8, 16, 32)
NUM_POINTS = 24 + 6 + 2
NUM_CLASSES = 3
CPU = torch.device("cpu")


def progress(epoch: int) -> Progress:
    return Progress(epoch=epoch, step=epoch, step_in_epoch=0, num_epochs=300, steps_per_epoch=1)


def make_outputs(num_images: int = 2, dtype: torch.dtype = torch.float64, seed: int = 0) -> YOLOXOutputs:
    generator = torch.Generator().manual_seed(seed)
    parts = (
        torch.randn(num_images, NUM_POINTS, width, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for width in (NUM_CLASSES, 1, 4)
    )
    return YOLOXOutputs(*parts, LEVEL_SIZES)


OBJECTS = {
    "boxes": torch.tensor([[4.0, 2.0, 30.0, 28.0], [10.0, 12.0, 18.0, 22.0]], dtype=torch.float64),
    "labels": torch.tensor([2, 0]),
}
NONE = {"boxes": torch.zeros(0, 4, dtype=torch.float64), "labels": torch.zeros(0, dtype=torch.int64)}


def make_loss(**changes):
    return create_loss("yolox_s", num_classes=NUM_CLASSES, **changes)


def test_the_terms_written_out():
    """Point by point, from the assignment: 5 (1 - IoU^2), cross-entropy of object and class, L1 of the codes."""
    outputs = make_outputs()
    loss = make_loss()
    terms = loss(outputs, [OBJECTS, NONE], progress(290))
    assignment = loss.assign(outputs, [OBJECTS, NONE], progress(290))
    corners, strides = (x.double() for x in cell_points(LEVEL_SIZES, STRIDES, offset=0.0, device=CPU))
    expected = dict.fromkeys(("loss_iou", "loss_obj", "loss_cls", "loss_l1"), 0.0)
    count = 0
    for image in range(2):
        for point in range(NUM_POINTS):
            label = assignment.labels[image, point].item()
            is_positive = label != NUM_CLASSES
            object_score = outputs.object_logits[image, point, 0].sigmoid().item()
            expected["loss_obj"] -= math.log(object_score if is_positive else 1 - object_score)
            if not is_positive:
                continue
            count += 1
            stride, code = strides[point].item(), outputs.box_codes[image, point].tolist()
            x, y = ((corners[point, axis].item() / stride + code[axis]) * stride for axis in (0, 1))
            width, height = (math.exp(code[axis]) * stride for axis in (2, 3))
            left, top, right, bottom = assignment.boxes[image, point].tolist()
            common_x = min(x + width / 2, right) - max(x - width / 2, left)
            common_y = min(y + height / 2, bottom) - max(y - height / 2, top)
            common = max(common_x, 0) * max(common_y, 0)
            iou = common / (width * height + (right - left) * (bottom - top) - common)
            expected["loss_iou"] += 5 * (1 - iou**2)
            for k in range(NUM_CLASSES):
                score = outputs.class_logits[image, point, k].sigmoid().item()
                target = iou if k == label else 0.0
                expected["loss_cls"] -= target * math.log(score) + (1 - target) * math.log(1 - score)
            true_code = (
                ((left + right) / 2 - corners[point, 0].item()) / stride,
                ((top + bottom) / 2 - corners[point, 1].item()) / stride,
                math.log((right - left) / stride),
                math.log((bottom - top) / stride),
            )
            expected["loss_l1"] += sum(abs(a - b) for a, b in zip(code, true_code))
    assert count > 1
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value / count, rel=1e-6), name


def test_l1_starts_with_its_epoch():
    outputs = make_outputs()
    before, after = (make_loss(l1_from_epoch=7)(outputs, [OBJECTS, NONE], progress(epoch)) for epoch in (6, 7))
    assert before["loss_l1"] == 0 < after["loss_l1"]
    for name in ("loss_iou", "loss_obj", "loss_cls"):
        assert before[name] == after[name]


def test_without_objects_only_objectness_is_learnt():
    outputs = make_outputs(dtype=torch.float32)
    terms = make_loss()(outputs, [NONE, NONE], progress(299))
    assert {name: term.item() for name, term in terms.items() if name != "loss_obj"} == {
        "loss_iou": 0.0,
        "loss_cls": 0.0,
        "loss_l1": 0.0,
    }
    expected = F.softplus(outputs.object_logits).sum()  # divided by at least 1
    torch.testing.assert_close(terms["loss_obj"], expected)
    sum(terms.values()).backward()
    assert outputs.object_logits.grad.all()
    assert not outputs.class_logits.grad.any()
    assert not outputs.box_codes.grad.any()


def test_assignment_and_targets_carry_no_gradient():
    """The gradient of the class term is that of cross-entropy with fixed targets."""
    outputs = make_outputs()
    loss = make_loss()
    assignment = loss.assign(outputs, [OBJECTS, NONE], progress(0))
    assert not any(part.requires_grad for part in assignment)
    terms = loss(outputs, [OBJECTS, NONE], progress(0))
    (gradient,) = torch.autograd.grad(terms["loss_cls"], outputs.box_codes, retain_graph=True, allow_unused=True)
    assert gradient is None, "the IoU is a target of the classes, not what they train"


@pytest.mark.parametrize("eps", [0.0, 1e-8])
def test_codes_and_boxes_are_inverse(eps):
    corners, strides = (x.double() for x in cell_points(LEVEL_SIZES, STRIDES, offset=0.0, device=CPU))
    codes = make_outputs(1).box_codes.detach()[0]
    boxes = codes_to_boxes(codes, corners, strides)
    torch.testing.assert_close(boxes_to_codes(boxes, corners, strides, eps=eps), codes, rtol=1e-6, atol=1e-6)
    assert codes_to_boxes(torch.zeros(NUM_POINTS, 4).double(), corners, strides)[25].tolist() == [8, -8, 24, 8]


# ---------------------------------------------------------------------------------------------- decoder


def test_scores_are_object_times_class_for_every_class():
    outputs = make_outputs()
    decoder = create_decoder("yolox_s")
    _, scores = decoder.decode(outputs)
    torch.testing.assert_close(scores, outputs.object_logits.sigmoid() * outputs.class_logits.sigmoid())
    assert scores.shape == (2, NUM_POINTS, NUM_CLASSES)
    assert (scores > 0).all(), "the rule of one class a box does not touch the dense scores"


def two_classes(one_class_a_box: bool) -> list[tuple[int, int]]:
    """(point, label) found where point 3 has scores 0.64, 0.8 and 0.8 of an object that is certain."""
    outputs = make_outputs(1)
    logits = torch.full_like(outputs.class_logits, -20.0)
    logits[0, 3] = torch.tensor([0.64, 0.8, 0.8]).logit()
    outputs = outputs._replace(class_logits=logits, object_logits=torch.full_like(outputs.object_logits, 20.0))
    decoder = create_decoder("yolox_s", one_class_a_box=one_class_a_box, score_threshold=0.5)
    (found,) = decoder(outputs)
    return list(zip(found["anchors"].tolist(), found["labels"].tolist()))


def test_a_box_has_one_class_or_several():
    assert two_classes(one_class_a_box=True) == [(3, 1)], "of equal scores the first class"
    assert two_classes(one_class_a_box=False) == [(3, 1), (3, 2), (3, 0)]


def test_without_limits_everything_above_the_threshold_is_kept():
    outputs = make_outputs(1)
    unlimited = create_decoder("yolox_s", one_class_a_box=False, nms_iou=1.0, score_threshold=0.0)
    assert len(unlimited(outputs)[0]["scores"]) == NUM_POINTS * NUM_CLASSES
    limited = create_decoder("yolox_s", one_class_a_box=False, nms_iou=1.0, score_threshold=0.0, keep_top_k=7)
    assert len(limited(outputs)[0]["scores"]) == 7


def test_a_threshold_that_is_met_exactly_is_not_passed():
    """The stated difference from the original, which keeps it."""
    outputs = make_outputs(1)
    zeros = outputs._replace(
        class_logits=torch.zeros_like(outputs.class_logits), object_logits=torch.zeros_like(outputs.object_logits)
    )
    assert len(create_decoder("yolox_s", score_threshold=0.25)(zeros)[0]["scores"]) == 0
    assert len(create_decoder("yolox_s", score_threshold=0.249)(zeros)[0]["scores"]) > 0


def test_a_neck_without_csp_layers_has_no_blocks():
    from public.families import published

    with pytest.raises(ValueError, match=r"YOLOX\.neck_blocks is 0 with neck 'pafpn'; it must be at least 1"):
        dataclasses.replace(published("yolox_s"), neck_blocks=0)
    with pytest.raises(ValueError, match=r"YOLOX\.neck_blocks is 1 with neck 'yolo_fpn'"):
        dataclasses.replace(published("yolox_darknet53"), neck_blocks=1)
