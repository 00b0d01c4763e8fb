"""Detects the objects in one image, prints them, and writes the image with their boxes drawn."""

import argparse
from pathlib import Path

from public import detector, drawing
from public.input import read_image
from public.test_scripts.weights import find_weights


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="detect_single_image.sh", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("experiment", help="an experiment's folder, or a run")
    parser.add_argument("image", type=Path)
    parser.add_argument("weights", nargs="?", help="a checkpoint; without one, best.pth of the (newest) run")
    parser.add_argument("--score_threshold", type=float, default=0.4, help="lowest score that is shown (0.4)")
    parser.add_argument("--output", type=Path, help="where to write; without it <image>_detections.jpg in this folder")
    parser.add_argument("--device", default="auto", help="auto (a GPU where there is one), cpu, cuda, cuda:1")
    arguments = parser.parse_args()
    try:
        detect(arguments)
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error


def detect(arguments: argparse.Namespace) -> dict[str, object]:
    """Prints and draws the detections of one image; returns them."""
    experiment, path = find_weights(arguments.experiment, arguments.weights)
    found_by = detector.load(path, arguments.device, settings=experiment.config.detector)
    image = read_image(arguments.image)
    found = found_by(image, arguments.score_threshold)
    print(f"{arguments.image}: {len(found['names'])} objects with a score of at least {arguments.score_threshold:g}")
    for box, score, name in zip(found["boxes"], found["scores"], found["names"]):
        print(f"  {name:<16} {score:.3f}  " + " ".join(f"{value:.1f}" for value in box))
    picture = drawing.draw_detections(
        image, found["boxes"], found["labels"], found_by.class_names, found["scores"], min_side=384
    )
    output = arguments.output or Path(f"{arguments.image.stem}_detections.jpg")
    drawing.save_image(output, picture)
    print(f"drawn to {output.resolve()}")
    return found


if __name__ == "__main__":
    main()
