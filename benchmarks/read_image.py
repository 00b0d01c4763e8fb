"""What reading a picture by the project's rule costs, against `cv2.imdecode` alone, in turns in one process.

    python -m benchmarks.read_image data/VOCdevkit/VOC2012/JPEGImages
    python -m benchmarks.read_image data/coco/val2017 --most 500 --rounds 11

Both begin with the bytes of the file in memory's cache and end with the same RGB pixels, which is checked.  What
`read_image` adds: it listens to the decoder (`public/decoding.py`), so that a picture that is damaged in its middle is
refused by its name, and looks whether the end of a JPEG is there.
"""

import argparse
import statistics
import time
from pathlib import Path

import cv2
import numpy as np

from public.folders import files_under
from public.input import read_image

FLAGS = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR_RGB


def by_opencv(path: Path) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(path.read_bytes(), dtype=np.uint8), FLAGS)


def seconds(read, paths: list[Path]) -> float:
    start = time.perf_counter()
    for path in paths:
        read(path)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--most", type=int, default=200, help="pictures that are read (%(default)s)")
    parser.add_argument("--rounds", type=int, default=9, help="of both in turns (%(default)s)")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    names = files_under(arguments.folder, (".jpg", ".jpeg", ".png"))[: arguments.most]
    paths = [arguments.folder / name for name in names]
    for path in paths:
        assert np.array_equal(read_image(path), by_opencv(path)), f"{path}: other pixels"
    times: dict = {read: [] for read in (by_opencv, read_image)}
    for _ in range(arguments.rounds):
        for read, taken in times.items():  # in turns: A B A B ...
            taken.append(seconds(read, paths) / len(paths))
    alone, ours = (statistics.median(taken) for taken in times.values())
    ratio = statistics.median(b / a for a, b in zip(*times.values()))
    print(f"{len(paths)} pictures of {arguments.folder}, one thread, medians of {arguments.rounds} rounds in turns")
    print(f"cv2.imdecode alone: {1e3 * alone:.3f} ms a picture; read_image: {1e3 * ours:.3f} ms, {ratio:.3f} times")


if __name__ == "__main__":
    main()
