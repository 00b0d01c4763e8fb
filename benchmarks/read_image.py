"""What reading a picture by the project's rule costs, against `cv2.imdecode` alone, in turns in one process.

    python -m benchmarks.read_image                                           # made JPEGs of 640 x 480
    python -m benchmarks.read_image data/VOCdevkit/VOC2012/JPEGImages --most 500

Both begin with the bytes of the file in the system's cache and end with the same RGB pixels, which is checked.  What
`read_image` adds: it listens to the decoder (`public/decoding.py`), so that a picture that is damaged in its middle is
refused by its name, and looks whether the end of a JPEG is there.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from public.folders import files_under
from public.input import read_image

FLAGS = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR_RGB
EXTENSIONS = (".jpg", ".jpeg", ".png")


def by_opencv(path: Path) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(path.read_bytes(), dtype=np.uint8), FLAGS)  # type: ignore[return-value]


def seconds(read: Callable[[Path], np.ndarray], path: Path) -> float:
    start = time.perf_counter()
    read(path)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="of pictures; without it, made ones")
    parser.add_argument("--most", type=int, default=100, help="pictures that are read (%(default)s)")
    parser.add_argument("--rounds", type=int, default=9, help="of all pictures (%(default)s)")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as made:
        folder = arguments.folder or _make(Path(made), arguments.most)
        names = files_under(folder, EXTENSIONS)[: arguments.most]
        measure([folder / name for name in names], arguments.rounds)


def _make(folder: Path, count: int) -> Path:
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)
        image = cv2.resize(coarse, (640, 480), interpolation=cv2.INTER_CUBIC)
        (folder / f"{number}.jpg").write_bytes(cv2.imencode(".jpg", image)[1].tobytes())
    return folder


def measure(paths: list[Path], rounds: int) -> None:
    """Prints the medians over pictures and rounds, and the median of the ratios of each pair of readings."""
    for path in paths:
        assert np.array_equal(read_image(path), by_opencv(path)), f"{path}: other pixels"
    alone, ours = [], []
    for number in range(rounds):
        for path in paths:
            pair = [(by_opencv, alone), (read_image, ours)]
            for read, times in pair[:: 1 if number % 2 else -1]:  # in turns: A B, B A, ...
                times.append(seconds(read, path))
    ratio = statistics.median(b / a for a, b in zip(alone, ours))
    more = statistics.median(b - a for a, b in zip(alone, ours))
    print(f"{len(paths)} pictures, one thread, {rounds} rounds in turns, medians")
    print(
        f"cv2.imdecode alone {1e3 * statistics.median(alone):.3f} ms, read_image {1e3 * statistics.median(ours):.3f} ms: "
        f"{ratio:.3f} times, {1e6 * more:.0f} us more a picture"
    )


if __name__ == "__main__":
    main()
