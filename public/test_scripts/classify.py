"""Says what is in images: the five best classes of each, by name, with their probabilities.

    python -m public.test_scripts.classify cifar100_experiments/resnet18 photo.jpg
    python -m public.test_scripts.classify imagenet_experiments/resnet50 photos/ --weights best.pth --json classes.json

An image is prepared as in evaluation: resized, its middle cut out.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from public import commands
from public.datasets.imagenet_names import readable_names
from public.evaluation.topk import TOP
from public.files import write_text
from public.inference.places import open_classifier
from public.inference.sources import find_images


def main() -> None:
    parser = commands.make_parser("classify", __doc__, experiment=None)
    parser.add_argument("experiment", help="an experiment's folder, a run, or a checkpoint.pth")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="images, or folders of them")
    parser.add_argument("--weights", help="a checkpoint; without one, best.pth of the (newest) run")
    parser.add_argument("--top", type=int, default=TOP, metavar="N", help=f"how many classes are named ({TOP})")
    parser.add_argument("--batch_size", type=int, default=8, help="images at once (8)")
    parser.add_argument("--json", type=Path, help="write the classes of all images here as well")
    commands.add_device(parser)
    commands.call(classify, parser.parse_args())


def classify(arguments: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Prints the best classes of each image; returns them: path -> [{"name", "label", "score"}, ...], best first."""
    if arguments.top < 1:
        raise ValueError(f"--top is {arguments.top}; it must be at least 1")
    classifier, weights = open_classifier(arguments.experiment, arguments.weights, arguments.device)
    paths = [path for place in arguments.images for path in _images(place)]
    print(f"weights {weights}, {len(classifier.class_names)} classes")
    names, results = readable_names(classifier.class_names), {}
    for path, found in zip(paths, classifier.many(paths, arguments.top, batch_size=arguments.batch_size)):
        pairs = zip(found["labels"].tolist(), found["scores"].tolist())
        results[str(path)] = [{"name": names[label], "label": label, "score": score} for label, score in pairs]
        print(f"{path}")
        for entry in results[str(path)]:
            print(f"  {entry['score']:7.2%}  {entry['name']}")
    if arguments.json:
        write_text(arguments.json, json.dumps(results, indent=1))
        print(f"written to {arguments.json.resolve()}")
    return results


def _images(place: Path) -> list[Path]:
    """The image, or all in the folder and below it."""
    if not place.exists():
        raise FileNotFoundError(f"there is no image {place}")
    return find_images(place, recursive=True, leave_out=Path("/nowhere")) if place.is_dir() else [place]


if __name__ == "__main__":
    main()
