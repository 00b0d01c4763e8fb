"""Turns YOLO's text labels into a COCO json, which every experiment can train on.

  python -m public.test_scripts.yolo_to_coco mine/images/train mine/labels/train --names mine/data.yaml -o mine/train.json

IMAGES and LABELS have the same subfolders: IMAGES/a/b.jpg is described by LABELS/a/b.txt, one object a line, `class x y
width height` as shares of the picture.  An image with an empty label file, or without one, is an image without objects.
Nothing is written but OUT.json; the same input gives the same bytes.  A wrong line stops the conversion, with its number.
"""

import argparse
from pathlib import Path

from public import commands
from public.datasets.coco import Coco
from public.datasets.yolo import NO_LABELS, convert_yolo, read_names
from public.files import write_text
from public.text import as_json

MAX_NOTES = 20  # lines on single boxes that are printed


def main() -> None:
    parser = commands.make_parser("yolo_to_coco", __doc__, experiment=None)
    parser.add_argument("images", type=Path, metavar="IMAGES", help="folder of the pictures")
    parser.add_argument(
        "labels", type=Path, metavar="LABELS", help=f"folder of the label files ({', '.join(NO_LABELS)} is none)"
    )
    parser.add_argument(
        "--names", required=True, help="the classes: a data.yaml, a .txt with one name a line, or cat,dog,bird"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.json", help="where to write")
    parser.add_argument(
        "--polygons",
        action="store_true",
        help="the lines are outlines, `class x1 y1 x2 y2 x3 y3 ...`; take the box around each (without it they are refused)",
    )
    parser.add_argument(
        "--unused_labels",
        action="store_true",
        help="leave out label files that belong to no picture (without it they are refused)",
    )
    commands.call(convert, parser.parse_args())


def convert(arguments: argparse.Namespace) -> None:
    """Writes the json, reads it as training will, and prints what it holds."""
    names = read_names(arguments.names)
    converted = convert_yolo(
        arguments.images,
        arguments.labels,
        names,
        polygons=arguments.polygons,
        unused_labels=arguments.unused_labels,
    )
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    write_text(arguments.output, as_json(converted.content) + "\n")

    output, images = arguments.output.resolve(), arguments.images.resolve()
    data = Coco(annotations=output.name, images=str(images), classes=names, keep_empty_images=True)
    annotations = data.read(output.parent)
    print(annotations.summary())
    notes = [*annotations.dropped, *annotations.clipped]
    for line in notes[:MAX_NOTES]:
        print(f"  {line}")
    if len(notes) > MAX_NOTES:
        print(f"  and {len(notes) - MAX_NOTES} more")
    print(
        f"images without objects: {converted.num_empty} label files are empty, {converted.num_unlabelled} are missing"
    )
    if converted.num_unused:
        print(f"left out: {converted.num_unused} label files without a picture")
    if arguments.polygons:
        print(f"{len(converted.content['annotations'])} outlines became the boxes around them")
    print(f"written to {output}")


if __name__ == "__main__":
    main()
