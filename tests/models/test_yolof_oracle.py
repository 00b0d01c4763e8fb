"""YOLOF against MMDetection: from its checkpoint to gradients.

The original computed in float32, ours compute in float64, so what the limits leave room for is the original's rounding.
It is large here, for the oracle's random network amplifies it: three times what `tolerances.json` states, 5e-3 of a logit.
So whatever follows from the outputs is compared from the original's own outputs on, where 1e-4 is enough.
"""

import copy

import numpy as np
import pytest
import torch

from public.decoders import create_decoder
from public.input import InputSpec
from public.losses import create_loss
from public.models import create_model
from public.models.detectors.one_stage import OneStageDetector
from public.models.detectors.yolof import YOLOFOutputs, with_objectness
from public.models.fuse import fuse
from public.protocols import Progress
from public.training.freezing import freeze_parameters
from public.weights.class_names import COCO_CLASSES
from public.weights.detectors.yolof import INPUT, layer_names
from tests.helpers.detector_oracles import Oracle, converted
from tests.helpers.numerics import assert_same_in_float64

NAME = "yolof_r50_mmdet"
START = Progress(epoch=0, step=0, step_in_epoch=0, num_epochs=12, steps_per_epoch=1)
FROZEN = ("backbone.stem", "backbone.stages.0")  # that the original does not train either
LEVEL_SIZES = ((5, 7),)
BOTH_CASES = pytest.mark.parametrize("case", ["a", "b"])


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return Oracle.read("mmdet", "yolof_r50_c5")


@pytest.fixture(scope="module")
def loaded(oracle) -> tuple[OneStageDetector, dict]:
    """The network in float64, and the converted checkpoint."""
    model, checkpoint = converted(oracle, NAME)
    return model.double(), checkpoint


@pytest.fixture(scope="module")
def outputs(oracle, loaded) -> YOLOFOutputs:
    with torch.no_grad():
        return loaded[0].eval()(oracle.images().double())


@pytest.fixture(scope="module")
def trained(oracle, loaded) -> tuple[OneStageDetector, YOLOFOutputs]:
    """A network in train mode, what the original freezes frozen, and its outputs."""
    model = copy.deepcopy(loaded[0]).train()
    freeze_parameters(model, FROZEN)
    return model, model(oracle.images().double())


def map_as_anchors(array: np.ndarray, channels: int) -> torch.Tensor:
    """A map (B, N * channels, H, W) of the original, anchor by anchor: (B, A, channels)."""
    batch = len(array)
    return torch.from_numpy(array).double().permute(0, 2, 3, 1).reshape(batch, -1, channels)


def original_outputs(oracle: Oracle) -> YOLOFOutputs:
    """The original's own; skips the test where only a part of them is there."""
    if "head/out0.lvl0" not in oracle.results:
        pytest.skip("the reduced figures hold a part of the outputs")
    return YOLOFOutputs(
        map_as_anchors(oracle.results["head/out0.lvl0"], 80),
        map_as_anchors(oracle.results["head/out1.lvl0"], 4),
        LEVEL_SIZES,
        tuple(oracle.meta["input"]["shape"][2:]),
    )


def test_the_converted_file_says_what_it_is(loaded):
    _, checkpoint = loaded
    assert checkpoint["model_name"] == NAME
    assert tuple(checkpoint["class_names"]) == COCO_CLASSES
    assert checkpoint["input"]["color_order"] == "bgr"
    assert InputSpec(**checkpoint["input"] | {"resize": INPUT.resize, "size": INPUT.size, "mean": INPUT.mean,
                                              "std": INPUT.std}) == INPUT  # fmt: skip


def as_map(values: torch.Tensor) -> torch.Tensor:
    """The inverse of `map_as_anchors`: (B, A, channels) -> (B, N * channels, H, W)."""
    height, width = LEVEL_SIZES[0]
    return values.reshape(len(values), height, width, -1).permute(0, 3, 1, 2)


def test_outputs_of_the_network(oracle, outputs):
    for name, key in (("class_logits", "out0.lvl0"), ("box_deltas", "out1.lvl0")):
        difference = oracle.difference(f"head/{key}", as_map(getattr(outputs, name)))
        assert difference <= 3 * oracle.tolerances[key]["max_abs"], name
    assert outputs.level_sizes == LEVEL_SIZES
    assert outputs.image_size == tuple(oracle.meta["input"]["shape"][2:])


def test_objectness_is_joined_as_in_the_original(oracle):
    expected = original_outputs(oracle).class_logits
    found = with_objectness(
        map_as_anchors(oracle.results["head/cls_raw"], 80), map_as_anchors(oracle.results["head/object_raw"], 1)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-6)


def test_anchors(oracle):
    anchors = create_decoder(NAME).make_anchors(LEVEL_SIZES, device=torch.device("cpu"))
    np.testing.assert_array_equal(anchors.flatten()[:40], oracle.results["prior.0/first"])
    mean, std, largest = oracle.results["prior.0/stats"]
    found = anchors.double()
    assert found.mean().item() == pytest.approx(mean, rel=1e-6)
    assert found.std(correction=0).item() == pytest.approx(std, rel=1e-6)
    assert found.abs().max().item() == largest


def test_detections(oracle):
    """From the original's outputs on: every kept box, in the order of the scores."""
    for image, found in enumerate(create_decoder(NAME)(original_outputs(oracle))):
        np.testing.assert_array_equal(found["labels"], oracle.results[f"det.{image}/labels"])
        np.testing.assert_allclose(found["scores"], oracle.results[f"det.{image}/scores"], rtol=0, atol=1e-6)
        np.testing.assert_allclose(found["boxes"], oracle.results[f"det.{image}/bboxes"], rtol=0, atol=2e-3)


def test_scores_of_the_network_are_the_originals(oracle, outputs):
    """Through both, each with its own rounding: scores of all anchors and classes."""
    _, scores = create_decoder(NAME).decode(outputs)
    _, expected = create_decoder(NAME).decode(original_outputs(oracle))
    torch.testing.assert_close(scores, expected, rtol=0, atol=3e-4)


def test_fused_equals_unfused(oracle, loaded):
    images = oracle.images().double()[:1, :, :64, :96]
    with torch.no_grad():
        expected, fused = loaded[0].eval()(images), fuse(loaded[0])(images)
    assert_same_in_float64(fused.class_logits, expected.class_logits)
    assert_same_in_float64(fused.box_deltas, expected.box_deltas)


@BOTH_CASES
def test_matches(oracle, trained, case):
    targets = oracle.targets(case)
    assignments = create_loss(NAME, num_classes=80).assign(trained[1], targets)
    for image, (found, target) in enumerate(zip(assignments, targets, strict=True)):
        expected = torch.from_numpy(oracle.results[f"{case}/assigned_gt.{image}"]).long()  # 0 background, -1 ignored
        is_object = expected > 0
        labels = torch.full_like(expected, 80)
        labels[is_object] = target["labels"][expected[is_object] - 1]
        assert torch.equal(found.labels, labels)
        assert torch.equal(found.is_counted, expected >= 0)
        assert bool(is_object.any()) == bool(len(target["labels"]))


@BOTH_CASES
def test_loss_terms(oracle, trained, case):
    with torch.no_grad():
        terms = create_loss(NAME, num_classes=80)(trained[1], oracle.targets(case), START)
    expected = oracle.meta["losses"][case]
    assert terms["loss_cls"].item() == pytest.approx(expected["loss_cls"], rel=1e-4)
    assert terms["loss_box"].item() == pytest.approx(expected["loss_bbox"], rel=1e-4)
    assert set(terms) == {"loss_cls", "loss_box"}


@BOTH_CASES
def test_gradients(oracle, trained, case):
    """Norms, parameter by parameter.  float32 moves ours by up to 0.6 per cent of a norm: ReLUs on the other side."""
    model, outputs = trained
    model.zero_grad()
    sum(create_loss(NAME, num_classes=80)(outputs, oracle.targets(case), START).values()).backward(retain_graph=True)
    layers, parameters = layer_names(NAME), dict(model.named_parameters())
    norms, differences = oracle.gradient_norms(case), []
    total = sum(norm**2 for norm in norms.values()) ** 0.5
    for name, expected in norms.items():
        layer, _, kind = name.rpartition(".")
        gradient = parameters.pop(f"{layers[layer]}.{kind}").grad
        difference = abs(gradient.norm().item() - expected)
        # what BatchNorm takes out again has no gradient but rounding: the biases before it
        assert difference <= 0.01 * expected + 1e-9 * total, name
        differences.append(difference / expected if expected > 1e-9 * total else 0.0)
    assert np.median(differences) < 1e-3
    assert all(parameter.grad is None for parameter in parameters.values()), "the original does not train these"


def test_training_leaves_the_backbones_statistics_alone(loaded, trained):
    before, after = loaded[0].state_dict(), trained[0].state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    statistics = {name for name in before if name.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    assert moved == {name for name in statistics if not name.startswith("backbone.")}


def test_parameter_counts(oracle):
    with torch.device("meta"):
        model = create_model(NAME, num_classes=80)
    freeze_parameters(model, FROZEN)
    counts = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    assert sum(count for count, _ in counts) == oracle.meta["params"]
    assert sum(count for count, is_trained in counts if is_trained) == oracle.meta["trainable"]
