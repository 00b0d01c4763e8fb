"""NMS as a graph of fixed shapes gives what `multiclass_nms` gives, bit for bit; in torch, and in ONNX Runtime."""

import numpy as np
import pytest
import torch
from torch import nn

from public.decoders.nms import multiclass_nms
from public.export.nms import NO_LABEL, best_detections

LEVELS = (40, 20)  # anchors
PLAIN = {
    "score_threshold": 0.3,
    "iou_threshold": 0.5,
    "keep_top_k": 30,
    "top_k_per_class": None,
    "top_k_per_level": None,
    "level_lengths": (),
    "drop_empty": False,
}
CASES = {
    "plain": {},
    "threshold 0": {"score_threshold": 0.0},
    "few of a class": {"top_k_per_class": 7},
    "few of a level": {"top_k_per_level": 25, "level_lengths": LEVELS},
    "a level with less": {"top_k_per_level": 100, "level_lengths": LEVELS},
    "empty ones out": {"drop_empty": True},
    "no suppression": {"iou_threshold": None, "top_k_per_class": 9},
    "more wanted than there are": {"keep_top_k": 1000},
}


def made(
    seed: int, levels: tuple[int, int] = LEVELS, *, is_tied: bool = False
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Boxes (2, A, 4), scores and other scores (2, A, 3): clusters that overlap, some boxes without area."""
    rng = np.random.default_rng(seed)
    count = sum(levels)
    centres = rng.integers(1, 5, (2, count, 2)) * 20.0 + rng.normal(0, 3, (2, count, 2))
    sides = rng.uniform(0, 30, (2, count, 2)) * (rng.random((2, count, 1)) > 0.1)
    boxes = np.concatenate([centres - sides / 2, centres + sides / 2], -1)
    scores = rng.random((2, 2, count, 3))
    if is_tied:
        scores = scores.round(1)
    return (*(torch.from_numpy(value.astype(np.float32)) for value in (boxes, scores[0], scores[1])),)


def assert_equal(found, boxes, scores, candidates, limits) -> None:
    counts, *rest = (torch.as_tensor(value) for value in found)
    for image in range(len(boxes)):
        chosen = None if candidates is None else candidates[image]
        expected = multiclass_nms(boxes[image], scores[image], candidate_scores=chosen, **limits)
        number = len(expected["scores"])
        assert counts[image] == number > 0
        for name, values in zip(("boxes", "scores", "labels"), rest):
            assert torch.equal(values[image, :number], expected[name]), name
        assert (rest[2][image, number:] == NO_LABEL).all()
        assert not rest[0][image, number:].any()
        assert not rest[1][image, number:].any()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("has_candidates", [False, True])
def test_equals_multiclass_nms(name, has_candidates):
    limits = PLAIN | CASES[name]
    for seed in range(3):
        boxes, scores, other = made(seed)
        candidates = other if has_candidates else None
        found = best_detections(boxes, scores, candidates, **limits)
        assert_equal(found, boxes, scores, candidates, limits)


def test_what_is_no_number_is_said():
    boxes, scores, _ = made(0)
    scores[1, 3, 1] = torch.nan
    assert best_detections(boxes, scores, None, **PLAIN)[0].tolist()[1] == -1
    boxes[0, 5, 2] = torch.inf
    assert best_detections(boxes, scores, None, **PLAIN)[0].tolist() == [-1, -1]


IN_ONNX = [CASES[name] for name in ("few of a class", "few of a level", "no suppression")]


class SomeCases(nn.Module):
    """Several cases as one graph, the last with other scores that make candidates; two of three anchors are of level 1."""

    def forward(self, boxes, scores, other):
        lengths = (boxes.shape[1] // 3 * 2, boxes.shape[1] // 3)
        cases = [limits | ({"level_lengths": lengths} if "level_lengths" in limits else {}) for limits in IN_ONNX]
        found = [best_detections(boxes, scores, None, **(PLAIN | limits)) for limits in cases]
        found.append(best_detections(boxes, scores, other, **(PLAIN | {"drop_empty": True})))
        return tuple(value for one in found for value in one)


@pytest.mark.parametrize("is_any_size", [False, True])
def test_onnx_runtime_gives_the_same(is_any_size, tmp_path):
    """Ties too: of equal scores the lower class, then the lower anchor.  Of any number of anchors as well."""
    pytest.importorskip("onnxscript", reason="needs onnxscript: pip install onnx onnxscript onnxruntime")
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install onnxruntime")
    from public.export.onnx_file import OPSET, translations

    source = SomeCases().eval()
    if is_any_size:
        dims = {1: 3 * torch.export.Dim("third", min=20, max=500)}
        source = torch.export.export(source, made(0), dynamic_shapes=(dims, dims, dims), strict=False)
    program = torch.onnx.export(
        source,
        () if is_any_size else made(0),
        dynamo=True,
        opset_version=OPSET,
        custom_translation_table=translations(),
        verbose=False,
    )
    program.save(tmp_path / "nms.onnx")
    session = runtime.InferenceSession(tmp_path / "nms.onnx")
    names = [value.name for value in session.get_inputs()]
    for seed, is_tied in ((0, False), (1, False), (2, True), (3, True)):
        for levels in [LEVELS, (60, 30), (200, 100)] if is_any_size else [LEVELS]:
            boxes, scores, other = made(seed, levels, is_tied=is_tied)
            feed = {name: value.numpy() for name, value in zip(names, (boxes, scores, other))}
            found = session.run(None, feed)
            for place, limits in enumerate([*IN_ONNX, {"drop_empty": True}]):
                candidates = other if place == len(IN_ONNX) else None
                own = limits | ({"level_lengths": levels} if "level_lengths" in limits else {})
                assert_equal(found[4 * place : 4 * place + 4], boxes, scores, candidates, PLAIN | own)
