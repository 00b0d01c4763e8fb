"""RetinaNet against torchvision's and MMDetection's, from outputs to gradients, on their oracles.

The checkpoint is recreated from its names, converted by our command's function and loaded strictly.  The originals computed
in float32, ours compute in float64: both are fixed numbers, the same on every CPU, and the limits leave room for the
originals' rounding alone, which tolerances.json states.  The second implementations in `test_retinanet_torchvision.py`
compute in float64 too and leave no room.
"""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from public.decoders import create_decoder
from public.decoders.dense import clip_boxes
from public.input import to_image
from public.losses import create_loss
from public.losses.assigners.assignment import BACKGROUND, IGNORED
from public.models import create_model
from public.models.loading import load_weights
from public.protocols import Progress
from public.weights.detectors import released
from tests.figures.make_detector_figures import reduced, reduced_folder
from tests.helpers.detector_oracles import Oracle, converted, unequal_pictures

NAMES = {
    "torchvision": ("retinanet_resnet50_fpn", "retinanet_r50_torchvision"),
    "mmdet": ("retinanet_r50", "retinanet_r50_mmdet"),
}
LEVEL_SIZES = ((8, 12), (4, 6), (2, 3), (1, 2), (1, 1))
PROGRESS = Progress(epoch=0, step=0, step_in_epoch=0, num_epochs=12, steps_per_epoch=1)
RELU_SIDES = 1e-2  # by which the norm of a gradient behind many ReLUs may differ, see test_gradients


@pytest.fixture(scope="module", params=NAMES)
def original(request):
    """The oracle with our network of its weights, in float64, and what it gives in eval and in train mode."""
    name, ours = NAMES[request.param]
    oracle = Oracle.read(request.param, name)
    model, checkpoint = converted(oracle, ours)
    found = SimpleNamespace(oracle=oracle, name=ours, checkpoint=checkpoint, images=oracle.images().double())
    if request.param == "torchvision":  # whose oracle has BatchNorm's usual eps
        with torch.no_grad():
            found.with_eps_0 = model.double().eval()(found.images)
        model = create_model(ours, num_classes=91, backbone_options=(("bn_eps", 1e-5),))
        load_weights(model, checkpoint, Path("ours.pth"))
    found.model = model.double().eval()
    with torch.no_grad():
        found.outputs = found.model(found.images)
    found.train_outputs = found.model.train()(found.images)
    return found


def expected_name(original, output: str, level: int | None = None) -> str:
    """What the oracle calls our `output`, "class_logits" or "box_deltas"; MMDetection's has an array a level."""
    if original.oracle.source == "torchvision":
        return {"class_logits": "head/cls_logits", "box_deltas": "head/bbox_regression"}[output]
    return f"head/out{['class_logits', 'box_deltas'].index(output)}.lvl{level}"


def as_maps(values: torch.Tensor) -> list[torch.Tensor]:
    """(B, A, X) as the maps (B, 9 * X, H, W) of the levels."""
    levels = values.split([9 * height * width for height, width in LEVEL_SIZES], dim=1)
    return [
        level.reshape(len(level), height, width, -1).permute(0, 3, 1, 2)
        for level, (height, width) in zip(levels, LEVEL_SIZES)
    ]


def allowed(original, output: str, level: int | None = None) -> float:
    """Three times what tolerances.json lists for this output."""
    bounds = original.oracle.tolerances
    return 3 * bounds[expected_name(original, output, level).removeprefix("head/")]["max_abs"]


def test_the_reduced_figures_are_those_of_the_oracle(original):
    oracle = original.oracle
    folder = reduced_folder(oracle.source, NAMES[oracle.source][0])
    if oracle.folder == folder:
        pytest.skip("../shared is absent")
    few = Oracle.of(oracle.source, folder, {})
    assert few.meta == oracle.meta
    kept = {key: value for key, value in reduced(oracle.results).items() if key in few.results}
    assert kept.keys() == few.results.keys()
    assert all(np.array_equal(kept[key], few.results[key]) for key in kept)
    name = next(iter(few.results.keys() & oracle.results.keys()))
    assert few.difference(name, torch.from_numpy(oracle.results[name])) == 0


# ---------------------------------------------------------------------------------------------- eval mode


@pytest.mark.parametrize("output", ["class_logits", "box_deltas"])
def test_raw_outputs(original, output):
    found = getattr(original.outputs, output)
    assert original.outputs.level_sizes == LEVEL_SIZES
    if original.oracle.source == "torchvision":
        assert original.oracle.difference(expected_name(original, output), found) <= allowed(original, output)
        return
    for level, maps in enumerate(as_maps(found)):
        name = expected_name(original, output, level)
        assert original.oracle.difference(name, maps) <= allowed(original, output, level), name


@pytest.mark.parametrize("output", ["class_logits", "box_deltas"])
def test_the_published_network_has_no_eps(original, output):
    """torchvision sets the eps of its frozen BatchNorm to 0 once the published weights are loaded."""
    if original.oracle.source != "torchvision":
        pytest.skip("of torchvision's only")
    key = expected_name(original, output).replace("head/", "head_eps0/")
    expected = original.oracle.results[f"{key}/first"]
    found = getattr(original.with_eps_0, output).flatten().numpy()
    np.testing.assert_allclose(found[: len(expected)], expected, rtol=0, atol=allowed(original, output))
    usual = getattr(original.outputs, output).flatten().numpy()
    assert np.abs(usual[: len(expected)] - expected).max() > 3 * allowed(original, output), "the test cannot tell"


def test_anchors(original):
    anchors = create_decoder(original.name).coding.anchors(original.outputs)
    if original.oracle.source == "torchvision":
        assert original.oracle.difference("anchors", anchors) == 0
        return
    for level, boxes in enumerate(anchors.split([9 * height * width for height, width in LEVEL_SIZES])):
        expected = original.oracle.results[f"prior.{level}/first"]
        assert torch.equal(boxes.flatten()[: len(expected)], torch.from_numpy(expected))


def test_dense_scores_and_boxes(original):
    """Of the whole oracle; boxes as far from each other as the offsets, which the original rounds, can make them."""
    if original.oracle.folder == reduced_folder(original.oracle.source, NAMES[original.oracle.source][0]):
        pytest.skip("the reduced figures hold no whole anchors")
    decoder = create_decoder(original.name)
    boxes, scores = decoder.decode(original.outputs)
    logits, deltas = (original_points(original, output) for output in ("class_logits", "box_deltas"))
    assert (scores - logits.sigmoid()).abs().max() <= 1.1e-4
    expected = decoder.coding.boxes(decoder.coding.anchors(original.outputs), deltas)
    sides = (expected[..., 2:] - expected[..., :2]).amax(-1, keepdim=True)
    bound = max(allowed(original, "box_deltas", level) for level in range(5))
    assert ((boxes - expected).abs() <= (sides * bound).clamp(min=0.02)).all()
    assert (boxes - expected).abs().max() <= 0.1


def original_points(original, output: str) -> torch.Tensor:
    """The oracle's raw output as (B, A, X), in float64."""
    results = original.oracle.results
    if original.oracle.source == "torchvision":
        return torch.from_numpy(results[expected_name(original, output)]).double()
    maps = [torch.from_numpy(results[expected_name(original, output, level)]) for level in range(5)]
    channels = 80 if output == "class_logits" else 4
    return torch.cat([level.permute(0, 2, 3, 1).reshape(2, -1, channels) for level in maps], 1).double()


def test_detections(original):
    """The same are kept, each once; their order may differ where scores are nearer to each other than rounding."""
    for image, found in enumerate(create_decoder(original.name)(original.outputs)):
        check_detections(original.oracle, f"det.{image}", found)


def check_detections(oracle: Oracle, key: str, found: dict[str, torch.Tensor]) -> None:
    boxes = oracle.results.get(f"{key}/boxes", oracle.results.get(f"{key}/bboxes"))
    scores, labels = oracle.results[f"{key}/scores"], oracle.results[f"{key}/labels"]
    assert len(found["labels"]) == len(labels)
    assert (found["scores"].diff() <= 0).all()
    of_boxes = np.abs(found["boxes"][:, None].numpy() - boxes).max(-1)  # (ours, theirs), pixels, of boxes of up to 96
    of_scores = np.abs(found["scores"][:, None].numpy() - scores)
    distances = np.maximum(of_boxes / 0.05, of_scores / 2e-5)  # clipped boxes without area lie upon each other
    distances[found["labels"][:, None].numpy() != labels] = np.inf
    assert distances.min(0).max() <= 1
    assert len(set(distances.argmin(0).tolist())) == len(labels)


def test_unequal_pictures_go_the_same_way(original):
    """torchvision's detections of two pictures of unequal sizes are candidates with our rule, padding and way back.

    These pictures are not what the oracle's statistics were measured on: nearly all scores of both are exactly 1 in float32,
    so that which of them are kept is an accident there.  Their boxes and classes are none.
    """
    if original.oracle.source != "torchvision":
        pytest.skip("of torchvision's only")
    spec = replace(released(original.name, "torchvision").input, size=(64, 128))
    batch, geometries = unequal_pictures(original.oracle, spec)
    with torch.no_grad():
        boxes, scores = create_decoder(original.name).decode(original.model(batch.double()))
    boxes = clip_boxes(boxes, [geometry.region for geometry in geometries])
    candidates = [{"boxes": b, "scores": s, "labels": s} for b, s in zip(boxes, scores)]
    for image, found in enumerate(to_image(candidates, geometries)):
        kept = {key: original.oracle.results[f"full.{image}/{key}"] for key in ("boxes", "scores", "labels")}
        assert len(kept["labels"]) == 300
        for box, score, label in zip(kept["boxes"], kept["scores"], kept["labels"]):
            is_there = (found["boxes"] - torch.from_numpy(box)).abs().amax(1) < 0.05
            assert ((scores[image, :, label] - score).abs() < 1e-4)[is_there].any()


# ---------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("case", ["a", "b"])
def test_assignments(original, case):
    loss = create_loss(original.name, num_classes=len(original.checkpoint["class_names"]))
    targets = original.oracle.targets(case)
    assigned = loss.assign(original.train_outputs, targets)
    for image, target in enumerate(targets):
        objects = assigned.objects[image]
        assert torch.equal(objects, torch.from_numpy(expected_objects(original.oracle, case, image)))
        positive = objects > BACKGROUND
        assert torch.equal(assigned.labels[image][positive], target["labels"][objects[positive]])
        assert torch.equal(assigned.boxes[image][positive], target["boxes"][objects[positive]])
        assert (assigned.labels[image][~positive] == loss.num_classes).all()


def expected_objects(oracle: Oracle, case: str, image: int) -> np.ndarray:
    if oracle.source == "torchvision":
        return oracle.results[f"{case}/match.{image}"].astype(np.int64)  # -1 background, -2 ignored
    numbers = oracle.results[f"{case}/assigned_gt.{image}"].astype(
        np.int64
    )  # 0 background, -1 ignored, else number + 1
    return np.select([numbers == 0, numbers == -1], [BACKGROUND, IGNORED], numbers - 1)


def terms_of(original, case: str) -> dict[str, torch.Tensor]:
    loss = create_loss(original.name, num_classes=len(original.checkpoint["class_names"]))
    return loss(original.train_outputs, original.oracle.targets(case), PROGRESS)


@pytest.mark.parametrize("case", ["a", "b"])
def test_loss_terms(original, case):
    terms, expected = terms_of(original, case), original.oracle.meta["losses"][case]
    names = {"torchvision": ("classification", "bbox_regression"), "mmdet": ("loss_cls", "loss_bbox")}
    for term, name in zip(("loss_cls", "loss_box"), names[original.oracle.source]):
        assert terms[term].item() == pytest.approx(np.sum(expected[name]), rel=1e-4), term
    assert len(terms) == 2


@pytest.mark.parametrize("case", ["a", "b"])
def test_gradients(original, case):
    """Norms of all parameters that the original trains.

    With random weights some thousand inputs of ReLUs lie nearer to 0 than the original's rounding carries them, and each on
    the other side changes gradients: 0.1 % of torchvision's norms, 0.6 % of MMDetection's.  What the original leaves
    untrained is said by an experiment's `freeze`.
    """
    parameters = dict(original.model.named_parameters())
    rename = released(original.name, original.oracle.source).rename
    names = {theirs: next(iter(rename({theirs: np.zeros(1)}))) for theirs in original.oracle.gradient_norms(case)}
    used = [parameters[name] for name in names.values()]
    total = sum(terms_of(original, case).values())
    gradients = torch.autograd.grad(total, used, retain_graph=True)
    for (theirs, norm), gradient in zip(original.oracle.gradient_norms(case).items(), gradients, strict=True):
        limit = 5e-4 if names[theirs].startswith("head.pred_") else RELU_SIDES
        assert gradient.norm().item() == pytest.approx(norm, rel=limit), theirs
    untrained = parameters.keys() - set(names.values())
    assert {name.split(".")[1] for name in untrained} == {"stem", "stages"}


def test_batchnorm_of_the_backbone_is_what_the_original_trains(original):
    """torchvision's is frozen; of MMDetection's the statistics are, but the first stage, which `freeze` would name, all."""
    state = {name: value.clone() for name, value in original.model.state_dict().items()}
    original.model.train()(original.images)
    assert all(torch.equal(value, state[name]) for name, value in original.model.state_dict().items())
    is_trained = {parameter.requires_grad for name, parameter in original.model.named_parameters() if ".bn." in name}
    assert is_trained == {original.oracle.source == "mmdet"}


# ---------------------------------------------------------------------------------------------- weights


def test_both_namings_of_torchvisions_layers_are_accepted(original):
    """Those before torchvision 0.13 and those since."""
    if original.oracle.source != "torchvision":
        pytest.skip("of torchvision's only")
    rename = released(original.name, "torchvision").rename
    pairs = json.loads((original.oracle.folder / "alias.json").read_text())
    assert len(pairs) == 28
    for old, new in pairs.items():
        assert rename({old: np.zeros(1)}).keys() == rename({new: np.zeros(1)}).keys()


def test_the_checkpoint_says_what_it_is(original):
    checkpoint = original.checkpoint
    num_classes = {"torchvision": 91, "mmdet": 80}[original.oracle.source]
    assert checkpoint["num_classes"] == num_classes == len(checkpoint["class_names"])
    assert checkpoint["class_names"][num_classes - 1] == "toothbrush"
    assert checkpoint["input"]["size"] == [800, 1333]
    assert set(checkpoint["detector"]) == {"RetinaNet"}
