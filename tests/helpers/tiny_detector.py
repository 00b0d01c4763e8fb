"""A very small detector with random weights that finds something everywhere, and what tests of `detect` share."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

from public.config import freeze
from public.families import published
from public.input import InputSpec, normalise, prepare, read_image
from public.test_scripts import detect
from tests.helpers.numerics import allowed, in_float64, rounding
from tests.helpers.tiny_data import TINY_CLASSES, make_picture

SPEC = InputSpec(
    size=(64, 96),
    resize="letterbox",
    interpolation="linear",
    padding=114,
    color_order="rgb",
    scale=1 / 255,
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
)


def tiny_settings(keep_top_k: int, nms_iou: float):
    return replace(
        published("ppyoloe_xs"),
        width=0.125,
        num_classes=len(TINY_CLASSES),
        score_threshold=0.001,
        nms_iou=nms_iou,
        keep_top_k=keep_top_k,
    )


def write_checkpoint(path: Path, *, keep_top_k: int = 12, nms_iou: float = 0.5, **changes) -> Path:
    """Writes a checkpoint with the entries of a converted one; `changes` replaces entries, None takes one out."""
    settings = tiny_settings(keep_top_k, nms_iou)
    checkpoint = {
        "model": _make_model(settings).state_dict(),
        "model_name": "ppyoloe_xs",
        "num_classes": len(TINY_CLASSES),
        "class_names": list(TINY_CLASSES),
        "input": freeze(SPEC)["InputSpec"],
        "detector": freeze(settings),
    }
    checkpoint |= changes
    torch.save({key: value for key, value in checkpoint.items() if value is not None}, path)
    return path


def _make_model(settings) -> nn.Module:
    model = settings.build_model()
    generator = torch.Generator().manual_seed(5)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            gain = 0.3 if name.startswith("head.pred_") else 1.7
            nn.init.normal_(module.weight, std=gain / module.weight[0].numel() ** 0.5, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    _calibrate(model)
    return model


@torch.no_grad()
def _calibrate(model: nn.Module) -> None:
    """Statistics of BatchNorm from a few pictures, so that scores are spread and none is 0 or 1."""
    pictures = [make_picture(np.random.default_rng(100 + n), *SPEC.size, 3)[0] for n in range(8)]
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    model.train()(normalise(torch.from_numpy(np.stack(pictures)), SPEC))


def tolerances(detector, image: str | Path | np.ndarray) -> dict[str, float]:
    """By how much `boxes` (pixels) and `scores` found in `image` may differ on this CPU from one batch size to another.

    From those of all points in float32 and in float64; see `tests.helpers.numerics`.  Pictures differ in this a hundredfold.
    The cap is half a pixel.
    """
    pixels, geometry = prepare(image if isinstance(image, np.ndarray) else read_image(image), detector.spec)
    images = normalise(torch.from_numpy(pixels)[None], detector.spec, [geometry.region])
    with torch.no_grad():
        single = detector.decoder.decode(detector.model(images))
        double = detector.decoder.decode(in_float64(detector.model)(images))
    limits = {}
    for part, ours, exact in zip(("boxes", "scores"), single, double, strict=True):
        limits[part] = allowed(rounding(ours, exact), cap=1e-3, what=part) * exact.abs().max().item()
    return limits | {"boxes": limits["boxes"] / min(geometry.scale_x, geometry.scale_y)}


def picture(number: int, height: int = 48, width: int = 64) -> np.ndarray:
    """A small picture, uint8 RGB, with things in it."""
    return make_picture(np.random.default_rng(number), height, width, 3)[0]


def run_detect(checkpoint, source, *options):
    """The command `detect`, in this process; its results."""
    arguments = detect.make_parser().parse_args([str(checkpoint), str(source), "--device", "cpu", *map(str, options)])
    return detect.detect(arguments)


def assert_same(entry: dict, detector, image: str | Path | np.ndarray) -> None:
    """An entry of detections.json holds what the detector finds in `image`, up to the rounding of another batch size."""
    found, limits = detector(image, 0.01), tolerances(detector, image)
    assert [d["name"] for d in entry["detections"]] == found["names"]
    assert [d["label"] for d in entry["detections"]] == found["labels"].tolist()
    scores, boxes = [d["score"] for d in entry["detections"]], [d["box"] for d in entry["detections"]]
    np.testing.assert_allclose(scores, found["scores"], rtol=0, atol=limits["scores"])
    np.testing.assert_allclose(np.array(boxes).reshape(-1, 4), found["boxes"], rtol=0, atol=limits["boxes"])


def write_video(path, *, size=(64, 48), fps=12.5, num_frames=7, fourcc="mp4v", backend=cv2.CAP_FFMPEG):
    """A video by OpenCV itself; `size` is (width, height)."""
    writer = cv2.VideoWriter(str(path), backend, cv2.VideoWriter_fourcc(*fourcc), fps, size)
    assert writer.isOpened()
    for number in range(num_frames):
        writer.write(picture(number, 60, 80)[: size[1], : size[0], ::-1])
    writer.release()
