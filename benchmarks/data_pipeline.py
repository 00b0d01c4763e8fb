"""What YOLOX's training pictures cost on one core, against decoding alone, in turns in one process.

    python -m benchmarks.data_pipeline                                        # made JPEGs of 640 x 480, yolox_s_coco
    python -m benchmarks.data_pipeline --experiment detection_experiments/yolox_nano_coco --samples 200

Times are CPU times.  A round makes one sample in each way, A B C D A B C D ..., so that what else the machine does hits all
alike:

- decode 8, decode 5: `cv2.imdecode` of 8 pictures, which mosaics blended with mosaics need, and of 5, which YOLOX's mosaic
  blended with a plain picture names;
- pipeline: the train_transforms of the page, as the training runs them (no batch transform, no collating);
- every tile: the same where those tiles of a mosaic are read, too, of which nothing is seen;
- eight: the same where eight pictures are read, as mosaics blended with mosaics would;
- pipeline, eight, cached: the same samples with every picture in a memory cache.

Then the parts of a sample, each alone, and what torchvision takes for some of them, where it is installed.  Bounds that the
project wants: 0.6 of the rate of decode 8 or more, and of eight pictures 2.5 times the rate without the cache or more.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch

from public.datasets.annotations import Annotations
from public.datasets.sample import Sample, SampleKey, Unread, as_read, as_unread
from public.files import REPOSITORY
from public.loading.detection import DetectionDataset, fit_of, open_cache
from public.random_streams import stream
from public.runs.experiment import load_experiment
from public.transforms.rules import all_of

HEIGHT, WIDTH = 480, 640
FLAGS = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR_RGB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", type=Path, default=REPOSITORY / "detection_experiments/yolox_s_coco")
    parser.add_argument("--pictures", type=int, default=128, help="that are made (%(default)s)")
    parser.add_argument("--samples", type=int, default=400, help="rounds (%(default)s)")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    transforms = load_experiment(arguments.experiment).config.train_transforms
    with tempfile.TemporaryDirectory() as folder:
        annotations = make(Path(folder), arguments.pictures)
        whole(annotations, transforms, arguments.samples)
        parts(annotations, transforms, min(arguments.samples, 100))


def make(folder: Path, count: int) -> Annotations:
    """JPEGs of 640 x 480 pixels and about 140 KB, with five boxes each."""
    rng = np.random.default_rng(0)
    sizes = []
    for number in range(count):
        coarse = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)
        image = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        noisy = np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)
        content = cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
        sizes.append(len(content))
        (folder / f"{number}.jpg").write_bytes(content)
    print(f"{count} JPEGs of {WIDTH} x {HEIGHT}, {statistics.median(sizes) / 1e3:.0f} KB")
    corners = rng.uniform(0, 0.6, (5 * count, 2)) * (WIDTH, HEIGHT)
    boxes = np.hstack([corners, corners + rng.uniform(0.05, 0.4, (5 * count, 2)) * (WIDTH, HEIGHT)])
    return Annotations(
        image_root=str(folder),
        image_names=[f"{number}.jpg" for number in range(count)],
        image_ids=list(range(count)),
        heights=[HEIGHT] * count,
        widths=[WIDTH] * count,
        offsets=5 * np.arange(count + 1),
        boxes=boxes,
        labels=np.zeros(5 * count, dtype=np.int64),
        difficult=np.zeros(5 * count, dtype=bool),
        crowd=np.zeros(5 * count, dtype=bool),
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1),
        class_names=("thing",),
        category_ids=(1,),
        use_difficult=False,
        description="made pictures",
    )


class Eager(DetectionDataset):
    """Reads `count` pictures a sample: those that it names, whether something of them is seen or not, then any."""

    count = 4  # the own picture and those of the other three tiles

    def __getitem__(self, key: SampleKey) -> Sample:
        self.left = self.count
        sample = super().__getitem__(key)
        while self.left > 0:
            self._unread((key.index + self.left) % len(self.annotations), [])
        return sample

    def _unread(self, index: int, skipped: list[str]) -> Unread:
        unread = super()._unread(index, skipped)
        self.left -= 1
        if self.left < 0:
            return unread
        sample = unread.read()
        return unread._replace(read=lambda: sample)


def seconds(do: Callable[[], object]) -> float:
    start = time.thread_time()
    do()
    return time.thread_time() - start


def whole(annotations: Annotations, transforms: tuple, rounds: int) -> None:
    paths = annotations.picture_files()
    fit = fit_of(transforms)
    options: dict = {"transforms": transforms, "batch_transforms": (), "seed": 0}
    plain = DetectionDataset(annotations, **options)
    cache = open_cache(annotations, fit, max_bytes=10**10, on_disk=False)
    cached = DetectionDataset(annotations, **options, cache=cache)
    eight, eight_cached = Eager(annotations, **options), Eager(annotations, **options, cache=cache)
    eight.count = eight_cached.count = 8
    for index in range(len(annotations)):
        cached._read(annotations, index)
        cached._read(annotations, index)  # the second time its checksum is compared
    every = Eager(annotations, **options)
    rng = np.random.default_rng(1)

    def decode(count: int) -> None:
        for index in rng.integers(len(paths), size=count):
            cv2.imdecode(np.frombuffer(Path(paths[index]).read_bytes(), dtype=np.uint8), FLAGS)

    number = 0

    def sample_of(data: DetectionDataset) -> Callable[[], Sample]:
        return lambda: data[SampleKey(number // len(annotations), 0, number % len(annotations))]

    ways: dict[str, Callable[[], object]] = {
        "decode 8": lambda: decode(8),
        "decode 5": lambda: decode(5),
        "pipeline": sample_of(plain),
        "every tile": sample_of(every),
        "eight": sample_of(eight),
        "cached": sample_of(cached),
        "eight, cached": sample_of(eight_cached),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        names = list(ways)
        for name in names[number % len(names) :] + names[: number % len(names)]:  # in turns, each first in its turn
            times[name].append(seconds(ways[name]))
    print(f"{rounds} rounds in turns, one thread; means, as the time of a sample varies with what it shows")
    means = {name: statistics.fmean(values) for name, values in times.items()}
    for name, mean in means.items():
        print(f"{name:<13} {1e3 * mean:7.2f} ms   {1 / mean:7.1f} samples/s")
    print(f"eight / decode 8: {means['decode 8'] / means['eight']:.2f} of its rate")
    print(f"eight, cached / eight: {means['eight'] / means['eight, cached']:.2f} times (bound 2.5)")
    print(f"pipeline / decode 8: {means['decode 8'] / means['pipeline']:.2f} of its rate (bound 0.6)")
    print(f"pipeline / decode 5: {means['decode 5'] / means['pipeline']:.2f} of its rate")
    print(f"every tile / decode 5: {means['decode 5'] / means['every tile']:.2f} of its rate")
    print(f"cached / pipeline: {means['pipeline'] / means['cached']:.2f} times")
    print(f"cached / every tile: {means['every tile'] / means['cached']:.2f} times")


def parts(annotations: Annotations, transforms: tuple, rounds: int) -> None:
    """Each transform of the page alone, on samples as it gets them, and reading; medians."""
    data = DetectionDataset(annotations, transforms=transforms, batch_transforms=(), seed=0)
    chain = [transform for transform in all_of(transforms) if transform is not data.fit]
    times: dict[str, list[float]] = {"read_image": []}
    reads: list[float] = []
    read = data._picture

    def timed(index: int) -> np.ndarray:
        start = time.thread_time()
        image = read(index)
        reads.append(time.thread_time() - start)
        return image

    data._picture = timed  # type: ignore[method-assign]  # to tell reading from the rest
    count = 0
    for number in range(rounds):
        skipped: list[str] = []
        sample: object = data._unread(number % len(annotations), skipped)
        for transform in chain:
            name = type(transform).__name__
            rng = stream(0, number, name)
            before = len(reads)
            start = time.thread_time()
            if hasattr(transform, "partners"):
                partners = [data._unread(index, skipped) for index in transform.partners(rng, len(annotations))]
                sample = transform(as_unread(sample), rng, partners)
            else:
                sample = transform(as_read(sample), rng)
            took = time.thread_time() - start - sum(reads[before:])
            times.setdefault(name, []).append(took)
            count += len(reads) - before
    times["read_image"] = reads
    print(f"\nparts of a sample, without the reading; pictures read: {count / rounds:.2f} a sample")
    for name, values in times.items():
        print(f"{name:<14} {1e3 * statistics.fmean(values):7.3f} ms")
    peers(data._picture(0), rounds)


def peers(image: np.ndarray, rounds: int) -> None:
    """torchvision's affine and change of hue on one picture of 640 x 480, in turns with ours."""
    try:
        from torchvision.transforms.v2 import functional
    except ImportError:
        print("torchvision is not installed")
        return
    from public.transforms.colors import shift_hsv
    from public.transforms.mosaic import RandomAffine, affine_map

    affine = RandomAffine(rotation=10.0, scale=(0.1, 2.0), shear=2.0, translate=0.1, fill=(114, 114, 114))
    matrix = affine_map(angle=5, scale=0.9, shear=(1, 1), shift=(10, 10))
    tensor = torch.from_numpy(image).permute(2, 0, 1).contiguous()
    bilinear = functional.InterpolationMode.BILINEAR

    def their_affine() -> torch.Tensor:
        options: dict = {"angle": 5, "translate": [10, 10], "scale": 0.9, "shear": [1.0, 1.0]}
        return functional.affine(tensor, **options, interpolation=bilinear, fill=[114.0] * 3)

    def their_colours() -> torch.Tensor:
        return functional.adjust_saturation(functional.adjust_hue(tensor, 0.02), 1.1)

    pairs = {
        "affine": (lambda: affine.warp(image, matrix, image.shape[:2]), their_affine),
        "colours": (lambda: shift_hsv(image, 4, 20, 10), their_colours),
    }
    print("\nours, torchvision v2")
    for name, pair in pairs.items():
        times: tuple[list[float], list[float]] = ([], [])
        for number in range(rounds):
            for which in (0, 1) if number % 2 else (1, 0):
                times[which].append(seconds(pair[which]))
        ours, theirs = (statistics.median(values) for values in times)
        print(f"{name:<14} {1e3 * ours:7.3f} ms {1e3 * theirs:7.3f} ms   {theirs / ours:.1f} times")


if __name__ == "__main__":
    main()
