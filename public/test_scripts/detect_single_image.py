"""Detects the objects in one image, prints them, and writes the image with their boxes drawn.

    public/test_scripts/detect_single_image.sh detection_experiments/ppyoloe_s_voc street.jpg

Folders, videos, cameras and JSON: python -m public.test_scripts.detect --help
"""

import argparse
from pathlib import Path
from typing import Any

from public import commands, drawing
from public.inference.places import open_detector
from public.input import read_image


def main() -> None:
    parser = commands.make_parser("detect_single_image", __doc__, experiment=None)
    parser.add_argument("experiment", help="an experiment's folder, a run, or a checkpoint.pth")
    parser.add_argument("image", type=Path)
    commands.add_weights(parser)
    parser.add_argument("--score_threshold", type=float, default=0.4, help="lowest score that is shown (0.4)")
    parser.add_argument("--output", type=Path, help="where to write; without it <image>_detections.jpg in this folder")
    commands.add_device(parser)
    commands.call(detect, parser.parse_args())


def detect(arguments: argparse.Namespace) -> dict[str, Any]:
    """Prints and draws the detections of one image; returns them."""
    output = arguments.output or Path(f"{arguments.image.stem}_detections.jpg")
    if output.resolve() == arguments.image.resolve():
        raise ValueError(f"{output} is the image itself and would be overwritten; name another file by --output")
    image = read_image(arguments.image)
    detector, _ = open_detector(arguments.experiment, arguments.weights, arguments.device)
    found = detector.fused()(image, arguments.score_threshold)
    print(f"{arguments.image}: {len(found['names'])} objects with a score of at least {arguments.score_threshold:g}")
    for box, score, name in zip(found["boxes"], found["scores"], found["names"]):
        print(f"  {name:<16} {score:.3f}  " + " ".join(f"{value:.1f}" for value in box))
    picture = drawing.draw_detections(
        image, found["boxes"], found["labels"], detector.class_names, found["scores"], min_side=drawing.MIN_SIDE
    )
    drawing.save_image(output, picture)
    print(f"drawn to {output.resolve()}")
    return found


if __name__ == "__main__":
    main()
