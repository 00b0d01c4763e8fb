"""Lays the COCO pictures of a folder out as two data roots: calibrate on one half and measure on the other, both ways.

    python -m benchmarks.coco_halves ../shared/data/coco_val100 -o halves

halves/a/coco has the first, third, ... picture by id as train2017 and the others as val2017; halves/b/coco the other way
round.  Pictures are not copied: both have links to the folder.
"""

import argparse
import json
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="has annotations/instances_val2017.json and images/val2017/")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write into")
    arguments = parser.parse_args()
    content = json.loads((arguments.source / "annotations/instances_val2017.json").read_text(encoding="utf-8"))
    ids = sorted(image["id"] for image in content["images"])
    halves = [set(ids[0::2]), set(ids[1::2])]
    for name, (train, val) in {"a": halves, "b": halves[::-1]}.items():
        place = arguments.output / name / "coco"
        (place / "annotations").mkdir(parents=True, exist_ok=True)
        for split, kept in (("train2017", train), ("val2017", val)):
            (place / "annotations" / f"instances_{split}.json").write_text(json.dumps(part(content, kept)))
            link = place / split
            if not link.is_symlink():
                link.symlink_to((arguments.source / "images/val2017").resolve())
        print(f"{place}: {len(train)} pictures to calibrate on, {len(val)} to measure on")


def part(content: dict, kept: set[int]) -> dict:
    """The annotations of the pictures with these ids; classes stay."""
    images = [image for image in content["images"] if image["id"] in kept]
    return content | {
        "images": images,
        "annotations": [entry for entry in content["annotations"] if entry["image_id"] in kept],
    }


if __name__ == "__main__":
    main()
