"""Which detections without a partner count: not those of whose suppression the rounding decides."""

from types import SimpleNamespace

import pytest
import torch

from public.export.parity import match

DECODER = SimpleNamespace(score_threshold=0.1, keep_top_k=100, nms_iou=0.5)
SIZE = (128, 128)
BOUNDS = (0.05, 1e-4)
FIRST, SCORES = [0.0, 0.0, 90.0, 30.0], [0.9, 0.8]


def detections(*boxes: list[float], scores=SCORES, labels=(1, 1)) -> dict[str, torch.Tensor]:
    count = len(boxes)
    return {
        "boxes": torch.tensor(boxes),
        "scores": torch.tensor(scores[:count]),
        "labels": torch.tensor(labels[:count]),
    }


def unmatched(second: list[float], moved: float, **changes) -> int:
    """Of a file that suppressed `second`, and whose first box lies `moved` pixels aside."""
    first = [FIRST[0] + moved, *FIRST[1:]]
    return match(detections(FIRST, second, **changes), detections(first, **changes), DECODER, BOUNDS, SIZE).unmatched


@pytest.mark.parametrize(("shift", "expected"), [(30.0, 0), (30.001, 0), (29.0, 1), (33.0, 1)])
def test_at_the_threshold_of_suppression_rounding_decides(shift, expected):
    """Of two boxes of one size, `shift` apart, the overlap is (90 - shift) / (90 + shift): a half at 30."""
    assert unmatched([shift, 0.0, 90.0 + shift, 30.0], moved=0.003) == expected


def test_what_did_not_move_decides_alone():
    """Nor does a worse detection suppress, nor one of another class."""
    second = [30.001, 0.0, 120.001, 30.0]
    assert unmatched(second, moved=0.003) == 0
    assert unmatched(second, moved=0.0) == 1
    assert unmatched(second, moved=0.003, labels=(1, 2)) == 1
    assert unmatched(second, moved=0.003, scores=[0.8, 0.9]) == 1


def test_at_the_score_threshold_rounding_decides_as_well():
    apart = [0.0, 60.0, 90.0, 90.0]
    assert unmatched(apart, moved=0.0, scores=[0.9, 0.10005]) == 0
    assert unmatched(apart, moved=0.0, scores=[0.9, 0.1002]) == 1
