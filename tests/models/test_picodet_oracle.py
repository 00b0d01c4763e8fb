"""PicoDet-s against PaddleDetection: from outputs to gradients.

Each test runs on the whole oracle where `../shared` is present, else on the reduced figures in `tests/figures`.  The
original computed in float32, ours compute in float64: see `tests/models/test_ppyoloe_oracle.py` for what the limits leave
room for.
"""

import copy
import re

import numpy as np
import pytest
import torch

from public.decoders import create_decoder
from public.losses import create_loss
from public.models import create_model
from public.models.fuse import fuse
from public.points import cell_points
from public.protocols import Progress
from public.weights.detectors.picodet import copies_and_dead, rename_picodet
from tests.figures.fill_rule import fill, oracle_input
from tests.figures.make_figures import check_parts, load_figures, load_oracle
from tests.helpers.numerics import allowed, assert_same_in_float64, rounding
from tests.helpers.places import SHARED

ORACLE = SHARED / "oracles/paddle/picodet_s"
NAME, BACKBONE = "picodet_s", "lcnet_075"
RUNS = [f"{case}/{assigner}" for case in ("a_3_1", "b_2_0") for assigner in ("static", "aligned")]
LEVEL_SIZES = ((20, 28), (10, 14), (5, 7), (3, 4))
STRIDES = (8, 16, 32, 64)
TERMS = {"loss_vfl": "loss_cls", "loss_bbox": "loss_iou", "loss_dfl": "loss_dfl"}  # theirs, weighted too -> ours


PART = "whole" if ORACLE.exists() else "reduced"


@pytest.fixture(scope="module", params=[pytest.param(PART, marks=pytest.mark.numeric)])
def figures(request):
    return load_figures("picodet_s") if request.param == "reduced" else load_oracle(ORACLE)


def test_the_reduced_figures_are_parts_of_the_whole_oracle():
    """So what holds of the whole holds of them, and a clone without it tests the same."""
    if not ORACLE.exists():
        pytest.skip(f"the whole oracle is not at {ORACLE}")
    check_parts(load_figures("picodet_s"), load_oracle(ORACLE))


def checkpoint(figures: dict, gain: float) -> dict[str, np.ndarray]:
    """The arrays of the original's checkpoint, under the original's names."""
    state = {}
    for name, shape in figures["entries"]:
        if name in figures["fixed"]:
            state[name] = np.array(figures["fixed"][name], dtype=np.float32).reshape(shape)
            continue
        first_name = re.sub(r"^head\.head_(cls|reg)(\d)\.", r"head.head_\1_list.\2.", name)  # an array under two names
        state[name] = fill(first_name, tuple(shape))
        if len(shape) == 1 and name.endswith(".weight"):
            state[name] *= np.float32(gain)
    return state


def renamed(state: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    left_out = copies_and_dead(state)
    arrays = {name: array for name, array in state.items() if name not in left_out}
    return rename_picodet(arrays, network=BACKBONE)


def loaded_model(figures: dict, gain: float) -> torch.nn.Module:
    """In float64."""
    model = create_model(NAME, num_classes=80)
    model.load_state_dict(renamed(checkpoint(figures, gain)), strict=True)
    return model.double()


def images_of(tag: str) -> torch.Tensor:
    return torch.from_numpy(oracle_input(tag, (2, 3, 160, 224))).double()


@pytest.fixture(scope="module")
def eval_model(figures):
    return loaded_model(figures, figures["gain"]).eval()


@pytest.fixture(scope="module")
def outputs(eval_model):
    with torch.no_grad():
        return eval_model(images_of("picodet_s"))


@pytest.fixture(scope="module")
def train_outputs(figures):
    model = loaded_model(figures, gain=1.0).train()
    return model, model(images_of("picodet_s:train"))


# ---------------------------------------------------------------------------------------------- inference


def test_dense_scores_and_boxes(figures, outputs):
    boxes, scores = create_decoder(NAME).decode(outputs)
    index, expected = figures["scores"]
    np.testing.assert_allclose(scores.numpy()[tuple(index.T)], expected, rtol=0, atol=2e-5)
    index, expected = figures["boxes"]
    np.testing.assert_allclose(boxes.numpy()[tuple(index.T)], expected, rtol=0, atol=3e-3)
    assert outputs.level_sizes == LEVEL_SIZES


def test_kept_set(figures, outputs):
    detections = create_decoder(NAME)(outputs)
    for found, expected in zip(detections, figures["kept"], strict=True):
        pairs = torch.stack([found["labels"], found["anchors"]], dim=1)[: len(expected)]
        assert {tuple(pair) for pair in pairs.tolist()} == {tuple(pair) for pair in expected.tolist()}


def test_fused_equals_unfused(eval_model, outputs):
    with torch.no_grad():
        fused = fuse(eval_model)
        again = fused(images_of("picodet_s"))
    assert not [m for m in fused.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for name in ("class_logits", "align_logits", "box_logits"):
        assert_same_in_float64(getattr(again, name), getattr(outputs, name))


@pytest.mark.numeric
def test_float32_is_near_float64(eval_model, outputs):
    """What users compute with: the rounding of this CPU is small enough to find a mistake by."""
    with torch.no_grad():
        single = copy.deepcopy(eval_model).float()(images_of("picodet_s").float())
    for name in ("class_logits", "box_logits"):
        allowed(rounding(getattr(single, name), getattr(outputs, name)), cap=1e-3, what=name)


# ---------------------------------------------------------------------------------------------- training


def targets_of(run: dict) -> list[dict[str, torch.Tensor]]:
    return [
        {
            "boxes": torch.tensor([target["xyxy"] for target in image], dtype=torch.float64).reshape(-1, 4),
            "labels": torch.tensor([target["class"] for target in image], dtype=torch.int64),
        }
        for image in run["targets"]
    ]


def assign(loss, figures: dict, run: dict, image: int):
    """The assigner of the run on the original's own predictions."""
    grid = cell_points(LEVEL_SIZES, STRIDES, offset=0.5, device=torch.device("cpu"))
    points, strides = (x.double() for x in grid)
    is_static = run["epoch"] < loss.static_assigner_epochs
    boxes, scores = figures["predictions"]["static" if is_static else "aligned"]
    given = {"predicted_boxes": torch.from_numpy(boxes[image]).double(), **targets_of(run)[image]}
    if is_static:
        cells = torch.cat([points - 2.5 * strides, points + 2.5 * strides], dim=1)
        return loss.static_assigner(cells=cells, level_sizes=LEVEL_SIZES, num_classes=80, **given)
    class_scores = torch.from_numpy(scores[image]).double()
    return loss.assigner(points=points, strides=strides, class_scores=class_scores, **given)


@pytest.mark.parametrize("name", RUNS)
def test_assignments(figures, name):
    run = figures["runs"][name]
    loss = create_loss(NAME, num_classes=80)
    positives, boxes, scores, total = [], [], [], 0.0
    for image in range(2):
        assignment = assign(loss, figures, run, image)
        anchors = (assignment.labels != 80).nonzero().squeeze(1)
        labels = assignment.labels[anchors]
        positives.append(torch.stack([torch.full_like(anchors, image), anchors, labels], dim=1))
        boxes.append(assignment.boxes[anchors])
        scores.append(assignment.scores[anchors])
        total += assignment.scores.double().sum().item()  # over background too: it must be 0 there
    np.testing.assert_array_equal(torch.cat(positives).numpy(), run["positives"])
    np.testing.assert_array_equal(torch.cat(boxes).numpy(), run["positive_boxes"])
    np.testing.assert_allclose(torch.cat(scores).numpy(), run["positive_scores"], rtol=0, atol=1e-5)
    assert total == pytest.approx(run["scores_sum"], abs=1e-5)


def terms_of(run: dict, outputs) -> dict[str, torch.Tensor]:
    """The weighted terms and their sum, under the original's names."""
    loss = create_loss(NAME, num_classes=80)
    progress = Progress(epoch=run["epoch"], step=run["epoch"], step_in_epoch=0, num_epochs=300, steps_per_epoch=1)
    terms = loss(outputs, targets_of(run), progress)
    return {**{theirs: terms[ours] for theirs, ours in TERMS.items()}, "loss": sum(terms.values())}


@pytest.mark.parametrize("name", RUNS)
def test_loss_terms(figures, train_outputs, name):
    run = figures["runs"][name]
    with torch.no_grad():
        terms = terms_of(run, train_outputs[1])
    assert set(terms) == set(run["losses"])
    for term, expected in run["losses"].items():
        assert terms[term].item() == pytest.approx(expected, rel=5e-5, abs=0), term


# Hard swish bends at -3 and 3: its slope jumps there by half.  Of the millions of values that it sees, a few lie so near to a
# bend that the original's float32 puts them on the other side, and each moves the gradients before it: our own network in
# float32 differs from itself in float64 by up to 4 per cent of a parameter's norm.  So a parameter may differ by BENT, but
# those behind the last bend by rounding only.
ROUNDED, BENT = 5e-4, 1e-2


@pytest.mark.parametrize("name", RUNS)
def test_gradients(figures, train_outputs, name):
    run = figures["runs"][name]
    model, outputs = train_outputs
    terms = terms_of(run, outputs)
    parameters = dict(model.named_parameters())
    for term, pairs in run["gradients"].items():
        gradients = torch.autograd.grad(terms[term], parameters.values(), retain_graph=True, allow_unused=True)
        found = dict(zip(parameters, gradients))
        errors = {}
        for theirs, pair in pairs.items():
            if theirs.endswith(("_mean", "_variance", "project", "scale_reg")):
                continue  # Paddle lists what is not trained, and what nothing reads, among the parameters
            (ours,) = rename_picodet({theirs: np.zeros(1, dtype=np.float32)}, network=BACKBONE)
            errors[theirs] = difference(found[ours], pair, theirs, run["gradient_totals"][term])
        behind = [error for theirs, error in errors.items() if "head.head_" in theirs]
        assert max(behind) <= ROUNDED
        assert max(errors.values()) <= BENT, max(errors, key=lambda theirs: errors[theirs])


def difference(gradient: torch.Tensor | None, pair: list[float] | None, name: str, total: float) -> float:
    """How far the gradient of the parameter that the oracle calls `name` is from its own, as a share of its norm.

    Compared are the norm and the dot product with the oracle's direction; a millionth of the norm of all gradients is
    rounding.
    """
    norm, dot = pair or (0.0, 0.0)
    if norm == 0:
        assert gradient is None or not gradient.any(), name
        return 0.0
    assert gradient is not None, name
    direction = torch.from_numpy(oracle_input(f"grad:{name}", tuple(gradient.shape))).double()
    gap = max(abs(gradient.norm().item() - norm), abs((gradient * direction).sum().item() - dot))
    return max(gap - 1e-6 * total, 0.0) / norm


def test_running_variance_follows_the_unbiased_rule(shared):
    """The stated deviation: the original adds 0.1 of the biased variance, torch 0.1 of the unbiased one."""
    model = loaded_model(load_figures("picodet_s"), gain=1.0).train()
    model(images_of("picodet_s:train"))
    state = model.state_dict()
    stored = np.load(shared / "oracles/paddle/picodet_s/train_pred.npz")
    names = {key.split("/")[1] for key in stored if key.startswith("bn/")}
    assert len(names) == 3
    for name in names:
        biased, count = stored[f"bn/{name}/batch_var_biased"], stored[f"bn/{name}/count"]
        (ours,) = rename_picodet({f"{name}.weight": np.zeros(1, dtype=np.float32)}, network=BACKBONE)
        ours = ours.removesuffix(".weight")
        expected = stored[f"bn/{name}/var_after"] + 0.1 * biased / (count - 1)
        np.testing.assert_allclose(state[f"{ours}.running_mean"], stored[f"bn/{name}/mean_after"], rtol=2e-5, atol=2e-6)
        np.testing.assert_allclose(state[f"{ours}.running_var"], expected, rtol=2e-5)
