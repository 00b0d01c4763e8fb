"""Every detector that takes any backbone, on every backbone: a step of its loss, and the shapes of all networks.

The detectors are the published names without "_", which are those that are nobody's weights' alone; the backbones are read
from `public.models.backbones`.  So what is added to either joins these tests by itself.
"""

import functools
import inspect
from typing import Any

import pytest
import torch

from public.decoders import create_decoder
from public.families import PUBLISHED
from public.losses import create_loss
from public.models import create_model
from public.models.backbone import Backbone
from public.models.backbones import FAMILY_FILES, NETWORKS, build
from public.protocols import Progress

DETECTORS = [name for name in PUBLISHED if "_" not in name]
START = Progress(epoch=0, step=0, step_in_epoch=0, num_epochs=12, steps_per_epoch=1)
SIDES = (64, 96)  # of the images of a step: the coarsest maps have several cells
TARGETS = [
    {"boxes": torch.tensor([[2.0, 3.0, 40.0, 50.0], [50.0, 8.0, 90.0, 60.0]]), "labels": torch.tensor([2, 0])},
    {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
]


@functools.cache
def on_meta(name: str) -> Backbone:
    with torch.device("meta"):
        return build(name, num_classes=1).backbone


def smallest(family: Any) -> str:
    """Of the networks of a family for images of the usual size, the one of the fewest parameters."""
    usual = [name for name in family.NETWORKS if 32 in on_meta(name).strides]
    return min(usual, key=lambda name: sum(parameter.numel() for parameter in on_meta(name).parameters()))


def variants(family: Any) -> list[tuple[str, str, dict[str, str]]]:
    """(id, network, keywords): the smallest network as published, and with each addition that its family offers."""
    name, offered = smallest(family), inspect.signature(family.build).parameters
    additions = [("attention", "coordinate"), ("activation", "acon_c"), ("activation", "meta_acon")]
    found = [(name, name, {})]
    found += [(f"{name} {value}", name, {key: value}) for key, value in additions if key in offered]
    if {"attention", "activation"} <= offered.keys():
        both = {"attention": "coordinate", "activation": "meta_acon"}
        found.append((f"{name} both", name, both))
    return found


VARIANTS = [variant for family in FAMILY_FILES for variant in variants(family)]
every_detector = pytest.mark.parametrize("detector", DETECTORS)


def strides_of(detector: str) -> tuple[int, ...]:
    """The strides of the backbone's maps that a detector reads."""
    with torch.device("meta"):
        return create_model(detector, num_classes=3).backbone.out_strides


def test_all_detectors_and_families_are_here():
    assert {"centernet", "fcos", "retinanet", "yolof"} <= set(DETECTORS)
    assert {family.__name__.rpartition(".")[2] for family in FAMILY_FILES} == {
        NETWORKS[name].__name__.rpartition(".")[2] for _, name, _ in VARIANTS
    }
    added = {tuple(keywords.items()) for _, _, keywords in VARIANTS}
    assert (("attention", "coordinate"),) in added
    assert (("activation", "meta_acon"),) in added


@pytest.mark.parametrize(("network", "keywords"), [v[1:] for v in VARIANTS], ids=[v[0] for v in VARIANTS])
@every_detector
def test_a_step_on_every_backbone(detector, network, keywords):
    """Training mode: finite terms, a finite gradient for every parameter, weights that move, detections after it."""
    torch.manual_seed(0)
    backbone = build(network, num_classes=1, **keywords).backbone
    model = create_model(detector, num_classes=3, backbone=backbone).train()
    loss, decoder = create_loss(detector, num_classes=3), create_decoder(detector, num_classes=3)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    images = torch.randn(2, 3, *SIDES, generator=torch.Generator().manual_seed(1))
    terms = loss(model(images), TARGETS, START)
    assert all(term.isfinite() and term.dtype == torch.float32 for term in terms.values())
    sum(terms.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    optimizer.step()
    moved = [name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])]
    parts = {name.partition(".")[0] for name in before}
    assert {name.partition(".")[0] for name in moved} == parts
    with torch.no_grad():
        assert len(decoder(model.eval()(images))) == 2


@every_detector
def test_the_shapes_of_every_network(detector):
    """On torch's meta device: outputs of every network that has maps of the strides, images of odd multiples of 32 too."""
    needed, seen = set(strides_of(detector)), {}
    for name in NETWORKS:
        if not needed <= set(on_meta(name).strides):
            continue
        with torch.device("meta"):
            model = create_model(detector, num_classes=5, backbone=name).eval()
            assert set(model.backbone.out_strides) == needed, name
            outputs = model(torch.empty(2, 3, 96, 160))._asdict()
        seen[name] = {field: tuple(value.shape) for field, value in outputs.items() if isinstance(value, torch.Tensor)}
    assert len(seen) >= sum(not name.endswith("_cifar") for name in NETWORKS)
    first = seen["resnet50"]
    assert all(shape[0] == 2 for shape in first.values())
    assert {name: shapes for name, shapes in seen.items() if shapes != first} == {}


@every_detector
def test_a_backbone_that_lacks_a_stride_is_refused(detector):
    small = next(name for name in NETWORKS if name.endswith("_cifar"))
    with torch.device("meta"), pytest.raises(ValueError, match="no feature map of stride"):
        create_model(detector, num_classes=5, backbone=small)


def test_yolof_reads_stride_16_as_well():
    """The settings name the stride; anchors are counted in pixels."""
    model = create_model("yolof", num_classes=3, backbone="shufflenetv2_x0_5", stride=16)
    outputs = model(torch.randn(1, 3, *SIDES))
    assert outputs.level_sizes == ((4, 6),)
    terms = create_loss("yolof", num_classes=3, stride=16)(outputs, TARGETS[:1], START)
    assert all(term.isfinite() and term > 0 for term in terms.values())
