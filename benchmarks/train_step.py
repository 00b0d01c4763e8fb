"""Training steps a second: each mode against plain float32 with contiguous tensors, in turns in one process.

    python -m benchmarks.train_step                                          # ppyoloe_xs at 128 px on the CPU
    python -m benchmarks.train_step --model ppyoloe_s --size 640 --batch 32 --device cuda
    python -m benchmarks.train_step --parts --model yolox_s --size 640 --batch 8 --objects 20    # where the time goes
    python -m benchmarks.train_step --parts --model ppyoloe_xs --teacher ppyoloe_s    # and what a teacher takes of it

A step is forward, loss, backward and SGD on random images with five objects each, of the published settings with the
task-aligned assigner.  Data loading is not in it.  With --parts, steps of the training loop itself are taken apart instead:
see `benchmarks.step_parts`.
"""

import argparse
import statistics
import time

import torch

from benchmarks import step_parts
from public.losses import create_loss
from public.models import create_model
from public.protocols import Progress

MODES = {
    "float32": (None, torch.contiguous_format),
    "float32 channels-last": (None, torch.channels_last),
    "bf16": (torch.bfloat16, torch.contiguous_format),
    "bf16 channels-last": (torch.bfloat16, torch.channels_last),
}
NUM_CLASSES = 80
LATE = Progress(
    epoch=999, step=999, step_in_epoch=0, num_epochs=1000, steps_per_epoch=1
)  # of the task-aligned assigner


class Step:
    """One training step of a fresh network in one mode."""

    def __init__(self, arguments: argparse.Namespace, mode: str) -> None:
        self.dtype, memory_format = MODES[mode]
        self.device = torch.device(arguments.device)
        generator = torch.Generator().manual_seed(0)
        torch.manual_seed(0)
        model = create_model(arguments.model, num_classes=NUM_CLASSES)
        self.model = model.to(self.device, memory_format=memory_format).train()
        self.loss = create_loss(arguments.model, num_classes=NUM_CLASSES)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9)
        shape = (arguments.batch, 3, arguments.size, arguments.size)
        images = torch.rand(shape, generator=generator)
        self.images = images.to(self.device, memory_format=memory_format)
        self.targets = [self._target(arguments.size, arguments.objects, generator) for _ in range(arguments.batch)]

    def _target(self, size: int, count: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        corners = torch.rand(count, 2, generator=generator) * size * 0.6
        sides = size * (0.1 + 0.3 * torch.rand(count, 2, generator=generator))
        labels = torch.randint(NUM_CLASSES, (count,), generator=generator)
        boxes = torch.cat([corners, corners + sides], dim=1)
        return {"boxes": boxes.to(self.device), "labels": labels.to(self.device)}

    def seconds(self) -> float:
        start = time.perf_counter()
        with torch.autocast(self.device.type, dtype=self.dtype or torch.bfloat16, enabled=self.dtype is not None):
            outputs = self.model(self.images)
        total = sum(
            self.loss(
                outputs,
                self.targets,
                LATE,
            ).values()
        )
        self.optimizer.zero_grad()
        total.backward()
        self.optimizer.step()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ppyoloe_xs")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--objects", type=int, default=5, help="of an image (%(default)s)")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=3, help="rounds before those that count (%(default)s)")
    parser.add_argument("--parts", action="store_true", help="the parts of a step, instead of the modes")
    parser.add_argument("--teacher", help="with --parts: the network that teaches")
    arguments = parser.parse_args()
    if arguments.teacher and not arguments.parts:
        parser.error("--teacher is for --parts; python -m benchmarks.distilled_step compares whole steps")
    torch.set_num_threads(1)
    if arguments.parts:
        print_parts(arguments)
    else:
        print_modes(arguments)


def print_parts(arguments: argparse.Namespace) -> None:
    """Where the time of a step goes."""
    taught = f", taught by {arguments.teacher}" if arguments.teacher else ""
    print(describe(arguments) + f", {arguments.objects} objects an image{taught}")
    seconds = step_parts.measure(
        arguments.model,
        size=arguments.size,
        batch=arguments.batch,
        objects=arguments.objects,
        device=torch.device(arguments.device),
        steps=arguments.rounds,
        warmup=arguments.warmup,
        teacher=arguments.teacher,
    )
    print(step_parts.report(seconds))


def describe(arguments: argparse.Namespace) -> str:
    return f"{arguments.model}, {arguments.size} px, batch {arguments.batch}, {arguments.device}, one thread"


def print_modes(arguments: argparse.Namespace) -> None:
    """Images a second in each mode."""
    steps = {mode: Step(arguments, mode) for mode in MODES}
    times: dict[str, list[float]] = {mode: [] for mode in MODES}
    for number in range(arguments.rounds + arguments.warmup):
        for mode, step in steps.items():  # in turns: A B C D A B C D ...
            seconds = step.seconds()
            if number >= arguments.warmup:
                times[mode].append(seconds)
    print(describe(arguments))
    plain = statistics.median(times["float32"])
    for mode, values in times.items():
        median = statistics.median(values)
        print(f"{mode:<22} {arguments.batch / median:8.1f} images/s   {plain / median:.2f} x float32")


if __name__ == "__main__":
    main()
