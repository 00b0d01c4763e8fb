"""Deformable convolution by gathering, which repeats on every device, against torchvision's, in turns in one process.

    python -m benchmarks.deformable                                # one image of 512 pixels on one thread of the CPU
    python -m benchmarks.deformable --batch 32 --device cuda

The three convolutions are those of CenterNet with ResNet-18.  A round is forward and backward of one of them, float32.
Memory is what torch's allocator held at the highest of a round, above what it held before.
"""

import argparse
import itertools
import statistics
import time

import torch

from public.models.deformable import FORMS, DeformableConv2d

LAYERS = ((512, 256, 32), (256, 128, 16), (128, 64, 8))  # channels in and out, stride of the map against the images
MIB = 2**20


class Round:
    """Forward and backward of one layer in one form; all forms have the same weights and features."""

    def __init__(
        self, in_channels: int, out_channels: int, side: int, form: str, arguments: argparse.Namespace
    ) -> None:
        self.device = torch.device(arguments.device)
        torch.manual_seed(0)
        self.layer = DeformableConv2d(in_channels, out_channels, form=form).to(self.device)
        torch.nn.init.normal_(self.layer.offset.weight, std=0.3 / (9 * in_channels) ** 0.5)
        torch.nn.init.normal_(self.layer.offset.bias)
        shape = (arguments.batch, in_channels, side, side)
        self.features = torch.randn(shape, device=self.device).contiguous(memory_format=torch.channels_last)
        self.features.requires_grad_()

    def seconds(self) -> float:
        self.layer.zero_grad()
        self.features.grad = None
        start = time.perf_counter()
        self.layer(self.features).square().mean().backward()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    def memory(self) -> float:
        """MiB at the highest of a round above what lay there before it."""
        if self.device.type == "cuda":
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            self.seconds()
            return (torch.cuda.max_memory_allocated() - before) / MIB
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            self.seconds()
        events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
        events.sort(key=lambda event: event.start_ns())
        return max(itertools.accumulate(event.nbytes() for event in events)) / MIB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{arguments.size} px, batch {arguments.batch}, {arguments.device}, one thread; forward and backward")
    for in_channels, out_channels, stride in LAYERS:
        side = arguments.size // stride
        rounds = {form: Round(in_channels, out_channels, side, form, arguments) for form in FORMS}
        times: dict[str, list[float]] = {form: [] for form in FORMS}
        for number in range(arguments.rounds + 2):
            for form, one in rounds.items():  # in turns: A B A B ...
                seconds = one.seconds()
                if number >= 2:
                    times[form].append(seconds)
        memory = {form: statistics.median(one.memory() for _ in range(3)) for form, one in rounds.items()}
        plain = statistics.median(times["torchvision"])
        for form in FORMS:
            median = statistics.median(times[form])
            print(
                f"{in_channels:>4} -> {out_channels:<4} {side:>3} x {side:<4} {form:<12} {median * 1e3:8.1f} ms "
                f"({median / plain:.2f} x torchvision)  {memory[form]:8.1f} MiB"
            )


if __name__ == "__main__":
    main()
