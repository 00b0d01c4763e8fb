"""Non-maximum suppression against a plain loop over boxes."""

import pytest
import torch

from public.decoders.dense import DenseDecoder
from public.decoders.nms import multiclass_nms
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
