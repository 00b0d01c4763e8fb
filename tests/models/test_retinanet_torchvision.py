"""RetinaNet against torchvision's own module, which is installed, of both versions: outputs, losses, gradients, detections.

All with random weights, or random outputs, and in float64 wherever gradients are compared.
"""

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from public.checkpoint_files import load_checkpoint
from public.decoders import create_decoder
from public.families import published
from public.losses import create_loss
from public.models import create_model
from public.models.detectors.retinanet import RetinaNetOutputs
from public.models.loading import load_weights
from public.protocols import Progress
from public.weights.convert import convert
from public.weights.detectors import released
from tests.helpers.numerics import assert_same_in_float64

NAMES = ("retinanet_r50_torchvision", "retinanet_r50_torchvision_v2")
STRIDES = (8, 16, 32, 64, 128)
PROGRESS = Progress(epoch=0, step=0, step_in_epoch=0, num_epochs=12, steps_per_epoch=1)
TERMS = {"loss_cls": "classification", "loss_box": "bbox_regression"}  # ours -> theirs


def their_network(name: str, num_classes: int = 91) -> nn.Module:
    """torchvision's, with random weights, in the form of the published weights; its BatchNorm normalises."""
    from torchvision.models import resnet50
    from torchvision.models.detection import retinanet_resnet50_fpn_v2
    from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
    from torchvision.models.detection.retinanet import RetinaNet
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7
    from torchvision.ops.misc import FrozenBatchNorm2d

    torch.manual_seed(1)
    if name.endswith("_v2"):
        model = retinanet_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=num_classes)
    else:
        backbone = resnet50(norm_layer=lambda channels: FrozenBatchNorm2d(channels, eps=0.0))
        extra = LastLevelP6P7(256, 256)
        body = _resnet_fpn_extractor(backbone, 5, returned_layers=[2, 3, 4], extra_blocks=extra)
        model = RetinaNet(body, num_classes)
    generator = torch.Generator().manual_seed(2)
    for key, value in model.state_dict().items():
        if value.ndim == 1 and ("bn" in key or "downsample.1" in key or ".1.weight" in key):
            value.copy_(torch.rand(value.shape, generator=generator) * 0.4 + (0.3 if "weight" in key else 0.8))
        if key.endswith(("cls_logits.weight", "bbox_reg.weight")):
            value.mul_(5)  # so that scores and boxes differ from cell to cell
    return model


@pytest.fixture(scope="module", params=NAMES)
def pair(request):
    """(the published name, torchvision's network, ours with its weights by the converter), in float64 and train mode."""
    theirs, ours = their_network(request.param), create_model(request.param, num_classes=91)
    with tempfile.TemporaryDirectory() as folder:
        file, output = Path(folder, "theirs.pth"), Path(folder, "ours.pth")
        torch.save(theirs.state_dict(), file)
        convert(source="torchvision", model_name=request.param, file=file, output=output)
        load_weights(ours, load_checkpoint(output), output)
    return request.param, theirs.double().train(), ours.double().train()


def outputs_of(theirs: nn.Module, images: torch.Tensor) -> tuple[dict, list[torch.Tensor], list[torch.Tensor]]:
    """torchvision's raw outputs, anchors and maps."""
    from torchvision.models.detection.image_list import ImageList

    maps = list(theirs.backbone(images).values())
    anchors = theirs.anchor_generator(ImageList(images, [tuple(images.shape[2:])] * len(images)), maps)
    return theirs.head(maps), anchors, maps


def test_outputs_losses_and_gradients_in_float64(pair):
    """Of pictures that no stride divides."""
    name, theirs, ours = pair
    images = torch.randn(2, 3, 75, 50, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    targets = [
        {
            "boxes": torch.tensor([[4.0, 6, 31, 50], [10, 20, 45, 60], [2, 2, 48, 63]]),
            "labels": torch.tensor([3, 90, 1]),
        },
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    head, anchors, _ = outputs_of(theirs, images)
    expected = theirs.compute_loss(targets, head, anchors)
    outputs = ours(images)
    assert_same_in_float64(outputs.class_logits, head["cls_logits"])
    assert_same_in_float64(outputs.box_deltas, head["bbox_regression"])
    assert torch.equal(create_decoder(name).coding.anchors(outputs), anchors[0])
    found = create_loss(name, num_classes=91)(outputs, targets, PROGRESS)
    for term, their_term in TERMS.items():
        assert found[term].item() == pytest.approx(expected[their_term].item(), rel=1e-6), term
    check_gradients(name, theirs, ours, expected, found)


def check_gradients(name: str, theirs: nn.Module, ours: nn.Module, expected: dict, found: dict) -> None:
    """Of all parameters; the offsets of the true boxes are float32 numbers, which leaves 1e-6, and of none of them 1e-12."""
    rename = released(name, "torchvision").rename
    names, parameters = zip(*theirs.named_parameters())
    own = dict(ours.named_parameters())
    partners = [own[next(iter(rename({key: np.zeros(1)})))] for key in names]
    untrained = len(own) - len(partners)
    assert untrained == (0 if name.endswith("_v2") else 2 * 53)  # scales and shifts of the frozen BatchNorm
    ours_of = torch.autograd.grad(sum(found.values()), partners)
    theirs_of = torch.autograd.grad(sum(expected.values()), parameters)
    largest = max(gradient.abs().max() for gradient in theirs_of)
    for key, one, other in zip(names, ours_of, theirs_of, strict=True):
        assert (one - other).abs().max() <= 1e-6 * other.abs().max() + 1e-12 * largest, key


@pytest.mark.parametrize("name", NAMES)
def test_the_architecture_has_as_many_parameters(name):
    with torch.device("meta"):
        ours, theirs = create_model(name, num_classes=91), their_network(name)
    frozen = sum(p.numel() for p in ours.parameters() if not p.requires_grad)
    assert sum(p.numel() for p in ours.parameters()) - frozen == sum(p.numel() for p in theirs.parameters())
    assert {"eps": 0.0 if name == NAMES[0] else 1e-5} == {"eps": ours.backbone.stem.conv.bn.eps}


# ---------------------------------------------------------------------------------------------- random outputs


def scene(seed: int, num_classes: int) -> tuple[dict, list[dict], tuple, tuple[int, int]]:
    """Random raw outputs of two images of any sides, objects, the sizes of the levels and of the images."""
    generator = torch.Generator().manual_seed(seed)
    height, width = torch.randint(33, 300, (2,), generator=generator).tolist()
    sizes = tuple((-(-height // stride), -(-width // stride)) for stride in STRIDES)
    num_anchors = 9 * sum(h * w for h, w in sizes)
    head = {
        "cls_logits": torch.randn(2, num_anchors, num_classes, generator=generator) * 2 - 2,
        "bbox_regression": torch.randn(2, num_anchors, 4, generator=generator),
    }
    targets = []
    for count in (1 + 4 * seed, 0 if seed % 3 == 0 else 7):
        corners = torch.rand(count, 2, generator=generator) * torch.tensor([width * 0.8, height * 0.8])
        sides = torch.rand(count, 2, generator=generator) * torch.tensor([width * 0.6, height * 0.6]) + 1
        boxes = torch.cat([corners, corners + sides], dim=1)
        targets.append({"boxes": boxes, "labels": torch.randint(0, num_classes, (count,), generator=generator)})
    return head, targets, sizes, (height, width)


def their_loss_and_decoder(name: str, num_classes: int) -> nn.Module:
    """torchvision's RetinaNet without a backbone: matches, losses and detections of given outputs."""
    from torchvision.models.detection.retinanet import RetinaNet

    backbone = nn.Identity()
    backbone.out_channels = 32
    theirs = RetinaNet(backbone, num_classes)
    theirs.head.regression_head._loss_type = "giou" if name.endswith("_v2") else "l1"
    return theirs


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(10))
def test_matches_losses_and_detections_of_random_outputs(name, seed):
    """In float32, as torchvision computes: the same matches and kept boxes, also where it rounds."""
    from torchvision.models.detection.image_list import ImageList

    head, targets, sizes, image_size = scene(seed, num_classes=5)
    theirs = their_loss_and_decoder(name, 5)
    maps = [torch.zeros(2, 1, *size) for size in sizes]
    anchors = theirs.anchor_generator(ImageList(torch.zeros(2, 3, *image_size), [image_size] * 2), maps)
    outputs = RetinaNetOutputs(head["cls_logits"], head["bbox_regression"], sizes, image_size)
    loss = create_loss(name, num_classes=5)
    assigned = loss.assign(outputs, targets)
    for image, target in enumerate(targets):
        expected = torch.full((len(anchors[0]),), -1)
        if len(target["boxes"]):
            expected = theirs.proposal_matcher(their_ious(target["boxes"], anchors[image]))
        assert torch.equal(assigned.objects[image], expected)
    losses = theirs.compute_loss(targets, head, anchors)
    for term, value in loss(outputs, targets, PROGRESS).items():
        assert value.item() == pytest.approx(losses[TERMS[term]].item(), rel=1e-5), term
    check_kept(name, theirs, outputs, anchors)


def their_ious(boxes: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
    from torchvision.ops import box_iou

    return box_iou(boxes, anchors)


def check_kept(name: str, theirs: nn.Module, outputs: RetinaNetOutputs, anchors: list[torch.Tensor]) -> None:
    """Also where scores are equal, of which torchvision takes any first."""
    lengths = [9 * height * width for height, width in outputs.level_sizes]
    given = {"cls_logits": outputs.class_logits, "bbox_regression": outputs.box_deltas}
    expected = theirs.postprocess_detections(
        {key: list(values.split(lengths, dim=1)) for key, values in given.items()},
        [list(one.split(lengths)) for one in anchors],
        [outputs.image_size] * 2,
    )
    for one, other in zip(create_decoder(name, num_classes=5)(outputs), expected, strict=True):
        assert len(one["scores"]) == len(other["scores"]) > 100
        one, other = in_one_order(one), in_one_order(other)
        assert torch.equal(one["labels"], other["labels"])
        torch.testing.assert_close(one["scores"], other["scores"])
        torch.testing.assert_close(one["boxes"], other["boxes"], rtol=1e-5, atol=1e-3)


def in_one_order(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Detections by falling score, equal ones by class and place."""
    keys = [found["boxes"][:, 1], found["boxes"][:, 0], found["labels"], -found["scores"]]
    order = np.lexsort([key.numpy() for key in keys])
    return {key: values[order] for key, values in found.items()}


def test_the_generic_form_is_the_papers():
    """What differs from torchvision's second version, field by field, so that a change here is noticed."""
    generic, theirs = published("retinanet"), published("retinanet_r50_torchvision_v2")
    names = [field for field in vars(generic) if getattr(generic, field) != getattr(theirs, field)]
    assert names == [
        *("num_classes", "head_groups", "anchors_rounded", "anchor_steps", "box_loss", "smooth_l1_beta", "normaliser"),
        *("drop_empty", "keep_top_k"),
    ]
