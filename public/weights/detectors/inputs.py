"""How torchvision's and MMDetection's detectors take their pictures: one rule for all of each project's."""

from typing import Literal

from public.input import InputSpec
from public.resizing import ShorterSide

SIZE = (800, 1333)  # of the shorter side, and the most of the longer

# torchvision.models.detection.transform.GeneralizedRCNNTransform, as all its published detectors set it up
TORCHVISION_INPUT = InputSpec(
    size=SIZE,
    resize=ShorterSide(rounding="down", multiple=32),
    interpolation="linear",
    padding="mean",
    color_order="rgb",
    scale=1 / 255,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)


def mmdet_input(
    color_order: Literal["rgb", "bgr"], *, mean: tuple[float, float, float], std: tuple[float, float, float]
) -> InputSpec:
    """MMDetection's test pipeline at 800 / 1333 for COCO; backbones differ in their colours and statistics."""
    return InputSpec(
        size=SIZE,
        resize=ShorterSide(rounding="nearest", multiple=32),
        interpolation="linear",
        padding="mean",
        color_order=color_order,
        scale=1.0,
        mean=mean,
        std=std,
    )
