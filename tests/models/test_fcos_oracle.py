"""FCOS against torchvision's and MMDetection's, from a converted checkpoint to the gradients of the losses.

The originals computed in float32, ours compute in float64.  So both are fixed numbers, and what the limits below leave room
for is the originals' rounding alone: tolerances.json states it for the outputs.  Gradients go through many ReLUs whose
inputs lie nearer to 0 than that rounding; torchvision itself, in float64, differs from its own stored norms by up to 0.7 per
cent, and ours equal its float64 ones.
"""

import functools
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from public.decoders import create_decoder
from public.input import Geometry, to_image
from public.losses import create_loss
from public.models import create_model
from public.points import boxes_to_distances
from public.protocols import Progress
from public.weights.class_names import COCO_CLASSES, TORCHVISION_COCO_CLASSES
from public.weights.detectors import RELEASED
from tests.figures.fill_rule import oracle_input
from tests.helpers.detector_oracles import Oracle, converted
from tests.helpers.numerics import assert_same_in_float64

ORACLES = {
    "fcos_r50_torchvision": ("torchvision", "fcos_resnet50_fpn"),
    "fcos_r50_mmdet": ("mmdet", "fcos_r50_caffe_gn"),
}
START = Progress(epoch=0, step=0, step_in_epoch=0, num_epochs=12, steps_per_epoch=1)
FROZEN = ("backbone.stem", "backbone.stages.0")  # in both originals
STRIDES = (8, 16, 32, 64, 128)
LENGTHS = (96, 24, 6, 2, 1)  # points of each level
TERMS = {  # ours -> theirs
    "torchvision": dict(zip(("cls", "box", "centreness"), ("classification", "bbox_regression", "bbox_ctrness"))),
    "mmdet": dict(zip(("cls", "box", "centreness"), ("loss_cls", "loss_bbox", "loss_centerness"))),
}


class Subject(NamedTuple):
    """A converted network in train mode and float64, what its file says, and its outputs for the oracle's images."""

    name: str
    oracle: Oracle
    model: nn.Module
    checkpoint: dict
    outputs: Any


@pytest.fixture(scope="module")
def subjects() -> Callable[[str], Subject]:
    """By name; each is made once."""

    @functools.cache
    def made(name: str) -> Subject:
        oracle = Oracle.read(*ORACLES[name])
        model, checkpoint = converted(oracle, name)
        model = model.double().train()
        return Subject(name, oracle, model, checkpoint, model(oracle.images().double()))

    return made


@pytest.fixture(params=ORACLES)
def subject(request, subjects) -> Subject:
    return subjects(request.param)


def theirs_of(oracle: Oracle, key: str, ours: torch.Tensor) -> torch.Tensor:
    """The original's result; of a reduced one the places that are left, and ours elsewhere, which then say nothing."""
    if key in oracle.results:
        return torch.from_numpy(oracle.results[key]).double()
    theirs = ours.detach().contiguous().clone()
    theirs.view(-1)[oracle.results[f"{key}:at"]] = torch.from_numpy(oracle.results[f"{key}:values"]).double()
    return theirs


def head_of(subject: Subject) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Class logits (B, A, K), distances (B, A, 4) and logits of the centre-ness (B, A, 1), ours and the original's."""
    oracle, outputs = subject.oracle, subject.outputs
    is_torchvision = oracle.source == "torchvision"
    distances = outputs.raw_distances.relu() if is_torchvision else outputs.raw_distances.exp()
    ours = [x.detach() for x in (outputs.class_logits, distances, outputs.centreness_logits[..., None])]
    if is_torchvision:
        names = ("cls_logits", "bbox_regression", "bbox_ctrness")
        return ours, [theirs_of(oracle, f"head/{name}", x) for name, x in zip(names, ours)]
    theirs = []
    for place, x in enumerate(ours):
        levels = []
        for level, (one, size) in enumerate(zip(x.split(LENGTHS, dim=1), outputs.level_sizes)):
            maps = one.transpose(1, 2).unflatten(2, size)  # (B, channels, H, W)
            levels.append(theirs_of(oracle, f"head/out{place}.lvl{level}", maps).flatten(2).transpose(1, 2))
        theirs.append(torch.cat(levels, dim=1))
    return ours, theirs


def limits_of(oracle: Oracle, place: int) -> torch.Tensor:
    """Three times the original's rounding of an output of its head at each point, (A,)."""
    if oracle.source == "torchvision":
        limit = oracle.tolerances[("cls_logits", "bbox_regression", "bbox_ctrness")[place]]["max_abs"]
        return torch.full((sum(LENGTHS),), 3 * limit)
    limits = [oracle.tolerances[f"out{place}.lvl{level}"]["max_abs"] for level in range(5)]
    return 3 * torch.tensor(limits).repeat_interleave(torch.tensor(LENGTHS))


def test_raw_outputs(subject):
    for place, (ours, theirs) in enumerate(zip(*head_of(subject), strict=True)):
        assert ((ours - theirs).abs().amax((0, 2)) <= limits_of(subject.oracle, place)).all()
    assert subject.outputs.level_sizes == ((8, 12), (4, 6), (2, 3), (1, 2), (1, 1))
    assert subject.outputs.image_size == (64, 96)


def test_dense_scores_and_boxes(subject):
    """Scores within 1e-4, boxes within 0.02 pixels, or what torchvision's rounding makes on strides of 64 and 128."""
    oracle, decoder = subject.oracle, create_decoder(subject.name)
    class_logits, distances, centreness = head_of(subject)[1]
    scores = class_logits.sigmoid() * centreness.sigmoid()
    points, strides = decoder.coding.points(subject.outputs)
    atol = torch.full((sum(LENGTHS), 1), 0.02)
    if oracle.source == "torchvision":
        anchors = torch.from_numpy(oracle.results["anchors"])
        assert torch.equal(points, (anchors[:, :2] + anchors[:, 2:]) / 2)
        assert torch.equal(strides.repeat(1, 2), anchors[:, 2:] - anchors[:, :2])
        scores, distances = scores.sqrt(), distances * strides
        atol = torch.maximum(atol, limits_of(oracle, 1)[:, None] * strides)
    expected = torch.cat([points - distances[..., :2], points + distances[..., 2:]], dim=-1)
    found, found_scores = decoder.decode(subject.outputs)
    assert ((found - expected).abs() <= atol).all()
    assert (found - expected).abs().max() < 0.03
    assert (found_scores - scores).abs().max() < 1e-4


def kept_by(oracle: Oracle, prefix: str, image: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    boxes = oracle.results.get(f"{prefix}.{image}/boxes", oracle.results.get(f"{prefix}.{image}/bboxes"))
    return boxes, oracle.results[f"{prefix}.{image}/scores"], oracle.results[f"{prefix}.{image}/labels"]


def assert_same_detections(found: dict, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> None:
    """As many of the same class at the same place; those whose scores rounding cannot tell apart in any order."""
    assert len(found["scores"]) == len(scores)
    np.testing.assert_allclose(found["scores"].detach().numpy(), scores, rtol=0, atol=1e-4)
    left = list(range(len(scores)))
    for box, score, label in zip(boxes, scores, labels):
        near = [
            i
            for i in left
            if found["labels"][i] == label
            and abs(found["scores"][i].item() - score) < 1e-4
            and np.abs(found["boxes"][i].detach().numpy() - box).max() < 0.03
        ]
        assert near, (box, score, label)
        left.remove(near[0])


def test_detections_are_those_of_the_original(subject):
    for image, found in enumerate(create_decoder(subject.name)(subject.outputs)):
        assert_same_detections(found, *kept_by(subject.oracle, "det", image))


@pytest.mark.parametrize("case", ["a", "b"])
def test_matches(subject, case):
    """torchvision's file holds the object of each point; MMDetection's labels and, of positive points, the distances."""
    oracle, loss = subject.oracle, create_loss(subject.name, num_classes=subject.checkpoint["num_classes"])
    assigned = loss.assign(subject.outputs, oracle.targets(case))
    assert (assigned.objects >= 0).sum() > 5
    if oracle.source == "torchvision":
        for image in range(2):
            np.testing.assert_array_equal(assigned.objects[image], oracle.results[f"{case}/match.{image}"])
        return
    points, _ = loss.coding.points(subject.outputs)
    labels, boxes = assigned.labels.split(LENGTHS, dim=1), assigned.boxes.split(LENGTHS, dim=1)
    for level, place in enumerate(points.split(LENGTHS)):
        np.testing.assert_array_equal(labels[level].flatten(), oracle.results[f"{case}/labels.lvl{level}"])
        distances = boxes_to_distances(place, boxes[level])[labels[level] != 80]
        np.testing.assert_array_equal(distances, oracle.results[f"{case}/reg.lvl{level}"])


@pytest.mark.parametrize("case", ["a", "b"])
def test_loss_terms_and_gradients(subject, case):
    oracle, model = subject.oracle, subject.model
    loss = create_loss(subject.name, num_classes=subject.checkpoint["num_classes"])
    terms = loss(subject.outputs, oracle.targets(case), START)
    for ours, theirs in TERMS[oracle.source].items():
        assert terms[f"loss_{ours}"].item() == pytest.approx(oracle.meta["losses"][case][theirs], rel=5e-5), ours
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad and not n.startswith(FROZEN)}
    gradients = torch.autograd.grad(sum(terms.values()), trained.values(), retain_graph=True)
    norms = {name: gradient.norm().item() for name, gradient in zip(trained, gradients)}
    expected = oracle.gradient_norms(case)
    rename = RELEASED[subject.name].rename
    ours = {theirs: next(iter(rename({theirs: np.zeros(1)}))) for theirs in oracle.meta["param_order"]}
    assert {ours[theirs] for theirs in expected} - {n for n in ours.values() if n.startswith(FROZEN)} == set(trained)
    total = sum(norm**2 for norm in expected.values()) ** 0.5
    for theirs, norm in expected.items():
        if ours[theirs] in norms:
            # 1 per cent behind the backbone's ReLUs; the predictions see nothing of those but the rounding of their input
            share = 5e-4 if ours[theirs].startswith("head.pred_") else 1e-2
            assert abs(norms[ours[theirs]] - norm) <= share * norm + 5e-7 * total, theirs


# --- torchvision itself, which is installed -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def theirs_and_ours(subjects):
    """torchvision's network with the oracle's weights, and ours, in float64 and train mode."""
    from torchvision.models import resnet50
    from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
    from torchvision.models.detection.fcos import FCOS
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7
    from torchvision.ops.misc import FrozenBatchNorm2d

    oracle, ours = subjects("fcos_r50_torchvision").oracle, subjects("fcos_r50_torchvision").model
    backbone = resnet50(norm_layer=FrozenBatchNorm2d)
    extra = LastLevelP6P7(256, 256)
    theirs = FCOS(_resnet_fpn_extractor(backbone, 5, returned_layers=[2, 3, 4], extra_blocks=extra), num_classes=91)
    theirs.load_state_dict(oracle.state())
    return oracle, theirs.double().train(), ours


def test_losses_and_gradients_equal_torchvision_in_float64(theirs_and_ours):
    """Of images whose sides no stride divides."""
    from torchvision.models.detection.image_list import ImageList

    (_, theirs, ours), size = theirs_and_ours, (75, 50)
    images = torch.from_numpy(oracle_input("fcos", (2, 3, *size))).double()
    targets = [
        {
            "boxes": torch.tensor([[4.0, 6, 31, 50], [10, 20, 45, 60], [2, 2, 48, 70]]).double(),
            "labels": torch.arange(3),
        },
        {"boxes": torch.zeros(0, 4).double(), "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    maps = list(theirs.backbone(images).values())
    anchors = [x.double() for x in theirs.anchor_generator(ImageList(images, [size] * 2), maps)]
    lengths = [x.shape[2] * x.shape[3] for x in maps]
    expected = theirs.compute_loss(targets, theirs.head(maps), anchors, lengths)
    outputs = ours(images)
    found = create_loss("fcos_r50_torchvision", num_classes=91)(outputs, targets, START)
    for name, term in TERMS["torchvision"].items():
        assert_same_in_float64(found[f"loss_{name}"].detach(), expected[term].detach(), bound=1e-7, what=name)
    rename = RELEASED["fcos_r50_torchvision"].rename
    names, parameters = zip(*theirs.named_parameters())
    own = dict(ours.named_parameters())
    partners = [own[next(iter(rename({name: np.zeros(1)})))] for name in names]
    gradients = zip(
        names,
        torch.autograd.grad(sum(found.values()), partners),
        torch.autograd.grad(sum(expected.values()), parameters),
        strict=True,
    )
    for name, one, other in gradients:
        assert_same_in_float64(one, other, bound=1e-6, what=name)


def test_unequal_pictures_go_the_same_way(theirs_and_ours):
    """torchvision's transform and detections of two pictures of unequal sizes, with our rule, padding and way back.

    Resized as torchvision does, in floating point: ours resizes whole grey values.
    """
    oracle, _, model = theirs_and_ours
    released = RELEASED["fcos_r50_torchvision"].input
    spec = replace(released, size=(64, 128))
    mean, std = torch.tensor(spec.mean)[:, None, None], torch.tensor(spec.std)[:, None, None]
    shapes = {"img0": (3, 50, 80), "img1": (3, 64, 60)}
    pictures = [torch.from_numpy(oracle_input(f"fcos_resnet50_fpn:{tag}", s)).sigmoid() for tag, s in shapes.items()]
    placed = [spec.resize.place(*picture.shape[1:], spec.size) for picture in pictures]
    assert [[p.height, p.width] for p in placed] == oracle.results["full/image_sizes"].tolist()
    canvas = max(p.canvas_height for p in placed), max(p.canvas_width for p in placed)
    batch, geometries = torch.zeros(2, 3, *canvas), []
    for image, (picture, p) in enumerate(zip(pictures, placed)):
        resized = F.interpolate(((picture - mean) / std)[None], size=(p.height, p.width), mode="bilinear")[0]
        batch[image, :, : p.height, : p.width] = resized
        height, width = picture.shape[1:]
        geometries.append(Geometry(p.width / width, p.height / height, 0, 0, width, height))
    assert list(batch.shape) == oracle.results["full/batch_shape"].tolist()
    if "full/batch_sub4" in oracle.results:  # reduced figures have none
        np.testing.assert_allclose(batch[:, :, ::4, ::4], oracle.results["full/batch_sub4"], rtol=0, atol=2e-5)
    with torch.no_grad():
        outputs = model(batch.double())
    regions = [geometry.region for geometry in geometries]
    detections = to_image(create_decoder("fcos_r50_torchvision")(outputs, regions), geometries)
    for image, found in enumerate(detections):
        assert_same_detections(found, *kept_by(oracle, "full", image))


@pytest.mark.parametrize("seed", range(12))
def test_losses_and_detections_of_random_outputs_equal_torchvision(seed):
    """Of images of any sides, in float32: the matches and the kept set, whatever torchvision's float32 rounds."""
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.fcos import FCOS
    from torchvision.models.detection.image_list import ImageList

    generator = torch.Generator().manual_seed(seed)
    height, width = torch.randint(33, 300, (2,), generator=generator).tolist()
    sizes = tuple((-(-height // stride), -(-width // stride)) for stride in STRIDES)
    num_points, num_classes = sum(h * w for h, w in sizes), 5
    backbone = nn.Identity()
    backbone.out_channels = 32
    theirs = FCOS(backbone, num_classes, AnchorGenerator(tuple((s,) for s in STRIDES), ((1.0,),) * 5), score_thresh=0.3)
    head = {
        "cls_logits": torch.randn(2, num_points, num_classes, generator=generator),
        "bbox_regression": torch.randn(2, num_points, 4, generator=generator).mul(2).add(2),
        "bbox_ctrness": torch.randn(2, num_points, 1, generator=generator),
    }
    targets = []
    for _ in range(2):
        corners = torch.rand(40, 2, generator=generator) * torch.tensor([width * 0.8, height * 0.8])
        sides = torch.rand(40, 2, generator=generator) * torch.tensor([width * 0.6, height * 0.6]) + 1
        boxes = torch.cat([corners, corners + sides], dim=1)
        targets.append({"boxes": boxes, "labels": torch.randint(0, num_classes, (40,), generator=generator)})
    maps = [torch.zeros(2, 1, h, w) for h, w in sizes]
    anchors = theirs.anchor_generator(ImageList(torch.zeros(2, 3, height, width), [(height, width)] * 2), maps)
    relu = {**head, "bbox_regression": head["bbox_regression"].relu()}
    lengths = [h * w for h, w in sizes]
    losses = theirs.compute_loss(targets, relu, anchors, lengths)

    outputs = create_outputs(head, sizes, (height, width))
    changes = {"num_classes": num_classes}
    found = create_loss("fcos_r50_torchvision", **changes)(outputs, targets, START)
    for name, term in TERMS["torchvision"].items():
        assert found[f"loss_{name}"].item() == pytest.approx(losses[term].item(), rel=1e-5), name

    expected = theirs.postprocess_detections(
        {name: list(values.split(lengths, dim=1)) for name, values in relu.items()},
        [list(one.split(lengths)) for one in anchors],
        [(height, width)] * 2,
    )
    decoder = create_decoder("fcos_r50_torchvision", score_threshold=0.3, **changes)
    for one, other in zip(decoder(outputs), expected, strict=True):
        assert torch.equal(one["labels"], other["labels"])
        torch.testing.assert_close(one["scores"], other["scores"])
        torch.testing.assert_close(one["boxes"], other["boxes"], rtol=1e-5, atol=1e-3)


def create_outputs(head: dict[str, torch.Tensor], level_sizes, image_size):
    from public.models.detectors.fcos import FCOSOutputs

    raw = (head["cls_logits"], head["bbox_regression"], head["bbox_ctrness"].squeeze(2))
    return FCOSOutputs(*raw, level_sizes, image_size)


# --- the file and the network ---------------------------------------------------------------------------------------------


def test_what_the_converted_file_says(subject):
    is_torchvision = subject.oracle.source == "torchvision"
    names = TORCHVISION_COCO_CLASSES if is_torchvision else COCO_CLASSES
    assert subject.checkpoint["class_names"] == list(names)
    stated = subject.checkpoint["input"]
    assert stated["size"] == [800, 1333]
    assert stated["color_order"] == ("rgb" if is_torchvision else "bgr")


def test_old_names_of_torchvision_are_those_of_the_new():
    """alias.json: what files from before torchvision 0.13 call the convolutions of the FPN."""
    oracle = Oracle.read(*ORACLES["fcos_r50_torchvision"])
    aliases = json.loads((oracle.folder / "alias.json").read_text())
    rename = RELEASED["fcos_r50_torchvision"].rename
    assert len(aliases) == 12
    for old, new in aliases.items():
        assert rename({old: np.zeros(2)}).keys() == rename({new: np.zeros(2)}).keys()
    with pytest.raises(ValueError, match=r"'head\.other\.weight' belongs to no FCOS of torchvision"):
        rename({"head.other.weight": np.zeros(2)})


@pytest.mark.parametrize(
    ("name", "changes", "count"),
    [
        ("fcos_r50_torchvision", {}, 32_269_600),
        ("fcos_r50_mmdet", {}, 32_295_322),
        ("fcos", {"num_classes": 80}, 32_297_370),  # of the experiments' source: resnet50, and resnet101 below
        ("fcos", {"num_classes": 80, "backbone": "resnet101"}, 51_289_498),
    ],
)
def test_parameter_counts(name, changes, count):
    """As stated by the originals; torchvision's frozen BatchNorm has no parameters, and does not count its own."""
    with torch.device("meta"):
        model = create_model(name, **changes)
    batchnorm = sum(
        p.numel() for m in model.backbone.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()
    )
    total = sum(p.numel() for p in model.parameters())
    assert total - (batchnorm if name == "fcos_r50_torchvision" else 0) == count


def test_points_of_the_experiments():
    """9,418 at 667 pixels, as measured in the source of the experiments."""
    with torch.device("meta"):
        outputs = create_model("fcos").eval()(torch.empty(1, 3, 667, 667))
    assert outputs.level_sizes == ((84, 84), (42, 42), (21, 21), (11, 11), (6, 6))
    assert outputs.class_logits.shape == (1, 9418, 80)


def test_initial_values_of_the_head():
    """With 80 classes: the random weights move each class's mean by a fifth, that of all of them by 2 %."""
    torch.manual_seed(0)
    model = create_model("fcos", num_classes=80, backbone="lcnet_035").eval()
    with torch.no_grad():
        outputs = model(torch.randn(1, 3, 64, 96))
    torch.testing.assert_close(outputs.class_logits.sigmoid().mean(), torch.tensor(0.01), rtol=0.2, atol=0)
    assert [scale.item() for scale in model.head.scales] == [1.0] * 5
    convs = [m for m in model.head.modules() if isinstance(m, nn.Conv2d)]
    assert len(convs) == 11
    for conv in convs:
        assert conv.weight.std().item() == pytest.approx(0.01, rel=0.1)
