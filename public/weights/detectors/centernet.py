"""CenterNet's released weights: MMDetection's names of the arrays -> ours, their input and classes."""

from public.input import InputSpec
from public.resizing import KeepSize
from public.weights.class_names import COCO_CLASSES
from public.weights.detectors.layers import by_layers, resnet_layers
from public.weights.detectors.released import Released


def _layers() -> dict[str, str]:
    """MMDetection's name of each layer -> ours, with deformable convolutions or without."""
    layers = resnet_layers("resnet18", "backbone.")
    for number in range(3):  # its list has a convolution and an enlargement in turns
        for place, part in ((2 * number, "conv"), (2 * number + 1, "enlarge")):
            for layer in ("conv", "bn"):
                layers[f"neck.deconv_layers.{place}.{layer}"] = f"neck.blocks.{number}.{part}.{layer}"
        layers[f"neck.deconv_layers.{2 * number}.conv.conv_offset"] = f"neck.blocks.{number}.conv.conv.offset"
    for theirs, ours in (("heatmap", "heatmap"), ("wh", "size"), ("offset", "offset")):
        layers |= {f"bbox_head.{theirs}_head.0": f"head.{ours}.conv", f"bbox_head.{theirs}_head.2": f"head.{ours}.pred"}
    return layers


rename = by_layers(_layers(), "MMDetection's CenterNet of a ResNet-18")

MMDET_INPUT = InputSpec(  # the test pipeline of configs/centernet/centernet_r18*_8xb16-crop512-140e_coco.py
    size=(512, 512),  # that it is trained with
    resize=KeepSize(multiple=32),
    interpolation="linear",
    padding=0,  # black, put on before the mean is taken off
    color_order="rgb",
    scale=1.0,
    mean=(123.675, 116.28, 103.53),
    std=(58.395, 57.12, 57.375),
)
RELEASED = {
    name: Released(sources=("mmdet",), rename=rename, input=MMDET_INPUT, class_names=COCO_CLASSES)
    for name in ("centernet_r18_mmdet", "centernet_r18_dcn_mmdet")
}
