"""FCOS's released weights: torchvision's and MMDetection's parameter names -> ours, their inputs and classes.

torchvision's BatchNorm is frozen and has no counters; its eps is 1e-5, also for the published weights.
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
NUM_LEVELS = 5


def _torchvision() -> dict[str, str]:
    head = {}
    for theirs, ours in (("classification_head", "cls_tower"), ("regression_head", "reg_tower")):
        layers = f"head.{theirs}.conv"  # a row of convolution, GroupNorm, ReLU, and so on
        head |= tower_layers(
            f"head.{ours}",
            conv=[f"{layers}.{3 * number}" for number in range(NUM_CONVS)],
            norm=[f"{layers}.{3 * number + 1}" for number in range(NUM_CONVS)],
        )
    head |= {
        "head.classification_head.cls_logits": "head.pred_cls",
        "head.regression_head.bbox_reg": "head.pred_reg",
        "head.regression_head.bbox_ctrness": "head.pred_centreness",
    }
    return resnet_layers("resnet50", "backbone.body.") | torchvision_fpn_layers(num_maps=3, num_extra=2) | head


def _mmdet() -> dict[str, str]:
    head = {}
    for branch in ("cls", "reg"):
        layers = f"bbox_head.{branch}_convs"
        head |= tower_layers(
            f"head.{branch}_tower",
            conv=[f"{layers}.{number}.conv" for number in range(NUM_CONVS)],
            norm=[f"{layers}.{number}.gn" for number in range(NUM_CONVS)],
        )
    head |= {
        "bbox_head.conv_cls": "head.pred_cls",
        "bbox_head.conv_reg": "head.pred_reg",
        "bbox_head.conv_centerness": "head.pred_centreness",
    }
    return resnet_layers("resnet50", "backbone.") | mmdet_fpn_layers(num_maps=3, num_extra=2) | head


# one number each, which the layer is itself here
MMDET_SCALES = {f"bbox_head.scales.{level}.scale": f"head.scales.{level}" for level in range(NUM_LEVELS)}

RELEASED = {
    "fcos_r50_torchvision": Released(
        sources=("torchvision",),
        rename=by_layers(_torchvision(), "FCOS of torchvision"),
        input=TORCHVISION_INPUT,
        class_names=TORCHVISION_COCO_CLASSES,
    ),
    "fcos_r50_mmdet": Released(
        sources=("mmdet",),
        rename=by_layers(_mmdet(), "FCOS of MMDetection", arrays=MMDET_SCALES),
        input=mmdet_input("bgr", mean=(102.9801, 115.9465, 122.7717), std=(1.0, 1.0, 1.0)),
        class_names=COCO_CLASSES,
    ),
}
