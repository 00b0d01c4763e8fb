"""What the training pictures of any page cost on one core, part by part, against decoding the same pictures and no more.

    python -m benchmarks.pipelines                                            # ppyoloe_s_coco and resnet50, bounds and all
    python -m benchmarks.pipelines detection_experiments/picodet_s_416_coco imagenet_experiments/vovnet39_se --samples 100
    python -m benchmarks.pipelines imagenet_experiments/resnet50 --sides 1500 2000 --use_reduced --pictures 8
    python -m benchmarks.pipelines detection_experiments/ppyoloe_s_coco --data_root D     # real pictures: D/coco/train2017

The pictures are the first of the page's training set under --data_root; without it they are made JPEGs of 640 x 480 for
detection, of 500 x 375 (ImageNet's usual size) for classification, which decode faster than most real ones.  A round
decodes a picture by `cv2.imdecode`, then makes the page's sample of it as the training does, each first in its turn; CPU
times of one thread, means, since what a sample costs varies with what is drawn for it.  The parts are taken from
the same samples: a part's time is without that of the parts inside it.  `collate` and `to device` are a sample's share of its
batch.  A page that reads more pictures than its own, as mosaics do, is compared with one decoding a picture all the same:
`benchmarks.data_pipeline` is for those.

`resizing` is what `cv2.resize` takes, by the interpolations that the page names.  Their bits stay, so the rate of decoding
and resizing alone is the most that a page can have.
"""

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks.data_pipeline import FLAGS, make
from benchmarks.figures import figure
from public.config import ClassificationConfig, DetectionConfig
from public.datasets.classification_set import ClassificationSet
from public.datasets.sample import SampleKey
from public.files import REPOSITORY
from public.loading.classification import Collate, TrainingPictures
from public.loading.detection import DetectionDataset, collate
from public.runs.experiment import load_experiment
from public.tasks import make_task
from public.transforms.rules import all_of

PAGES = {  # page: the rate of decoding alone that it has to reach
    "detection_experiments/ppyoloe_s_coco": 0.6,
    "imagenet_experiments/resnet50": 0.8,
}
IMAGENET_SIDES = (375, 500)
RESIZING = "resizing"
LATE_BATCH = 8  # samples that are collated at once


class Parts:
    """Seconds of each part, of calls inside each other each without the inner one's."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.inner = [0.0]

    def timed(self, name: str, function: Callable) -> Callable:
        def call(*arguments: Any, **keywords: Any) -> Any:
            start = time.thread_time()
            self.inner.append(0.0)
            try:
                return function(*arguments, **keywords)
            finally:
                whole = time.thread_time() - start
                self.seconds[name] = self.seconds.get(name, 0.0) + whole - self.inner.pop()
                self.inner[-1] += whole

        return call

    @contextlib.contextmanager
    def over(self, places: list[tuple[Any, str, str]]) -> Iterator[None]:
        """Lets these (owner, attribute, name of the part) be timed, and puts them back."""
        before = [(owner, attribute, getattr(owner, attribute)) for owner, attribute, _ in places]
        try:
            for (owner, attribute, old), (_, _, name) in zip(before, places):
                setattr(owner, attribute, self.timed(name, old))
            yield
        finally:
            for owner, attribute, old in before:
                setattr(owner, attribute, old)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", metavar="EXPERIMENT", help=f"folders of experiments ({', '.join(PAGES)})")
    parser.add_argument("--pictures", type=int, default=64, help="that are made (%(default)s)")
    parser.add_argument("--samples", type=int, default=300, help="rounds (%(default)s)")
    parser.add_argument(
        "--sides",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        default=IMAGENET_SIDES,
        help="of those of classification",
    )
    parser.add_argument(
        "--use_reduced", action="store_true", help="classification: parts are decoded at a part of the sides"
    )
    parser.add_argument("--device", default="cpu", help="where batches go (%(default)s)")
    parser.add_argument("--data_root", type=Path, help="of the page's own pictures, in place of made ones")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    for page in arguments.pages or PAGES:
        with tempfile.TemporaryDirectory() as folder:
            measure(page, Path(folder), arguments)


def measure(page: str, folder: Path, arguments: argparse.Namespace) -> None:
    config = load_experiment(REPOSITORY / page).config
    print(f"{page}: ", end="")
    if isinstance(config, DetectionConfig):
        data, paths, join = detection(config, folder, arguments)
    elif isinstance(config, ClassificationConfig):
        data, paths, join = classification(config, folder, arguments)
    else:
        raise TypeError(f"{page} is neither of detection nor of classification, but {type(config).__name__}")
    is_usual = (
        tuple(arguments.sides) == IMAGENET_SIDES and not arguments.use_reduced and arguments.data_root is None
    )  # what PAGES' rates are stated for
    parts = Parts()
    decoding, sampling, samples = [], [], []
    drawn = {type(t) for t in all_of(config.train_transforms)}
    places: list[tuple[Any, str, str]] = [(cv2, "resize", RESIZING)]
    places += [(kind, "__call__", kind.__name__) for kind in sorted(drawn, key=lambda kind: kind.__name__)]
    places.append((data, "_picture" if isinstance(config, DetectionConfig) else "_load", "read"))
    if isinstance(config, DetectionConfig):
        from public.loading import detection as room

        places.append((room, "apply_batch_transforms", "batch transforms"))
    decode = parts.timed("decode alone", lambda path: cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), FLAGS))
    with parts.over(places):
        for number in range(arguments.samples):
            index = number % len(paths)
            key = SampleKey(number // LATE_BATCH, 0, index)  # an epoch a batch: a picture has other random numbers then
            for which in (0, 1) if number % 2 else (1, 0):
                start = time.thread_time()
                if which:
                    sample = data[key]
                    sampling.append(time.thread_time() - start)
                else:
                    decode(paths[index])
                    decoding.append(time.thread_time() - start)
            samples.append(sample)
            if len(samples) == LATE_BATCH or number == arguments.samples - 1:
                batch = parts.timed("collate", join)(samples)
                parts.timed("to device", batch.to)(arguments.device)
                samples = []
    report(page, statistics.fmean(decoding), statistics.fmean(sampling), parts, arguments.samples, is_usual)


def report(page: str, decoding: float, sampling: float, parts: Parts, rounds: int, usual: bool) -> None:
    floor = decoding + parts.seconds.get(RESIZING, 0.0) / rounds
    joined = (parts.seconds["collate"] + parts.seconds["to device"]) / rounds
    print(
        f"decode alone {1 / decoding:.0f} pictures/s, samples {1 / sampling:.0f}, in batches {1 / (sampling + joined):.0f}"
    )
    for name, seconds in parts.seconds.items():
        print(f"  {name:<20} {1e3 * seconds / rounds:8.3f} ms")
    known = sum(s for name, s in parts.seconds.items() if name not in ("decode alone", "collate", "to device"))
    print(f"  {'everything else':<20} {1e3 * (sampling - known / rounds):8.3f} ms")
    figure(f"decoding and resizing for {page}, and no more", decoding / floor, "of the rate", peer="decode alone")
    options = {"least": PAGES[page]} if page in PAGES and usual else {}
    figure(
        f"training pictures of {page}, in batches",
        decoding / (sampling + joined),
        "of the rate",
        peer="decode alone",
        **options,
    )


def detection(
    config: DetectionConfig, folder: Path, arguments: argparse.Namespace
) -> tuple[DetectionDataset, list[Path], Callable]:
    annotations = make(folder, arguments.pictures) if arguments.data_root is None else own_pictures(config, arguments)
    transforms, batch_transforms = config.train_transforms, config.batch_transforms
    data = DetectionDataset(annotations, transforms=transforms, batch_transforms=batch_transforms, seed=0)
    return data, [Path(path) for path in annotations.picture_files()], collate


def own_pictures(config: DetectionConfig | ClassificationConfig, arguments: argparse.Namespace) -> Any:
    """The first of the training set."""
    task = make_task(
        config,
        data_root=arguments.data_root,
        device=torch.device("cpu"),
        limit_images=arguments.pictures,
    )
    pictures = task.data("train")
    sizes = [Path(path).stat().st_size for path in pictures.picture_files()]
    print(f"{len(sizes)} pictures of {pictures.description}, {statistics.median(sizes) / 1e3:.0f} KB")
    return pictures


def classification(
    config: ClassificationConfig, folder: Path, arguments: argparse.Namespace
) -> tuple[TrainingPictures, list[Path], Callable]:
    pictures = made_pictures(folder, arguments) if arguments.data_root is None else own_pictures(config, arguments)
    transforms = config.train_transforms
    if arguments.use_reduced:
        transforms = (replace(transforms[0], use_reduced=True), *transforms[1:])
    data = TrainingPictures(pictures, transforms=transforms, batch_transforms=(), seed=0)
    return data, [Path(path) for path in pictures.picture_files()], Collate((), 0)


def made_pictures(folder: Path, arguments: argparse.Namespace) -> ClassificationSet:
    rng, count = np.random.default_rng(0), arguments.pictures
    names, sizes = [f"{number}.jpg" for number in range(count)], []
    height, width = arguments.sides
    for name in names:
        image = cv2.resize(
            rng.integers(0, 256, (48, 64, 3), dtype=np.uint8), (width, height), interpolation=cv2.INTER_CUBIC
        )
        noisy = np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)
        content = cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
        sizes.append(len(content))
        (folder / name).write_bytes(content)
    print(f"{count} JPEGs of {width} x {height}, {statistics.median(sizes) / 1e3:.0f} KB")
    return ClassificationSet(
        images=None,
        image_root=str(folder),
        labels=[0] * count,
        class_names=("thing",),
        image_ids=names,
        description="made pictures",
    )


if __name__ == "__main__":
    main()
