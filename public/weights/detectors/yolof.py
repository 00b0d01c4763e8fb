"""YOLOF's released weights: MMDetection's parameter names -> ours, their input and classes."""

from public.families.yolof import PUBLISHED
from public.weights.class_names import COCO_CLASSES
from public.weights.detectors.inputs import mmdet_input
from public.weights.detectors.layers import by_layers, resnet_layers
from public.weights.detectors.released import Released


def layer_names(name: str) -> dict[str, str]:
    """MMDetection's name of each layer -> ours, of the published YOLOF that we call `name`."""
    settings = PUBLISHED[name]
    layers = resnet_layers(settings.backbone, "backbone.")
    layers |= {
        "neck.lateral_conv": "neck.lateral.conv",
        "neck.lateral_norm": "neck.lateral.bn",
        "neck.fpn_conv": "neck.output.conv",
        "neck.fpn_norm": "neck.output.bn",
        "bbox_head.cls_score": "head.pred_cls",
        "bbox_head.bbox_pred": "head.pred_box",
        "bbox_head.object_pred": "head.pred_object",
    }
    blocks = [
        (f"neck.dilated_encoder_blocks.{block}.conv{number}", f"neck.blocks.{block}.conv{number}")
        for block in range(len(settings.encoder_dilations))
        for number in (1, 2, 3)
    ]
    blocks += [(f"bbox_head.cls_subnet.{i}", f"head.class_tower.{i}") for i in range(settings.num_class_convs)]
    blocks += [(f"bbox_head.bbox_subnet.{i}", f"head.box_tower.{i}") for i in range(settings.num_box_convs)]
    return layers | {f"{theirs}.{layer}": f"{ours}.{layer}" for theirs, ours in blocks for layer in ("conv", "bn")}


# configs/yolof/yolof_r50-c5_8xb8-1x_coco.py of MMDetection 3.3: BGR from 0 to 255, zeros of the normalised input around it
INPUT = mmdet_input("bgr", mean=(103.53, 116.28, 123.675), std=(1.0, 1.0, 1.0))

RELEASED = {
    "yolof_r50_mmdet": Released(
        sources=("mmdet",),
        rename=by_layers(layer_names("yolof_r50_mmdet"), "MMDetection's YOLOF"),
        input=INPUT,
        class_names=COCO_CLASSES,
    )
}
