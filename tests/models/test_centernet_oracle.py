"""CenterNet against MMDetection, with deformable convolutions by its figures, without them by a second implementation.

The original computed in float32, ours compute in float64, so what the limits leave room for is the original's rounding.
It is large here, for the oracle's random network amplifies it: three times what `tolerances.json` states, 2e-3 of a score.
So whatever follows from the outputs is compared from the original's own outputs on, where 1e-4 is enough.
"""

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from public.checkpoint_files import load_checkpoint
from public.decoders import create_decoder
from public.input import InputSpec
from public.losses import create_loss
from public.models import create_model
from public.models.dense import as_points
from public.models.detectors.centernet import CenterNetModel, CenterNetOutputs
from public.models.fuse import fuse
from public.models.loading import load_weights
from public.protocols import Progress
from public.weights.class_names import COCO_CLASSES
from public.weights.convert import convert
from public.weights.detectors.centernet import MMDET_INPUT, rename
from tests.helpers.detector_oracles import Oracle, converted
from tests.helpers.numerics import assert_same_in_float64

NAME = "centernet_r18_dcn_mmdet"
START = Progress(epoch=0, step=0, step_in_epoch=0, num_epochs=140, steps_per_epoch=1)
SIZE = (24, 32)  # of the map
STRIDE = 4
BOTH_CASES = pytest.mark.parametrize("case", ["a", "b"])


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return Oracle.read("mmdet", "centernet_r18_dcnv2")


@pytest.fixture(scope="module")
def loaded(oracle) -> tuple[CenterNetModel, dict]:
    """The network in float64, and the converted checkpoint."""
    model, checkpoint = converted(oracle, NAME)
    return model.double(), checkpoint


@pytest.fixture(scope="module")
def outputs(oracle, loaded) -> CenterNetOutputs:
    with torch.no_grad():
        return copy.deepcopy(loaded[0]).eval()(oracle.images().double())


@pytest.fixture(scope="module")
def trained(oracle, loaded) -> tuple[CenterNetModel, CenterNetOutputs]:
    """A network in train mode, and its outputs."""
    model = copy.deepcopy(loaded[0]).train()
    return model, model(oracle.images().double())


def as_map(points: torch.Tensor) -> torch.Tensor:
    """(B, A, C) -> (B, C, H, W)"""
    return points.transpose(1, 2).unflatten(2, SIZE)


def original_outputs(oracle: Oracle) -> CenterNetOutputs:
    """In float32, as they were stored, the heat map behind its sigmoid; skips where only a part of them is there."""
    if "head/out0.lvl0" not in oracle.results:
        pytest.skip("the reduced figures hold a part of the outputs")
    heatmap, sizes, offsets = (torch.from_numpy(oracle.results[f"head/out{i}.lvl0"]) for i in range(3))
    return CenterNetOutputs(as_points(heatmap.double().logit()), as_points(sizes), as_points(offsets), (SIZE,))


def our_name(name: str) -> str:
    return next(iter(rename({name: np.zeros(1, dtype=np.float32)})))


# ---------------------------------------------------------------------------------------------- the network


def test_the_converted_file_says_what_it_is(loaded):
    _, checkpoint = loaded
    assert checkpoint["model_name"] == NAME
    assert tuple(checkpoint["class_names"]) == COCO_CLASSES
    assert isinstance(MMDET_INPUT, InputSpec)
    assert checkpoint["input"]["size"] == [512, 512]


def test_raw_outputs(oracle, outputs):
    assert outputs.level_sizes == (SIZE,)
    found = (outputs.class_logits.sigmoid(), outputs.sizes_wh, outputs.offsets_xy)
    for i, points in enumerate(found):
        limit = 3 * oracle.tolerances[f"out{i}.lvl0"]["max_abs"]
        assert oracle.difference(f"head/out{i}.lvl0", as_map(points)) <= limit


def test_torchvisions_convolution_gives_the_same_outputs(oracle, loaded, outputs):
    model = copy.deepcopy(loaded[0]).eval()
    for block in model.neck.blocks:
        block.conv.conv.form = "torchvision"
    with torch.no_grad():
        found = model(oracle.images().double())
    for name in ("class_logits", "sizes_wh", "offsets_xy"):
        assert_same_in_float64(getattr(found, name), getattr(outputs, name), what=name)


def test_fused_equals_unfused(oracle, loaded, outputs):
    model = fuse(loaded[0])
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
    with torch.no_grad():
        fused = model(oracle.images().double())
    for name in ("class_logits", "sizes_wh", "offsets_xy"):
        assert_same_in_float64(getattr(fused, name), getattr(outputs, name), what=name)


def test_detections_are_the_originals(oracle, outputs):
    """The hundred of each image: label and cell; the order of two whose scores differ by less than rounding is free."""
    detections = create_decoder(NAME)(outputs)
    boxes, _ = create_decoder(NAME).decode(outputs)
    for image, found in enumerate(detections):
        stored = {name: oracle.results[f"det.{image}/{name}"] for name in ("bboxes", "scores", "labels")}
        assert len(found["scores"]) == len(stored["scores"]) == 100
        np.testing.assert_allclose(found["scores"], stored["scores"], rtol=0, atol=1e-4)
        pairs = set(zip(found["labels"].tolist(), found["anchors"].tolist()))
        for box, label in zip(stored["bboxes"], stored["labels"]):
            distances = (boxes[image] - torch.from_numpy(box)).abs().amax(1)  # (A,)
            assert distances.min() < 0.02
            assert (int(label), int(distances.argmin())) in pairs


def test_decoding_the_originals_outputs(oracle):
    """Boxes and scores themselves, to the rounding of a float32."""
    detections = create_decoder(NAME)(original_outputs(oracle))
    for image, found in enumerate(detections):
        stored = {name: oracle.results[f"det.{image}/{name}"] for name in ("bboxes", "scores", "labels")}
        np.testing.assert_allclose(found["scores"], stored["scores"], rtol=0, atol=1e-6)
        np.testing.assert_allclose(found["boxes"], stored["bboxes"], rtol=0, atol=1e-3)
        np.testing.assert_array_equal(found["labels"], stored["labels"])


# ---------------------------------------------------------------------------------------------- the loss


@BOTH_CASES
def test_targets_are_the_originals(oracle, case):
    loss = create_loss(NAME, num_classes=80)
    assigned = [loss.assign(target, SIZE) for target in oracle.targets(case)]
    heatmap = torch.stack([image.heatmap for image in assigned]).numpy()
    index, values = oracle.results[f"{case}/heatmap_index"], oracle.results[f"{case}/heatmap_value"]
    np.testing.assert_array_equal(np.argwhere(heatmap > 0), index)
    np.testing.assert_allclose(heatmap[tuple(index.T)], values, rtol=1e-6, atol=0)  # an exponent near 9, rounded
    for name, stored in (("sizes_wh", "wh_target"), ("offsets_xy", "offset_target")):
        listed = []  # image by image, first all x, then all y, cell by cell
        for image in assigned:
            listed += getattr(image, name)[image.cells.argsort()].T.flatten().tolist()
        np.testing.assert_allclose(listed, oracle.results[f"{case}/{stored}"], rtol=0, atol=1e-6)
    assert all((image.is_used == 1).all() for image in assigned)


@BOTH_CASES
def test_loss_terms(oracle, trained, case):
    with torch.no_grad():
        terms = create_loss(NAME, num_classes=80)(trained[1], oracle.targets(case), START)
    stored = oracle.meta["losses"][case]
    names = {"loss_heatmap": "loss_center_heatmap", "loss_size": "loss_wh", "loss_offset": "loss_offset"}
    assert terms.keys() == names.keys()
    for ours, theirs in names.items():
        assert terms[ours].item() == pytest.approx(stored[theirs], rel=1e-4), ours
    assert sum(terms.values()).item() == pytest.approx(stored["total"], rel=1e-5)


@BOTH_CASES
def test_gradients(oracle, trained, case):
    """Norms of all parameters.

    Those before the head differ by up to 4.4e-3 of themselves, the bias of an offset most: bilinear reading has a kink at
    each whole cell, and float32 puts some places on the other side of it.  With torchvision's own operation, in float64, ours
    are the same to 1e-13; in float32 they differ from float64 by up to 6e-3.
    """
    model, outputs = trained
    total = sum(create_loss(NAME, num_classes=80)(outputs, oracle.targets(case), START).values())
    parameters = dict(model.named_parameters())
    found = torch.autograd.grad(total, parameters.values(), retain_graph=True)
    norms = {name: gradient.norm().item() for name, gradient in zip(parameters, found)}
    stored = oracle.gradient_norms(case)
    assert {our_name(name) for name in stored} == parameters.keys()
    for name, norm in stored.items():
        limit = 5e-4 if name.startswith("bbox_head") else 6e-3
        assert norms[our_name(name)] == pytest.approx(norm, rel=limit), name


# ---------------------------------------------------------------------------------------------- without deformable ones


def plain_state(oracle: Oracle) -> dict[str, torch.Tensor]:
    """The state of MMDetection's network without deformable convolutions: the other one's, without their offsets."""
    return {name: value for name, value in oracle.state().items() if "conv_offset" not in name}


def original_forward(state: dict[str, torch.Tensor], images: torch.Tensor) -> list[torch.Tensor]:
    """A second implementation, by the original's names: heat map before the sigmoid, sizes, offsets, as maps."""

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        mean, var, weight, bias = (state[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, mean, var, weight, bias, eps=1e-5)

    x = F.conv2d(images, state["backbone.conv1.weight"], stride=2, padding=3)
    x = F.max_pool2d(norm(x, "backbone.bn1").relu(), 3, stride=2, padding=1)
    for layer in range(1, 5):
        for block in range(2):
            name = f"backbone.layer{layer}.{block}"
            stride = 2 if layer > 1 and block == 0 else 1
            y = norm(F.conv2d(x, state[f"{name}.conv1.weight"], stride=stride, padding=1), f"{name}.bn1").relu()
            y = norm(F.conv2d(y, state[f"{name}.conv2.weight"], padding=1), f"{name}.bn2")
            if stride == 2:
                x = norm(F.conv2d(x, state[f"{name}.downsample.0.weight"], stride=2), f"{name}.downsample.1")
            x = (x + y).relu()
    for number in range(3):
        plain, enlarge = (f"neck.deconv_layers.{2 * number + i}" for i in range(2))
        x = norm(F.conv2d(x, state[f"{plain}.conv.weight"], padding=1), f"{plain}.bn").relu()
        x = F.conv_transpose2d(x, state[f"{enlarge}.conv.weight"], stride=2, padding=1)
        x = norm(x, f"{enlarge}.bn").relu()
    maps = []
    for branch in ("heatmap", "wh", "offset"):
        first, last = (f"bbox_head.{branch}_head.{i}" for i in (0, 2))
        hidden = F.conv2d(x, state[f"{first}.weight"], state[f"{first}.bias"], padding=1).relu()
        maps.append(F.conv2d(hidden, state[f"{last}.weight"], state[f"{last}.bias"]))
    return maps


def test_without_deformable_convolutions_it_agrees_with_a_second_implementation(oracle, tmp_path):
    state = plain_state(oracle)
    torch.save({"meta": {"epoch": 28}, "state_dict": state}, tmp_path / "original.pth")
    convert(
        source="mmdet", model_name="centernet_r18_mmdet", file=tmp_path / "original.pth", output=tmp_path / "ours.pth"
    )
    model = create_model("centernet_r18_mmdet", num_classes=80)
    load_weights(model, load_checkpoint(tmp_path / "ours.pth"), tmp_path / "ours.pth")
    images = oracle.images().double()
    with torch.no_grad():
        expected = original_forward({name: value.double() for name, value in state.items()}, images)
        found = model.double().eval()(images)
        fused = fuse(model)(images)
    for ours, name in zip(expected, ("class_logits", "sizes_wh", "offsets_xy")):
        assert_same_in_float64(getattr(found, name), as_points(ours), what=name)
        assert_same_in_float64(getattr(fused, name), as_points(ours), what=f"{name}, fused")


# ---------------------------------------------------------------------------------------------- built anew


@pytest.mark.parametrize(
    ("name", "num_classes", "count"),
    [
        ("centernet_r18_dcn_mmdet", 80, 14_436_901),  # the oracle's own count
        ("centernet_r18_mmdet", 80, 14_436_901 - 27 * (9 * (512 + 256 + 128) + 3)),
        ("centernet", 80, 14_436_901),
        ("centernet", 3, 14_436_901 - 77 * 65),
    ],
)
def test_parameter_counts(name, num_classes, count):
    with torch.device("meta"):
        model = create_model(name, num_classes=num_classes)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_initial_values():
    """Every class starts with a probability of 0.1, deformable convolutions read where plain ones do, at half strength."""
    torch.manual_seed(0)
    model = create_model("centernet", num_classes=3, backbone="shufflenetv2_x0_5").eval()
    with torch.no_grad():
        outputs = model(torch.randn(1, 3, 64, 96))
    assert outputs.level_sizes == ((16, 24),)
    torch.testing.assert_close(outputs.class_logits.sigmoid().median(), torch.tensor(0.1), atol=0.05, rtol=0)
    assert outputs.sizes_wh.abs().max() < 0.01
    conv = model.neck.blocks[0].conv.conv
    x = torch.randn(1, conv.weight.shape[1], 5, 7)
    with torch.no_grad():
        torch.testing.assert_close(conv(x), F.conv2d(x, conv.weight, padding=1) / 2)


def test_an_enlargement_starts_near_a_bilinear_one():
    from public.models.detectors.centernet import Enlarge

    conv = Enlarge(3).conv
    with torch.no_grad():
        for channel in range(3):
            conv.weight[channel, [other for other in range(3) if other != channel]] = 0
        x = torch.randn(1, 3, 5, 7)
        expected = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        torch.testing.assert_close(conv(x)[:, :, 1:-1, 1:-1], expected[:, :, 1:-1, 1:-1])


def test_wrong_image_size_is_named():
    model = create_model("centernet_r18_mmdet", num_classes=3)
    with pytest.raises(
        ValueError, match=r"images of 100 x 128 pixels give a map of 32 x 32 cells of 4 pixels: resize or pad"
    ):
        model(torch.zeros(1, 3, 100, 128))
