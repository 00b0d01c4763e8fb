"""The backbone of YOLOv5, n to x.

Paper: none.  Written from the published description of its layers alone, not from its code: version 5.0 of mid 2021,
and what the notes on release 6.0 say was changed.  The parts are CSPDarknet's, which YOLOX took over from it: see
`public.models.backbones.csp_darknet`, also for the papers behind them.
Weights: none are loaded; the released ones come with a licence that does not fit this project.
Choices:
- `version="6.0"` is the default, the first that has the size n.  `version="5.0"` is YOLOX's CSPDarknet in all but the
  widths and depths of n.  6.0 differs from it in 6 instead of 9 bottlenecks at stride 8, in shortcuts in the last stage
  too, and in the place of the spatial pyramid pooling: behind the last stage's bottlenecks, not before them.
- 5.0 cuts the images up (Focus) and 6.0 convolves 6x6 with stride 2; one is the other with its weights at other places,
  so both have the second here.
- The description says nothing of BatchNorm.  eps 1e-3 and momentum 0.03 are YOLOX's.

Legend: B batch, C channels, H W height and width.
"""

from collections import OrderedDict
from typing import Any

from torch import nn

from public.models.backbone import Backbone, GlobalAveragePool
from public.models.backbones.csp_darknet import SPP, CSPLayer, Focus, scaled_blocks
from public.models.backbones.darknet import drop_path_rates, zero_last_batch_norms
from public.models.image_classifier import Classifier
from public.models.layers import ConvBNAct

STRIDES = (4, 8, 16, 32)
# at width 1 and depth 1
STEM_CHANNELS = 64
CHANNELS = (128, 256, 512, 1024)
VERSIONS = {
    "5.0": {"num_blocks": (3, 9, 9, 3), "shortcuts": (True, True, True, False), "order": ("down", "spp", "csp")},
    "6.0": {"num_blocks": (3, 6, 9, 3), "shortcuts": (True, True, True, True), "order": ("down", "csp", "spp")},
}  # order: of the parts of the last stage; the others have no spatial pyramid pooling
NETWORKS = {
    "yolov5_n": {"depth": 0.33, "width": 0.25},
    "yolov5_s": {"depth": 0.33, "width": 0.50},
    "yolov5_m": {"depth": 0.67, "width": 0.75},
    "yolov5_l": {"depth": 1.00, "width": 1.00},
    "yolov5_x": {"depth": 1.33, "width": 1.25},
}


def build_backbone(
    name: str, *, in_chans: int, version: str, drop_path: float, activation: str, bn_eps: float, bn_momentum: float
) -> Backbone:
    """The backbone with maps of strides 4, 8, 16 and 32; a detector takes the last three.  Keywords: see `build`."""
    if version not in VERSIONS:
        raise ValueError(f"YOLOv5 version {version!r} is not known; write one of {', '.join(VERSIONS)}")
    network = NETWORKS[name]
    layout: dict[str, Any] = VERSIONS[version]
    options: dict[str, Any] = {"activation": activation, "bn_eps": bn_eps, "bn_momentum": bn_momentum}
    in_channels = int(STEM_CHANNELS * network["width"])
    channels = [int(count * network["width"]) for count in CHANNELS]
    num_blocks = scaled_blocks(layout["num_blocks"], network["depth"])
    stem = Focus(in_chans, in_channels, **options)
    num_shortcuts = sum(count for count, use_shortcut in zip(num_blocks, layout["shortcuts"]) if use_shortcut)
    rates = drop_path_rates(drop_path, num_shortcuts)
    stages = []
    for number, (out_channels, count) in enumerate(zip(channels, num_blocks, strict=True)):
        use_shortcut = layout["shortcuts"][number]
        first = sum(num_blocks[:number])
        drop_paths = rates[first : first + count] if use_shortcut else [0.0] * count
        parts = {
            "down": ConvBNAct(in_channels, out_channels, 3, stride=2, **options),
            "csp": CSPLayer(out_channels, drop_paths=drop_paths, use_shortcut=use_shortcut, **options),
        }
        if number == len(channels) - 1:
            parts["spp"] = SPP(out_channels, **options)
        stages.append(nn.Sequential(OrderedDict((part, parts[part]) for part in layout["order"] if part in parts)))
        in_channels = out_channels
    return Backbone(stem=stem, stages=stages, channels=channels, strides=STRIDES, input_layer="stem.conv")


def build(
    name: str,
    *,
    num_classes: int,
    in_chans: int = 3,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    zero_init: bool = False,
    version: str = "6.0",
    activation: str = "silu",
    bn_eps: float = 1e-3,
    bn_momentum: float = 0.03,
) -> Classifier:
    """The backbone called `name`, with maps of strides 4, 8, 16 and 32, and a class layer on the mean of the last map.

    Initial values are torch's own for every layer.

    Args:
        dropout: on the features.
        drop_path: of stochastic depth, in [0, 1), rising linearly over the bottlenecks that have a shortcut.
        zero_init: the last BatchNorm of each of these starts at 0.
        version: "5.0" or "6.0".
        activation: a name of `public.models.layers`.
        bn_eps, bn_momentum: of every BatchNorm.

    Raises:
        ValueError: another version; a `drop_path` that there is not; `zero_init` with an activation that has no gradient
            at 0.
    """
    backbone = build_backbone(
        name,
        in_chans=in_chans,
        version=version,
        drop_path=drop_path,
        activation=activation,
        bn_eps=bn_eps,
        bn_momentum=bn_momentum,
    )
    if zero_init:
        zero_last_batch_norms(backbone, activation)
    return Classifier(
        backbone=backbone,
        final=GlobalAveragePool(),
        num_features=backbone.channels[-1],
        num_classes=num_classes,
        dropout=dropout,
    )
