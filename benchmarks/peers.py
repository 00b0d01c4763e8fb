"""The library beside what a user would take instead, in turns, on one thread: ratios of CPU time.

    python -m benchmarks.peers [--only pictures labelled steps inference metric programs] [--short]

- pictures   training pictures of detection: SSD's augmentation and a resize to 640 px; torchvision's transforms v2 on what
             its reference scripts read, PIL's picture with boxes
- labelled   training pictures of classification: a random part, resized to 224 px, and a flip; torchvision's transforms v2,
             and timm's, on PIL's picture
- steps      a training step (forward, loss, backward, SGD) in float32: RetinaNet and FCOS with ResNet-50 against those of
             torchvision, ResNet-18 against timm's and torchvision's; ours channels-last, as on its pages, theirs as they come
- inference  a picture to detections: RetinaNet with ResNet-50 against torchvision's, both with random weights
- metric     COCO's numbers from files against faster-coco-eval; those of pycocotools are in `benchmarks.evaluation`
- programs   YOLOX-s against `yolo predict model=yolov8s.yaml` of ultralytics, which is run as a program of its own by its
             command line, as its licence (AGPL) asks of a project with another; the milliseconds are those that it prints

A peer that is not installed (pip install timm faster-coco-eval ultralytics) is left out, by name.  The networks have random
weights; both sides get the same pictures.
"""

import argparse
import contextlib
import importlib.util
import io
import os
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.data_pipeline import make as make_pictures
from benchmarks.evaluation import make_annotations, make_detections, write_truth
from benchmarks.figures import figure
from benchmarks.train_step import LATE
from public.datasets.sample import SampleKey
from public.evaluation.coco import evaluate_coco, write_coco_json
from public.families import published
from public.inference.detector import Detector
from public.input import read_image
from public.loading.detection import DetectionDataset
from public.losses import create_loss
from public.models import create_model
from public.test_scripts.benchmark import PLAIN_INPUT
from public.transforms.classification import RandomResizedCrop, apply_transforms
from public.transforms.detection import ColorDistort, RandomCrop, RandomExpand, Resize
from public.transforms.flip import RandomFlip

SIDE, NUM_CLASSES = 320, 80
FILL = (124, 116, 104)
Ways = dict[str, Callable[[], Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=list(PARTS), choices=tuple(PARTS))
    parser.add_argument("--short", action="store_true", help="few rounds")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    for name in arguments.only:
        print(f"{name}:")
        with tempfile.TemporaryDirectory() as folder:
            PARTS[name](Path(folder), 3 if arguments.short else 12)


def there(package: str) -> bool:
    """Whether a peer can be imported; where it cannot, a line says so."""
    found = importlib.util.find_spec(package) is not None
    if not found:
        print(f"  {package} is not installed, and left out")
    return found


def compare(what: str, ways: Ways, rounds: int) -> None:
    """Times all ways in turns, after one round that is not counted; ours is the first."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        names = list(ways)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            start = time.process_time()
            ways[name]()
            if number:
                seconds[name].append(time.process_time() - start)
    ours, *others = ways
    for name, values in seconds.items():
        print(f"  {what}, {name}: {1e3 * statistics.median(values):.1f} ms")
    for name in others:
        ratio = statistics.median(b / a for a, b in zip(seconds[ours], seconds[name]))
        figure(f"{what}, faster", ratio, "times", peer=name)


# ------------------------------------------------------------------------------------------------- pictures


def pictures(folder: Path, rounds: int) -> None:
    """SSD's recipe; the same chances and limits, of which each side draws its own numbers."""
    from PIL import Image
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    annotations = make_pictures(folder, 24)
    recipe = (
        ColorDistort(
            brightness=(0.875, 1.125), contrast=(0.5, 1.5), saturation=(0.5, 1.5), hue=(-12.0, 12.0), apply_prob=0.5
        ),
        RandomExpand(ratio=(1.0, 4.0), fill=FILL, apply_prob=0.5),
        RandomCrop(
            aspect_ratio=(0.5, 2.0), scale=(0.3, 1.0), thresholds=(0.0, 0.1, 0.3, 0.5, 0.7, 0.9), num_attempts=40,
            allow_no_crop=True,
        ),
        RandomFlip(prob=0.5),
        Resize(size=(640, 640), interpolation="linear"),
    )  # fmt: skip
    theirs = v2.Compose(
        [
            v2.ToImage(),
            v2.RandomPhotometricDistort(),
            v2.RandomZoomOut(fill={tv_tensors.Image: FILL, "others": 0}),
            v2.RandomIoUCrop(),
            v2.RandomHorizontalFlip(0.5),
            v2.Resize((640, 640), antialias=False),
            v2.SanitizeBoundingBoxes(),
        ]
    )
    data = DetectionDataset(annotations, transforms=recipe, batch_transforms=(), seed=0)
    paths, epoch = annotations.picture_files(), iter(range(10**6))

    def own() -> None:
        number = next(epoch)
        for index in range(len(paths)):
            data[SampleKey(number, 0, index)]

    def other() -> None:
        for index, path in enumerate(paths):
            start, stop = annotations.offsets[index : index + 2]
            boxes = tv_tensors.BoundingBoxes(
                torch.from_numpy(annotations.boxes[start:stop]), format="XYXY", canvas_size=(480, 640)
            )
            labels = torch.from_numpy(annotations.labels[start:stop])
            theirs(Image.open(path).convert("RGB"), {"boxes": boxes, "labels": labels})

    torch.manual_seed(0)
    compare("24 training pictures of SSD's recipe", {"ours": own, "torchvision's transforms v2": other}, rounds)


def labelled(folder: Path, rounds: int) -> None:
    from PIL import Image
    from torchvision.transforms import v2

    paths = [Path(path) for path in make_pictures(folder, 24).picture_files()]
    recipe = (
        RandomResizedCrop(
            size=(224, 224), area=(0.08, 1.0), aspect_ratio=(3 / 4, 4 / 3), interpolation="area", num_attempts=10
        ),
        RandomFlip(prob=0.5),
    )
    epoch = iter(range(10**6))

    def own() -> None:
        number = next(epoch)
        for index, path in enumerate(paths):
            torch.from_numpy(apply_transforms(read_image(path), recipe, 0, number, index))

    def by(transform: Callable[[Any], Any]) -> None:
        for path in paths:
            transform(Image.open(path).convert("RGB"))

    their = v2.Compose([v2.RandomResizedCrop(224, antialias=True), v2.RandomHorizontalFlip(), v2.PILToTensor()])
    ways: Ways = {"ours": own, "torchvision's transforms v2": partial(by, their)}
    if there("timm"):
        from timm.data import create_transform

        options: dict[str, Any] = {"color_jitter": None, "interpolation": "bilinear", "normalize": False}
        ways["timm's transforms"] = partial(by, create_transform(224, is_training=True, **options))
    compare("24 training pictures for ResNet", ways, rounds)


# ------------------------------------------------------------------------------------------------- networks


def targets_of(count: int) -> list[dict[str, torch.Tensor]]:
    """Five boxes an image."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for _ in range(count):
        corners = torch.rand(5, 2, generator=generator) * SIDE * 0.6
        sides = SIDE * (0.1 + 0.3 * torch.rand(5, 2, generator=generator))
        labels = torch.randint(NUM_CLASSES, (5,), generator=generator)
        made.append({"boxes": torch.cat([corners, corners + sides], dim=1), "labels": labels})
    return made


def last(images: torch.Tensor) -> torch.Tensor:
    return images.contiguous(memory_format=torch.channels_last)


def step(model: nn.Module, loss_of: Callable[..., torch.Tensor], *inputs: Any) -> Callable[[], None]:
    """A training step; `loss_of` gives the loss of the model for the inputs."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-4, momentum=0.9)

    def call() -> None:
        optimizer.zero_grad()
        loss_of(model, *inputs).backward()
        optimizer.step()

    return call


def steps(folder: Path, rounds: int) -> None:
    from torchvision.models import detection, resnet18

    images, batch = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)), 2
    builders = {"retinanet": detection.retinanet_resnet50_fpn, "fcos": detection.fcos_resnet50_fpn}
    for family, build in builders.items():
        name = f"{family}_r50_torchvision"
        model: Any = create_model(name, num_classes=NUM_CLASSES).train()
        loss = create_loss(name, num_classes=NUM_CLASSES)
        options: dict[str, Any] = {"min_size": SIDE, "max_size": SIDE, "num_classes": NUM_CLASSES}
        peer = build(weights=None, weights_backbone=None, **options).train()
        ways = {
            "ours": step(
                model.to(memory_format=torch.channels_last),
                lambda network, x, targets, loss=loss: sum(loss(network(x), targets, LATE).values()),
                last(images),
                targets_of(batch),
            ),
            "torchvision": step(
                peer, lambda network, x, targets: sum(network(x, targets).values()), list(images), targets_of(batch)
            ),
        }
        compare(f"a training step of {family}, ResNet-50, {SIDE} px, batch {batch}", ways, rounds)
    pixels, labels = torch.rand(8, 3, 224, 224), torch.arange(8)
    own: Any = create_model("resnet18", num_classes=1000).train()
    networks: dict[str, Any] = {"torchvision": resnet18(num_classes=1000).train()}
    if there("timm"):
        import timm

        networks["timm"] = timm.create_model("resnet18", num_classes=1000).train()

    def of_classes(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return cross_entropy(network(x), labels)

    ways = {"ours": step(own.to(memory_format=torch.channels_last), of_classes, last(pixels))}
    ways |= {name: step(network, of_classes, pixels) for name, network in networks.items()}
    compare("a training step of ResNet-18, 224 px, batch 8", ways, rounds)


def detector_of(settings: Any, spec: Any) -> Detector:
    names = tuple(str(label) for label in range(settings.num_classes))
    parts: dict[str, Any] = {"model": settings.build_model(), "decoder": settings.build_decoder(), "spec": spec}
    return Detector(**parts, class_names=names, device=torch.device("cpu")).fused()


def inference(folder: Path, rounds: int) -> None:
    from torchvision.models import detection

    picture = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    settings = published("retinanet_r50_torchvision")
    spec = replace(PLAIN_INPUT, size=(480, 640))
    own = detector_of(settings, spec)
    options: dict[str, Any] = {"min_size": 480, "max_size": 640, "num_classes": settings.num_classes}
    peer = detection.retinanet_resnet50_fpn(weights=None, weights_backbone=None, **options).eval()

    def theirs() -> None:
        with torch.inference_mode():
            peer([torch.from_numpy(picture).permute(2, 0, 1).float() / 255])

    compare(
        "RetinaNet, ResNet-50, a picture of 640 x 480 to detections",
        {"ours": lambda: own(picture), "torchvision": theirs},
        rounds,
    )


# ------------------------------------------------------------------------------------------------- the rest


def metric(folder: Path, rounds: int) -> None:
    if not there("faster_coco_eval"):
        return
    from faster_coco_eval import COCO, COCOeval_faster

    rng = np.random.default_rng(0)
    annotations = make_annotations(rng, 100 * rounds, NUM_CLASSES)
    detections = make_detections(rng, annotations, 100)
    truth, results = folder / "truth.json", folder / "results.json"
    write_truth(truth, annotations)

    def theirs() -> float:
        write_coco_json(results, annotations, detections)
        with contextlib.redirect_stdout(io.StringIO()):
            known = COCO(str(truth))
            evaluation = COCOeval_faster(known, known.loadRes(str(results)), "bbox")
            evaluation.run()
        return float(evaluation.stats[0])

    own, other = evaluate_coco(annotations, detections)["AP"], theirs()
    print(f"  {len(annotations)} images: AP {own}, faster-coco-eval {other}")
    ways: Ways = {"ours": lambda: evaluate_coco(annotations, detections), "faster-coco-eval, from files": theirs}
    compare(f"COCO's numbers of {len(annotations)} images, 100 detections each", ways, 2)


def programs(folder: Path, rounds: int) -> None:
    if (yolo := shutil.which("yolo")) is None:
        print("  ultralytics (its program yolo) is not installed, and left out")
        return
    annotations = make_pictures(folder, 4 * rounds)
    paths = annotations.picture_files()
    words = [yolo, "predict", "model=yolov8s.yaml", f"source={folder / 'images'}", "imgsz=640", "device=cpu"]
    words[3] = f"source={Path(paths[0]).parent}"
    words += ["save=False", f"project={folder}"]
    told = subprocess.run(
        words, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1", "YOLO_OFFLINE": "true"}
    )
    found = re.search(
        r"Speed: ([\d.]+)ms preprocess, ([\d.]+)ms inference, ([\d.]+)ms postprocess", told.stdout + told.stderr
    )
    if found is None:
        print("  ultralytics told no times: " + " ".join((told.stdout + told.stderr).split())[-300:])
        return
    settings = published("yolox_s")
    own = detector_of(settings, replace(PLAIN_INPUT, size=(480, 640)))
    images = [read_image(path) for path in paths]
    own(images[0])
    seconds = []
    for image in images:
        start = time.perf_counter()
        own(image)
        seconds.append(time.perf_counter() - start)
    theirs = sum(float(value) for value in found.groups())
    ours = 1e3 * statistics.fmean(seconds)
    print(
        f"  a picture of 640 x 480 to detections: ours, YOLOX-s (26.8 G) {ours:.0f} ms; YOLOv8-s (28.6 G) {theirs:.0f} ms"
    )
    figure("YOLOX-s, a picture to detections, faster", theirs / ours, "times", peer="YOLOv8-s of ultralytics")


PARTS: dict[str, Callable[[Path, int], None]] = {
    "pictures": pictures,
    "labelled": labelled,
    "steps": steps,
    "inference": inference,
    "metric": metric,
    "programs": programs,
}

if __name__ == "__main__":
    main()
