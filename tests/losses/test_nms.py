"""Non-maximum suppression against a plain loop over boxes."""

import math

import numpy as np
import pytest
import torch

from benchmarks import former_nms
from public.decoders import nms
from public.decoders.dense import DenseDecoder, best_class_only
from public.decoders.nms import GROUP_OF_PAIRS, multiclass_nms
from public.families import PUBLISHED
from public.models.detectors.ppyoloe import PPYOLOEOutputs


def iou_of(a: list[float], b: list[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0.0) * max(height, 0.0)
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def slow_nms(boxes, scores, score_threshold, iou_threshold, top_k_per_class, keep_top_k) -> list[tuple[int, int]]:
    """(label, anchor) of what is kept, in order, straight from the definition."""
    boxes, scores = boxes.tolist(), scores.tolist()
    survivors = []
    for label in range(len(scores[0])):
        candidates = [a for a in range(len(boxes)) if scores[a][label] > score_threshold]
        candidates = sorted(candidates, key=lambda a: -scores[a][label])[:top_k_per_class]
        kept = []
        for anchor in candidates:
            if all(iou_of(boxes[anchor], boxes[other]) <= iou_threshold for other in kept):
                kept.append(anchor)
        survivors += [(label, anchor) for anchor in kept]
    survivors.sort(key=lambda pair: (-scores[pair[1]][pair[0]], pair))
    return survivors[:keep_top_k]


def random_boxes(num_boxes: int, num_classes: int, seed: int):
    """Crowded boxes of whole pixels, and scores in steps of 1/20, so that there are many ties."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.randint(0, 40, (num_boxes, 2), generator=generator)
    sizes = torch.randint(5, 40, (num_boxes, 2), generator=generator)
    boxes = torch.cat([corners, corners + sizes], dim=1).float()
    return boxes, torch.randint(0, 21, (num_boxes, num_classes), generator=generator) / 20


def pairs(detections) -> list[tuple[int, int]]:
    return list(zip(detections["labels"].tolist(), detections["anchors"].tolist()))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    ("top_k_per_class", "keep_top_k"), [(1000, 300), (20, 300), (1000, 10), (7, 3), (1000, 1), (1, 5)]
)
def test_equals_the_loop(seed, top_k_per_class, keep_top_k):
    boxes, scores = random_boxes(120, 4, seed)
    settings = {
        "score_threshold": 0.25,  # equals some scores
        "iou_threshold": 0.5,  # equals some IoUs of boxes of whole pixels
        "top_k_per_class": top_k_per_class,
        "keep_top_k": keep_top_k,
    }
    found = multiclass_nms(boxes, scores, **settings)
    assert pairs(found) == slow_nms(boxes, scores, **settings)
    assert torch.equal(found["boxes"], boxes[found["anchors"]])
    assert torch.equal(found["scores"], scores[found["anchors"], found["labels"]])
    assert found["labels"].dtype == torch.int64


def detect(boxes, scores, **changes):
    settings = {"score_threshold": 0.1, "iou_threshold": 0.5, "top_k_per_class": 100, "keep_top_k": 100}
    return multiclass_nms(torch.tensor(boxes), torch.tensor(scores), **{**settings, **changes})


def test_a_box_is_kept_once_for_each_of_its_classes():
    assert pairs(detect([[0.0, 0.0, 9.0, 9.0]], [[0.8, 0.05, 0.9]])) == [(2, 0), (0, 0)]


def test_boxes_of_other_classes_do_not_suppress():
    boxes = [[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 10.0]]
    assert pairs(detect(boxes, [[0.9, 0.0], [0.0, 0.8]])) == [(0, 0), (1, 1)]
    assert pairs(detect(boxes, [[0.9, 0.0], [0.8, 0.0]])) == [(0, 0)]


def test_both_thresholds_are_strict():
    assert pairs(detect([[0.0, 0.0, 9.0, 9.0]], [[0.5]], score_threshold=0.5)) == []
    halves = [[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 5.0]]  # IoU exactly 0.5
    assert len(pairs(detect(halves, [[0.9], [0.8]], iou_threshold=0.5))) == 2
    assert len(pairs(detect(halves, [[0.9], [0.8]], iou_threshold=0.499))) == 1


def test_equal_scores_come_by_class_then_by_anchor():
    boxes = [[0.0, 0.0, 9.0, 9.0], [20.0, 0.0, 29.0, 9.0], [40.0, 0.0, 49.0, 9.0]]
    scores = [[0.5, 0.5], [0.5, 0.7], [0.5, 0.5]]
    assert pairs(detect(boxes, scores)) == [(1, 1), (0, 0), (0, 1), (0, 2), (1, 0), (1, 2)]
    assert pairs(detect(boxes, scores, keep_top_k=3)) == [(1, 1), (0, 0), (0, 1)]


def test_nothing_above_the_threshold():
    found = detect([[0.0, 0.0, 9.0, 9.0]], [[0.01, 0.02]])
    assert found["boxes"].shape == (0, 4)
    assert found["scores"].shape == found["labels"].shape == found["anchors"].shape == (0,)
    assert found["labels"].dtype == torch.int64


def test_scores_that_are_not_numbers_are_never_kept():
    assert pairs(detect([[0.0, 0.0, 9.0, 9.0]], [[float("nan"), 0.5]])) == [(1, 0)]


def test_decoder_places_a_box_by_hand():
    """One sure distance of 3 strides on each side of the second point of the stride-16 level."""
    logits = torch.full((1, 21, 68), 0.0)
    logits.unflatten(-1, (4, 17))[:, 5, :, 3] = 100.0  # point 0 is the stride-32 level's, 1..4 are of stride 16
    logits.unflatten(-1, (4, 17))[:, 2, :, 3] = 100.0
    class_logits = torch.full((1, 21, 2), -20.0)
    class_logits[0, 2, 1] = 0.0
    outputs = PPYOLOEOutputs(class_logits, logits, ((1, 1), (2, 2), (4, 4)))
    decoder = PUBLISHED["ppyoloe_s"].build_decoder()
    boxes, scores = decoder.decode(outputs)
    centre_x, centre_y = 24.0, 8.0
    expected = [centre_x - 48, centre_y - 48, centre_x + 48, centre_y + 48]
    assert boxes[0, 2].tolist() == pytest.approx(expected)
    assert boxes[0, 5].tolist() == pytest.approx([4.0 - 24, 4.0 - 24, 4.0 + 24, 4.0 + 24])
    assert boxes[0, 0].tolist() == pytest.approx([16 - 256, 16 - 256, 16 + 256, 16 + 256])  # flat: mean of 0..16 is 8
    assert scores[0, 2].tolist() == pytest.approx([0.0, 0.5], abs=1e-6)
    (found,) = decoder(outputs)
    assert pairs(found) == [(1, 2)]
    assert found["boxes"][0].tolist() == pytest.approx(expected)


def test_candidates_may_be_chosen_by_something_else_than_their_score():
    """MMDetection's FCOS: threshold and choice by class, order and NMS by class times centre-ness."""
    boxes = [[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 9.0], [20.0, 0.0, 29.0, 9.0], [40.0, 0.0, 49.0, 9.0]]
    chosen_by = torch.tensor([[0.9], [0.8], [0.3], [0.05]])
    scores = [[0.02], [0.7], [0.25], [0.04]]
    assert pairs(detect(boxes, scores, candidate_scores=chosen_by)) == [(0, 1), (0, 2)]
    levels = {"top_k_per_class": None, "top_k_per_level": 1, "level_lengths": (2, 2)}
    found = detect(boxes, scores, candidate_scores=chosen_by, **levels)
    assert pairs(found) == [(0, 2), (0, 0)]
    assert found["scores"].tolist() == pytest.approx([0.25, 0.02])  # below the threshold, which the class has passed


def test_candidates_chosen_by_equal_values_come_by_class_then_by_anchor():
    boxes = [[0.0, 0.0, 9.0, 9.0], [20.0, 0.0, 29.0, 9.0]]
    chosen_by = torch.tensor([[0.5, 0.9], [0.7, 0.9]])
    assert pairs(detect(boxes, [[0.3, 0.3], [0.3, 0.3]], candidate_scores=chosen_by)) == [
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
    ]


def test_boxes_without_area_are_left_out_on_demand():
    boxes = [[0.0, 0.0, 0.0, 9.0], [0.0, 5.0, 9.0, 5.0], [0.0, 0.0, 9.0, 9.0]]
    scores = [[0.9], [0.8], [0.7]]
    assert pairs(detect(boxes, scores, drop_empty=True)) == [(0, 2)]
    assert len(pairs(detect(boxes, scores))) == 3


@pytest.mark.parametrize("lowest", [0.1, 0.5, 0.77, 1.0, float(np.float32(0.3)) + 1e-9])
@pytest.mark.parametrize("chosen_by", ["score", "another"])
@pytest.mark.parametrize("limits", [{"top_k_per_class": 5}, {"top_k_per_level": 9, "level_lengths": (60, 40, 20)}])
def test_what_scores_too_little_can_be_left_out_at_once(lowest, chosen_by, limits):
    """As if it were left out of what is found without the limit; equal scores of a limit stay."""
    boxes, scores = random_boxes(120, 4, 0)
    other = random_boxes(120, 4, 1)[1] if chosen_by == "another" else None
    settings = {"score_threshold": 0.3, "iou_threshold": 0.5, "keep_top_k": 30, "candidate_scores": other, **limits}
    every = multiclass_nms(boxes, scores, **settings)
    found = multiclass_nms(boxes, scores, lowest_score=lowest, **settings)
    for name, values in found.items():
        assert torch.equal(values, every[name][every["scores"] >= lowest]), name


class Fixed(DenseDecoder):
    """Boxes and scores that are given."""

    def decode(self, outputs):
        return outputs


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("part", ["boxes", "scores"])
def test_outputs_of_a_broken_network_are_refused(part, value):
    """In the second of two images; a score that is NaN is above no threshold and would look like an empty picture."""
    decoder = Fixed(score_threshold=0.3, nms_iou=0.5, nms_top_k=10, keep_top_k=10)
    outputs = {"boxes": torch.tensor([[0.0, 0.0, 8.0, 8.0]]).repeat(2, 3, 1), "scores": torch.full((2, 3, 4), 0.5)}
    assert [len(found["scores"]) for found in decoder(tuple(outputs.values()))] == [4, 4]
    outputs[part][1, 2, 3] = value
    with pytest.raises(ValueError, match="outputs are NaN or infinite"):
        decoder(tuple(outputs.values()))


class Clipped(Fixed):
    """The same, cut off at the borders of the picture."""

    is_clipped = True


class Outputs(tuple):
    """Boxes and scores of images of 20 x 30 pixels."""

    image_size = (20, 30)


def test_boxes_are_cut_off_at_the_borders_of_their_picture_before_nms():
    """Of a picture that fills its image, and of one around which is padding: there two boxes become the same one."""
    boxes = torch.tensor([[-4.0, -4.0, 12.0, 12.0], [-4.0, -4.0, 40.0, 40.0]]).repeat(2, 1, 1)
    outputs = Outputs((boxes, torch.tensor([[0.9], [0.8]]).repeat(2, 1, 1)))
    decoder = Clipped(score_threshold=0.3, nms_iou=0.5, nms_top_k=10, keep_top_k=10)
    both = [[0.0, 0.0, 12.0, 12.0], [0.0, 0.0, 30.0, 20.0]]
    assert [found["boxes"].tolist() for found in decoder(outputs)] == [both, both]
    regions = [(0, 0, 30, 20), (2, 3, 12, 12)]
    assert [found["boxes"].tolist() for found in decoder(outputs, regions)] == [both, [[2.0, 3.0, 12.0, 12.0]]]
    plain = Fixed(score_threshold=0.3, nms_iou=0.5, nms_top_k=10, keep_top_k=10)
    assert [found["boxes"].tolist() for found in plain(outputs, regions)] == [boxes[0].tolist()] * 2


LEVELS = (60, 40, 20)  # anchors


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"keep_top_k": None},
        {"keep_top_k": 3, "top_k_per_class": None},
        {"top_k_per_class": 9},
        {"top_k_per_class": None, "top_k_per_level": 30, "level_lengths": LEVELS},
        {"top_k_per_level": 15, "level_lengths": LEVELS, "drop_empty": True, "keep_top_k": 4},
        {"iou_threshold": None, "keep_top_k": 7},
        {"score_threshold": 0.99},
        {"score_threshold": 1.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("chosen_by", ["score", "another", "its best class"])
def test_equals_what_it_was_bit_for_bit(seed, changes, chosen_by):
    """The code before it was made fast, on crowded boxes with ties of scores and of IoUs; few and many of a class."""
    num_classes = (1, 2, 7, 40)[seed]
    boxes, scores = random_boxes(sum(LEVELS), num_classes, seed)
    boxes[::7, 2] = boxes[::7, 0]  # without width
    if seed % 2:
        boxes += torch.rand(boxes.shape, generator=torch.Generator().manual_seed(seed)) / 3
    settings = {"score_threshold": 0.1, "iou_threshold": 0.4, "top_k_per_class": 100, "keep_top_k": 20, **changes}
    other = {"score": None, "another": random_boxes(sum(LEVELS), num_classes, seed + 50)[1]}
    other["its best class"] = best_class_only(scores[None])[0]
    expected = former_nms.multiclass_nms(boxes, scores, candidate_scores=other[chosen_by], **settings)
    if chosen_by == "its best class":
        found = multiclass_nms(boxes, scores, one_class_a_box=True, **settings)
    else:
        found = multiclass_nms(boxes, scores, candidate_scores=other[chosen_by], **settings)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].dtype == values.dtype
        assert torch.equal(found[name], values), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_iou_is_torchvisions_to_the_last_bit(dtype):
    """The threshold is each pair's own IoU: the worse box stays, and goes by the number next to it."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(300, 2, 2, generator=generator, dtype=dtype) * 12
    boxes = torch.cat([corners, corners + 20 + 40 * torch.rand(300, 2, 2, generator=generator, dtype=dtype)], -1)
    (a, b), sizes = boxes.unbind(1), (boxes[..., 2:] - boxes[..., :2]).prod(-1)
    sides = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0)
    common = sides.prod(-1)
    ious = (common / (sizes.sum(1) - common)).double()
    for pair, iou in zip(boxes, ious.tolist()):
        for threshold, count in ((iou, 2), (math.nextafter(iou, 0), 1)):
            limits = {"score_threshold": 0.0, "iou_threshold": threshold, "keep_top_k": None}
            scores = torch.tensor([[0.9], [0.8]], dtype=dtype)
            assert len(multiclass_nms(pair, scores, **limits)["anchors"]) == count
            assert len(former_nms.multiclass_nms(pair, scores, **limits)["anchors"]) == count


def test_a_chain_of_boxes_is_settled_to_its_end():
    """Each removes the next alone, so that every second one stays, as far as a class is compared in pairs."""
    starts = torch.arange(GROUP_OF_PAIRS).float() * 4
    boxes = torch.stack([starts, torch.zeros_like(starts), starts + 10, torch.full_like(starts, 9.0)], 1)  # IoU 6 / 14
    scores = torch.linspace(0.9, 0.2, len(starts))[:, None]
    found = multiclass_nms(boxes, scores, score_threshold=0.1, iou_threshold=0.4, keep_top_k=None)
    assert found["anchors"].tolist() == list(range(0, GROUP_OF_PAIRS, 2))


def test_only_the_beginning_of_the_candidates_is_sorted(monkeypatch):
    """An untrained network: every score of every class is above the threshold, and few are looked at."""
    looked_at = []
    monkeypatch.setattr(nms, "_survivors", lambda boxes, *rest: looked_at.append(len(boxes)) or np.arange(len(boxes)))
    scores = torch.rand(500, 20, generator=torch.Generator().manual_seed(0)) / 2 + 0.4
    boxes, _ = random_boxes(500, 1, 0)
    multiclass_nms(boxes, scores, score_threshold=0.1, iou_threshold=0.5, keep_top_k=10)
    assert looked_at == [40]


def test_finite_outputs_whose_sum_overflows_are_none_of_a_broken_network():
    decoder = Fixed(score_threshold=0.3, nms_iou=0.5, nms_top_k=10, keep_top_k=10)
    boxes = torch.full((1, 3, 4), 3e38)
    assert len(decoder((boxes, torch.full((1, 3, 1), 0.5)))[0]["scores"]) == 3
