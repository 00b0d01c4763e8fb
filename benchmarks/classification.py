"""ResNet-18 on CIFAR-sized pictures in bf16: images/s of the library against a plain loop over torchvision, in turns.

    python -m benchmarks.classification --device cuda
    python -m benchmarks.classification --images 2048 --batch 64 --rounds 1        # a try on a CPU

Both train the same network, ResNet-18 with CIFAR's stem, on the same random pictures, with flip and padded crop, by SGD.
Ours keeps the pictures on the device (`DeviceLoader`); the plain loop reads them by torchvision's transforms and a
DataLoader.  The library's part starts anew from the same seed each time: the digests of the weights must be equal.
"""

import argparse
import os
import statistics
import time
from collections.abc import Iterator

import numpy as np
import torch
import torchvision
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.transforms import v2

from public import random_streams
from public.checkpoint_files import digest
from public.datasets.classification_set import ClassificationSet
from public.input import ClassificationInput, normalise
from public.loading.classification import TrainingPictures
from public.loading.on_device import DeviceLoader
from public.loading.samplers import TrainBatches
from public.models import create_model
from public.transforms.classification import ReflectPadCrop
from public.transforms.flip import RandomFlip

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.262)
NUM_CLASSES = 100


def library(arguments: argparse.Namespace, data: ClassificationSet) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(normalised images, labels) of one epoch by the library, from pictures that live on the device."""
    spec = ClassificationInput(
        size=(32, 32), shorter_side=32, interpolation="linear", color_order="rgb", scale=1 / 255, mean=MEAN, std=STD
    )
    transforms = (RandomFlip(prob=0.5), ReflectPadCrop(padding=4, size=(32, 32)))
    pictures = TrainingPictures(data, transforms=transforms, batch_transforms=(), seed=0, on_bad_sample="error")
    steps = len(data) // arguments.batch
    batches = TrainBatches(
        num_images=len(data), batch_size=arguments.batch, seed=0, first_step=0, num_steps=steps, rank=0, world_size=1
    )
    for batch in DeviceLoader(pictures, batches, device=torch.device(arguments.device)):
        batch = batch.to(arguments.device)
        yield normalise(batch.images, spec), batch.targets["labels"]


def plain(arguments: argparse.Namespace, data: ClassificationSet) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The same by torchvision's transforms, a picture at a time in loader workers."""
    transform = v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            v2.RandomCrop(32, padding=4, padding_mode="reflect"),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )

    def collate(samples):
        images = torch.stack([transform(image) for image, _ in samples])
        return v2.functional.normalize(images, MEAN, STD), torch.stack([label for _, label in samples])

    images = torch.from_numpy(data.images).permute(0, 3, 1, 2)
    loader = DataLoader(
        TensorDataset(images, torch.from_numpy(data.labels)),
        batch_size=arguments.batch,
        shuffle=True,
        drop_last=True,
        num_workers=arguments.workers,
        collate_fn=collate,
        pin_memory=arguments.device != "cpu",
    )
    for images, labels in loader:
        yield images.to(arguments.device, non_blocking=True), labels.to(arguments.device, non_blocking=True)


def plain_model() -> nn.Module:
    """torchvision's ResNet-18 with CIFAR's stem."""
    model = torchvision.models.resnet18(num_classes=NUM_CLASSES)
    model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    return model


def train(batches: Iterator, model: nn.Module, device: str) -> float:
    """Seconds for all of `batches`, the end of the device's work included."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    start = time.perf_counter()
    for images, labels in batches:
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.split(":")[0], dtype=torch.bfloat16):
            loss = nn.functional.cross_entropy(model(images).float(), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def fresh(build, device: str) -> nn.Module:
    random_streams.seed_torch(0, "model")
    return build().to(device, memory_format=torch.channels_last).train()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000, help="pictures of an epoch (50000)")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=4, help="loader workers of the plain loop (4)")
    parser.add_argument("--rounds", type=int, default=3, help="epochs of each, in turns (3)")
    arguments = parser.parse_args()
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    generator = np.random.default_rng(0)
    data = ClassificationSet(
        images=generator.integers(0, 256, (arguments.images, 32, 32, 3), dtype=np.uint8),
        image_root=None,
        labels=generator.integers(0, NUM_CLASSES, arguments.images),
        class_names=[f"class_{number}" for number in range(NUM_CLASSES)],
        image_ids=[str(number) for number in range(arguments.images)],
        description="random pictures",
    )

    def ours() -> nn.Module:
        return create_model("resnet18_cifar", num_classes=NUM_CLASSES)

    times: dict[str, list[float]] = {"library": [], "plain": []}
    digests = []
    for _ in range(arguments.rounds + 1):  # the first one warms up
        model = fresh(ours, arguments.device)
        times["library"].append(train(library(arguments, data), model, arguments.device))
        digests.append(digest(model.state_dict()))
        times["plain"].append(train(plain(arguments, data), fresh(plain_model, arguments.device), arguments.device))
    shown = arguments.images // arguments.batch * arguments.batch
    speeds = {name: shown / statistics.median(values[1:]) for name, values in times.items()}
    for name, speed in speeds.items():
        print(f"{name:<8} {speed:9.0f} images/s")
    print(f"library / plain: {speeds['library'] / speeds['plain']:.2f}")
    print(f"the same bits in {len(digests)} runs: {len(set(digests)) == 1}, digest {digests[0][:16]}")


if __name__ == "__main__":
    main()
