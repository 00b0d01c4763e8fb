"""Every detector that takes any backbone, on every backbone: a step of its loss, and the shapes of all networks.

The detectors are the published names without "_", which are those that are nobody's weights' alone; the backbones are read
from `public.models.backbones`.  So what is added to either joins these tests by itself.
"""

import functools
import inspect
from typing import Any

import pytest
import torch

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


def smallest(family: Any, keywords: dict[str, str]) -> str:
    """Of the networks of a family for images of the usual size, the one of the fewest parameters that takes `keywords`.

    Meta-ACON refuses fewer channels than 16, which the smallest of some families have.
    """
    usual = [name for name in family.NETWORKS if 32 in on_meta(name).strides]
    for name in sorted(usual, key=lambda name: sum(parameter.numel() for parameter in on_meta(name).parameters())):
        try:
            with torch.device("meta"):
                build(name, num_classes=1, **keywords)
        except ValueError as error:
            if "Meta-ACON over" not in str(error):
                raise
        else:
            return name
    raise AssertionError(f"no network of {family.__name__} takes {keywords}")


def additions(family: Any) -> list[dict[str, str]]:
    """What the family offers to its published form: attention, learnt activations, and both."""
    offered = inspect.signature(family.build).parameters
    found = [("attention", "coordinate"), ("activation", "acon_c"), ("activation", "meta_acon")]
    each = [{key: value} for key, value in found if key in offered]
    both = {"attention": "coordinate", "activation": "meta_acon"}
    return [*each, both] if both.keys() <= offered.keys() else each


PLAIN = [(smallest(family, {}), {}) for family in FAMILY_FILES]
ADDED = [(smallest(family, keywords), keywords) for family in FAMILY_FILES for keywords in additions(family)]
# every detector on the published form of every family; the additions, which none of them sees, with one in turn
STEPS = [(detector, *variant) for variant in PLAIN for detector in DETECTORS] + [
    (DETECTORS[number % len(DETECTORS)], *variant) for number, variant in enumerate(ADDED)
]
every_detector = pytest.mark.parametrize("detector", DETECTORS)


def strides_of(detector: str) -> tuple[int, ...]:
    """The strides of the backbone's maps that a detector reads."""
    with torch.device("meta"):
        return create_model(detector, num_classes=3).backbone.out_strides


def test_all_detectors_and_families_are_here():
    assert {"centernet", "fcos", "retinanet", "yolof"} <= set(DETECTORS)
    assert {family.__name__.rpartition(".")[2] for family in FAMILY_FILES} == {
        NETWORKS[name].__name__.rpartition(".")[2] for name, _ in PLAIN
    }
    for keywords in ({"attention": "coordinate"}, {"activation": "acon_c"}, {"activation": "meta_acon"}):
        assert keywords in [added for _, added in ADDED]


@pytest.mark.parametrize(
    ("detector", "network", "keywords"), STEPS, ids=[" ".join((*step[:2], *step[2].values())) for step in STEPS]
)
def test_a_step_on_every_backbone(detector, network, keywords):
    """Training mode: finite terms, a finite gradient for every parameter, parts that all move."""
    torch.manual_seed(0)
    backbone = build(network, num_classes=1, **keywords).backbone
    model = create_model(detector, num_classes=3, backbone=backbone).train()
    loss, optimizer = create_loss(detector, num_classes=3), torch.optim.SGD(model.parameters(), lr=1e-3)
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
