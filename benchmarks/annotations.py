"""What reading a large COCO json costs: entry by entry, as columns, and from what an earlier start has kept.

    python -m benchmarks.annotations [--images 118000] [--workers 8] [--short]

The json is made: 7.3 objects an image, as COCO's train2017 has, without outlines.  Each way of reading is a process of its
own, whose CPU time and highest memory are printed, without those of a process that only imports; what they read has the same
fingerprint, of sizes -1 for the pictures, which are not there.  The first way is the one that every file was read by until
2026-11-29, and still is where something in it is unusual.  At the end `--workers` processes are forked that look at every
object of every image, and their own memory is added up.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.figures import figure

WAYS = ("imports only", "entry by entry", "columns", "kept columns")
OBJECTS_AN_IMAGE, NUM_CLASSES = 7.3, 80
WHOLE = 118_000  # images


def make(path: Path, num_images: int) -> None:
    """A json of `num_images` images of 640 x 480, without pictures."""
    rng = np.random.default_rng(0)
    owners = np.sort(rng.integers(0, num_images, int(num_images * OBJECTS_AN_IMAGE))).tolist()
    boxes = (rng.uniform(0.01, 0.5, (len(owners), 4)) * [640, 480, 640, 480]).round(2).tolist()
    labels = rng.integers(1, NUM_CLASSES + 1, len(owners)).tolist()
    with open(path, "w") as file:
        images = (
            f'{{"id": {7 * i + 1}, "file_name": "{i:012d}.jpg", "height": 480, "width": 640}}'
            for i in range(num_images)
        )
        file.write('{"info": {}, "images": [' + ", ".join(images) + '], "annotations": [')
        rows = (
            f'{{"id": {i}, "image_id": {7 * owner + 1}, "category_id": {label}, "bbox": {box}, '
            f'"area": {0.6 * box[2] * box[3]:.2f}, "iscrowd": {int(i % 100 == 0)}}}'
            for i, (owner, label, box) in enumerate(zip(owners, labels, boxes))
        )
        file.write(", ".join(rows) + "], ")
        file.write('"categories": ' + json.dumps([{"id": k, "name": f"c{k}"} for k in range(1, NUM_CLASSES + 1)]) + "}")


def child(path: Path, way: str, workers: int) -> None:
    """Reads `path` in one way and prints what that took, as JSON."""
    from public.datasets import coco, coco_columns

    coco_columns.FOLDER = path.parent / "cache"
    start = time.process_time()
    found: dict = {}
    if way != "imports only":
        if way == "entry by entry":
            coco.read_columns = lambda *_, **__: None
        data = coco.Coco(annotations=path.name, images="", classes=None, keep_empty_images=True)
        with coco.annotation_cache(way == "kept columns"):
            annotations = data.read(path.parent)
        seconds = time.process_time() - start
        found = {"fingerprint": annotations.fingerprint(allow_missing=True)}
        if workers:
            found["workers"] = grown(annotations, workers)
    else:
        seconds = 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # MiB, on Linux
    print(json.dumps(found | {"seconds": seconds, "peak": peak}))


def grown(annotations, workers: int) -> float:
    """MiB that forked processes have for themselves, all together, once each has looked at every object."""
    total = 0.0
    for _ in range(workers):
        reader, writer = os.pipe()
        if os.fork() == 0:
            before = own_memory()
            for index in range(len(annotations)):
                annotations.objects(index).boxes.sum()
                annotations.image_path(index)
            os.write(writer, str(own_memory() - before).encode())
            os._exit(0)
        os.wait()
        total += float(os.read(reader, 100))
    return total


def own_memory() -> float:
    """MiB that this process shares with no other, so that what its parent has is not counted."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean", "Private_Dirty"))) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=WHOLE)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--short", action="store_true", help="3,000 images, 2 workers")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="which to take (all)")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    workers = min(options.workers, 2) if options.short else options.workers
    if options.child:
        child(Path(options.child[0]), options.child[1], workers if options.child[1] == "columns" else 0)
        return
    num_images = min(options.images, 3_000) if options.short else options.images
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "train.json")
        make(path, num_images)
        print(f"{num_images} images, {path.stat().st_size / 1e6:.0f} MB of json, a process each")
        measure(path, options.ways, workers, num_images)


def measure(path: Path, ways: list[str], workers: int, num_images: int) -> None:
    results: dict[str, dict] = {}
    for way in ways:
        for _ in range(2 if way == "kept columns" else 1):  # the first start keeps, the second finds
            command = [
                sys.executable,
                "-m",
                "benchmarks.annotations",
                "--child",
                str(path),
                way,
                "--workers",
                str(workers),
            ]
            results[way] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    prints = {result["fingerprint"] for result in results.values() if "fingerprint" in result}
    assert len(prints) == 1, "the ways read different things"
    idle = results.get("imports only", {"peak": 0.0})["peak"]
    for way, result in results.items():
        print(f"{way:<16} {result['seconds']:7.2f} s of CPU   peak {result['peak'] - idle:7.0f} MiB above imports")
        if "workers" in result:
            print(
                f"{'':<16} {workers} forked processes that looked at all of it: {result['workers']:.0f} MiB of their own"
            )

    is_whole = num_images >= WHOLE  # the limits are those of COCO's train2017
    for way, most in (("columns", 8), ("kept columns", 1)):
        if way in results:
            limit = most if is_whole else None
            figure(f"{num_images:,} images read, {way}", results[way]["seconds"], "s of CPU", most=limit)
    if "workers" in results.get("columns", {}):
        own = results["columns"]["workers"]
        figure(f"{workers} workers' own memory, {num_images:,} images", own, "MiB", most=100 if is_whole else None)
    if {"columns", "entry by entry"} <= results.keys():
        more = results["columns"]["peak"] - idle
        figure(f"{num_images:,} images read, memory above imports", more, "MiB", most=600 if is_whole else None)
        ratio = results["entry by entry"]["seconds"] / results["columns"]["seconds"]
        figure(f"{num_images:,} images read, faster", ratio, "times", peer="entry by entry")


if __name__ == "__main__":
    main()
