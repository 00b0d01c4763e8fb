"""Training steps a second of a student beside its teacher against the student alone, in turns in one process.

    python -m benchmarks.distilled_step                                        # ppyoloe_xs taught by ppyoloe_s, 128 px, CPU
    python -m benchmarks.distilled_step --student ppyoloe_plus_s --teacher ppyoloe_plus_l --size 640 --batch 8 --device cuda

A step is forward, loss, backward and SGD on random images with five objects each: the student's own, with FGD on the necks
and PaddleDetection's terms on the outputs beside it.  Printed are both, and the share of the second that the teacher's
forward takes, which is timed by itself.  Data loading is not in it.
"""

import argparse
import statistics
import time
from typing import Any

import torch

from benchmarks.step_parts import NUM_CLASSES, settings_of
from public.parts import train
from public.protocols import Progress

LATE = Progress(epoch=999, step=999, step_in_epoch=0, num_epochs=1000, steps_per_epoch=1)  # the teacher assigns


class Step:
    """One training step of a fresh network."""

    def __init__(self, settings: Any, arguments: argparse.Namespace) -> None:
        self.device = torch.device(arguments.device)
        torch.manual_seed(0)
        self.model, self.loss = settings.build_model().to(self.device), settings.build_loss()
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(trained, lr=1e-4, momentum=0.9)
        generator = torch.Generator().manual_seed(0)
        size = arguments.size
        self.images = torch.rand(arguments.batch, 3, size, size, generator=generator).to(self.device)
        self.targets = []
        for _ in range(arguments.batch):
            corners = torch.rand(5, 2, generator=generator) * size * 0.6
            sides = size * (0.1 + 0.3 * torch.rand(5, 2, generator=generator))
            labels = torch.randint(NUM_CLASSES, (5,), generator=generator).to(self.device)
            self.targets.append({"boxes": torch.cat([corners, corners + sides], 1).to(self.device), "labels": labels})

    def seconds(self) -> float:
        train(self.model)
        start = time.perf_counter()
        terms = self.loss(self.model(self.images), self.targets, LATE)
        self.optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        self.optimizer.step()
        return self._since(start)

    def teacher_seconds(self) -> float:
        start = time.perf_counter()
        with torch.no_grad():
            self.model.teacher(self.images)
        return self._since(start)

    def _since(self, start: float) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", default="ppyoloe_xs")
    parser.add_argument("--teacher", default="ppyoloe_s")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    student = settings_of(arguments.student, None)
    pair = settings_of(arguments.student, arguments.teacher)
    alone, distilled = Step(student, arguments), Step(pair, arguments)
    times: dict[str, list[float]] = {"alone": [], "distilled": [], "teacher": []}
    for number in range(arguments.rounds + 2):
        found = {"alone": alone.seconds(), "distilled": distilled.seconds(), "teacher": distilled.teacher_seconds()}
        for name, seconds in found.items() if number >= 2 else ():
            times[name].append(seconds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(
        f"{arguments.student} by {arguments.teacher}, {arguments.size} px, batch {arguments.batch}, {arguments.device}"
    )
    print(f"alone      {arguments.batch / medians['alone']:8.1f} images/s")
    print(
        f"distilled  {arguments.batch / medians['distilled']:8.1f} images/s   "
        f"{medians['distilled'] / medians['alone']:.2f} x the time"
    )
    print(f"the teacher's forward takes {medians['teacher'] / medians['distilled']:.0%} of a distilled step")


if __name__ == "__main__":
    main()
