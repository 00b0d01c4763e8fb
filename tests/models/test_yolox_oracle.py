"""YOLOX against Megvii's code: from pixels to outputs, losses, gradients and a step; and real trained weights.

The tests of YOLOX-s run on the whole oracle where `../shared` is present, else on the reduced figures in `tests/figures`,
which are parts of it (a test holds that they are); those of nano and Darknet-53, and of the real weights, need it.  Ours
compute in float64, so that the limits leave room for the original's float32 alone: see `tests/helpers/numerics.py`.
"""

import copy
import functools
import json
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from public.decoders import create_decoder
from public.input import prepare
from public.losses import create_loss
from public.models import create_model
from public.models.fuse import fuse
from public.protocols import Progress
from public.training.optimizers import SGD
from public.weights.detectors import released
from public.weights.detectors.yolox import layer_names
from tests.figures.fill_rule import fill, oracle_input
from tests.figures.make_yolox_figures import CASES, RUNS, load_figures, load_oracle
from tests.helpers.detector_oracles import Oracle, converted
from tests.helpers.numerics import assert_same_in_float64
from tests.helpers.places import SHARED

ORACLES = SHARED / "oracles/yolox"
NAMES = {"yolox_s": "yolox_s", "yolox_nano": "yolox_nano", "yolov3": "yolox_darknet53"}  # of the oracle -> ours
SIZES = {  # parameters and classes 80, of the original; recipes/yolox_and_torch.md, 1.1
    "yolox_nano": 912_159,
    "yolox_tiny": 5_055_855,
    "yolox_s": 8_968_255,
    "yolox_m": 25_326_495,
    "yolox_l": 54_208_895,
    "yolox_x": 99_071_455,
    "yolox_darknet53": 63_724_767,
}
TERMS = {"loss_iou": "iou_loss", "loss_obj": "conf_loss", "loss_cls": "cls_loss", "loss_l1": "l1_loss"}


PART = "whole" if ORACLES.exists() else "reduced"


@pytest.fixture(scope="module", params=[pytest.param(PART, marks=pytest.mark.numeric)])
def figures(request):
    return load_figures() if request.param == "reduced" else load_oracle(ORACLES)


def test_the_reduced_figures_are_parts_of_the_whole_oracle():
    """So what holds of the whole holds of them, and a clone without it tests the same."""
    if not ORACLES.exists():
        pytest.skip(f"the whole oracles are not at {ORACLES}")
    few, whole = load_figures(), load_oracle(ORACLES)
    assert few.keys() == whole.keys()
    for key in ("entries", "targets", "assignments", "claims", "losses"):
        assert few[key] == whole[key], key
    for key in ("gradients", "after_step"):
        assert few[key].keys() == whole[key].keys()
        for run, values in few[key].items():
            assert len(values) > 10
            assert values == {name: whole[key][run][name] for name in values}
    for key in ("raw", "boxes"):
        index, values = few[key]
        places, all_values = whole[key]
        assert len(index) >= 100
        shape = tuple(places.max(axis=0) + 1)
        np.testing.assert_array_equal(all_values.reshape(*shape, *all_values.shape[1:])[tuple(index.T)], values)
    assert few["statistics"].keys() == whole["statistics"].keys()
    for name, values in few["statistics"].items():
        np.testing.assert_array_equal(values, whole["statistics"][name])
    for kept, all_kept in zip(few["kept"], whole["kept"], strict=True):
        assert len(kept) > 0
        np.testing.assert_array_equal(kept, all_kept[: len(kept)])


def make_model(figures: dict) -> torch.nn.Module:
    """YOLOX-s with the oracle's weights, in float64."""
    state = {}
    for name, shape in figures["entries"]:
        if name.endswith("num_batches_tracked"):
            state[name] = np.array(0)
        elif name in figures["statistics"]:
            state[name] = figures["statistics"][name].astype(np.float32)
        else:
            state[name] = fill(name, tuple(shape))
    model = create_model("yolox_s")
    model.load_state_dict(released("yolox_s", "yolox").rename(state), strict=True)
    return model.double()


def images() -> torch.Tensor:
    return torch.from_numpy(oracle_input("yolox_s", (2, 3, 160, 224))).double()


@pytest.fixture(scope="module")
def eval_model(figures):
    return make_model(figures).eval()


@pytest.fixture(scope="module")
def outputs(eval_model):
    with torch.no_grad():
        return eval_model(images())


@pytest.fixture(scope="module")
def trained(figures):
    """The model in train mode, and its outputs, by batch statistics."""
    model = make_model(figures).train()
    return model, model(images())


def raw_of(outputs) -> np.ndarray:
    """(B, A, 85) in the order of the original: box, object, classes."""
    return torch.cat([outputs.box_codes, outputs.object_logits, outputs.class_logits], dim=2).numpy()


def centres_and_sides(boxes: torch.Tensor) -> np.ndarray:
    return torch.cat([(boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]], dim=-1).numpy()


# ---------------------------------------------------------------------------------------------- the network


def test_raw_outputs_and_boxes(figures, outputs):
    index, expected = figures["raw"]
    np.testing.assert_allclose(raw_of(outputs)[tuple(index.T)], expected, rtol=0, atol=1e-6)
    boxes, scores = create_decoder("yolox_s").decode(outputs)
    index, expected = figures["boxes"]
    np.testing.assert_allclose(centres_and_sides(boxes)[tuple(index.T)], expected, rtol=0, atol=1e-4)
    assert outputs.level_sizes == ((20, 28), (10, 14), (5, 7))
    assert boxes.dtype == scores.dtype == torch.float64, "float32 is the least, not the most"


def test_kept_detections(figures, outputs):
    detections = create_decoder("yolox_s", score_threshold=0.3, nms_iou=0.45)(outputs)
    for found, expected in zip(detections, figures["kept"], strict=True):
        kept = slice(len(expected))
        np.testing.assert_array_equal(found["labels"][kept], expected[:, 6])
        np.testing.assert_allclose(found["scores"][kept], expected[:, 4] * expected[:, 5], rtol=0, atol=1e-6)
        np.testing.assert_allclose(found["boxes"][kept], expected[:, :4], rtol=0, atol=1e-4)


def test_fused_equals_unfused(eval_model, outputs):
    with torch.no_grad():
        fused = fuse(eval_model)(images())
    for part in ("class_logits", "object_logits", "box_codes"):
        assert_same_in_float64(getattr(fused, part), getattr(outputs, part), what=part)


@pytest.mark.parametrize("oracle_name", ["yolox_nano", pytest.param("yolov3", marks=pytest.mark.slow)])
def test_the_other_networks(oracle_name):
    """Through the converter's file, as a user goes."""
    oracle = Oracle.read("yolox", oracle_name)
    name = NAMES[oracle_name]
    model, checkpoint = converted(oracle, name)
    assert (checkpoint["model_name"], checkpoint["num_classes"]) == (name, 80)
    with torch.no_grad():
        outputs = model.double().eval()(oracle.images().double())
    levels = [oracle.results[f"cal/raw.{level}"] for level in range(3)]
    expected = np.concatenate([level.reshape(2, 85, -1).transpose(0, 2, 1) for level in levels], axis=1)
    np.testing.assert_allclose(raw_of(outputs), expected, rtol=0, atol=2e-6)
    detections = create_decoder(name, score_threshold=0.3, nms_iou=0.45)(outputs)
    for image, found in enumerate(detections):
        expected = oracle.results[f"cal/post_c30n45.{image}"]
        np.testing.assert_array_equal(found["labels"], expected[:, 6])
        np.testing.assert_allclose(found["scores"], expected[:, 4] * expected[:, 5], rtol=0, atol=1e-6)
        np.testing.assert_allclose(found["boxes"], expected[:, :4], rtol=1e-6, atol=1e-3)


@pytest.mark.parametrize("name", SIZES)
def test_parameter_counts(name):
    with torch.device("meta"):
        model = create_model(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == SIZES[name]


@pytest.mark.parametrize("name", SIZES)
def test_every_batchnorm_has_the_constants_of_the_original(name):
    with torch.device("meta"):
        model = create_model(name, num_classes=3)
    layers = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert layers
    assert {(layer.eps, layer.momentum) for layer in layers} == {(1e-3, 0.03)}
    activations = {type(module) for module in model.modules() if "activation" in type(module).__module__}
    expected = torch.nn.LeakyReLU if name == "yolox_darknet53" else torch.nn.SiLU
    assert activations - {torch.nn.Identity} == {expected}


def test_initial_values():
    """torch's own for every layer, also where the backbone's family has others; the priors of class and object."""
    torch.manual_seed(0)
    model = create_model("yolox_darknet53", num_classes=3)
    for conv in (model.backbone.stages[4].blocks[0].conv2.conv, model.neck.deepest[1].conv):
        bound = conv.weight[0].numel() ** -0.5
        assert 0.99 * bound < conv.weight.abs().max() <= bound
    for preds in (model.head.class_preds, model.head.object_preds):
        for pred in preds:
            torch.testing.assert_close(pred.bias.sigmoid(), torch.full_like(pred.bias, 0.01))
    assert model.head.box_preds[0].bias.abs().max() < 1 / 16


def test_wrong_image_size_is_named():
    with pytest.raises(ValueError, match=r"100 x 128 pixels: .*multiples of 32"):
        create_model("yolox_nano", num_classes=3)(torch.zeros(1, 3, 100, 128))


# ---------------------------------------------------------------------------------------------- training


def targets_of(figures: dict, case: str) -> list[dict[str, torch.Tensor]]:
    targets = []
    for image in figures["targets"][case]:
        rows = torch.tensor(image, dtype=torch.float64).reshape(-1, 5)
        centres, half = rows[:, 1:3], rows[:, 3:] / 2
        targets.append({"boxes": torch.cat([centres - half, centres + half], 1), "labels": rows[:, 0].long()})
    return targets


def terms_of(figures: dict, run: str, outputs) -> dict[str, torch.Tensor]:
    epoch = 284 if run.endswith("1") else 283  # the L1 term starts in epoch 284
    progress = Progress(epoch=epoch, step=epoch, step_in_epoch=0, num_epochs=300, steps_per_epoch=1)
    return create_loss("yolox_s", num_classes=80)(outputs, targets_of(figures, run[0]), progress)


@pytest.mark.parametrize("case", CASES)
def test_assignments(figures, trained, case):
    loss = create_loss("yolox_s", num_classes=80)
    assignment = loss.assign(trained[1], targets_of(figures, case), Progress(0, 0, 0, 300, 1))
    for image, expected in enumerate(figures["assignments"][case]):
        points = (assignment.labels[image] != 80).nonzero().squeeze(1)
        labels, ious = assignment.labels[image][points], assignment.scores[image][points]
        found = [list(row) for row in zip(points.tolist(), labels.tolist())]
        assert found == [row[:2] for row in expected]
        np.testing.assert_allclose(ious, [row[2] for row in expected], rtol=0, atol=3e-5)
        assert assignment.scores[image].count_nonzero() == len(points)


def test_claims(figures, trained):
    """The number of points that each object claims, before two claim the same."""
    loss = create_loss("yolox_s", num_classes=80)
    counts = []
    loss.assigner._counts = watch(loss.assigner._counts, counts)
    for case in CASES:
        counts.clear()
        targets = targets_of(figures, case)
        loss.assign(trained[1], targets, Progress(0, 0, 0, 300, 1))
        rows = counts[0].squeeze(-1).tolist() if counts else [[]] * len(targets)  # (B, G), G the most of an image
        found = [row[: len(target["labels"])] for row, target in zip(rows, targets)]
        assert found == figures["claims"][case]


def watch(function, results: list):
    def watched(*arguments):
        results.append(function(*arguments))
        return results[-1]

    return watched


@pytest.mark.parametrize("run", RUNS)
def test_loss_terms(figures, trained, run):
    terms = terms_of(figures, run, trained[1])
    expected = figures["losses"][run]
    assert terms.keys() == TERMS.keys()
    for ours, theirs in TERMS.items():
        assert terms[ours].item() == pytest.approx(expected[theirs], rel=5e-6, abs=0), ours
    assert sum(terms.values()).item() == pytest.approx(expected["total_loss"], rel=1e-6, abs=0)


@pytest.fixture(scope="module")
def gradients_of(figures, trained):
    """A function of a run: parameter -> gradient of the sum of the terms; each run is computed once."""

    @functools.cache
    def compute(run: str) -> dict[str, torch.Tensor]:
        parameters = dict(trained[0].named_parameters())
        total = sum(terms_of(figures, run, trained[1]).values())
        return dict(zip(parameters, torch.autograd.grad(total, parameters.values(), retain_graph=True)))

    return compute


@pytest.mark.parametrize("run", RUNS)
def test_gradients(figures, gradients_of, run):
    found = gradients_of(run)
    layers = layer_names("yolox_s")
    assert len(figures["gradients"][run]) >= 20
    for name, (norm, total) in figures["gradients"][run].items():
        layer, _, kind = name.rpartition(".")
        gradient = found[f"{layers[layer]}.{kind}"]
        if norm == 0:
            assert not gradient.any(), name
            continue
        assert gradient.norm().item() == pytest.approx(norm, rel=1e-4), name
        assert abs(gradient.sum().item() - total) <= 1e-4 * norm * gradient.numel() ** 0.5, name


@pytest.mark.parametrize("run", ["a_l10", "a_l11"])
def test_a_step(figures, trained, gradients_of, run):
    """Running statistics after the one forward pass, and the parameters after a step by our optimizer's groups."""
    model = copy.deepcopy(trained[0])
    for name, parameter in model.named_parameters():
        parameter.grad = gradients_of(run)[name].clone()
    sgd = SGD(momentum=0.9, nesterov=True, weight_decay=5e-4, decay_normalisation=False, decay_bias=False)
    sgd.build(model, lr=0.01).step()
    state, layers = model.state_dict(), layer_names("yolox_s")
    for name, norm in figures["after_step"][run].items():
        layer, _, kind = name.rpartition(".")
        assert state[f"{layers[layer]}.{kind}"].norm().item() == pytest.approx(norm, rel=3e-5), name


# ---------------------------------------------------------------------------------------------- pixels and files


PICTURES = ("synth480x640", "synth333x500", "synth700x301")
CANVASES = [(picture, side, side) for picture in PICTURES for side in (416, 640)] + [("synth480x640", 384, 512)]


def made_picture(height: int, width: int) -> np.ndarray:
    """The oracle's pictures: cells of 8 x 8 pixels, BGR."""
    rng = np.random.default_rng(zlib.crc32(f"image:{height}x{width}".encode()))
    cells = rng.integers(0, 256, size=(height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return np.ascontiguousarray(cells.repeat(8, axis=0).repeat(8, axis=1)[:height, :width])


@pytest.mark.parametrize(("picture", "height", "width"), CANVASES)
def test_letterbox_has_the_pixels_of_the_original(picture, height, width):
    folder = ORACLES / "preprocess"
    if not folder.exists():
        pytest.skip(f"the oracle is not at {folder}")
    name = f"letterbox.{picture}.{height}" if height == width else f"letterbox.{picture}.{height}x{width}"
    expected = json.loads((folder / "meta.json").read_text())[name]
    sides = tuple(int(side) for side in picture.removeprefix("synth").split("x"))
    bgr = made_picture(*sides)
    spec = replace(released("yolox_s", "yolox").input, size=(height, width))
    pixels, geometry = prepare(np.ascontiguousarray(bgr[..., ::-1]), spec)
    theirs = np.ascontiguousarray(pixels[..., ::-1].transpose(2, 0, 1))  # (3, H, W), BGR
    assert theirs.shape == tuple(expected["shape"])
    assert zlib.crc32(theirs.tobytes()) == expected["crc32_uint8"]
    assert geometry.scale_x == geometry.scale_y == expected["ratio"]
