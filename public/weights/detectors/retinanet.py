"""RetinaNet's released weights: torchvision's and MMDetection's parameter names -> ours, their inputs and classes.

torchvision's first version has frozen BatchNorm without counters, whose eps becomes 0 when the published weights are loaded;
its second has ordinary BatchNorm.
"""

from public.weights.class_names import COCO_CLASSES, TORCHVISION_COCO_CLASSES
from public.weights.detectors.inputs import TORCHVISION_INPUT, mmdet_input
from public.weights.detectors.layers import (
    by_layers,
    mmdet_fpn_layers,
    resnet_layers,
    torchvision_fpn_layers,
    tower_layers,
)
from public.weights.detectors.released import Released

NUM_CONVS = 4  # of each tower


def _torchvision() -> dict[str, str]:
    """Of both versions; the convolutions have two names, those of files before torchvision 0.13 and those since."""
    head = {}
    for theirs, ours in (("classification_head", "cls_tower"), ("regression_head", "reg_tower")):
        layers = f"head.{theirs}.conv"
        before = [f"{layers}.{2 * number}" for number in range(NUM_CONVS)]  # a row of convolution, ReLU, and so on
        since = [f"{layers}.{number}.0" for number in range(NUM_CONVS)]
        norm = [f"{layers}.{number}.1" for number in range(NUM_CONVS)]
        head |= tower_layers(f"head.{ours}", conv=before, norm=())
        head |= tower_layers(f"head.{ours}", conv=since, norm=norm)
    head |= {"head.classification_head.cls_logits": "head.pred_cls", "head.regression_head.bbox_reg": "head.pred_reg"}
    return resnet_layers("resnet50", "backbone.body.") | torchvision_fpn_layers(num_maps=3, num_extra=2) | head


def _mmdet() -> dict[str, str]:
    head = {}
    for branch in ("cls", "reg"):
        layers = [f"bbox_head.{branch}_convs.{number}.conv" for number in range(NUM_CONVS)]
        head |= tower_layers(f"head.{branch}_tower", conv=layers, norm=())
    head |= {"bbox_head.retina_cls": "head.pred_cls", "bbox_head.retina_reg": "head.pred_reg"}
    return resnet_layers("resnet50", "backbone.") | mmdet_fpn_layers(num_maps=3, num_extra=2) | head


TORCHVISION = Released(
    sources=("torchvision",),
    rename=by_layers(_torchvision(), "RetinaNet of torchvision"),
    input=TORCHVISION_INPUT,
    class_names=TORCHVISION_COCO_CLASSES,
)
RELEASED = {
    "retinanet_r50_torchvision": TORCHVISION,
    "retinanet_r50_torchvision_v2": TORCHVISION,
    "retinanet_r50_mmdet": Released(
        sources=("mmdet",),
        rename=by_layers(_mmdet(), "RetinaNet of MMDetection"),
        input=mmdet_input("rgb", mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375)),
        class_names=COCO_CLASSES,
    ),
}
